"""The self-contained layer: the slim one's files, and a CPython in ``cpython/``, trimmed, checked and compiled."""

import posixpath
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.common.errors import ToolError
from tools.common.paths import ROOT, read
from tools.packaging import PackagingError
from tools.packaging.interpreter import compatibility as target
from tools.packaging.interpreter import elf, trim
from tools.packaging.interpreter.compatibility import Fit
from tools.packaging.interpreter.elf import NotElfError
from tools.packaging.interpreter.source_tree import Distribution
from tools.packaging.zips import pythons as interpreters
from tools.packaging.zips.archive import PLAIN, PROGRAM, Entry, check_unpacked_size
from tools.packaging.zips.pythons import Interpreter, OtherPythonError

FOLDER = posixpath.basename(target.PREFIX)
VARIANT_FILE = f"{FOLDER}/VARIANT"  # bootstrap and runtime.py tell it where something goes wrong

_PROGRAM = "bin/python3"
_SHARED_OBJECT = re.compile(r"lib/[^/]+\.so(\.[^/]*)?")
_EXTENSION_MODULES = "lib-dynload"
_PLACEHOLDER = b"All extension modules are built into the interpreter, which warns where this folder is missing.\n"
_LICENSES = {  # of the libraries that python-build-standalone links in, whose archives have none
    "licenses/python-build-standalone.txt": Path(__file__).parent / "licenses" / "python-build-standalone.txt",
    "licenses/Apache-2.0.txt": ROOT / "LICENSE",
}
_VERSION = re.compile(rb"(3\.\d+\.\d+)\0")

# What functions import first of all; a build of one's own may lack the libraries for some of it.
_EXPECTED = (
    *("asyncio", "bz2", "ctypes", "decimal", "hashlib", "json", "lzma", "pydoc", "sqlite3", "ssl"),
    *("unittest", "uuid", "xmlrpc.server", "zlib", "zoneinfo"),
)


@dataclass(frozen=True)
class Bundle:
    """A CPython as the layer brings it: its files by their paths below ``cpython/``."""

    name: str
    python: str  # as in 3.13
    architecture: str
    version: str  # as in 3.13.5
    files: dict[str, bytes]
    fit: Fit
    size_before: int  # bytes, before it was trimmed

    @cached_property
    def loader(self) -> str | None:
        """The dynamic loader that it brings; None where it takes the system's."""
        loader = elf.parse(self.files[_PROGRAM]).loader or ""
        path = loader.removeprefix(f"{target.PREFIX}/")
        return path if path != loader else None

    @property
    def programs(self) -> frozenset[str]:
        """The files that the kernel runs or maps as a program: the interpreter and a loader that it brings."""
        return frozenset({_PROGRAM, self.loader or _PROGRAM})

    def entries(self) -> Iterator[Entry]:
        """All files as they go into the zip, without bytecode."""
        for path, data in self.files.items():
            yield Entry(f"{FOLDER}/{path}", PROGRAM if path in self.programs else PLAIN, data)


def bundle(distribution: Distribution, architecture: str, runtime: str) -> Bundle:
    """Trim ``distribution`` and check that it can run on AWS Lambda's ``architecture``, on the OS-only ``runtime``.

    Raises:
        PackagingError: it has no interpreter, a name that no zip can hold, or ``target.check`` refuses it.
    """
    # By its full name first: beside several versions, python3 is one of them.
    program = distribution.resolve(f"bin/python{distribution.python}") or distribution.resolve(_PROGRAM)
    if program is None:
        raise PackagingError(f"{distribution.name} has no {_PROGRAM}: give a complete archive")
    files = _kept(distribution, program)
    _check_names(distribution.name, files)
    _drop_copies(files, "licenses/")
    fit = target.check(distribution.name, _PROGRAM, files, architecture, runtime)
    for path, _ in fit.unusable:
        del files[path]
    modules = f"{distribution.library}/{_EXTENSION_MODULES}"
    if not any(path.startswith(f"{modules}/") for path in files):
        files[f"{modules}/README"] = _PLACEHOLDER
    if not any(path.startswith("licenses/") for path in files):
        files |= {path: read(source) for path, source in _LICENSES.items()}
    check_unpacked_size(distribution.name, sum(map(len, files.values())))
    return Bundle(
        name=distribution.name,
        python=distribution.python,
        architecture=architecture,
        version=_version(distribution.python, files),
        files=files,
        fit=fit,
        size_before=sum(len(content()) for content in distribution.files.values()),
    )


