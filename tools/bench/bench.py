"""Rounds: in each one, all programs run one after the other, each in a new process.

Why rounds: the speed of a machine changes by tens of percent within minutes (frequency, other processes, memory
layout), so two separate runs cannot show a difference of 3 %. Within a round the programs run less than a second
apart; the ratio of such a pair is nearly free of those changes, and the median over many pairs of what remains. The
order is reversed in every other round, because the second program of a pair finds warmer caches. A new process for each
sample averages over hash seeds and address layouts, which alone make differences of several percent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.bench.applications import Application
from tools.bench.function_process import FunctionProcess, Launcher, Program
from tools.bench.measurement import Measurement
from tools.bench.statistics import quantile

SMALL_BYTES = 16  # of a small chunk
BULK_BYTES = 64 * 1024  # of a large chunk
CHUNK_PAUSE_US = 1000  # between two chunks, where their delay is measured

# The median of 300 pairs has a confidence interval of about 0.12 standard deviations on each side.
PAIRS = 300


@dataclass(frozen=True)
class Workload:
    """How many rounds, and how much each process does in one.

    Args:
        pairs: rounds of the figures that have a limit.
        rounds: rounds of the others.
        application_pairs: rounds of cold starts of web applications, each of which takes a second.
        environment_rounds: rounds of environments with many slots, each of which takes half a minute or more.
    """

    pairs: int
    rounds: int
    invocations: int
    small_chunks: int
    bulk_chunks: int
    delayed_chunks: int
    many_invocations: int
    application_pairs: int
    environment_rounds: int


FULL = Workload(PAIRS, 20, 400, 20_000, 500, 300, 100_000, 60, 10)
QUICK = Workload(7, 2, 100, 2000, 100, 50, 10_000, 7, 2)


@dataclass(frozen=True)
class ColdStart:
    """One cold start, in milliseconds: from the start of the process to a moment, and its processor time."""

    to_next: float
    to_first_byte: float
    cpu: float


@dataclass(frozen=True)
class WarmBlock:
    """Invocations of one warm process, in microseconds."""

    durations: list[float]
    first_bytes: list[float]
    cpu_per_invocation: float


@dataclass(frozen=True)
class Stream:
    """One response of many chunks, in seconds."""

    duration: float
    cpu: float


@dataclass
class Bench:
    """The benchmark of one interpreter.

    Args:
        programs: those that can be measured.
        show_progress: receives a line about the current round.
        left_out: collects what cannot be measured, and why.
        make_applications: installs the web applications and returns them. Raises ToolError.
    """

    launcher: Launcher
    programs: Mapping[str, Program]
    workload: Workload
    show_progress: Callable[[str], None]
    left_out: list[str]
    make_applications: Callable[[], list[Application]]

    def rounds(self, title: str, count: int, *names: str) -> Iterator[Program]:
        """Yield those of the named programs that can be measured, again and again, in alternating order."""
        programs = [self.programs[name] for name in names if name in self.programs]
        for number in range(count):
            self.show_progress(f"{title}, round {number + 1} of {count}")
            yield from programs if number % 2 == 0 else reversed(programs)

    def cold_start(self, program: Program, cpu_group: Path | None = None, prelude: bool = False) -> ColdStart:
        """Start a process and let it serve one invocation, whose handler may yield an HTTP prelude first."""
        with self.launcher.start(program, cpu_group) as process:
            [moments] = process.invoke(chunks=1, size=SMALL_BYTES, prelude=int(prelude)).invocations
            cpu = process.cpu_ns()
        to_next, to_first_byte = moments.asked - process.started, moments.first_byte - process.started
        return ColdStart(to_next / 1e6, to_first_byte / 1e6, cpu / 1e6)

    @contextlib.contextmanager
    def warm(self, program: Program) -> Iterator[FunctionProcess]:
        """Start a process and warm it up."""
        with self.launcher.start(program) as process:
            process.invoke(max(1, self.workload.invocations // 5), chunks=1, size=SMALL_BYTES)
            yield process

    def warm_block(self, process: FunctionProcess) -> WarmBlock:
        """Let a warm process serve invocations with one small chunk."""
        before = process.cpu_ns()
        invocations = process.invoke(self.workload.invocations, chunks=1, size=SMALL_BYTES).invocations
        cpu = (process.cpu_ns() - before) / 1e3 / len(invocations)
        durations = [(moments.ready - moments.sent) / 1e3 for moments in invocations]
        return WarmBlock(durations, [(moments.first_byte - moments.sent) / 1e3 for moments in invocations], cpu)


def stream(process: FunctionProcess, chunks: int, size: int) -> Stream:
    """Let a warm process stream one response."""
    before = process.cpu_ns()
    [moments] = process.invoke(chunks=chunks, size=size).invocations
    cpu = process.cpu_ns() - before
    return Stream((moments.last_byte - moments.sent) / 1e9, cpu / 1e9)


@contextlib.contextmanager
def on_one_processor() -> Iterator[None]:
    """Restrict this process, and those that are started in the block, to one processor.

    With two processors, most of a warm invocation is the time that the kernel needs to wake the other processor. A
    function of up to 1,769 MB has the share of one.
    """
    with _on(lambda processors: {min(processors)}):
        yield


@contextlib.contextmanager
def on_other_processors() -> Iterator[None]:
    """Restrict them to all processors but that one, if there are several."""
    with _on(lambda processors: processors - {min(processors)} or processors):
        yield


@contextlib.contextmanager
def _on(choose: Callable[[set[int]], set[int]]) -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, choose(allowed))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def add_median_and_tail(measurements: tuple[Measurement, Measurement], program: str, numbers: list[float]) -> None:
    """Add the 50th and the 99th percentile of one round."""
    for measurement, share in zip(measurements, (0.5, 0.99), strict=True):
        measurement.add(program, quantile(numbers, share))
