"""Function URLs: streams, failures, headers, and the BUFFERED mode."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.emulator import Server, Serving, event_of


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


def test_an_empty_stream_is_an_empty_response(serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            yield from ()
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1", "Connection: close")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        assert client.read_rest() == b"0\r\n\r\n"


def test_a_response_of_many_megabytes_is_complete(serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            for n in range(8):
                yield bytes([n]) * 1_000_003
    """)
    assert server.get().body == b"".join(bytes([n]) * 1_000_003 for n in range(8))


def test_response_and_log_have_the_same_request_id(serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            yield context.aws_request_id.encode()
    """)
    response = server.get()
    assert response.headers["x-amzn-requestid"].encode() == response.body
    assert f"START RequestId: {response.body.decode()} " in server.errors()


def test_event_and_response_have_the_same_request_id(echo: Server) -> None:
    response = echo.get()
    assert event_of(response)["requestContext"]["requestId"] == response.headers["x-amzn-requestid"]


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ("raise ValueError('bad word')", "ValueError"),
        ("return {'statusCode': 200}", "Runtime.InvalidHandler"),
        ("os._exit(3)", "Runtime.ExitError"),
    ],
)
def test_a_failure_before_the_first_byte_is_a_502_with_the_error(serving: Serving, body: str, error_type: str) -> None:
    server, _ = serving(f"""
        def handler(event, context):
            {body}
    """)
    response = server.get()
    assert response.status == 502
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.body)["errorType"] == error_type
    assert error_type in server.errors()


def test_a_function_that_cannot_be_loaded_is_a_502_each_time(serving: Serving) -> None:
    server, function = serving("import nothing_of_this_name")
    for _ in range(2):
        response = server.get()
        assert (response.status, json.loads(response.body)["errorType"]) == (502, "Runtime.ImportModuleError")
    function.write("""
        def handler(event, context):
            yield b'repaired'
    """)
    assert server.get()[::2] == (200, b"repaired")


@pytest.mark.parametrize("end", ["raise ValueError", "os._exit(3)", "sys.exit(3)", "os.abort()"])
def test_a_failure_after_the_first_byte_cuts_the_response_before_its_last_chunk(serving: Serving, end: str) -> None:
    server, _ = serving(f"""
        def handler(event, context):
            yield b"one "
            {end}
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        assert client.read_rest() == b"4\r\none \r\n"


def test_a_timeout_cuts_the_response(serving: Serving) -> None:
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


def test_the_request_after_a_crash_is_served(serving: Serving) -> None:
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


COOKIES = ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2; HttpOnly"]


def set_cookies(head: bytes) -> list[str]:
    lines = head.decode().split("\r\n")
    return [line.partition(": ")[2] for line in lines if line.lower().startswith("set-cookie: ")]


def test_the_first_item_sets_status_headers_and_cookies(serving: Serving) -> None:
    headers = {"X-Own": "v\u00e4lue", "Content-Type": "text/plain"}
    server, function = serving(f"""
        def handler(event, context):
            yield {{"statusCode": 599, "headers": {headers}, "cookies": {COOKIES}}}
            wait()
            yield b"body"
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1", "Connection: close")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.read(1)
        assert head.startswith(b"HTTP/1.1 599 Unknown\r\n")
        assert set_cookies(head) == COOKIES
        assert "x-own: v\u00e4lue\r\n".encode() in head and head.count(b"content-type: ") == 1
        function.release()
        assert client.read_rest() == b"4\r\nbody\r\n0\r\n\r\n"


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body_ends_at_once_and_the_function_continues(serving: Serving, status: int) -> None:
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


def test_a_redirect_without_a_body_is_complete(serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            yield {'statusCode': 302, 'headers': {'Location': '/x'}}
    """)
    response = server.get()
    assert (response.status, response.headers["location"], response.body) == (302, "/x", b"")


def test_a_content_length_of_the_function_is_enforced(serving: Serving) -> None:
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


@pytest.mark.parametrize(
    ("chunks", "status", "content_type", "body"),
    [
        ([b'{"a": ', b"1}"], 200, "application/json", b'{"a": 1}'),
        ([b'"text"'], 200, "application/json", b'"text"'),
        ([b"plain ", b"words"], 200, "application/octet-stream", b"plain words"),
        ([b'{"statusCode": 201, "body": "made"}'], 201, "application/json", b"made"),
        ([b'{"statusCode": "418", "body": "tea"}'], 418, "application/json", b"tea"),
        ([b'{"statusCode": 200, "headers": {"Content-Type": "text/x", "n": 1}}'], 200, "text/x", b""),
        ([b'{"statusCode": 200, "body": "AAEC", "isBase64Encoded": true}'], 200, "application/json", b"\0\1\2"),
        ([{"statusCode": 202, "headers": {"content-type": "text/y"}}, b"one ", b"two"], 202, "text/y", b"one two"),
        ([], 200, "application/octet-stream", b""),
    ],
)
def test_a_buffered_url_responds_at_the_end(
    serving: Serving, chunks: list[Any], status: int, content_type: str, body: bytes
) -> None:
    source = f"""
        def handler(event, context):
            yield from {chunks!r}
            wait()
    """
    server, function = serving(source, "--invoke-mode", "BUFFERED")
    function.release()
    response = server.get()
    assert (response.status, response.headers["content-type"], response.body) == (status, content_type, body)
    assert response.headers["content-length"] == str(len(body)) and "transfer-encoding" not in response.headers


def test_a_buffered_response_has_cookies_and_at_most_6_mb(serving: Serving) -> None:
    server, _ = serving(
        f"""
        def handler(event, context):
            if event["rawPath"] == "/cookies":
                yield json.dumps({{"statusCode": 200, "cookies": {COOKIES}, "body": "x"}}).encode()
            elif event["rawPath"] == "/error":
                yield b"one "
                raise ValueError("two")
            elif event["rawPath"].startswith("/status/"):
                yield b'{{"statusCode": %b}}' % event["rawPath"].rpartition("/")[2].encode()
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
        "/status/1000": "Runtime.InvalidResponseHead",
        "/status/99": "Runtime.InvalidResponseHead",
        "/status/[]": "Runtime.InvalidResponseHead",
        "/base64": "Runtime.InvalidResponseHead",
        "/headers": "Runtime.InvalidResponseHead",
    }.items():
        response = server.get(path)
        assert (response.status, json.loads(response.body)["errorType"]) == (502, error_type)


@pytest.mark.parametrize("mode", ["RESPONSE_STREAM", "BUFFERED"])
def test_an_interim_status_code_is_sent_without_a_body_and_ends_the_connection(serving: Serving, mode: str) -> None:
    server, _ = serving(
        """
        def handler(event, context):
            yield {"statusCode": int(event["rawPath"][1:])}
            yield b"body"
        """,
        *("--invoke-mode", mode),
    )
    for status in (100, 101, 199):
        with server.connect() as client:
            client.send_request(f"GET /{status} HTTP/1.1")
            status_line, headers = client.read_head()
            assert status_line.startswith(f"HTTP/1.1 {status}")
            assert headers["connection"] == "close"
            assert client.read_rest() == b""
    assert server.get("/99").status == 502
    assert server.get("/599").status == 599


def test_a_client_that_disconnects_does_not_stop_the_handler(serving: Serving) -> None:
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
