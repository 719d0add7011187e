"""The command line of the commands of `build.sh` that build; the header comment of `build.sh` is the help text."""

import argparse
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.common import cli
from tools.common.lambda_facts import ARCHITECTURES, GLIBC, LIMITS, Limits
from tools.common.output import count
from tools.common.paths import ROOT, shown
from tools.packaging import builds, manifest
from tools.packaging.builds import Build
from tools.packaging.zips import archive, output

_PROGRAM = "./build.sh"
_MAX_LISTED = 40  # lines of one zip in the report
_LISTED_DEPTH = 3  # levels of folders that are listed apart in a zip with more files
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def main(arguments: Sequence[str], root: Path = ROOT, limits: Limits = LIMITS) -> int:
    """Run one command and return its exit status; every failure is one line on stderr.

    Args:
        root: the checkout that is built.
        limits: those of AWS Lambda.
    """

    def command() -> int:
        options = _parse(arguments, root)
        print("\n".join(_run(options, root, limits)))
        return cli.DONE  # also if the reader of the report has gone: the files are written

    return cli.run(_PROGRAM, command)


def _parse(arguments: Sequence[str], root: Path) -> argparse.Namespace:
    common = cli.Parser(_PROGRAM, add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("-n", "--dry-run", action="store_true")
    common.add_argument("-o", "--output", metavar="DIR", type=_folder)
    common.add_argument("--bytecode", metavar="LIST", type=_version_list(root))
    parser = cli.Parser(_PROGRAM, add_help=False, parents=[common])
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")

    def add_command(name: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, prog=_PROGRAM, add_help=False, parents=[common])

    add_command("function").add_argument("function", metavar="FOLDER", type=_folder)
    add_command("pin").add_argument("--versions", metavar="FILE", type=Path)
    layer = add_command("layer")
    layer.add_argument("--python", metavar="VERSION", required=True, type=_version(root))
    layer.add_argument("--arch", required=True, choices=ARCHITECTURES)
    layer.add_argument("--interpreter", metavar="FILE|DIR|URL", type=cli.not_empty)
    layer.add_argument("--sha256", metavar="HASH", type=_hash)
    layer.add_argument("--target", choices=tuple(GLIBC), default=next(iter(GLIBC)))
    # Not in add_argument: the defaults of a sub-command would replace options that are given before its name.
    defaults = argparse.Namespace(output=_folder(f"{root}/dist"), dry_run=False, bytecode=None)
    options = parser.parse_args(arguments, defaults)
    if options.command and options.bytecode is not None:
        parser.error("--bytecode is for the slim layer; other zips contain none, or that of one Python")
    if options.command == "layer" and options.sha256 and not options.interpreter:
        parser.error("--sha256 goes with --interpreter; layer-manifest.json contains the hashes of the others")
    return options


def _folder(text: str) -> Path:
    if not text:  # it would mean the working folder, and come from an unset variable
        raise argparse.ArgumentTypeError("the name of a folder is empty")
    return Path(os.path.realpath(text))


def _version_list(root: Path) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        supported = _manifest(root).python_versions
        requested = [] if text == "none" else text.split(",")
        for version in requested:
            if version not in supported:
                raise argparse.ArgumentTypeError(f"{version!r} is unknown, use none or some of {','.join(supported)}")
        return tuple(version for version in supported if version in requested)

    return parse


def _version(root: Path) -> Callable[[str], str]:
    def parse(text: str) -> str:
        supported = _manifest(root).python_versions
        if text not in supported:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown, use one of {', '.join(supported)}")
        return text

    return parse


def _hash(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise argparse.ArgumentTypeError("a sha256 is 64 of the characters 0-9 a-f")
    return text.lower()


def _manifest(root: Path) -> manifest.Manifest:
    return manifest.load(root / manifest.FILE_NAME)


def _run(options: argparse.Namespace, root: Path, limits: Limits) -> list[str]:
    if options.version:
        return [_manifest(root).title]
    if options.command == "pin":
        from tools.packaging.interpreter import pins  # see `builds`

        return pins.refresh(root / manifest.FILE_NAME, options.versions, options.dry_run)
    folder: Path = options.output
    build = _build(options, root, limits)
    report = list(_report(folder, build, "would write " if options.dry_run else "", limits))
    if not options.dry_run:
        output.write(folder, build.zips, build.record)
    return report


def _build(options: argparse.Namespace, root: Path, limits: Limits) -> Build:
    if options.command == "function":
        return builds.function_zip(options.function, options.output, limits)
    sources = builds.Sources(root, _manifest(root), options.output, limits)
    if options.command == "layer":
        from tools.packaging.self_contained import SelfContained, self_contained_layer  # see `builds`

        layer = SelfContained(options.python, options.arch, options.target, options.interpreter, options.sha256)
        return self_contained_layer(sources, layer)
    return builds.slim_layer_and_sample(sources, options.bytecode)


# --- The report -------------------------------------------------------------------------------------------------------


def _report(folder: Path, build: Build, verb: str, limits: Limits) -> Iterator[str]:
    """Yield the lines of the report; the zips are read back for it, so an invalid one is never written."""
    for name, data in build.zips.items():
        yield f"{verb}{shown(folder / name)}  {len(data):,} bytes"
        yield f"  sha256 {hashlib.sha256(data).hexdigest()}"
        yield from _listing(archive.unpack(name, data, limits))
        yield ""
    if build.remarks:
        yield from (*build.remarks, "")
    number = output.checksums(folder, build.zips).count(b"\n")
    yield f"{verb}{shown(folder / output.SUMS_NAME)}  {count(number, 'zip')}"
    if build.record:
        yield f"{verb}{shown(folder / output.INTERPRETERS_NAME)}"


def _listing(entries: list[archive.Entry]) -> Iterator[str]:
    lines = [f"  {entry.mode:04o} {len(entry.data):>11,}  {entry.path}" for entry in entries]
    if len(lines) > _MAX_LISTED:
        lines = list(_folded_listing(entries))
    yield from lines[:_MAX_LISTED]
    if len(lines) > _MAX_LISTED:
        yield f"  and {len(lines) - _MAX_LISTED:,} more"


def _folded_listing(entries: list[archive.Entry]) -> Iterator[str]:
    """Yield one line for each file, but one line for all bytecode of a folder and for all files of a deep folder."""
    for place, files in itertools.groupby(entries, _listed_place):
        together = list(files)
        size = sum(len(entry.data) for entry in together)
        if len(together) == 1:
            yield f"  {together[0].mode:04o} {size:>11,}  {together[0].path}"
        else:
            yield f"       {size:>11,}  {place}/ ({count(len(together), 'file')})"


def _listed_place(entry: archive.Entry) -> str:
    parts = entry.path.split("/")
    depth = parts.index("__pycache__") + 1 if "__pycache__" in parts else len(parts)
    return "/".join(parts[: min(depth, _LISTED_DEPTH)])
