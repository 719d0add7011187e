"""The emulator's Runtime API against runtimes that break its rules: each is told, and its invocation fails."""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.support_local import HANDLER_SIDE, ROOT, WAIT, Answer, Client, TaskRoot, until

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution import environment
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.execution.pool import Function
from tools.emulator.execution.runtime_api import RuntimeApi, State

ARN = "arn:aws:lambda:us-east-1:123456789012:function:wrong"
API = "/2018-06-01/runtime"
MODE = "Lambda-Runtime-Function-Response-Mode: streaming"
CHUNKED = "Transfer-Encoding: chunked"
TRAILERS = "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"
ERROR = {"errorMessage": "bad word", "errorType": "ValueError", "stackTrace": []}


class Caller:
    """Reads the answer to an invocation as it comes, on a thread of its own."""

    def __init__(self, invocation: Invocation) -> None:
        self.chunks: list[bytes] = []
        self.content_type = ""
        self._invocation = invocation
        self._error: InvocationFailed | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def answer(self) -> bytes:
        """The whole of an answer that ends well."""
        self._wait()
        assert self._error is None
        return b"".join(self.chunks)

    def error(self) -> dict[str, Any]:
        self._wait()
        assert self._error is not None
        return self._error.document

    def _read(self) -> None:
        try:
            self.content_type = self._invocation.wait_for_head()
            for chunk in self._invocation.chunks():
                self.chunks.append(chunk)
        except InvocationFailed as error:
            self._error = error

    def _wait(self) -> None:
        self._thread.join(WAIT)
        assert not self._thread.is_alive(), "the invocation hangs"


class Runtime:
    """A runtime that says what a test makes it say, and the Runtime API that listens to it."""

    def __init__(self) -> None:
        self.breaches: list[str] = []
        self.started: list[Invocation] = []
        self.api = RuntimeApi(ARN, self.started.append, self.breaches.append)
        self.clients: list[Client] = []

    def connect(self) -> Client:
        host, port = self.api.address.split(":")
        self.clients.append(Client(host, int(port)))
        return self.clients[-1]

    def invoke(self, event: bytes = b"{}") -> tuple[Invocation, Caller]:
        invocation = Invocation(event, timeout=30)
        self.api.hand_over(invocation)
        return invocation, Caller(invocation)

    def take(self, event: bytes = b"{}") -> tuple[Client, Invocation, Caller]:
        """The runtime has asked for an invocation and got it."""
        invocation, caller = self.invoke(event)
        client = self.connect()
        client.ask(f"GET {API}/invocation/next HTTP/1.1")
        assert client.answer().status == 200
        return client, invocation, caller

    def close(self) -> None:
        self.api.end(InvocationFailed.because("Runtime.ExitError", "the end of the test"))
        for client in self.clients:
            client.close()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime()
    yield runtime
    runtime.close()


def respond(invocation: Invocation) -> str:
    return f"POST {API}/invocation/{invocation.request_id}/response HTTP/1.1"


def fail(invocation: Invocation) -> str:
    return f"POST {API}/invocation/{invocation.request_id}/error HTTP/1.1"


def assert_refused(answer: Answer, status: int, error_type: str, rule: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    told = json.loads(answer.body)
    assert told["errorType"] == error_type
    assert rule in told["errorMessage"]


def assert_breach(runtime: Runtime, caller: Caller, rule: str) -> None:
    """The caller is told which rule was broken, and the environment will be ended."""
    assert "broke a rule of the Runtime API" in caller.error()["errorMessage"]
    assert rule in caller.error()["errorMessage"]
    assert len(runtime.breaches) == 1 and rule in runtime.breaches[0]


# What is right


def test_next_hands_over_the_event_and_says_whose_it_is(runtime: Runtime) -> None:
    invocation, _ = runtime.invoke('{"word": "ä"}'.encode())
    client = runtime.connect()
    client.ask(f"GET {API}/invocation/next HTTP/1.1")
    answer = client.answer()
    assert (answer.status, answer.body) == (200, '{"word": "ä"}'.encode())
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["lambda-runtime-aws-request-id"] == invocation.request_id
    assert answer.headers["lambda-runtime-invoked-function-arn"] == ARN
    assert answer.headers["lambda-runtime-invocation-id"] == invocation.nonce
    assert answer.headers["lambda-runtime-trace-id"].startswith("Root=1-")
    assert answer.headers["lambda-runtime-deadline-ms"].isdigit()
    assert runtime.started == [invocation]


def test_next_waits_for_an_invocation(runtime: Runtime) -> None:
    client = runtime.connect()
    client.ask(f"GET {API}/invocation/next HTTP/1.1")
    assert runtime.api.wait_until_idle()
    invocation, _ = runtime.invoke()
    assert client.answer().headers["lambda-runtime-aws-request-id"] == invocation.request_id


def test_a_streamed_response_is_passed_on_chunk_by_chunk(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), MODE, CHUNKED, TRAILERS, "Content-Type: text/plain")
    client.send(b"4\r\none \r\n000003;name=value\r\ntwo\r\n0\r\n\r\n")
    assert client.answer()[::2] == (202, b'{"status": "OK"}')
    assert caller.answer() == b"one two"
    assert (caller.chunks, caller.content_type) == ([b"one ", b"two"], "text/plain")
    assert runtime.breaches == []


