"""The history in a journal: the state of the roll-out and of each function, computed from the events alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.fleet.aws.arns import Place
from tools.fleet.rollout import events
from tools.fleet.rollout.events import (
    AFTER_UPDATE,
    FORWARDS,
    Event,
    FunctionState,
    IllegalEvent,
    RollOutState,
    next_state,
)
from tools.fleet.rollout.plan import Verdict

FORMAT = 2

# Outcomes of a whole roll-out
DONE, ROLLED_BACK = "done", "rolled back"

ROLLBACK_REQUESTED = "rollback"  # the reason of `stop` for the command `rollback`


@dataclass
class AliasMove:
    """An alias that was, or may have been, pointed to another version."""

    alias: str
    old: str
    weights: dict[str, float]
    new: str
    is_restored: bool = False


@dataclass
class Record:
    """One function of the roll-out.

    Args:
        verdict: of the plan.
        old, new: the lists of layers before and after the change.
        reason: of the verdict, the failure, or the outcome.
        changed_at: the line of the last change that this roll-out made, or may have made; None if there is nothing to
            roll back.
        probe: `PROBE_STARTED` if the function was, or may have been, invoked, and the result is unknown; `PROBED` if it
            succeeded; None if the function was not invoked.
    """

    arn: str
    name: str
    verdict: Verdict
    old: tuple[str, ...]
    new: tuple[str, ...]
    reason: str = ""
    state: FunctionState = FunctionState.PLANNED
    changed_at: int | None = None
    has_failed: bool = False
    move: AliasMove | None = None
    probe: Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether the last update has no outcome: AWS may have carried it out."""
        return self.state is FunctionState.UPDATING


class History:
    """The content of a journal. `apply` is the only way to change it."""

    def __init__(self) -> None:
        self.format = FORMAT
        self.options: dict[str, Any] = {}
        self.place: Place | None = None
        self.targets: dict[str, str] = {}
        self.state = RollOutState.EMPTY
        self.is_accepted = False
        self.stopped = ""
        self.outcome = ""
        self.records: dict[str, Record] = {}
        self._lines = 0

    # --- Reading events

    def check(self, line: Mapping[str, Any]) -> None:
        """Raise `IllegalEvent` if the event of `line` is unknown or not allowed now; changes nothing."""
        if "upgrade" in line or self._is_format_1(line):
            return
        event = self._event(line)
        if event not in events.FUNCTION_EVENTS:
            next_state(self.state, event)
        elif self.state not in events.ACTIVE:
            raise IllegalEvent(f"the event {event.value} is not allowed in the state {self.state.value}")
        else:
            next_state(self.records[line["function"]].state, event)

    def apply(self, line: Mapping[str, Any]) -> None:
        """Apply the next line; raises `KeyError`, `ValueError` or `TypeError` if a field is missing or wrong."""
        self._lines += 1
        if "upgrade" in line:
            self.format = int(line["upgrade"])
            return
        event = self._event(line)
        if event in events.FUNCTION_EVENTS:
            record = self.records[line["function"]]
            record.state = events.target_of(event)
            self._apply_to_function(record, event, line)
        else:
            self.state = events.target_of_roll_out(event)
            self._apply_to_roll_out(event, line)

    def _is_format_1(self, line: Mapping[str, Any]) -> bool:
        return self.format == 1 or (line.get("event") == Event.BEGIN.value and line.get("format") == 1)

    def _event(self, line: Mapping[str, Any]) -> Event:
        name = line["event"]
        try:
            return events.FORMAT_1[name] if self.format == 1 else Event(name)
        except (KeyError, ValueError):
            raise IllegalEvent(f"the event {name!r} is unknown") from None

    def _apply_to_roll_out(self, event: Event, line: Mapping[str, Any]) -> None:
        match event:
            case Event.BEGIN:
                self.format = line["format"]
                if self.format not in (1, FORMAT):
                    raise IllegalEvent(f"the format {self.format} is unknown to this version")
                self.options = dict(line["request" if self.format == 1 else "options"])
            case Event.ACCOUNT:  # a plan that was not accepted is made anew
                self.place = Place(line["partition"], line["region"], line["account"])
                self.targets = dict(line["targets"])
                self.records = {}
            case Event.PLANNED:
                self.records[line["function"]] = self._planned(line)
            case Event.ACCEPTED:
                self.is_accepted = True
            case Event.STOP:
                self.stopped = line["reason"]
            case Event.END:
                self.outcome = ROLLED_BACK if line["outcome"] == "put back" else line["outcome"]  # FORMAT 1

    def _planned(self, line: Mapping[str, Any]) -> Record:
        verdict = {"right": "up-to-date", "skip": "skipped"}.get(line["verdict"], line["verdict"])  # FORMAT 1
        old, new = tuple(line["old"]), tuple(line["new"])
        return Record(line["function"], line["name"], Verdict(verdict), old, new, line["reason"])

    def _apply_to_function(self, record: Record, event: Event, line: Mapping[str, Any]) -> None:
        match event:
            case Event.UPDATE_STARTED:
                record.old, record.new = tuple(line["old"]), tuple(line["new"])
                record.changed_at = self._lines
            case Event.UPDATE_REJECTED:
                record.changed_at = self._lines if record.move else None
            case Event.PROBE_STARTED | Event.PROBED:
                record.probe = event
            case Event.PROBE_REJECTED:
                record.probe = None
            case Event.ALIAS_MOVE_STARTED:
                record.move = AliasMove(line["alias"], line["old"], dict(line["weights"]), line["new"])
                record.changed_at = record.changed_at or self._lines
            case Event.ALIAS_RESTORED if record.move:
                record.move.is_restored = True
            case Event.FAILED:
                record.has_failed, record.reason = True, line["reason"]
            case Event.DONE | Event.UNCHANGED | Event.SKIPPED:
                record.reason = line.get("reason", "")
            case Event.ROLLED_BACK | Event.LEFT_ALONE:
                record.changed_at = None
                record.reason = line.get("reason", "") or record.reason

    # --- Questions

    @property
    def changed(self) -> list[Record]:
        """The functions that a rollback restores: changed, or perhaps changed; newest change first."""
        changed = [record for record in self.records.values() if record.changed_at is not None]
        return sorted(changed, key=lambda record: record.changed_at or 0, reverse=True)

    @property
    def pending(self) -> list[Record]:
        """The functions with the verdict `change` that have no outcome yet, in the order of the plan."""
        return [
            record for record in self.records.values() if record.verdict is Verdict.CHANGE and record.state in FORWARDS
        ]

    @property
    def with_unknown_probe(self) -> list[Record]:
        """The pending functions that may have been invoked, with an unknown result."""
        return [record for record in self.pending if record.probe is Event.PROBE_STARTED]

    @property
    def with_new_version(self) -> int:
        """The number of functions that have the new version: by this roll-out, by others, or from the beginning."""
        verdicts = (Verdict.UP_TO_DATE,)
        states = (FunctionState.DONE, FunctionState.UNCHANGED, *AFTER_UPDATE)
        return sum(each.verdict in verdicts or each.state in states for each in self.records.values())

    @property
    def failed(self) -> list[Record]:
        """The functions that failed, or were blocked in the plan."""
        return [record for record in self.records.values() if record.has_failed or record.verdict is Verdict.BLOCKED]

    def layer_versions(self) -> set[str]:
        """The ARNs of all layer versions that a resumed roll-out or a rollback may need."""
        named = {arn for record in self.records.values() for arn in (*record.old, *record.new)}
        return named | set(self.targets.values())
