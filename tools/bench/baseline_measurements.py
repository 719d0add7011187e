"""The measurements of `--baseline`: the layer beside another one, and the limit of the ratios."""

from __future__ import annotations

from collections.abc import Callable

from tools.bench.bench import BULK_BYTES, SMALL_BYTES, Bench, on_one_processor, stream
from tools.bench.measurement import BASELINE, LAYER, Comparison, Limit, Measurement
from tools.bench.statistics import quantile

# A change of 3 % is the smallest that 300 pairs can reliably distinguish from none.
MAX_RATIO = 1.03
_LIMITED = (Comparison(BASELINE, Limit(MAX_RATIO)),)
_INFORMATION = (Comparison(BASELINE),)


def cold_start(bench: Bench) -> list[Measurement]:
    """Cold start with a first chunk of bytes."""
    return _cold_start(bench, "cold-start", "cold start")


def prelude(bench: Bench) -> list[Measurement]:
    """Cold start of a function that yields a dict first: the runtime has to encode it as JSON."""
    return _cold_start(bench, "prelude", "cold start with an HTTP prelude", with_prelude=True)


def _cold_start(bench: Bench, name: str, title: str, with_prelude: bool = False) -> list[Measurement]:
    to_next = Measurement(f"{name}.next", f"{title}: process start to first next", "ms", _INFORMATION)
    first_byte = Measurement(f"{name}.first-byte", f"{title}: process start to first byte", "ms", _LIMITED)
    cpu = Measurement(f"{name}.cpu", f"{title}: CPU time", "ms", _LIMITED)
    for program in bench.rounds("", 2, LAYER, BASELINE):
        bench.cold_start(program, prelude=with_prelude)  # reads the files into the page cache
    for program in bench.rounds(title, bench.workload.pairs, LAYER, BASELINE):
        start = bench.cold_start(program, prelude=with_prelude)
        to_next.add(program.name, start.to_next)
        first_byte.add(program.name, start.to_first_byte)
        cpu.add(program.name, start.cpu)
    return [to_next, first_byte, cpu]


def warm(bench: Bench) -> list[Measurement]:
    """Warm invocations with one small chunk, on one processor."""
    title = "warm invocation"
    duration = Measurement("warm.p50", f"{title}: sent to ready for the next, p50", "µs", _LIMITED)
    cpu = Measurement("warm.cpu", f"{title}: CPU time", "µs", _LIMITED)
    with on_one_processor():
        for program in bench.rounds(title, bench.workload.pairs, LAYER, BASELINE):
            with bench.warm(program) as process:
                block = bench.warm_block(process)
            duration.add(program.name, quantile(block.durations, 0.5))
            cpu.add(program.name, block.cpu_per_invocation)
    return [duration, cpu]


def throughput(bench: Bench) -> list[Measurement]:
    """Time for each small chunk and for each MB, not chunks and MB per second, so that all limits are maxima."""
    small, small_cpu = _pair("chunks", f"chunk of {SMALL_BYTES} bytes", "µs")
    bulk, bulk_cpu = _pair("bulk", f"MB in chunks of {BULK_BYTES // 1024} KiB", "µs")
    chunks, bulk_chunks = bench.workload.small_chunks, bench.workload.bulk_chunks
    megabytes = bulk_chunks * BULK_BYTES / 1e6
    for program in bench.rounds("throughput", bench.workload.pairs, LAYER, BASELINE):
        with bench.warm(program) as process:
            result = stream(process, chunks, SMALL_BYTES)
            small.add(program.name, result.duration * 1e6 / chunks)
            small_cpu.add(program.name, result.cpu * 1e6 / chunks)
            result = stream(process, bulk_chunks, BULK_BYTES)
            bulk.add(program.name, result.duration * 1e6 / megabytes)
            bulk_cpu.add(program.name, result.cpu * 1e6 / megabytes)
    return [small, small_cpu, bulk, bulk_cpu]


def _pair(name: str, title: str, unit: str) -> tuple[Measurement, Measurement]:
    return (
        Measurement(f"{name}.time", f"{title}: time", unit, _LIMITED),
        Measurement(f"{name}.cpu", f"{title}: CPU time", unit, _LIMITED),
    )


BASELINE_PARTS: dict[str, Callable[[Bench], list[Measurement]]] = {
    "coldstart": cold_start,
    "prelude": prelude,
    "warm": warm,
    "throughput": throughput,
}
