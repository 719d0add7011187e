"""Generated streams, preludes, errors and faults. One process serves many examples, like a warm environment."""

from __future__ import annotations

import base64
import contextlib
import json
import operator
import os
import pickle
import re
import select
import socket
from http import HTTPStatus

import hypothesis
import hypothesis.strategies as st
import pytest
from support.examples import examples
from support.function_process import TIMEOUT


class LongLived:
    """One process for all examples. After a failed example, hypothesis needs a new process to shrink it."""

    def __init__(self, start):
        self._start = start
        self._function = None

    @contextlib.contextmanager
    def example(self):
        function = self._function or self._start()
        self._function = None
        yield function
        if function.process.poll() is None:
            self._function = function


# --- Streams ----------------------------------------------------------------------------------------------------------

# Each chunk comes as [type, size, first byte].
CHUNKS = """
COUNTING = bytes(range(251)) * 20_000

def made(kind, size, first):
    data = COUNTING[first : first + size]
    if kind == "memoryview with steps":
        spread = bytearray(2 * size)
        spread[::2] = data
        return memoryview(spread)[::2]
    return {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}[kind](data)

def handler(event, context):
    for each in event:
        yield made(*each)
"""
COUNTING = bytes(range(251)) * 20_000

chunk_sizes = st.one_of(
    st.integers(0, 40),
    st.integers(0, 200_000),
    st.sampled_from([n + d for n in (4096, 8192, 16384, 65536, 131072) for d in (-1, 0, 1)]),
)
kinds = st.sampled_from(["bytes", "bytearray", "memoryview", "memoryview with steps"])
chunk_lists = st.lists(st.tuples(kinds, chunk_sizes, st.integers(0, 250)), max_size=12)
# More than a connection buffers, so that sends are partial.
large_chunk_lists = st.lists(st.tuples(kinds, st.integers(3_000_000, 5_000_000), st.integers(0, 250)), max_size=2)
many_chunk_lists = st.tuples(kinds, st.integers(10_000, 16_384), st.integers(0, 250)).map(lambda each: [each] * 500)


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize(
    ("chunk_lists", "count"),
    [(chunk_lists, 60), (large_chunk_lists, 10), (many_chunk_lists, 10)],
    ids=["small", "large", "many"],
)
def test_chunks_arrive_as_they_were_yielded(runtime, keyword, chunk_lists, count):
    process = LongLived(lambda: runtime(CHUNKS.replace("def handler", f"{keyword} handler")))

    @examples(count)
    @hypothesis.given(chunk_lists)
    def check(chunks):
        with process.example() as function:
            response = function.respond(chunks)
            assert response.chunks == [COUNTING[first : first + size] for _, size, first in chunks if size]
            assert response.trailers == {}

    check()


# --- Preludes ---------------------------------------------------------------------------------------------------------

# As pickles: JSON has no tuples, no bytes, and only strings as keys.
HEADS = """
import base64, pickle

def handler(event, context):
    yield pickle.loads(base64.b64decode(event))
    yield b"body"
"""

hostile = st.one_of(
    st.text(max_size=20),
    st.text(st.sampled_from("a\r\n\0:;=, \x7f\x85\u2028é\U0001f98a\ud800"), max_size=8),
    st.sampled_from(["\r\nX: y", "a\0", "\n", "x" * 16_000, "é" * 3000]),
)
good = st.text(st.characters(exclude_characters="\r\n\0"), min_size=1, max_size=30)
strings = st.one_of(good, hostile)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=5), strings),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(strings, inner, max_size=3)),
    max_leaves=5,
)
good_heads = st.fixed_dictionaries(
    {},
    optional={
        "statusCode": st.one_of(st.integers(100, 599), st.sampled_from(HTTPStatus)),
        "headers": st.dictionaries(good, good, max_size=5),
        "cookies": st.one_of(st.lists(good, max_size=5), st.lists(good, max_size=5).map(tuple)),
    },
)
almost_good_heads = st.fixed_dictionaries(
    {},
    optional={
        "statusCode": st.sampled_from([99, 100, 599, 600, 200.0, True, "200"]) | st.integers(90, 610) | anything,
        "headers": st.one_of(st.dictionaries(strings, strings, max_size=3), anything),
        "cookies": st.one_of(st.lists(strings, max_size=3), st.sets(good, max_size=2), anything),
    },
)
# Around the size limit.
large_heads = st.integers(16_300, 16_360).map(lambda length: {"headers": {"a": "x" * length}})
odd_heads = st.dictionaries(
    st.one_of(
        st.sampled_from(["statusCode", "headers", "cookies", "body", "StatusCode"]),
        st.none() | st.integers() | st.binary(max_size=5) | strings,
    ),
    anything,
    max_size=4,
)


