"""Arguments that several commands share, and the types of arguments."""

from __future__ import annotations

import argparse
import re

from tools.common.cli import Parser
from tools.fleet.aws.arns import is_account


def add_dry_run(parser: Parser) -> None:
    parser.add_argument("-n", "--dry-run", action="store_true", help="show what would be done, and change nothing")


def add_yes(parser: Parser, text: str = "do not ask") -> None:
    parser.add_argument("-y", "--yes", action="store_true", help=text)


def add_region(parser: Parser) -> None:
    parser.add_argument("--region", metavar="R", help="default: the region of boto3")


def add_regions(parser: Parser) -> None:
    """Add `--region` for several regions, and `--all-regions`."""
    group = parser.add_mutually_exclusive_group()
    add_region_list(group)
    group.add_argument("--all-regions", action="store_true", help="all regions that the account has enabled")


def add_region_list(parser: argparse._ActionsContainer, default: str = "the region of boto3") -> None:
    """Add `--region` for several regions."""
    text = f"default: {default}"
    parser.add_argument("--region", dest="regions", metavar="R", nargs="+", action="extend", default=[], help=text)


def add_variants(parser: Parser, default: str) -> None:
    """Add `--variant` for several variants."""
    text = f"default: {default}"
    parser.add_argument("--variant", dest="variants", metavar="NAME", nargs="+", action="extend", default=[], help=text)


def account(text: str) -> str:
    """Return an account ID, for `type=`."""
    if not is_account(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an account ID, which has 12 digits")
    return text


def number(text: str) -> int:
    """Return a number that is not negative, for `type=`."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def regular_expression(text: str) -> str:
    """Return a regular expression, for `type=`."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    if not text:
        raise argparse.ArgumentTypeError("an empty expression would match every function")
    return text


def tag(text: str) -> str:
    """Return a tag, for `type=`."""
    key, equals, _ = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not a tag, such as team=search")
    return text
