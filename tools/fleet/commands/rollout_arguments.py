"""The command line of `rollout` and `attach`, read into `Options`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from tools.common.cli import Parser, not_empty
from tools.common.event_argument import event_bytes
from tools.fleet.commands import arguments, journals
from tools.fleet.rollout.options import GATE_TIMEOUT, MIN_INVOCATIONS, Options
from tools.fleet.rollout.waves import parse_shift, parse_waves

MAX_ALARMS = 100
MAX_PARALLEL_REGIONS = 50
MAX_TIME = 7 * 24 * 3600  # seconds, of a pause or a command

Value = TypeVar("Value")

# --- Arguments --------------------------------------------------------------------------------------------------------


def add_arguments(parser: Parser, has_all_using: bool, has_target: bool = True) -> None:
    """Add all arguments of the command.

    Args:
        has_target: whether `--help` lists `--to`; without it, the option gets an error message of its own.
    """
    _add_selection(parser, has_all_using)
    _add_places(parser)
    _add_target(parser, has_target)
    _add_waves(parser)
    _add_gates(parser)
    _add_alias(parser)
    parser.add_argument(
        "--max-failures", metavar="N", type=arguments.number, default=0, help="tolerate N failures (default: 0)"
    )
    parser.add_argument(
        "--journal",
        metavar="FILE",
        type=journals.where,
        help="a file, or s3://BUCKET/PREFIX/ for all journals of a team (default: a new file in rollouts/)",
    )
    parser.add_argument(
        "--resume",
        metavar="FILE",
        nargs="?",
        const=False,  # the only unfinished roll-out
        type=journals.where,
        help="continue the roll-out of this journal",
    )
    journals.add_take_over(parser)
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument("--forward", action="store_true", help="with --resume: roll out the remaining functions")
    direction.add_argument("--back", action="store_true", help="with --resume: restore the functions that were changed")
    arguments.add_speed(parser)
    parser.add_argument("--verbose", action="store_true", help="print the plan with all functions and full lists")
    arguments.add_summary(parser)
    arguments.add_yes(parser)
    arguments.add_dry_run(parser)
    parser.set_defaults(all_using=False, origin=None, parser=parser)


def _add_selection(parser: Parser, has_all_using: bool) -> None:
    parser.add_argument(
        "functions",
        metavar="FUNCTION",
        nargs="*",
        action="extend",
        type=arguments.names,
        default=[],
        help="a name, an ARN, or @FILE with one of them in each line",
    )
    group = parser.add_mutually_exclusive_group()
    if has_all_using:
        group.add_argument("--all-using", action="store_true", help="select every function that has the layer")
        parser.add_argument(
            "--from",
            dest="origin",
            metavar="VERSION",
            help="select functions that have this version of the layer, in the forms of --to",
        )
    group.add_argument("--match", metavar="REGEX", type=arguments.regular_expression, help="select functions by name")
    parser.add_argument(
        "--tag",
        dest="tags",
        metavar="K=V",
        type=arguments.tag,
        action="append",
        default=[],
        help="select functions by tag; repeatable, and together with --match both must apply",
    )
    parser.add_argument(
        "--exclude",
        metavar="NAME",
        nargs="+",
        action="extend",
        type=arguments.names,
        default=[],
        help="functions that are not changed: names, ARNs, @FILE, or patterns such as 'test-*'",
    )
    parser.add_argument("--include-cloudformation", action="store_true", help="also change functions that a stack owns")


def _add_places(parser: Parser) -> None:
    arguments.add_regions(parser)
    arguments.add_roles(parser)
    parser.add_argument(
        "--parallel-regions",
        metavar="N",
        type=_checked(_parallel_regions),
        default=1,
        help="change functions in N regions at the same time (default: 1, one region after the other)",
    )


def _add_target(parser: Parser, has_target: bool) -> None:
    text = "the target: a number, an ARN, or a version of the project such as 1.2.3 (default: the manifest's)"
    parser.add_argument("--to", metavar="VERSION", help=text if has_target else argparse.SUPPRESS)
    parser.add_argument("--variant", metavar="NAME", help="the variant of the layer (default: slim; without --to, all)")
    parser.add_argument(
        "--layer-account", metavar="ACCOUNT", type=arguments.account, help="the account that shares the layer"
    )


def _add_waves(parser: Parser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--waves",
        metavar="W,…",
        type=_checked(parse_waves),
        help="change functions in waves, such as 1,10%%,50%%,100%%; all functions of the first must succeed",
    )
    group.add_argument("--canary", metavar="N", type=_checked(_canary), help="the same as --waves N,100%%")
    parser.add_argument(
        "--bake", metavar="TIME", type=_checked(_duration), help="wait after each wave, such as 90s, 10m or 1h30m"
    )
    parser.add_argument(
        "--probe",
        metavar="EVENT",
        type=event_bytes,
        help="invoke the functions of the first wave, or all, with this event: JSON, a file, or - for stdin",
    )


def _add_gates(parser: Parser) -> None:
    parser.add_argument(
        "--alarm",
        dest="alarms",
        metavar="NAME",
        type=not_empty,
        action="append",
        help="stop between waves if this CloudWatch alarm is in the state ALARM; repeatable",
    )
    parser.add_argument(
        "--gate",
        dest="gates",
        metavar="COMMAND",
        type=not_empty,
        action="append",
        help="stop between waves if this command fails; repeatable",
    )
    parser.add_argument(
        "--gate-timeout",
        metavar="TIME",
        type=_checked(_duration),
        help=f"of each --gate (default: {GATE_TIMEOUT // 60}m)",
    )
    parser.add_argument(
        "--max-error-rate",
        metavar="PERCENT",
        type=_checked(_percentage),
        help="stop between waves if more invocations of the changed functions failed",
    )
    parser.add_argument(
        "--min-invocations",
        metavar="N",
        type=arguments.number,
        help=f"do not check the error rate of fewer invocations (default: {MIN_INVOCATIONS})",
    )


def _add_alias(parser: Parser) -> None:
    parser.add_argument(
        "--publish-alias",
        dest="alias",
        metavar="ALIAS",
        type=_checked(_alias),
        help="publish a version of each function, and point this alias to it",
    )
    parser.add_argument(
        "--shift",
        metavar="P,…",
        type=_checked(parse_shift),
        help="move the alias in steps, such as 10%%,50%%, with the pause and the gates of waves after each",
    )
    parser.add_argument(
        "--where-present", action="store_true", help="functions without the alias get the layer version alone"
    )
    parser.add_argument(
        "--include-unreleased", action="store_true", help="release other changes in $LATEST together with the layer"
    )
    parser.add_argument(
        "--include-weighted", action="store_true", help="also move aliases that have weights, which are removed"
    )


# --- Options ----------------------------------------------------------------------------------------------------------


def options_of(namespace: argparse.Namespace) -> Options:
    """Return the options; wrong combinations end the process with status 2."""
    regions, functions = _regions_and_functions(namespace)
    options = Options(
        command=namespace.command.name,
        functions=functions,
        all_using=namespace.all_using,
        match=namespace.match or "",
        tags=tuple(namespace.tags),
        exclude=_flat(namespace.exclude),
        origin=namespace.origin,
        regions=regions,
        all_regions=namespace.all_regions,
        roles=arguments.chosen_roles(namespace, namespace.parser),
        parallel_regions=namespace.parallel_regions,
        variant=namespace.variant,
        layer_account=namespace.layer_account,
        to=namespace.to,
        canary=namespace.canary or 0,
        waves=namespace.waves or (),
        bake=namespace.bake or 0,
        alarms=tuple(dict.fromkeys(namespace.alarms or ())),
        gates=tuple(namespace.gates or ()),
        gate_timeout=GATE_TIMEOUT if namespace.gate_timeout is None else namespace.gate_timeout,
        max_error_rate=namespace.max_error_rate,
        min_invocations=MIN_INVOCATIONS if namespace.min_invocations is None else namespace.min_invocations,
        probe=None if namespace.probe is None else namespace.probe.decode("utf-8", "surrogateescape"),
        alias=namespace.alias,
        include_unreleased=namespace.include_unreleased,
        include_weighted=namespace.include_weighted,
        where_present=namespace.where_present,
        shift=namespace.shift or (),
        max_failures=namespace.max_failures,
        include_cloudformation=namespace.include_cloudformation,
        yes=namespace.yes,
    )
    problem = _problem(namespace, options)
    if problem:
        namespace.parser.error(problem)
    return options


def _problem(namespace: argparse.Namespace, options: Options) -> str:
    """Return why the arguments contradict each other; empty if they do not."""
    if options.is_detach and options.to:
        return "detach has no target: omit --to"
    if options.functions and (options.all_using or options.match or options.tags):
        return "name functions, or select them by an option; not both"
    if options.all_using and options.tags:
        return "--all-using selects every function with the layer: omit it, and --tag selects some"
    if options.origin is not None and not options.origin.strip():
        return "--from is empty: use a version number, an ARN, or a version of the project such as 1.2.3"
    for name in ("shift", "where_present", "include_unreleased", "include_weighted"):
        if getattr(options, name) and not options.alias:
            return f"--{name.replace('_', '-')} is about an alias: add --publish-alias ALIAS"
    is_resumed = namespace.resume is not None  # the journal has the rest
    has_stages = options.wave_ends or options.shift or options.has_many_places
    if not is_resumed and (options.bake or options.has_gates) and not has_stages:
        return "the pause and the gates come between waves: add --waves, --canary or --shift"
    if options.parallel_regions > 1 and not is_resumed and not options.has_many_places:
        return "--parallel-regions is for several regions or accounts: add --region, --all-regions or --assume-role"
    if not is_resumed and namespace.gate_timeout is not None and not options.gates:
        return "--gate-timeout is for a command: add --gate COMMAND"
    if not is_resumed and namespace.min_invocations is not None and options.max_error_rate is None:
        return "--min-invocations is for the error rate: add --max-error-rate PERCENT"
    if len(options.alarms) > MAX_ALARMS:
        return f"there are {len(options.alarms)} alarms, and {MAX_ALARMS} are allowed"
    return ""


def _regions_and_functions(namespace: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the regions and the functions of `--region A B FUNCTION`: argparse takes all of them for regions."""
    words: list[str] = namespace.regions
    regions = [word for number, word in enumerate(words) if number == 0 or _REGION.fullmatch(word)]
    try:
        more = [arguments.names(word) for word in words if word not in regions]
    except argparse.ArgumentTypeError as error:
        namespace.parser.error(str(error))
    return tuple(regions), _flat([*namespace.functions, *more])


