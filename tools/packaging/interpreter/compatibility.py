"""Checks that a bundled CPython runs on Lambda's OS-only runtimes.

The build machine usually cannot run it, so its ELF headers are checked: the architecture, the loader, the newest glibc
symbol, and each needed library. The difficult case is a CPython with its own libc: Lambda sets LD_LIBRARY_PATH to
/lib64 and others, and ld.so(8) searches DT_RPATH before it but DT_RUNPATH after it. With DT_RUNPATH the system's libc
would be mixed with the bundled loader, which crashes at start.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tools.common.lambda_facts import GLIBC
from tools.packaging import PackagingError
from tools.packaging.interpreter import elf
from tools.packaging.interpreter.elf import Elf, InvalidElf

PREFIX = "/opt/cpython"  # the interpreter in the layer (/opt/python is for dependency layers)

_LOADERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}

# Part of glibc and GCC, so present wherever a dynamically linked program runs.
_SYSTEM_LIBRARIES = re.compile(r"(lib(c|m|dl|pthread|rt|util|resolv|gcc_s)|ld-linux-(x86-64|aarch64))\.so\.\d+")
_LIBC = "libc.so.6"

# Modules that a function must have. Others are left out if a library they need is missing.
_ESSENTIAL = re.compile(
    r"_?(bz2|ctypes|datetime|decimal|hashlib|json|lzma|math|pyexpat|socket|sqlite3|ssl|struct|zlib|zoneinfo)\b"
)
_EXTENSION_MODULE = re.compile(r"lib/python3\.\d+/lib-dynload/([^/]+)")


@dataclass(frozen=True)
class Fit:
    """The requirements of all ELF files of a tree."""

    glibc: tuple[int, int] | None  # the oldest that is new enough; None if the tree contains its own
    unusable: tuple[tuple[str, str], ...]  # extension modules, each with the missing library

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The OS-only runtimes on which it runs."""
        return tuple(name for name, glibc in GLIBC.items() if self.glibc is None or self.glibc <= glibc)


def check(name: str, program: str, files: Mapping[str, bytes], architecture: str, runtime: str) -> Fit:
    """Check the ELF files among `files`.

    Args:
        name: of the tree, in errors.
        program: the path of the interpreter.

    Raises:
        PackagingError: the program is not an ELF program; a file is for another architecture; a newer glibc is needed
            than `runtime` has; a loader or library will be missing; or LD_LIBRARY_PATH would replace a bundled library.
    """
    files_read = dict(_read(name, files, architecture))
    if program not in files_read:
        raise PackagingError(f"{name}: {program} is not an ELF program: use a build for Linux, not a script")
    for path, file in files_read.items():
        if file.machine != architecture:
            raise PackagingError(f"{name}: {path} is for {file.machine}, not for {architecture}: use the other archive")
    libc = _check_loader(name, program, files_read[program], files, architecture)
    has_own_libc = libc is not None
    if libc:
        _check_search_path(name, program, files_read[program], libc)
    missing = dict(_missing_libraries(files_read, has_own_libc))
    unusable = tuple((path, library) for path, library in missing.items() if not _is_essential(path))
    fit = Fit(None if has_own_libc else _glibc(files_read, dict(unusable)), unusable)
    _check_glibc(name, fit, runtime)
    for path, library in missing.items():
        if _is_essential(path):
            raise PackagingError(
                f"{name}: {path} needs {library}, which is neither in it nor in the OS-only runtimes: "
                "use a build that contains its libraries, such as those of python-build-standalone"
            )
    return fit


def _glibc(files: Mapping[str, Elf], unusable: Mapping[str, str]) -> tuple[int, int]:
    needs = [file.glibc for path, file in files.items() if file.glibc and path not in unusable]
    return max(needs, default=(2, 0))


def _check_glibc(name: str, fit: Fit, runtime: str) -> None:
    if runtime not in fit.runtimes and fit.glibc:
        need, have = (".".join(map(str, version)) for version in (fit.glibc, GLIBC[runtime]))
        raise PackagingError(
            f"{name} needs glibc {need}, {runtime} has {have}: "
            "use a build for an older Linux, such as those of python-build-standalone"
        )


def _read(name: str, files: Mapping[str, bytes], architecture: str) -> Iterator[tuple[str, Elf]]:
    for path, data in files.items():
        if data.startswith(elf.MAGIC):
            try:
                yield path, elf.parse(data)
            except InvalidElf as error:
                raise PackagingError(f"{name}: {path} is {error}: use another build for {architecture}") from error


def _check_loader(name: str, path: str, program: Elf, files: Mapping[str, bytes], architecture: str) -> str | None:
    """Return the path of the libc beside the program's own loader; None if the program uses the system's loader."""
    loader = program.loader
    if loader is None or loader == _LOADERS[architecture]:
        return None
    if "/ld-musl-" in loader:
        raise PackagingError(f"{name} is built for musl: use the build for gnu, which extension modules need")
    bundled = loader.removeprefix(f"{PREFIX}/")
    if bundled == loader or bundled not in files:
        raise PackagingError(
            f"{name}: {path} needs the loader {loader}, which will be missing on AWS Lambda: use another build"
        )
    libc = posixpath.join(posixpath.dirname(bundled), _LIBC)
    if libc not in files:
        raise PackagingError(f"{name} contains the loader {bundled} without {_LIBC} beside it: add it")
    return libc


def _check_search_path(name: str, path: str, program: Elf, libc: str) -> None:
    needed = posixpath.dirname(posixpath.join(PREFIX, libc))
    searched = _without_origin(program.rpath or "", path).split(":")
    if program.runpath is not None or needed not in map(posixpath.normpath, searched):
        through = "DT_RUNPATH" if program.runpath is not None else f"no DT_RPATH of {needed}"
        raise PackagingError(
            f"{name}: {path} finds its own libc through {through}, so AWS Lambda would load the system's in "
            f"its place: run patchelf --force-rpath --set-rpath {needed}"
        )


def _missing_libraries(files: Mapping[str, Elf], has_own_libc: bool) -> Iterator[tuple[str, str]]:
    bundled = {posixpath.basename(path) for path in files}
    for path, file in files.items():
        for library in file.needed:
            if "/" in library:
                # The loader takes a name with a slash for a path, and does not search for it (ld.so(8)).
                is_present = posixpath.normpath(_without_origin(library, path)).removeprefix(f"{PREFIX}/") in files
            else:
                is_present = library in bundled or (not has_own_libc and bool(_SYSTEM_LIBRARIES.fullmatch(library)))
            if not is_present:
                yield path, library


def _without_origin(text: str, path: str) -> str:
    """Replace $ORIGIN by the folder in which the file at `path` will be (ld.so(8), "Dynamic string tokens")."""
    origin = posixpath.dirname(posixpath.join(PREFIX, path))
    return text.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)


def _is_essential(path: str) -> bool:
    module = _EXTENSION_MODULE.fullmatch(path)
    return module is None or _ESSENTIAL.match(module[1]) is not None
