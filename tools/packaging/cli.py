"""The command line behind ``build.sh``, whose header comment is its help text."""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tools.packaging import PackagingError, archive, dist, function, layer, manifest
from tools.packaging.sources import shown

ROOT = Path(__file__).resolve().parents[2]

_MAX_LISTED = 40


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the help text is that of ``build.sh``."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"build.sh: error: {message} (see ./build.sh --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status; every failure is one line on stderr."""
    try:
        options = _parse(arguments)
        print("\n".join(_run(options.function, options.output, options.dry_run)), flush=True)
    except BrokenPipeError:  # whoever reads the report has had enough of it; the files are in place
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
    except (PackagingError, OSError) as error:
        print("build.sh: error:", *str(error).splitlines(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("-n", "--dry-run", action="store_true")
    common.add_argument("-o", "--output", metavar="DIR", type=_folder)
    parser = _Parser(add_help=False, allow_abbrev=False, parents=[common])
    commands = parser.add_subparsers(metavar="COMMAND")
    command = commands.add_parser("function", add_help=False, allow_abbrev=False, parents=[common])
    command.add_argument("function", metavar="FOLDER", type=_folder)
    # Here and not in add_argument, where the sub-command's defaults would undo options given before it.
    defaults = argparse.Namespace(function=None, output=_folder(f"{ROOT}/dist"), dry_run=False)
    return parser.parse_args(arguments, defaults)


def _folder(text: str) -> Path:
    if not text:  # it would mean the working folder, and come from an unset variable
        raise argparse.ArgumentTypeError("the name of a folder is empty")
    return Path(os.path.realpath(text))


def _run(folder: Path | None, output: Path, dry_run: bool) -> list[str]:
    contents = _all(output) if folder is None else _one_function(folder, output)
    zips = {name: archive.pack(entries) for name, entries in contents.items()}
    report = list(_report(output, zips, "would write " if dry_run else ""))
    if not dry_run:
        dist.write(output, zips)
    return report


def _all(output: Path) -> dict[str, list[archive.Entry]]:
    layer_folder = ROOT / "layer"
    function.refuse_overlap(layer_folder, output)
    identity = manifest.load(ROOT / manifest.FILE_NAME)
    sample = _one_function(ROOT / "function", output)
    return {layer.ZIP_NAME: layer.layer_entries(layer_folder, identity), **sample}


def _one_function(folder: Path, output: Path) -> dict[str, list[archive.Entry]]:
    function.refuse_overlap(folder, output)
    return {function.zip_name(folder): function.function_entries(folder)}


def _report(output: Path, zips: Mapping[str, bytes], verb: str) -> Iterator[str]:
    # From the zips as read back, which refuses an unsound one before any is written.
    for name, data in zips.items():
        yield f"{verb}{shown(output / name)}  {len(data):,} bytes"
        yield f"  sha256 {hashlib.sha256(data).hexdigest()}"
        yield from _listing(archive.unpack(name, data))
        yield ""
    count = dist.checksums(output, zips).count(b"\n")
    yield f"{verb}{shown(output / dist.SUMS_NAME)}  {count} zip{'s' if count > 1 else ''}"


def _listing(entries: list[archive.Entry]) -> Iterator[str]:
    for entry in entries[:_MAX_LISTED]:
        yield f"  {entry.mode:04o} {len(entry.data):>11,}  {entry.path}"
    if len(entries) > _MAX_LISTED:
        yield f"  and {len(entries) - _MAX_LISTED:,} more files"
