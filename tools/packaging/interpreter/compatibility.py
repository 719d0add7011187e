"""Whether a bundled CPython can run where it will run: on the operating systems of AWS Lambda's OS-only runtimes."""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tools.packaging import PackagingError
from tools.packaging.interpreter import elf
from tools.packaging.interpreter.elf import Elf, NotElfError

PREFIX = "/opt/cpython"  # where the layer has the interpreter (/opt/python is for dependency layers)

# The glibc of each: AWS Lambda Developer Guide, lambda-runtimes, which names the Amazon Linux of each runtime.
GLIBC = {"provided.al2023": (2, 34), "provided.al2": (2, 26)}

_LOADERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "arm64": "/lib/ld-linux-aarch64.so.1"}

# What comes with glibc and GCC, so is there wherever a program that is linked dynamically runs.
_SYSTEM_LIBRARIES = re.compile(r"(lib(c|m|dl|pthread|rt|util|resolv|gcc_s)|ld-linux-(x86-64|aarch64))\.so\.\d+")
_BROUGHT_LIBC = "libc.so.6"

# Modules that a function may not miss; others are left out where the libraries they need are not there.
_ESSENTIAL = re.compile(
    r"_?(bz2|ctypes|datetime|decimal|hashlib|json|lzma|math|pyexpat|socket|sqlite3|ssl|struct|zlib|zoneinfo)\b"
)
_EXTENSION_MODULE = re.compile(r"lib/python3\.\d+/lib-dynload/([^/]+)")


@dataclass(frozen=True)
class Fit:
    """What the ELF files of a tree say together."""

    glibc: tuple[int, int] | None  # the oldest one that will do; None where the tree brings its own
    unusable: tuple[tuple[str, str], ...]  # extension modules, each with the library that is missing

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The OS-only runtimes that it runs on."""
        return tuple(name for name, glibc in GLIBC.items() if self.glibc is None or self.glibc <= glibc)


def check(name: str, program: str, files: Mapping[str, bytes], architecture: str, runtime: str) -> Fit:
    """Check the ELF files among ``files``, whose ``program`` is the interpreter; errors call the tree ``name``.

    Raises:
        PackagingError: the program is none, a file is for another architecture than ``architecture``, a newer glibc
            is needed than the ``runtime`` has, a loader or a library is asked for that will not be there, or the
            service's LD_LIBRARY_PATH would give it other ones than it brings.
    """
    files_read = dict(_read(name, files, architecture))
    if program not in files_read:
        raise PackagingError(f"{name}: {program} is no ELF program: give a build for Linux, and no script in its place")
    for path, file in files_read.items():
        if file.machine != architecture:
            raise PackagingError(
                f"{name}: {path} is for {file.machine}, not for {architecture}: give the other archive"
            )
    libc = _check_loader(name, program, files_read[program], files, architecture)
    brings_libc = libc is not None
    if libc:
        _check_search_path(name, program, files_read[program], libc)
    missing = dict(_missing_libraries(files_read, brings_libc))
    unusable = tuple((path, library) for path, library in missing.items() if not _is_essential(path))
    fit = Fit(None if brings_libc else _glibc(files_read, dict(unusable)), unusable)
    _check_glibc(name, fit, runtime)
    for path, library in missing.items():
        if _is_essential(path):
            raise PackagingError(
                f"{name}: {path} needs {library}, which is neither in it nor in the OS-only runtimes: "
                "give a build that brings its libraries, such as those of python-build-standalone"
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
            "give a build for an older Linux, such as those of python-build-standalone"
        )


def _read(name: str, files: Mapping[str, bytes], architecture: str) -> Iterator[tuple[str, Elf]]:
    for path, data in files.items():
        if data.startswith(elf.MAGIC):
            try:
                yield path, elf.parse(data)
            except NotElfError as error:
                raise PackagingError(f"{name}: {path} is {error}: give a sound build for {architecture}") from error


def _check_loader(name: str, path: str, program: Elf, files: Mapping[str, bytes], architecture: str) -> str | None:
    """Give the path of the libc that the program brings with a loader of its own; None where it takes the system's."""
    loader = program.loader
    if loader is None or loader == _LOADERS[architecture]:
        return None
    if "/ld-musl-" in loader:
        raise PackagingError(f"{name} is built for musl: give the build for gnu, extension modules need it")
    brought = loader.removeprefix(f"{PREFIX}/")
    if brought == loader or brought not in files:
        raise PackagingError(
            f"{name}: {path} asks for the loader {loader}, which will not be there: give another build"
        )
    libc = posixpath.join(posixpath.dirname(brought), _BROUGHT_LIBC)
    if libc not in files:
        raise PackagingError(f"{name} brings the loader {brought} without {_BROUGHT_LIBC} beside it: add it")
    return libc


def _check_search_path(name: str, path: str, program: Elf, libc: str) -> None:
    # The service sets LD_LIBRARY_PATH to /lib64 and others; ld.so(8) searches it after DT_RPATH, which it ignores
    # where there is a DT_RUNPATH, and before that.
    needed = posixpath.dirname(posixpath.join(PREFIX, libc))
    origin = posixpath.dirname(posixpath.join(PREFIX, path))
    searched = (program.rpath or "").replace("${ORIGIN}", origin).replace("$ORIGIN", origin).split(":")
    if program.runpath is not None or needed not in map(posixpath.normpath, searched):
        through = "DT_RUNPATH" if program.runpath is not None else f"no DT_RPATH of {needed}"
        raise PackagingError(
            f"{name}: {path} brings its own libc, but finds it through {through}, so that the system's would be taken "
            f"on AWS Lambda: set it with patchelf --force-rpath --set-rpath {needed}"
        )


def _missing_libraries(files: Mapping[str, Elf], brings_libc: bool) -> Iterator[tuple[str, str]]:
    brought = {posixpath.basename(path) for path in files}
    for path, file in files.items():
        for library in file.needed:
            if library not in brought and (brings_libc or not _SYSTEM_LIBRARIES.fullmatch(library)):
                yield path, library


def _is_essential(path: str) -> bool:
    module = _EXTENSION_MODULE.fullmatch(path)
    return module is None or _ESSENTIAL.match(module[1]) is not None
