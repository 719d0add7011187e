"""One environment with many slots, and a receiver of all its responses on a single thread.

The receiver is the Runtime API, or the client of a web server. It reads all connections with one poll, so what it
measures contains the same share of its own work for every program.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tools.bench.function_process import Program, environment_of
from tools.bench.server import STAMP_BYTES
from tools.common.errors import ToolError

_TIMEOUT = 120.0  # seconds for a step
_READ_BYTES = 256 * 1024
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Environment:
    """A process with slots, each of which has asked for an invocation.

    Args:
        slots: AWS_LAMBDA_MAX_CONCURRENCY; 0 starts an on-demand process, with one slot.
    """

    def __init__(self, program: Program, slots: int, log: Path) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.settimeout(_TIMEOUT)
        variables = environment_of(program, self._listener.getsockname()[1])
        if slots:
            variables["AWS_LAMBDA_MAX_CONCURRENCY"] = str(slots)
        self.connections: list[socket.socket] = []
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(word) for word in program.command],
                cwd=program.task_root,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            for _ in range(max(1, slots)):
                self.connections.append(self._accept())
            for connection in self.connections:
                read_head(connection)  # the request for an invocation
        except OSError as error:
            self.stop()
            raise ToolError(f"{program.name} has not asked for {slots} invocations: {error}") from error

    def _accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(_TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def invoke(self, event: Mapping[str, object], interval: float = 0.0) -> list[Stream]:
        """Send an invocation to every slot, and read all responses.

        Args:
            interval: seconds between two invocations.
        """
        body = json.dumps(event).encode()
        streams = []
        for number, connection in enumerate(self.connections):
            head = (
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                f"Lambda-Runtime-Aws-Request-Id: {number}\r\nLambda-Runtime-Deadline-Ms: 4102444800000\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            streams.append(Stream(connection, head.encode() + body))
        receive(streams, interval)
        return streams

    def pss_mib(self) -> float:
        """Return the proportional set size of all its processes (proc(5), smaps_rollup)."""
        return pss_mib(self._process.pid)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for connection in (*self.connections, self._listener):
            connection.close()


class Stream:
    """One response in chunks. All moments are in nanoseconds of CLOCK_MONOTONIC.

    What is read is examined later: a burst of chunks would wait for the examination, not for the program.

    Args:
        request: what begins it: a request, or the response that has the event.

    Attributes:
        begun: when its request was sent.
    """

    def __init__(self, connection: socket.socket, request: bytes) -> None:
        self.connection = connection
        self.begun = 0
        self._request = request
        self._reads: list[tuple[int, bytes]] = []  # with the moment
        self._end = b""  # the last bytes

    def begin(self) -> None:
        self.begun = time.monotonic_ns()
        self.connection.sendall(self._request)

    def read(self) -> bool:
        """Read what has arrived. Return whether the response is complete."""
        data = self.connection.recv(_READ_BYTES)
        self._reads.append((time.monotonic_ns(), data))
        if not data:
            raise ToolError("a connection ended within a response")
        self._end = (self._end + data)[-len(_LAST_CHUNK) :]
        return self._end == _LAST_CHUNK

    @property
    def ended(self) -> int:
        """When its last byte was read."""
        return self._reads[-1][0]

    def delays(self) -> list[int]:
        """Return how long each time stamp in its body was on the way."""
        found: list[int] = []
        rest = b""  # the begun line
        for now, data in self._reads:
            *lines, rest = (rest + data).split(b"\r\n")
            found += [now - int(line) for line in lines if len(line) == STAMP_BYTES and line.isdigit()]
        return found


def receive(streams: Sequence[Stream], interval: float = 0.0) -> None:
    """Begin all responses and read them to their end, on the calling thread.

    Args:
        interval: seconds between the begins of two responses.
    """
    poller = select.epoll()
    waiting = deque(streams)
    open_streams: dict[int, Stream] = {}
    next_begin = time.monotonic()
    while waiting or open_streams:
        if waiting and time.monotonic() >= next_begin:
            stream = waiting.popleft()
            open_streams[stream.connection.fileno()] = stream
            poller.register(stream.connection, select.EPOLLIN)
            stream.begin()
            next_begin += interval
        events = poller.poll(max(0.0, next_begin - time.monotonic()) if waiting else _TIMEOUT)
        if not events and not waiting:
            raise ToolError(f"{len(open_streams)} responses did not continue")
        for descriptor, _ in events:
            if open_streams[descriptor].read():
                poller.unregister(descriptor)
                del open_streams[descriptor]
    poller.close()


@contextlib.contextmanager
def real_time_priority() -> Iterator[None]:
    """Let no other process delay this one, where that is permitted: see sched(7), SCHED_FIFO."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def read_head(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("the connection was closed")
        received += data


@contextlib.contextmanager
def started(program: Program, slots: int, log: Path) -> Iterator[Environment]:
    """Run an environment until the end of the block. Raises ToolError."""
    running = Environment(program, slots, log)
    try:
        yield running
    finally:
        running.stop()


def pss_mib(root: int) -> float:
    """Return the proportional set size of a process and its descendants in MiB."""
    total, found = 0, [root]
    for pid in found:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        with contextlib.suppress(OSError):
            found += map(int, children.read_text().split())
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024
