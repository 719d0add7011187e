"""The one reader of zip files.

A zip comes from a user's disk, from AWS, or from a package index, and can be damaged or hostile. What can go wrong, and
what this module does:

- `zipfile` raises about ten different exceptions for damaged files. All become `InvalidZip`, one line.
- A zip of 2 MB can unpack to gigabytes (a "zip bomb"). The sizes in the central directory are added up first; nothing
  is decompressed if the sum is above the limit.
- The central directory can state a wrong size. Content is therefore decompressed in pieces of at most 1 MiB, and
  reading stops at the stated size; a difference is damage.
- bzip2, LZMA and Zstandard have no such bound in `zipfile`: 4 KB can become 80 MB in one step. Build tools and AWS use
  only "stored" and "deflated", so the others are refused.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tools.common.errors import ToolError
from tools.common.lambda_facts import MAX_UNPACKED_BYTES
from tools.common.paths import shown

_PIECE_BYTES = 1024 * 1024
_UNIX = 3  # APPNOTE.TXT of the zip format, 4.4.2: the system that made the entry; Unix stores permission bits
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # APPNOTE.TXT, 4.4.4

# What zipfile raises for damaged files; found by changing bytes of valid ones.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError),
    *(NotImplementedError, RuntimeError, OverflowError, IndexError, KeyError, MemoryError, OSError),
)


class InvalidZip(ToolError):
    """The file is not a valid zip file, or uses a feature that AWS Lambda does not support."""


class ZipTooLarge(ToolError):
    """The content of the zip file is above the limit."""


@dataclass(frozen=True)
class Member:
    """One entry of a zip file.

    Args:
        path: with `/` between folders; the path of a folder ends in `/`.
        stored_path: the path as it is stored, before `zipfile` cuts it at a NUL.
        file_type: the file type bits of `st_mode`, 0 if the zip contains none.
        mode: the permission bits, None if the zip was made by a system without them.
        size: in bytes, unpacked, as the central directory states it.
    """

    path: str
    stored_path: str
    file_type: int
    mode: int | None
    size: int
    info: zipfile.ZipInfo

    @property
    def is_folder(self) -> bool:
        return self.path.endswith("/")

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link; the content is the target."""
        return self.file_type == stat.S_IFLNK


class Archive:
    """An open zip file; see `open_zip`."""

    def __init__(self, archive: zipfile.ZipFile, name: str, hint: str, max_bytes: int) -> None:
        self._archive = archive
        self._max_bytes = max_bytes
        self._hint = hint
        self.name = name
        self.members = tuple(map(_member, archive.infolist()))
        self.unpacked_bytes = sum(member.size for member in self.members)

    @property
    def files(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if not member.is_folder)

    def check_size(self) -> None:
        """Raise `ZipTooLarge` if the content is above the limit."""
        if self.unpacked_bytes > self._max_bytes:
            raise ZipTooLarge(
                f"{self.name} has {self.unpacked_bytes:,} bytes unpacked, the limit is {self._max_bytes:,}: "
                "remove files"
            )

    def read(self, member: Member) -> bytes:
        """Return the content of `member`; raises as `pieces`."""
        return b"".join(self.pieces(member))

    def read_path(self, path: str) -> bytes | None:
        """Return the content of the file at `path`, None if there is no such file; raises as `pieces`."""
        found = [member for member in self.files if member.path == path]
        return self.read(found[-1]) if found else None

    def pieces(self, member: Member) -> Iterator[bytes]:
        """Yield the content of `member` in pieces of at most 1 MiB.

        Raises:
            InvalidZip: the content is damaged, encrypted or compressed by an unsupported method.
            ZipTooLarge: the content of all members together is above the limit.
        """
        self.check_size()
        size = 0
        for piece in self._pieces(member):
            size += len(piece)
            yield piece
        if size != member.size:
            raise self._invalid(f"{member.path} has {size:,} bytes, and the central directory states {member.size:,}")

    def _pieces(self, member: Member) -> Iterator[bytes]:
        if member.info.flag_bits & _ENCRYPTED:
            raise self._invalid(f"{member.path} is encrypted")
        if member.info.compress_type not in _METHODS:
            raise self._invalid(f"{member.path} uses compression method {member.info.compress_type}, not deflate")
        try:
            with self._archive.open(member.info) as file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece
        except _DAMAGE as error:
            raise self._invalid(error) from error

    def _invalid(self, cause: object) -> InvalidZip:
        return _invalid(self.name, cause, self._hint)


@contextmanager
def open_zip(
    source: Path | bytes, hint: str, name: str | None = None, max_bytes: int = MAX_UNPACKED_BYTES
) -> Iterator[Archive]:
    """Open a zip file and read its central directory; nothing is decompressed.

    Args:
        source: a path, or the bytes of the zip.
        hint: the next step for the user if the zip is not valid, such as "build it again with ./build.sh".
        name: the name of the zip in messages (default: the path).
        max_bytes: the most bytes that all members together may have unpacked; reading more raises `ZipTooLarge`.

    Raises:
        InvalidZip: the file is not a zip file.
        ToolError: the file cannot be read.
    """
    name = name or (shown(source) if isinstance(source, Path) else "the zip")
    with _opened(source, name) as file:
        try:
            opened = zipfile.ZipFile(file)
        except _DAMAGE as error:
            raise _invalid(name, error, hint) from error
        with opened:
            if any(not info.filename for info in opened.infolist()):
                raise _invalid(name, "an entry has no name", hint)
            yield Archive(opened, name, hint, max_bytes)


def _opened(source: Path | bytes, name: str) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return source.open("rb")
    except OSError as error:
        raise ToolError(f"cannot read {name}: {error.strerror}") from error


def _member(info: zipfile.ZipInfo) -> Member:
    attributes = info.external_attr >> 16
    is_from_unix = info.create_system == _UNIX and attributes != 0
    return Member(
        path=info.filename,
        stored_path=info.orig_filename,
        file_type=stat.S_IFMT(attributes),
        mode=stat.S_IMODE(attributes) if is_from_unix else None,
        size=info.file_size,
        info=info,
    )


def _invalid(name: str, cause: object, hint: str) -> InvalidZip:
    reason = " ".join(str(cause).split()) or type(cause).__name__
    return InvalidZip(f"{name} is not a valid zip file: {reason}; {hint}")
