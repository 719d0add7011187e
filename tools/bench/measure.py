"""What is measured, and how: in rounds, in each of which all contestants take their turn in a process of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.bench import BenchError
from tools.bench.emulator import UrlClient, emulator, start_to_first_byte
from tools.bench.quota import cpu_quota
from tools.bench.samples import AWSLAMBDARIC, BARE_EXCHANGE, C_CLIENT, LAYER, Measurement, Target, quantile
from tools.bench.session import Arena, Contestant, Marks, Session

SMALL = 16  # bytes
BULK = 64 * 1024  # bytes
STREAMED = 200_000_000  # bytes
PAUSE = 1000  # microseconds between two chunks
MEMORIES = (128, 512, 1769)  # MB


@dataclass(frozen=True)
class Effort:
    """How often, and how much."""

    cold_starts: int
    cold_starts_in_quota: int
    rounds: int
    invocations: int
    small_chunks: int
    bulk_chunks: int
    delayed_chunks: int
    many_invocations: int


FULL = Effort(40, 10, 10, 2000, 200_000, 8000, 500, 100_000)
QUICK = Effort(5, 2, 3, 500, 20_000, 1000, 50, 10_000)


@dataclass
class Bench:
    """One interpreter's part of a benchmark.

    Args:
        contestants: those that can be measured, started with -S.
        with_site: the same, with the interpreter's site-packages.
        progress: is told what is being done.
        left_out: collects what cannot be measured, and why.
    """

    arena: Arena
    contestants: dict[str, Contestant]
    with_site: dict[str, Contestant]
    effort: Effort
    progress: Callable[[str], None]
    left_out: list[str]

    def turns(self, what: str, rounds: int, *names: str, site: bool = False) -> Iterator[Contestant]:
        """Those of the contestants that can be measured, one after the other, again and again."""
        contestants = self.with_site if site else self.contestants
        for number in range(rounds):
            self.progress(f"{what}, round {number + 1} of {rounds}")
            yield from (contestants[name] for name in names if name in contestants)


def cold_start(bench: Bench) -> list[Measurement]:
    plain = _cold_starts(bench, "cold-start", "cold start, -S", bench.effort.cold_starts, Target(0.5))
    with_site = _cold_starts(bench, "cold-start-site", "cold start, with site", bench.effort.cold_starts, site=True)
    return [*plain, *with_site]


def cold_start_in_quota(bench: Bench) -> list[Measurement]:
    """As on functions of little memory, which get as little of a processor."""
    measurements: list[Measurement] = []
    try:
        for memory in MEMORIES:
            with cpu_quota(memory) as quota:
                name, what = f"cold-start-{memory}", f"cold start, {memory} MB"
                measurements += _cold_starts(bench, name, what, bench.effort.cold_starts_in_quota, quota=quota)
    except BenchError as error:
        bench.left_out.append(f"cold start with a part of a processor: {error}")
    return measurements


def _cold_starts(
    bench: Bench,
    name: str,
    what: str,
    rounds: int,
    target: Target | None = None,
    site: bool = False,
    quota: Path | None = None,
) -> list[Measurement]:
    to_next = Measurement(f"{name}.next", f"{what}: to the first next", "ms", AWSLAMBDARIC)
    to_first = Measurement(f"{name}.first-byte", f"{what}: to the first byte", "ms", AWSLAMBDARIC, target)
    for contestant in bench.turns("", 1, LAYER, AWSLAMBDARIC, C_CLIENT, site=site):
        with bench.arena.session(contestant) as session:  # bytecode is made and files are read, once
            session.invoke(chunks=1, size=SMALL)
    for contestant in bench.turns(what, rounds, LAYER, AWSLAMBDARIC, C_CLIENT, site=site):
        with bench.arena.session(contestant, quota) as session:
            [marks] = session.invoke(chunks=1, size=SMALL).invocations
        to_next.add(contestant.name, (marks.next - session.started) / 1e6)
        to_first.add(contestant.name, (marks.first - session.started) / 1e6)
    return [to_next, to_first]


def warm(bench: Bench) -> list[Measurement]:
    """One invocation at a time. Between two processors, most of it is the time that it takes to wake the other one."""
    with _on_one_processor():
        alone = _warm(bench, "warm", "warm invocation on one processor", Target(0.65))
    return [*alone, *_warm(bench, "warm-any", "warm invocation wherever it runs")]


def _warm(bench: Bench, name: str, what: str, target: Target | None = None) -> list[Measurement]:
    whole = _median_and_tail(name, f"{what}: sent, to ready for the next", target)
    first = _median_and_tail(f"{name}.first-byte", f"{what}: sent, to its first byte")
    for contestant in bench.turns(what, bench.effort.rounds, LAYER, AWSLAMBDARIC, C_CLIENT):
        with _warmed_up(bench, contestant) as session:
            invocations = session.invoke(bench.effort.invocations, chunks=1, size=SMALL).invocations
        _add(whole, contestant, [(marks.ready - marks.answered) / 1e3 for marks in invocations])
        _add(first, contestant, [(marks.first - marks.answered) / 1e3 for marks in invocations])
    return [*whole, *first]


@contextlib.contextmanager
def _on_one_processor() -> Iterator[None]:
    """Keep what is started within on one processor, as on a function that has no more than that (1,769 MB)."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _median_and_tail(
    name: str, what: str, target: Target | None = None, against: str = AWSLAMBDARIC
) -> tuple[Measurement, Measurement]:
    return (
        Measurement(f"{name}.p50", f"{what}, p50", "µs", against, target),
        Measurement(f"{name}.p99", f"{what}, p99", "µs", against),
    )


