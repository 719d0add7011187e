"""The calls of the Runtime API: paths, header fields, status codes and addresses."""

from __future__ import annotations

import json

import pytest
from support.function_process import VERSION, invocation

ECHO = """
def handler(event, context):
    yield repr(event).encode()
"""

HEAD = (
    b"POST /2018-06-01/runtime/invocation/%(id)s/response HTTP/1.1\r\n"
    b"Host: %(host)s\r\n"
    b"User-Agent: %(agent)s\r\n"
    b"Lambda-Runtime-Function-Response-Mode: streaming\r\n"
    b"Content-Type: application/octet-stream\r\n"
    b"Transfer-Encoding: chunked\r\n"
    b"Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n"
    b"\r\n"
)


def test_after_a_204_the_runtime_polls_again(runtime):
    function = runtime(ECHO)
    for _ in range(3):
        function.expect_next()
        function.peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert function.respond(5).body == b"5"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}",
        invocation(b"one").replace(b"200 OK", b"403 Forbidden"),
        b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        invocation(b""),
        invocation(b"a b"),
        invocation(b"../../x"),
        invocation(b"a\x7fb"),
        invocation("\u00e9".encode()),
    ],
    ids=lambda response: response[9:60].decode(),
)
def test_a_response_to_next_without_an_invocation_ends_the_process(runtime, response):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(response)
    assert function.wait() == 1
    assert "without an invocation" in function.stderr and function.stderr.count("\n") == 1


