"""The journal of a roll-out: what was meant, what was done, in the order of time: enough to go on, or back.

A file of JSON lines that is only ever added to. Each change is written, and flushed to the disk, before AWS is asked
for it, and its outcome after. A process that dies leaves one change at most with an open outcome for each thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.common.errors import ToolError
from tools.common.paths import shown
from tools.fleet import FleetError
from tools.fleet.aws.arns import Place

FORMAT = 1

# Outcomes of a whole roll-out
DONE, PUT_BACK = "done", "put back"

ROLLBACK = "rollback"  # why it was stopped, where somebody asked for that


@dataclass
class AliasMove:
    """An alias that was, or may have been, pointed elsewhere."""

    alias: str
    old: str
    weights: dict[str, float]
    new: str
    is_back: bool = False


@dataclass
class Record:
    """What the journal knows of one function.

    Args:
        verdict: of the plan, by the value of ``plan.Verdict``.
        state: ``planned``, or the name of the last event that was an outcome.
        touched: the number of the line before the last change of ours, while that is not undone; the change is made,
            or may be where ``is_open``.
    """

    arn: str
    name: str
    verdict: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    reason: str = ""
    state: str = "planned"
    touched: int | None = None
    is_open: bool = False
    has_failed: bool = False
    move: AliasMove | None = None
    remarks: list[str] = field(default_factory=list)


class History:
    """A journal, read: every event changes it, and nothing else does."""

    def __init__(self) -> None:
        self.request: dict[str, Any] = {}
        self.place: Place | None = None
        self.targets: dict[str, str] = {}
        self.is_accepted = False
        self.stopped = ""
        self.outcome = ""
        self.records: dict[str, Record] = {}
        self._lines = 0

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in the next ``event``; raises ``KeyError`` or ``ValueError`` where it makes no sense."""
        self._lines += 1
        kind = event["event"]
        if kind in _OF_FUNCTION:
            self._apply_to(self.records[event["function"]], kind, event)
            return
        match kind:
            case "begin":
                if event["format"] != FORMAT:
                    raise ValueError
                self.request = dict(event["request"])
            case "identity":  # a plan that was not accepted is made anew
                self.place = Place(event["partition"], event["region"], event["account"])
                self.targets = dict(event["targets"])
                self.records = {}
            case "planned":
                arn, old, new = event["function"], tuple(event["old"]), tuple(event["new"])
                self.records[arn] = Record(arn, event["name"], event["verdict"], old, new, event["reason"])
            case "accepted":
                self.is_accepted = True
            case "stop":
                self.stopped = event["reason"]
            case "end":
                self.outcome = event["outcome"]
            case _:
                raise ValueError

    def _apply_to(self, record: Record, kind: str, event: Mapping[str, Any]) -> None:
        match kind:
            case "change":
                record.old, record.new = tuple(event["old"]), tuple(event["new"])
                record.touched, record.is_open = self._lines, True
            case "changed":
                record.is_open, record.state = False, kind
            case "refused":
                record.touched, record.is_open = None, False
            case "alias":
                record.move = AliasMove(event["alias"], event["old"], dict(event["weights"]), event["new"])
                record.touched = record.touched or self._lines
            case "alias-back":
                if record.move:
                    record.move.is_back = True
            case "failed":
                record.has_failed, record.state, record.reason = True, kind, event["reason"]
            case "same" | "done" | "skipped":
                record.state, record.reason = kind, event.get("reason", "")
            case "restored" | "left":
                record.touched, record.is_open, record.state = None, False, kind
                record.reason = event.get("reason", "") or record.reason

    @property
    def touched(self) -> list[Record]:
        """What this roll-out has changed, or may have, and not put back: the newest change first."""
        changed = [record for record in self.records.values() if record.touched is not None]
        return sorted(changed, key=lambda record: record.touched or 0, reverse=True)

    @property
    def remaining(self) -> list[Record]:
        """What is still to be brought to its end, in the order of the plan."""
        return [record for record in self.records.values() if record.verdict == "change" and not self._is_over(record)]

    @property
    def failed(self) -> list[Record]:
        """What has failed, in the plan or after."""
        return [record for record in self.records.values() if record.has_failed or record.verdict == "blocked"]

    def layer_versions(self) -> set[str]:
        """Every layer version that is named: what a way back or forward may need."""
        named = {arn for record in self.records.values() for arn in (*record.old, *record.new)}
        return named | set(self.targets.values())

    @staticmethod
    def _is_over(record: Record) -> bool:
        return record.state in ("same", "done", "skipped", "failed", "restored", "left")


