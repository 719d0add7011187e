"""`python3 main.py --serve`: the local Function URL, down to the bytes on its connections."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.emulator import BARE_ENVIRONMENT, ROOT, WAIT, FunctionFolder, Response, Server, Serving, run, until

from tools.emulator.endpoints.bandwidth import limit_bandwidth
from tools.emulator.endpoints.prelude import CONTENT_TYPE, read_prelude
from tools.emulator.execution.invocation import InvocationFailed

ECHO = "def handler(event, context): yield json.dumps(event).encode()"
PID = "def handler(event, context): yield str(os.getpid()).encode()"


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One function that answers with its event, for all tests that only ask."""
    with FunctionFolder(tmp_path_factory.mktemp("echo") / "echo", ECHO) as root, Server(root.path) as server:
        yield server


def event_of(answer: Response) -> dict[str, Any]:
    assert answer.status == 200
    return json.loads(answer.body)


# Where it is


def test_the_first_line_tells_the_url_and_a_curl_command(echo: Server) -> None:
    assert re.search(r" (http://127\.0\.0\.1:\d+/) .*curl -X POST \1 ", echo.first_line)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on PATH")
def test_the_curl_command_works_as_it_stands() -> None:
    with Server(ROOT / "function") as server:
        command = shlex.split(server.first_line[server.first_line.index("curl ") :])
        result = subprocess.run(command, capture_output=True, timeout=WAIT, env={**os.environ, "no_proxy": "127.0.0.1"})
    assert (result.returncode, result.stdout) == (0, b"Test streaming response ")


def test_a_host_can_be_given(serving: Serving) -> None:
    server, _ = serving(ECHO, "--host", "127.0.0.2")
    assert server.url.startswith("http://127.0.0.2:")
    assert server.get().status == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(server.url.split(":")[2].strip("/"))))


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="there is no IPv6")
def test_an_ipv6_address_can_be_given(serving: Serving) -> None:
    server, _ = serving(ECHO, "--host", "::1")
    assert server.url.startswith("http://[::1]:")
    assert event_of(server.get())["requestContext"]["http"]["sourceIp"] == "::1"


def test_a_busy_port_is_an_error_of_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("--serve", "--port", str(port))
    assert (result.code, result.out) == (1, b"")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert f"127.0.0.1 port {port}" in result.err and "--port" in result.err


@pytest.mark.parametrize("host", ["192.0.2.1", "not an address", "..", "a" * 64, ""])
def test_an_address_where_it_cannot_listen_is_an_error_of_one_line(host: str) -> None:
    result = run("--serve", "-p", "0", "--host", host)
    assert result.code in (1, 2) and result.out == b""
    assert "error: " in result.err and result.err.count("\n") == 1, result.err


def test_a_first_line_that_cannot_be_written_is_an_error_of_one_line() -> None:
    shell = ("/bin/sh", "-c", 'exec "$@" >/dev/full', "sh", sys.executable, ROOT / "main.py")
    result = run("--serve", "-p", "0", command=shell)
    assert result.code == 1
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err


# Streaming


