"""How plans, and what became of them, are told: to people in lines, to programs as one object."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tools.common import output as terminal
from tools.fleet.aws.arns import Place, short
from tools.fleet.rollout.journal import ROLLBACK, History, Journal, Record
from tools.fleet.rollout.plan import Goal, Step, Verdict

_NAMES_IN_A_HINT = 5


def plan_document(command: str, place: Place, goal: Goal, steps: Sequence[Step]) -> dict[str, Any]:
    """A plan, for programs."""
    return {
        "command": command,
        "dryRun": True,
        **asdict(place),
        "targets": [str(version) for version in goal.targets.values()],
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


def results(journal: Journal) -> dict[str, Any]:
    """What became of each function, for programs."""
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
                "outcome": _outcome(record),
                "reason": record.reason,
            }
            for record in history.records.values()
        ],
    }


def _outcome(record: Record) -> str:
    if record.verdict != "change":
        return record.verdict
    if record.state == "restored" and record.has_failed:
        return "failed, put back"
    names = {"restored": "put back", "left": "left alone", "same": "done by others", "planned": "untouched"}
    return names.get(record.state, record.state)


def plan_listing(place: Place, goal: Goal, steps: Sequence[Step]) -> Iterator[str]:
    """A plan, for people."""
    versions = ", ".join(short(str(version), place) for version in goal.targets.values())
    yield f"{'Attach' if goal.attach else 'Roll out'} {versions} in {place.region}, account {place.account}"
    yield ""
    changing = [step for step in steps if step.verdict is Verdict.CHANGE]
    if changing:
        rows = [(step.function.name, _list(step.old, place), "→", _then(step, place)) for step in changing]
        yield terminal.table(("function", "layers now", "", "layers then"), rows)
        yield ""
    for step in steps:
        if step.verdict in (Verdict.SKIP, Verdict.BLOCKED):
            verb = "skipped" if step.verdict is Verdict.SKIP else "cannot be changed"
            yield f"{verb}: {step.function.name}, {step.reason}"
    yield from _hints(changing)
    yield summary([step.verdict.value for step in steps])


def _then(step: Step, place: Place) -> str:
    return step.reason if step.new == step.old else _list(step.new, place)


def _list(arns: Sequence[str], place: Place) -> str:
    return ", ".join(short(arn, place) for arn in arns) or "none"


def _hints(steps: Sequence[Step]) -> Iterator[str]:
    concerned = defaultdict(list)
    for step in steps:
        for hint in step.hints:
            concerned[hint].append(step.function.name)
    for hint, names in concerned.items():
        more = f" and {len(names) - _NAMES_IN_A_HINT} more" if len(names) > _NAMES_IN_A_HINT else ""
        yield f"hint: {', '.join(names[:_NAMES_IN_A_HINT])}{more}: {hint}"


_VERDICTS = {"change": "to change", "right": "right already", "skip": "skipped", "blocked": "that cannot be changed"}


def summary(verdicts: Sequence[str]) -> str:
    """How many there are of each verdict of the plan."""
    counts = {words: verdicts.count(verdict) for verdict, words in _VERDICTS.items()}
    told = ", ".join(f"{number} {words}" for words, number in counts.items() if number)
    return f"{terminal.count(len(verdicts), 'function')}: {told}"


def outcomes(history: History) -> Iterator[str]:
    """What became of a roll-out, for people."""
    counted_as = [_outcome(record) for record in history.records.values()]
    for record in history.records.values():
        if record.has_failed or record.state == "left":
            yield f"{_outcome(record)}: {record.name}, {record.reason}"
    if history.stopped and history.stopped != ROLLBACK:
        yield f"stopped: {history.stopped}"
    words = {"done": "changed", "right": "right already", "skip": "skipped", "blocked": "not changeable"}
    counted = (f"{counted_as.count(each)} {words.get(each, each)}" for each in dict.fromkeys(counted_as))
    yield f"{terminal.count(len(counted_as), 'function')}: {', '.join(counted)}"


def way_back_listing(history: History) -> Iterator[str]:
    """What a rollback would do, for people."""
    if not history.place or not history.touched:
        yield "nothing is to be put back"
        return
    place = history.place
    rows = [(each.name, _list(each.new, place), "→", _list(each.old, place)) for each in history.touched]
    yield f"Put back in {place.region}, account {place.account}, the newest change first"
    yield ""
    yield terminal.table(("function", "layers now", "", "layers then"), rows)


def way_back_document(history: History) -> dict[str, Any]:
    """What a rollback would do, for programs."""
    functions = [{"function": each.arn, "old": each.new, "new": each.old} for each in history.touched]
    return {"command": "rollback", "dryRun": True, "functions": functions}
