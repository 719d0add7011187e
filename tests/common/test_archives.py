"""The reader of zip files: valid, damaged and hostile ones."""

from __future__ import annotations

import io
import random
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tools.common.archives import InvalidZip, ZipTooLarge, open_zip
from tools.common.errors import ToolError

MEBIBYTE = 1024 * 1024
HINT = "build it again"

FILE = stat.S_IFREG | 0o644
LINK = stat.S_IFLNK | 0o777


def zipped(files: dict[str, bytes], mode: int = FILE, method: int = zipfile.ZIP_DEFLATED, system: int = 3) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            info = zipfile.ZipInfo(path)
            info.create_system = system
            info.external_attr = mode << 16
            archive.writestr(info, content, method)
    return buffer.getvalue()


def with_stated_size(data: bytes, size: int) -> bytes:
    """The zip of one file, whose central directory and local header state `size`."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, data.index(b"PK\x03\x04") + 22, size)
    struct.pack_into("<I", changed, data.index(b"PK\x01\x02") + 24, size)
    return bytes(changed)


def read_all(data: bytes) -> dict[str, bytes]:
    with open_zip(data, HINT, "a.zip") as archive:
        return {member.path: archive.read(member) for member in archive.files}


def test_the_members_have_their_paths_modes_types_and_sizes(tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    path.write_bytes(zipped({"a": b"12", "b/": b""}))
    with open_zip(path, HINT) as archive:
        assert [(member.path, member.mode, member.size) for member in archive.members] == [
            ("a", 0o644, 2),
            ("b/", 0o644, 0),
        ]
        assert [member.path for member in archive.files] == ["a"]
        assert archive.read_path("a") == b"12"
        assert archive.read_path("c") is None
        assert archive.unpacked_bytes == 2
    with open_zip(zipped({"link": b"target"}, LINK), HINT) as archive:
        assert [member.is_link for member in archive.members] == [True]


def test_a_zip_from_a_system_without_modes_has_none() -> None:
    with open_zip(zipped({"a": b""}, system=0), HINT) as archive:
        assert [member.mode for member in archive.members] == [None]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "File is not a zip file"),
        (b"PK", "File is not a zip file"),
        (zipped({"a": b"x" * 100}).replace(b"PK\x03\x04", b"PK\x03\x05"), "Bad magic number for file header"),
        (zipped({"a": b"xyz"}, method=zipfile.ZIP_STORED).replace(b"xyz", b"xyy"), "Bad CRC-32 for file 'a'"),
        (zipped({"a": b"x"}, method=zipfile.ZIP_BZIP2), "a uses compression method 12, not deflate"),
        (zipped({"a": b"x"}, method=zipfile.ZIP_LZMA), "a uses compression method 14, not deflate"),
    ],
    ids=["empty", "start", "header", "content", "bzip2", "lzma"],
)
def test_a_zip_that_is_not_valid_is_one_line_with_the_cause_and_the_hint(data: bytes, cause: str) -> None:
    with pytest.raises(InvalidZip) as refusal:
        read_all(data)
    assert str(refusal.value) == f"a.zip is not a valid zip file: {cause}; {HINT}"


def test_damaged_compressed_data_is_one_line() -> None:
    data = bytearray(zipped({"a": random.Random(1).randbytes(50) * 40}))
    data[31:51] = b"\xff" * 20
    with pytest.raises(InvalidZip, match=r"a\.zip is not a valid zip file: Error -3 while decompressing data"):
        read_all(bytes(data))


def test_an_encrypted_zip_is_refused() -> None:
    data = bytearray(zipped({"a": b"x"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InvalidZip, match="a is encrypted"):
        read_all(bytes(data))


@pytest.mark.parametrize("stated", [10, 1_000_000])
def test_a_wrong_size_in_the_central_directory_is_refused(stated: int) -> None:
    with pytest.raises(InvalidZip, match=r"a\.zip is not a valid zip file: "):
        read_all(with_stated_size(zipped({"a": b"x" * 100_000}), stated))


def test_content_above_the_limit_is_not_decompressed() -> None:
    data = zipped({"zeros": bytes(20 * MEBIBYTE)})
    tracemalloc.start()
    try:
        with open_zip(data, HINT, "a.zip", max_bytes=10 * MEBIBYTE) as archive:
            with pytest.raises(ZipTooLarge) as refusal:
                archive.read(archive.members[0])
            assert archive.unpacked_bytes == 20 * MEBIBYTE
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(refusal.value) == "a.zip has 20,971,520 bytes unpacked, the limit is 10,485,760: remove files"
    assert peak < MEBIBYTE


def test_a_bomb_that_states_a_small_size_takes_no_memory() -> None:
    data = with_stated_size(zipped({"zeros": bytes(100 * MEBIBYTE)}), 10)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidZip):
            read_all(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * MEBIBYTE


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"cannot read .*none\.zip: No such file or directory"):
        open_zip(tmp_path / "none.zip", HINT).__enter__()
    with pytest.raises(ToolError, match=r"cannot read .*: Is a directory"):
        open_zip(tmp_path, HINT).__enter__()


def test_no_damage_leads_to_another_exception() -> None:
    valid = zipped({"bootstrap": b"#!/bin/sh\n" * 20, "pkg/module.py": b"pass\n" * 30, "link": b"bootstrap"})
    chance = random.Random(20261128)
    refused = 0
    for _ in range(4000):
        data = bytearray(valid)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        del data[len(data) - chance.choice((0, 0, 0, 1, 22, chance.randrange(len(data)))) :]
        try:
            read_all(bytes(data))
        except ToolError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 1000
