"""Packing a zip, and checking it when it is read back."""

from __future__ import annotations

import io
import zipfile

import pytest
from support.built_zips import (
    MEBIBYTE,
)

from tools.common.errors import ToolError
from tools.common.lambda_facts import Limits
from tools.packaging import PackagingError
from tools.packaging.zips import archive


def zipped(*entries: tuple[str, int], data: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, data)
    return buffer.getvalue()


def test_a_packed_zip_is_read_back() -> None:
    entries = [archive.Entry("a", 0o755, b"1"), archive.Entry("b/c", 0o644, b"2")]
    assert archive.unpack("a.zip", archive.pack(reversed(entries))) == entries


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK", "a.zip is not a valid zip file: File is not a zip file; build it again"),
        (
            zipped(("a", 0o100644)).replace(b"x", b"y", 1),
            "a.zip is not a valid zip file: Bad CRC-32 for file 'a'; build it again",
        ),
        (zipped(("a/", 0o040755)), "a.zip: a/ is not marked as a regular file: build it again"),
        (zipped(("a", 0o120777)), "a.zip: a is not marked as a regular file: build it again"),
        (zipped(("a", 0o100600)), "a.zip: a has mode 0600, not 0755 or 0644: build it again"),
        (zipped(("a", 0o104755)), "a.zip: a has mode 4755, not 0755 or 0644: build it again"),
        (
            b"P" * (50 * MEBIBYTE + 1),
            "a.zip has 52,428,801 bytes, the limit of an upload is 52,428,800: remove files",
        ),
    ],
    ids=["no zip", "damaged", "folder", "link", "private", "setuid", "large"],
)
def test_a_zip_that_does_not_work_on_aws_lambda_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ToolError) as refusal:
        archive.unpack("a.zip", data)
    assert str(refusal.value) == message


def test_a_zip_with_too_large_a_content_is_refused() -> None:
    data = archive.pack([archive.Entry("a", 0o644, b"12"), archive.Entry("b", 0o644, b"34")])
    assert len(archive.unpack("a.zip", data, Limits(unpacked_bytes=4))) == 2
    with pytest.raises(ToolError, match=r"^a\.zip has 4 bytes unpacked, the limit is 3: remove files$"):
        archive.unpack("a.zip", data, Limits(unpacked_bytes=3))


def test_a_zip_that_contains_a_path_twice_is_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped(("a", 0o100644), ("a", 0o100644))
    with pytest.raises(PackagingError, match=r"a\.zip contains a path twice"):
        archive.unpack("a.zip", data)