def test_without_a_runtime_api_the_process_ends(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.listener.close()
    function.peer.close()
    assert function.wait() == 1
    assert "returned no next invocation" in function.stderr


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content", "299 Fine"])
def test_any_2xx_accepts_a_response(runtime, status):
    function = runtime(ECHO)
    for _ in range(2):
        function.read_response(function.invoke())
        length = "" if status.startswith("204") else "Content-Length: 0\r\n"
        function.peer.send(f"HTTP/1.1 {status}\r\n{length}\r\n".encode())
    function.expect_next()
    assert function.stderr == ""


@pytest.mark.parametrize("status", [300, 400, 403, 410, 413])
@pytest.mark.parametrize("way", ["response", "trailers", "error"])
def test_a_refused_post_is_logged_and_the_loop_continues(runtime, status, way):
    function = runtime(
        """
        def handler(event, context):
            if event != "error":
                yield b"a"
            if event != "response":
                raise ValueError("boom")
        """
    )
    request_id = function.invoke(way)
    if way == "error":
        assert function.request().path.endswith(f"{request_id}/error")
    else:
        function.read_response(request_id)
    function.peer.send(b'HTTP/1.1 %d Refused\r\nContent-Length: 11\r\n\r\n{"why":"no"}'[:-1] % status)
    function.expect_next()
    assert f"status {status}" in function.runtime_lines[-1] and len(function.runtime_lines) == (
        1 if way == "response" else 2
    )


@pytest.mark.parametrize("way", ["response", "error"])
def test_a_container_error_ends_the_process(runtime, way):
    function = runtime(
        """
        def handler(event, context):
            if event == "error":
                raise ValueError
            yield b""
        """
    )
    request_id = function.invoke(way)
    function.request() if way == "error" else function.read_response(request_id)
    function.peer.send(b"HTTP/1.1 500 Container error\r\nContent-Length: 0\r\n\r\n")
    assert function.wait() == 1
    assert "status 500" in function.stderr


def test_the_invocation_id_is_echoed_if_the_service_sent_one(runtime):
    function = runtime(
        """
        def handler(event, context):
            if event:
                raise ValueError
            yield b""
        """
    )
    header = {"Lambda-Runtime-Invocation-Id": "nonce-1"}
    assert function.respond(headers=header).head.headers["lambda-runtime-invocation-id"] == "nonce-1"
    assert function.fail(1, headers=header)[0].headers["lambda-runtime-invocation-id"] == "nonce-1"
    assert "lambda-runtime-invocation-id" not in function.respond().head.headers


@pytest.mark.parametrize(
    ("host", "address", "prefix"),
    [
        ("127.0.0.1", "http://{host}:{port}/.rt", "/.rt"),
        ("127.0.0.1", "{host}:{port}/.rt/name/", "/.rt/name"),
        ("127.0.0.1", "http://{host}:{port}", ""),
        ("127.0.0.1", "localhost:{port}", ""),
        ("::1", "[{host}]:{port}", ""),
        ("::1", "http://[{host}]:{port}/p", "/p"),
    ],
)
def test_the_address_can_have_a_scheme_a_path_and_an_ipv6_host(runtime, host, address, prefix):
    function = runtime(ECHO, host=host, address=address)
    request = function.expect_next()
    assert request.path == f"{prefix}/2018-06-01/runtime/invocation/next"
    request_id = function.send_invocation()
    head = function.read_response(request_id).head
    assert head.path == f"{prefix}/2018-06-01/runtime/invocation/{request_id}/response"
    assert head.headers["host"].endswith(f":{function.listener.getsockname()[1]}")


@pytest.mark.parametrize(
    "address", ["", "nonsense", "host:port", ":9001", "https://127.0.0.1:9001", "127.0.0.1:99999999"]
)
def test_an_invalid_address_ends_the_process_with_one_line(runtime, address):
    function = runtime(ECHO, variables={"AWS_LAMBDA_RUNTIME_API": address})
    assert function.wait() == 1
    assert function.stderr.count("\n") == 1 and "Traceback" not in function.stderr
    if not address.endswith("99999999"):
        assert f"AWS_LAMBDA_RUNTIME_API is {address!r}, expected host:port" in function.stderr


def test_an_init_error_that_is_not_accepted_is_logged(runtime):
    function = runtime("raise ValueError")
    assert function.request().path.endswith("/init/error")
    function.peer.close()
    assert function.wait() == 1
    assert "the error was not delivered to /2018-06-01/runtime/init/error" in function.stderr


def test_a_streamed_response_is_exactly_these_bytes(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield b"one "
            yield b"two "
        """
    )
    request_id = function.invoke()
    request = function.expect_response(request_id)
    agent = request.headers["user-agent"].encode()
    host = b"127.0.0.1:%d" % function.listener.getsockname()[1]
    assert request.raw == HEAD % {b"id": request_id.encode(), b"host": host, b"agent": agent}
    rest = function.peer.reader.read(len(b"4\r\none \r\n4\r\ntwo \r\n0\r\n\r\n"))
    assert rest == b"4\r\none \r\n4\r\ntwo \r\n0\r\n\r\n"
    function.accept()
    function.expect_next()


def test_the_user_agent_contains_the_version_of_the_layer(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield b""
        """
    )
    agent = function.expect_next().headers["user-agent"]
    assert agent.startswith(f"python-streaming-runtime/{VERSION} CPython/")


# Notes the pauses of the runtime in place of making them.
NOTES_PAUSES = """
import atexit
import time

pauses = []
time.sleep = pauses.append
atexit.register(lambda: print(pauses, flush=True))

def handler(event, context):
    yield repr(pauses).encode()
"""


def test_the_pause_after_a_204_grows_to_a_second(runtime):
    function = runtime(NOTES_PAUSES)
    function.expect_next()
    for _ in range(13):
        function.peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        function.expect_next()
    pauses = json.loads(function.read_response(function.send_invocation()).body)
    assert pauses == pytest.approx([*((2**number - 1) / 1000 for number in range(10)), 1, 1, 1])


def test_after_six_lost_requests_for_the_next_invocation_the_environment_ends(runtime):
    function = runtime(NOTES_PAUSES)
    for _ in range(6):
        function.expect_next()
        function.peer.close()
        function.peer = None
    assert function.wait() == 1
    assert json.loads(function.stdout) == [0.0, 0.1, 0.2, 0.4, 0.8]


@pytest.mark.parametrize("address", ["a" * 64 + ":80", f"127.0.0.1:{2**70}"], ids=["host", "port"])
def test_without_a_valid_address_of_the_runtime_api_the_environment_ends(runtime, address):
    function = runtime(NOTES_PAUSES, address=address)
    assert function.wait() == 1
    assert json.loads(function.stdout) == [0.0, 0.1, 0.2, 0.4, 0.8]
    host, port = address.split(":")
    assert f"no connection to {host} port {port}: " in function.stderr


def test_if_one_address_of_the_runtime_api_refuses_the_connection_the_next_one_is_tried(runtime):
    function = runtime(
        """
        import _socket

        find = _socket.getaddrinfo

        def find_two(*arguments):
            (found,) = find(*arguments)
            return [(*found[:4], ("127.0.0.2", 1)), found]

        _socket.getaddrinfo = find_two

        def handler(event, context):
            yield b"connected"
        """
    )
    assert function.respond().body == b"connected"
