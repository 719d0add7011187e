"""The command `rollback`: restores what a roll-out changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.common.cli import Parser
from tools.fleet.commands import arguments
from tools.fleet.commands.interface import Command, Context
from tools.fleet.commands.undo import COMMAND_NAME, roll_back


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("journal", metavar="JOURNAL", type=Path, help="the file that the roll-out wrote, in rollouts/")
    arguments.add_region(parser)
    arguments.add_yes(parser)
    arguments.add_dry_run(parser)


def _run(namespace: argparse.Namespace, context: Context) -> int:
    return roll_back(context, namespace.journal, namespace.region, namespace.yes, namespace.dry_run)


COMMAND = Command(
    COMMAND_NAME,
    "Restore what a roll-out changed, newest change first. Functions that somebody else has changed since are left "
    "alone.",
    _add_arguments,
    _run,
)
