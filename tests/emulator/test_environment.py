"""Execution environments as processes: how they start, fail, and end. The programs in them are those of the test."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.emulator import HANDLER_HELPERS, ROOT, FunctionFolder, until
from support.invocations import Caller

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.environment import ExecutionEnvironment
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.execution.pool import EnvironmentPool
from tools.emulator.sandbox.supervisor_client import Supervisor

# The start of a runtime whose calls the test chooses.
RUNTIME = (
    HANDLER_HELPERS
    + '''
import socket

def call(head, body=b""):
    """Send a request to the Runtime API; return the status and the request ID of the response."""
    connection.sendall(f"{head} HTTP/1.1\\r\\nHost: here\\r\\n".encode() + body)
    response = connection.makefile("rb")
    status = int(response.readline().split()[1])
    headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(response.readline, b"\\r\\n"))
    response.read(int(headers["content-length"]))
    return status, headers.get("lambda-runtime-aws-request-id")

host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
connection = socket.create_connection((host, int(port)))
API = "/2018-06-01/runtime"
NEXT = f"GET {API}/invocation/next"
END = b"\\r\\n"
STREAM = b"Lambda-Runtime-Function-Response-Mode: streaming\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"

def respond(request_id, body):
    return call(f"POST {API}/invocation/{request_id}/response", STREAM + body)

def report_init_error(error_type):
    body = json.dumps({"errorType": error_type, "errorMessage": "cannot start"}).encode()
    return call(f"POST {API}/init/error", b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)

hold_lifeline(in_a_child=True)
'''
)

MakePool = Callable[..., EnvironmentPool]


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[FunctionFolder]:
    with FunctionFolder(tmp_path / "function", "") as folder:
        yield folder


@pytest.fixture
def make_pool(tmp_path: Path, supervisor: Supervisor, console: Console, folder: FunctionFolder) -> Iterator[MakePool]:
    """Makes a function whose layer has the test's program as its `bootstrap`."""
    pools: list[EnvironmentPool] = []

    def make(source: str, timeout: float = 30, **options: Any) -> EnvironmentPool:
        layer = tmp_path / "layer"
        layer.mkdir()
        (layer / "bootstrap").write_text(f"#!{sys.executable}\n{RUNTIME}{source}")
        (layer / "bootstrap").chmod(0o755)
        configuration = FunctionConfiguration("a-function", layer, folder.path, timeout=timeout)
        pools.append(EnvironmentPool(configuration, console, supervisor, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def invoke(pool: EnvironmentPool) -> Caller:
    """One invocation, read until its end."""
    invocation = pool.start_invocation(b"{}")
    caller = Caller(invocation)
    caller.wait()
    return caller


# Failures


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("call(NEXT, END)\ncall(NEXT, END)\nwait()", "next is not allowed"),
        ("call(NEXT, END)\ncall(f'POST {API}/invocation/other/response', END)\nwait()", "no invocation other"),
        ("respond(call(NEXT, END)[1], b'zz' + END)\nwait()", "'zz'"),
    ],
)
def test_a_process_that_violates_a_rule_is_killed(
    make_pool: MakePool, folder: FunctionFolder, source: str, rule: str
) -> None:
    error = invoke(make_pool(source)).error()
    assert "violated a rule of the Runtime API" in error["errorMessage"] and rule in error["errorMessage"]
    folder.wait_until_gone()


def test_a_process_that_stays_after_an_unfinished_response_times_out(
    make_pool: MakePool, folder: FunctionFolder
) -> None:
    source = """
request_id = call(NEXT, END)[1]
head = f"POST {API}/invocation/{request_id}/response HTTP/1.1\\r\\nHost: x\\r\\n"
connection.sendall(head.encode() + STREAM + b"4\\r\\none ")
connection.close()
wait()
"""
    caller = invoke(make_pool(source, timeout=0.5))
    assert caller.error()["errorType"] == "Sandbox.Timedout"
    assert caller.chunks == [b"one "]
    folder.wait_until_gone()


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(1)", "os.abort()"])
def test_a_process_that_exits_without_a_report_fails_the_invocation(
    make_pool: MakePool, folder: FunctionFolder, end: str
) -> None:
    assert invoke(make_pool(end)).error()["errorType"] == "Runtime.ExitError"
    folder.wait_until_gone()


def test_a_process_that_stays_after_an_init_error_is_killed(make_pool: MakePool, folder: FunctionFolder) -> None:
    assert invoke(make_pool("report_init_error('Runtime.Own')\nwait()")).error()["errorType"] == "Runtime.Own"
    folder.wait_until_gone()


@pytest.mark.parametrize(("mode", "hint"), [(0o644, "chmod +x"), (None, "bootstrap")])
def test_the_error_for_a_bootstrap_that_cannot_be_started_names_the_next_step(
    tmp_path: Path, supervisor: Supervisor, console: Console, mode: int | None, hint: str
) -> None:
    if mode is not None:
        (tmp_path / "bootstrap").write_text("#!/bin/sh\n")
        (tmp_path / "bootstrap").chmod(mode)
    pool = EnvironmentPool(FunctionConfiguration("a-function", tmp_path, tmp_path), console, supervisor)
    with pytest.raises(InvocationFailed) as caught:
        pool.start_invocation(b"{}")
    assert hint in caught.value.document["errorMessage"]
    assert caught.value.document["errorType"] == "Runtime.InvalidEntrypoint"


# Failures before the invocation is handed over


