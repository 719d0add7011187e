"""The command line behind ``build.sh``, whose header comment is its help text."""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tools.packaging import PackagingError, archive, bytecode, dist, function, layer, manifest
from tools.packaging.bytecode import Bytecode
from tools.packaging.interpreters import NotFoundError
from tools.packaging.sources import shown

ROOT = Path(__file__).resolve().parents[2]

_MAX_LISTED = 40


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the help text is that of ``build.sh``."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"build.sh: error: {message} (see ./build.sh --help)\n")


@dataclass(frozen=True)
class _Build:
    """What goes into the output folder, and what the report says besides."""

    zips: dict[str, bytes]
    notes: dict[str, bytes] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status; every failure is one line on stderr."""
    try:
        options = _parse(arguments)
        print("\n".join(_run(options)), flush=True)
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
    common.add_argument("--bytecode", metavar="LIST", type=_versions)
    parser = _Parser(add_help=False, allow_abbrev=False, parents=[common])
    commands = parser.add_subparsers(metavar="COMMAND")
    command = commands.add_parser("function", add_help=False, allow_abbrev=False, parents=[common])
    command.add_argument("function", metavar="FOLDER", type=_folder)
    # Here and not in add_argument, where the sub-command's defaults would undo options given before it.
    defaults = argparse.Namespace(function=None, output=_folder(f"{ROOT}/dist"), dry_run=False, bytecode=None)
    options = parser.parse_args(arguments, defaults)
    if options.function and options.bytecode is not None:
        parser.error("--bytecode goes with building the layer, a function has none")
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


def _manifest() -> manifest.Manifest:
    return manifest.load(ROOT / manifest.FILE_NAME)


def _run(options: argparse.Namespace) -> list[str]:
    output: Path = options.output
    if options.function:
        build = _Build(_one_function(options.function, output))
    else:
        build = _layer_and_sample(output, options.bytecode)
    report = list(_report(output, build, "would write " if options.dry_run else ""))
    if not options.dry_run:
        dist.write(output, build.zips, build.notes)
    return report


def _layer_and_sample(output: Path, versions: tuple[str, ...] | None) -> _Build:
    folder, identity = ROOT / "layer", _manifest()
    function.refuse_overlap(folder, output)
    sample = _one_function(ROOT / "function", output)
    entries = layer.layer_entries(folder, identity)
    made, missing = _bytecode(entries, identity.python_versions if versions is None else versions)
    if missing and versions is not None:
        raise PackagingError(f"{missing[0]}: install it, or leave it out of --bytecode")
    zipped = archive.pack([*entries, *(each.entry for each in made)])
    note = {dist.INTERPRETERS_NAME: bytecode.record(layer.ZIP_NAME, made)}
    return _Build({layer.ZIP_NAME: zipped, **sample}, note, list(_remarks(made, missing)))


def _bytecode(entries: list[archive.Entry], versions: tuple[str, ...]) -> tuple[list[Bytecode], list[NotFoundError]]:
    source = next(entry.data for entry in entries if entry.path == "runtime.py")
    results = bytecode.make(source, versions)
    made = [result for result in results if isinstance(result, Bytecode)]
    return made, [result for result in results if isinstance(result, NotFoundError)]


def _one_function(folder: Path, output: Path) -> dict[str, bytes]:
    function.refuse_overlap(folder, output)
    return {function.zip_name(folder): archive.pack(function.function_entries(folder))}


def _remarks(made: list[Bytecode], missing: list[NotFoundError]) -> Iterator[str]:
    for each in made:
        yield f"bytecode for {each.interpreter.version}  by {each.interpreter.path}"
    for error in missing:
        yield f"bytecode for {error.version}  left out, {error}"


def _report(output: Path, build: _Build, verb: str) -> Iterator[str]:
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
    for name, text in build.notes.items():
        if text:
            yield f"{verb}{shown(output / name)}"


def _listing(entries: list[archive.Entry]) -> Iterator[str]:
    for entry in entries[:_MAX_LISTED]:
        yield f"  {entry.mode:04o} {len(entry.data):>11,}  {entry.path}"
    if len(entries) > _MAX_LISTED:
        yield f"  and {len(entries) - _MAX_LISTED:,} more files"