def test_a_buffered_response_is_passed_on_whole(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), body=b"words")
    assert client.answer().status == 202
    assert caller.answer() == b"words"


def test_one_connection_serves_one_invocation_after_another(runtime: Runtime) -> None:
    client = runtime.connect()
    for n in range(5):
        invocation, caller = runtime.invoke()
        client.ask(f"GET {API}/invocation/next HTTP/1.1")
        assert client.answer().status == 200
        client.ask(respond(invocation), MODE, CHUNKED)
        client.send(b"1\r\n%d\r\n0\r\n\r\n" % n)
        assert client.answer().status == 202
        assert caller.answer() == b"%d" % n


def test_an_error_instead_of_a_response_is_the_callers(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(fail(invocation), body=json.dumps(ERROR).encode())
    assert client.answer().status == 202
    assert caller.error() == ERROR
    assert runtime.breaches == []


def test_an_error_in_the_trailers_is_the_callers_after_what_was_streamed(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), MODE, CHUNKED, TRAILERS)
    client.send(b"4\r\none \r\n0\r\nLambda-Runtime-Function-Error-Type: Function.ValueError\r\n")
    client.send(b"lambda-runtime-function-error-body: %b\r\n\r\n" % base64.b64encode(json.dumps(ERROR).encode()))
    assert client.answer().status == 202
    assert (caller.error(), caller.chunks) == (ERROR, [b"one "])
    assert runtime.breaches == []


def test_an_error_before_the_first_next_is_that_of_the_waiting_invocation(runtime: Runtime) -> None:
    _, caller = runtime.invoke()
    client = runtime.connect()
    client.ask(f"POST {API}/init/error HTTP/1.1", body=json.dumps(ERROR).encode())
    assert client.answer().status == 202
    assert caller.error() == ERROR


# What breaks a rule


