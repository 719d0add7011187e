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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_local import BARE_ENVIRONMENT, ROOT, WAIT, Answer, Server, TaskRoot, run, until

Serving = Callable[..., tuple[Server, TaskRoot]]

ECHO = "def handler(event, context): yield json.dumps(event).encode()"
PID = "def handler(event, context): yield str(os.getpid()).encode()"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """Serves a function that is made out of its source."""
    opened: list[Any] = []

    def serve(source: str, *arguments: str, **options: Any) -> tuple[Server, TaskRoot]:
        opened.append(TaskRoot(tmp_path / "a-function", source))
        opened.append(Server(opened[0].path, *arguments, **options))
        return opened[1], opened[0]

    yield serve
    for context in reversed(opened):
        context.__exit__(None, None, None)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One function that answers with its event, for all tests that only ask."""
    with TaskRoot(tmp_path_factory.mktemp("echo") / "echo", ECHO) as root, Server(root.path) as server:
        yield server


def event_of(answer: Answer) -> dict[str, Any]:
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
        client.ask("GET / HTTP/1.1")
        status_line, headers = client.read_head()
        assert status_line == "HTTP/1.1 200 OK"
        assert headers["transfer-encoding"] == "chunked" and "content-length" not in headers
        assert headers["content-type"] == "application/octet-stream"
        assert client.read(9) == b"4\r\none \r\n"
        function.let_go()
        assert client.read(15) == b"a\r\nthe second\r\n"
        function.let_go()
        assert client.read(5) == b"0\r\n\r\n"


def test_an_empty_stream_is_an_empty_answer(serving: Serving) -> None:
    server, _ = serving("def handler(event, context): yield from ()")
    with server.connect() as client:
        client.ask("GET / HTTP/1.1", "Connection: close")
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
        client.ask("GET / HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        assert client.read_rest() == b"4\r\none \r\n"


def test_a_function_that_takes_too_long_is_cut(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            if event["rawPath"] == "/quick":
                yield b"here"
                return
            keep_life_sign(in_a_child=True)
            yield b"one "
            wait()
        """,
        "--timeout",
        "1",
    )
    with server.connect() as client:
        client.ask("GET / HTTP/1.1")
        client.read_head()
        assert client.read_rest() == b"4\r\none \r\n"
    function.outlive()
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
        client.ask("GET / HTTP/1.1")
        first = client.answer()
        client.ask("GET /crash HTTP/1.1")
        assert client.answer().status == 502
    second = server.get()
    assert (first.status, second.status) == (200, 200)
    assert first.body != second.body


