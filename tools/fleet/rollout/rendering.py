"""Plans and outcomes: as lines for people, as objects for programs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tools.common import output
from tools.fleet.aws.arns import Layer, LayerVersion, Place, layer_of, short
from tools.fleet.rollout.aliases import weights_text
from tools.fleet.rollout.events import BACKWARDS, FunctionState
from tools.fleet.rollout.history import ROLLBACK_REQUESTED, History, Record
from tools.fleet.rollout.options import ATTACH, DETACH, Options
from tools.fleet.rollout.plan import PlacePlan, Step, Targets, Verdict
from tools.fleet.rollout.traffic import OldAliases
from tools.fleet.rollout.waves import divide_into_waves

_NAMES_IN_A_HINT = 5
_MAX_ROWS = 30
_MIN_ROWS = 3  # of each region

# --- Plans ------------------------------------------------------------------------------------------------------------


def scope_text(places: Sequence[Place]) -> str:
    """Return where a roll-out changes functions, such as `3 regions of 2 accounts`; an empty string for nowhere."""
    if len(places) < 2:
        return "".join(map(str, places))
    accounts = {place.account for place in places}
    regions = output.count(len({place.region for place in places}), "region")
    if len(accounts) == 1:
        return f"{regions}, account {places[0].account}"
    return f"{regions} of {output.count(len(accounts), 'account')}"


def listed(places: Sequence[Place]) -> str:
    """Return regions by account, such as `eu-west-1, us-east-1, account 123456789012`."""
    regions = defaultdict(list)
    for place in sorted(places):
        regions[place.account].append(place.region)
    return "; ".join(f"{', '.join(names)}, account {account}" for account, names in regions.items())


def plan_document(options: Options, plans: Sequence[PlacePlan]) -> dict[str, Any]:
    """Return a plan as an object. With one region and account, their names are also at the top."""
    return {
        "command": options.command,
        "dryRun": True,
        **(asdict(plans[0].place) if len(plans) == 1 else {}),
        "places": [{**asdict(plan.place), "role": plan.role or None} for plan in plans],
        "targets": [str(version) for plan in plans for version in plan.targets.values()],
        "waves": wave_sizes(options, plans),
        "functions": [
            {
                "function": step.function.arn,
                "name": step.function.name,
                "verdict": step.verdict.value,
                "old": step.old,
                "new": step.new,
                "reason": step.reason,
                "hints": step.hints,
                "alias": asdict(step.alias) if step.alias else None,
            }
            for plan in plans
            for step in plan.steps
        ],
    }


def plan_lines(options: Options, plans: Sequence[PlacePlan], width: int) -> Iterator[str]:
    """Return a plan as lines: for each region a table of changes, the other functions and hints; then a summary.

    Args:
        width: rows fit into so many columns, and there are few; 0 to list all functions with all layers.
    """
    max_rows = max(_MAX_ROWS // len(plans), _MIN_ROWS) if width else 0
    for plan in plans:
        yield from _place_lines(options, plan, width, max_rows)
        if len(plans) > 1:
            yield summary(plan.steps)
            yield ""
    waves = wave_sizes(options, plans)
    if len(waves) > 1:
        yield f"waves: {', '.join(map(str, waves))} functions"
    if options.shift and any(step.alias for plan in plans for step in plan.changes):
        yield f"the alias {options.alias} sends {', '.join(options.shift)}, then all requests to the new versions"
    where = f"; {scope_text([plan.place for plan in plans])}" if len(plans) > 1 else ""
    yield f"{summary([step for plan in plans for step in plan.steps])}{where}"


def _place_lines(options: Options, plan: PlacePlan, width: int, max_rows: int) -> Iterator[str]:
    """Yield the plan for one region of one account; `max_rows` is 0 for no limit."""
    place = plan.place
    removed = {layer_of(arn) for step in plan.steps for arn in step.old}
    versions = ", ".join(
        layer.name if options.is_detach else short(str(version), place)
        for layer, version in plan.targets.items()
        if not options.is_detach or layer in removed
    )
    verb = {ATTACH: "Attach", DETACH: "Detach"}.get(options.command, "Roll out")
    yield f"{verb} {versions or 'the layer'} in {place}"
    yield ""
    rows = [
        _Row(step.function.name, place, step.old, step.new, step.reason, _alias_cell(step)) for step in plan.changes
    ]
    if len(rows) > 1:
        yield from _counted(rows, plan.targets)
    if rows:
        yield from _table(rows[:max_rows] if max_rows else rows, width)
    if len(rows) > max_rows > 0:
        yield f"and {len(rows) - max_rows:,} more; --verbose lists all"
    yield from _unchanged(plan.steps, is_verbose=not width)
    yield from _hints(plan.changes)


def _counted(rows: Sequence[_Row], targets: Targets) -> Iterator[str]:
    """Yield how many functions get which change."""
    counts = Counter(_change(row, with_name=len(targets) > 1) for row in rows)
    yield ", ".join(f"{number:,} {output.TIMES} {change}" for change, number in counts.most_common())
    yield ""


def _change(row: _Row, with_name: bool) -> str:
    """Return the change of our layers in one row, such as `3→6`."""
    if row.old == row.new:
        return "alias only"
    before, after = _numbers(row.old), _numbers(row.new)
    return " and ".join(
        f"{f'{layer.name} ' if with_name else ''}{before.get(layer, 'none')}→{after.get(layer, 'none')}"
        for layer in dict.fromkeys((*before, *after))
        if before.get(layer) != after.get(layer)
    )


def _numbers(arns: Sequence[str]) -> dict[Layer, int]:
    versions = (LayerVersion.parse(arn) for arn in arns if layer_of(arn))
    return {version.layer: version.number for version in versions}


def _unchanged(steps: Sequence[Step], is_verbose: bool) -> Iterator[str]:
    """Yield the functions that are skipped or blocked, one line for each reason."""
    names = defaultdict(list)
    for step in steps:
        if step.verdict in (Verdict.SKIPPED, Verdict.BLOCKED):
            names[step.verdict, step.reason].append(step.function.name)
    for (verdict, reason), functions in names.items():
        limit = len(functions) if is_verbose else _NAMES_IN_A_HINT
        yield f"{verdict.value}: {output.shortened(functions, limit)}, {reason}"


def wave_sizes(options: Options, plans: Sequence[PlacePlan]) -> list[int]:
    """Return the number of functions in each wave."""
    places = [plan.place for plan in plans for _ in plan.changes]
    return [len(wave.items) for wave in divide_into_waves(options, places, lambda place: place)]


def _alias_cell(step: Step) -> str:
    alias = step.alias
    if alias is None:
        return ""
    return f"{alias.name}: version {alias.version}" + (f", {weights_text(alias.weights)}" if alias.weights else "")


@dataclass(frozen=True)
class _Row:
    """A row of a table of changes; `reason` takes the place of new layers that are the old ones."""

    name: str
    place: Place
    old: Sequence[str]
    new: Sequence[str]
    reason: str
    alias: str = ""


def _table(rows: Sequence[_Row], width: int = 0) -> Iterator[str]:
    """Yield a table of changes, with a column for aliases if there are any.

    Args:
        width: if a row with all layers is longer, show the changes alone; 0 for no limit.
    """
    full = _full_table(rows)
    if width and max(map(len, full.splitlines())) > width:
        names = [row.name if len(row.name) <= width // 2 else f"{row.name[: width // 2 - 1]}…" for row in rows]
        cells = [(name, _change_cell(row), row.alias) for name, row in zip(names, rows, strict=True)]
        columns = 3 if any(row.alias for row in rows) else 2
        table = output.table(("function", "change", "alias before")[:columns], [each[:columns] for each in cells])
        full = "\n".join(line if len(line) <= width else f"{line[: width - 1]}…" for line in table.splitlines())
    yield full
    yield ""


def _change_cell(row: _Row) -> str:
    return row.reason if row.old == row.new else _change(row, with_name=True)


def _full_table(rows: Sequence[_Row]) -> str:
    cells = [
        (
            row.name,
            _listed(row.old, row.place),
            "→",
            row.reason if row.new == row.old else _listed(row.new, row.place),
            row.alias,
        )
        for row in rows
    ]
    headers = ("function", "layers before", "", "layers after", "alias before")
    columns = len(headers) if any(row.alias for row in rows) else len(headers) - 1
    return output.table(headers[:columns], [row[:columns] for row in cells])


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


def results(history: History, journal: str, old_aliases: OldAliases | None = None) -> dict[str, Any]:
    """Return the outcome of each function as an object; `journal` is the name of the journal."""
    wave_of = waves_of(history)
    return {
        **(asdict(history.places[0].place) if len(history.places) == 1 else {}),
        "places": [{**asdict(each.place), "role": each.role or None} for each in history.places],
        "journal": journal,
        "outcome": history.outcome or "unfinished",
        "reason": history.stopped,
        "functions": [
            {
                "function": record.arn,
                "name": record.name,
                "old": record.old,
                "new": record.new,
                "outcome": outcome(history, record),
                "reason": record.reason,
                "wave": wave_of.get(record.arn),
                "alias": _alias_document(record),
            }
            for record in history.records.values()
        ],
        "oldAliases": [asdict(each) for each in old_aliases.found] if old_aliases and not old_aliases.problem else None,
    }


def waves_of(history: History) -> dict[str, int]:
    """Return the number of the wave of each function that was planned to change, from 1."""
    changes = [record for record in history.records.values() if record.verdict is Verdict.CHANGE]
    found = divide_into_waves(Options.of(history.options), changes, lambda record: record.place)
    return {record.arn: number for number, wave in enumerate(found, start=1) for record in wave.items}


def _alias_document(record: Record) -> dict[str, Any] | None:
    if record.alias is None:
        return None
    new = record.move.new if record.move and not record.move.is_restored else None
    return {**asdict(record.alias), "newVersion": new, "percent": record.percent}


_NOT_ROLLED_BACK = "not rolled back"
_STATES = {
    FunctionState.PLANNED: "not started",
    FunctionState.DONE: "done",
    FunctionState.UNCHANGED: "done by others",
    FunctionState.POSTPONED: "skipped",
    FunctionState.SKIPPED: "skipped",
    FunctionState.FAILED: "failed",
    FunctionState.ROLLED_BACK: "rolled back",
    FunctionState.LEFT_ALONE: "left alone",
}


def outcome(history: History, record: Record) -> str:
    """Return the outcome of one function, such as `done` or `failed and rolled back`."""
    if record.verdict is not Verdict.CHANGE:
        return _VERDICTS[record.verdict]
    # After `stop`, a function that is still changed is not "done": the rollback did not restore it, or not yet.
    is_changed = record.state in BACKWARDS or (history.stopped and record.changed_at is not None)
    words = _NOT_ROLLED_BACK if is_changed else _STATES.get(record.state, "unfinished")
    if record.is_postponed and record.state is not FunctionState.POSTPONED:
        return f"skipped and {words}"
    return f"failed and {words}" if record.has_failed and record.state is not FunctionState.FAILED else words


def result_lines(history: History, old_aliases: OldAliases | None = None) -> Iterator[str]:
    """Return the outcome as lines: failures with their reasons, then a summary."""
    for record in history.records.values():
        if record.has_failed or record.is_postponed or record.state is FunctionState.LEFT_ALONE:
            yield f"{outcome(history, record)}: {history.label(record)}, {record.reason}"
    if old_aliases:
        yield from _old_alias_lines(old_aliases)
    if history.stopped and history.stopped != ROLLBACK_REQUESTED:
        yield f"stopped: {history.stopped}"
    counts = Counter(outcome(history, record) for record in history.records.values())
    listed = ", ".join(f"{number} {'changed' if words == 'done' else words}" for words, number in counts.items())
    yield f"{output.count(len(history.records), 'function')}{listed and f': {listed}'}"


def _old_alias_lines(old_aliases: OldAliases) -> Iterator[str]:
    if old_aliases.problem:
        yield f"aliases that still run the old version are not known: {old_aliases.problem}"
        return
    found = [f"{each.alias} of {each.function} (version {each.version})" for each in old_aliases.found]
    number = f"{output.count(len(found), 'alias', 'aliases')} still run{'s' if len(found) == 1 else ''} the old version"
    if found:
        pronoun = "it" if len(found) == 1 else "them"
        yield f"{number}: {output.shortened(found, _NAMES_IN_A_HINT)}; move {pronoun} with --publish-alias"
    else:
        yield number


# --- Rollbacks --------------------------------------------------------------------------------------------------------


def rollback_lines(history: History, width: int, problems: Mapping[str, str] | None = None) -> Iterator[str]:
    """Return as lines, of `width` columns where that is possible, what a rollback would do.

    Args:
        problems: why functions would be left alone, by ARN.
    """
    problems = problems or {}
    if not history.changed:
        yield "nothing to roll back"
        return
    yield f"Roll back in {scope_text([each.place for each in history.places])}, newest change first"
    yield ""
    restored = [each for each in history.changed if each.arn not in problems]
    if restored:
        rows = [_Row(history.label(each), each.place, each.new, each.old, _alias_words(each)) for each in restored]
        if len(rows) > 1:
            yield from _counted(rows, {})
        yield from _table(rows[:_MAX_ROWS], width)
        if len(rows) > _MAX_ROWS:
            yield f"and {len(rows) - _MAX_ROWS:,} more; --dry-run --json lists all"
    aliases = Counter(each.move.alias for each in restored if each.move)
    for alias, number in aliases.items():
        yield f"the alias {alias} of {output.count(number, 'function')} is restored"
    for record in history.changed:
        if record.arn in problems:
            yield f"left alone: {history.label(record)}, {problems[record.arn]}"


def _alias_words(record: Record) -> str:
    return f"its alias {record.move.alias} is restored" if record.move else "unchanged"


def rollback_document(history: History, problems: Mapping[str, str]) -> dict[str, Any]:
    """Return as an object what a rollback would do; `problems` as for `rollback_lines`."""
    functions = [
        {
            "function": each.arn,
            "old": each.new,
            "new": each.old,
            "alias": each.move.alias if each.move else None,
            "leftAlone": problems.get(each.arn),
        }
        for each in history.changed
    ]
    return {"command": "rollback", "dryRun": True, "functions": functions}