@pytest.mark.parametrize(
    ("headers", "body", "status", "error_type", "rule"),
    [
        (
            ["Lambda-Runtime-Function-Response-Mode: Streaming", CHUNKED],
            b"0\r\n\r\n",
            400,
            "Runtime.InvalidResponseModeHeader",
            "'Streaming'; it is 'streaming'",
        ),
        (
            ["Lambda-Runtime-Function-Response-Mode: buffered"],
            b"",
            400,
            "Runtime.InvalidResponseModeHeader",
            "it is 'streaming', or left out",
        ),
        (["Lambda-Runtime-Function-Response-Mode:"], b"", 400, "Runtime.InvalidResponseModeHeader", "streaming"),
        ([MODE, "Content-Length: 5"], b"words", 400, "Runtime.InvalidRequest", "Transfer-Encoding: chunked"),
        ([MODE], b"", 400, "Runtime.InvalidRequest", "Transfer-Encoding: chunked"),
        ([MODE, CHUNKED, "Content-Length: 5"], b"", 400, "Runtime.InvalidRequest", "both"),
        ([MODE, "Transfer-Encoding: gzip, chunked"], b"", 501, "Runtime.InvalidRequest", "Transfer-Encoding"),
        ([MODE, CHUNKED], b"0\r\nX-Undeclared: 1\r\n\r\n", 400, "Runtime.InvalidRequest", "X-Undeclared was not"),
        (
            [MODE, CHUNKED],
            b"0\r\nLambda-Runtime-Function-Error-Type: Function.X\r\n\r\n",
            400,
            "Runtime.InvalidRequest",
            "Lambda-Runtime-Function-Error-Type was not declared",
        ),
        ([MODE, CHUNKED], b"xyz\r\n", 400, "Runtime.InvalidRequest", "'xyz'"),
        ([MODE, CHUNKED], b"-1\r\n", 400, "Runtime.InvalidRequest", "hexadecimal"),
        ([MODE, CHUNKED], b"0x4\r\n", 400, "Runtime.InvalidRequest", "hexadecimal"),
        ([MODE, CHUNKED], b"\r\n", 400, "Runtime.InvalidRequest", "hexadecimal"),
        ([MODE, CHUNKED], b"1_0\r\n", 400, "Runtime.InvalidRequest", "hexadecimal"),
        ([MODE, CHUNKED], b"f" * 17 + b"\r\n", 400, "Runtime.InvalidRequest", "hexadecimal"),
        ([MODE, CHUNKED], b"4\n", 400, "Runtime.InvalidRequest", "bare CR or LF"),
        ([MODE, CHUNKED], b"3\r\nfour\r\n0\r\n\r\n", 400, "Runtime.InvalidRequest", "longer than its size"),
        ([MODE, CHUNKED], b"0\r\nno trailer\r\n\r\n", 400, "Runtime.InvalidRequest", "malformed"),
        (["Content-Length: 6291557"], b"", 413, "Runtime.InvalidRequest", "6291556"),
    ],
)
def test_a_response_that_breaks_a_rule_is_refused(
    runtime: Runtime, headers: list[str], body: bytes, status: int, error_type: str, rule: str
) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), *headers)
    client.send(body)
    assert_refused(client.answer(), status, error_type, rule)
    assert_breach(runtime, caller, rule)
    assert client.read_rest() == b""


def test_what_was_streamed_before_a_rule_was_broken_reaches_the_caller(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\nand more\r\n")
    assert_refused(client.answer(), 400, "Runtime.InvalidRequest", "'and more'")
    assert_breach(runtime, caller, "'and more'")
    assert caller.chunks == [b"one "]


ERROR_TRAILERS = [MODE, CHUNKED, TRAILERS]


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (b"no base64", "not base64"),
        (b"\xe4", "not base64"),
        (base64.b64encode(b"no JSON"), "not JSON"),
        (base64.b64encode(b"[" * 100_000), "not JSON"),
        (base64.b64encode(b"[]"), "no JSON object"),
        (b"", "not JSON"),
    ],
)
def test_an_error_in_the_trailers_that_cannot_be_read_is_refused(runtime: Runtime, value: bytes, rule: str) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), *ERROR_TRAILERS)
    client.send(b"0\r\nLambda-Runtime-Function-Error-Body: %b\r\n\r\n" % value)
    assert_refused(client.answer(), 400, "Runtime.InvalidRequest", rule)
    assert_breach(runtime, caller, rule)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"no JSON", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no JSON object"),
        (b'"text"', "no JSON object"),
        (b'{"errorType": "ValueError"}', "errorMessage"),
    ],
)
@pytest.mark.parametrize("call", ["error", "init/error"])
def test_an_error_report_that_cannot_be_read_is_refused(runtime: Runtime, call: str, body: bytes, rule: str) -> None:
    if call == "error":
        client, invocation, caller = runtime.take()
        client.ask(fail(invocation), body=body)
    else:
        (_, caller), client = runtime.invoke(), runtime.connect()
        client.ask(f"POST {API}/init/error HTTP/1.1", body=body)
    assert_refused(client.answer(), 400, "Runtime.InvalidRequest", rule)
    assert_breach(runtime, caller, rule)


def test_a_second_response_is_refused(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    for status in (202, 403):
        client.ask(respond(invocation), MODE, CHUNKED)
        client.send(b"3\r\none\r\n0\r\n\r\n")
        answer = client.answer()
        assert answer.status == status
    assert_refused(answer, 403, "InvalidStateTransition", "done with its invocation")
    assert caller.answer() == b"one"
    assert len(runtime.breaches) == 1


def test_an_error_after_the_response_is_refused(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), body=b"one")
    assert client.answer().status == 202
    client.ask(fail(invocation), body=json.dumps(ERROR).encode())
    assert_refused(client.answer(), 403, "InvalidStateTransition", "error was called")
    assert caller.answer() == b"one"


