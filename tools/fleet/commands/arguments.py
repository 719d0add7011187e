"""Arguments that several commands share, and the types of arguments."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta
from pathlib import Path

from tools.common.cli import Parser, not_empty
from tools.common.errors import UsageError
from tools.fleet.aws.arns import Role, is_account
from tools.fleet.aws.pace import DEFAULT_RATE, MAX_RATE
from tools.fleet.aws.session import MAX_WORKERS, WORKERS
from tools.fleet.commands.interface import Context


def add_dry_run(parser: Parser) -> None:
    parser.add_argument("-n", "--dry-run", action="store_true", help="show what would be done, and change nothing")


def add_yes(parser: Parser, text: str = "do not ask") -> None:
    parser.add_argument("-y", "--yes", action="store_true", help=text)


def add_region(parser: Parser) -> None:
    parser.add_argument("--region", metavar="R", type=not_empty, help="default: the region of boto3")


def regions_of(namespace: argparse.Namespace) -> list[str]:
    """Return the value of `add_region` as a list."""
    return [namespace.region] if namespace.region else []


def add_regions(parser: Parser) -> None:
    """Add `--region` for several regions, and `--all-regions`."""
    group = parser.add_mutually_exclusive_group()
    add_region_list(group)
    group.add_argument("--all-regions", action="store_true", help="all regions that the account has enabled")


def add_roles(parser: Parser) -> None:
    """Add `--assume-role`."""
    parser.add_argument(
        "--assume-role",
        dest="roles",
        metavar="ARN",
        nargs="+",
        action="extend",
        type=roles,
        default=[],
        help="use these roles, one for each account, or @FILE with one of them in each line",
    )


def chosen_roles(namespace: argparse.Namespace, parser: Parser) -> tuple[str, ...]:
    """Return the value of `add_roles`; two roles of one account end the process with status 2."""
    arns: list[str] = [arn for each in namespace.roles for arn in each]
    role_of: dict[str, str] = {}
    for role in map(Role.parse, arns):
        other = role_of.setdefault(role.account, role.arn)
        if arns.count(role.arn) > 1:
            parser.error(f"--assume-role: {role.arn} is given twice")
        if other != role.arn:
            parser.error(f"--assume-role: {other} and {role.arn} are both in the account {role.account}: use one")
    return tuple(arns)


def add_region_list(parser: argparse._ActionsContainer, default: str = "the region of boto3") -> None:
    """Add `--region` for several regions."""
    text = f"default: {default}"
    parser.add_argument(
        "--region", dest="regions", metavar="R", nargs="+", action="extend", type=not_empty, default=[], help=text
    )


def add_variants(parser: Parser, default: str) -> None:
    """Add `--variant` for several variants."""
    text = f"default: {default}"
    parser.add_argument("--variant", dest="variants", metavar="NAME", nargs="+", action="extend", default=[], help=text)


def add_speed(parser: Parser) -> None:
    """Add `--rate` and `--workers`."""
    parser.add_argument(
        "--rate",
        metavar="N",
        type=rate,
        help=f"calls per second, besides GetFunction; Lambda accepts {MAX_RATE:g} of all callers "
        f"(default: {DEFAULT_RATE:g})",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=workers,
        help=f"threads that call AWS (default: {WORKERS}, at most {MAX_WORKERS})",
    )


def set_speed(context: Context, namespace: argparse.Namespace) -> None:
    """Use the values of `add_speed`."""
    context.rate = namespace.rate
    context.workers = namespace.workers or context.workers


def rate(text: str) -> float:
    """Return a number of calls per second, for `type=`."""
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or not 0.1 <= float(text) <= MAX_RATE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of calls per second from 0.1 to {MAX_RATE:g}")
    return float(text)


def workers(text: str) -> int:
    """Return a number of threads, for `type=`."""
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads from 1 to {MAX_WORKERS}")
    return int(text)


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


def names(text: str) -> list[str]:
    """Return a name, or those in the lines of `@FILE` without comments, for `type=`."""
    if not text.startswith("@"):
        return [text]
    path = Path(text[1:])
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"{path} is not a text file in UTF-8") from None
    found = [name for line in lines if (name := line.partition("#")[0].strip())]
    if not found:
        raise argparse.ArgumentTypeError(f"{path} contains no names")
    return found


def roles(text: str) -> list[str]:
    """Return the ARN of a role, or those in the lines of `@FILE`, for `type=`."""
    arns = names(text)
    try:
        return [Role.parse(arn).arn for arn in arns]
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_AGE = re.compile(r"([0-9]{1,5})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def age(text: str) -> timedelta:
    """Return a time such as 1d, 12h or 0, for `type=`."""
    match = _AGE.fullmatch(text)
    if not match and text != "0":
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 1d, 12h, 30m or 0")
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()


def prefix(text: str) -> str:
    """Return a prefix without outer slashes (AWS Systems Manager API Reference, PutParameter, Name), for `type=`."""
    name = text.strip("/")
    if not re.fullmatch(r"[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+)*", name) or re.match(r"(?i)aws|ssm", name):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be the prefix of a parameter: use letters, digits and /")
    return name


def add_summary(parser: Parser) -> None:
    parser.add_argument(
        "--summary", metavar="FILE", type=Path, help="append a summary in Markdown, such as $GITHUB_STEP_SUMMARY"
    )
