"""The command line behind ``build.sh``, whose header comment is its help text."""

import argparse
import hashlib
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from tools.common.errors import ToolError
from tools.common.lambda_facts import ARCHITECTURES
from tools.common.paths import ROOT, shown
from tools.packaging import builds, manifest
from tools.packaging.builds import Build
from tools.packaging.interpreter import pins
from tools.packaging.interpreter.compatibility import GLIBC
from tools.packaging.zips import archive
from tools.packaging.zips import output as dist

_MAX_LISTED = 40
_LISTED_DEPTH = 3  # levels of folders that are told apart where there are more files
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the help text is that of ``build.sh``."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"build.sh: error: {message} (see ./build.sh --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status; every failure is one line on stderr."""
    try:
        options = _parse(arguments)
        print("\n".join(_run(options)), flush=True)
    except BrokenPipeError:  # whoever reads the report has had enough of it; the files are in place
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
    except (ToolError, OSError) as error:
        print("build.sh: error:", *str(error).splitlines(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("-n", "--dry-run", action="store_true")
    common.add_argument("-o", "--output", metavar="DIR", type=_folder)
    common.add_argument("--bytecode", metavar="LIST", type=_versions)
    parser = _Parser(add_help=False, allow_abbrev=False, parents=[common])
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    function = commands.add_parser("function", add_help=False, allow_abbrev=False, parents=[common])
    function.add_argument("function", metavar="FOLDER", type=_folder)
    layer = commands.add_parser("layer", add_help=False, allow_abbrev=False, parents=[common])
    layer.add_argument("--python", metavar="VERSION", required=True, type=_version)
    layer.add_argument("--arch", required=True, choices=ARCHITECTURES)
    layer.add_argument("--interpreter", metavar="FILE|DIR|URL")
    layer.add_argument("--sha256", metavar="HASH", type=_hash)
    layer.add_argument("--target", choices=tuple(GLIBC), default=next(iter(GLIBC)))
    commands.add_parser("pin", add_help=False, allow_abbrev=False, parents=[common]).add_argument(
        "--versions", metavar="FILE", type=Path
    )
    # Here and not in add_argument, where the sub-command's defaults would undo options given before it.
    defaults = argparse.Namespace(function=None, output=_folder(f"{ROOT}/dist"), dry_run=False, bytecode=None)
    options = parser.parse_args(arguments, defaults)
    if options.command and options.bytecode is not None:
        parser.error("--bytecode goes with building the slim layer; other zips have none, or that of one Python")
    if options.command == "layer" and options.sha256 and not options.interpreter:
        parser.error("--sha256 goes with --interpreter; the others have theirs in layer-manifest.json")
    return options


def _folder(text: str) -> Path:
    if not text:  # it would mean the working folder, and come from an unset variable
        raise argparse.ArgumentTypeError("the name of a folder is empty")
    return Path(os.path.realpath(text))


def _versions(text: str) -> tuple[str, ...]:
    supported = _manifest().python_versions
    asked = [] if text == "none" else text.split(",")
    for version in asked:
        if version not in supported:
            raise argparse.ArgumentTypeError(f"{version!r} is unknown, give none or some of {','.join(supported)}")
    return tuple(version for version in supported if version in asked)


def _version(text: str) -> str:
    supported = _manifest().python_versions
    if text not in supported:
        raise argparse.ArgumentTypeError(f"{text!r} is unknown, give one of {', '.join(supported)}")
    return text


def _hash(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise argparse.ArgumentTypeError("a sha256 has 64 of the characters 0-9 a-f")
    return text.lower()


def _manifest() -> manifest.Manifest:
    return manifest.load(ROOT / manifest.FILE_NAME)


def _run(options: argparse.Namespace) -> list[str]:
    if options.command == "pin":
        return pins.refresh(ROOT / manifest.FILE_NAME, options.versions, options.dry_run)
    output: Path = options.output
    if options.command == "function":
        build = builds.function_zip(options.function, output)
    elif options.command == "layer":
        origin = builds.Origin(options.interpreter, options.sha256)
        build = builds.self_contained_layer(
            ROOT, _manifest(), options.python, options.arch, origin, options.target, output
        )
    else:
        build = builds.slim_layer_and_sample(ROOT, _manifest(), options.bytecode, output)
    report = list(_report(output, build, "would write " if options.dry_run else ""))
    if not options.dry_run:
        dist.write(output, build.zips, build.record)
    return report


def _report(output: Path, build: Build, verb: str) -> Iterator[str]:
    # From the zips as read back, which refuses an unsound one before any is written.
    for name, data in build.zips.items():
        yield f"{verb}{shown(output / name)}  {len(data):,} bytes"
        yield f"  sha256 {hashlib.sha256(data).hexdigest()}"
        yield from _listing(archive.unpack(name, data))
        yield ""
    if build.remarks:
        yield from (*build.remarks, "")
    count = dist.checksums(output, build.zips).count(b"\n")
    yield f"{verb}{shown(output / dist.SUMS_NAME)}  {count} zip{'s' if count > 1 else ''}"
    if build.record:
        yield f"{verb}{shown(output / dist.INTERPRETERS_NAME)}"


def _listing(entries: list[archive.Entry]) -> Iterator[str]:
    lines = [f"  {entry.mode:04o} {len(entry.data):>11,}  {entry.path}" for entry in entries]
    if len(lines) > _MAX_LISTED:
        lines = list(_folded_listing(entries))
    yield from lines[:_MAX_LISTED]
    if len(lines) > _MAX_LISTED:
        yield f"  and {len(lines) - _MAX_LISTED:,} more"


def _folded_listing(entries: list[archive.Entry]) -> Iterator[str]:
    """One line for all that lies in one folder, where that is some levels down."""
    for place, files in itertools.groupby(entries, lambda entry: "/".join(entry.path.split("/")[:_LISTED_DEPTH])):
        together = list(files)
        size = sum(len(entry.data) for entry in together)
        if together[0].path == place:
            yield f"  {together[0].mode:04o} {size:>11,}  {place}"
        else:
            yield f"       {size:>11,}  {place}/ ({len(together):,} file{'s' if len(together) > 1 else ''})"
