"""Finds the Pythons that compile bytecode, on PATH and then in pyenv, and runs them.

A file called `python3.13` may be a shim of a version manager, which asks a question, starts a download, or fails. So
each candidate is started, with a time limit and without stdin, and asked for its version.
"""

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
_TIMEOUT = 20.0  # seconds

# In the syntax of every Python, including Python 2.
_PROBE = """\
import sys
print(sys.implementation.name, "%d.%d" % sys.version_info[:2], sys.version_info[3], sys.implementation.cache_tag)
print(" ".join(sys.version.split()))
"""

# They replace the PYTHON* variables of the caller: a fixed order of sets, UTF-8 in every locale, and no module of the
# working folder in place of a standard one.
_SWITCHES = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}


@dataclass(frozen=True)
class Interpreter:
    """A final release of CPython that starts."""

    command: tuple[str, ...]
    version: str  # such as 3.12
    cache_tag: str  # such as cpython-312, part of the names of its bytecode files
    build: str  # sys.version in one line

    @property
    def path(self) -> str:
        """The program; the words before it in the command are a loader and its options."""
        return self.command[-1]


class WrongInterpreter(PackagingError):
    """The program is not the requested Python; `found` describes it."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(f"{path} is {found}")
        self.found = found


class InterpreterNotFound(PackagingError):
    """There is no interpreter of `version`; `rejected` lists the candidates, each with the reason."""

    def __init__(self, version: str, rejected: list[str]) -> None:
        details = f" ({', '.join(rejected)})" if rejected else ""
        super().__init__(f"no final release of CPython {version} on PATH or in pyenv{details}")
        self.version = version


def find(version: str) -> Interpreter:
    """Return the first interpreter of `version` (such as 3.12); raises `InterpreterNotFound` if there is none."""
    rejected = []
    for path in (*_on_path(f"python{version}"), *_on_path("python3"), *_in_pyenv(version)):
        try:
            return identify((path,), version)
        except ToolError as error:
            if path.endswith(version):  # a python3 of another version is not a mistake
                rejected.append(str(error))
    raise InterpreterNotFound(version, rejected)


def identify(command: tuple[str, ...], version: str) -> Interpreter:
    """Start the Python of `command` and return its identity.

    Raises:
        WrongInterpreter: it is not a final release of CPython `version`.
        PackagingError: it does not start.
    """
    path = command[-1]
    match run(command, "-c", _PROBE).decode(errors="replace").splitlines():
        case [identity, build]:
            tag = identity.rpartition(" ")[2]
            if identity == f"cpython {version} final {tag}":
                return Interpreter(command, version, tag, build)
            raise WrongInterpreter(path, f"{identity.partition(' ')[0]} {build.partition(' ')[0]}")
    raise WrongInterpreter(path, "not a Python")


def run(command: Sequence[str], *arguments: str | Path, timeout: float = _TIMEOUT) -> bytes:
    """Run the Python of `command` without site-packages, for at most `timeout` seconds, and return its output.

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
            cwd=_HERE,  # shims choose the version by the folder: always use the same
            process_group=0,
        )
    except OSError as error:
        raise PackagingError(f"{command[-1]} does not start: {error.strerror}") from error
    with process:
        return _output(command[-1], process, timeout)


def _output(path: str, process: subprocess.Popen[bytes], timeout: float) -> bytes:
    try:
        output, errors = process.communicate(timeout=timeout)
    except BaseException as error:  # also Ctrl-C, which does not reach another process group
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the group, because a shim starts other processes
        if isinstance(error, subprocess.TimeoutExpired):
            raise PackagingError(f"{path} does not end within {timeout:g} s") from error
        raise
    if process.returncode != 0:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise PackagingError(f"{path} fails: {last or f'status {process.returncode}'}")
    return output


def _on_path(name: str) -> Iterator[str]:
    # An empty entry means the working folder. realpath, because /bin is a link to /usr/bin on many systems.
    for folder in dict.fromkeys(os.path.realpath(entry) for entry in os.get_exec_path() if entry):
        if path := shutil.which(name, path=folder):
            yield path


def _in_pyenv(version: str) -> Iterator[str]:
    folder = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")) / "versions"
    try:
        names = os.listdir(folder)
    except OSError:  # there is no pyenv, or it belongs to another user
        return
    patches = [re.fullmatch(rf"{re.escape(version)}\.(\d+)", name) for name in names]
    for patch in sorted((int(match[1]) for match in patches if match), reverse=True):
        yield str(folder / f"{version}.{patch}" / "bin" / f"python{version}")