_OF_FUNCTION = {
    "change",
    "changed",
    "refused",
    "publish",
    "alias",
    "alias-moved",
    "same",
    "done",
    "failed",
    "skipped",
    "restore",
    "restoring",
    "not-restored",
    "alias-restore",
    "alias-back",
    "restored",
    "left",
}


class Journal:
    """A journal that is being written, by this process alone."""

    def __init__(self, path: Path, file: int, history: History) -> None:
        self.path = path
        self.history = history
        self._file = file
        self._made_folder = False
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, command: str, request: Mapping[str, Any], over_torn: bool = False) -> Journal:
        """Begin a journal at ``path``.

        Args:
            over_torn: a journal whose very first line was not written whole is begun anew.

        Raises:
            FleetError: something is there already, or it cannot be written.
        """
        made_folder = not path.parent.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            journal = cls(path, _open(path, os.O_CREAT), History())
            journal._made_folder = made_folder
            if over_torn and b"\n" not in path.read_bytes():
                os.ftruncate(journal._file, 0)
            if os.fstat(journal._file).st_size:
                journal.close()
                raise FleetError(f"{shown(path)} holds a roll-out: go on with --resume, or choose another --journal")
            _flush_folder(path.parent)
        except OSError as error:
            raise FleetError(f"cannot write the journal {shown(path)}: {error.strerror}") from None
        journal.write("begin", format=FORMAT, command=command, request=request)
        return journal

    @classmethod
    def resume(cls, path: Path) -> Journal:
        """Open the journal at ``path`` to add to it; a last line that was not written whole is cut off.

        Raises:
            FleetError: it cannot be read, is no journal, or another process writes it.
        """
        try:
            file = _open(path, 0)
            text = path.read_bytes()
        except OSError as error:
            raise FleetError(f"cannot open the journal {shown(path)}: {error.strerror}") from None
        try:
            history = replay(text, shown(path))
        except ToolError:
            os.close(file)
            raise
        os.ftruncate(file, text.rfind(b"\n") + 1)
        return cls(path, file, history)

    def write(self, event: str, **fields: Any) -> None:
        """Add an event. It is on the disk when this returns."""
        with self._lock:
            line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
            data = json.dumps(line).encode() + b"\n"
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
            self.history.apply(line)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def discard(self) -> None:
        """Remove the journal: nothing was begun."""
        with contextlib.suppress(OSError):
            self.path.unlink()
            if self._made_folder:
                self.path.parent.rmdir()
        self.close()


def _open(path: Path, flags: int) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise FleetError(f"another process is at work on {shown(path)}: wait for it, or end it") from None
    return file


def _flush_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def read(path: Path) -> History:
    """Read the journal at ``path``, which a process may still write; raises ``FleetError`` where it cannot be read."""
    try:
        return replay(path.read_bytes(), shown(path))
    except OSError as error:
        raise FleetError(f"cannot read the journal {shown(path)}: {error.strerror}") from None


def replay(text: bytes, name: str) -> History:
    """Read a journal from its ``text``. A last line without its end was being written when the process died.

    Raises:
        FleetError: a line makes no sense.
    """
    history = History()
    for number, line in enumerate(text.split(b"\n")[:-1], start=1):
        try:
            history.apply(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FleetError(
                f"{name}: line {number} is not of a journal: give the file that a roll-out wrote"
            ) from None
        if number == 1 and not history.request:
            raise FleetError(f"{name} is not a journal: give the file that a roll-out wrote")
    return history


def files_in(folder: Path) -> Iterable[Path]:
    """The journals in ``folder``, the oldest first."""
    return sorted(folder.glob("*.jsonl"))
