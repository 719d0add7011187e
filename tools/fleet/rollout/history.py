"""The history in a journal: the state of the roll-out and of each function, computed from the events alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from tools.fleet.aws.arns import Place
from tools.fleet.aws.models import Function, Wrappers
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
from tools.fleet.rollout.plan import AliasPlan, Step, Verdict

FORMAT = 2

_CAN_BE_PLANNED_AGAIN = (FunctionState.POSTPONED, FunctionState.ROLLED_BACK)

# The states of functions that are complete, or at a step of a shift
HAS_NEW_VERSION = (FunctionState.DONE, FunctionState.UNCHANGED, FunctionState.ALIAS_SHIFTED)

# Outcomes of a whole roll-out
DONE, ROLLED_BACK = "done", "rolled back"

ROLLBACK_REQUESTED = "rollback"  # the reason of `stop` for the command `rollback`


@dataclass(frozen=True)
class PlannedPlace:
    """A region of an account in which a roll-out changes functions.

    Args:
        role: the ARN of the role that is assumed; empty for the caller's own credentials.
        targets: the ARNs of the target versions, by the name of the layer.
    """

    place: Place
    role: str
    targets: Mapping[str, str]


AliasState = tuple[str, dict[str, float]]  # the version, and the weights of others


@dataclass
class AliasMove:
    """An alias that was, or may have been, pointed to another version.

    Args:
        old, weights: the state before.
        is_confirmed: AWS has carried out the last update of the alias, or rejected it; otherwise it may still come.
        states: those that this roll-out gave the alias, or may have given it; a rollback replaces no other state.
    """

    alias: str
    old: str
    weights: dict[str, float]
    new: str
    states: list[AliasState] = field(default_factory=list)
    is_confirmed: bool = False
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
        is_postponed: the alias was not as in the plan, so the function was skipped; `--resume` plans it again.
        has_updated: the layers were, or may have been, changed.
        is_unconfirmed: the outcome of the last update is not known; AWS may still carry it out.
        old_wrappers, new_wrappers: the two variables before and after the change; None if it keeps them.
        alias_name: the alias that will be moved; empty for none.
        alias: its plan; None in a journal of version 0.1.0.
        alias_revision: the revision of the alias after the last change of this roll-out, or of the plan.
        percent: of the requests that the alias sends to the new version.
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
    is_postponed: bool = False
    has_updated: bool = False
    is_unconfirmed: bool = False
    old_wrappers: Wrappers | None = None
    new_wrappers: Wrappers | None = None
    alias_name: str = ""
    alias: AliasPlan | None = None
    alias_revision: str = ""
    percent: float = 0.0

    def has_new(self, function: Function) -> bool:
        """Whether the function is as after the change."""
        return function.layers == self.new and self.new_wrappers in (None, function.wrappers)

    def has_old(self, function: Function) -> bool:
        """Whether the function is as before the change."""
        return function.layers == self.old and self.old_wrappers in (None, function.wrappers)

    @property
    def place(self) -> Place:
        """Where the function is."""
        return Place.of_function(self.arn)

    @property
    def is_open(self) -> bool:
        """Whether the last update has no outcome: AWS may have carried it out."""
        return self.state is FunctionState.UPDATING


class History:
    """The content of a journal. `apply` is the only way to change it."""

    def __init__(self) -> None:
        self.format = FORMAT
        self.options: dict[str, Any] = {}
        self.places: list[PlannedPlace] = []  # in the order of the plan
        self.state = RollOutState.EMPTY
        self.is_accepted = False
        self.stopped = ""
        self.outcome = ""
        self.records: dict[str, Record] = {}
        self.passed: set[tuple[int, float]] = set()  # stages whose gates were passed
        self.baking: tuple[tuple[int, float], datetime] | None = None  # a stage, and since when
        self.torn: int | None = None  # the number of a line that is incomplete
        self._lines = 0

    # --- Reading events

    def check(self, line: Mapping[str, Any]) -> None:
        """Raise `IllegalEvent` if the event of `line` is unknown or not allowed now; changes nothing."""
        if "upgrade" in line or "takenOverFrom" in line or self._is_format_1(line):
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
        if "takenOverFrom" in line:  # it only keeps the process before from writing
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
            case Event.ACCOUNT:
                if line.get("number", 1) == 1:  # a plan that was not accepted is made anew
                    self.places, self.records = [], {}
                place = Place(line["partition"], line["region"], line["account"])
                self.places.append(PlannedPlace(place, line.get("role", ""), dict(line["targets"])))
            case Event.PLANNED:
                self.records[line["function"]] = self._planned(line)
            case Event.ACCEPTED:
                self.is_accepted = True
            case Event.BAKE_STARTED:
                self.baking = (line["wave"], float(line["percent"])), datetime.fromisoformat(line["at"]).astimezone(UTC)
            case Event.GATES_PASSED:
                self.passed.add((line["wave"], float(line["percent"])))
                self.baking = None
            case Event.STOP:
                self.stopped = line["reason"]
                self.outcome = ""  # of a complete roll-out that is rolled back
            case Event.END:
                self.outcome = ROLLED_BACK if line["outcome"] == "put back" else line["outcome"]  # FORMAT 1

    def _planned(self, line: Mapping[str, Any]) -> Record:
        verdict = {"right": "up-to-date", "skip": "skipped"}.get(line["verdict"], line["verdict"])  # FORMAT 1
        record = Record(line["function"], line["name"], Verdict(verdict), (), ())
        _set_plan(record, line)
        if "alias" not in line:  # of version 0.1.0
            record.alias_name = self.options.get("alias") or ""
        return record

    def _apply_to_function(self, record: Record, event: Event, line: Mapping[str, Any]) -> None:
        match event:
            case Event.UPDATE_STARTED:
                record.old, record.new = tuple(line["old"]), tuple(line["new"])
                record.old_wrappers, record.new_wrappers = (
                    _wrappers(line, "oldWrappers"),
                    _wrappers(line, "newWrappers"),
                )
                record.changed_at, record.has_updated, record.is_unconfirmed = self._lines, True, True
            case Event.UPDATED:
                record.is_unconfirmed = False
            case Event.UPDATE_REJECTED:
                record.changed_at = self._lines if record.move else None
                record.has_updated = record.is_unconfirmed = False
            case Event.PROBE_STARTED | Event.PROBED:
                record.probe = event
            case Event.PROBE_REJECTED:
                record.probe = None
            case Event.ALIAS_MOVE_STARTED:
                _start_move(record, line)
                record.changed_at = record.changed_at or self._lines
            case Event.ALIAS_MOVE_REJECTED if record.move:
                _reject_move(record)
            case Event.ALIAS_SHIFTED | Event.ALIAS_MOVED:
                record.percent = float(line.get("percent", 100.0))
                record.alias_revision = line.get("revision", "")
                if record.move:
                    record.move.is_confirmed = True
            case Event.POSTPONED:
                record.is_postponed, record.reason = True, line["reason"]
            case Event.PLANNED_AGAIN:
                record.is_postponed, record.move, record.percent = False, None, 0.0
                _set_plan(record, line)
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
    def postponed(self) -> list[Record]:
        """The functions that `--resume` plans again."""
        return [each for each in self.records.values() if each.is_postponed and each.state in _CAN_BE_PLANNED_AGAIN]

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
        return named | {arn for each in self.places for arn in each.targets.values()}

    def label(self, record: Record) -> str:
        """Return the name of a function, with what distinguishes it from those of other regions and accounts."""
        accounts = {each.place.account for each in self.places}
        region = f" in {record.place.region}" if len(self.places) > 1 else ""
        account = f", account {record.place.account}" if len(accounts) > 1 else ""
        return f"{record.name}{region}{account}"


def planned_fields(step: Step) -> dict[str, Any]:
    """Return the fields of `planned` and `planned-again` for a step."""
    return {
        "reason": step.reason,
        "old": step.old,
        "new": step.new,
        "revision": step.function.revision,
        "alias": asdict(step.alias) if step.alias else None,
    }


def _set_plan(record: Record, line: Mapping[str, Any]) -> None:
    """Set what is in a line with `planned_fields`."""
    record.old, record.new, record.reason = tuple(line["old"]), tuple(line["new"]), line["reason"]
    if alias := line.get("alias"):
        differences = tuple(alias["differences"])
        record.alias = AliasPlan(
            alias["name"], alias["version"], alias["revision"], dict(alias["weights"]), differences
        )
    else:
        record.alias = None
    record.alias_name = record.alias.name if record.alias else ""
    record.alias_revision = record.alias.revision if record.alias else ""


def _wrappers(line: Mapping[str, Any], key: str) -> Wrappers | None:
    value = line.get(key)
    if value is None:
        return None
    first, second = value
    return first, second


def alias_state(old: str, new: str, percent: float) -> AliasState:
    """Return the state of an alias that sends `percent` of the requests to the new version."""
    return (new, {}) if percent >= 100 else (old, {new: percent / 100})


def _start_move(record: Record, line: Mapping[str, Any]) -> None:
    old, new, percent = line["old"], line["new"], float(line.get("percent", 100.0))
    if record.move is None:
        record.move = AliasMove(line["alias"], old, dict(line["weights"]), new)
    record.move.states.append(alias_state(old, new, percent))
    record.move.is_confirmed = False


def _reject_move(record: Record) -> None:
    """Forget the last state, which the alias certainly does not have."""
    assert record.move is not None
    record.move.states.pop()
    record.move.is_confirmed = True
    if not record.move.states:
        record.move = None
        record.changed_at = record.changed_at if record.has_updated else None
