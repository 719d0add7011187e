"""Writes zips whose bytes depend on their entries alone, and checks them against the limits of AWS Lambda."""

import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from tools.common.archives import Archive, open_zip
from tools.common.lambda_facts import LIMITS, Limits
from tools.packaging import PackagingError

PROGRAM = 0o755
PLAIN = 0o644

_DEFLATE_LEVEL = 9
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date that the zip format can store
_SIGNATURE = re.compile(r"META[-_]INF/aws_signer_signature_v[0-9.]+\.SF")  # of AWS Signer; not documented, seen in zips
_UNIX = 3  # create_system of entries whose external_attr contains permission bits


@dataclass(frozen=True)
class Entry:
    """One file of a zip: its path with `/`, its permission bits, its content."""

    path: str
    mode: int
    data: bytes


def pack(entries: Iterable[Entry], deflated: bool = False) -> bytes:
    """Return the zip of `entries`.

    The bytes are the same on every machine; if `deflated`, on every machine with the same `deflater`, because zlib and
    zlib-ng compress to different bytes. Small zips are therefore stored. Folders get no entries: AWS Lambda creates
    them itself, and refuses a layer whose folder entry has no run bits.
    """
    compression = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compresslevel=_DEFLATE_LEVEL) as archive:
        for entry in sorted(entries, key=lambda entry: entry.path):
            archive.writestr(_header(entry), entry.data, compression)
    return buffer.getvalue()


def is_signature(path: str) -> bool:
    """Return whether a file in a zip is the signature that AWS Signer has added."""
    return bool(_SIGNATURE.fullmatch(path))


def deflater() -> str:
    """Return the name and version of the library with which this Python deflates."""
    # zlib-ng reports a zlib version followed by its own name; only Python 3.14 and later report its own version.
    is_ng = "ng" in zlib.ZLIB_RUNTIME_VERSION or getattr(zlib, "ZLIBNG_VERSION", None)
    return f"{'zlib-ng, as zlib' if is_ng else 'zlib'} {zlib.ZLIB_RUNTIME_VERSION}"


def _header(entry: Entry) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(entry.path, _EARLIEST)
    info.create_system = _UNIX
    info.external_attr = (stat.S_IFREG | entry.mode) << 16
    return info


def unpack(name: str, data: bytes, limits: Limits = LIMITS) -> list[Entry]:
    """Read the zip `data` back and check it against the requirements of AWS Lambda.

    Args:
        name: the name of the zip in errors.

    Raises:
        ToolError: it is not a valid zip file or is above a limit; or an entry occurs twice, is not a regular file, or
            has a mode other than 0755 and 0644 (the user that runs functions must be able to read it).
    """
    if len(data) > limits.zip_bytes:
        raise PackagingError(
            f"{name} has {len(data):,} bytes, the limit of an upload is {limits.zip_bytes:,}: remove files"
        )
    with open_zip(data, "build it again", name, limits.unpacked_bytes) as archive:
        _check_members(archive)
        return [Entry(member.path, member.mode or 0, archive.read(member)) for member in archive.members]


def check_unpacked_size(name: str, size: int, limits: Limits) -> None:
    """Raise `PackagingError` if `size`, in bytes, is above the limit for a function with its layers."""
    if size > limits.unpacked_bytes:
        raise PackagingError(
            f"{name} has {size:,} bytes unpacked, the limit is {limits.unpacked_bytes:,}: remove files"
        )


def _check_members(archive: Archive) -> None:
    if len({member.path for member in archive.members}) < len(archive.members):
        raise PackagingError(f"{archive.name} contains a path twice: build it again")
    for member in archive.members:
        if member.file_type != stat.S_IFREG:
            raise PackagingError(f"{archive.name}: {member.path} is not marked as a regular file: build it again")
        if member.mode not in (PROGRAM, PLAIN):
            mode = f"{member.mode or 0:04o}"
            raise PackagingError(f"{archive.name}: {member.path} has mode {mode}, not 0755 or 0644: build it again")