def test_an_environment_that_died_while_idle_is_replaced(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            if event["rawPath"] == "/dying":
                keep_life_sign()
                threading.Timer(0.0, lambda: (wait(), os._exit(3))).start()
            yield str(os.getpid()).encode()
    """)
    pid = server.get("/dying").body
    function.let_go()
    function.outlive()
    until(lambda: not os.path.exists(f"/proc/{int(pid)}"))
    until(lambda: server.get().status == 200)  # the emulator has taken notice of it


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
        client.ask("POST / HTTP/1.1", "Content-Type: text/plain", "Transfer-Encoding: chunked")
        client.send(b"5;x=y\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n")
        assert event_of(client.answer())["body"] == "hello world"


# HTTP


def test_head_gets_the_head_of_the_answer_alone(echo: Server) -> None:
    with echo.connect() as client:
        client.ask("HEAD / HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        client.ask("GET /second HTTP/1.1", "Connection: close")
        assert event_of(client.answer())["rawPath"] == "/second"
        assert client.read_rest() == b""


def test_head_gets_no_body_of_an_error_either(serving: Serving) -> None:
    server, _ = serving("def handler(event, context): raise ValueError; yield")
    with server.connect() as client:
        client.ask("HEAD / HTTP/1.1")
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
        function.let_go()
        assert client.read_rest() == b"two"


def test_two_requests_follow_each_other_on_one_connection(echo: Server) -> None:
    with echo.connect() as client:
        for path in ("/first", "/second"):
            client.ask(f"POST {path} HTTP/1.1", body=b"x")
            assert event_of(client.answer())["rawPath"] == path


def test_requests_that_do_not_wait_for_each_others_answers_get_them_in_order(echo: Server) -> None:
    with echo.connect() as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % n for n in range(5)))
        assert [event_of(client.answer())["rawPath"] for _ in range(5)] == [f"/{n}" for n in range(5)]


def test_a_client_can_ask_for_the_end_of_the_connection(echo: Server) -> None:
    with echo.connect() as client:
        client.ask("GET / HTTP/1.1", "Connection: close")
        client.answer()
        assert client.read_rest() == b""


def test_a_client_that_expects_a_go_ahead_gets_it(echo: Server) -> None:
    with echo.connect() as client:
        client.ask("POST / HTTP/1.1", "Content-Type: text/plain", "Content-Length: 5", "Expect: 100-continue")
        assert client.read_head()[0] == "HTTP/1.1 100 Continue"
        client.send(b"words")
        assert event_of(client.answer())["body"] == "words"


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"GET /two words HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX Y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n",
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
        answer = client.answer()
        assert answer.status == 400
        assert json.loads(answer.body)["Message"]
    assert echo.get().status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6291557\r\n\r\n", 413),
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
        client.ask("POST / HTTP/1.1", "Content-Type: text/plain", body=b"x" * 6_000_000)
        assert len(event_of(client.answer())["body"]) == 6_000_000
    with echo.connect() as client:
        client.ask("POST / HTTP/1.1", "Content-Length: 6300000")
        assert client.answer().status == 413
    with echo.connect() as client:
        client.ask("POST / HTTP/1.1", "Transfer-Encoding: chunked")
        client.send(b"600000\r\n" + b"x" * 0x600000 + b"\r\n65\r\n" + b"x" * 0x65)
        assert client.answer().status == 413
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
            client.ask("GET / HTTP/1.1")
            pids.add(client.answer().body)
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
        slow.ask("GET /slow HTTP/1.1")
        slow.read_head()
        pid = slow.read(11)[3:9]
        assert server.get().body != pid
        function.let_go()
        assert slow.read(15) == b"5\r\n done\r\n0\r\n\r\n"


def test_a_client_that_leaves_within_the_answer_does_not_stop_the_handler(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield b"one "
            if event["rawPath"] == "/left":
                wait()
                for _ in range(300):  # beyond what the buffers between the processes can hold
                    yield b"x" * 100_000
                tell("at the end")
    """)
    with server.connect() as client:
        client.ask("GET /left HTTP/1.1")
        client.read_head()
        assert client.read(9) == b"4\r\none \r\n"
        client.reset()
    function.let_go()
    assert function.hear() == "at the end"
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
            keep_life_sign(in_a_child=True)
            yield b"one "
            wait()
    """)
    with server.connect() as client:
        client.ask("GET / HTTP/1.1")
        client.read_head()
        assert client.read(9) == b"4\r\none \r\n"
        server.interrupt(signum)
        assert client.read_rest() == b""
    result = server.end()
    assert (result.code, result.out) == (130, b"")
    assert "Traceback" not in result.err
    function.outlive()


def test_a_signal_ends_it_while_its_environments_are_idle(serving: Serving) -> None:
    server, function = serving("""
        keep_life_sign(in_a_child=True)
        def handler(event, context): yield b"x"
    """)
    assert server.get().status == 200
    server.interrupt()
    assert server.end().code == 130
    function.outlive()


def test_a_signal_ends_it_before_any_request(serving: Serving) -> None:
    server, _ = serving(ECHO, env=BARE_ENVIRONMENT)
    server.interrupt(signal.SIGTERM)
    assert server.end() == (130, b"", "")
