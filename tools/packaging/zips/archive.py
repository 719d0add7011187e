"""Zips that depend on their entries alone, and the limits AWS Lambda puts on them."""

import io
import stat
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from tools.packaging import PackagingError

PROGRAM = 0o755
PLAIN = 0o644

# Bytes: AWS Lambda Developer Guide, gettingstarted-limits. The second is for a function with all its layers.
ZIP_LIMIT = 50 * 1024 * 1024
UNPACKED_LIMIT = 262_144_000

_DEFLATE_LEVEL = 9
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # a zip knows no earlier date
_UNIX = 3  # the system whose permission bits external_attr holds


@dataclass(frozen=True)
class Entry:
    """One file of a zip: its path with ``/``, its permission bits, its bytes."""

    path: str
    mode: int
    data: bytes


def pack(entries: Iterable[Entry], deflated: bool = False) -> bytes:
    """Give the zip of ``entries``, the same bytes on every machine; if ``deflated``, where ``deflater`` is the same.

    What is small is stored for that reason: zlib and zlib-ng deflate to different bytes. Without entries for folders:
    AWS Lambda makes them itself, and refuses one without run bits.
    """
    compression = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compresslevel=_DEFLATE_LEVEL) as archive:
        for entry in sorted(entries, key=lambda entry: entry.path):
            archive.writestr(_header(entry), entry.data, compression)
    return buffer.getvalue()


def deflater() -> str:
    """Name the library that this Python deflates with, and its version."""
    # zlib-ng tells a version of zlib, followed by its name; only Python 3.14 and later know its own version.
    is_ng = "ng" in zlib.ZLIB_RUNTIME_VERSION or getattr(zlib, "ZLIBNG_VERSION", None)
    return f"{'zlib-ng, as zlib' if is_ng else 'zlib'} {zlib.ZLIB_RUNTIME_VERSION}"


def _header(entry: Entry) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(entry.path, _EARLIEST)
    info.create_system = _UNIX
    info.external_attr = (stat.S_IFREG | entry.mode) << 16
    return info


def unpack(name: str, data: bytes) -> list[Entry]:
    """Read the zip ``data`` back, checked against what AWS Lambda needs; errors call it ``name``.

    Raises:
        PackagingError: it is no zip, damaged or above a limit, or an entry is double, no regular file, or has
            a mode other than 0755 and 0644 (the user a function runs as must be able to read it).
    """
    if len(data) > ZIP_LIMIT:
        raise PackagingError(f"{name} has {len(data):,} bytes, an upload takes {ZIP_LIMIT:,}: drop files")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_listing(name, archive.infolist())
            return [Entry(info.filename, _mode(info), archive.read(info)) for info in archive.infolist()]
    except zipfile.BadZipFile as error:
        raise PackagingError(f"{name} is no sound zip: {error}") from error


def check_unpacked_size(name: str, size: int) -> None:
    """Refuse, with ``PackagingError``, what has more than ``UNPACKED_LIMIT`` bytes when unpacked."""
    if size > UNPACKED_LIMIT:
        raise PackagingError(f"{name} has {size:,} bytes unpacked, of {UNPACKED_LIMIT:,} allowed: drop files")


def _mode(info: zipfile.ZipInfo) -> int:
    return stat.S_IMODE(info.external_attr >> 16)


def _check_listing(name: str, listing: list[zipfile.ZipInfo]) -> None:
    check_unpacked_size(name, sum(info.file_size for info in listing))
    if len({info.filename for info in listing}) < len(listing):
        raise PackagingError(f"{name} holds a path twice: build it anew")
    for info in listing:
        if not stat.S_ISREG(info.external_attr >> 16):
            raise PackagingError(f"{name}: {info.filename} is not marked as a regular file: build it anew")
        if _mode(info) not in (PROGRAM, PLAIN):
            mode = f"{_mode(info):04o}"
            raise PackagingError(f"{name}: {info.filename} has mode {mode}, not 0755 or 0644: build it anew")