def test_an_error_within_the_response_is_refused(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\n")
    assert wait_for_chunk(caller) == b"one "
    other = runtime.connect()
    other.ask(fail(invocation), body=json.dumps(ERROR).encode())
    assert_refused(other.answer(), 403, "InvalidStateTransition", "in the middle of a response")
    assert_breach(runtime, caller, "in the middle of a response")


def test_next_within_the_response_is_refused(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\n")
    assert wait_for_chunk(caller) == b"one "
    other = runtime.connect()
    other.ask(f"GET {API}/invocation/next HTTP/1.1")
    assert_refused(other.answer(), 403, "InvalidStateTransition", "in the middle of a response")
    assert_breach(runtime, caller, "in the middle of a response")


def wait_for_chunk(caller: Caller) -> bytes:
    until(lambda: caller.chunks)
    return caller.chunks[0]


def test_next_before_the_invocation_is_answered_is_refused(runtime: Runtime) -> None:
    client, _, caller = runtime.take()
    client.ask(f"GET {API}/invocation/next HTTP/1.1")
    assert_refused(client.answer(), 403, "InvalidStateTransition", "has not answered it yet")
    assert_breach(runtime, caller, "has not answered it yet")


@pytest.mark.parametrize("call", ["response", "error"])
def test_a_wrong_request_id_is_refused(runtime: Runtime, call: str) -> None:
    client, _, caller = runtime.take()
    client.ask(f"POST {API}/invocation/of-another-time/{call} HTTP/1.1", body=json.dumps(ERROR).encode())
    assert_refused(client.answer(), 400, "InvalidRequestID", "of-another-time")
    assert_breach(runtime, caller, "of-another-time")


@pytest.mark.parametrize("call", [respond, fail])
def test_the_id_of_another_attempt_is_refused(runtime: Runtime, call: Any) -> None:
    client, invocation, caller = runtime.take()
    client.ask(call(invocation), "Lambda-Runtime-Invocation-Id: another", body=json.dumps(ERROR).encode())
    assert_refused(client.answer(), 410, "InvokeTimeout", "Lambda-Runtime-Invocation-Id")
    assert_breach(runtime, caller, "Lambda-Runtime-Invocation-Id")


@pytest.mark.parametrize("call", [respond, fail])
def test_the_id_of_this_attempt_is_accepted(runtime: Runtime, call: Any) -> None:
    client, invocation, _ = runtime.take()
    mine = f"Lambda-Runtime-Invocation-Id: {invocation.nonce}"
    client.ask(call(invocation), mine, body=json.dumps(ERROR).encode())
    assert client.answer().status == 202


def test_a_response_without_an_invocation_is_refused(runtime: Runtime) -> None:
    client = runtime.connect()
    client.ask(f"POST {API}/invocation/none/response HTTP/1.1", body=b"x")
    assert_refused(client.answer(), 400, "InvalidRequestID", "none")


def test_an_init_error_after_next_is_refused(runtime: Runtime) -> None:
    client, _, caller = runtime.take()
    client.ask(f"POST {API}/init/error HTTP/1.1", body=json.dumps(ERROR).encode())
    assert_refused(client.answer(), 403, "InvalidStateTransition", "init/error was called")
    assert_breach(runtime, caller, "init/error was called")


def test_a_second_init_error_is_refused(runtime: Runtime) -> None:
    _, caller = runtime.invoke()
    client = runtime.connect()
    for status in (202, 403):
        client.ask(f"POST {API}/init/error HTTP/1.1", body=json.dumps(ERROR).encode())
        assert client.answer().status == status
    assert caller.error() == ERROR


@pytest.mark.parametrize(
    "call", [f"POST {API}/invocation/next", f"GET {API}/init/error", f"GET {API}/", "GET /", f"GET {API}/restore/next"]
)
def test_what_is_no_call_of_the_runtime_api_is_not_found(runtime: Runtime, call: str) -> None:
    client, _, caller = runtime.take()
    client.ask(f"{call} HTTP/1.1")
    assert_refused(client.answer(), 404, "Runtime.InvalidRequest", call)
    assert_breach(runtime, caller, call)


def test_what_is_no_http_is_refused(runtime: Runtime) -> None:
    client, _, caller = runtime.take()
    client.send(b"next, please\n")
    assert_refused(client.answer(), 400, "Runtime.InvalidRequest", "bare CR or LF")
    assert_breach(runtime, caller, "bare CR or LF")


def test_a_response_to_an_invocation_that_is_over_is_gone(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    invocation.finish(InvocationFailed.because("Sandbox.Timedout", "too late"))
    client.ask(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\nlate\r\n0\r\n\r\n")
    assert client.answer().status == 410
    assert caller.error()["errorType"] == "Sandbox.Timedout"


def test_a_connection_that_ends_within_the_response_is_told_of_by_the_next_call(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\na\r\nhalf")
    client.close()
    until(lambda: runtime.api.state is State.ANSWERED)
    other = runtime.connect()
    other.ask(f"GET {API}/invocation/next HTTP/1.1")
    assert caller.error()["errorType"] == "Runtime.TruncatedResponse"
    assert b"".join(caller.chunks) == b"one half"


def test_a_process_that_ends_within_its_response_fails_the_invocation(runtime: Runtime) -> None:
    client, invocation, caller = runtime.take()
    client.ask(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\n")
    client.close()
    runtime.api.end(InvocationFailed.because("Runtime.ExitError", "gone"))
    assert caller.error()["errorType"] == "Runtime.ExitError"
    assert caller.chunks == [b"one "]
    assert not runtime.api.wait_until_idle()


def test_an_invocation_that_comes_after_the_end_of_the_process_fails(runtime: Runtime) -> None:
    runtime.api.end(InvocationFailed.because("Runtime.ExitError", "gone"))
    _, caller = runtime.invoke()
    assert caller.error()["errorType"] == "Runtime.ExitError"


# The same in processes: what is started is a program of the test, and not the layer's

WRONG_RUNTIME = (
    HANDLER_SIDE
    + '''
import socket

def call(head, body=b""):
    """Send one request of the Runtime API; gives the status and the request id of the answer."""
    connection.sendall(f"{head} HTTP/1.1\\r\\nHost: here\\r\\n".encode() + body)
    answer = connection.makefile("rb")
    status = int(answer.readline().split()[1])
    headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(answer.readline, b"\\r\\n"))
    answer.read(int(headers["content-length"]))
    return status, headers.get("lambda-runtime-aws-request-id")

host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
connection = socket.create_connection((host, int(port)))
API = "/2018-06-01/runtime"
NEXT = f"GET {API}/invocation/next"
END = b"\\r\\n"
STREAM = b"Lambda-Runtime-Function-Response-Mode: streaming\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"
keep_life_sign(in_a_child=True)
'''
)


@pytest.fixture
def invoke(tmp_path: Path) -> Iterator[Any]:
    """Invokes a function whose layer's bootstrap goes on as a test says, and sees it ended."""
    with TaskRoot(tmp_path / "function", "") as root:

        def invoke(source: str, timeout: float = 30) -> Caller:
            layer = tmp_path / "layer"
            layer.mkdir()
            (layer / "bootstrap").write_text(f"#!{sys.executable}\n{WRONG_RUNTIME}{source}")
            (layer / "bootstrap").chmod(0o755)
            function = Function(FunctionConfiguration(layer, root.path, "any.thing", timeout, 128), Console())
            try:
                with function.invoke(b"{}") as invocation:
                    caller = Caller(invocation)
                    caller._wait()
            finally:
                function.close()
            root.outlive()
            return caller

        yield invoke


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("call(NEXT, END); call(NEXT, END); wait()", "next was called"),
        ("call(NEXT, END); call(f'POST {API}/invocation/other/response', END); wait()", "other"),
        ("i = call(NEXT, END)[1]; call(f'POST {API}/invocation/{i}/response', STREAM + b'zz'+END); wait()", "'zz'"),
    ],
)
def test_a_process_that_breaks_a_rule_is_ended_and_its_invocation_fails(invoke: Any, source: str, rule: str) -> None:
    error = invoke(source).error()
    assert "broke a rule of the Runtime API" in error["errorMessage"] and rule in error["errorMessage"]


def test_a_process_that_leaves_its_response_unfinished_and_stays_is_timed_out(invoke: Any) -> None:
    source = """
i = call(NEXT, END)[1]
connection.sendall(f"POST {API}/invocation/{i}/response HTTP/1.1\\r\\nHost: x\\r\\n".encode() + STREAM + b"4\\r\\none ")
connection.close()
wait()
"""
    caller = invoke(source, timeout=0.5)
    assert caller.error()["errorType"] == "Sandbox.Timedout"
    assert caller.chunks == [b"one "]


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(1)", "os.abort()"])
def test_a_process_that_ends_without_a_word_fails_the_invocation(invoke: Any, end: str) -> None:
    assert invoke(end).error()["errorType"] == "Runtime.ExitError"


def test_a_process_that_never_asks_for_an_invocation_is_timed_out(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "INIT_LIMIT", 0.5)
    error = invoke("wait()", timeout=0.5).error()
    assert error["errorType"] == "Sandbox.Timedout"
    assert error["errorMessage"].endswith(" Error: Task timed out after 0.50 seconds")


def test_an_init_phase_that_takes_too_long_is_done_again_within_the_invocation(
    invoke: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "INIT_LIMIT", 2)
    source = """
if not os.path.exists("tried"):
    open("tried", "x").close()
    wait()
time.sleep(2.1)
i = call(NEXT, END)[1]
call(f"POST {API}/invocation/{i}/response", STREAM + b"4\\r\\nmade\\r\\n0\\r\\n\\r\\n")
call(NEXT, END)
"""
    assert invoke(source).answer() == b"made"
    assert "INIT_REPORT Init Duration: 2000.00 ms\tPhase: init\tStatus: timeout\nSTART " in capfd.readouterr().err


def test_an_environment_that_died_while_idle_is_not_used_again(tmp_path: Path) -> None:
    with TaskRoot(tmp_path / "function", "def handler(event, context): yield str(os.getpid()).encode()") as root:
        configuration = FunctionConfiguration(ROOT / "layer", root.path, "lambda_function.handler", 30, 128)
        function = Function(configuration, Console())
        pids = []
        for _ in range(2):
            with function.invoke(b"{}") as invocation:
                pids.append(int(Caller(invocation).answer()))
            [idle] = function._warm
            os.kill(pids[-1], signal.SIGKILL)
            until(lambda idle=idle: not idle.alive)
        function.close()
    assert pids[0] != pids[1]


def test_an_end_before_the_invocation_came_is_told_of_with_its_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke = environment.ExecutionEnvironment.invoke

    def invoke_late(self: environment.ExecutionEnvironment, invocation: Invocation) -> None:
        until(lambda: self._api.state is State.ENDED)
        invoke(self, invocation)

    monkeypatch.setattr(environment.ExecutionEnvironment, "invoke", invoke_late)
    (tmp_path / "bootstrap").write_text("#!/bin/sh\nexit 5\n")
    (tmp_path / "bootstrap").chmod(0o755)
    function = Function(FunctionConfiguration(tmp_path, tmp_path, "any.thing", 30, 128), Console())
    with pytest.raises(InvocationFailed) as caught, function.invoke(b"{}") as invocation:
        invocation.wait_for_head()
    message = f"RequestId: {invocation.request_id} Error: Runtime exited with error: exit status 5"
    assert caught.value.document == {"errorType": "Runtime.ExitError", "errorMessage": message}
    function.close()


@pytest.mark.parametrize(("mode", "hint"), [(0o644, "chmod +x"), (None, "bootstrap")])
def test_a_bootstrap_that_cannot_be_started_is_told_of(tmp_path: Path, mode: int | None, hint: str) -> None:
    if mode is not None:
        (tmp_path / "bootstrap").write_text("#!/bin/sh\n")
        (tmp_path / "bootstrap").chmod(mode)
    function = Function(FunctionConfiguration(tmp_path, tmp_path, "any.thing", 30, 128), Console())
    with pytest.raises(InvocationFailed, match=hint.replace("+", r"\+")) as caught, function.invoke(b"{}"):
        pass
    assert caught.value.document["errorType"] == "Runtime.InvalidEntrypoint"
    function.close()
