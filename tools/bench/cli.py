"""The command line, `./build.sh bench`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tools.bench.baseline_measurements import BASELINE_PARTS, MAX_RATIO
from tools.bench.bench import FULL, PAIRS, QUICK, Bench, Workload
from tools.bench.chart import svg
from tools.bench.interpreters import REQUIREMENT, Interpreter
from tools.bench.machine import Machine, load
from tools.bench.markdown import markdown_table
from tools.bench.measurement import Measurement
from tools.bench.measurements import PARTS
from tools.bench.programs import Workshop
from tools.bench.report import Part, Report
from tools.common.cli import DONE, Parser, run
from tools.common.errors import ToolError
from tools.common.paths import ROOT, shown, write_all_atomically

PROGRAM = "./build.sh bench"
EPILOG = f"""\
NAME is one of: {", ".join(PARTS)};
with --baseline one of: {", ".join(BASELINE_PARTS)}.

Writes bench.json and bench.svg to the output folder. Needs Linux. A C compiler ($CC or cc), a package index (for
{REQUIREMENT} and web frameworks, installed into .venv/bench once) and control groups are optional: the
report lists what it omits without them. Stop all other work on the machine.

With --baseline, a figure fails if the 95 % confidence interval of its ratio lies wholly above {MAX_RATIO:g}.

Exit status: 0 measured, 1 an error, or a figure failed with --baseline, 2 wrong usage, 130 interrupted.
"""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    options = _parse(arguments)
    return run(PROGRAM, lambda: _run(options))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog=PROGRAM,
        description="Measure the built layer beside awslambdaric and a client in C, or beside another layer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--python", metavar="PATH", action="append", help="an interpreter to measure; repeatable (default: this one)")
    add("--baseline", metavar="LAYER", help="compare with another layer: a zip, a folder as under /opt, a git revision")
    add("--quick", action="store_true", help="fewer and shorter rounds, to check that everything works")
    add(
        "--runs",
        type=_positive,
        metavar="N",
        help=f"rounds of each measurement (default: {PAIRS} where there is a limit)",
    )
    add("--only", choices=PARTS, action="append", metavar="NAME", help="what to measure; repeatable")
    output = ROOT / "dist" / "bench"
    add("-o", "--output", type=Path, metavar="DIR", default=output, help="default: dist/bench")
    help_text = "print a Markdown table of an earlier bench.json, and measure nothing; repeatable"
    add("--markdown", type=Path, metavar="FILE", action="append", help=help_text)
    options = parser.parse_args(arguments)
    if options.baseline is not None and not BASELINE_PARTS.keys() >= set(options.only or ()):
        parser.error(f"with --baseline, --only is one of {', '.join(BASELINE_PARTS)}")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    if options.markdown:
        print(markdown_table(options.markdown))
        return DONE
    made = _make_folder(options.output)  # first: a failure after the measurements would lose them
    try:
        report = _measure(options)
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # somebody else uses it
                folder.rmdir()
        raise
    files = {"bench.json": report.json(), "bench.svg": svg(report)}
    write_all_atomically({options.output / name: text.encode() for name, text in files.items()})
    print(report.text(), flush=True)
    if report.baseline and report.failures:
        raise ToolError(f"slower than {report.baseline}: {'; '.join(report.failures)}")
    return DONE


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder in which files can be written. Return those that did not exist, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ToolError(f"cannot write to {shown(folder)}: {error.strerror}; choose another with --output") from error
    return missing


def _measure(options: argparse.Namespace) -> Report:
    load_before = load()
    interpreters = [Interpreter.at(path) for path in options.python or [sys.executable]]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        workshop = Workshop.set_up(Path(name), options.baseline)
        parts = [Part(str(each.path), each.version, _measure_one(each, workshop, options)) for each in interpreters]
    version: str = json.loads((ROOT / "layer-manifest.json").read_text())["version"]
    left_out = list(dict.fromkeys(workshop.left_out))
    machine = Machine.now(load_before)
    return Report(machine, version, options.baseline or "", workshop.server_language, REQUIREMENT, parts, left_out)


def _measure_one(interpreter: Interpreter, workshop: Workshop, options: argparse.Namespace) -> list[Measurement]:
    has_baseline = options.baseline is not None
    programs = workshop.layers(interpreter) if has_baseline else workshop.programs(interpreter)
    bench = Bench(
        workshop.launcher,
        programs,
        _workload(options),
        lambda text: _show_progress(f"Python {interpreter.version}: {text}"),
        workshop.left_out,
        lambda: workshop.applications(interpreter),
    )
    parts = BASELINE_PARTS if has_baseline else PARTS
    measurements = [each for name in options.only or parts for each in parts[name](bench)]
    _show_progress("")
    return measurements


def _workload(options: argparse.Namespace) -> Workload:
    workload = QUICK if options.quick else FULL
    runs: int | None = options.runs
    if runs is None:
        return workload
    return replace(workload, pairs=runs, rounds=runs, application_pairs=runs, environment_rounds=runs)


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