def expected_prelude(head):
    """Return the JSON that the contract requires, or None if it requires a refusal."""
    if not set(head) <= {"statusCode", "headers", "cookies"}:
        return None
    status, headers, cookies = head.get("statusCode", 200), head.get("headers", {}), head.get("cookies", [])
    if type(status) not in (int, HTTPStatus) or status not in range(100, 600):
        return None
    if type(headers) is not dict or type(cookies) not in (list, tuple):
        return None
    words = [*headers, *headers.values(), *cookies]
    if not all(type(word) is str and {"\r", "\n", "\0"}.isdisjoint(word) for word in words) or "" in headers:
        return None
    prelude = {"statusCode": int(status), "headers": headers, "cookies": list(cookies)}
    return prelude if len(json.dumps(prelude)) + 8 <= 16 * 1024 else None


def test_a_prelude_is_sent_unchanged_or_refused_before_the_first_byte(runtime):
    process = LongLived(lambda: runtime(HEADS))
    seen = set()

    @examples(300)
    @hypothesis.given(st.one_of(good_heads, almost_good_heads, odd_heads, large_heads))
    def check(head):
        expected = expected_prelude(head)
        seen.add(expected is None)
        event = base64.b64encode(pickle.dumps(head)).decode()
        with process.example() as function:
            if expected is None:
                request, document = function.fail(event)
                assert document["errorType"] == "Runtime.InvalidResponseHead"
                assert request.headers["lambda-runtime-function-error-type"] == "Runtime.InvalidResponseHead"
            else:
                prelude, end, *body = function.respond(event).chunks
                assert json.loads(prelude) == expected
                assert prelude.isascii() and (end, body) == (bytes(8), [b"body"])

    check()
    assert seen == {True, False}


# --- Errors -----------------------------------------------------------------------------------------------------------

RAISES = """
def handler(event, context):
    name, message, chunks = event
    yield from [b"x"] * chunks
    raise type(name, (Exception,), {})(message)
"""


def test_no_name_and_no_message_of_an_error_breaks_the_framing(runtime):
    process = LongLived(lambda: runtime(RAISES))
    letters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])  # those that a class may be named with
    names = st.text(letters, max_size=300) | st.just("Error\r\nX: y")
    long = st.builds(operator.mul, st.sampled_from(["x", "é\n", "\U0001f98a"]), st.integers(0, 100_000))
    messages = hostile | st.text() | long

    @examples(150)
    @hypothesis.given(names, messages, st.integers(0, 2))
    def check(name, message, chunks):
        with process.example() as function:
            request_id = function.invoke([name, message, chunks])
            if chunks:
                response = function.read_response(request_id)
                function.accept()
                assert response.chunks == [b"x"] * chunks
                header, body = (response.trailers[f"Lambda-Runtime-Function-Error-{end}"] for end in ("Type", "Body"))
                document = json.loads(base64.b64decode(body, validate=True))
                assert len(response.trailers) == 2
                assert sum(len(name) + len(value) + 4 for name, value in response.trailers.items()) < 4096
            else:
                request, document = function.read_error(request_id)
                header = request.headers["lambda-runtime-function-error-type"]
                assert json.loads(request.headers["lambda-runtime-function-xray-error-cause"])["exceptions"]
                assert document["errorMessage"][:1000] == message[:1000]
            assert header.startswith("Function.") or name.startswith("Runtime.")
            assert header.isascii() and header.isprintable()
            assert document["errorType"] == name[:128]
            assert document["requestId"] == request_id

    check()


# --- Responses of the Runtime API, ended at every byte ----------------------------------------------------------------

CUT_ID = "cut-invocation"
HEAD = (
    f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: {CUT_ID}\r\n"
    f"Lambda-Runtime-Invocation-Id: {'attempt-' * 20}\r\nLambda-Runtime-Deadline-Ms: 4102444800000\r\n"
).encode()
INVOCATIONS = {
    "counted": HEAD + b'Content-Length: 9\r\n\r\n{"a": 10}',
    "chunked": HEAD + b'Transfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n5;x=y\r\n: 10}\r\n0\r\nT: t\r\n\r\n',
    "after interim responses": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\n"
    + HEAD
    + b'Content-Length: 9\r\n\r\n{"a": 10}',
}
ACCEPTANCES = {
    "accepted": b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"OK"}',
    "accepted in chunks": b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    "refused": b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nlong",
    "without a body": b"HTTP/1.1 204 No Content\r\n\r\n",
}
ECHO = """
def handler(event, context):
    if event == "fails before the first byte":
        raise ValueError(event)
    yield str(event).encode()
    if event == "fails after the first byte":
        raise ValueError(event)
    while event == "never ends":
        yield bytes(100_000)
"""


def end(function, way):
    """End the current connection."""
    function.peer.reset() if way == "reset" else function.peer.close()
    function.peer = None


