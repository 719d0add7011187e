"""The command line of what `build.sh` does with AWS."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tools.common.errors import ToolError
from tools.common.event_argument import event_bytes
from tools.common.lambda_facts import ARCHITECTURES
from tools.common.paths import ROOT
from tools.fleet import UsageError
from tools.fleet.aws.session import Aws, AwsError, in_words
from tools.fleet.commands import doctor, prune, publish, report, rollout, verify
from tools.fleet.rollout.options import Request
from tools.packaging import manifest
from tools.packaging.manifest import GRANTEE, PUBLIC, Manifest

FAILED, USAGE, INTERRUPTED = 1, 2, 130

_EXIT = "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."
_FOUND = "Exit status: 0 nothing found, 1 something found, or failed, 2 wrong usage, 130 interrupted."


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"build.sh: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit status; every failure is one line on stderr."""
    options = _parse(arguments)
    run: Callable[[argparse.Namespace, Aws, Manifest], int] = options.run
    try:
        return run(options, Aws(), manifest.load(ROOT / manifest.FILE_NAME))
    except BrokenPipeError:  # whoever reads the output has had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        return FAILED
    except UsageError as error:
        return _fail(str(error), USAGE)
    except (ToolError, OSError) as error:
        return _fail(str(error), FAILED)
    except AwsError as error:
        return _fail(in_words(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _fail(message: str, status: int) -> int:
    print("build.sh: error:", *message.splitlines(), file=sys.stderr)
    return status


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="./build.sh", add_help=False, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_publish, _verify, _doctor, _rollout, _attach, _rollback, _report, _prune):
        add(commands)
    return parser.parse_args(arguments)


def _command(commands: argparse._SubParsersAction[Parser], name: str, text: str, epilog: str = _EXIT) -> Parser:
    parser = commands.add_parser(
        name,
        prog=f"./build.sh {name}",
        description=text,
        epilog=f"{epilog} Credentials, profile, region and endpoint are found as boto3 finds them.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on the standard output, for programs")
    return parser


def _add_dry_run(parser: Parser) -> None:
    parser.add_argument("-n", "--dry-run", action="store_true", help="show what would be done, write nothing, nowhere")


def _add_yes(parser: Parser, what: str = "do it without asking") -> None:
    parser.add_argument("-y", "--yes", action="store_true", help=what)


def _add_regions(parser: Parser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--region",
        dest="regions",
        metavar="R",
        nargs="+",
        action="extend",
        default=[],
        help="regions (default: boto3's)",
    )
    group.add_argument("--all-regions", action="store_true", help="all regions that the account has switched on")


def _add_region(parser: Parser) -> None:
    parser.add_argument("--region", metavar="R", help="default: boto3's")


def _add_variants(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--variant", dest="variants", metavar="NAME", nargs="+", action="extend", default=[], help=f"default: {default}"
    )


def _publish(commands: argparse._SubParsersAction[Parser]) -> None:
    text = (
        "Publish the built layer. A version with the same bytes is taken as it is; a region that failed is taken up by "
        "the next run. What is published where goes into layer-manifest.json."
    )
    parser = _command(commands, "publish", text)
    _add_regions(parser)
    sharing = parser.add_mutually_exclusive_group()
    sharing.add_argument(
        "--share", metavar="ACCOUNT", nargs="+", action="extend", default=[], type=_account, help="let accounts use it"
    )
    sharing.add_argument("--organization", metavar="O", type=_organization, help="let all accounts of it use it")
    sharing.add_argument("--public", action="store_true", help="let everybody use it")
    _add_variants(parser, "slim")
    parser.add_argument("--ssm", metavar="PREFIX", type=_prefix, help="write /PREFIX/VARIANT/VERSION and …/latest")
    parser.add_argument(
        "--bucket", metavar="B", help="for zips above 50 MB, in the region; {region} in it stands for the region's name"
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=ROOT / "dist", help="where the zips are")
    _add_dry_run(parser)
    parser.set_defaults(run=_run_publish)


def _run_publish(options: argparse.Namespace, aws: Aws, identity: Manifest) -> int:
    grantees = (*options.share, *filter(None, [options.organization]), *([PUBLIC] if options.public else []))
    order = publish.Order(
        tuple(options.regions),
        options.all_regions,
        tuple(options.variants),
        grantees,
        options.ssm,
        options.bucket,
        options.output,
        options.dry_run,
        options.json,
    )
    return publish.publish(aws, identity, order)


def _verify(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Hold what is published against layer-manifest.json, to the byte."
    parser = _command(commands, "verify", text, _FOUND)
    parser.add_argument("--region", dest="regions", metavar="R", nargs="+", action="extend", default=[])
    _add_variants(parser, "all")
    parser.set_defaults(
        run=lambda options, aws, identity: verify.verify(aws, identity, options.regions, options.variants, options.json)
    )


def _doctor(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Look for what keeps a layer's zip, a function's zip, or a deployed function from streaming."
    parser = _command(commands, "doctor", text, _FOUND)
    parser.add_argument("target", metavar="ZIP|FUNCTION")
    _add_region(parser)
    parser.add_argument("--architecture", choices=ARCHITECTURES, help="of the function that a zip is for")
    parser.add_argument("--handler", metavar="NAME", help="of the function that a zip is for, as in module.function")
    parser.add_argument("--runtime", metavar="NAME", help="of the function that a zip is for, as in python3.13")
    parser.set_defaults(run=_run_doctor)


def _run_doctor(options: argparse.Namespace, aws: Aws, identity: Manifest) -> int:
    if doctor.is_zip(options.target):
        given = doctor.Given(options.architecture, options.handler, options.runtime)
        return doctor.examine_zip(Path(options.target), given, options.json)
    return doctor.examine_function(aws, identity, options.target, options.region, options.json)


def _add_choice(parser: Parser, with_all_using: bool) -> None:
    parser.add_argument("functions", metavar="FUNCTION", nargs="*", help="names or ARNs")
    group = parser.add_mutually_exclusive_group()
    if with_all_using:
        group.add_argument("--all-using", action="store_true", help="every function that has the layer")
    group.add_argument("--match", metavar="REGEX", type=_regex, help="functions whose names it is found in")
    group.add_argument("--tag", dest="tags", metavar="K=V", type=_tag, action="append", default=[], help="repeatable")


def _rollout(commands: argparse._SubParsersAction[Parser]) -> None:
    text = (
        "Give functions that have the layer another version of it. All other layers stay, and so does the order. "
        "At the first failure beyond --max-failures, what was changed is put back, the newest first."
    )
    _add_rolling(_command(commands, "rollout", text), "rollout", with_all_using=True)


def _attach(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Give functions the layer that do not have it, as the last of their layers. Else it is as `rollout`."
    _add_rolling(_command(commands, "attach", text), "attach", with_all_using=False)


def _add_rolling(parser: Parser, command: str, with_all_using: bool) -> None:
    _add_choice(parser, with_all_using)
    _add_region(parser)
    parser.add_argument("--to", metavar="VERSION", help="a number, an ARN, or as in 1.2.3 (default: what is published)")
    parser.add_argument("--variant", metavar="NAME", help="of the layer (default: slim; without --to every one)")
    parser.add_argument("--layer-account", metavar="ACCOUNT", type=_account, help="that shares the layer with this one")
    parser.add_argument("--canary", metavar="N", type=_number, default=0, help="so many go first, and must succeed")
    parser.add_argument(
        "--probe",
        metavar="EVENT",
        type=event_bytes,
        help="invoke the canaries (or all) with JSON, a file, or - for stdin",
    )
    parser.add_argument(
        "--publish-alias", dest="alias", metavar="ALIAS", help="publish versions, point the alias there"
    )
    parser.add_argument("--max-failures", metavar="N", type=_number, default=0, help="go on up to so many (default: 0)")
    parser.add_argument("--include-cloudformation", action="store_true", help="change functions that a stack owns, too")
    parser.add_argument("--journal", metavar="FILE", type=Path, help="default: a new one in rollouts/")
    parser.add_argument("--resume", metavar="FILE", nargs="?", const="", help="go on with the roll-out of the journal")
    _add_yes(parser)
    _add_dry_run(parser)
    parser.set_defaults(run=_run_rolling, command=command, all_using=False, parser=parser)


def _run_rolling(options: argparse.Namespace, aws: Aws, identity: Manifest) -> int:
    journal: Path | None = options.journal
    if options.resume and journal:  # the word after --resume was not meant for it
        options.functions.insert(0, options.resume)
    elif options.resume:
        journal = Path(options.resume)
    request = _request(options)
    parser: Parser = options.parser
    if request.functions and (request.all_using or request.match or request.tags):
        parser.error("name functions, or let them be found; not both")
    if request.variant not in (None, *(variant.name for variant in identity.variants)):
        parser.error(f"there is no variant {request.variant}, there are {_variants(identity)}")
    if options.resume is not None:
        return rollout.resume(aws, identity, request, journal, options.dry_run, options.json)
    if not request.selects:
        ways = (
            "FUNCTION …, --all-using, --match or --tag"
            if options.command == "rollout"
            else "FUNCTION …, --match or --tag"
        )
        parser.error(f"say which functions: {ways}")
    return rollout.roll_out(aws, identity, request, journal, options.dry_run, options.json)


def _request(options: argparse.Namespace) -> Request:
    return Request(
        command=options.command,
        functions=tuple(options.functions),
        all_using=options.all_using,
        match=options.match or "",
        tags=tuple(options.tags),
        region=options.region,
        variant=options.variant,
        layer_account=options.layer_account,
        to=options.to,
        canary=options.canary,
        probe=None if options.probe is None else options.probe.decode("utf-8", "surrogateescape"),
        alias=options.alias,
        max_failures=options.max_failures,
        include_cloudformation=options.include_cloudformation,
        yes=options.yes,
    )


def _rollback(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Put back what a roll-out changed, the newest change first, wherever nobody else has changed it since."
    parser = _command(commands, "rollback", text)
    parser.add_argument("journal", metavar="JOURNAL", type=Path)
    _add_region(parser)
    _add_yes(parser)
    _add_dry_run(parser)
    parser.set_defaults(
        run=lambda options, aws, _: rollout.roll_back(
            aws, options.journal, options.region, options.yes, options.dry_run, options.json
        )
    )


def _report(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Tell which function, version and alias has which version of the layer, and what is wrong with that."
    parser = _command(commands, "report", text)
    _add_regions(parser)
    parser.set_defaults(
        run=lambda options, aws, identity: report.report(
            aws, identity, options.regions, options.all_regions, options.json
        )
    )


def _prune(commands: argparse._SubParsersAction[Parser]) -> None:
    text = (
        "Delete old versions of the layer that no function, published version, alias, manifest or journal names. "
        "Without --yes it only tells which."
    )
    parser = _command(commands, "prune", text)
    parser.add_argument("--keep", metavar="N", type=_number, required=True, help="the newest N stay in any case")
    _add_regions(parser)
    _add_variants(parser, "all")
    parser.add_argument(
        "--journal",
        metavar="FILE",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="besides those in rollouts/",
    )
    _add_yes(parser, "delete them")
    _add_dry_run(parser)
    parser.set_defaults(run=_run_prune)


def _run_prune(options: argparse.Namespace, aws: Aws, identity: Manifest) -> int:
    order = prune.Order(
        options.keep,
        tuple(options.regions),
        options.all_regions,
        tuple(options.variants),
        tuple(options.journal),
        delete=options.yes and not options.dry_run,
        as_json=options.json,
    )
    return prune.prune(aws, identity, order)


def _variants(identity: Manifest) -> str:
    return ", ".join(variant.name for variant in identity.variants)


def _account(text: str) -> str:
    if not re.fullmatch(r"[0-9]{12}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of an account, which has 12 digits")
    return text


def _organization(text: str) -> str:
    if not text.startswith("o-") or not GRANTEE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of an organization, as o-a1b2c3d4e5 is")
    return text


def _prefix(text: str) -> str:
    name = text.strip("/")
    if not re.fullmatch(r"[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+)*", name) or re.match(r"(?i)aws|ssm", name):
        raise argparse.ArgumentTypeError(f"{text!r} cannot begin the name of a parameter: use letters, digits and /")
    return name


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    if not text:
        raise argparse.ArgumentTypeError("an empty expression would match every function")
    return text


def _tag(text: str) -> str:
    key, equals, _ = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not a tag, as in team=search")
    return text


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
