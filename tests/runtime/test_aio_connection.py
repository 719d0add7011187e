"""Async handlers whose caller reads slowly: the wait for buffer space is a wait of the event loop."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import sys
import termios
from pathlib import Path

import pytest
from support.emulator import until
from support.processes import state_of

# More than the buffers of both sides of a connection take.
TOO_MUCH = 32 * 1024 * 1024

SLOW = f"""
    import asyncio
    import os

    async def other_task(path):
        descriptor = os.open(path, os.O_WRONLY)
        for number in range(3):
            os.write(descriptor, b"%d\\n" % number)
            await asyncio.sleep(0.001)
        os.close(descriptor)

    async def handler(event, context):
        task = asyncio.create_task(other_task(event))
        try:
            yield b"x" * {TOO_MUCH}
            yield b"y"
            await task
        finally:
            print("closed", flush=True)
    """


@pytest.fixture
def signals(tmp_path: Path) -> str:
    """A named pipe, whose other end a task of the handler writes to."""
    path = str(tmp_path / "signals")
    os.mkfifo(path)
    return path


def wait_for_other_task(signals: str) -> None:
    """Return when the other task has ended. Without it, the test would wait until its time limit."""
    with open(signals) as pipe:
        assert pipe.read().split() == ["0", "1", "2"]


def test_a_slow_reader_does_not_stop_another_task(runtime, signals):
    function = runtime(SLOW)
    request_id = function.invoke(signals)
    wait_for_other_task(signals)
    response = function.read_response(request_id)
    function.accept()
    assert [len(chunk) for chunk in response.chunks] == [TOO_MUCH, 1]
    function.expect_next()


@pytest.mark.parametrize(
    "refusal",
    [
        [b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\n", b"\r\nla", b"rge"],
        [b"HTTP/1.1 413 Payload Too Large\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nla", b"rge\r\n0\r\n\r\n"],
    ],
    ids=["whole", "in parts", "chunked"],
)
def test_a_refusal_ends_the_wait(runtime, signals, refusal):
    function = runtime(SLOW)
    function.expect_response(function.invoke(signals))
    wait_for_other_task(signals)
    for part in refusal:
        function.peer.send(part)
    # A close with unread bytes resets the connection: the client may lose what it has not read (RFC 9112, 9.6).
    until(lambda: function.stdout == "closed\n")
    function.connect()
    function.invoke(signals)
    assert function.stdout == "closed\n"
    assert function.runtime_lines[0].startswith("the response was not delivered: ")
    assert "413" in function.runtime_lines[0]


def test_a_refusal_that_is_read_in_two_parts_is_named_after_the_connection_was_reset(runtime, signals):
    function = runtime(SLOW)
    function.expect_response(function.invoke(signals))
    wait_for_other_task(signals)
    os.kill(function.process.pid, signal.SIGSTOP)
    until(lambda: state_of(function.process.pid) == "T")
    function.peer.send(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 40000\r\n\r\n" + b"large" * 8000)
    until(lambda: unacknowledged(function.peer.socket) == 0)  # a reset discards what is still to be sent
    function.peer.reset()
    os.kill(function.process.pid, signal.SIGCONT)
    function.connect()
    function.expect_next()
    assert function.stdout == "closed\n"
    assert "413" in function.runtime_lines[0]


def unacknowledged(sock: socket.socket) -> int:
    """Return how many bytes the socket has taken that the other side has not acknowledged (SIOCOUTQ, tcp(7))."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_end_of_the_connection_ends_the_wait(runtime, signals, how):
    function = runtime(SLOW)
    function.expect_response(function.invoke(signals))
    wait_for_other_task(signals)
    getattr(function.peer, how)()
    function.connect()
    function.expect_next()
    assert function.stdout == "closed\n"


def test_an_early_success_does_not_end_the_response(runtime, signals):
    function = runtime(SLOW)
    function.expect_response(function.invoke(signals))
    function.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    wait_for_other_task(signals)
    assert [len(chunk) for chunk in iter(function.peer.read_chunk, b"")] == [TOO_MUCH, 1]
    assert function.peer.read_trailers() == {}
    function.expect_next()


def test_a_server_error_ends_the_environment(runtime, signals):
    function = runtime(SLOW)
    function.expect_response(function.invoke(signals))
    wait_for_other_task(signals)
    function.peer.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    assert function.wait() == 1
    assert function.stdout == "closed\n"


def test_sigterm_ends_the_wait(runtime, signals):
    function = runtime(SLOW)
    function.expect_response(function.invoke(signals))
    wait_for_other_task(signals)
    os.kill(function.process.pid, signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    assert function.stdout.startswith("closed\n")


def test_chunks_of_all_sizes_arrive_in_order(runtime):
    function = runtime(
        """
        import hashlib
        import random

        async def handler(event, context):
            generator = random.Random(event)
            whole = hashlib.sha256()
            for size in [1, 16384, 16385, 3_000_000] + [generator.randrange(1, 300_000) for _ in range(100)]:
                chunk = generator.randbytes(size)
                whole.update(chunk)
                yield chunk if size % 2 else memoryview(chunk)
            print(whole.hexdigest(), flush=True)
        """
    )
    for seed in range(2):
        response = function.respond(seed)
        assert len(response.chunks) == 104
        digest = hashlib.sha256(response.body).hexdigest()
        assert digest in function.stdout


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()"])
def test_a_process_that_another_task_forks_does_not_end_the_wait_for_the_reader(runtime, end):
    function = runtime(
        f"""
        import asyncio
        import os
        import sys

        async def fork():
            child = os.fork()
            if child == 0:
                {end}
            os.waitpid(child, 0)
            print("the child has ended", flush=True)

        async def handler(event, context):
            task = asyncio.create_task(fork())
            yield b"x" * {TOO_MUCH}
            await task
        """
    )
    request_id = function.invoke()
    until(lambda: function.stdout == "the child has ended\n")
    assert len(function.read_response(request_id).body) == TOO_MUCH
