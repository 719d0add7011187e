"""The command line: options, and what is printed."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tools.common.cli import DONE, Parser, run, status_without
from tools.common.output import count
from tools.common.paths import ROOT
from tools.mutation.changes import changes_of

if TYPE_CHECKING:
    from tools.mutation.session import Outcome, Session

PROGRAM = "./build.sh mutate"
MINUTES = 10.0
EPILOG = """\
MODULE is a file of the layer without .py, such as http1, runtime or __init__. Prints each change that no test notices
(a survivor) as soon as that is known. docs/testing.md explains the survivors of the start modules.

Exit status: 0 done, whatever survived; 1 an error, 2 wrong usage, 130 interrupted.
"""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    options = _parse(arguments)
    return run(PROGRAM, lambda: _run(options))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog=PROGRAM,
        description="Change one module of the layer, one small change at a time, and find those that no test notices.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("module", metavar="MODULE")
    parser.add_argument("--lines", type=_lines, metavar="A-B", help="change only these lines")
    help_text = f"end after this time; changes that are left are counted (default: {MINUTES:g})"
    parser.add_argument("--minutes", type=_minutes, default=MINUTES, metavar="N", help=help_text)
    parser.add_argument("-n", "--dry-run", action="store_true", help="list the changes, and run no test")
    return parser.parse_args(arguments)


def _lines(text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of lines, such as 10-20")
    return range(int(first), int(last or first) + 1)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0
    if not 0 < minutes < 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return minutes


def _run(options: argparse.Namespace) -> int:
    if (status := status_without("pytest")) is not None:
        return status
    start = time.monotonic()
    from tools.mutation.session import Session

    def progress(text: str) -> None:
        print(f"{time.monotonic() - start:.0f} s: {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        deadline = start + 60 * options.minutes
        slots = 3 * (os.cpu_count() or 1)  # tests mostly wait, those of changes that stop everything above all
        session = Session(options.module, Path(name), deadline, slots, _show, progress)
        changes = changes_of(session.source)
        if options.lines is not None:
            changes = [each for each in changes if each.line in options.lines]
        if options.dry_run:
            for change in changes:
                _show(f"{session.path.relative_to(ROOT)}:{change.line}: {change.describe(session.source)}")
            return DONE
        progress(f"{count(len(changes), 'change')} of {session.path.relative_to(ROOT)}")
        outcomes = session.run(changes)
    for outcome in outcomes:
        if not outcome.reached_by:  # the other survivors are shown already
            _show(session.describe(outcome))
    _show(_summary(session, outcomes, time.monotonic() - start))
    return DONE


def _summary(session: "Session", outcomes: "list[Outcome]", seconds: float) -> str:
    noticed = sum(each.noticed for each in outcomes)
    survived = sum(each.survived for each in outcomes)
    left = len(outcomes) - noticed - survived
    text = f"{session.path.name}: {noticed} of {count(len(outcomes), 'change')} noticed, {survived} survived"
    return f"{text}, {f'{left} left' if left else 'all tested'} ({seconds:.0f} s)"


def _show(text: str) -> None:
    print(text, flush=True)
