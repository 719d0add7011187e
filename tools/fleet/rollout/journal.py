"""The journal of a roll-out: JSON lines, only ever appended to, from which a roll-out is resumed or rolled back.

What can go wrong: the process is killed, the machine loses power, the disk is full, credentials expire, or two
processes use the same journal. A later process must then find every change that AWS may have received. Therefore:

- An intention is on the disk, after `fsync`, before AWS is called; the outcome is written after the response. Without
  `fsync` a power cut could lose the line while AWS carries out the update, and nobody would know of the change.
- A line that ends without a newline was being written when the process died. It is cut off: its call was never made.
- `flock` on the file keeps a second process out. The kernel releases it when the process ends, however it ends.
- Each line goes through the table in `events`, when it is written and when it is read. An illegal line raises before
  AWS is called.
- The folder is flushed when the file is created; otherwise the file itself could be missing after a power cut.

With 8 threads, a dead process leaves at most 8 open intentions. The function itself shows whether each was carried out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.common.errors import ToolError
from tools.common.paths import shown
from tools.fleet.rollout.events import Event, IllegalEvent
from tools.fleet.rollout.history import FORMAT, History
from tools.fleet.rollout.options import Options


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


class Journal:
    """An open journal; this process alone writes it, with several threads."""

    def __init__(self, path: Path, file: int, history: History, disk: Disk) -> None:
        self.path = path
        self.history = history
        self._file = file
        self._disk = disk
        self._made_folder = False
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, options: Options, disk: Disk, replace_torn: bool = False) -> Journal:
        """Begin a journal at `path`.

        Args:
            replace_torn: overwrite a file without a single complete line.

        Raises:
            ToolError: the file has content, is in use, or cannot be written.
        """
        made_folder = not path.parent.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            journal = cls(path, _open(path, os.O_CREAT), History(), disk)
            journal._made_folder = made_folder
            if replace_torn and b"\n" not in path.read_bytes():
                os.ftruncate(journal._file, 0)
            if os.fstat(journal._file).st_size:
                journal.close()
                raise ToolError(f"{shown(path)} exists: continue it with --resume, or choose another --journal")
            _flush_folder(path.parent, disk)
        except OSError as error:
            raise ToolError(f"cannot write the journal {shown(path)}: {error.strerror}") from None
        try:
            journal.write(Event.BEGIN, format=FORMAT, options=asdict(options))
        except BaseException:
            journal.close()
            raise
        return journal

    @classmethod
    def resume(cls, path: Path, disk: Disk) -> Journal:
        """Open a journal to append to it. An incomplete last line is cut off; FORMAT 1 continues as FORMAT 2.

        Raises:
            ToolError: it cannot be read, is not a journal, or another process uses it.
        """
        try:
            file = _open(path, 0)
            text = path.read_bytes()
        except OSError as error:
            raise ToolError(f"cannot open the journal {shown(path)}: {error.strerror}") from None
        try:
            history = replay(text, shown(path))
        except ToolError:
            os.close(file)
            raise
        os.ftruncate(file, text.rfind(b"\n") + 1)
        journal = cls(path, file, history, disk)
        if history.format != FORMAT:
            journal._append({"upgrade": FORMAT})
        return journal

    def write(self, event: Event, **fields: Any) -> None:
        """Append an event; it is on the disk when this returns.

        Raises:
            IllegalEvent: the event is not allowed now; nothing was written.
        """
        self._append({"event": event.value, **fields})

    def _append(self, fields: dict[str, Any]) -> None:
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        with self._lock:
            self.history.check(line)
            data = json.dumps(line).encode() + b"\n"
            while data:
                data = data[self._disk.write(self._file, data) :]
            self._disk.flush(self._file)
            self.history.apply(line)

    def close(self) -> None:
        """Close the file, and release the lock."""
        os.close(self._file)

    def discard(self) -> None:
        """Delete the file of a roll-out that was not accepted, and the folder if it was created for it."""
        with contextlib.suppress(OSError):
            self._disk.remove(self.path)
            if self._made_folder:
                self.path.parent.rmdir()
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


def read(path: Path) -> History:
    """Read the journal at `path`, which another process may be writing; raises `ToolError` if it cannot be read."""
    try:
        return replay(path.read_bytes(), shown(path))
    except OSError as error:
        raise ToolError(f"cannot read the journal {shown(path)}: {error.strerror}") from None


def replay(text: bytes, name: str) -> History:
    """Read the history in the `text` of a journal. An incomplete last line is ignored.

    Raises:
        ToolError: a line is not an event, or is not allowed where it is.
    """
    history = History()
    for number, line in enumerate(text.split(b"\n")[:-1], start=1):
        try:
            event: Mapping[str, Any] = json.loads(line)
            history.check(event)
            history.apply(event)
        except IllegalEvent as error:
            raise ToolError(f"{name}: line {number}: {error}; use the file that a roll-out wrote") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ToolError(
                f"{name}: line {number} is not an event of a journal; use the file that a roll-out wrote"
            ) from None
    return history


def journal_folder(root: Path) -> Path:
    """Return the folder of the journals of a checkout."""
    return root / "rollouts"


def journals_in(folder: Path) -> list[Path]:
    """Return the journals in `folder`, oldest first."""
    return sorted(folder.glob("*.jsonl"))
