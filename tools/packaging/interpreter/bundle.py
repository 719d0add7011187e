"""The CPython of a self-contained layer: trimmed, checked, and started if this machine can run it.

A layer contains no links, so a link becomes a copy, and a shared library is kept under one name only: the one that the
loader looks for. `bin/python3` and a loader of its own are the only programs.
"""

import posixpath
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.common.errors import ToolError
from tools.common.lambda_facts import LIMITS, Limits
from tools.common.paths import ROOT, read
from tools.packaging import PackagingError
from tools.packaging.interpreter import compatibility, elf, trim
from tools.packaging.interpreter.compatibility import Fit
from tools.packaging.interpreter.elf import InvalidElf
from tools.packaging.interpreter.empty_library import empty_library
from tools.packaging.interpreter.source_tree import Distribution
from tools.packaging.zips import pythons
from tools.packaging.zips.archive import PLAIN, PROGRAM, Entry, check_unpacked_size
from tools.packaging.zips.pythons import Interpreter, WrongInterpreter

PREFIX = compatibility.PREFIX
FOLDER = posixpath.basename(PREFIX)
VARIANT_FILE = f"{FOLDER}/VARIANT"  # bootstrap and runtime.py name the variant in errors

_PROGRAM = "bin/python3"
_SHARED_OBJECT = re.compile(r"lib/[^/]+\.so(\.[^/]*)?")
_LIBRARIES = "lib"
_EMPTY_BYTES = 1024  # more than those of an empty library
_EXTENSION_MODULES = "lib-dynload"
_PLACEHOLDER = b"All extension modules are built into the interpreter, which warns if this folder is missing.\n"
_LICENSES = {  # of the libraries in python-build-standalone, whose stripped archives contain none
    "licenses/python-build-standalone.txt": Path(__file__).parent / "licenses" / "python-build-standalone.txt",
    "licenses/Apache-2.0.txt": ROOT / "LICENSE",
}
_VERSION = re.compile(rb"(3\.\d+\.\d+)\0")

# Modules that functions often import; a build by the user may lack the libraries for some of them.
_EXPECTED = (
    *("asyncio", "bz2", "ctypes", "decimal", "hashlib", "json", "lzma", "pydoc", "sqlite3", "ssl"),
    *("unittest", "uuid", "xmlrpc.server", "zlib", "zoneinfo"),
)


@dataclass(frozen=True)
class Bundle:
    """A CPython as the layer contains it: its files, by path below `cpython/`."""

    name: str
    python: str  # such as 3.13
    architecture: str
    version: str  # such as 3.13.5
    files: dict[str, bytes]
    fit: Fit
    size_before: int  # in bytes, before trimming

    @cached_property
    def loader(self) -> str | None:
        """The path of its own dynamic loader; None if it uses the loader of the system."""
        loader = elf.parse(self.files[_PROGRAM]).loader or ""
        path = loader.removeprefix(f"{PREFIX}/")
        return path if path != loader else None

    @property
    def programs(self) -> frozenset[str]:
        """The files that need run bits: the interpreter, and its own loader."""
        return frozenset({_PROGRAM, self.loader or _PROGRAM})

    def entries(self) -> Iterator[Entry]:
        """Yield all files as entries of the layer, without bytecode."""
        for path, data in self.files.items():
            yield Entry(f"{FOLDER}/{path}", PROGRAM if path in self.programs else PLAIN, data)
            if trim.is_library_of_python(path) and len(data) < _EMPTY_BYTES:
                # For programs that find their libraries by DT_RUNPATH, which is not used for what they open (ld.so(8)).
                # LD_LIBRARY_PATH contains /opt/lib (AWS Lambda Developer Guide, configuration-envvars).
                yield Entry(path, PLAIN, data)