def _add(measurements: tuple[Measurement, Measurement], contestant: Contestant, numbers: list[float]) -> None:
    for measurement, share in zip(measurements, (0.5, 0.99), strict=True):
        measurement.add(contestant.name, quantile(numbers, share))


@contextlib.contextmanager
def _warmed_up(bench: Bench, contestant: Contestant) -> Iterator[Session]:
    with bench.arena.session(contestant) as session:
        session.invoke(bench.effort.invocations // 10, chunks=1, size=SMALL)
        yield session


def throughput(bench: Bench) -> list[Measurement]:
    chunks = Measurement("chunks", f"chunks of {SMALL} bytes a second", "/s", C_CLIENT, Target(0.55, at_least=True))
    bulk = Measurement(
        "bulk", f"bytes a second in chunks of {BULK // 1024} KiB", "MB/s", C_CLIENT, Target(0.8, at_least=True)
    )
    small_count, bulk_count = bench.effort.small_chunks, bench.effort.bulk_chunks
    for contestant in bench.turns("throughput", bench.effort.rounds, LAYER, C_CLIENT):
        with _warmed_up(bench, contestant) as session:
            [marks] = session.invoke(chunks=small_count, size=SMALL).invocations
            chunks.add(contestant.name, small_count / _seconds(marks))
            [marks] = session.invoke(chunks=bulk_count, size=BULK).invocations
            bulk.add(contestant.name, bulk_count * BULK / 1e6 / _seconds(marks))
    return [chunks, bulk]


def _seconds(marks: Marks) -> float:
    return (marks.end - marks.answered) / 1e9


def delay(bench: Bench) -> list[Measurement]:
    what = f"chunk yielded, to received; one each {PAUSE / 1000:g} ms"
    measurements = _median_and_tail("delay", what, against=C_CLIENT)
    for contestant in bench.turns("delay", bench.effort.rounds, LAYER, C_CLIENT):
        with _warmed_up(bench, contestant) as session:
            stamps = session.invoke(chunks=bench.effort.delayed_chunks, size=20, pause_us=PAUSE).stamps
        _add(measurements, contestant, [nanoseconds / 1e3 for nanoseconds in stamps])
    return list(measurements)


def memory(bench: Bench) -> list[Measurement]:
    many = bench.effort.many_invocations
    counts = (1, 1000, many)
    resident = [
        Measurement(f"resident.{count}", f"memory after {count:,} invocations", "MiB", AWSLAMBDARIC) for count in counts
    ]
    growth = Measurement("growth", f"memory, from 1,000 to {many:,} invocations", "MiB", target=Target(1))
    for contestant in bench.turns("memory", 1, LAYER, AWSLAMBDARIC):
        with bench.arena.session(contestant) as session:
            held = []
            for count, before in zip(counts, (0, *counts), strict=False):
                session.invoke(count - before, chunks=1, size=SMALL)
                held.append(session.memory().resident / 1024)
        for measurement, mebibytes in zip(resident, held, strict=True):
            measurement.add(contestant.name, mebibytes)
        growth.add(contestant.name, held[2] - held[1])
    return [*resident, growth, _peak(bench)]


def _peak(bench: Bench) -> Measurement:
    measurement = Measurement(
        "peak", f"peak memory of {STREAMED // 1_000_000} MB streamed, above 1 byte", "MiB", target=Target(2)
    )
    with bench.arena.session(bench.contestants[LAYER]) as session:
        session.invoke(chunks=1, size=1)
        before = session.memory()
        # Without the peak of the start in the way, more is seen than the target asks for.
        least = before.resident if session.forget_peak() else before.peak
        session.invoke(chunks=STREAMED // BULK, size=BULK)
        measurement.add(LAYER, (session.memory().peak - least) / 1024)
    return measurement


def function_url(bench: Bench) -> list[Measurement]:
    """The local emulator: what a Function URL adds to an exchange over the Runtime API, and how soon it answers."""
    what = "request to a local Function URL, to its first byte"
    first = Measurement("url.first-byte.p50", f"{what}, p50", "µs", BARE_EXCHANGE)
    over = Measurement("url.over-exchange.p50", f"{what}: above the bare exchange, p50", "µs")
    start = Measurement("url.start", "python3 main.py, start to first byte", "ms")
    layer = bench.contestants[LAYER]
    bootstrap, python, *_ = layer.command
    arguments = ("--layer", Path(bootstrap).parent, "--function", layer.task.parent / "url")
    for contestant in bench.turns("function URL", bench.effort.rounds, LAYER):
        with _warmed_up(bench, contestant) as session:
            marks = session.invoke(bench.effort.invocations, chunks=1, size=SMALL).invocations
        bare = quantile([(each.first - each.answered) / 1e3 for each in marks], 0.5)
        with emulator(python, "--serve", "-p", "0", *arguments) as process:
            client = UrlClient(process)
            numbers = [client.first_byte() for _ in range(bench.effort.invocations)]
            client.close()
        through = quantile(numbers[len(numbers) // 10 :], 0.5)  # without those that warm it up
        first.add(LAYER, through)
        first.add(BARE_EXCHANGE, bare)
        over.add(LAYER, through - bare)
        start.add(LAYER, start_to_first_byte(python, *arguments))
    return [first, over, start]


MEASURED: dict[str, Callable[[Bench], list[Measurement]]] = {
    "coldstart": cold_start,
    "warm": warm,
    "throughput": throughput,
    "delay": delay,
    "memory": memory,
    "url": function_url,
    "quota": cold_start_in_quota,
}
