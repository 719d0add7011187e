"""HTTP/1.1 as the runtime reads it: each form of a response to `next`, valid, odd or broken."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from support.emulator import until
from support.function_process import invocation

ECHO = """
def handler(event, context):
    yield repr(event).encode()
"""


def test_header_names_are_case_insensitive(runtime):
    code = """
        import json

        def handler(event, context):
            yield json.dumps([event, context.aws_request_id, context.tenant_id]).encode()
        """
    function = runtime(code)
    function.expect_next()
    function.peer.send(
        b"HTTP/1.1 200 OK\r\nLAMBDA-RUNTIME-AWS-REQUEST-ID: one\r\nlambda-runtime-aws-tenant-id:two\r\n"
        b"content-LENGTH:   2  \r\ncontent-type: APPLICATION/JSON; charset=utf-8\r\n\r\n[]"
    )
    assert json.loads(function.read_response("one").body) == [[], "one", "two"]


def test_a_chunked_event_is_joined(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: one\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'3;ext=1\r\n["a\r\n00A\r\nbcdefghijk\r\n10\r\n0123456789abcdef\r\n2\r\n"]\r\n0\r\nTrailer: x\r\n\r\n'
    )
    assert function.read_response("one").body == b"['abcdefghijk0123456789abcdef']"
    function.accept()
    function.invoke()


def test_an_event_of_6_mb_and_one_that_arrives_byte_by_byte(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield str(len(event)).encode()
        """
    )
    assert function.respond("x" * 6_000_000).body == b"6000000"
    function.expect_next()
    for byte in invocation(b"one", b'"abc"'):
        function.peer.send(bytes([byte]))
    assert function.read_response("one").body == b"3"
    function.accept()
    function.expect_next()
    head = invocation(b"two").partition(b"Content-Length")[0]
    for byte in head + b'Transfer-Encoding: chunked\r\n\r\n3\r\n"ab\r\n2\r\nc"\r\n0\r\n\r\n':
        function.peer.send(bytes([byte]))
    assert function.read_response("two").body == b"3"


def test_a_chunked_event_arrives_in_two_parts_that_are_divided_at_any_place(runtime):
    function = runtime(ECHO)
    head = b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: one\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = head + b"3\r\n[12\r\n2\r\n3]\r\n0\r\nTrailer: x\r\n\r\n"
    for place in range(len(head) - 5, len(response)):
        function.expect_next()
        function.peer.send(response[:place])
        until(lambda: unread_bytes(function.peer) == 0)
        function.peer.send(response[place:])
        assert function.read_response("one").body == b"[123]"
        function.accept()


def unread_bytes(peer):
    """Return how many bytes are in the receive buffer of the runtime's end of a connection (proc(5), /proc/net/tcp)."""
    ports = [f":{port:04X}" for _, port in (peer.socket.getpeername(), peer.socket.getsockname())]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        if [local[-5:], remote[-5:]] == ports:
            return int(queues.partition(":")[2], 16)
    raise AssertionError("the connection is closed")


def test_interim_responses_are_skipped(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + invocation(b"one"))
    function.expect_response("one")


def test_an_http_1_0_response_ends_with_its_connection(runtime):
    function = runtime(ECHO)
    numbers = list(range(50_000))  # more than one read
    function.expect_next()
    head = b"HTTP/1.0 200 OK\r\nLambda-Runtime-Aws-Request-Id: one\r\n\r\n"
    function.peer.send(head + json.dumps(numbers).encode())
    function.connect()
    assert function.read_response("one").body == repr(numbers).encode()


@pytest.mark.parametrize(
    "response",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        invocation(b"one").replace(b"200", "\u0662\u0660\u0660".encode()),
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a\nX-Forged: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
    ],
    ids=[
        "nonsense",
        "HTTP/2",
        "no status",
        "short status",
        "other digits",
        "bare LF",
        "NUL",
        "endless head",
        "endless 1xx",
    ],
)
def test_after_six_responses_that_are_not_http_the_process_ends(runtime, response):
    function = runtime(ECHO)
    peers = []  # stay open: the runtime gives up the connection
    for _ in range(6):
        function.expect_next()
        with contextlib.suppress(OSError):  # it may have read enough
            function.peer.send(response)
        peers.append(function.peer)
        function.peer = None
    assert function.wait() == 1
    assert "returned no next invocation" in function.stderr
    for peer in peers:
        peer.close()