def bundle(distribution: Distribution, architecture: str, runtime: str, limits: Limits = LIMITS) -> Bundle:
    """Trim `distribution`, and check that it runs on `architecture` and on the OS-only `runtime`.

    Raises:
        PackagingError: it contains no interpreter, or a file name that a zip cannot contain; it is too large; or
            `compatibility.check` refuses it.
    """
    # By its full name first: in a tree with several versions, python3 can be another one.
    program = distribution.resolve(f"bin/python{distribution.python}") or distribution.resolve(_PROGRAM)
    if program is None:
        raise PackagingError(f"{distribution.name} contains no {_PROGRAM}: use a complete archive")
    files = _kept(distribution, program)
    _check_names(distribution.name, files)
    _drop_copies(files, "licenses/")
    fit = compatibility.check(distribution.name, _PROGRAM, files, architecture, runtime)
    for path, _ in fit.unusable:
        del files[path]
    if not any(map(trim.is_library_of_python, files)):
        name = f"libpython{distribution.python}.so.1.0"
        files[f"{_LIBRARIES}/{name}"] = empty_library(name, architecture)
    modules = f"{distribution.library}/{_EXTENSION_MODULES}"
    if not any(path.startswith(f"{modules}/") for path in files):
        files[f"{modules}/README"] = _PLACEHOLDER
    if not any(path.startswith("licenses/") for path in files):
        files |= {path: read(source) for path, source in _LICENSES.items()}
    check_unpacked_size(distribution.name, sum(map(len, files.values())), limits)
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
    """Return the interpreter and all files that are not trimmed, with copies in place of links."""
    library = distribution.library
    files = {path: content() for path, content in distribution.files.items() if trim.is_kept(path, library)}
    files[_PROGRAM] = distribution.files[program]()
    needed = _needed(files.values()) | _opened_by_name(distribution)
    renamed = set()
    for path in distribution.links:
        target = distribution.resolve(path)
        if target not in files or not trim.is_kept(path, library):
            continue
        if not _SHARED_OBJECT.fullmatch(path):
            files[path] = files[target]
        elif posixpath.basename(path) in needed:
            files[path] = files[target]
            renamed.add(target)
    for path in list(files):
        is_spare = path in renamed or trim.is_library_of_python(path)
        if is_spare and posixpath.basename(path) not in needed:
            del files[path]
    return dict(sorted(files.items()))


def _opened_by_name(distribution: Distribution) -> set[str]:
    """Return the libraries that a bundled glibc opens for nsswitch.conf; no ELF header names them."""
    return {posixpath.basename(path) for path in distribution.links if "/libnss_" in path}


def _check_names(name: str, files: Iterable[str]) -> None:
    for path in files:
        if not path.isprintable():
            raise PackagingError(f"{name}: {path!r} cannot be a name in a zip: use printable UTF-8")


def _drop_copies(files: dict[str, bytes], folder: str) -> None:
    """Remove files in `folder` with the same content as another: Debian packages of one source repeat the licence."""
    seen: set[bytes] = set()
    for path in [path for path in files if path.startswith(folder)]:
        if files[path] in seen:
            del files[path]
        else:
            seen.add(files[path])


def _needed(contents: Iterable[bytes]) -> set[str]:
    """Return the names of the shared libraries that the ELF files among `contents` need, without their folders."""
    needed: set[str] = set()
    for data in contents:
        if data.startswith(elf.MAGIC):
            with suppress(InvalidElf):  # compatibility.check reports it, with the path
                needed.update(map(posixpath.basename, elf.parse(data).needed))
    return needed


def _version(python: str, files: dict[str, bytes]) -> str:
    """Return the version in the interpreter's data, because the interpreter may not run on this machine."""
    for path, data in files.items():
        if path == _PROGRAM or trim.is_library_of_python(path):
            for match in _VERSION.finditer(data):
                if match[1].decode().startswith(f"{python}."):
                    return str(match[1], "ascii")
    return python


# --- Its bytecode -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unpacked:
    """A bundle on disk, and its interpreter if that runs on this machine."""

    interpreter: Interpreter | None
    obstacle: str  # why it does not run, such as "does not start: Exec format error"
    missing: tuple[str, ...]  # common modules that cannot be imported


@contextmanager
def unpacked(bundle: Bundle) -> Iterator[Unpacked]:
    """Write the files of `bundle` to a temporary folder, and start its interpreter from there.

    Raises:
        PackagingError: it starts, and is another Python than the bundle states.
    """
    with tempfile.TemporaryDirectory(prefix="cpython-") as name:
        folder = Path(name)
        for path, data in bundle.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
            (folder / path).chmod(PROGRAM if path in bundle.programs else PLAIN)
        command = _command(bundle, folder)
        try:
            interpreter = pythons.identify(command, bundle.python)
        except WrongInterpreter as error:
            raise PackagingError(
                f"{bundle.name}: its interpreter is {error.found}, not a final release of CPython {bundle.python}: "
                "use another build"
            ) from error
        except ToolError as error:  # of another architecture, or for another system
            obstacle = str(error).removeprefix(f"{command[-1]} ").replace(f"{folder}/", "")
            yield Unpacked(None, obstacle, ())
        else:
            probe = f"for name in {_EXPECTED}:\n try: __import__(name)\n except ImportError: print(name)"
            missing = pythons.run(command, "-c", probe).decode().split()
            yield Unpacked(interpreter, "", tuple(missing))


def _command(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    program = str(folder / _PROGRAM)
    if bundle.loader is None:
        return (program,)
    # The program names its loader by the path on AWS Lambda, which does not exist here: start the loader itself.
    loader = folder / bundle.loader
    return (str(loader), "--library-path", str(loader.parent), program)
