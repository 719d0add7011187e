"""One process serves thousands of invocations with faults. Each has exactly one outcome, and memory stays constant."""

from __future__ import annotations

import collections
import json
import random
from pathlib import Path

import pytest

WARM = 1_000  # invocations before the first measurement of memory
GROWTH = 1024  # KiB

# An event is [action, number of chunks before it, size of each].
CODE = """
def chunks(count, size):
    for n in range(count):
        yield bytes(size)

def handler(event, context):
    deed, count, size = event
    if deed == "return":
        return size
    return stream(deed, count, size)

def stream(deed, count, size):
    yield from chunks(count, size)
    if deed == "raise":
        raise ValueError("x" * (size // 10))
    if deed == "yield text":
        yield "text"
    if deed == "head":
        yield {"headers": {"a": 5}}
    if deed == "yield nothing":
        yield b""
"""
DEEDS = ["stream"] * 12 + ["raise", "raise", "yield text", "yield nothing", "return", "head"]
FAULTS = [None] * 24 + [
    "204 before it",
    "next cut",
    "closed while the handler runs",
    "refused",
    "refused early",
    "accepted early",
    "reset within the response",
    "no response",
    "closed after the response",
]
REFUSALS = [b"400 Bad Request", b"403 Forbidden", b"410 Gone", b"413 Payload Too Large"]
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
LARGE = 500_000  # bytes: more than a connection buffers, less than GROWTH


def events(dice):
    """Yield the largest event of each kind first, for the peak of memory; then random ones."""
    yield from ([deed, count, LARGE] for deed in sorted(set(DEEDS)) for count in (0, 2, 10))
    sizes = [1, 10, 100, 1000, 16 * 1024, 16 * 1024 + 1, 70_000]
    while True:
        size = LARGE if dice.random() < 0.002 else dice.choice(sizes)
        yield [dice.choice(DEEDS), dice.choice([0, 1, 1, 2, 3, 10]), size]


class Service:
    """A Runtime API with faults. It sends one invocation after the other and checks the outcome of each.

    Args:
        function: the process, a `function_process.FunctionProcess`.
        dice: decides on events and faults.
    """

    def __init__(self, function, dice):
        self._function = function
        self._dice = dice
        self._events = events(dice)
        self._is_polling = False  # the next invocation was asked for already

    def invoke(self):
        """Serve one invocation. Return its outcome."""
        event, fault = next(self._events), self._dice.choice(FAULTS)
        self.wait_for_next()
        self._is_polling = False
        if fault == "204 before it":
            self._function.peer.send(NO_CONTENT)
            self._function.expect_next()
        elif fault == "next cut":
            self._function.peer.send(b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: cut-before-its-end\r\n")
            self._disconnect()
            self._function.expect_next()
        request_id = self._function.send_invocation(event)
        if fault == "closed while the handler runs":
            self._disconnect()
        return self._take_outcome(request_id, event, fault)

    def wait_for_next(self):
        """Wait for the request to `next`. Any other request would be a second or late post."""
        if not self._is_polling:
            self._function.expect_next()
        self._is_polling = True

    def _take_outcome(self, request_id, event, fault):
        request = self._function.request()
        if fault == "closed while the handler runs" and request.line.startswith("GET "):
            self._is_polling = True
            return "cut"  # on its way when the connection was closed
        kind = request.path.rpartition("/")[2]
        assert request.path == f"/2018-06-01/runtime/invocation/{request_id}/{kind}"
        if kind == "error":
            check_error(event, request)
        elif fault == "reset within the response":
            self._disconnect("reset")
            return "cut"
        elif fault == "refused early":
            self._function.peer.send(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n")
            return self._read_until_it_gives_up(event)
        elif fault == "accepted early":
            self._function.accept()
            return self._read_stream(event)
        else:
            kind = self._read_stream(event)
        self._respond(fault)
        return kind

    def _read_stream(self, event):
        _, count, size = event
        for _ in range(count):
            assert self._function.peer.read_chunk() == bytes(size)
        assert self._function.peer.read_chunk() == b""
        trailers = self._function.peer.read_trailers()
        assert trailers.get("Lambda-Runtime-Function-Error-Type") == expected_error(event)
        return "trailers" if trailers else "response"

    def _read_until_it_gives_up(self, event):
        """Read a refused stream. It may end early, with its connection; otherwise it is complete."""
        try:
            return self._read_stream(event)
        except (AssertionError, ConnectionError):
            assert not self._function.peer.reader.read()
            self._disconnect()
            return "cut"

    def _respond(self, fault):
        if fault in ("refused", "refused early"):
            status = self._dice.choice(REFUSALS)
            self._function.peer.send(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)
        elif fault not in ("no response", "reset within the response"):
            self._function.accept()
        if fault in ("no response", "closed after the response", "reset within the response"):
            self._disconnect("reset" if "reset" in fault else "close")

    def _disconnect(self, way="close"):
        self._function.peer.reset() if way == "reset" else self._function.peer.close()
        self._function.peer = None


def expected_error(event):
    """Return the error type that the event must cause, or None for a complete stream."""
    deed, count, _ = event
    return {
        "raise": "Function.ValueError",
        "yield text": "Runtime.InvalidChunk",
        "return": "Runtime.InvalidHandler",
        "head": "Runtime.InvalidChunk" if count else "Runtime.InvalidResponseHead",
    }.get(deed)


def check_error(event, request):
    deed, count, _ = event
    assert count == 0 or deed == "return", event
    assert request.headers["lambda-runtime-function-error-type"] == expected_error(event)
    document = json.loads(request.body)
    assert document["requestId"] in request.path
    assert document["errorType"] == expected_error(event).removeprefix("Function.")


def memory_of(process):
    """Return the current and the peak resident memory in KiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return [int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")]


@pytest.mark.parametrize("invocations", [1_500, pytest.param(20_000, marks=pytest.mark.long)])
def test_memory_stays_constant_and_each_invocation_has_one_outcome(runtime, invocations):
    function = runtime(CODE)
    service = Service(function, random.Random(20))
    outcomes = collections.Counter(service.invoke() for _ in range(WARM))
    service.wait_for_next()
    measured = Path("/proc/self/status").exists()
    before = memory_of(function.process) if measured else []
    outcomes.update(service.invoke() for _ in range(invocations - WARM))
    service.wait_for_next()
    after = memory_of(function.process) if measured else []
    assert outcomes.total() == invocations
    assert all(outcomes[outcome] > invocations / 100 for outcome in ("response", "trailers", "error", "cut")), outcomes
    assert function.process.poll() is None
    for start, end in zip(before, after, strict=True):
        assert end - start <= GROWTH, (before, after)