def test_an_incomplete_event_is_reported_for_its_invocation(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(invocation(b"one", b'{"a": 1}')[:-3])
    function.connect()
    _, document = function.read_error("one")
    assert document["errorType"] == "Runtime.UnmarshalError"
    assert function.respond(1).body == b"1"


BROKEN_BODIES = {
    "unknown encoding": b"Transfer-Encoding: gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "no chunk size": b"Transfer-Encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n",
    "chunk size that is no number": b"Transfer-Encoding: chunked\r\n\r\n2x\r\n{}\r\n0\r\n\r\n",
    "negative chunk size": b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "chunk that is longer than its size": b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}{}0\r\n\r\n",
    "negative length": b"Content-Length: -2\r\n\r\n{}",
    "length that is no number": b"Content-Length: 2,2\r\n\r\n{}",
    "length in other digits": "Content-Length: \u0662\r\n\r\n{}".encode(),
    "length with too many digits": b"Content-Length: 0000000000000002\r\n\r\n{}",
}


@pytest.mark.parametrize("kind", BROKEN_BODIES)
def test_a_body_whose_end_is_not_certain_is_no_event_and_its_connection_is_not_used_again(runtime, kind):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: one\r\n" + BROKEN_BODIES[kind])
    first, function.peer = function.peer, None  # stays open
    _, document = function.read_error("one")
    assert document["errorType"] == "Runtime.UnmarshalError"
    assert function.respond(1).body == b"1"
    first.close()


def test_a_length_can_have_15_digits(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: one\r\nContent-Length: 000000000000002\r\n\r\n{}"
    )
    assert function.read_response("one").body == b"{}"


def test_a_length_does_not_count_beside_a_transfer_encoding(runtime):
    """RFC 9112, 6.3. The length is that of the chunks with their framing."""
    function = runtime(ECHO)
    function.expect_next()
    chunks = b"3\r\n[1]\r\n0\r\n\r\n"
    fields = b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % len(chunks)
    function.peer.send(b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: one\r\n" + fields + chunks)
    assert function.read_response("one").body == b"[1]"


def test_an_http_1_0_connection_is_not_used_again_without_a_request_to_keep_it(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(invocation(b"one", b"[1]").replace(b"HTTP/1.1", b"HTTP/1.0"))
    first, function.peer = function.peer, None  # stays open
    function.connect()
    assert function.read_response("one").body == b"[1]"
    first.close()


def test_a_chunked_response_with_connection_close_is_the_last_of_its_connection(runtime):
    function = runtime(ECHO)
    function.expect_next()
    fields = b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    function.peer.send(b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: one\r\n" + fields + b"3\r\n[1]\r\n0\r\n\r\n")
    first, function.peer = function.peer, None  # stays open
    function.connect()
    assert function.read_response("one").body == b"[1]"
    first.close()


def test_an_http_1_0_connection_that_is_kept_alive_serves_the_next_request(runtime):
    function = runtime(ECHO)
    first = function.connect()
    for number in range(3):
        function.expect_next()
        head = b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nLambda-Runtime-Aws-Request-Id: %d\r\n" % number
        function.peer.send(head + b"Content-Length: 2\r\n\r\n{}")
        assert function.read_response(str(number)).body == b"{}"
        function.peer.send(b"HTTP/1.0 202 Accepted\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
    function.expect_next()
    assert function.peer is first


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("fields", ["", "Content-Length: 100\r\n"], ids=["", "with a length"])
def test_a_response_that_cannot_have_a_body_ends_with_its_head(runtime, status, fields):
    function = runtime(ECHO)
    first = function.connect()
    for number in range(2):
        assert function.read_response(function.invoke(number)).body == b"%d" % number
        function.peer.send(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode())
    function.expect_next()
    assert function.peer is first
