"""The default measurements: the layer beside awslambdaric, a minimal runtime and a client in C.

The limits are the numbers that the project promises (docs/performance.md); each has an aim beyond it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.bench.application_measurements import applications
from tools.bench.bench import (
    BULK_BYTES,
    CHUNK_PAUSE_US,
    SMALL_BYTES,
    Bench,
    add_median_and_tail,
    on_one_processor,
    stream,
)
from tools.bench.concurrency_measurements import concurrency
from tools.bench.cpu_share import cpu_share
from tools.bench.function_process import Program
from tools.bench.local_url import UrlClient, main_py, start_to_first_byte_ms
from tools.bench.measurement import (
    AWSLAMBDARIC,
    BARE_EXCHANGE,
    C_CLIENT,
    LATER_ERROR,
    LAYER,
    MINIMAL_RUNTIME,
    WITHOUT_PRELUDE,
    Comparison,
    Limit,
    Measurement,
)
from tools.bench.programs import without_s
from tools.bench.statistics import quantile
from tools.common.errors import ToolError

STREAMED_BYTES = 200_000_000  # of the response whose peak memory is measured
MEMORY_SETTINGS_MB = (128, 512, 1769)
_BESIDE_OTHERS = (Comparison(AWSLAMBDARIC), Comparison(C_CLIENT))


def cold_start(bench: Bench) -> list[Measurement]:
    """Cold starts with the whole processor, without and with `site`."""
    limits = (
        Comparison(AWSLAMBDARIC, Limit(0.5, 0.43)),
        Comparison(MINIMAL_RUNTIME, Limit(1.12, 1.05)),
        Comparison(C_CLIENT),
    )
    plain = _cold_starts(bench, "cold-start", "cold start, -S", bench.workload.pairs, limits)
    title = "cold start, with site"
    with_site = _cold_starts(bench, "cold-start-site", title, bench.workload.rounds, change=without_s)
    return [*plain, *with_site]


def cold_start_by_memory(bench: Bench) -> list[Measurement]:
    """Cold starts with the processor shares of several memory settings."""
    measurements: list[Measurement] = []
    try:
        for memory_mb in MEMORY_SETTINGS_MB:
            with cpu_share(memory_mb) as group:
                name, title = f"cold-start-{memory_mb}", f"cold start, {memory_mb} MB"
                measurements += _cold_starts(bench, name, title, bench.workload.rounds, cpu_group=group)
    except ToolError as error:
        bench.left_out.append(f"cold start by memory setting: {error}")
    return measurements


def _cold_starts(
    bench: Bench,
    name: str,
    title: str,
    rounds: int,
    comparisons: tuple[Comparison, ...] = _BESIDE_OTHERS,
    change: Callable[[Program], Program] = lambda program: program,
    cpu_group: Path | None = None,
) -> list[Measurement]:
    to_next = Measurement(f"{name}.next", f"{title}: process start to first next", "ms", _BESIDE_OTHERS)
    first_byte = Measurement(f"{name}.first-byte", f"{title}: process start to first byte", "ms", comparisons)
    programs = [name for name in (LAYER, AWSLAMBDARIC, MINIMAL_RUNTIME, C_CLIENT) if name in _names(comparisons)]
    for program in bench.rounds("", 1, *programs):
        bench.cold_start(change(program))  # reads the files into the page cache
    for program in bench.rounds(title, rounds, *programs):
        start = bench.cold_start(change(program), cpu_group)
        to_next.add(program.name, start.to_next)
        first_byte.add(program.name, start.to_first_byte)
    return [to_next, first_byte]


def _names(comparisons: tuple[Comparison, ...]) -> set[str | None]:
    return {LAYER, *(each.other for each in comparisons)}


def prelude(bench: Bench) -> list[Measurement]:
    """What a first dict adds to a cold start: the code that encodes it is loaded on first use."""
    title = "cold start with an HTTP prelude"
    first_byte = Measurement(
        "prelude.first-byte", f"{title}: process start to first byte", "ms", (Comparison(WITHOUT_PRELUDE),)
    )
    cpu = Measurement("prelude.cpu", f"{title}: CPU time", "ms", (Comparison(WITHOUT_PRELUDE),))
    program = bench.programs[LAYER]
    for number in range(bench.workload.pairs):
        bench.show_progress(f"{title}, round {number + 1} of {bench.workload.pairs}")
        for name in (LAYER, WITHOUT_PRELUDE) if number % 2 else (WITHOUT_PRELUDE, LAYER):
            start = bench.cold_start(program, prelude=name == LAYER)
            first_byte.add(name, start.to_first_byte)
            cpu.add(name, start.cpu)
    return [first_byte, cpu]


def first_error(bench: Bench) -> list[Measurement]:
    """The first error of a process, beside a later one: the modules that describe an error are loaded on first use."""
    title = "an error after the first byte, the first of a process"
    duration = Measurement("first-error.time", f"{title}: sent to ready", "ms", (Comparison(LATER_ERROR),))
    cpu = Measurement("first-error.cpu", f"{title}: CPU time", "ms", (Comparison(LATER_ERROR),))
    for program in bench.rounds(title, bench.workload.rounds, LAYER):
        with bench.launcher.start(program) as process:
            process.invoke(chunks=1, size=SMALL_BYTES)
            for name in (LAYER, LATER_ERROR):
                before = process.cpu_ns()
                [moments] = process.invoke(chunks=1, size=SMALL_BYTES, fail=1).invocations
                duration.add(name, (moments.ready - moments.sent) / 1e6)
                cpu.add(name, (process.cpu_ns() - before) / 1e6)
    return [duration, cpu]


def warm(bench: Bench) -> list[Measurement]:
    """Warm invocations, one at a time: on one processor, and where the scheduler places the processes."""
    with on_one_processor():
        alone = _warm(
            bench,
            "warm",
            "warm invocation on one processor",
            bench.workload.pairs,
            Limit(0.75, 0.62),
            Limit(0.67, 0.55),
        )
    return [*alone, *_warm(bench, "warm-any", "warm invocation on any processor", bench.workload.rounds)]


def _warm(
    bench: Bench, name: str, title: str, rounds: int, first_limit: Limit | None = None, cpu_limit: Limit | None = None
) -> list[Measurement]:
    whole = _median_and_tail(name, f"{title}: sent to ready for the next")
    first = _median_and_tail(f"{name}.first-byte", f"{title}: sent to first byte", limit=first_limit)
    cpu = Measurement(
        f"{name}.cpu", f"{title}: CPU time", "µs", (Comparison(AWSLAMBDARIC, cpu_limit), Comparison(C_CLIENT))
    )
    for program in bench.rounds(title, rounds, LAYER, AWSLAMBDARIC, C_CLIENT):
        with bench.warm(program) as process:
            block = bench.warm_block(process)
        add_median_and_tail(whole, program.name, block.durations)
        add_median_and_tail(first, program.name, block.first_bytes)
        cpu.add(program.name, block.cpu_per_invocation)
    return [*whole, *first, cpu]


def _median_and_tail(
    name: str, title: str, others: tuple[str, ...] = (AWSLAMBDARIC, C_CLIENT), limit: Limit | None = None
) -> tuple[Measurement, Measurement]:
    """Return the measurements of the 50th and 99th percentile; the limit is that of the first comparison."""
    median = tuple(Comparison(other, limit if other == others[0] else None) for other in others)
    tail = tuple(Comparison(other) for other in others)
    return (
        Measurement(f"{name}.p50", f"{title}, p50", "µs", median),
        Measurement(f"{name}.p99", f"{title}, p99", "µs", tail),
    )


def throughput(bench: Bench) -> list[Measurement]:
    """Chunks and bytes per second, beside a client in C that makes one `send` call for each chunk."""
    small = Measurement(
        "chunks",
        f"chunks of {SMALL_BYTES} bytes per second",
        "/s",
        (Comparison(C_CLIENT, Limit(0.7, 0.85, is_minimum=True)),),
    )
    bulk = Measurement(
        "bulk",
        f"bytes per second in chunks of {BULK_BYTES // 1024} KiB",
        "MB/s",
        (Comparison(C_CLIENT, Limit(0.8, 0.95, is_minimum=True)),),
    )
    chunks, bulk_chunks = bench.workload.small_chunks, bench.workload.bulk_chunks
    for program in bench.rounds("throughput", bench.workload.pairs, LAYER, C_CLIENT):
        with bench.warm(program) as process:
            small.add(program.name, chunks / stream(process, chunks, SMALL_BYTES).duration)
            bulk.add(program.name, bulk_chunks * BULK_BYTES / 1e6 / stream(process, bulk_chunks, BULK_BYTES).duration)
    return [small, bulk]


def delay(bench: Bench) -> list[Measurement]:
    """The delay of each chunk, where the handler pauses between chunks."""
    title = f"chunk yielded to received, one each {CHUNK_PAUSE_US / 1000:g} ms"
    measurements = _median_and_tail("delay", title, (C_CLIENT,))
    for program in bench.rounds("delay", bench.workload.rounds, LAYER, C_CLIENT):
        with bench.warm(program) as process:
            reply = process.invoke(chunks=bench.workload.delayed_chunks, size=20, pause_us=CHUNK_PAUSE_US)
        add_median_and_tail(measurements, program.name, [nanoseconds / 1e3 for nanoseconds in reply.delays])
    return list(measurements)


def memory(bench: Bench) -> list[Measurement]:
    """Resident memory, its growth over many invocations, and the peak of a large response."""
    many = bench.workload.many_invocations
    counts = (1, 1000, many)
    measurements = [
        Measurement(f"resident.{count}", f"memory after {count:,} invocations", "MiB", (Comparison(AWSLAMBDARIC),))
        for count in counts
    ]
    growth = Measurement(
        "growth", f"memory growth from 1,000 to {many:,} invocations", "MiB", (Comparison(None, Limit(1)),)
    )
    for program in bench.rounds("memory", 1, LAYER, AWSLAMBDARIC):
        with bench.launcher.start(program) as process:
            resident = []
            for count, before in zip(counts, (0, *counts), strict=False):
                process.invoke(count - before, chunks=1, size=SMALL_BYTES)
                resident.append(process.memory().resident / 1024)
        for measurement, mebibytes in zip(measurements, resident, strict=True):
            measurement.add(program.name, mebibytes)
        growth.add(program.name, resident[2] - resident[1])
    return [*measurements, growth, _peak(bench)]


def _peak(bench: Bench) -> Measurement:
    measurement = Measurement(
        "peak",
        f"peak memory of a response of {STREAMED_BYTES // 1_000_000} MB, above one of 1 byte",
        "MiB",
        (Comparison(None, Limit(2)),),
    )
    with bench.launcher.start(bench.programs[LAYER]) as process:
        process.invoke(chunks=1, size=1)
        before = process.memory()
        # The peak of the start would hide a part of the growth, so it is reset where the system supports it.
        start = before.resident if process.reset_peak() else before.peak
        process.invoke(chunks=STREAMED_BYTES // BULK_BYTES, size=BULK_BYTES)
        measurement.add(LAYER, (process.memory().peak - start) / 1024)
    return measurement


def function_url(bench: Bench) -> list[Measurement]:
    """The local emulator: what a Function URL adds to an exchange over the Runtime API, and how soon it responds."""
    title = "request to a local Function URL to first byte"
    first = Measurement("url.first-byte.p50", f"{title}, p50", "µs", (Comparison(BARE_EXCHANGE),))
    above = Measurement("url.over-exchange.p50", f"{title}, above the bare exchange, p50", "µs", (Comparison(None),))
    start = Measurement("url.start", "python3 main.py: start to first byte", "ms", (Comparison(None, Limit(150)),))
    layer = bench.programs[LAYER]
    bootstrap, python, *_ = layer.command
    arguments = ("--layer", Path(bootstrap).parent, "--function", layer.task_root.parent / "url")
    for program in bench.rounds("function URL", bench.workload.rounds, LAYER):
        with bench.warm(program) as process:
            bare = quantile(bench.warm_block(process).first_bytes, 0.5)
        with main_py(python, "--serve", "-p", "0", *arguments) as server:
            client = UrlClient(server)
            numbers = [client.first_byte_us() for _ in range(bench.workload.invocations)]
            client.close()
        through = quantile(numbers[len(numbers) // 10 :], 0.5)  # the first requests warm it up
        first.add(LAYER, through)
        first.add(BARE_EXCHANGE, bare)
        above.add(LAYER, through - bare)
        start.add(LAYER, start_to_first_byte_ms(python, *arguments))
    return [first, above, start]


PARTS: dict[str, Callable[[Bench], list[Measurement]]] = {
    "coldstart": cold_start,
    "prelude": prelude,
    "error": first_error,
    "warm": warm,
    "throughput": throughput,
    "delay": delay,
    "memory": memory,
    "url": function_url,
    "applications": applications,
    "concurrency": concurrency,
    "quota": cold_start_by_memory,
}
