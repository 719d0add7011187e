"""Plans and outcomes: as lines for people, as objects for programs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tools.common import output
from tools.fleet.aws.arns import Place, short
from tools.fleet.rollout.events import BACKWARDS, FunctionState
from tools.fleet.rollout.history import ROLLBACK_REQUESTED, History, Record
from tools.fleet.rollout.journal import Journal
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.plan import Step, Targets, Verdict

_NAMES_IN_A_HINT = 5

# --- Plans ------------------------------------------------------------------------------------------------------------


def plan_document(options: Options, place: Place, targets: Targets, steps: Sequence[Step]) -> dict[str, Any]:
    """Return a plan as an object."""
    return {
        "command": options.command,
        "dryRun": True,
        **asdict(place),
        "targets": [str(version) for version in targets.values()],
        "functions": [
            {
                "function": step.function.arn,
                "name": step.function.name,
                "verdict": step.verdict.value,
                "old": step.old,
                "new": step.new,
                "reason": step.reason,
                "hints": step.hints,
            }
            for step in steps
        ],
    }


def plan_lines(options: Options, place: Place, targets: Targets, steps: Sequence[Step]) -> Iterator[str]:
    """Return a plan as lines: a table of changes, then the other functions, hints, and a summary."""
    versions = ", ".join(short(str(version), place) for version in targets.values())
    yield f"{'Attach' if options.is_attach else 'Roll out'} {versions} in {place.region}, account {place.account}"
    yield ""
    changes = [step for step in steps if step.verdict is Verdict.CHANGE]
    if changes:
        yield from _table([(step.function.name, step.old, step.new, step.reason) for step in changes], place)
    for step in steps:
        if step.verdict in (Verdict.SKIPPED, Verdict.BLOCKED):
            yield f"{step.verdict.value}: {step.function.name}, {step.reason}"
    yield from _hints(changes)
    yield summary(steps)


def _table(rows: Sequence[tuple[str, Sequence[str], Sequence[str], str]], place: Place) -> Iterator[str]:
    cells = [
        (name, _listed(old, place), "→", reason if new == old else _listed(new, place))
        for name, old, new, reason in rows
    ]
    yield output.table(("function", "layers before", "", "layers after"), cells)
    yield ""


def _listed(arns: Sequence[str], place: Place) -> str:
    return ", ".join(short(arn, place) for arn in arns) or "none"


def _hints(steps: Sequence[Step]) -> Iterator[str]:
    names = defaultdict(list)
    for step in steps:
        for hint in step.hints:
            names[hint].append(step.function.name)
    for hint, functions in names.items():
        yield f"hint: {output.shortened(functions, _NAMES_IN_A_HINT)}: {hint}"


_VERDICTS = {
    Verdict.CHANGE: "to change",
    Verdict.UP_TO_DATE: "up to date",
    Verdict.SKIPPED: "skipped",
    Verdict.BLOCKED: "blocked",
}


def summary(steps: Sequence[Step]) -> str:
    """Return the number of functions of each verdict."""
    counts = Counter(step.verdict for step in steps)
    listed = ", ".join(f"{counts[verdict]} {words}" for verdict, words in _VERDICTS.items() if counts[verdict])
    return f"{output.count(len(steps), 'function')}: {listed}"


# --- Outcomes ---------------------------------------------------------------------------------------------------------


def results(journal: Journal) -> dict[str, Any]:
    """Return the outcome of each function as an object."""
    history = journal.history
    return {
        **(asdict(history.place) if history.place else {}),
        "journal": str(journal.path),
        "outcome": history.outcome or "unfinished",
        "reason": history.stopped,
        "functions": [
            {
                "function": record.arn,
                "name": record.name,
                "old": record.old,
                "new": record.new,
                "outcome": outcome(record),
                "reason": record.reason,
            }
            for record in history.records.values()
        ],
    }


_STATES = {
    FunctionState.PLANNED: "not started",
    FunctionState.DONE: "done",
    FunctionState.UNCHANGED: "done by others",
    FunctionState.SKIPPED: "skipped",
    FunctionState.FAILED: "failed",
    FunctionState.ROLLED_BACK: "rolled back",
    FunctionState.LEFT_ALONE: "left alone",
}


def outcome(record: Record) -> str:
    """Return the outcome of one function, such as `done` or `failed and rolled back`."""
    if record.verdict is not Verdict.CHANGE:
        return _VERDICTS[record.verdict]
    default = "not rolled back" if record.state in BACKWARDS else "unfinished"
    words = _STATES.get(record.state, default)
    return f"failed and {words}" if record.has_failed and record.state is not FunctionState.FAILED else words


def result_lines(history: History) -> Iterator[str]:
    """Return the outcome as lines: failures with their reasons, then a summary."""
    for record in history.records.values():
        if record.has_failed or record.state is FunctionState.LEFT_ALONE:
            yield f"{outcome(record)}: {record.name}, {record.reason}"
    if history.stopped and history.stopped != ROLLBACK_REQUESTED:
        yield f"stopped: {history.stopped}"
    counts = Counter(outcome(record) for record in history.records.values())
    listed = ", ".join(f"{number} {'changed' if words == 'done' else words}" for words, number in counts.items())
    yield f"{output.count(len(history.records), 'function')}: {listed}"


# --- Rollbacks --------------------------------------------------------------------------------------------------------


def rollback_lines(history: History) -> Iterator[str]:
    """Return as lines what a rollback would do."""
    place = history.place
    if not place or not history.changed:
        yield "nothing to roll back"
        return
    yield f"Roll back in {place.region}, account {place.account}, newest change first"
    yield ""
    yield from _table([(each.name, each.new, each.old, _alias_words(each)) for each in history.changed], place)


def _alias_words(record: Record) -> str:
    return f"its alias {record.move.alias} is restored" if record.move else "unchanged"


def rollback_document(history: History) -> dict[str, Any]:
    """Return as an object what a rollback would do."""
    functions = [{"function": each.arn, "old": each.new, "new": each.old} for each in history.changed]
    return {"command": "rollback", "dryRun": True, "functions": functions}
