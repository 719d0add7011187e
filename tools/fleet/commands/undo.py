"""Rolls back the roll-out of a journal: the work of `rollback`, and of `--resume --back`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tools.common.errors import ToolError
from tools.common.output import count
from tools.fleet.aws.arns import LayerVersion
from tools.fleet.aws.errors import Interruption, NotFound
from tools.fleet.commands.interface import Context
from tools.fleet.commands.scope import open_planned, planned_targets
from tools.fleet.rollout import rendering
from tools.fleet.rollout.events import Event, FunctionState
from tools.fleet.rollout.history import ROLLBACK_REQUESTED, ROLLED_BACK, History, PlannedPlace, Record
from tools.fleet.rollout.journal import Journal, read_from, torn_note
from tools.fleet.rollout.places import Places
from tools.fleet.rollout.progress import Progress
from tools.fleet.rollout.rollback import ChangedByOthers, Rollback, restoration
from tools.fleet.rollout.steps import Steps
from tools.fleet.rollout.storage import Location

COMMAND_NAME = "rollback"


def roll_back(
    context: Context, location: Location, regions: Sequence[str] = (), yes: bool = False, dry_run: bool = False
) -> int:
    """Roll back the roll-out of a journal. Returns the exit status: 1 if a function remains changed."""
    if dry_run:
        history = read_from(location)
        problems = _problems(context, history, regions)
        document = rendering.rollback_document(history, problems)
        width = shutil.get_terminal_size().columns
        context.output.result(lambda: document, lambda: rendering.rollback_lines(history, width, problems))
        return 0
    journal = Journal.resume(location)
    if journal.history.torn:
        context.output.note(torn_note(journal.history, journal.name))
    try:
        return _roll_back(context, journal, regions, yes)
    finally:
        journal.close()


def _problems(context: Context, history: History, regions: Sequence[str]) -> dict[str, str]:
    """Read the changed functions, and return why some would be left alone, by ARN."""
    if not history.changed:
        return {}
    places = _open(context, history, regions)

    def problem_of(record: Record) -> str:
        try:
            restoration(record, places.functions(record).get(record.name))
        except (ChangedByOthers, NotFound) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(context.workers) as pool:
        found = pool.map(problem_of, history.changed)
        return {record.arn: problem for record, problem in zip(history.changed, found, strict=True) if problem}


def _roll_back(context: Context, journal: Journal, regions: Sequence[str], yes: bool) -> int:
    history, output = journal.history, context.output
    output.outlives_reader = True
    if not history.changed:
        output.result(
            lambda: {"command": COMMAND_NAME, **rendering.results(history, journal.name)},
            lambda: [f"{journal.name}: nothing to roll back"],
        )
        return 0
    places = _open(context, history, regions)
    journal.lock([each.place.layer(name) for each in history.places for name in _layer_names(each)])
    output.show(rendering.rollback_lines(history, shutil.get_terminal_size().columns))
    if not yes and not output.confirm(f"Roll back {count(len(history.changed), 'function')}?"):
        raise ToolError("nothing was changed")
    if not history.stopped:
        journal.write(Event.STOP, reason=ROLLBACK_REQUESTED)
    steps = Steps(places, journal)
    progress = Progress(len(history.changed), output, clock=context.environment.pace.clock)
    ending, command = context.environment.ending, f"./build.sh rollback {journal.name}"
    try:
        with ending.orderly(command):
            if Rollback(steps, progress, context.workers, ending).run():
                journal.write(Event.END, outcome=ROLLED_BACK)
    except Interruption as error:
        raise ToolError(f"{error}; {_state(history)}; continue with {command}") from None
    except KeyboardInterrupt:
        output.note(f"interrupted; {_state(history)}; continue with {command}")
        raise
    output.result(
        lambda: {"command": COMMAND_NAME, **rendering.results(history, journal.name)},
        lambda: rendering.result_lines(history),
    )
    is_left = any(record.state is FunctionState.LEFT_ALONE for record in history.records.values())
    return 1 if history.changed or is_left else 0


def _layer_names(planned: PlannedPlace) -> list[str]:
    return sorted({LayerVersion.parse(arn).layer.name for arn in planned.targets.values()})


def _state(history: History) -> str:
    return f"{count(len(history.changed), 'function')} not restored yet"


def _open(context: Context, history: History, regions: Sequence[str]) -> Places:
    accounts = open_planned(context, history, regions)
    return Places({each.place: each.functions for each in accounts}, planned_targets(history))
