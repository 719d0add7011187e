"""The measurements of Lambda Managed Instances: many invocations at once in one environment.

A stream of tokens mostly waits. So the questions are how late a token arrives while a hundred streams run, and how much
memory they need. The same application runs on one event loop for each processor, in a process for each slot, and on
uvicorn with as many processes.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import replace

from tools.bench.applications import Application, http_event
from tools.bench.bench import SMALL_BYTES, Bench, add_median_and_tail, on_one_processor, on_other_processors
from tools.bench.function_process import Program
from tools.bench.measurement import AWSLAMBDARIC, LAYER, Comparison, Limit, Measurement
from tools.bench.receiver import Stream, pss_mib, real_time_priority, receive, started
from tools.bench.web_server import running
from tools.common.errors import ToolError

STREAMS, TOKENS, TOKEN_PAUSE_US = 100, 200, 20_000
# Seconds between the begins of two streams. Callers do not arrive together; and the tokens of streams that begin
# together would queue in front of the receiver.
INTERVAL = 0.0021
SLOTS = 64
PROCESS_ROUNDS = 2  # with a process for each stream: each of them imports the application, which takes a minute
PROCESSES = "process per slot"
UVICORN = "uvicorn"
ONE_PROCESS = "on-demand process"

_TARGET = f"/stream?chunks={TOKENS}&pause_us={TOKEN_PAUSE_US}"
_OTHERS = (Comparison(UVICORN), Comparison(PROCESSES))


def concurrency(bench: Bench) -> list[Measurement]:
    """Streams of tokens at the same time, and the memory of many slots."""
    try:
        application = next(each for each in bench.make_applications() if each.kind.server[0] == UVICORN)
    except ToolError as error:
        bench.left_out.append(f"concurrent streams: {error}")
        return []
    return [*_tokens(bench, application), _memory(bench), _throughput(bench)]


def _tokens(bench: Bench, application: Application) -> list[Measurement]:
    """Streams of tokens. The receiver has a processor of its own, and the priority there, because that of the service
    does not compete with the environment either.

    Otherwise a token waits until the program that has sent it, and then sends for other streams, needs no processor.
    The fastest program sends most tokens in such a burst, and would get the longest delays.
    """
    title = f"{STREAMS} streams of {TOKENS} tokens: delay of a token"
    median = Measurement("concurrency.delay.p50", f"{title}, p50", "ms", _OTHERS)
    limited = (Comparison(UVICORN, Limit(1)), Comparison(PROCESSES))
    tail = Measurement("concurrency.delay.p99", f"{title}, p99", "ms", limited)
    memory = Measurement("concurrency.memory", f"{STREAMS} streams: total memory (PSS)", "MiB", _OTHERS)
    in_processes = _with(application.layer, STREAMING_RUNTIME_CONCURRENCY="process")
    programs = {LAYER: application.layer, PROCESSES: in_processes}
    for number in range(bench.workload.environment_rounds):
        if number == PROCESS_ROUNDS:
            del programs[PROCESSES]
        bench.show_progress(f"concurrent streams, round {number + 1} of {bench.workload.environment_rounds}")
        for name, program in programs.items():
            with contextlib.ExitStack() as ends:
                with on_other_processors():
                    environment = ends.enter_context(started(program, STREAMS, bench.launcher.log))
                with on_one_processor(), real_time_priority():
                    streams = environment.invoke(http_event(_TARGET), INTERVAL)
                memory.add(name, environment.pss_mib())
            add_median_and_tail((median, tail), name, _delays_ms(streams))
        streams, mebibytes = _on_uvicorn(bench, application)
        memory.add(UVICORN, mebibytes)
        add_median_and_tail((median, tail), UVICORN, _delays_ms(streams))
    return [median, tail, memory]


def _on_uvicorn(bench: Bench, application: Application) -> tuple[list[Stream], float]:
    """Return the streams, and the memory in MiB, of the web server with as many processes as the layer has."""
    with contextlib.ExitStack() as ends:
        with on_other_processors():
            workers = ("--workers", str(len(os.sched_getaffinity(0))))
            program = replace(application.server, command=(*application.server.command, *workers))
            server = ends.enter_context(running(program, bench.launcher.log))
            server.get("/")  # it has started
        request = f"GET {_TARGET} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        connections = [ends.enter_context(socket.create_connection(server.address)) for _ in range(STREAMS)]
        streams = [Stream(connection, request) for connection in connections]
        with on_one_processor(), real_time_priority():
            receive(streams, INTERVAL)
        return streams, pss_mib(server.pid)


def _memory(bench: Bench) -> Measurement:
    """Idle slots: each has imported the function, and waits for its first invocation."""
    title = f"total memory (PSS) of {SLOTS} slots: async handler, and workers of awslambdaric"
    measurement = Measurement("concurrency.slots-memory", title, "MiB", (Comparison(AWSLAMBDARIC, Limit(0.25, 0.1)),))
    programs = {LAYER: _async(bench.programs[LAYER])}
    if AWSLAMBDARIC in bench.programs:
        programs[AWSLAMBDARIC] = bench.programs[AWSLAMBDARIC]
    for number in range(bench.workload.environment_rounds):
        bench.show_progress(f"memory of {SLOTS} slots, round {number + 1} of {bench.workload.environment_rounds}")
        for name, program in programs.items():
            with started(program, SLOTS, bench.launcher.log) as environment:
                measurement.add(name, environment.pss_mib())
    return measurement


def _throughput(bench: Bench) -> Measurement:
    title = f"small chunks a second over {SLOTS} slots, and of one process"
    comparison = Comparison(ONE_PROCESS, Limit(1, is_minimum=True))
    measurement = Measurement("concurrency.throughput", title, "1/s", (comparison,))
    chunks = bench.workload.small_chunks
    for number in range(bench.workload.environment_rounds):
        bench.show_progress(f"throughput of {SLOTS} slots, round {number + 1} of {bench.workload.environment_rounds}")
        for name, slots in ((LAYER, SLOTS), (ONE_PROCESS, 0)):
            with started(_async(bench.programs[LAYER]), slots, bench.launcher.log) as environment:
                each = chunks // max(1, slots)
                environment_time = _seconds(environment.invoke({"chunks": each, "size": SMALL_BYTES}))
                measurement.add(name, each * max(1, slots) / environment_time)
    return measurement


def _seconds(streams: list[Stream]) -> float:
    return (max(stream.ended for stream in streams) - min(stream.begun for stream in streams)) / 1e9


def _delays_ms(streams: list[Stream]) -> list[float]:
    return [delay / 1e6 for stream in streams for delay in stream.delays()]


def _async(program: Program) -> Program:
    return _with(program, _HANDLER="lambda_function.async_handler")


def _with(program: Program, **variables: str) -> Program:
    return replace(program, variables={**program.variables, **variables})
