"""Where the journal of a command is: a local file, or a folder in a bucket.

A bucket is read and written with the caller's own credentials, whatever role a roll-out uses for functions.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tools.common.cli import Parser
from tools.common.errors import ToolError, UsageError
from tools.common.paths import shown
from tools.fleet.aws.objects import SCHEME, Address
from tools.fleet.commands.interface import Context
from tools.fleet.rollout.bucket_storage import BucketLocation, find_journal, journals_below, new_address
from tools.fleet.rollout.journal import journal_folder, journals_in, read
from tools.fleet.rollout.storage import FileLocation, Location

Where = Path | Address


def where(text: str) -> Where:
    """Return the path of a file, or the address of a folder in a bucket, for `type=`."""
    if not text:
        raise argparse.ArgumentTypeError("the name of the journal is empty")
    if not text.startswith(SCHEME):
        return Path(text)
    try:
        return Address.parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_take_over(parser: Parser) -> None:
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="replace the lock of a process that no longer exists; for journals in a bucket",
    )


def new(context: Context, place: Where | None, regions: Sequence[str]) -> Location:
    """Return where a new journal will be.

    Args:
        place: a file, or the folder of all journals in a bucket; None for a new file in `rollouts/`.
        regions: of the command line, if any; the first one is that of a bucket.
    """
    if place is None:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.jsonl"
        place = journal_folder(context.root) / name
    return _location(context, new_address(place) if isinstance(place, Address) else place, regions)


def existing(context: Context, place: Where | None, regions: Sequence[str]) -> Location:
    """Return a journal; of a folder of journals, the only unfinished one. None is the folder `rollouts/`.

    Raises:
        ToolError: not exactly one is unfinished.
    """
    if place is None:
        place = _unfinished(journal_folder(context.root))
    if isinstance(place, Address):
        place = find_journal(context.aws, _bucket_region(context, regions), place)
    return _location(context, place, regions)


def check_exists(context: Context, place: Where | None) -> None:
    """Raise `ToolError` if `existing` would find no journal on this machine."""
    if not isinstance(place, Address):
        existing(context, place, ()).read()


def all_in(context: Context, folder: Address) -> list[Location]:
    """Return the journals in a folder of a bucket; raises `ToolError` if there is none."""
    region = _bucket_region(context, ())
    return [_location(context, each, (region,)) for each in journals_below(context.aws, region, folder)]


def _location(context: Context, place: Where, regions: Sequence[str]) -> Location:
    if isinstance(place, Path):
        return FileLocation(place, context.environment.disk)
    region = _bucket_region(context, regions)
    return BucketLocation(context.aws, region, place, context.take_over, context.output.note)


def _bucket_region(context: Context, regions: Sequence[str]) -> str:
    """Return a region for the client of S3, which follows a bucket to another one by itself."""
    return context.aws.region(regions[0] if regions else None)


def _unfinished(folder: Path) -> Path:
    found = [path for path in journals_in(folder) if not read(path).outcome]
    if not found:
        raise ToolError(f"no roll-out in {shown(folder)} can be resumed: name the journal with --resume FILE")
    if len(found) > 1:
        listed = ", ".join(shown(path) for path in found)
        raise ToolError(f"{len(found)} roll-outs can be resumed ({listed}): name the journal with --resume FILE")
    return found[0]
