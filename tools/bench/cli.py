"""The command line, `python3 -m tools.bench`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tools.bench import HERE, BenchError
from tools.bench.chart import svg
from tools.bench.machine import Machine, load
from tools.bench.measure import FULL, MEASURED, QUICK, Bench, Effort
from tools.bench.programs import REQUIREMENT, Interpreter, build_layer, compile_c
from tools.bench.report import Part, Report
from tools.bench.samples import AWSLAMBDARIC, C_CLIENT, LAYER, Measurement
from tools.bench.session import Arena, Contestant
from tools.common.paths import ROOT

FAILED, USAGE, INTERRUPTED = 1, 2, 130
SCRIPT = "/var/runtime/bootstrap.py"  # the managed runtime's own, which bootstrap is called with and does not run

EPILOG = f"""\
Measured are: {", ".join(MEASURED)}.
Writes bench.json and bench.svg into the output folder. Needs Linux; what needs a C compiler ($CC or cc), a package
index (for {REQUIREMENT}, installed into .venv/bench once) or control groups is left out, and said to be, where there
is none. The machine should have nothing else to do.

Exit codes: 0 measured, whether the targets are met or not, 1 failed, 2 wrong usage, 130 interrupted.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"bench: error: {message} (see --help)\n")


def main(arguments: list[str]) -> int:
    """Measure, and tell. Returns the exit code."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _end)
    try:
        report = _measure(options)
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "bench.json").write_text(report.json(), "utf-8")
        (options.output / "bench.svg").write_text(svg(report), "utf-8")
        print(report.text(), flush=True)
    except BrokenPipeError:  # whoever reads the table has had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (BenchError, OSError) as error:
        print("bench: error:", *str(error).splitlines(), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # through all `finally`, so that no process is left


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="bench",
        description="Measure the built layer beside awslambdaric and a client in C.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--python", metavar="PATH", action="append", help="an interpreter to measure; repeatable (default: this one)"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, to see whether it works")
    parser.add_argument("--runs", type=_count, metavar="N", help="rounds of each measurement")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", default=ROOT / "dist" / "bench", help="default: dist/bench"
    )
    parser.add_argument("--only", choices=MEASURED, action="append", metavar="NAME", help="what to measure; repeatable")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _effort(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else FULL
    runs: int | None = options.runs
    return effort if runs is None else replace(effort, cold_starts=runs, cold_starts_in_quota=runs, rounds=runs)


def _measure(options: argparse.Namespace) -> Report:
    load_before = load()
    interpreters = [Interpreter.at(path) for path in options.python or [sys.executable]]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        tools = Tools.make(Path(name))
        parts = [Part(str(each.path), each.version, _measure_one(each, tools, options)) for each in interpreters]
    version: str = json.loads((ROOT / "layer-manifest.json").read_text())["version"]
    left_out = list(dict.fromkeys(tools.left_out))
    return Report(Machine.now(load_before), version, tools.server_language, REQUIREMENT, parts, left_out)


def _measure_one(interpreter: Interpreter, tools: Tools, options: argparse.Namespace) -> list[Measurement]:
    bench = tools.bench(interpreter, _effort(options))
    return [each for name in options.only or MEASURED for each in MEASURED[name](bench)]


@dataclass(frozen=True)
class Tools:
    """What all interpreters share, in a folder that is removed at the end.

    Args:
        client: the program in C; None where it cannot be made.
        left_out: collects what cannot be measured, and why.
    """

    folder: Path
    layer: Path
    arena: Arena
    server_language: str
    client: Path | None
    left_out: list[str]

    @classmethod
    def make(cls, folder: Path) -> Tools:
        client: Path | None = None
        left_out: list[str] = []
        server: tuple[str | Path, ...] = (sys.executable, "-S", HERE / "server.py")
        try:
            server, client = (compile_c("server", folder),), compile_c("client", folder)
        except BenchError as error:
            left_out.append(f"the C client, and the Runtime API is one in Python, which takes longer: {error}")
        for kind in ("streaming", "buffered", "url"):
            (folder / kind).mkdir()
            shutil.copyfile(HERE / "functions" / f"{kind}.py", folder / kind / "lambda_function.py")
        language = "Python" if client is None else "C"
        return cls(folder, build_layer(folder), Arena(server, folder / "log"), language, client, left_out)

    def bench(self, interpreter: Interpreter, effort: Effort) -> Bench:
        names = [LAYER, C_CLIENT] if self.client else [LAYER]
        try:
            interpreter.install_awslambdaric()
            names.append(AWSLAMBDARIC)
        except BenchError as error:
            self.left_out.append(f"awslambdaric on Python {interpreter.version}: {error}")
        return Bench(
            self.arena,
            {name: self._contestant(name, interpreter, "-S") for name in names},
            {name: self._contestant(name, interpreter) for name in names},
            effort,
            lambda what: _show_progress(f"Python {interpreter.version}: {what}"),
            self.left_out,
        )

    def _contestant(self, name: str, interpreter: Interpreter, *options: str) -> Contestant:
        """The program as the service starts it.

        Args:
            options: for awslambdaric's Python; bootstrap gives the layer's its own, -S among them.
        """
        streaming, buffered = self.folder / "streaming", self.folder / "buffered"
        if name == LAYER:
            return Contestant(name, (self.layer / "bootstrap", interpreter.path, SCRIPT), streaming)
        if name == AWSLAMBDARIC:
            command: tuple[str | Path, ...] = (
                interpreter.path,
                *options,
                "-m",
                "awslambdaric",
                "lambda_function.handler",
            )
            return Contestant(name, command, buffered, {"PYTHONPATH": str(interpreter.site_packages)})
        assert self.client is not None
        return Contestant(name, (self.client,), streaming)


def _show_progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
