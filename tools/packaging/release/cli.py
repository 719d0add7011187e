"""The command lines of `./build.sh release`, `verify-build`, `arn` and `layers-page`."""

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tools.common import cli
from tools.common.cli import Parser
from tools.common.errors import ToolError
from tools.common.lambda_facts import LIMITS, Limits
from tools.common.output import Output
from tools.common.paths import ROOT, shown, write_atomically
from tools.packaging import manifest as manifests
from tools.packaging.builds import Sources
from tools.packaging.manifest import Manifest
from tools.packaging.release import provenance, published, rebuild, release
from tools.packaging.release.readiness import NotReady

_PROGRAM = "./build.sh"
_EXIT_STATUS = "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."

Command = Callable[[argparse.Namespace, Path, Limits], int]


def main(arguments: Sequence[str], root: Path = ROOT, limits: Limits = LIMITS) -> int:
    """Run one command and return its exit status; every failure is one line on stderr.

    Args:
        root: the checkout.
        limits: those of AWS Lambda.
    """
    output = Output("--json" in arguments)  # before the arguments are read, because they can be wrong
    parser = _parser(root, output)
    parser.on_error = partial(output.error, next(iter(arguments), ""))  # arguments that no command recognizes
    options = parser.parse_args(arguments)
    command: Command = options.command
    return cli.run(_PROGRAM, lambda: command(options, root, limits))


def _parser(root: Path, output: Output) -> Parser:
    """Return the parser of all commands. Wrong usage goes to `output`, too."""
    parser = Parser(prog=_PROGRAM, add_help=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add_command(
        name: str, command: Command, description: str, status: str = _EXIT_STATUS
    ) -> argparse.ArgumentParser:
        program = f"{_PROGRAM} {name}"
        each: Parser = commands.add_parser(name, prog=program, description=description, epilog=status)
        each.set_defaults(command=command, parser_of_command=each)
        each.on_error = partial(output.error, name)
        return each

    _add_release(add_command, root)
    _add_verify_build(add_command)
    arn = add_command("arn", _arn, "Print the ARN of the published layer version of each variant in one region.")
    arn.add_argument("--region", metavar="R", required=True, type=cli.not_empty, help="such as eu-central-1")
    arn.add_argument("--variant", metavar="NAME", help="print the ARN of this variant alone, such as slim")
    arn.add_argument("--account", metavar="ID", help="the account that has published them, if there are several")
    arn.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    add_command("layers-page", _layers_page, f"Write {published.PAGE} from layer-manifest.json.")
    return parser


def _add_release(add_command: Callable[..., argparse.ArgumentParser], root: Path) -> None:
    text = (
        "Build every zip of a version, with an SBOM of each in SPDX 2.3 and CycloneDX 1.6, the provenance, the release "
        "notes and SHA256SUMS. The checkout must be a commit without changes, CHANGELOG.md must have a dated section "
        "for the version, and every supported Python and pinned archive must be available."
    )
    each = add_command("release", _release, text)
    each.add_argument("version", metavar="VERSION", type=_version, help="that of layer-manifest.json, such as 1.2.3")
    each.add_argument("-n", "--dry-run", action="store_true", help="check and build everything, and write nothing")
    each.add_argument(
        "-o", "--output", metavar="DIR", type=_folder, default=root / "dist", help="write to DIR (default: dist/)"
    )


def _add_verify_build(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    text = (
        "Build a zip of a release again, from the commit and the inputs in its provenance, and compare the two zips "
        "file by file."
    )
    status = "Exit status: 0 equal, 1 different, or failed, 2 wrong usage, 130 interrupted."
    each = add_command("verify-build", _verify_build, text, status)
    each.add_argument("zip", metavar="ZIP", type=Path, help="the zip of a release, under its own name")
    default = f"{provenance.FILE_NAME} beside the zip"
    each.add_argument("--provenance", metavar="FILE", type=Path, help=f"the provenance (default: {default})")


def _version(text: str) -> str:
    if not manifests.is_version(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version, such as 1.2.3")
    return text


def _folder(text: str) -> Path:
    if not text:  # it would mean the working folder, and come from an unset variable
        raise argparse.ArgumentTypeError("the name of a folder is empty")
    return Path(os.path.realpath(text))


def _manifest(root: Path) -> Manifest:
    return manifests.load(root / manifests.FILE_NAME)


# --- The commands -----------------------------------------------------------------------------------------------------


def _release(options: argparse.Namespace, root: Path, limits: Limits) -> int:
    sources = Sources(root, _manifest(root), options.output, limits)
    try:
        lines = release.release(sources, options.version, options.dry_run)
    except NotReady as error:
        if len(error.problems) > 1:
            for problem in error.problems:
                Output().note(problem)
        raise
    print("\n".join(lines))
    return cli.DONE


def _verify_build(options: argparse.Namespace, root: Path, limits: Limits) -> int:
    path = options.zip
    statement = options.provenance or path.with_name(provenance.FILE_NAME)
    lines, is_equal = rebuild.verify_build(root, _manifest(root), path, statement)
    print("\n".join(lines))
    return cli.DONE if is_equal else cli.FAILED


def _arn(options: argparse.Namespace, root: Path, limits: Limits) -> int:
    output = Output(options.json)
    try:
        entries = published.arns(_manifest(root), options.region, options.variant, options.account)
    except ToolError as error:
        output.error("arn", str(error))
        raise
    output.result(
        lambda: {"command": "arn", "arns": {entry.variant: entry.arn for entry in entries}},
        lambda: [entry.arn if options.variant else f"{entry.variant}  {entry.arn}" for entry in entries],
    )
    return cli.DONE


def _layers_page(options: argparse.Namespace, root: Path, limits: Limits) -> int:
    path = root / published.PAGE
    write_atomically(path, published.page(_manifest(root)))
    print(f"wrote {shown(path)}")
    return cli.DONE
