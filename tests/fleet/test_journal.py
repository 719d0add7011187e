"""Journals: the table of events, FORMAT 1, durability, and its diagrams in the documentation."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkout import ROOT
from support.lambda_in_memory import BEFORE, OTHER, OURS, MemoryDisk, Region

from tools.common.errors import ToolError
from tools.common.output import Output
from tools.fleet.commands import rollout, undo
from tools.fleet.commands.interface import Context, Environment
from tools.fleet.rollout import events, journal
from tools.fleet.rollout.events import Event, FunctionState, IllegalEvent, RollOutState, next_state
from tools.fleet.rollout.journal import Journal
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.storage import Disk, FileLocation, FileStorage, JournalError

# --- The table of events


def test_the_diagrams_of_the_documentation_are_those_of_the_table() -> None:
    assert events.diagram() in (ROOT / "docs/fleet.md").read_text()


def test_every_event_is_in_the_table_and_every_state_can_be_reached() -> None:
    assert {event for _, event in events.TRANSITIONS} == set(Event)
    reached = {*events.TRANSITIONS.values(), RollOutState.EMPTY, FunctionState.PLANNED}
    assert reached == {*RollOutState, *FunctionState}


@given(st.lists(st.sampled_from(Event), max_size=12))
def test_any_sequence_of_events_is_allowed_or_refused_in_one_line(sequence: list[Event]) -> None:
    state = FunctionState.PLANNED
    for event in sequence:
        try:
            state = next_state(state, event)
        except IllegalEvent as error:
            assert str(error) == f"the event {event.value} is not allowed in the state {state.value}"


def accepted_journal(path: Path) -> Journal:
    written = Journal.create(FileLocation(path, MemoryDisk()), Options(all_using=True, to="2"))
    written.write(Event.ACCOUNT, partition="aws", region="eu-central-1", account="123456789012", targets={})
    written.write(Event.PLANNED, function="a", name="a", verdict="change", reason="", old=["1"], new=["2"])
    written.write(Event.ACCEPTED)
    return written


def test_an_illegal_event_is_not_written(tmp_path: Path) -> None:
    written = accepted_journal(tmp_path / "journal")
    before = (tmp_path / "journal").read_bytes()
    for event in (Event.ROLLED_BACK, Event.UPDATED, Event.BEGIN):
        with pytest.raises(IllegalEvent, match="is not allowed in the state"):
            written.write(event, function="a")
    assert (tmp_path / "journal").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"event": "vanished", "function": "a"}, "the event 'vanished' is unknown"),
        ({"event": "updated", "function": "a"}, "the event updated is not allowed in the state planned"),
        ({"event": "accepted"}, "the event accepted is not allowed in the state running"),
    ],
)
@pytest.mark.parametrize("command", ["rollback", "resume"])
def test_a_journal_with_an_illegal_event_is_refused_before_aws_is_called(
    tmp_path: Path, line: dict[str, Any], problem: str, command: str
) -> None:
    path = tmp_path / "journal"
    accepted_journal(path).close()
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    context = Context(Environment(connect=no_aws, disk=MemoryDisk()), Output())
    with pytest.raises(ToolError) as refusal:
        if command == "rollback":
            undo.roll_back(context, FileLocation(path, MemoryDisk()), yes=True)
        else:
            rollout.resume(context, Options(yes=True), path)
    assert str(refusal.value) == f"{path}: line 5: {problem}; use the file that a roll-out wrote"


def no_aws(*_: Any) -> Any:
    raise AssertionError("AWS was called")


def test_function_events_are_refused_before_the_plan_is_accepted_and_after_the_end(tmp_path: Path) -> None:
    written = Journal.create(FileLocation(tmp_path / "journal", MemoryDisk()), Options())
    with pytest.raises(IllegalEvent, match="update-started is not allowed in the state begun"):
        written.write(Event.UPDATE_STARTED, function="a", old=[], new=[])
    ended = accepted_journal(tmp_path / "ended")
    ended.write(Event.END, outcome="done")
    with pytest.raises(IllegalEvent, match="update-started is not allowed in the state ended"):
        ended.write(Event.UPDATE_STARTED, function="a", old=[], new=[])


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text(json.dumps({"event": "begin", "format": 3, "options": {}}) + "\n")
    with pytest.raises(ToolError, match="line 1: the format 3 is unknown to this version"):
        journal.read(path)


# --- Durability


class SlowDisk(MemoryDisk):
    """Writes a few bytes at a time, as a disk that is almost full or a signal can (write(2))."""

    def write(self, file: int, data: bytes) -> int:
        return super().write(file, data[:7])


def test_an_event_is_written_whole_by_any_number_of_writes(tmp_path: Path) -> None:
    written = Journal.create(FileLocation(tmp_path / "journal", SlowDisk()), Options(all_using=True, to="2"))
    written.close()
    [line] = (tmp_path / "journal").read_bytes().splitlines(keepends=True)
    assert line.endswith(b"\n") and json.loads(line)["event"] == "begin"


def test_every_event_is_on_the_disk_before_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`os.fsync` is observed here: with the real `Disk`, the file has no line that was not flushed."""
    flushed: dict[int, int] = {}

    def flush(file: int) -> None:
        status = os.fstat(file)
        flushed[status.st_ino] = status.st_size

    monkeypatch.setattr(os, "fsync", flush)
    path = tmp_path / "journals" / "journal"
    region = Region({"f": [f"{OURS}:1"]})

    def check(operation: str, name: str) -> None:
        assert flushed[path.stat().st_ino] == path.stat().st_size, operation

    region.on_call = check
    context = Context(
        Environment(connect=lambda pace: region, disk=Disk()),  # type: ignore[arg-type,return-value]
        Output(out=io.StringIO(), err=io.StringIO()),
    )
    assert rollout.roll_out(context, Options(all_using=True, to="2", yes=True), path) == 0
    assert path.parent.stat().st_ino in flushed  # the folder contains the name of the file
    check("end", "")