def _flat(words: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(name for each in words for name in each)


# --- Values -----------------------------------------------------------------------------------------------------------

_DURATION = re.compile(r"(?:([0-9]{1,3})h)?(?:([0-9]{1,4})m)?(?:([0-9]{1,6})s?)?")
_REGION = re.compile(r"[a-z]+(-[a-z]+)+-[0-9]{1,2}")
_ALIAS = re.compile(r"(?!^[0-9]+$)[a-zA-Z0-9-_]{1,128}")  # AWS Lambda API Reference, API_CreateAlias


def _checked(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """Return `read` for `type=`: the reason of a `ValueError` becomes a part of the message."""

    def check(text: str) -> Value:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


def _duration(text: str) -> int:
    """Return a time such as 90s, 10m or 1h30m in seconds."""
    match = _DURATION.fullmatch(text)
    hours, minutes, seconds = (int(each or 0) for each in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if not text or not 0 < total <= MAX_TIME:
        raise ValueError(f"{text!r} is not a time from 1s to {MAX_TIME // 3600}h, such as 90s, 10m or 1h30m")
    return total


def _percentage(text: str) -> float:
    """Return a percentage, with or without its sign."""
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?%?", text) or float(text.rstrip("%")) > 100:
        raise ValueError(f"{text!r} is not a percentage from 0 to 100, such as 1 or 0.5")
    return float(text.rstrip("%"))


def _canary(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) == 0:
        raise ValueError(f"{text!r} is not a number of functions from 1")
    return int(text)


def _parallel_regions(text: str) -> int:
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PARALLEL_REGIONS:
        raise ValueError(f"{text!r} is not a number of regions from 1 to {MAX_PARALLEL_REGIONS}")
    return int(text)


def _alias(text: str) -> str:
    if not _ALIAS.fullmatch(text):
        raise ValueError(f"{text!r} is not the name of an alias, such as live")
    return text
