"""The libraries of a bundled CPython, with version, license, purl and CPE, for an SBOM.

python-build-standalone links its libraries into `bin/python3`, and its stripped archives contain no list of them. The
versions are therefore read in the program, where a library has a string with its version. The others have the version
that python-build-standalone pins in `pythonbuild/downloads.py`. `PINNED_VERSIONS` has to follow that file; an SBOM
contains the day on which it did.

Other builds of CPython contain their libraries as files in `lib/`. They are recognized by their names; one that is not
is listed without a license.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tools.packaging.interpreter import elf

# Those of which the program contains no version: python-build-standalone, pythonbuild/downloads.py.
PINNED_ON = "2026-08-21"  # the date of the commit that was read
PINNED_VERSIONS = {"libedit": "20240808-3.1", "libffi": "3.4.8", "libuuid": "1.0.3", "xz": "5.8.3"}

# Distributions describe a package in a note of its ELF files (UAPI group, ELF Package Metadata). The version of the
# library is that of the package without its epoch and revision.
_PACKAGE_NOTE = re.compile(rb'\{"type":"[^{}]*?"version":"(?:\d+:)?([^"-]+)')

_FILE_NAME = re.compile(r"lib(?!python3).+\.so(\..+)?")


@dataclass(frozen=True)
class Library:
    """A library that builds of CPython contain.

    Args:
        license: an expression of SPDX identifiers; empty if it is not known.
        cpe: vendor and product in the CPE dictionary of NIST; empty if it has no entry.
        version: matches the version in a program into which the library is linked, or in its own file.
        file: matches the name of its file, where it is a file of its own.
        since: the first Python that contains it in python-build-standalone; empty if that never contains it.
    """

    name: str
    license: str
    cpe: str
    version: re.Pattern[bytes] | None
    file: re.Pattern[str]
    since: tuple[int, int] | None = (3, 11)


def _library(name: str, license: str, cpe: str, version: bytes, file: str, **more: tuple[int, int] | None) -> Library:
    return Library(name, license, cpe, re.compile(version) if version else None, re.compile(file), **more)


LIBRARIES = (
    _library("berkeley-db", "Sleepycat", "oracle:berkeley_db", rb"Berkeley DB (\d+\.\d+\.\d+):", r"libdb-.*\.so"),
    _library("bzip2", "bzip2-1.0.6", "bzip:bzip2", rb"\0(\d\.\d\.\d), \d+-[A-Z][a-z]{2}-\d{4}\0", r"libbz2\.so.*"),
    _library("expat", "MIT", "libexpat_project:libexpat", rb"expat_(\d+\.\d+\.\d+)\0", r"libexpat\.so.*"),
    _library(
        *("glibc", "LGPL-2.1-or-later", "gnu:glibc", rb"stable release version (\d+\.\d+)"),
        r"lib(c|m|mvec|dl|pthread|rt|util|resolv|anl|nss_\w+)\.so\..*|ld-linux-.*",
        since=None,
    ),
    _library("libedit", "BSD-3-Clause", "", b"", r"libedit\.so.*"),
    _library("libffi", "MIT", "libffi_project:libffi", b"", r"libffi\.so.*"),
    _library("libgcc", "GPL-3.0-or-later WITH GCC-exception-3.1", "gnu:gcc", b"", r"libgcc_s\.so.*", since=None),
    _library("libuuid", "BSD-3-Clause", "", b"", r"libuuid\.so.*"),
    _library("mpdecimal", "BSD-2-Clause", "", rb"\0((?:2\.5|4\.\d)\.\d)\0", r"libmpdec\.so.*"),
    _library("ncurses", "X11", "gnu:ncurses", rb"ncurses (\d\.\d\.\d{8})", r"libncursesw?\.so.*|libtinfow?\.so.*"),
    _library("openssl", "Apache-2.0", "openssl:openssl", rb"OpenSSL ([3-9]\.\d+\.\d+) \d", r"lib(crypto|ssl)\.so.*"),
    # Not below 3.40: the program contains the version of CPython in the same form.
    _library("sqlite", "blessing", "sqlite:sqlite", rb"\0(3\.[4-9]\d\.\d+)\0", r"libsqlite3\.so.*"),
    _library("xz", "0BSD", "tukaani:xz", rb"\0(5\.[2-9]\.\d+)\0", r"liblzma\.so.*"),
    _library("zlib", "Zlib", "zlib:zlib", rb" deflate (\d+\.\d+(?:\.\d+)*) Copyright", r"libz\.so.*"),
    _library("zstd", "BSD-3-Clause", "facebook:zstandard", rb"\0(1\.[4-9]\.\d+)\0", r"libzstd\.so.*", since=(3, 14)),
)


@dataclass(frozen=True)
class Linked:
    """A library in a bundled CPython.

    Args:
        version: None if neither the files nor python-build-standalone state it.
        is_file: it is a file of its own, and not linked into the program.
        is_pinned: the version was not found in the program; it is the one of `PINNED_VERSIONS`.
    """

    library: Library
    version: str | None
    is_file: bool
    is_pinned: bool = False


def linked(files: Mapping[str, bytes], python: str, is_standalone: bool) -> Iterator[Linked]:
    """Yield the libraries in the CPython with `files`, by path, in the order of their names.

    Args:
        python: such as 3.13.
        is_standalone: the build is of python-build-standalone, which contains all of its libraries.
    """
    programs = {posixpath.basename(path): data for path, data in files.items() if data.startswith(elf.MAGIC)}
    release = tuple(int(part) for part in python.split("."))
    for library in LIBRARIES:
        own = {name: data for name, data in programs.items() if library.file.fullmatch(name)}
        version = _version(library, own or programs)
        if version or own:
            yield Linked(library, version or _version_of_package(own), bool(own))
        elif is_standalone and library.since and library.since <= release:
            pinned = PINNED_VERSIONS.get(library.name)
            yield Linked(library, pinned, is_file=False, is_pinned=pinned is not None)
    yield from _unknown(programs)


def _unknown(programs: Mapping[str, bytes]) -> Iterator[Linked]:
    """Yield the libraries that are not in `LIBRARIES`."""
    others = {
        name.partition(".so")[0]: data
        for name, data in sorted(programs.items())
        if _FILE_NAME.fullmatch(name) and not any(library.file.fullmatch(name) for library in LIBRARIES)
    }
    for name, data in others.items():
        library = Library(name, "", "", None, _FILE_NAME)
        yield Linked(library, _version_of_package({name: data}), is_file=True)


def _version(library: Library, programs: Mapping[str, bytes]) -> str | None:
    if library.version is None:
        return None
    found = (library.version.search(data) for data in programs.values())
    return next((match[1].decode() for match in found if match), None)


def _version_of_package(programs: Mapping[str, bytes]) -> str | None:
    found = (_PACKAGE_NOTE.search(data) for data in programs.values())
    return next((match[1].decode() for match in found if match), None)
