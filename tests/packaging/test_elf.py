"""What the build reads from programs and libraries."""

from __future__ import annotations

import contextlib
import platform
import re
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.fake_cpython import ARM64, HERE, LOADERS, NAMES, X86_64, elf, program

from tools.packaging.interpreter.elf import Elf, InvalidElf, parse

NAME = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)
GLIBC = st.tuples(st.just(2), st.integers(0, 99))


@examples(200)
@given(
    machine=st.sampled_from([X86_64, ARM64]),
    loader=st.none() | NAME,
    needed=st.lists(NAME, max_size=5),
    rpath=st.none() | NAME,
    runpath=st.none() | NAME,
    versions=st.dictionaries(NAME, st.lists(GLIBC, min_size=1, max_size=4), max_size=3),
)
def test_the_headers_of_a_file_are_read(machine, loader, needed, rpath, runpath, versions) -> None:
    wanted = {name: [f"GLIBC_{major}.{minor}" for major, minor in each] for name, each in versions.items()}
    newest = max((each for several in versions.values() for each in several), default=None)
    data = elf(machine, loader, needed, rpath, runpath, wanted)
    assert parse(data) == Elf(NAMES[machine], loader, tuple(needed), rpath, runpath, newest)


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        (["GLIBC_2.9", "GLIBC_2.17", "GLIBC_2.2.5"], (2, 17)),
        (["GLIBC_2.17", "GLIBC_PRIVATE"], (2, 17)),
        (["GLIBC_PRIVATE"], None),
        (["GCC_3.0", "GLIBCXX_3.4.30", "OPENSSL_3.0.0", "GLIBC_2.x", "XGLIBC_2.40"], None),
        (["GLIBC_2.17", "GLIBC_ABI_DT_RELR"], (2, 36)),
        (["GLIBC_2.38", "GLIBC_ABI_DT_RELR"], (2, 38)),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_the_newest_glibc_version_of_a_symbol_counts(versions: list[str], newest: object) -> None:
    assert parse(elf(versions={"libc.so.6": versions})).glibc == newest


def test_another_machine_is_shown_by_its_number() -> None:
    assert parse(elf(243)).machine == "machine 243"  # EM_RISCV


def test_a_program_without_a_dynamic_section_needs_no_library() -> None:
    assert parse(elf()) == Elf("x86_64", None, (), None, None, None)


@pytest.mark.skipif(sys.platform != "linux" or HERE == 0, reason="there is no such ELF program here")
def test_the_running_interpreter_has_mapped_the_libraries_that_it_needs() -> None:
    parsed = parse(Path("/proc/self/exe").read_bytes())
    mapped = {Path(path) for path in re.findall(r" (/\S+)$", Path("/proc/self/maps").read_text(), re.MULTILINE)}
    assert parsed.machine == NAMES[HERE]
    assert parsed.loader is None or Path(parsed.loader).resolve() in mapped
    for library in parsed.needed:  # libc.so.6 may be a link to libc-2.31.so
        assert any(path.name.startswith(library.partition(".so")[0]) for path in mapped)
    if (libc := platform.libc_ver())[0] == "glibc" and parsed.glibc:
        assert parsed.glibc <= tuple(map(int, libc[1].split(".")[:2]))


# What is none

PLAIN = program(X86_64, loader=LOADERS[X86_64], rpath="$ORIGIN/../lib", runpath="/lib")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a 64-bit little-endian ELF file"),
        (b"#!/bin/sh\n", "not a 64-bit little-endian ELF file"),
        (b"\x7fELF\1" + PLAIN[5:], "not a 64-bit little-endian ELF file"),
        (b"\x7fELF\2\2" + PLAIN[6:], "not a 64-bit little-endian ELF file"),
        (b"\x7fELF\2\1", "a damaged ELF file"),
    ],
    ids=["empty", "script", "32 bits", "big-endian", "header alone"],
)
def test_a_file_that_aws_lambda_cannot_load_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidElf) as refusal:
        parse(data)
    assert str(refusal.value) == message


def test_a_file_truncated_at_any_byte_is_refused() -> None:
    for length in range(len(PLAIN)):
        with pytest.raises(InvalidElf):
            parse(PLAIN[:length])


# The offsets of the fields that are read, because random offsets would rarely hit one.
FIELDS = [*range(16, 64, 2), *range(64, 64 + 3 * 56, 4), *range(len(PLAIN) - 16 * 8, len(PLAIN), 8)]


@examples(1000)
@given(st.dictionaries(st.sampled_from(FIELDS) | st.integers(4, len(PLAIN) - 8), st.integers(0, 2**64 - 1), max_size=4))
def test_a_damaged_file_is_refused_or_read_but_never_breaks_the_build(damage: dict[int, int]) -> None:
    data = bytearray(PLAIN)
    for place, value in damage.items():
        struct.pack_into("<Q", data, place, value)
    with contextlib.suppress(InvalidElf):
        parse(bytes(data))


@examples(200)
@given(st.binary(max_size=400))
def test_any_bytes_behind_the_magic_number_are_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(InvalidElf):
        parse(b"\x7fELF\2\1" + data)
