"""The measurements of web applications.

Most of a cold start is the application's own import, which is the same everywhere. So the figure with a limit is the
share of the program that serves it: process start to first byte, less the import of the application.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.bench.applications import Application, http_event
from tools.bench.bench import CHUNK_PAUSE_US, Bench
from tools.bench.function_process import Program
from tools.bench.measurement import LAYER, MANGUM, Comparison, Limit, Measurement
from tools.bench.statistics import quantile
from tools.bench.web_server import ServerProgram, running
from tools.common.errors import ToolError


def applications(bench: Bench) -> list[Measurement]:
    """Cold starts and warm responses of the same application through the layer, a web server and Mangum."""
    try:
        made = bench.make_applications()
    except ToolError as error:
        bench.left_out.append(f"web applications: {error}")
        return []
    return [measurement for each in made for measurement in (*_cold_start(bench, each), *_stream(bench, each))]


def _cold_start(bench: Bench, application: Application) -> list[Measurement]:
    kind, server = application.kind, application.server.name
    title = f"{kind.title}, cold start"
    whole = Measurement(
        f"{kind.name}.first-byte",
        f"{title}: process start to first byte",
        "ms",
        (Comparison(server), Comparison(MANGUM)),
    )
    share = Measurement(
        f"{kind.name}.share",
        f"{title}: the same, less the import of the application",
        "ms",
        (Comparison(server, Limit(0.4, 0.25)), Comparison(MANGUM)),
    )
    starts: dict[str, Callable[[], float]] = {
        LAYER: lambda: _first_byte_ms(bench, application.layer),
        server: lambda: _server_first_byte_ms(bench, application.server),
    }
    mangum = application.mangum
    if mangum is not None:
        starts[MANGUM] = lambda: _first_byte_ms(bench, mangum)
    for start in starts.values():
        start()  # reads the files into the page cache
    for number in range(bench.workload.application_pairs):
        bench.show_progress(f"{title}, round {number + 1} of {bench.workload.application_pairs}")
        importing = application.import_ms()
        for name in starts if number % 2 else reversed(starts):
            milliseconds = starts[name]()
            whole.add(name, milliseconds)
            share.add(name, milliseconds - importing)
    return [whole, share]


def _first_byte_ms(bench: Bench, program: Program) -> float:
    with bench.launcher.start(program) as process:
        [moments] = process.send(http_event("/")).invocations
        return (moments.first_byte - process.started) / 1e6


def _server_first_byte_ms(bench: Bench, program: ServerProgram) -> float:
    with running(program, bench.launcher.log) as server:
        return (server.get("/").first_byte - server.started) / 1e6


def _stream(bench: Bench, application: Application) -> list[Measurement]:
    """Warm processes: the time to the first byte of a small response, and the delay of each chunk of a stream."""
    kind, server = application.kind, application.server.name
    first = Measurement(
        f"{kind.name}.warm-first-byte.p50",
        f"{kind.title}, warm: request to first byte, p50",
        "µs",
        (Comparison(server),),
    )
    delay = Measurement(
        f"{kind.name}.delay.p50", f"{kind.title}: chunk yielded to received, p50", "µs", (Comparison(server),)
    )
    target = f"/stream?chunks={bench.workload.delayed_chunks}&pause_us={CHUNK_PAUSE_US}"
    requests = bench.workload.invocations // 4
    for _ in range(bench.workload.rounds):
        bench.show_progress(f"{kind.title}, warm")
        with bench.launcher.start(application.layer) as process:
            process.send(http_event("/"), requests)
            block = process.send(http_event("/"), requests).invocations
            first.add(LAYER, quantile([(moments.first_byte - moments.sent) / 1e3 for moments in block], 0.5))
            delay.add(LAYER, quantile([each / 1e3 for each in process.send(http_event(target)).delays], 0.5))
        with running(application.server, bench.launcher.log) as process_of_server:
            responses = [process_of_server.get("/") for _ in range(2 * requests)][requests:]
            first.add(server, quantile([(each.first_byte - each.sent) / 1e3 for each in responses], 0.5))
            delay.add(server, quantile([each / 1e3 for each in process_of_server.get(target).delays], 0.5))
    return [first, delay]
