"""The libraries of a bundled CPython, as an SBOM lists them."""

from __future__ import annotations

import pytest
from support import debian_stand_ins
from support.fake_cpython import X86_64, elf, module

from tools.packaging.interpreter import source_tree
from tools.packaging.release.libraries import PINNED_VERSIONS, Linked, linked

PROGRAM = "bin/python3"

# The strings of the libraries, as they are in a program into which all of them are linked.
STRINGS = {
    "berkeley-db": (b"Berkeley DB 6.0.19: (August 15, 2013)", "6.0.19"),
    "bzip2": (b"\x001.0.8, 13-Jul-2019\0", "1.0.8"),
    "expat": (b"expat_2.8.3\0", "2.8.3"),
    "mpdecimal": (b"\x004.0.0\0", "4.0.0"),
    "ncurses": (b"ncurses 6.5.20240427\0", "6.5.20240427"),
    "openssl": (b"OpenSSL 3.5.7 9 Jun 2026\0", "3.5.7"),
    "sqlite": (b"\x003.53.1\0", "3.53.1"),
    "xz": (b"\x005.8.3\0", "5.8.3"),
    "zlib": (b" deflate 1.3.2 Copyright 1995-2026 ", "1.3.2"),
    "zstd": (b"\x001.5.7\0", "1.5.7"),
}


def found(files: dict[str, bytes], python: str = "3.14", is_standalone: bool = True) -> dict[str, Linked]:
    return {each.library.name: each for each in linked(files, python, is_standalone)}


def program(*strings: bytes) -> bytes:
    return elf(X86_64, data=b"\x003.14.9\0" + b"\0".join(strings))


@pytest.mark.parametrize("name", STRINGS)
def test_the_version_of_a_linked_library_is_read_from_the_program(name: str) -> None:
    text, version = STRINGS[name]
    library = found({PROGRAM: program(text)})[name]
    assert (library.version, library.is_file, library.is_pinned) == (version, False, False)


@pytest.mark.parametrize("name", PINNED_VERSIONS)
def test_a_library_without_its_version_in_the_program_has_the_pinned_one(name: str) -> None:
    library = found({PROGRAM: program()})[name]
    assert (library.version, library.is_pinned) == (PINNED_VERSIONS[name], True)


def test_the_version_of_cpython_is_not_that_of_sqlite() -> None:
    assert found({PROGRAM: program()})["sqlite"].version is None


def test_zstandard_is_part_of_python_3_14_and_later() -> None:
    assert "zstd" in found({PROGRAM: program()}, "3.14")
    assert "zstd" not in found({PROGRAM: program()}, "3.13")


def test_another_build_contains_only_what_is_found_in_it() -> None:
    files = {PROGRAM: program(STRINGS["openssl"][0]), "lib/libffi.so.8": module(X86_64)}
    libraries = found(files, is_standalone=False)
    assert {name: (each.version, each.is_file) for name, each in libraries.items()} == {
        "libffi": (None, True),
        "openssl": ("3.5.7", False),
    }


def test_the_version_in_the_note_of_a_package_is_that_of_the_library() -> None:
    note = b'{"type":"deb","os":"Debian","name":"gcc-14","version":"1:14.2.0-19+b1","architecture":"amd64"}'
    assert found({"lib/libgcc_s.so.1": module(X86_64, data=note)}, is_standalone=False)["libgcc"].version == "14.2.0"


def test_text_with_the_name_of_a_library_is_not_a_library() -> None:
    assert found({"lib/notes.txt": STRINGS["openssl"][0]}, is_standalone=False) == {}


def test_a_library_that_is_not_known_is_listed_without_a_license() -> None:
    note = b'{"type":"deb","os":"Debian","name":"libxcrypt","version":"1:4.4.38-1","architecture":"amd64"}'
    files = {
        "lib/libcrypt.so.1": module(X86_64, data=note),
        "lib/libpython3.14.so.1.0": module(X86_64),
        "lib/python3.14/lib-dynload/_ssl.cpython-314.so": module(X86_64),
        "lib/ld-linux-x86-64.so.2": module(X86_64),
    }
    libraries = found(files, is_standalone=False)
    assert set(libraries) == {"libcrypt", "glibc"}
    assert (libraries["libcrypt"].version, libraries["libcrypt"].library.license) == ("4.4.38", "")


@pytest.mark.skipif(not debian_stand_ins.is_prepared(), reason="the stand-ins are not prepared")
def test_the_libraries_of_debian_are_files_with_their_versions() -> None:
    path = debian_stand_ins.interpreter(debian_stand_ins.X86_64)
    tree = source_tree.find(source_tree.from_archive(path.name, path.read_bytes()), "3.13")
    files = {name: content() for name, content in tree.files.items()}
    libraries = found(files, "3.13", is_standalone=False)
    assert set(libraries) >= {"bzip2", "expat", "glibc", "libffi", "openssl", "sqlite", "xz", "zlib", "zstd"}
    assert [name for name, each in libraries.items() if each.version is None] == ["libffi"]
