"""HTTP/1.1: messages that clients send, and those that are refused."""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import re
import resource
import signal
import socket
import sys
import time

import pytest
from support.emulator import ECHO, ROOT, WAIT, Server, Serving, event_of, until

from tools.emulator.http1.connection import Connection, Headers, Request


def test_head_receives_no_body(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("HEAD / HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        client.send_request("GET /second HTTP/1.1", "Connection: close")
        assert event_of(client.read_response())["rawPath"] == "/second"
        assert client.read_rest() == b""


def test_head_receives_no_body_of_an_error(serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            raise ValueError
            yield
    """)
    with server.connect() as client:
        client.send_request("HEAD / HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 502 Bad Gateway"
        assert client.read_rest() == b""


def test_a_client_of_http_1_0_receives_no_chunks(serving: Serving) -> None:
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


@pytest.mark.parametrize(
    ("field", "stays_open"), [("", False), ("Connection: Keep-Alive\r\n", True), ("Connection: close\r\n", False)]
)
def test_a_connection_of_http_1_0_stays_open_only_on_request(echo: Server, field: str, stays_open: bool) -> None:
    request = f"POST /2015-03-31/functions/unknown/invocations HTTP/1.0\r\n{field}Content-Length: 2\r\n\r\n{{}}"
    with echo.connect() as client:
        client.send(request.encode() * 2)
        response = client.read_response()
        assert (response.status, response.headers.get("connection")) == (404, None if stays_open else "close")
        if stays_open:
            assert client.read_response().status == 404
        else:
            assert client.read_rest() == b""


def test_a_connection_serves_several_requests(echo: Server) -> None:
    with echo.connect() as client:
        for path in ("/first", "/second"):
            client.send_request(f"POST {path} HTTP/1.1", body=b"x")
            assert event_of(client.read_response())["rawPath"] == path


def test_pipelined_requests_receive_their_responses_in_order(echo: Server) -> None:
    with echo.connect() as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % n for n in range(5)))
        assert [event_of(client.read_response())["rawPath"] for _ in range(5)] == [f"/{n}" for n in range(5)]


def test_connection_close_ends_the_connection(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("GET / HTTP/1.1", "Connection: close")
        client.read_response()
        assert client.read_rest() == b""


def test_expect_100_continue_is_honoured(echo: Server) -> None:
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
        response = client.read_response()
        assert response.status == 400
        assert json.loads(response.body)["Message"]
    assert echo.get().status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6291457\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 6291457\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1024 * 1024, 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + (b"X: " + b"x" * 65536 + b"\r\n") * 16 + b"\r\n", 431),
    ],
)
def test_an_unsupported_or_too_large_request_is_refused(echo: Server, data: bytes, status: int) -> None:
    with echo.connect() as client:
        client.send(data)
        assert int(client.read_head()[0].split()[1]) == status
    assert echo.get().status == 200


def test_a_body_of_six_megabytes_is_accepted_and_a_larger_one_refused(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Content-Type: text/plain", body=b"x" * 6_291_456)
        assert len(event_of(client.read_response())["body"]) == 6_291_456
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Transfer-Encoding: chunked")
        client.send(b"600000\r\n" + b"x" * 0x600000 + b"\r\n1\r\nx")
        assert client.read_response().status == 413
    assert echo.get().status == 200


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
def test_a_transfer_coding_can_be_in_any_case(echo: Server, coding: str) -> None:
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Content-Type: text/plain", f"Transfer-Encoding: {coding}")
        client.send(b"5\r\nwords\r\n0\r\n\r\n")
        assert event_of(client.read_response())["body"] == "words"


def test_after_the_trailers_of_a_chunked_body_the_next_request_is_read(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Content-Type: text/plain", "Transfer-Encoding: chunked")
        client.send(b"5\r\nwords\r\n0\r\nX-Checksum: 1\r\n\r\n")
        client.send_request("GET /second HTTP/1.1")
        assert event_of(client.read_response())["body"] == "words"
        assert event_of(client.read_response())["rawPath"] == "/second"


def test_a_refused_request_whose_body_is_unread_ends_without_a_reset(echo: Server) -> None:
    """A reset can reach the client before it has read the response."""
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Content-Length: 6291457")
        client.send(bytes(100_000))
        assert client.read_response().status == 413
        assert client.read_rest() == b""


def test_small_chunks_of_a_response_are_sent_without_delay() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        connection = Connection(listener.accept()[0], "client")
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0  # it is not the default
        connection.close()


def test_the_time_to_the_first_byte_is_that_of_the_first_byte() -> None:
    request = Request("GET", "/", "HTTP/1.1", Headers([]))
    request.add_sent(0)
    assert request.first_byte is None
    request.add_sent(1)
    first = request.first_byte
    request.add_sent(2)
    assert first is not None and request.first_byte == first and request.sent_bytes == 3


@pytest.mark.parametrize("data", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: l", b"POST / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_client_that_leaves_in_the_middle_of_its_request_does_no_harm(echo: Server, data: bytes) -> None:
    with echo.connect() as client:
        client.send(data)
        client.reset()
    with echo.connect() as client:
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read_rest() == b""
    assert echo.get().status == 200


def test_clients_that_reset_their_connections_do_no_harm(serving: Serving) -> None:
    server, _ = serving(ECHO)
    server.process.send_signal(signal.SIGSTOP)  # so that each is gone before it is seen
    for data in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\n"):
        with server.connect() as client:
            client.send(data)
            client.reset()
    server.process.send_signal(signal.SIGCONT)
    assert server.get().status == 200


def test_the_server_continues_after_running_out_of_descriptors(serving: Serving) -> None:
    most = 64
    limit = f"import os, resource, sys; resource.setrlimit({resource.RLIMIT_NOFILE}, ({most}, {most}))"
    limited = (sys.executable, "-c", f"{limit}; os.execv(sys.argv[1], sys.argv[1:])")
    server, _ = serving(ECHO, command=(*limited, sys.executable, ROOT / "main.py"))
    with contextlib.ExitStack() as clients:
        for _ in range(2 * most):
            clients.enter_context(server.connect())
        until(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) == most)
    assert server.get().status == 200


def test_the_date_of_a_response_is_an_imf_fixdate(echo: Server) -> None:
    date = echo.get().headers["date"]
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)
    assert abs(email.utils.parsedate_to_datetime(date).timestamp() - time.time()) < WAIT