class LatePool(EnvironmentPool):
    """Hands invocations over when a condition is met, as under load."""

    condition: Callable[[ExecutionEnvironment], object]

    def _start(self, repeats_init: bool = False) -> Any:
        environment = super()._start(repeats_init)
        assert isinstance(environment, ExecutionEnvironment)
        until(lambda: self.condition(environment))
        return environment


def late(pool: EnvironmentPool, condition: Callable[[ExecutionEnvironment], object]) -> LatePool:
    pool.__class__ = LatePool
    assert isinstance(pool, LatePool)
    pool.condition = condition
    return pool


def process_has_ended(environment: ExecutionEnvironment) -> bool:
    return environment._ended


def init_is_overdue_or_repeated(environment: ExecutionEnvironment) -> bool:
    return environment._init_overdue or environment._on_init_timeout is None


def test_an_init_error_before_the_hand_over_reaches_the_caller(make_pool: MakePool, log: Path) -> None:
    pool = late(make_pool("report_init_error('Runtime.Own')\nsys.exit(1)"), process_has_ended)
    with pytest.raises(InvocationFailed) as caught, pool.invoke(b"{}") as invocation:
        invocation.wait_for_content_type()
    assert caught.value.document == {"errorType": "Runtime.Own", "errorMessage": "cannot start"}
    text = log.read_text()
    assert "START RequestId" in text and "Error Type: Runtime.Own" in text and "ExitError" not in text


def test_an_exit_before_the_hand_over_reaches_the_caller_with_the_request_id(make_pool: MakePool) -> None:
    pool = late(make_pool("os._exit(5)"), process_has_ended)
    with pytest.raises(InvocationFailed) as caught, pool.invoke(b"{}") as invocation:
        invocation.wait_for_content_type()
    message = f"RequestId: {invocation.request_id} Error: Runtime exited with error: exit status 5"
    assert caught.value.document == {"errorType": "Runtime.ExitError", "errorMessage": message}


def test_a_violation_before_the_hand_over_reaches_the_caller(make_pool: MakePool) -> None:
    pool = late(make_pool("call(f'GET {API}/nothing', END)\nwait()"), process_has_ended)
    assert "the Runtime API has no GET" in invoke(pool).error()["errorMessage"]


def test_the_limit_of_the_init_phase_is_enforced_if_it_passes_before_the_hand_over(
    make_pool: MakePool, folder: FunctionFolder
) -> None:
    source = """
if not os.path.exists("tried"):
    open("tried", "x").close()
    wait()
respond(call(NEXT, END)[1], b"4\\r\\nmade\\r\\n0\\r\\n\\r\\n")
call(NEXT, END)
"""
    pool = late(make_pool(source, init_timeout=0.3), init_is_overdue_or_repeated)
    assert invoke(pool).response() == b"made"


# Time limits


def test_a_process_that_never_calls_next_times_out(make_pool: MakePool, folder: FunctionFolder) -> None:
    error = invoke(make_pool("wait()", timeout=0.5, init_timeout=0.5)).error()
    assert error["errorType"] == "Sandbox.Timedout"
    assert error["errorMessage"].endswith(" Error: Task timed out after 0.50 seconds")
    folder.wait_until_gone()


def test_an_init_phase_that_reaches_its_limit_is_repeated_within_the_invocation(make_pool: MakePool, log: Path) -> None:
    source = """
if not os.path.exists("tried"):
    open("tried", "x").close()
    wait()
time.sleep(0.6)  # longer than the limit, which does not apply to the repetition
respond(call(NEXT, END)[1], b"4\\r\\nmade\\r\\n0\\r\\n\\r\\n")
call(NEXT, END)
"""
    assert invoke(make_pool(source, init_timeout=0.5)).response() == b"made"
    assert "INIT_REPORT Init Duration: 500.00 ms\tPhase: init\tStatus: timeout\nSTART " in log.read_text()


# The pool


@pytest.fixture
def pids(tmp_path: Path, supervisor: Supervisor, console: Console) -> Iterator[EnvironmentPool]:
    """A function on the real layer that responds with the number of its process."""
    source = """
    def handler(event, context):
        yield str(os.getpid()).encode()
    """
    with FunctionFolder(tmp_path / "pids", source) as folder:
        configuration = FunctionConfiguration("pids", ROOT / "layer", folder.path)
        pool = EnvironmentPool(configuration, console, supervisor)
        yield pool
        pool.close()


def pid_of_invocation(pool: EnvironmentPool) -> int:
    with pool.invoke(b"{}") as invocation:
        return int(Caller(invocation).response())


def test_an_environment_that_died_while_idle_is_not_used_again(pids: EnvironmentPool) -> None:
    first = pid_of_invocation(pids)
    [idle] = pids._idle
    os.kill(first, signal.SIGKILL)
    until(lambda: not idle.alive)
    assert pid_of_invocation(pids) != first


def test_an_environment_that_is_being_killed_is_not_used_again(pids: EnvironmentPool) -> None:
    first = pid_of_invocation(pids)
    [idle] = pids._idle
    assert isinstance(idle, ExecutionEnvironment)
    idle._retired = True  # what `retire` does first
    assert pid_of_invocation(pids) != first


def test_invocations_at_the_same_time_do_not_exceed_the_limit_together(pids: EnvironmentPool) -> None:
    pids._concurrency = 2
    seen: set[int] = set()
    threads = [
        threading.Thread(target=lambda: seen.add(int(Caller(pids.start_invocation(b"{}", wait=True)).response())))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(seen) <= 2


# Identifiers


def test_request_ids_are_random_uuids() -> None:
    ids = {Invocation(b"{}", 30).request_id for _ in range(100)}
    assert len(ids) == 100
    for each in ids:
        parsed = uuid.UUID(each)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, each)