class FullDisk(MemoryDisk):
    """Writes half of a line, and fails, each time a line contains `text`, while `is_full`."""

    def __init__(self, text: bytes, error: int = 28) -> None:
        self.is_full = True
        self._text = text
        self._error = OSError(error, os.strerror(error))

    def write(self, file: int, data: bytes) -> int:
        if self.is_full and self._text in data:
            os.write(file, data[: len(data) // 2])
            raise self._error
        return super().write(file, data)


class BrokenDisk(MemoryDisk):
    """Cannot flush from the event `text` on."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._is_broken = False

    def write(self, file: int, data: bytes) -> int:
        self._is_broken = self._is_broken or self._text in data
        return super().write(file, data)

    def flush(self, file: int) -> None:
        if self._is_broken:
            self.fail()

    @staticmethod
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")


FIVE = [f"f-{number}" for number in range(5)]


def five(version: int) -> dict[str, list[str]]:
    return {name: [f"{OURS}:{version}"] for name in FIVE}


def context(region: Region, disk: Disk) -> Context:
    environment = Environment(connect=lambda pace: region, disk=disk, workers=1)  # type: ignore[arg-type,return-value]
    return Context(environment, Output(out=io.StringIO(), err=io.StringIO()))


@pytest.mark.parametrize("event", ["begin", "account", "planned", "accepted"])
def test_a_full_disk_before_the_first_change_is_one_line(tmp_path: Path, event: str) -> None:
    region, path = Region(five(1)), tmp_path / "folder" / "journal"
    with pytest.raises(ToolError) as error:
        disk = FullDisk(f'"{event}"'.encode())
        rollout.roll_out(context(region, disk), Options(all_using=True, to="2", yes=True), path)
    assert str(error.value) == f"cannot write the journal {path}: No space left on device; nothing was changed"
    assert region.updates == []
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("event", "changed", "number"),
    [("update-started", [], 0), ('"updated"', ["f-0"], 0), ('"done"', ["f-0"], 1)],
)
@pytest.mark.parametrize("kind", [FullDisk, BrokenDisk])
def test_a_disk_error_stops_the_roll_out_and_it_continues(
    tmp_path: Path, event: str, changed: list[str], number: int, kind: type[FullDisk] | type[BrokenDisk]
) -> None:
    """`number` functions are known to have the new version; one more may have it."""
    region, path = Region(five(1)), tmp_path / "journal"
    disk = kind(event.encode())
    with pytest.raises(ToolError) as error:
        rollout.roll_out(context(region, disk), Options(all_using=True, to="2", yes=True), path)
    assert str(error.value).startswith(f"cannot write the journal {path}: ")
    assert f"; {number} of 5 functions ha" in str(error.value)
    assert f"; continue with ./build.sh rollout --resume {path} --forward, or undo" in str(error.value)
    assert [name for name, layers in region.functions.items() if layers == [f"{OURS}:2"]] == changed
    assert rollout.resume(context(region, MemoryDisk()), Options(yes=True), path) == 0
    assert region.functions == five(2)
    assert len(region.updates) == 5
    assert undo.roll_back(context(region, MemoryDisk()), FileLocation(path, MemoryDisk()), yes=True) == 0
    assert region.functions == five(1)


def test_nothing_is_written_behind_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    disk = FullDisk(b"update-started")
    written = Journal.create(FileLocation(path, disk), Options())
    written.write(Event.ACCOUNT, partition="aws", region="eu-central-1", account="123456789012", targets={})
    written.write(Event.PLANNED, function="a", name="a", verdict="change", reason="", old=["1"], new=["2"])
    written.write(Event.ACCEPTED)
    with pytest.raises(JournalError, match="No space left on device"):
        written.write(Event.UPDATE_STARTED, function="a", old=[], new=[])
    torn = path.read_bytes()
    disk.is_full = False
    with pytest.raises(JournalError, match="No space left on device"):
        written.write(Event.STOP, reason="later")
    assert path.read_bytes() == torn
    assert journal.read(path).torn == 5
    written.close()
    resumed = Journal.resume(FileLocation(path, Disk()))  # cuts the line off
    resumed.write(Event.STOP, reason="later")
    resumed.close()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()][-2:] == ["accepted", "stop"]


def test_a_journal_that_cannot_be_cut_is_one_line_and_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = FileLocation(tmp_path / "journal", MemoryDisk())
    accepted_journal(tmp_path / "journal").close()
    with monkeypatch.context() as patch:
        patch.setattr(FileStorage, "cut", BrokenDisk(b"").fail)
        with pytest.raises(ToolError) as error:
            Journal.resume(location)
    assert str(error.value) == f"cannot write the journal {tmp_path / 'journal'}: Input/output error"
    Journal.resume(location).close()


def event_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("end", [b"\n", b""], ids=["a line of its own", "the next event behind it"])
@pytest.mark.parametrize("length", [1, 8, 30, 60])
def test_one_torn_line_within_a_journal_is_skipped_and_explained(tmp_path: Path, end: bytes, length: int) -> None:
    region, path = Region(five(1)), tmp_path / "journal"
    rollout.roll_out(context(region, MemoryDisk()), Options(all_using=True, to="2", yes=True), path)
    lines, records = event_lines(path), journal.read(path).records
    path.write_bytes(b"".join([*lines[:10], lines[10][:length] + end, *lines[10:]]))
    assert journal.read(path).records == records  # no event but the incomplete one is left out
    errors = io.StringIO()
    environment = Environment(connect=lambda pace: region, disk=MemoryDisk())  # type: ignore[arg-type,return-value]
    assert (
        undo.roll_back(
            Context(environment, Output(out=io.StringIO(), err=errors)), FileLocation(path, MemoryDisk()), yes=True
        )
        == 0
    )
    assert region.functions == five(1)
    assert f"line 11 of {path} is incomplete, because the disk was full or the process ended" in errors.getvalue()
    assert "the step that it announced was not taken, and an outcome is read from AWS" in errors.getvalue()


def test_two_torn_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    accepted_journal(path).close()
    lines = event_lines(path)
    path.write_bytes(b"".join([lines[0], lines[1][:20] + b"\n", lines[1], lines[2][:20] + b"\n", *lines[2:]]))
    with pytest.raises(ToolError, match="line 4 is not an event of a journal"):
        journal.read(path)


# --- FORMAT 1: journals that version 0.1.0 wrote, each with the state of the functions at that moment

FORMAT_1 = Path(__file__).with_name("journals_format_1")
BEFORE_ROLL_OUT = {
    "f-00": [f"{OURS}:1"],
    "f-01": [BEFORE, f"{OURS}:1"],
    "f-02": [f"{OURS}:1", OTHER],
    "f-03": [BEFORE, f"{OURS}:1", OTHER],
}
AFTER_ROLL_OUT = {
    name: [arn.replace(f"{OURS}:1", f"{OURS}:2") for arn in arns] for name, arns in BEFORE_ROLL_OUT.items()
}


class StoredRollOut:
    """A journal of FORMAT 1 in a temporary folder, and the functions as it left them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        shutil.copy(FORMAT_1 / f"{name}.jsonl", self.path)
        state = json.loads((FORMAT_1 / f"{name}.region.json").read_text())
        self.region = Region(state["functions"])
        self.region.revisions = state["revisions"]
        self.region.published = {(function, version): layers for function, version, layers in state["published"]}
        self.region.aliases = state["aliases"]

    def context(self) -> Context:
        environment = Environment(connect=lambda pace: self.region, disk=MemoryDisk())  # type: ignore[arg-type,return-value]
        return Context(environment, Output(out=io.StringIO(), err=io.StringIO()))

    def resume(self) -> int:
        return rollout.resume(self.context(), Options(), self.path)

    def roll_back(self) -> int:
        return undo.roll_back(self.context(), FileLocation(self.path, MemoryDisk()), yes=True)

    def layers(self) -> dict[str, list[str]]:
        return {name: self.region.functions[name] for name in BEFORE_ROLL_OUT}

    def alias_versions(self) -> set[str]:
        return {self.region.aliases[name]["FunctionVersion"] for name in BEFORE_ROLL_OUT}


NAMES = sorted(path.stem for path in FORMAT_1.glob("*.jsonl"))
INTERRUPTED = [name for name in NAMES if name.startswith("interrupted-")]
ROLLING_BACK = [name for name in NAMES if name.startswith("rolling-back-")]


def test_there_are_journals_in_every_state() -> None:
    assert len(INTERRUPTED) >= 4 and len(ROLLING_BACK) >= 4
    assert {"complete", "failed", "tolerated", "rolled-back"} <= set(NAMES)


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_roll_out_of_format_1_is_resumed_and_then_rolled_back(name: str, tmp_path: Path) -> None:
    stored = StoredRollOut(name, tmp_path)
    before = len(stored.region.updates)
    assert stored.resume() == 0
    assert stored.layers() == AFTER_ROLL_OUT
    assert stored.alias_versions() == {"2"}
    assert len(stored.region.updates) - before <= len(BEFORE_ROLL_OUT)
    assert stored.roll_back() == 0
    assert stored.layers() == BEFORE_ROLL_OUT
    assert stored.alias_versions() == {"1"}


def test_format_1_has_no_revision_of_an_alias_whose_update_did_not_arrive(tmp_path: Path) -> None:
    stored = StoredRollOut("interrupted-moving-alias", tmp_path)
    stored.region.aliases["f-03"] |= {"FunctionVersion": "1", "RevisionId": "0"}
    assert stored.resume() == 0
    assert stored.alias_versions() == {"2"}


@pytest.mark.parametrize("name", [*INTERRUPTED, *ROLLING_BACK, "complete"])
def test_every_roll_out_of_format_1_is_rolled_back(name: str, tmp_path: Path) -> None:
    stored = StoredRollOut(name, tmp_path)
    assert stored.roll_back() == 0
    assert stored.layers() == BEFORE_ROLL_OUT
    assert stored.alias_versions() == {"1"}


@pytest.mark.parametrize("name", ROLLING_BACK)
def test_resume_completes_a_rollback_of_format_1(name: str, tmp_path: Path) -> None:
    stored = StoredRollOut(name, tmp_path)
    history = journal.read(stored.path)
    if not history.outcome:
        assert stored.resume() == 1
        assert stored.layers() == BEFORE_ROLL_OUT


@pytest.mark.parametrize(("name", "outcome"), [("rolled-back", "rolled back"), ("failed", "rolled back")])
def test_a_complete_rollback_of_format_1_has_nothing_to_do(name: str, outcome: str, tmp_path: Path) -> None:
    stored = StoredRollOut(name, tmp_path)
    assert journal.read(stored.path).outcome == outcome
    assert stored.roll_back() == 0 and stored.resume() == 1
    assert stored.region.updates == [] and stored.layers() == BEFORE_ROLL_OUT


def test_a_roll_out_of_format_1_with_a_tolerated_failure_is_rolled_back(tmp_path: Path) -> None:
    stored = StoredRollOut("tolerated", tmp_path)
    assert stored.layers() == AFTER_ROLL_OUT | {"f-02": BEFORE_ROLL_OUT["f-02"]}
    assert stored.roll_back() == 0
    assert stored.layers() == BEFORE_ROLL_OUT


def test_a_resumed_journal_of_format_1_continues_in_format_2(tmp_path: Path) -> None:
    stored = StoredRollOut("interrupted-after-update", tmp_path)
    lines = stored.path.read_bytes().splitlines()
    assert stored.resume() == 0
    after = [json.loads(line) for line in stored.path.read_bytes().splitlines()]
    assert after[: len(lines)] == [json.loads(line) for line in lines]
    assert after[len(lines)]["upgrade"] == 2
    assert {line["event"] for line in after[len(lines) + 1 :]} <= {event.value for event in Event}


@pytest.mark.parametrize(
    "text", [b"notes without a line end", b'{"functions": {}}', b"\0"], ids=["text", "JSON", "NUL"]
)
def test_a_file_that_is_no_journal_is_refused_and_not_cut(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(text)
    for use in (journal.read, lambda each: Journal.resume(FileLocation(each, Disk()))):
        with pytest.raises(ToolError, match="line 1 is not an event of a journal"):
            use(path)
        assert path.read_bytes() == text