def works(function):
    """Check that the function serves an invocation on any connection. Return the paths of earlier posts."""
    posted = []
    while (request := function.request()).line.startswith("POST "):
        posted.append(request.path)
        assert re.fullmatch(r"/2018-06-01/runtime/invocation/[^ /?#%]+/(response|error)", request.path), request.path
        lines = request.raw.split(b"\r\n")
        assert not any(c in line for line in lines for c in b"\r\n\0"), request.raw
        if "transfer-encoding" in request.headers:
            list(iter(function.peer.read_chunk, b""))
            function.peer.read_trailers()
        function.accept()
    response = function.read_response(function.send_invocation("good"))
    assert (response.body, response.trailers) == (b"good", {})
    function.accept()
    return posted


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("kind", INVOCATIONS)
def test_an_invocation_that_ends_at_any_byte_is_requested_again_or_fails_once(runtime, kind, way):
    function = runtime(ECHO)
    sent = INVOCATIONS[kind]
    head = sent.index(b"\r\n\r\n", sent.index(HEAD)) + 4
    failed = [f"/2018-06-01/runtime/invocation/{CUT_ID}/error"]
    for length in range(len(sent)):
        function.expect_next()
        function.peer.send(sent[:length])
        end(function, way)
        posted = works(function)
        if way == "reset" and posted == []:
            continue  # a reset may overtake what was sent before it
        assert (length, posted) == (length, failed if length >= head else [])
    assert function.process.poll() is None


@pytest.mark.parametrize("kind", INVOCATIONS)
def test_an_invocation_that_arrives_byte_by_byte_is_served(runtime, kind):
    function = runtime(ECHO)
    for _ in range(3):
        function.expect_next()
        function.peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in INVOCATIONS[kind]:
            function.peer.send(bytes([byte]))
        assert function.read_response(CUT_ID).body == b"{'a': 10}"
        function.peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in ACCEPTANCES["accepted in chunks"]:
            function.peer.send(bytes([byte]))


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("event", ["good", "fails before the first byte", "fails after the first byte"])
def test_after_an_acceptance_that_ends_at_any_byte_nothing_is_posted_again(runtime, event, way):
    function = runtime(ECHO)
    for acceptance in ACCEPTANCES.values():
        for length in range(len(acceptance)):
            request_id = function.invoke(event)
            if "before" in event:
                assert function.request().path.endswith(f"/{request_id}/error")
            else:
                function.read_response(request_id)
            function.peer.send(acceptance[:length])
            end(function, way)
            assert works(function) == []
    assert function.process.poll() is None


@pytest.mark.parametrize("event", ["good", "fails before the first byte", "fails after the first byte"])
def test_after_a_complete_acceptance_the_connection_can_end_in_any_way(runtime, event):
    function = runtime(ECHO)
    for acceptance in ACCEPTANCES.values():
        for way in ("close", "reset", None):
            request_id = function.invoke(event)
            if "before" in event:
                assert function.request().path.endswith(f"/{request_id}/error")
            else:
                function.read_response(request_id)
            function.peer.send(acceptance)
            if way:
                end(function, way)
            assert works(function) == []


@pytest.mark.parametrize("size", [0, 4, 1_000_000])
def test_an_early_refusal_of_any_size_ends_a_stream_that_is_not_read(runtime, size):
    function = runtime(ECHO)
    for _ in range(2):
        function.expect_response(function.invoke("never ends"))
        unread, function.peer = function.peer, None
        unread.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(size)))
        assert works(function) == []
        unread.close()


# --- Invalid responses ------------------------------------------------------------------------------------------------

insertions = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b"-1",
    b" ",
    b"/",
    b"%",
    b"HTTP/1.1 204 No Content\r\n\r\n",
]
mistakes = st.lists(
    st.tuples(
        st.floats(0, 1),  # where
        st.integers(0, 12),  # how many bytes are taken away there
        st.sampled_from(insertions) | st.binary(max_size=6),
    ),
    min_size=1,
    max_size=4,
)


def with_mistakes(data, found):
    for place, taken, put in found:
        at = int(place * len(data))
        data = data[:at] + put + data[at + taken :]
    return data


def has_ended(function):
    """Wait until the process opens a connection or ends. Return whether it ended."""
    ended = os.pidfd_open(function.process.pid)
    try:
        ready, _, _ = select.select([function.listener, ended], [], [], TIMEOUT)
    finally:
        os.close(ended)
    assert ready, "the process hangs"
    return function.listener not in ready


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux, to wait for a process and a connection at once")
def test_an_invalid_invocation_is_served_at_most_once_or_ends_the_process(runtime):
    process = LongLived(lambda: runtime(ECHO))
    outcomes = set()

    @examples(300)
    @hypothesis.given(st.sampled_from(sorted(INVOCATIONS)), mistakes)
    def check(kind, found):
        with process.example() as function:
            function.expect_next()
            function.peer.send(with_mistakes(INVOCATIONS[kind], found))
            end(function, "close")
            if has_ended(function):
                assert function.wait() == 1
                last = function.stderr.splitlines()[-1]
                assert re.fullmatch(r"python-streaming-runtime .*; the environment ends", last)
                outcomes.add("ended")
            else:
                posted = works(function)
                assert len(posted) <= 1
                outcomes.add(posted[0].rpartition("/")[2] if posted else "asked again")

    check()
    assert outcomes == {"ended", "asked again", "response", "error"}
