"""The Pythons that bytecode is made with: those on PATH, then those of pyenv; and how to run one."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.common.errors import ToolError
from tools.packaging import PackagingError

_HERE = Path(__file__).parent
_LIMIT = 20.0  # seconds; shims of version managers may ask a question or start a download
COMPILING_LIMIT = 300.0  # seconds, for a whole standard library on a slow machine

# Any Python can run it.
_PROBE = """\
import sys
print(sys.implementation.name, "%d.%d" % sys.version_info[:2], sys.version_info[3], sys.implementation.cache_tag)
print(" ".join(sys.version.split()))
"""

# In place of the caller's: one order of sets, whatever the locale, and no module of ours in place of a standard one.
_SWITCHES = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}


@dataclass(frozen=True)
class Interpreter:
    """A final release of CPython that starts."""

    command: tuple[str, ...]
    version: str  # as in 3.12
    cache_tag: str  # as in cpython-312, part of the names of its bytecode files
    build: str  # sys.version in one line

    @property
    def path(self) -> str:
        """The program; what precedes it in the command is how to start it."""
        return self.command[-1]


class OtherPythonError(PackagingError):
    """What starts is no Python, or another than the one that is wanted; ``found`` says what it is."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(f"{path} is {found}")
        self.found = found


class NotFoundError(PackagingError):
    """There is no interpreter of the ``version``; ``rejected`` says what is wrong with those that seem to be."""

    def __init__(self, version: str, rejected: list[str]) -> None:
        details = f" ({', '.join(rejected)})" if rejected else ""
        super().__init__(f"no final release of CPython {version} on PATH or in pyenv{details}")
        self.version = version


def find(version: str) -> Interpreter:
    """Give the first interpreter of ``version`` (as in 3.12); raises ``NotFoundError`` where there is none."""
    rejected = []
    for path in (*_on_path(f"python{version}"), *_on_path("python3"), *_in_pyenv(version)):
        try:
            return identify((path,), version)
        except ToolError as error:
            if path.endswith(version):  # a python3 may well be another
                rejected.append(str(error))
    raise NotFoundError(version, rejected)


def identify(command: tuple[str, ...], version: str) -> Interpreter:
    """Ask the Python that ``command`` starts what it is.

    Raises:
        OtherPythonError: it is not a final release of CPython ``version``.
        PackagingError: it does not start.
    """
    path = command[-1]
    match run(command, "-c", _PROBE).decode(errors="replace").splitlines():
        case [identity, build]:
            tag = identity.rpartition(" ")[2]
            if identity == f"cpython {version} final {tag}":
                return Interpreter(command, version, tag, build)
            raise OtherPythonError(path, f"{identity.partition(' ')[0]} {build.partition(' ')[0]}")
    raise OtherPythonError(path, "no Python")


def run(command: Sequence[str], *arguments: str | Path, limit: float = _LIMIT) -> bytes:
    """Run the Python that ``command`` starts without site-packages, for ``limit`` seconds, and give its output.

    Raises:
        PackagingError: it does not start, fails, or takes too long.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        process = subprocess.Popen(
            [*command, "-S", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | _SWITCHES,
            cwd=_HERE,  # shims choose by the folder: this one, wherever the caller is
            process_group=0,
        )
    except OSError as error:
        raise PackagingError(f"{command[-1]} does not start: {error.strerror}") from error
    with process:
        return _output(command[-1], process, limit)


def _output(path: str, process: subprocess.Popen[bytes], limit: float) -> bytes:
    try:
        output, errors = process.communicate(timeout=limit)
    except BaseException as error:  # an interrupt too, which does not reach a process group of its own
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what a shim has started
        if isinstance(error, subprocess.TimeoutExpired):
            raise PackagingError(f"{path} does not answer within {limit:g} s") from error
        raise
    if process.returncode != 0:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise PackagingError(f"{path} fails: {last or f'status {process.returncode}'}")
    return output


def _on_path(name: str) -> Iterator[str]:
    # An empty entry would mean the working folder. Systems with /bin as a link to /usr/bin have both on PATH.
    for folder in dict.fromkeys(os.path.realpath(entry) for entry in os.get_exec_path() if entry):
        if path := shutil.which(name, path=folder):
            yield path


def _in_pyenv(version: str) -> Iterator[str]:
    root = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"))
    patches = [re.fullmatch(rf"{re.escape(version)}\.(\d+)", folder.name) for folder in root.glob("versions/*")]
    for patch in sorted((int(match[1]) for match in patches if match), reverse=True):
        yield str(root / "versions" / f"{version}.{patch}" / "bin" / f"python{version}")