def test_the_first_chunk_arrives_before_the_second_is_made(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield b"one "
            wait()
            yield b"the second"
            wait()
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        status_line, headers = client.read_head()
        assert status_line == "HTTP/1.1 200 OK"
        assert headers["transfer-encoding"] == "chunked" and "content-length" not in headers
        assert headers["content-type"] == "application/octet-stream"
        assert client.read(9) == b"4\r\none \r\n"
        function.release()
        assert client.read(15) == b"a\r\nthe second\r\n"
        function.release()
        assert client.read(5) == b"0\r\n\r\n"


def test_an_empty_stream_is_an_empty_answer(serving: Serving) -> None:
    server, _ = serving("def handler(event, context): yield from ()")
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1", "Connection: close")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        assert client.read_rest() == b"0\r\n\r\n"


def test_an_answer_of_many_megabytes_is_whole(serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            for n in range(8):
                yield bytes([n]) * 1_000_003
    """)
    assert server.get().body == b"".join(bytes([n]) * 1_000_003 for n in range(8))


def test_the_answer_names_the_request_as_the_log_does(serving: Serving) -> None:
    server, _ = serving("def handler(event, context): yield context.aws_request_id.encode()")
    answer = server.get()
    assert answer.headers["x-amzn-requestid"].encode() == answer.body
    assert f"START RequestId: {answer.body.decode()} " in server.errors()


def test_the_event_names_the_request_as_the_log_does(echo: Server) -> None:
    answer = echo.get()
    assert event_of(answer)["requestContext"]["requestId"] == answer.headers["x-amzn-requestid"]


# Failures


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ("raise ValueError('bad word'); yield", "ValueError"),
        ("return {'statusCode': 200}", "Runtime.InvalidHandler"),
        ("os._exit(3); yield", "Runtime.ExitError"),
    ],
)
def test_a_failure_before_the_first_byte_is_a_502_with_the_error(serving: Serving, body: str, error_type: str) -> None:
    server, _ = serving(f"def handler(event, context): {body}")
    answer = server.get()
    assert answer.status == 502
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body)["errorType"] == error_type
    assert error_type in server.errors()


def test_a_function_that_cannot_be_loaded_is_a_502_each_time(serving: Serving) -> None:
    server, function = serving("import nothing_of_this_name")
    for _ in range(2):
        answer = server.get()
        assert (answer.status, json.loads(answer.body)["errorType"]) == (502, "Runtime.ImportModuleError")
    (function.path / "lambda_function.py").write_text("def handler(event, context): yield b'mended'")
    assert server.get()[::2] == (200, b"mended")


@pytest.mark.parametrize("end", ["raise ValueError", "os._exit(3)", "sys.exit(3)", "os.abort()"])
def test_a_failure_after_the_first_byte_leaves_the_answer_without_its_last_chunk(serving: Serving, end: str) -> None:
    server, _ = serving(f"""
        def handler(event, context):
            yield b"one "
            {end}
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        assert client.read_rest() == b"4\r\none \r\n"


def test_a_function_that_takes_too_long_is_cut(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            if event["rawPath"] == "/quick":
                yield b"here"
                return
            hold_lifeline(in_a_child=True)
            yield b"one "
            wait()
        """,
        "--timeout",
        "1",
    )
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        assert client.read_rest() == b"4\r\none \r\n"
    function.wait_until_gone()
    assert server.get("/quick").body == b"here"
    assert "Sandbox.Timedout" in server.errors()


def test_a_crash_of_the_environment_does_not_keep_the_next_request_from_an_answer(serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            if event["rawPath"] == "/crash":
                os._exit(3)
            yield str(os.getpid()).encode()
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        first = client.read_response()
        client.send_request("GET /crash HTTP/1.1")
        assert client.read_response().status == 502
    second = server.get()
    assert (first.status, second.status) == (200, 200)
    assert first.body != second.body


def test_an_environment_that_died_while_idle_is_replaced(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            if event["rawPath"] == "/dying":
                hold_lifeline()
                threading.Timer(0.0, lambda: (wait(), os._exit(3))).start()
            yield str(os.getpid()).encode()
    """)
    pid = server.get("/dying").body
    function.release()
    function.wait_until_gone()
    until(lambda: not os.path.exists(f"/proc/{int(pid)}"))
    until(lambda: server.get().status == 200)  # the emulator has taken notice of it


# The head of an answer


COOKIES = ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2; HttpOnly"]


def set_cookies(head: bytes) -> list[str]:
    lines = head.decode().split("\r\n")
    return [line.partition(": ")[2] for line in lines if line.lower().startswith("set-cookie: ")]


def test_status_headers_and_several_cookies_are_those_of_the_first_item(serving: Serving) -> None:
    headers = {"X-Own": "v\u00e4lue", "Content-Type": "text/plain"}
    server, function = serving(f"""
        def handler(event, context):
            yield {{"statusCode": 418, "headers": {headers}, "cookies": {COOKIES}}}
            wait()
            yield b"body"
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1", "Connection: close")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.read(1)
        assert head.startswith(b"HTTP/1.1 418 ")
        assert set_cookies(head) == COOKIES
        assert "x-own: v\u00e4lue\r\n".encode() in head and head.count(b"content-type: ") == 1
        function.release()
        assert client.read_rest() == b"4\r\nbody\r\n0\r\n\r\n"


PRELUDE = {"statusCode": 201, "headers": {"x-own": "value"}, "cookies": COOKIES}


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_the_prelude_is_found_however_the_stream_is_cut(size: int) -> None:
    stream = json.dumps(PRELUDE).encode() + b"\0" * 8 + b"body\0\0\0\0\0\0\0\0more"
    chunks = (stream[n : n + size] for n in range(0, len(stream), size))
    head, start = read_prelude(CONTENT_TYPE, chunks)
    assert (head.status, head.get("x-own"), head.cookies) == (201, "value", COOKIES)
    assert start + b"".join(chunks) == b"body\0\0\0\0\0\0\0\0more"


@pytest.mark.parametrize(
    "stream",
    [
        b"{}",
        b"[]" + b"\0" * 8,
        b"\xff" + b"\0" * 8,
        b"[" * 10_000 + b"\0" * 8,
        b'{"a": "' + b"x" * 20_000 + b'"}' + b"\0" * 8,
        *(
            json.dumps(prelude).encode() + b"\0" * 8
            for prelude in (
                {"statusCode": 99},
                {"statusCode": 101},
                {"statusCode": 600},
                {"statusCode": "200"},
                {"statusCode": True},
                {"headers": {"a": 1}},
                {"headers": {"a b": "c"}},
                {"headers": {"a": "b\r\nc: d"}},
                {"cookies": ["a\nb"]},
                {"cookies": ["\ud800"]},
                {"cookies": "a=1"},
            )
        ),
    ],
)
def test_a_malformed_prelude_fails_the_invocation(stream: bytes) -> None:
    with pytest.raises(InvocationFailed, match="prelude") as caught:
        read_prelude(CONTENT_TYPE, iter([stream]))
    assert caught.value.document["errorType"] == "Runtime.InvalidResponseHead"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_ends_at_once_and_the_function_runs_on(serving: Serving, status: int) -> None:
    server, function = serving(f"""
        def handler(event, context):
            yield {{"statusCode": {status}, "headers": {{"content-length": "0"}} if {status} == 204 else {{}}}}
            if event["rawPath"] == "/":
                wait()
                yield b"unseen"
                notify("at the end")
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        status_line, headers = client.read_head()
        assert status_line.startswith(f"HTTP/1.1 {status} ")
        assert not {"content-length", "transfer-encoding"} & headers.keys()
        function.release()
        assert function.receive() == "at the end"
        client.send_request("GET /next HTTP/1.1", "Connection: close")
        assert client.read_head()[0].startswith(f"HTTP/1.1 {status} ")
        assert client.read_rest() == b""


def test_a_redirect_without_a_body_ends(serving: Serving) -> None:
    server, _ = serving("def handler(event, context): yield {'statusCode': 302, 'headers': {'Location': '/x'}}")
    answer = server.get()
    assert (answer.status, answer.headers["location"], answer.body) == (302, "/x", b"")


def test_a_length_that_the_function_tells_is_kept_to(serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            yield {"headers": {"Content-Length": event["rawPath"][1:], "Transfer-Encoding": "gzip"}}
            yield b"12345"
    """)
    with server.connect() as client:
        client.send_request("GET /3 HTTP/1.1")
        _, headers = client.read_head()
        assert headers["content-length"] == "3" and "transfer-encoding" not in headers
        assert client.read_rest() == b"123"
    assert server.get("/many").body == b"12345"


# The buffered mode


@pytest.mark.parametrize(
    ("chunks", "status", "content_type", "body"),
    [
        ([b'{"a": ', b"1}"], 200, "application/json", b'{"a": 1}'),
        ([b'"text"'], 200, "application/json", b'"text"'),
        ([b"plain ", b"words"], 200, "application/octet-stream", b"plain words"),
        ([b'{"statusCode": 201, "body": "made"}'], 201, "application/json", b"made"),
        ([b'{"statusCode": 200, "headers": {"Content-Type": "text/x", "n": 1}}'], 200, "text/x", b""),
        ([b'{"statusCode": 200, "body": "AAEC", "isBase64Encoded": true}'], 200, "application/json", b"\0\1\2"),
        ([{"statusCode": 202, "headers": {"content-type": "text/y"}}, b"one ", b"two"], 202, "text/y", b"one two"),
        ([], 200, "application/octet-stream", b""),
    ],
)
def test_a_buffered_url_answers_at_the_end(
    serving: Serving, chunks: list[Any], status: int, content_type: str, body: bytes
) -> None:
    source = f"def handler(event, context):\n    yield from {chunks!r}\n    wait()"
    server, function = serving(source, "--invoke-mode", "BUFFERED")
    function.release()
    answer = server.get()
    assert (answer.status, answer.headers["content-type"], answer.body) == (status, content_type, body)
    assert answer.headers["content-length"] == str(len(body)) and "transfer-encoding" not in answer.headers


def test_a_buffered_answer_has_its_cookies_and_no_more_than_6_mb(serving: Serving) -> None:
    server, _ = serving(
        f"""
        def handler(event, context):
            if event["rawPath"] == "/cookies":
                yield json.dumps({{"statusCode": 200, "cookies": {COOKIES}, "body": "x"}}).encode()
            elif event["rawPath"] == "/error":
                yield b"one "
                raise ValueError("two")
            elif event["rawPath"] == "/status":
                yield b'{{"statusCode": 1000}}'
            elif event["rawPath"] == "/base64":
                yield b'{{"statusCode": 200, "isBase64Encoded": true, "body": "A"}}'
            elif event["rawPath"] == "/headers":
                yield b'{{"statusCode": 200, "headers": ["a"]}}'
            else:
                yield b"x" * int(event["rawPath"][1:])
        """,
        "--invoke-mode",
        "BUFFERED",
    )
    with server.connect() as client:
        client.send_request("GET /cookies HTTP/1.1", "Connection: close")
        assert set_cookies(client.read_rest()) == COOKIES
    assert len(server.get("/6291556").body) == 6_291_556
    for path, error_type in {
        "/6291557": "Function.ResponseSizeTooLarge",
        "/error": "ValueError",
        "/status": "Runtime.InvalidResponseHead",
        "/base64": "Runtime.InvalidResponseHead",
        "/headers": "Runtime.InvalidResponseHead",
    }.items():
        answer = server.get(path)
        assert (answer.status, json.loads(answer.body)["errorType"]) == (502, error_type)


# CORS

PREFLIGHT = ("OPTIONS /x HTTP/1.1", "Origin: https://here.example", "Access-Control-Request-Method: PUT")
HELLO = """
def handler(event, context):
    yield {"headers": {"Access-Control-Allow-Origin": "the function's"}}
    yield b"hello"
"""


def cors_headers(answer: Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_a_preflight_is_answered_where_cors_is_configured(serving: Serving) -> None:
    server, _ = serving(HELLO, "--cors")
    answer = server.request(*PREFLIGHT, "Access-Control-Request-Headers: x-one,x-two")
    assert (answer.status, answer.body) == (200, b"")
    assert cors_headers(answer) == {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "PUT",
        "access-control-allow-headers": "x-one,x-two",
    }
    assert "START" not in server.errors()
    answer = server.request("GET / HTTP/1.1", "Origin: https://here.example")
    assert (cors_headers(answer), answer.body) == ({"access-control-allow-origin": "*"}, b"hello")
    assert cors_headers(server.get()) == {}


def test_cors_is_configured_as_the_aws_cli_takes_it(serving: Serving) -> None:
    configuration = {
        "AllowOrigins": ["https://here.example"],
        "AllowMethods": ["GET", "PUT"],
        "AllowHeaders": ["x-one"],
        "ExposeHeaders": ["x-two", "x-three"],
        "AllowCredentials": True,
        "MaxAge": 300,
    }
    server, _ = serving(HELLO, "--cors", json.dumps(configuration))
    common = {
        "access-control-allow-origin": "https://here.example",
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "x-two,x-three",
    }
    assert cors_headers(server.request(*PREFLIGHT)) == common | {
        "access-control-allow-methods": "GET,PUT",
        "access-control-allow-headers": "x-one",
        "access-control-max-age": "300",
    }
    answer = server.request("GET / HTTP/1.1", "Origin: https://here.example")
    assert (cors_headers(answer), answer.headers["vary"]) == (common, "Origin")
    other = ("Origin: https://other.example", *PREFLIGHT[2:])
    assert cors_headers(server.request(PREFLIGHT[0], *other)) == {}
    assert cors_headers(server.request("GET / HTTP/1.1", "Origin: https://other.example")) == {}


def test_options_is_the_functions_where_it_is_no_preflight_or_cors_is_not_configured(
    serving: Serving, echo: Server
) -> None:
    assert event_of(echo.request(*PREFLIGHT))["requestContext"]["http"]["method"] == "OPTIONS"
    server, _ = serving(ECHO, "--cors", "https://here.example")
    assert event_of(server.request("OPTIONS / HTTP/1.1"))["requestContext"]["http"]["method"] == "OPTIONS"


# The speed limit


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


MEBIBYTE = 1024 * 1024


def test_6_mb_of_a_stream_are_sent_at_once_and_then_2_mb_a_second() -> None:
    clock = Clock()
    chunks = limit_bandwidth(iter([bytes(MEBIBYTE)] * 12), clock.time, clock.sleep)
    times = [clock.now - 100 for _ in chunks]
    assert times[:6] == [0] * 6
    assert times[6:] == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3])


def test_a_pause_in_a_stream_saves_up_no_more_than_6_mb() -> None:
    clock = Clock()

    def chunks() -> Iterator[bytes]:
        yield bytes(MEBIBYTE)
        clock.sleep(1000)
        yield from [bytes(MEBIBYTE)] * 8

    times = [clock.now - 1100 for _ in limit_bandwidth(chunks(), clock.time, clock.sleep)]
    assert times[1:7] == [0] * 6
    assert times[7:] == pytest.approx([0.5, 1])


def test_a_throttled_stream_arrives_whole(serving: Serving) -> None:
    server, _ = serving("def handler(event, context): yield b'x' * 6_500_000", "--throttle")
    assert server.get().body == b"x" * 6_500_000


# Events


def test_the_event_has_the_form_of_payload_2_0(echo: Server) -> None:
    event = event_of(
        echo.request("GET /a%20path/x?a=1&b=two%20words&a=3&empty= HTTP/1.1", "User-Agent: test", "X-Own: Value")
    )
    port = echo.url.split(":")[2].strip("/")
    context = event["requestContext"]
    assert event.keys() == {
        "version",
        "routeKey",
        "rawPath",
        "rawQueryString",
        "headers",
        "queryStringParameters",
        "requestContext",
        "isBase64Encoded",
    }
    assert (event["version"], event["routeKey"]) == ("2.0", "$default")
    assert event["rawPath"] == "/a%20path/x"
    assert event["rawQueryString"] == "a=1&b=two%20words&a=3&empty="
    assert event["queryStringParameters"] == {"a": "1,3", "b": "two words", "empty": ""}
    assert event["headers"].pop("x-amzn-trace-id").startswith("Root=1-")
    assert event["headers"] == {
        "host": "localhost",
        "user-agent": "test",
        "x-own": "Value",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-port": port,
        "x-forwarded-proto": "http",
    }
    assert event["isBase64Encoded"] is False
    assert context["http"] == {
        "method": "GET",
        "path": "/a path/x",
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "test",
    }
    assert (context["accountId"], context["routeKey"], context["stage"]) == ("anonymous", "$default", "$default")
    assert (context["domainName"], context["domainPrefix"]) == ("localhost", "localhost")
    assert isinstance(context["apiId"], str) and context["requestId"]
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context["time"])
    assert isinstance(context["timeEpoch"], int)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/%7Euser/a%2Fb//c/../d", "/%7Euser/a%2Fb//c/../d", ""),
        ("/?", "/", ""),
        ("/a?b=?c", "/a", "b=?c"),
        ("http://example.com/a?b", "/a", "b"),
        ("HTTP://example.com", "/", ""),
        ("https://example.com?b", "/", "b"),
    ],
)
def test_path_and_query_are_as_they_were_sent(echo: Server, target: str, path: str, query: str) -> None:
    event = event_of(echo.get(target))
    assert (event["rawPath"], event["rawQueryString"]) == (path, query)


def test_the_trace_of_the_client_goes_on(echo: Server) -> None:
    trace = "Root=1-00000000-000000000000000000000000;Parent=0000000000000000;Sampled=1"
    answer = echo.request("GET / HTTP/1.1", f"X-Amzn-Trace-Id: {trace}")
    assert event_of(answer)["headers"]["x-amzn-trace-id"] == trace == answer.headers["x-amzn-trace-id"]


def test_a_request_without_a_query_has_none_in_its_event(echo: Server) -> None:
    event = event_of(echo.get("/"))
    assert (event["rawPath"], event["rawQueryString"]) == ("/", "")
    assert "queryStringParameters" not in event and "cookies" not in event and "body" not in event


def test_header_names_are_in_lower_case_and_repeated_values_joined(echo: Server) -> None:
    event = event_of(echo.request("GET / HTTP/1.1", "X-MiXed: one", "x-mixed: two", "X-mixed: three"))
    assert event["headers"]["x-mixed"] == "one,two,three"


def test_cookies_have_a_list_of_their_own(echo: Server) -> None:
    event = event_of(echo.request("GET / HTTP/1.1", "Cookie: a=1; b=2", "Cookie: c=3"))
    assert event["cookies"] == ["a=1", "b=2", "c=3"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_an_invocation(echo: Server, method: str) -> None:
    assert event_of(echo.request(f"{method} / HTTP/1.1"))["requestContext"]["http"]["method"] == method


@pytest.mark.parametrize(
    ("content_type", "body", "encoded"),
    [
        ("application/json", '{"a": "ä"}'.encode(), False),
        ("text/plain; charset=utf-8", b"words", False),
        ("application/problem+json", b"{}", False),
        ("application/octet-stream", b"words", True),
        ("application/x-www-form-urlencoded", b"a=1", True),
        ("image/png", bytes(range(256)), True),
        ("text/plain", b"\xff\xfe", True),
    ],
)
def test_a_body_is_text_or_base64_by_its_content_type(
    echo: Server, content_type: str, body: bytes, encoded: bool
) -> None:
    event = event_of(echo.request("POST / HTTP/1.1", f"Content-Type: {content_type}", body=body))
    assert event["isBase64Encoded"] is encoded
    assert (base64.b64decode(event["body"]) if encoded else event["body"].encode()) == body


def test_a_body_in_chunks_is_put_together(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Content-Type: text/plain", "Transfer-Encoding: chunked")
        client.send(b"5;x=y\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n")
        assert event_of(client.read_response())["body"] == "hello world"


# HTTP


def test_head_gets_the_head_of_the_answer_alone(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("HEAD / HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        client.send_request("GET /second HTTP/1.1", "Connection: close")
        assert event_of(client.read_response())["rawPath"] == "/second"
        assert client.read_rest() == b""


def test_head_gets_no_body_of_an_error_either(serving: Serving) -> None:
    server, _ = serving("def handler(event, context): raise ValueError; yield")
    with server.connect() as client:
        client.send_request("HEAD / HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 502 Bad Gateway"
        assert client.read_rest() == b""


def test_a_client_of_http_1_0_gets_the_answer_as_it_is(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield b"one "
            wait()
            yield b"two"
    """)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        status_line, headers = client.read_head()
        assert status_line.endswith(" 200 OK")
        assert "transfer-encoding" not in headers and headers["connection"] == "close"
        assert client.read(4) == b"one "
        function.release()
        assert client.read_rest() == b"two"


def test_two_requests_follow_each_other_on_one_connection(echo: Server) -> None:
    with echo.connect() as client:
        for path in ("/first", "/second"):
            client.send_request(f"POST {path} HTTP/1.1", body=b"x")
            assert event_of(client.read_response())["rawPath"] == path


def test_requests_that_do_not_wait_for_each_others_answers_get_them_in_order(echo: Server) -> None:
    with echo.connect() as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % n for n in range(5)))
        assert [event_of(client.read_response())["rawPath"] for _ in range(5)] == [f"/{n}" for n in range(5)]


def test_a_client_can_ask_for_the_end_of_the_connection(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("GET / HTTP/1.1", "Connection: close")
        client.read_response()
        assert client.read_rest() == b""


def test_a_client_that_expects_a_go_ahead_gets_it(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Content-Type: text/plain", "Content-Length: 5", "Expect: 100-continue")
        assert client.read_head()[0] == "HTTP/1.1 100 Continue"
        client.send(b"words")
        assert event_of(client.read_response())["body"] == "words"


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"GET /two words HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET path HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX Y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX Y: z\r\n\r\n",
        b"G\xc9T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    ],
)
def test_a_malformed_request_is_refused(echo: Server, data: bytes) -> None:
    with echo.connect() as client:
        client.send(data)
        answer = client.read_response()
        assert answer.status == 400
        assert json.loads(answer.body)["Message"]
    assert echo.get().status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6291457\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1024 * 1024, 431),
    ],
)
def test_a_request_beyond_what_is_served_is_refused(echo: Server, data: bytes, status: int) -> None:
    with echo.connect() as client:
        client.send(data)
        assert int(client.read_head()[0].split()[1]) == status
    assert echo.get().status == 200


