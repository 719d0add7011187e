"""Reads the headers of an ELF file: its machine, its loader, the libraries and the glibc that it needs.

Formats: System V ABI (gABI, chapters 4 and 5), and for the versions of symbols the Linux Standard Base (Core, "Symbol
Versioning"). Both architectures of AWS Lambda use 64-bit little-endian files, so others are refused.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\x7fELF"

_DAMAGED = "a damaged ELF file"

MACHINES = {62: "x86_64", 183: "arm64"}  # e_machine, as AWS Lambda calls them
_LITTLE_ENDIAN_64 = b"\2\1"  # EI_CLASS, EI_DATA
_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 15, 29
_DT_VERNEED = 0x6FFFFFFE

_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?")
_GLIBC_ABI = "GLIBC_ABI_"  # a feature of the loader itself; the first, DT_RELR, came with glibc 2.36
_FIRST_WITH_ABI = (2, 36)


class InvalidElf(ValueError):
    """AWS Lambda could not load the file; the text completes a sentence that begins with "is"."""


@dataclass(frozen=True)
class Elf:
    """One program or shared library."""

    machine: str  # x86_64, arm64, or the number of another one
    loader: str | None  # a program's PT_INTERP
    needed: tuple[str, ...]
    rpath: str | None
    runpath: str | None
    glibc: tuple[int, int] | None  # the newest version of a symbol that it needs


def parse(data: bytes) -> Elf:
    """Read the headers and the dynamic section; raises `InvalidElf`."""
    try:
        return _parse(data)
    except (struct.error, LookupError, OverflowError, ValueError) as error:
        raise error if isinstance(error, InvalidElf) else InvalidElf(_DAMAGED) from error


def _parse(data: bytes) -> Elf:
    if not data.startswith(MAGIC + _LITTLE_ENDIAN_64):
        raise InvalidElf("not a 64-bit little-endian ELF file")
    _, _, machine, _, _, table, _, _, _, size, count, *_ = _FILE_HEADER.unpack_from(data)
    segments = [_Segment(*_PROGRAM_HEADER.unpack_from(data, table + number * size)) for number in range(count)]
    if any(each.kind == _PT_LOAD and each.offset + each.file_size > len(data) for each in segments):
        raise InvalidElf(_DAMAGED)
    loader = next((_text(data, each.offset) for each in segments if each.kind == _PT_INTERP), None)
    dynamic = list(_dynamic(data, segments))
    values = dict(dynamic)
    strings = _offset(segments, values[_DT_STRTAB]) if dynamic else 0

    def named(tag: int) -> str | None:
        return _text(data, strings + values[tag]) if tag in values else None

    return Elf(
        machine=MACHINES.get(machine, f"machine {machine}"),
        loader=loader,
        needed=tuple(_text(data, strings + value) for tag, value in dynamic if tag == _DT_NEEDED),
        rpath=named(_DT_RPATH),
        runpath=named(_DT_RUNPATH),
        glibc=max(_glibc_versions(data, segments, values, strings), default=None),
    )


@dataclass(frozen=True)
class _Segment:
    kind: int
    flags: int
    offset: int
    address: int
    physical_address: int
    file_size: int
    memory_size: int
    alignment: int


def _dynamic(data: bytes, segments: list[_Segment]) -> Iterator[tuple[int, int]]:
    for segment in segments:
        if segment.kind == _PT_DYNAMIC:
            end = segment.offset + segment.file_size
            for tag, value in _DYNAMIC.iter_unpack(data[segment.offset : end]):
                if tag == _DT_NULL:
                    return
                yield tag, value


def _offset(segments: list[_Segment], address: int) -> int:
    for each in segments:
        if each.kind == _PT_LOAD and 0 <= address - each.address < each.file_size:
            return address - each.address + each.offset
    raise InvalidElf(_DAMAGED)


def _glibc_versions(
    data: bytes, segments: list[_Segment], values: dict[int, int], strings: int
) -> Iterator[tuple[int, int]]:
    if _DT_VERNEED not in values:
        return
    need = _offset(segments, values[_DT_VERNEED])
    for library in _chain(data, need, _VERNEED):
        for version in _chain(data, library.offset + library.fields[3], _VERNAUX):
            name = _text(data, strings + version.fields[3])
            if match := _GLIBC.fullmatch(name):
                yield int(match[1]), int(match[2])
            elif name.startswith(_GLIBC_ABI):
                yield _FIRST_WITH_ABI


@dataclass(frozen=True)
class _Record:
    offset: int
    fields: tuple[int, ...]


def _chain(data: bytes, offset: int, layout: struct.Struct) -> Iterator[_Record]:
    """Yield linked records: the last field of each is the distance to the next, or 0."""
    while True:
        fields = layout.unpack_from(data, offset)
        yield _Record(offset, fields)
        if not fields[-1]:
            return
        offset += fields[-1]


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode("utf-8", "backslashreplace")
