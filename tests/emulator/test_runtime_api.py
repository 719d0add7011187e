"""The emulator's Runtime API: what it accepts, and how it refuses runtimes that violate a rule."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.emulator import WAIT, Client, Response, until
from support.invocations import Caller

from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.execution.runtime_api import RuntimeApiServer, State
from tools.emulator.http1.connection import Connection, Request
from tools.emulator.http1.server import Server

FUNCTION = FunctionConfiguration("wrong", Path("/nonexistent"), Path("/nonexistent"))
ARN = "arn:aws:lambda:us-east-1:123456789012:function:wrong"
API = "/2018-06-01/runtime"
MODE = "Lambda-Runtime-Function-Response-Mode: streaming"
CHUNKED = "Transfer-Encoding: chunked"
TRAILERS = "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"
ERROR = {"errorMessage": "bad word", "errorType": "ValueError", "stackTrace": []}


class Environment:
    """Records the events of a runtime."""

    def __init__(self) -> None:
        self.started: list[Invocation] = []
        self.violations: list[str] = []
        self.init_errors = 0

    def on_start(self, invocation: Invocation) -> None:
        self.started.append(invocation)

    def on_idle(self) -> None:
        """Not recorded."""

    def on_init_error(self) -> None:
        self.init_errors += 1

    def on_violation(self, message: str) -> None:
        self.violations.append(message)


class Runtime:
    """A runtime that sends what the test sends, and the server that receives it."""

    def __init__(self, attached: bool = False) -> None:
        self.environment = Environment()
        self.api = RuntimeApiServer(FUNCTION, self.environment, attached=attached)
        self.api.start()
        self.endpoint = Server(self.api.serve) if attached else None
        if self.endpoint is not None:
            self.endpoint.start()
        self.clients: list[Client] = []

    def connect(self) -> Client:
        host, port = (self.endpoint.authority if self.endpoint else self.api.address).split(":")
        self.clients.append(Client(host, int(port)))
        return self.clients[-1]

    def invoke(self, event: bytes = b"{}") -> tuple[Invocation, Caller]:
        invocation = Invocation(event, timeout=30)
        self.api.hand_over(invocation)
        return invocation, Caller(invocation)

    def receive(self, event: bytes = b"{}") -> tuple[Client, Invocation, Caller]:
        """Invoke the function, and receive the invocation with `next`."""
        invocation, caller = self.invoke(event)
        client = self.connect()
        client.send_request(f"GET {API}/invocation/next HTTP/1.1")
        assert client.read_response().status == 200
        return client, invocation, caller

    def close(self) -> None:
        self.api.process_ended(InvocationFailed.of_type("Runtime.ExitError", "the end of the test"))
        if self.endpoint:
            self.endpoint.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime()
    yield runtime
    runtime.close()


@pytest.fixture
def attached() -> Iterator[Runtime]:
    runtime = Runtime(attached=True)
    yield runtime
    runtime.close()


def respond(invocation: Invocation) -> str:
    return f"POST {API}/invocation/{invocation.request_id}/response HTTP/1.1"


def fail(invocation: Invocation) -> str:
    return f"POST {API}/invocation/{invocation.request_id}/error HTTP/1.1"


def assert_refused(response: Response, status: int, error_type: str, rule: str) -> None:
    assert (response.status, response.headers["content-type"]) == (status, "application/json")
    report = json.loads(response.body)
    assert report["errorType"] == error_type
    assert rule in report["errorMessage"]


def assert_violation(runtime: Runtime, caller: Caller, rule: str) -> None:
    """The error of the invocation names the rule, and the environment is informed once."""
    assert "violated a rule of the Runtime API" in caller.error()["errorMessage"]
    assert rule in caller.error()["errorMessage"]
    assert len(runtime.environment.violations) == 1 and rule in runtime.environment.violations[0]


# Accepted calls


def test_next_returns_the_event_and_its_metadata(runtime: Runtime) -> None:
    invocation, _ = runtime.invoke('{"word": "ä"}'.encode())
    client = runtime.connect()
    client.send_request(f"GET {API}/invocation/next HTTP/1.1")
    response = client.read_response()
    assert (response.status, response.body) == (200, '{"word": "ä"}'.encode())
    assert response.headers["content-type"] == "application/json"
    assert response.headers["lambda-runtime-aws-request-id"] == invocation.request_id
    assert response.headers["lambda-runtime-invoked-function-arn"] == ARN
    assert response.headers["lambda-runtime-invocation-id"] == invocation.invocation_id
    assert response.headers["lambda-runtime-trace-id"].startswith("Root=1-")
    assert response.headers["lambda-runtime-deadline-ms"].isdigit()
    assert runtime.environment.started == [invocation]


def test_next_waits_for_an_invocation(runtime: Runtime) -> None:
    client = runtime.connect()
    client.send_request(f"GET {API}/invocation/next HTTP/1.1")
    until(lambda: runtime.api.state is State.IDLE)
    invocation, _ = runtime.invoke()
    assert client.read_response().headers["lambda-runtime-aws-request-id"] == invocation.request_id


def test_a_streamed_response_is_passed_on_chunk_by_chunk(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), MODE, CHUNKED, TRAILERS, "Content-Type: text/plain")
    client.send(b"4\r\none \r\n000003;name=value\r\ntwo\r\n0\r\n\r\n")
    assert client.read_response()[::2] == (202, b'{"status": "OK"}')
    assert caller.response() == b"one two"
    assert (caller.chunks, caller.content_type) == ([b"one ", b"two"], "text/plain")
    assert runtime.environment.violations == []


def test_a_buffered_response_is_passed_on_whole(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), body=b"words")
    assert client.read_response().status == 202
    assert caller.response() == b"words"


def test_each_response_has_a_status_line_with_a_reason(runtime: Runtime) -> None:
    client, invocation, _ = runtime.receive()
    client.send_request(respond(invocation), body=b"words")
    assert client.read_head()[0] == "HTTP/1.1 202 OK"
    other = runtime.connect()
    other.send_request(f"GET {API}/nothing HTTP/1.1")
    assert other.read_head()[0] == "HTTP/1.1 404 Refused"


def test_one_connection_serves_one_invocation_after_another(runtime: Runtime) -> None:
    client = runtime.connect()
    for n in range(5):
        invocation, caller = runtime.invoke()
        client.send_request(f"GET {API}/invocation/next HTTP/1.1")
        assert client.read_response().status == 200
        client.send_request(respond(invocation), MODE, CHUNKED)
        client.send(b"1\r\n%d\r\n0\r\n\r\n" % n)
        assert client.read_response().status == 202
        assert caller.response() == b"%d" % n


def test_an_error_instead_of_a_response_reaches_the_caller(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(fail(invocation), body=json.dumps(ERROR).encode())
    assert client.read_response().status == 202
    assert caller.error() == ERROR
    assert runtime.environment.violations == []


def test_an_error_in_the_trailers_reaches_the_caller_after_the_chunks(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), MODE, CHUNKED, TRAILERS)
    client.send(b"4\r\none \r\n0\r\nLambda-Runtime-Function-Error-Type: Function.ValueError\r\n")
    client.send(b"lambda-runtime-function-error-body: %b\r\n\r\n" % base64.b64encode(json.dumps(ERROR).encode()))
    assert client.read_response().status == 202
    assert (caller.error(), caller.chunks) == (ERROR, [b"one "])
    assert runtime.environment.violations == []


def test_an_init_error_fails_the_pending_invocation(runtime: Runtime) -> None:
    _, caller = runtime.invoke()
    client = runtime.connect()
    client.send_request(f"POST {API}/init/error HTTP/1.1", body=json.dumps(ERROR).encode())
    assert client.read_response().status == 202
    assert caller.error() == ERROR


# Refused calls


@pytest.mark.parametrize(
    ("headers", "body", "status", "error_type", "rule"),
    [
        (
            ["Lambda-Runtime-Function-Response-Mode: Streaming", CHUNKED],
            b"0\r\n\r\n",
            400,
            "Runtime.InvalidResponseModeHeader",
            "'Streaming'; set it to 'streaming'",
        ),
        (
            ["Lambda-Runtime-Function-Response-Mode: buffered"],
            b"",
            400,
            "Runtime.InvalidResponseModeHeader",
            "set it to 'streaming', or leave it out",
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
def test_a_response_that_violates_a_rule_is_refused(
    runtime: Runtime, headers: list[str], body: bytes, status: int, error_type: str, rule: str
) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), *headers)
    client.send(body)
    assert_refused(client.read_response(), status, error_type, rule)
    assert_violation(runtime, caller, rule)
    assert client.read_rest() == b""


def test_chunks_before_a_violation_reach_the_caller(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\nand more\r\n")
    assert_refused(client.read_response(), 400, "Runtime.InvalidRequest", "'and more'")
    assert_violation(runtime, caller, "'and more'")
    assert caller.chunks == [b"one "]


ERROR_TRAILERS = [MODE, CHUNKED, TRAILERS]


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (b"no base64", "not base64"),
        (b"\xe4", "not base64"),
        (base64.b64encode(b"no JSON"), "not JSON"),
        (base64.b64encode(b"[" * 100_000), "not JSON"),
        (base64.b64encode(b"[]"), "must be a JSON object"),
        (b"", "not JSON"),
    ],
)
def test_malformed_error_trailers_are_refused(runtime: Runtime, value: bytes, rule: str) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), *ERROR_TRAILERS)
    client.send(b"0\r\nLambda-Runtime-Function-Error-Body: %b\r\n\r\n" % value)
    assert_refused(client.read_response(), 400, "Runtime.InvalidRequest", rule)
    assert_violation(runtime, caller, rule)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"no JSON", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"errorType": "ValueError"}', "errorMessage"),
    ],
)
@pytest.mark.parametrize("call", ["error", "init/error"])
def test_a_malformed_error_report_is_refused(runtime: Runtime, call: str, body: bytes, rule: str) -> None:
    if call == "error":
        client, invocation, caller = runtime.receive()
        client.send_request(fail(invocation), body=body)
    else:
        (_, caller), client = runtime.invoke(), runtime.connect()
        client.send_request(f"POST {API}/init/error HTTP/1.1", body=body)
    assert_refused(client.read_response(), 400, "Runtime.InvalidRequest", rule)
    assert_violation(runtime, caller, rule)


def test_a_second_response_is_refused(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    for status in (202, 403):
        client.send_request(respond(invocation), MODE, CHUNKED)
        client.send(b"3\r\none\r\n0\r\n\r\n")
        response = client.read_response()
        assert response.status == status
    assert_refused(response, 403, "InvalidStateTransition", "done with its invocation")
    assert caller.response() == b"one"
    assert len(runtime.environment.violations) == 1


def test_an_error_after_the_response_is_refused(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), body=b"one")
    assert client.read_response().status == 202
    client.send_request(fail(invocation), body=json.dumps(ERROR).encode())
    assert_refused(client.read_response(), 403, "InvalidStateTransition", "error is not allowed")
    assert caller.response() == b"one"


def test_an_error_in_the_middle_of_a_response_is_refused(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\n")
    assert wait_for_chunk(caller) == b"one "
    other = runtime.connect()
    other.send_request(fail(invocation), body=json.dumps(ERROR).encode())
    assert_refused(other.read_response(), 403, "InvalidStateTransition", "in the middle of a response")
    assert_violation(runtime, caller, "in the middle of a response")


def test_next_in_the_middle_of_a_response_is_refused(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\n")
    assert wait_for_chunk(caller) == b"one "
    other = runtime.connect()
    other.send_request(f"GET {API}/invocation/next HTTP/1.1")
    assert_refused(other.read_response(), 403, "InvalidStateTransition", "in the middle of a response")
    assert_violation(runtime, caller, "in the middle of a response")


def wait_for_chunk(caller: Caller) -> bytes:
    until(lambda: caller.chunks)
    return caller.chunks[0]


def test_next_before_the_response_is_refused(runtime: Runtime) -> None:
    client, _, caller = runtime.receive()
    client.send_request(f"GET {API}/invocation/next HTTP/1.1")
    assert_refused(client.read_response(), 403, "InvalidStateTransition", "has not responded")
    assert_violation(runtime, caller, "has not responded")


@pytest.mark.parametrize("call", ["response", "error"])
def test_an_unknown_request_id_is_refused(runtime: Runtime, call: str) -> None:
    client, _, caller = runtime.receive()
    client.send_request(f"POST {API}/invocation/of-another-time/{call} HTTP/1.1", body=json.dumps(ERROR).encode())
    assert_refused(client.read_response(), 400, "InvalidRequestID", "of-another-time")
    assert_violation(runtime, caller, "of-another-time")


@pytest.mark.parametrize("call", [respond, fail])
def test_the_id_of_another_attempt_is_refused(runtime: Runtime, call: Any) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(call(invocation), "Lambda-Runtime-Invocation-Id: another", body=json.dumps(ERROR).encode())
    assert_refused(client.read_response(), 410, "InvokeTimeout", "Lambda-Runtime-Invocation-Id")
    assert_violation(runtime, caller, "Lambda-Runtime-Invocation-Id")


@pytest.mark.parametrize("call", [respond, fail])
def test_the_id_of_this_attempt_is_accepted(runtime: Runtime, call: Any) -> None:
    client, invocation, _ = runtime.receive()
    mine = f"Lambda-Runtime-Invocation-Id: {invocation.invocation_id}"
    client.send_request(call(invocation), mine, body=json.dumps(ERROR).encode())
    assert client.read_response().status == 202


def test_a_response_without_an_invocation_is_refused(runtime: Runtime) -> None:
    client = runtime.connect()
    client.send_request(f"POST {API}/invocation/none/response HTTP/1.1", body=b"x")
    assert_refused(client.read_response(), 400, "InvalidRequestID", "none")


def test_an_init_error_after_next_is_refused(runtime: Runtime) -> None:
    client, _, caller = runtime.receive()
    client.send_request(f"POST {API}/init/error HTTP/1.1", body=json.dumps(ERROR).encode())
    assert_refused(client.read_response(), 403, "InvalidStateTransition", "init/error is not allowed")
    assert_violation(runtime, caller, "init/error is not allowed")


def test_a_second_init_error_is_refused(runtime: Runtime) -> None:
    _, caller = runtime.invoke()
    client = runtime.connect()
    for status in (202, 403):
        client.send_request(f"POST {API}/init/error HTTP/1.1", body=json.dumps(ERROR).encode())
        assert client.read_response().status == status
    assert caller.error() == ERROR


@pytest.mark.parametrize(
    "call", [f"POST {API}/invocation/next", f"GET {API}/init/error", f"GET {API}/", "GET /", f"GET {API}/restore/next"]
)
def test_an_unknown_call_is_not_found(runtime: Runtime, call: str) -> None:
    client, _, caller = runtime.receive()
    client.send_request(f"{call} HTTP/1.1")
    assert_refused(client.read_response(), 404, "Runtime.InvalidRequest", call)
    assert_violation(runtime, caller, call)


def test_malformed_http_is_refused(runtime: Runtime) -> None:
    client, _, caller = runtime.receive()
    client.send(b"next, please\n")
    assert_refused(client.read_response(), 400, "Runtime.InvalidRequest", "bare CR or LF")
    assert_violation(runtime, caller, "bare CR or LF")


def test_a_response_to_an_ended_invocation_has_status_410(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    invocation.finish(InvocationFailed.of_type("Sandbox.Timedout", "too late"))
    client.send_request(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\nlate\r\n0\r\n\r\n")
    assert client.read_response().status == 410
    assert caller.error()["errorType"] == "Sandbox.Timedout"


def test_the_call_after_a_truncated_response_fails_its_invocation(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\na\r\nhalf")
    client.close()
    until(lambda: runtime.api.state is State.RESPONDED)
    other = runtime.connect()
    other.send_request(f"GET {API}/invocation/next HTTP/1.1")
    assert caller.error()["errorType"] == "Runtime.TruncatedResponse"
    assert b"".join(caller.chunks) == b"one half"


def test_the_end_of_the_process_in_the_middle_of_a_response_fails_the_invocation(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(respond(invocation), MODE, CHUNKED)
    client.send(b"4\r\none \r\n")
    client.close()
    runtime.api.process_ended(InvocationFailed.of_type("Runtime.ExitError", "gone"))
    assert caller.error()["errorType"] == "Runtime.ExitError"
    assert caller.chunks == [b"one "]


def test_an_invocation_after_the_end_of_the_process_fails(runtime: Runtime) -> None:
    runtime.api.process_ended(InvocationFailed.of_type("Runtime.ExitError", "gone"))
    _, caller = runtime.invoke()
    assert caller.error()["errorType"] == "Runtime.ExitError"


# Failures that arrive before the hand-over


def report_init_error(runtime: Runtime) -> None:
    client = runtime.connect()
    client.send_request(f"POST {API}/init/error HTTP/1.1", body=json.dumps(ERROR).encode())
    assert client.read_response().status == 202


def violate(runtime: Runtime) -> None:
    client = runtime.connect()
    client.send_request(f"GET {API}/nothing HTTP/1.1")
    assert client.read_response().status == 404


@pytest.mark.parametrize("exits", [False, True])
def test_an_init_error_before_the_hand_over_fails_the_invocation(runtime: Runtime, exits: bool) -> None:
    report_init_error(runtime)
    if exits:
        runtime.api.process_ended(InvocationFailed.of_type("Runtime.ExitError", "exit status 1"))
    _, caller = runtime.invoke()
    assert caller.error() == ERROR
    assert runtime.environment.init_errors == 1


@pytest.mark.parametrize("exits", [False, True])
def test_a_violation_before_the_hand_over_fails_the_invocation(runtime: Runtime, exits: bool) -> None:
    violate(runtime)
    if exits:
        runtime.api.process_ended(InvocationFailed.of_type("Runtime.ExitError", "signal: killed"))
    _, caller = runtime.invoke()
    assert_violation(runtime, caller, f"the Runtime API has no GET {API}/nothing")


class SlowRuntimeApiServer(RuntimeApiServer):
    """Reads nothing before the test allows it, as under load."""

    def __init__(self, environment: Environment) -> None:
        self.may_read = threading.Event()
        super().__init__(FUNCTION, environment)

    def serve(self, connection: Connection, request: Request | None = None) -> None:
        assert self.may_read.wait(WAIT)
        super().serve(connection, request)


def test_an_init_error_that_is_unread_at_the_end_of_the_process_reaches_the_caller(runtime: Runtime) -> None:
    runtime.close()
    api = runtime.api = SlowRuntimeApiServer(runtime.environment)
    api.start()
    body = json.dumps(ERROR).encode()
    client = runtime.connect()
    client.send_request(f"POST {API}/init/error HTTP/1.1", body=body)
    assert api._server is not None
    until(lambda: api._server._connections)
    exit_failure = InvocationFailed.of_type("Runtime.ExitError", "exit status 1")
    end = threading.Thread(target=api.process_ended, args=(exit_failure,))
    end.start()
    until(lambda: api._server._closed)
    api.may_read.set()
    end.join()
    _, caller = runtime.invoke()
    assert caller.error() == ERROR


def test_a_violation_while_idle_fails_the_next_invocation_with_its_rule(runtime: Runtime) -> None:
    client = runtime.connect()
    client.send_request(f"GET {API}/invocation/next HTTP/1.1")
    until(lambda: runtime.api.state is State.IDLE)
    violate(runtime)
    runtime.api.process_ended(InvocationFailed.of_type("Runtime.ExitError", "signal: killed"))
    _, caller = runtime.invoke()
    assert_violation(runtime, caller, "the Runtime API has no GET")


def test_a_failure_of_one_invocation_does_not_reach_the_next_one(runtime: Runtime) -> None:
    client, invocation, caller = runtime.receive()
    client.send_request(fail(invocation), body=json.dumps(ERROR).encode())
    assert client.read_response().status == 202
    assert caller.error() == ERROR
    client.send_request(f"GET {API}/invocation/next HTTP/1.1")
    invocation, caller = runtime.invoke()
    assert client.read_response().status == 200
    client.send_request(respond(invocation), body=b"well")
    assert client.read_response().status == 202
    assert caller.response() == b"well"


@pytest.mark.parametrize("violation", [False, True])
def test_an_attached_runtime_that_failed_serves_the_next_invocation_when_it_is_started_again(
    attached: Runtime, violation: bool
) -> None:
    if violation:
        client, _, caller = attached.receive()
        client.send_request(f"GET {API}/nothing HTTP/1.1")
    else:
        _, caller = attached.invoke()
        client = attached.connect()
        client.send_request(f"POST {API}/init/error HTTP/1.1", body=json.dumps(ERROR).encode())
    assert client.read_response().status == (404 if violation else 202)
    assert caller.error()
    client = attached.connect()
    client.send_request(f"GET {API}/invocation/next HTTP/1.1")
    until(lambda: attached.api.state is State.IDLE)
    invocation, caller = attached.invoke()
    assert client.read_response().headers["lambda-runtime-aws-request-id"] == invocation.request_id
    client.send_request(respond(invocation), body=b"well")
    assert client.read_response().status == 202
    assert caller.response() == b"well"