def test_a_body_of_six_megabytes_is_taken_and_a_larger_one_refused(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Content-Type: text/plain", body=b"x" * 6_291_456)
        assert len(event_of(client.read_response())["body"]) == 6_291_456
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Transfer-Encoding: chunked")
        client.send(b"600000\r\n" + b"x" * 0x600000 + b"\r\n1\r\nx")
        assert client.read_response().status == 413
    assert echo.get().status == 200


@pytest.mark.parametrize("data", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: l", b"POST / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_client_that_leaves_within_its_request_is_forgotten(echo: Server, data: bytes) -> None:
    with echo.connect() as client:
        client.send(data)
        client.reset()
    with echo.connect() as client:
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read_rest() == b""
    assert echo.get().status == 200


# Environments


def test_the_same_environment_serves_one_request_after_another(serving: Serving) -> None:
    server, _ = serving(PID)
    with server.connect() as client:  # which reads its next request when the environment is free again
        pids = set()
        for _ in range(5):
            client.send_request("GET / HTTP/1.1")
            pids.add(client.read_response().body)
    assert len(pids) == 1


def test_requests_at_the_same_time_have_environments_of_their_own(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield b"%6d" % os.getpid()
            if event["rawPath"] == "/slow":
                wait()
                yield b" done"
    """)
    with server.connect() as slow:
        slow.send_request("GET /slow HTTP/1.1")
        slow.read_head()
        pid = slow.read(11)[3:9]
        assert server.get().body != pid
        function.release()
        assert slow.read(15) == b"5\r\n done\r\n0\r\n\r\n"


def test_a_client_that_leaves_within_the_answer_does_not_stop_the_handler(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield b"one "
            if event["rawPath"] == "/left":
                wait()
                for _ in range(300):  # beyond what the buffers between the processes can hold
                    yield b"x" * 100_000
                notify("at the end")
    """)
    with server.connect() as client:
        client.send_request("GET /left HTTP/1.1")
        client.read_head()
        assert client.read(9) == b"4\r\none \r\n"
        client.reset()
    function.release()
    assert function.receive() == "at the end"
    assert server.get().status == 200


def test_clients_that_reset_their_connections_do_no_harm(serving: Serving) -> None:
    server, _ = serving(ECHO)
    server.process.send_signal(signal.SIGSTOP)  # so that each is gone before it is seen
    for data in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\n"):
        with server.connect() as client:
            client.send(data)
            client.reset()
    server.process.send_signal(signal.SIGCONT)
    assert server.get().status == 200


def test_it_goes_on_after_more_connections_than_it_can_have(serving: Serving) -> None:
    most = 64
    limit = f"import os, resource, sys; resource.setrlimit({resource.RLIMIT_NOFILE}, ({most}, {most}))"
    limited = (sys.executable, "-c", f"{limit}; os.execv(sys.argv[1], sys.argv[1:])")
    server, _ = serving(ECHO, command=(*limited, sys.executable, ROOT / "main.py"))
    with contextlib.ExitStack() as clients:
        for _ in range(2 * most):
            clients.enter_context(server.connect())
        until(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) == most)
    assert server.get().status == 200


# The end


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_its_environments(serving: Serving, signum: int) -> None:
    server, function = serving("""
        def handler(event, context):
            hold_lifeline(in_a_child=True)
            yield b"one "
            wait()
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        assert client.read(9) == b"4\r\none \r\n"
        server.interrupt(signum)
        assert client.read_rest() == b""
    result = server.end()
    assert (result.code, result.out) == (130, b"")
    assert "Traceback" not in result.err
    function.wait_until_gone()


def test_a_signal_ends_it_while_its_environments_are_idle(serving: Serving) -> None:
    server, function = serving("""
        hold_lifeline(in_a_child=True)
        def handler(event, context): yield b"x"
    """)
    assert server.get().status == 200
    server.interrupt()
    assert server.end().code == 130
    function.wait_until_gone()


def test_a_signal_ends_it_before_any_request(serving: Serving) -> None:
    server, _ = serving(ECHO, env=BARE_ENVIRONMENT)
    server.interrupt(signal.SIGTERM)
    assert server.end() == (130, b"", "")
