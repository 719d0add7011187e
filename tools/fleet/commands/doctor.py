"""The command `doctor`: finds what keeps a zip or a function from streaming, with the command that fixes it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.common.archives import InvalidZip
from tools.common.cli import Parser
from tools.common.errors import ToolError, UsageError
from tools.common.lambda_facts import ARCHITECTURES, MANAGED_PYTHON, OS_ONLY
from tools.common.output import Output, count, escaped
from tools.common.paths import shown
from tools.fleet.aws.account import Account, find_accesses
from tools.fleet.aws.arns import function_name
from tools.fleet.aws.errors import NotFound
from tools.fleet.checks.deployed_function import DeployedFunction
from tools.fleet.checks.finding import Finding
from tools.fleet.checks.zip_file import FunctionSettings, check_function, check_layer, read_zip
from tools.fleet.commands import arguments
from tools.fleet.commands.interface import EXIT_STATUS_OF_CHECKS, Command, Context


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("target", metavar="ZIP|FUNCTION", help="a zip file, or the name or ARN of a function")
    arguments.add_region(parser)
    zips = parser.add_argument_group("for a zip", "settings of the function that will use it")
    zips.add_argument("--architecture", choices=ARCHITECTURES)
    zips.add_argument("--handler", metavar="NAME", help="such as lambda_function.handler")
    zips.add_argument("--runtime", metavar="NAME", type=_runtime, help="such as python3.13")


def _runtime(text: str) -> str:
    if not re.fullmatch(rf"{re.escape(MANAGED_PYTHON)}[0-9]{{1,2}}|{OS_ONLY}(\.[a-z0-9]+)?", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no runtime for Python: use one such as python3.13, provided.al2023"
        )
    return text


def _run(namespace: argparse.Namespace, context: Context) -> int:
    if _is_zip(namespace.target):
        path = Path(namespace.target)
        settings = FunctionSettings(namespace.architecture, namespace.handler, namespace.runtime)
        name, findings = shown(path), list(_zip_findings(path, settings))
    else:
        for option in ("architecture", "handler", "runtime"):
            if getattr(namespace, option):
                raise UsageError(
                    f"--{option} is for a zip; {namespace.target} is the name of a function, which has one"
                )
        name, findings = _function_findings(context, namespace.target, namespace.region)
    _print(context.output, name, findings)
    return 1 if findings else 0


COMMAND = Command(
    "doctor",
    "Find what keeps a layer's zip, a function's zip, or a deployed function from streaming.",
    _add_arguments,
    _run,
    EXIT_STATUS_OF_CHECKS,
    lambda namespace: not _is_zip(namespace.target),
)


def _is_zip(target: str) -> bool:
    return target.endswith(".zip") or "/" in target or Path(target).is_file()


def _zip_findings(path: Path, settings: FunctionSettings) -> Iterator[Finding]:
    if path.is_dir():
        raise ToolError(f"{shown(path)} is a folder: check its zip, which ./build.sh function {shown(path)} builds")
    try:
        contents = read_zip(shown(path), path)
    except InvalidZip as error:
        yield Finding(str(error), "AWS Lambda rejects it", "./build.sh, or zip it again")
        return
    if contents.is_layer and settings.handler is None:  # a function's zip can contain the runtime
        yield from check_layer(contents, settings.architecture)
    else:
        yield from check_function(contents, settings)


def _function_findings(context: Context, target: str, region: str | None) -> tuple[str, list[Finding]]:
    (access,) = find_accesses(context.aws, [region] if region else [], all_regions=False)
    account = Account.open(access)
    name = function_name(target, account.place)
    try:
        function = account.functions.get(name)
    except NotFound:
        raise ToolError(
            f"the function {name} does not exist in {account.place.region}: check the name and the region"
        ) from None
    return name, list(DeployedFunction(account, context.manifest, function).findings())


def _print(output: Output, name: str, findings: Sequence[Finding]) -> None:
    def lines() -> Iterator[str]:
        for each in findings:  # the names in a zip can contain control characters
            what, why, fix = map(escaped, (each.what, each.why, each.fix))
            yield f"{what}\n  why: {why}\n  fix: {fix}\n"
        yield f"{name}: {count(len(findings), 'finding')}" if findings else f"{name}: nothing found"

    content = [{"what": each.what, "why": each.why, "fix": each.fix} for each in findings]
    output.result(lambda: {"command": COMMAND.name, "target": name, "findings": content}, lines)