def _kept(distribution: Distribution, program: str) -> dict[str, bytes]:
    """The interpreter and all that is not trimmed; a link becomes a copy, for zips of layers hold none."""
    library = distribution.library
    files = {path: content() for path, content in distribution.files.items() if trim.is_kept(path, library)}
    files[_PROGRAM] = distribution.files[program]()
    needed = _needed(files.values()) | _opened_by_name(distribution)
    by_another_name = set()
    for path in distribution.links:
        aim = distribution.resolve(path)
        if aim not in files or not trim.is_kept(path, library):
            continue
        if not _SHARED_OBJECT.fullmatch(path):
            files[path] = files[aim]
        elif posixpath.basename(path) in needed:
            files[path] = files[aim]
            by_another_name.add(aim)
    for path in list(files):
        unwanted = path in by_another_name or trim.is_library_of_python(path)
        if unwanted and posixpath.basename(path) not in needed:
            del files[path]
    return dict(sorted(files.items()))


def _opened_by_name(distribution: Distribution) -> set[str]:
    """The libraries that a brought glibc opens for nsswitch.conf, which no other file asks for."""
    return {posixpath.basename(path) for path in distribution.links if "/libnss_" in path}


def _check_names(name: str, files: Iterable[str]) -> None:
    for path in files:
        if not path.isprintable():
            raise PackagingError(f"{name}: {path!r} cannot be a name in a zip: rename it in printable UTF-8")


def _drop_copies(files: dict[str, bytes], folder: str) -> None:
    """Keep one file of those in ``folder`` that say the same; packages of one source have the same license."""
    seen: set[bytes] = set()
    for path in [path for path in files if path.startswith(folder)]:
        if files[path] in seen:
            del files[path]
        else:
            seen.add(files[path])


def _needed(contents: Iterable[bytes]) -> set[str]:
    """The names of the shared libraries that the ELF files among ``contents`` ask the loader for."""
    needed: set[str] = set()
    for data in contents:
        if data.startswith(elf.MAGIC):
            with suppress(NotElfError):  # which target.check refuses, by name
                needed.update(elf.parse(data).needed)
    return needed


def _version(python: str, files: dict[str, bytes]) -> str:
    """The version that the interpreter prints; it may be one that cannot run here."""
    for path, data in files.items():
        if path == _PROGRAM or trim.is_library_of_python(path):
            for match in _VERSION.finditer(data):
                if match[1].decode().startswith(f"{python}."):
                    return str(match[1], "ascii")
    return python


# --- Its bytecode -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unpacked:
    """A bundle on disk, and the interpreter in it where it runs on this machine."""

    interpreter: Interpreter | None
    obstacle: str  # why it does not run, as in "does not start: Exec format error"
    missing: tuple[str, ...]  # modules that functions expect and that cannot be imported


@contextmanager
def unpacked(bundle: Bundle) -> Iterator[Unpacked]:
    """Put the files of ``bundle`` into a folder for a while, and see whether its interpreter starts from there.

    Raises:
        PackagingError: it starts, and is not the Python of the bundle.
    """
    with tempfile.TemporaryDirectory(prefix="cpython-") as name:
        folder = Path(name)
        for path, data in bundle.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
            (folder / path).chmod(PROGRAM if path in bundle.programs else PLAIN)
        command = _command(bundle, folder)
        try:
            interpreter = interpreters.identify(command, bundle.python)
        except OtherPythonError as error:
            raise PackagingError(
                f"{bundle.name}: its interpreter is {error.found}, not a final release of CPython {bundle.python}: "
                "give another build"
            ) from error
        except ToolError as error:  # of another architecture, or for another system
            obstacle = str(error).removeprefix(f"{command[-1]} ").replace(f"{folder}/", "")
            yield Unpacked(None, obstacle, ())
        else:
            probe = f"for name in {_EXPECTED}:\n try: __import__(name)\n except ImportError: print(name)"
            missing = interpreters.run(command, "-c", probe).decode().split()
            yield Unpacked(interpreter, "", tuple(missing))


def _command(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    program = str(folder / _PROGRAM)
    if bundle.loader is None:
        return (program,)
    # The program names it by its place on AWS Lambda, where the kernel does not find it here.
    brought = folder / bundle.loader
    return (str(brought), "--library-path", str(brought.parent), program)
