"""The command `status`: how far the roll-out of a journal came. It reads the journal alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from tools.common.cli import Parser
from tools.common.output import count
from tools.fleet.commands import arguments, journals
from tools.fleet.commands.interface import Command, Context
from tools.fleet.commands.summary import append_results
from tools.fleet.rollout import rendering
from tools.fleet.rollout.history import DONE, ROLLED_BACK, History
from tools.fleet.rollout.journal import read_from, torn_note


def _add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "journal", metavar="JOURNAL", type=journals.where, help="what the roll-out wrote: a file, or s3://…"
    )
    arguments.add_region(parser)
    arguments.add_summary(parser)


def _run(namespace: argparse.Namespace, context: Context) -> int:
    location = journals.existing(context, namespace.journal, arguments.regions_of(namespace))
    return status(context, read_from(location), location.name, namespace.summary)


COMMAND = Command(
    "status",
    "Show how far the roll-out of a journal came, and the command that continues it.",
    _add_arguments,
    _run,
    "Exit status: 0 shown, 1 the journal cannot be read, 2 wrong usage, 130 interrupted.",
    lambda namespace: not isinstance(namespace.journal, Path),
)


def status(context: Context, history: History, name: str, summary: Path | None = None) -> int:
    """Show the state of a roll-out. Returns the exit status."""
    if history.torn:
        context.output.note(torn_note(history, name))
    context.output.result(
        lambda: {"command": COMMAND.name, **rendering.results(history, name), "next": next_commands(history, name)},
        lambda: _lines(history, name),
    )
    if summary:
        append_results(summary, history)
    return 0


def _lines(history: History, name: str) -> Iterator[str]:
    places = rendering.scope_text([each.place for each in history.places])
    command = history.options.get("command", "rollout")
    yield f"{name}: {command}{f' in {places}' if places else ''}, {history.outcome or 'unfinished'}"
    for each in history.places:
        where = f" in {each.place}" if len(history.places) > 1 else ""
        for layer, version in each.targets.items():
            yield f"target: {layer}:{version.rpartition(':')[2]}{where}"
    if not history.outcome and history.is_accepted:
        total = count(len(history.records), "function")
        yield f"{history.with_new_version:,} of {total} have the new version, {len(history.pending):,} are not complete"
    yield from rendering.result_lines(history)
    yield from (f"next: {each}" for each in next_commands(history, name))


def next_commands(history: History, name: str) -> list[str]:
    """Return the commands that continue or undo the roll-out."""
    command = f"./build.sh {history.options.get('command', 'rollout')} --resume {name}"
    if not history.outcome and not history.is_accepted:
        return [command]
    if not history.outcome:
        return [command] if history.stopped else [f"{command} --forward", f"{command} --back"]
    found = [command] if history.outcome == DONE and history.postponed else []
    undo = history.outcome != ROLLED_BACK and history.changed
    return [*found, f"./build.sh rollback {name}"] if undo else found
