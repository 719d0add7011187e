"""Where the events of a journal are stored: the interface, and a local file.

What can go wrong with a file: the process is killed, the machine loses power, the disk is full, or two processes use
the same journal. A later process must then find every change that AWS may have received. Therefore:

- An event is on the disk, after `fsync`, when `append` returns. Without `fsync` a power cut could lose an intention
  while AWS carries it out, and nobody would know of the change.
- After a failed write nothing more is written. The part of the line that may be in the file stays the last one, and
  the next process cuts it off. A line behind it would make both unreadable.
- `flock` on the file keeps a second process out. The kernel releases it when the process ends, however it ends.
- The folder is flushed when the file is created; otherwise the file itself could be missing after a power cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tools.common.errors import ToolError
from tools.common.paths import shown
from tools.fleet.aws.arns import Layer
from tools.fleet.aws.errors import Interruption


class JournalError(Interruption):
    """An event cannot be stored, so the step that it announces must not be taken."""


class Location(Protocol):
    """Where a journal is, or will be.

    Attributes:
        name: as a user would type it.
    """

    name: str

    def is_empty(self) -> bool:
        """Whether there is no complete event."""

    def create(self, replace_torn: bool) -> Storage:
        """Return a new journal.

        Args:
            replace_torn: overwrite one without a single complete line.

        Raises:
            ToolError: it exists, is in use, or cannot be written.
        """

    def open(self) -> Storage:
        """Open an existing journal to append to it; raises `ToolError`."""

    def read(self) -> bytes:
        """Return all events of a journal that another process may be writing; raises `ToolError`."""


class Storage(Protocol):
    """The stored events of one journal; only this process adds some.

    Attributes:
        name: as a user would type it.
    """

    name: str

    def read(self) -> bytes:
        """Return all events, one line each; the last one may be incomplete."""

    def cut(self, length: int) -> None:
        """Remove what follows the first `length` bytes: a line that was being written when its process ended."""

    def lock(self, layers: Sequence[Layer]) -> None:
        """Keep other roll-outs of `layers` out, where journals are shared; raises `ToolError` if one is running."""

    def append(self, lines: Sequence[bytes]) -> None:
        """Store events; they are durable when this returns. Not for several threads at once.

        Raises:
            JournalError: some are perhaps not stored; nothing can be appended from now on.
        """

    def close(self) -> None:
        """Let other processes use the journal."""

    def discard(self) -> None:
        """Delete the journal of a roll-out that was not accepted, and close it."""


class Disk:
    """The changes of files; a parameter, so that tests can let a process die between any two of them."""

    def write(self, file: int, data: bytes) -> int:
        """Write a part of `data` and return its length, as `os.write`."""
        return os.write(file, data)

    def flush(self, file: int) -> None:
        """Return when everything written is on the disk."""
        os.fsync(file)

    def remove(self, path: Path) -> None:
        path.unlink()


class FileLocation:
    """A local file, that exists or not."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.name = shown(path)
        self._path = path
        self._disk = disk

    def is_empty(self) -> bool:
        return not self._path.exists() or b"\n" not in self.read()

    def create(self, replace_torn: bool) -> FileStorage:
        storage = FileStorage(self._path, self._disk, is_new=True)
        if replace_torn and self.is_empty():
            storage.cut(0)
        if storage.read():
            storage.close()
            raise ToolError(f"{self.name} exists: continue it with --resume, or choose another --journal")
        return storage

    def open(self) -> FileStorage:
        return FileStorage(self._path, self._disk, is_new=False)

    def read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise ToolError(f"cannot read the journal {self.name}: {error.strerror}") from None


class FileStorage:
    """A local file of JSON lines, which is only ever appended to."""

    def __init__(self, path: Path, disk: Disk, is_new: bool) -> None:
        """Open and lock the file.

        Args:
            is_new: create the file if it does not exist.

        Raises:
            ToolError: the file is in use, or cannot be written.
        """
        self.name = shown(path)
        self._path = path
        self._disk = disk
        self._problem = ""
        self._made_folder = is_new and not path.parent.exists()
        try:
            if is_new:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open(path, os.O_CREAT if is_new else 0)
            if is_new:
                _flush_folder(path.parent, disk)
        except OSError as error:
            verb = "write" if is_new else "open"
            raise ToolError(f"cannot {verb} the journal {self.name}: {error.strerror}") from None

    def read(self) -> bytes:
        return self._path.read_bytes()

    def cut(self, length: int) -> None:
        os.ftruncate(self._file, length)

    def lock(self, layers: Sequence[Layer]) -> None:
        """Do nothing: a local file does not know of other machines, so the locks of the functions must be enough."""

    def append(self, lines: Sequence[bytes]) -> None:
        if self._problem:
            raise JournalError(self._problem)
        data = b"".join(lines)
        try:
            while data:
                data = data[self._disk.write(self._file, data) :]
            self._disk.flush(self._file)
        except OSError as error:
            self._problem = f"cannot write the journal {self.name}: {error.strerror}"
            raise JournalError(self._problem) from None

    def close(self) -> None:
        os.close(self._file)

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._disk.remove(self._path)
            if self._made_folder:
                self._path.parent.rmdir()
        self.close()


def _open(path: Path, flags: int) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise ToolError(f"another process uses {shown(path)}: wait until it ends") from None
    return file


def _flush_folder(folder: Path, disk: Disk) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        disk.flush(file)
    finally:
        os.close(file)
