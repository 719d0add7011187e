"""The journal of a roll-out: events, only ever appended to, from which a roll-out is resumed or rolled back.

- An intention is stored before AWS is called; the outcome is stored after the response. `storage` describes what can go
  wrong there.
- A line that ends without a newline was being written when the process ended. It is cut off: its call was never made.
- A line that is incomplete within the journal is skipped, once. It was being written when the disk was full, by a
  version of this tool that then wrote the next event behind it. Again, its call was never made.
- Each line goes through the table in `events`, when it is written and when it is read. An illegal line raises before
  AWS is called.

With 8 threads, a dead process leaves at most 8 open intentions. The function itself shows whether each was carried out.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.common.errors import ToolError
from tools.fleet.aws.arns import Layer
from tools.fleet.rollout.events import Event, IllegalEvent
from tools.fleet.rollout.history import FORMAT, History
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.storage import Disk, FileLocation, Location, Storage

_START = b'{"at": "'  # of each line


class Journal:
    """An open journal; this process alone writes it, with several threads."""

    def __init__(self, storage: Storage, history: History) -> None:
        self.history = history
        self._storage = storage
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The journal as a user would type it."""
        return self._storage.name

    @classmethod
    def create(cls, location: Location, options: Options, replace_torn: bool = False) -> Journal:
        """Begin a journal; raises `ToolError` as `Location.create`."""
        storage = location.create(replace_torn)
        journal = cls(storage, History())
        try:
            journal.write(Event.BEGIN, format=FORMAT, options=asdict(options))
        except BaseException:
            storage.discard()
            raise
        return journal

    @classmethod
    def resume(cls, location: Location) -> Journal:
        """Open a journal to append to it. An incomplete last line is cut off; FORMAT 1 continues as FORMAT 2.

        Raises:
            ToolError: it cannot be read, is not a journal, or another process uses it.
        """
        storage = location.open()
        try:
            text = storage.read()
            history = replay(text, storage.name)
            storage.cut(text.rfind(b"\n") + 1)
        except ToolError:
            storage.close()
            raise
        except OSError as error:
            storage.close()
            raise ToolError(f"cannot write the journal {storage.name}: {error.strerror}") from None
        journal = cls(storage, history)
        if history.format != FORMAT:
            journal._append([{"upgrade": FORMAT}])
        return journal

    def lock(self, layers: Sequence[Layer]) -> None:
        """Keep other roll-outs of `layers` out, if the journal is shared; raises `ToolError` if one is running."""
        with self._lock:
            self._storage.lock(layers)

    def write_all(self, events: Iterable[tuple[Event, Mapping[str, Any]]]) -> None:
        """Append many events, as `write`, but wait for the disk once."""
        self._append([{"event": event.value, **fields} for event, fields in events])

    def write(self, event: Event, **fields: Any) -> None:
        """Append an event; it is durable when this returns.

        Raises:
            IllegalEvent: the event is not allowed now; nothing was written.
            JournalError: the event could not be stored; no other will be.
        """
        self._append([{"event": event.value, **fields}])

    def _append(self, events: list[dict[str, Any]]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [{"at": now, **fields} for fields in events]
        with self._lock:
            for line in lines:
                self.history.check(line)
            self._storage.append([json.dumps(line).encode() + b"\n" for line in lines])
            for line in lines:
                self.history.apply(line)

    def close(self) -> None:
        """Let other processes use the journal."""
        self._storage.close()

    def discard(self) -> None:
        """Delete the journal of a roll-out that was not accepted."""
        self._storage.discard()


def read(path: Path) -> History:
    """Read the journal in the file at `path`; raises `ToolError` if that is not possible."""
    return read_from(FileLocation(path, Disk()))


def read_from(location: Location) -> History:
    """Read a journal, which another process may be writing; raises `ToolError` if that is not possible."""
    return replay(location.read(), location.name)


def replay(text: bytes, name: str) -> History:
    """Read the history in the `text` of a journal. One incomplete line is skipped, and noted in `History.torn`.

    Raises:
        ToolError: a line is not an event, or is not allowed where it is.
    """
    history = History()
    for number, event in _events(text, name, history):
        try:
            history.check(event)
            history.apply(event)
        except IllegalEvent as error:
            raise ToolError(f"{name}: line {number}: {error}; use the file that a roll-out wrote") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _not_an_event(name, number) from None
    return history


def _events(text: bytes, name: str, history: History) -> Iterator[tuple[int, Mapping[str, Any]]]:
    *lines, end = text.split(b"\n")
    if end and not _is_torn(end):  # another file, which `resume` must not cut
        raise _not_an_event(name, len(lines) + 1)
    if end:
        history.torn = len(lines) + 1
    for number, line in enumerate(lines, start=1):
        try:
            yield number, json.loads(line)
            continue
        except ValueError:
            follower = line.rfind(_START)  # an event that was written behind the incomplete one
            if history.torn or not _is_torn(line[:follower] if follower > 0 else line):
                raise _not_an_event(name, number) from None
        history.torn = number
        if follower > 0:
            try:
                yield number, json.loads(line[follower:])
            except ValueError:
                raise _not_an_event(name, number) from None


def _is_torn(line: bytes) -> bool:
    """Whether `line` begins as all lines do."""
    return bool(line) and (line.startswith(_START) or _START.startswith(line))


def _not_an_event(name: str, number: int) -> ToolError:
    return ToolError(f"{name}: line {number} is not an event of a journal; use the file that a roll-out wrote")


def torn_note(history: History, name: str) -> str:
    """Return what an incomplete line of the journal means."""
    return (
        f"line {history.torn} of {name} is incomplete, because the disk was full or the process ended while it was "
        "written: the step that it announced was not taken, and an outcome is read from AWS"
    )


def journal_folder(root: Path) -> Path:
    """Return the folder of the journals of a checkout."""
    return root / "rollouts"


def journals_in(folder: Path) -> list[Path]:
    """Return the journals in `folder`, oldest first."""
    return sorted(folder.glob("*.jsonl"))
