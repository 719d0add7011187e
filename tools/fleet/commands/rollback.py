"""The command `rollback`: restores what a roll-out changed."""

from __future__ import annotations

import argparse

from tools.common.cli import Parser
from tools.fleet.aws.objects import Address
from tools.fleet.commands import arguments, journals
from tools.fleet.commands.interface import Command, Context
from tools.fleet.commands.undo import COMMAND_NAME, roll_back


def _add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "journal", metavar="JOURNAL", type=journals.where, help="what the roll-out wrote: a file, or s3://…"
    )
    journals.add_take_over(parser)
    arguments.add_region(parser)
    arguments.add_yes(parser)
    arguments.add_dry_run(parser)
    arguments.add_speed(parser)
    parser.set_defaults(parser=parser)


def _check(namespace: argparse.Namespace, context: Context) -> None:
    if namespace.take_over and not isinstance(namespace.journal, Address):
        namespace.parser.error("--take-over is for a journal in a bucket, s3://BUCKET/PREFIX/…/")
    journals.check_exists(context, namespace.journal)


def _run(namespace: argparse.Namespace, context: Context) -> int:
    context.take_over = namespace.take_over
    arguments.set_speed(context, namespace)
    regions = arguments.regions_of(namespace)
    location = journals.existing(context, namespace.journal, regions)
    return roll_back(context, location, regions, namespace.yes, namespace.dry_run)


COMMAND = Command(
    COMMAND_NAME,
    "Restore what a roll-out changed, newest change first. Functions that somebody else has changed since are left "
    "alone.",
    _add_arguments,
    _run,
    check=_check,
)
