"""The events of a journal, and when each of them is allowed.

A journal is the record of two state machines: one of the whole roll-out, one of each function in it. Everything that
changes a state is in the tables of this file. The engine, `--resume`, `rollback`, the reader of journals and the
diagrams in docs/fleet.md all use them.

Why a table: a journal is read by a later process, perhaps of a later version of this tool, which then changes functions
because of it. A file that was edited, cut and pasted, or written by a newer version must not lead to a wrong update. So
`next_state` raises `IllegalEvent` for an event that is unknown or comes at the wrong time, before AWS is called.

The names of events follow one rule. An intention ends in `-started` and is on the disk before AWS is called; its
outcome follows. An intention without an outcome is open: the process died, and AWS may or may not have carried out the
call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TypeVar

from tools.common.errors import ToolError


class IllegalEvent(ToolError):
    """An event is unknown, or not allowed in the present state."""


class Event(Enum):
    """What a line of a journal records."""

    # Of the whole roll-out
    BEGIN = "begin"
    ACCOUNT = "account"
    PLANNED = "planned"
    ACCEPTED = "accepted"
    BAKE_STARTED = "bake-started"
    GATES_PASSED = "gates-passed"
    STOP = "stop"
    END = "end"
    # Of one function, while it is rolled out
    UPDATE_STARTED = "update-started"
    UPDATED = "updated"
    UPDATE_REJECTED = "update-rejected"
    PROBE_STARTED = "probe-started"
    PROBE_REJECTED = "probe-rejected"
    PROBED = "probed"
    PUBLISH_STARTED = "publish-started"
    ALIAS_MOVE_STARTED = "alias-move-started"
    ALIAS_MOVE_REJECTED = "alias-move-rejected"
    ALIAS_SHIFTED = "alias-shifted"
    ALIAS_MOVED = "alias-moved"
    POSTPONED = "postponed"
    PLANNED_AGAIN = "planned-again"
    DONE = "done"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    FAILED = "failed"
    # Of one function, while it is rolled back
    ROLLBACK_STARTED = "rollback-started"
    ALIAS_RESTORE_STARTED = "alias-restore-started"
    ALIAS_RESTORED = "alias-restored"
    RESTORE_STARTED = "restore-started"
    RESTORE_ACCEPTED = "restore-accepted"
    RESTORE_REJECTED = "restore-rejected"
    ROLLED_BACK = "rolled-back"
    LEFT_ALONE = "left-alone"


class RollOutState(Enum):
    """The state of a whole roll-out."""

    EMPTY = "empty"
    BEGUN = "begun"
    PLANNING = "planning"
    RUNNING = "running"
    BAKING = "baking"
    ROLLING_BACK = "rolling_back"
    ENDED = "ended"


class FunctionState(Enum):
    """The state of one function in a roll-out."""

    PLANNED = "planned"
    UPDATING = "updating"
    UPDATED = "updated"
    PROBING = "probing"
    PROBED = "probed"
    PUBLISHING = "publishing"
    MOVING_ALIAS = "moving_alias"
    ALIAS_SHIFTED = "alias_shifted"
    ALIAS_MOVED = "alias_moved"
    POSTPONED = "postponed"
    DONE = "done"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    FAILED = "failed"
    ROLLING_BACK = "rolling_back"
    RESTORING_ALIAS = "restoring_alias"
    RESTORING = "restoring"
    WAITING = "waiting"
    ROLLED_BACK = "rolled_back"
    LEFT_ALONE = "left_alone"


State = RollOutState | FunctionState
AnyState = TypeVar("AnyState", RollOutState, FunctionState)
_Rows = tuple[tuple[tuple[State, ...], Event, State], ...]

# --- The whole roll-out -----------------------------------------------------------------------------------------------

_R, _F = RollOutState, FunctionState

# `account` comes once for each region of each account, and again if a plan that nobody accepted is made anew. `stop`
# after `end` is the command `rollback`. `bake-started` follows each wave, or each step of `--shift`, except the last
# one; `gates-passed` allows the next one.
_ROLL_OUT: _Rows = (
    ((_R.EMPTY,), Event.BEGIN, _R.BEGUN),
    ((_R.BEGUN, _R.PLANNING), Event.ACCOUNT, _R.PLANNING),
    ((_R.PLANNING,), Event.PLANNED, _R.PLANNING),
    ((_R.PLANNING,), Event.ACCEPTED, _R.RUNNING),
    ((_R.RUNNING,), Event.BAKE_STARTED, _R.BAKING),
    ((_R.BAKING,), Event.GATES_PASSED, _R.RUNNING),
    ((_R.RUNNING, _R.BAKING, _R.ENDED), Event.STOP, _R.ROLLING_BACK),
    ((_R.RUNNING, _R.ROLLING_BACK), Event.END, _R.ENDED),
)

# The states in which functions may have events. After `stop`, functions that were begun are completed first.
# While a version bakes, functions can be planned again.
ACTIVE = frozenset({_R.RUNNING, _R.BAKING, _R.ROLLING_BACK})

# --- One function -----------------------------------------------------------------------------------------------------

FORWARDS = (
    _F.PLANNED,
    _F.UPDATING,
    _F.UPDATED,
    _F.PROBING,
    _F.PROBED,
    _F.PUBLISHING,
    _F.MOVING_ALIAS,
    _F.ALIAS_SHIFTED,
    _F.ALIAS_MOVED,
)
AFTER_UPDATE = FORWARDS[2:]  # the update is certain
_BEFORE_ALIAS = (_F.PLANNED, _F.UPDATING, _F.UPDATED, _F.PROBING, _F.PROBED)
BACKWARDS = (_F.ROLLING_BACK, _F.RESTORING_ALIAS, _F.RESTORING, _F.WAITING)

# `update-started` again: AWS did not carry out the first one, or somebody else undid it while no process was running.
# `probe-rejected`: the function was certainly not invoked, so it can be probed later. A `probe-started` without an
# outcome is never repeated. `alias-moved` comes after an update in the same case. `publish-started` from `planned`: the
# layers were up to date, only the alias was not. `postponed`: the alias is not as in the plan, so the function is
# skipped, and restored if it was changed; `--resume` plans it again.
_FUNCTION: _Rows = (
    (FORWARDS, Event.UPDATE_STARTED, _F.UPDATING),
    ((_F.UPDATING,), Event.UPDATED, _F.UPDATED),
    ((_F.UPDATING,), Event.UPDATE_REJECTED, _F.PLANNED),
    (FORWARDS, Event.PROBE_STARTED, _F.PROBING),
    ((_F.PROBING,), Event.PROBE_REJECTED, _F.UPDATED),
    ((_F.PROBING,), Event.PROBED, _F.PROBED),
    ((*_BEFORE_ALIAS, _F.PUBLISHING), Event.PUBLISH_STARTED, _F.PUBLISHING),
    ((_F.PUBLISHING, _F.MOVING_ALIAS, _F.ALIAS_SHIFTED), Event.ALIAS_MOVE_STARTED, _F.MOVING_ALIAS),
    ((_F.MOVING_ALIAS,), Event.ALIAS_MOVE_REJECTED, _F.PUBLISHING),
    ((_F.MOVING_ALIAS,), Event.ALIAS_SHIFTED, _F.ALIAS_SHIFTED),
    ((*_BEFORE_ALIAS, _F.MOVING_ALIAS, _F.ALIAS_MOVED), Event.ALIAS_MOVED, _F.ALIAS_MOVED),
    ((*FORWARDS, _F.POSTPONED), Event.POSTPONED, _F.POSTPONED),
    ((_F.PLANNED, _F.POSTPONED, _F.ROLLED_BACK), Event.PLANNED_AGAIN, _F.PLANNED),
    (FORWARDS, Event.DONE, _F.DONE),
    (FORWARDS, Event.UNCHANGED, _F.UNCHANGED),
    (FORWARDS, Event.SKIPPED, _F.SKIPPED),
    (FORWARDS, Event.FAILED, _F.FAILED),
    (
        (*FORWARDS, _F.POSTPONED, _F.DONE, _F.SKIPPED, _F.FAILED, *BACKWARDS),
        Event.ROLLBACK_STARTED,
        _F.ROLLING_BACK,
    ),
    ((_F.ROLLING_BACK, _F.RESTORING_ALIAS), Event.ALIAS_RESTORE_STARTED, _F.RESTORING_ALIAS),
    ((_F.ROLLING_BACK, _F.RESTORING_ALIAS), Event.ALIAS_RESTORED, _F.ROLLING_BACK),
    ((_F.ROLLING_BACK, _F.RESTORING), Event.RESTORE_STARTED, _F.RESTORING),
    ((_F.RESTORING,), Event.RESTORE_ACCEPTED, _F.WAITING),
    ((_F.RESTORING,), Event.RESTORE_REJECTED, _F.ROLLING_BACK),
    ((_F.ROLLING_BACK, _F.WAITING), Event.ROLLED_BACK, _F.ROLLED_BACK),
    (BACKWARDS, Event.LEFT_ALONE, _F.LEFT_ALONE),
)


def _table(rows: _Rows) -> Mapping[tuple[State, Event], State]:
    return {(source, event): target for sources, event, target in rows for source in sources}


TRANSITIONS = {**_table(_ROLL_OUT), **_table(_FUNCTION)}
FUNCTION_EVENTS = frozenset(event for _, event, _ in _FUNCTION)


def next_state(state: AnyState, event: Event) -> AnyState:
    """Return the state after `event`; raises `IllegalEvent` if the event is not allowed in `state`."""
    try:
        return TRANSITIONS[state, event]  # type: ignore[return-value]  # the rows do not mix the two kinds of states
    except KeyError:
        raise IllegalEvent(f"the event {event.value} is not allowed in the state {state.value}") from None


def target_of(event: Event) -> FunctionState:
    """Return the state of a function after `event`, whatever it was before."""
    return next(target for _, each, target in _FUNCTION if each is event)  # type: ignore[return-value]


def target_of_roll_out(event: Event) -> RollOutState:
    """Return the state of the roll-out after `event`, whatever it was before."""
    return next(target for _, each, target in _ROLL_OUT if each is event)  # type: ignore[return-value]


# --- FORMAT 1 ---------------------------------------------------------------------------------------------------------

# Journals of version 0.1.0 use these names, and have no event for the start of a function's rollback. Their order is
# not checked: the version that wrote them had no table.
FORMAT_1 = {
    "begin": Event.BEGIN,
    "identity": Event.ACCOUNT,
    "planned": Event.PLANNED,
    "accepted": Event.ACCEPTED,
    "stop": Event.STOP,
    "end": Event.END,
    "change": Event.UPDATE_STARTED,
    "changed": Event.UPDATED,
    "refused": Event.UPDATE_REJECTED,
    "publish": Event.PUBLISH_STARTED,
    "alias": Event.ALIAS_MOVE_STARTED,
    "alias-moved": Event.ALIAS_MOVED,
    "done": Event.DONE,
    "same": Event.UNCHANGED,
    "skipped": Event.SKIPPED,
    "failed": Event.FAILED,
    "alias-restore": Event.ALIAS_RESTORE_STARTED,
    "alias-back": Event.ALIAS_RESTORED,
    "restore": Event.RESTORE_STARTED,
    "restoring": Event.RESTORE_ACCEPTED,
    "not-restored": Event.RESTORE_REJECTED,
    "restored": Event.ROLLED_BACK,
    "left": Event.LEFT_ALONE,
}

# --- Diagrams ---------------------------------------------------------------------------------------------------------

_FENCE = "```"
_ROLLING_OUT, _ROLLING_BACK = "rolling_out", "roll_back"  # the groups FORWARDS and BACKWARDS in the diagram


def diagram() -> str:
    """Return both tables as Mermaid state diagrams, in fenced blocks of Markdown."""
    whole = _lines(_ROLL_OUT, _R.EMPTY, {})
    function = _lines(_FUNCTION, _F.PLANNED, {_ROLLING_OUT: FORWARDS, _ROLLING_BACK: BACKWARDS})
    return "\n\n".join(
        "\n".join([f"{_FENCE}mermaid", "stateDiagram-v2", *lines, _FENCE]) for lines in (whole, function)
    )


def _lines(rows: _Rows, first: State, groups: Mapping[str, tuple[State, ...]]) -> Iterator[str]:
    """Yield the arrows: those within a group inside its box, those from all states of a group once, from the box."""
    group_of = {state: name for name, states in groups.items() for state in states}
    inside: dict[str, list[str]] = {name: [] for name in groups}
    outside: dict[str, None] = {f"[*] --> {group_of.get(first, first.value)}": None}
    for sources, event, target in rows:
        whole = {name for name, states in groups.items() if set(states) <= set(sources)}
        for source in sources:
            name = group_of.get(source, "")
            if name and name == group_of.get(target):
                inside[name].append(f"{source.value} --> {target.value}: {event.value}")
            else:
                start = name if name in whole else source.value
                outside[f"{start} --> {group_of.get(target, target.value)}: {event.value}"] = None
    for name, lines in inside.items():
        yield from (f"    state {name} {{", *(f"        {line}" for line in lines), "    }")
    yield from (f"    {line}" for line in outside)
