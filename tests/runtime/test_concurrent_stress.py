"""Many invocations at once under a Runtime API with faults, while workers are killed: each is accounted for once.

A sample runs always, 100,000 invocations with `./build.sh test --long`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from statistics import median

import pytest
from support.concurrent_function import ConcurrentFunction
from support.stress_api import Invocation, StressApi

SLOTS = 64
LONG = pytest.param(50_000, marks=pytest.mark.long)  # of each kind

COMMON = """
import logging
import os
import sys

logging.getLogger().setLevel("INFO")

def check(event, context):
    token = event["token"]
    assert context.aws_request_id == token.replace("token", "request"), (context.aws_request_id, token)
    assert os.environ["_X_AMZN_TRACE_ID"] == f"Root={token}"
    print("printed", token)
    logging.info("logged %s", token)
    if event["action"] == "fail":
        raise ValueError(token)
    if event["action"] == "exit":
        sys.exit(1)
    if event["action"] == "die":
        os._exit(1)
    return token.encode()
"""
GENERATOR = f"""{COMMON}
def handler(event, context):
    data = check(event, context)
    for n in range(event["chunks"]):
        yield data
        if event["action"] == "fail late":
            raise ValueError(event["token"])
"""
ASYNC_GENERATOR = f"""{COMMON}
import asyncio

async def handler(event, context):
    data = check(event, context)
    for n in range(event["chunks"]):
        await asyncio.sleep(0.001)
        yield data
        if event["action"] == "fail late":
            raise ValueError(event["token"])
    await asyncio.to_thread(logging.info, "thread %s", event["token"])
"""


def events(count: int) -> list[dict[str, object]]:
    choice = random.Random(2)
    rare = ["fail", "fail late", "exit"]
    made = [{"action": "", "chunks": choice.randrange(8)} for _ in range(count)]
    for event in choice.sample(made, count // 20):
        event.update(action=choice.choice(rare), chunks=3)
    for event in choice.sample(made, count // 200):
        event.update(action="die", chunks=3)
    return made


@pytest.mark.parametrize("count", [200, LONG])
@pytest.mark.parametrize("code", [GENERATOR, ASYNC_GENERATOR], ids=["processes", "one loop"])
def test_each_of_many_invocations_is_accounted_for_once(layer: Path, tmp_path: Path, code: str, count: int) -> None:
    api = StressApi(events(count), faults=0.01, crowd=SLOTS // 4 + 1)
    log, memory = asyncio.run(serve(api, layer, tmp_path, code))
    assert api.violations == []
    for invocation in api.invocations:
        check_end(invocation)
    check_log(log, api)
    assert api.init_errors == 0
    assert api.most_running > SLOTS // 4
    if count > 10_000:
        fifth = len(memory) // 5
        early, late = median(memory[fifth : 2 * fifth]), median(memory[-fifth:])
        assert late < early * 1.2, memory


async def serve(api: StressApi, layer: Path, folder: Path, code: str) -> tuple[list[dict[str, object]], list[int]]:
    """Serve all invocations, and kill a process now and then. Return the log, and memory of the parent in KiB.

    No worker lives long enough here to be compared with itself.
    """
    port = await api.start()
    variables = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}"}
    function = ConcurrentFunction(layer, folder / "function", code, SLOTS, variables=variables)
    pause = 0.3 if len(api.invocations) < 10_000 else 5.0
    killer = asyncio.create_task(kill_workers(function, pause))
    memory: list[int] = []
    try:
        for number, invocation in enumerate(api.invocations):
            await asyncio.wait_for(invocation.ended.wait(), 120)
            if number % 1000 == 999:
                memory.append(resident_memory(function.process.pid))
        killer.cancel()
        await asyncio.sleep(0.5)  # for a second end of an invocation, which would be an error
        os.killpg(function.process.pid, signal.SIGTERM)
        await asyncio.to_thread(function.wait)
        return function.records, memory
    finally:
        function.end()
        await api.close()


async def kill_workers(function: ConcurrentFunction, pause: float) -> None:
    choice = random.Random(3)
    while True:
        await asyncio.sleep(pause)
        workers = function.workers()
        if len(workers) > 1:
            try:
                os.kill(choice.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                continue


def resident_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def check_end(invocation: Invocation) -> None:
    """It has one end, and nothing of another invocation."""
    assert len(invocation.ends) == 1, (invocation.event, invocation.ends)
    kind, content = invocation.ends[0]
    token = invocation.token.encode()
    if kind == "response":
        data, _, trailers = content.partition(b"|")
        assert data.replace(token, b"") == b"", (token, content)
        assert bool(trailers) == (invocation.event["action"] in ("fail late",)) or b"Function.Timeout" in trailers
        if not trailers:
            assert data.count(token) == invocation.event["chunks"]
    elif kind == "truncated":
        assert content.replace(token, b"") == b""
    else:
        document = json.loads(content)
        assert document["requestId"] == invocation.request_id
        assert document["errorType"] in ("ValueError", "Runtime.ExitError"), document


def check_log(log: list[dict[str, object]], api: StressApi) -> None:
    """Each record that names an invocation has the id of that one."""
    found: Counter[str] = Counter()
    for record in log:
        words = str(record.get("message", "")).split()
        if len(words) == 2 and words[0] in ("printed", "logged", "thread"):
            assert record["requestId"] == words[1].replace("token", "request"), record
            found[words[0]] += 1
    assert found["printed"] > len(api.invocations) // 2  # a killed process has written less
