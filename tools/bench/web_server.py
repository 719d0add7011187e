"""One process of a web server, the alternative to a runtime that serves the application itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.bench.server import STAMP_BYTES
from tools.common.errors import ToolError

_TIMEOUT = 60.0  # seconds without a byte of a response


@dataclass(frozen=True)
class ServerProgram:
    """A web server with an application.

    Args:
        command: with `{descriptor}` where the number of the listening socket belongs.
    """

    name: str
    command: tuple[str | Path, ...]
    folder: Path
    variables: Mapping[str, str]


class WebServer:
    """The process, and one connection to it.

    The benchmark opens the listening socket and passes it on. So a client can connect before the server runs, and
    receives the first response in the moment in which the server can give it, without polling.
    """

    def __init__(self, program: ServerProgram, log: Path) -> None:
        self._name = program.name
        self._log = log
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Accepted connections inherit it (tcp(7)); a server does not set it for a socket that it did not open.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptor = self._listener.fileno()
        command = [str(word).format(descriptor=descriptor) for word in program.command]
        environment = {"PATH": "/usr/bin:/bin", "LANG": "en_US.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        with log.open("wb") as output:
            self.started = time.monotonic_ns()
            self._process = subprocess.Popen(
                command,
                cwd=program.folder,
                env={**environment, **program.variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[descriptor],
                start_new_session=True,
            )
        self._connection = self._connect()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    @property
    def pid(self) -> int:
        return self._process.pid

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._listener.getsockname(), _TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def get(self, target: str) -> Response:
        """Send a request and read the response.

        Raises:
            ToolError: the server ends, or does not respond with a complete 200.
        """
        sent = time.monotonic_ns()
        try:
            self._connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            response = Response.read(self._connection, sent)
            if response.is_last:  # a synchronous worker of gunicorn closes each connection
                self._connection.close()
                self._connection = self._connect()
            return response
        except (OSError, ValueError) as error:
            lines = self._log.read_text("utf-8", "replace").strip().splitlines() or ["empty"]
            raise ToolError(f"{self._name} did not respond ({error}); its log: {lines[-1]}") from error

    def stop(self) -> None:
        """Kill the process."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()
        self._listener.close()


@dataclass(frozen=True)
class Response:
    """One response. All moments are in nanoseconds of CLOCK_MONOTONIC.

    Args:
        is_last: the server closes the connection after it.
        delays: of the time stamps in its body.
    """

    sent: int
    first_byte: int
    is_last: bool
    delays: list[int]

    @classmethod
    def read(cls, connection: socket.socket, sent: int) -> Response:
        """Read a response. Raises ValueError if it is not a 200, or incomplete."""
        received = connection.recv(65536)
        first_byte = time.monotonic_ns()
        while b"\r\n\r\n" not in received:
            received += _receive(connection)
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(f"it sent {head[:40]!r}")
        delays: list[int] = []
        is_last = b"\r\nconnection: close" in head.lower()
        length = head.lower().partition(b"content-length:")[2].split(None, 1)
        if length:
            while len(body) < int(length[0]):
                body += _receive(connection)
            return cls(sent, first_byte, is_last, delays)
        while True:
            line, end, rest = body.partition(b"\r\n")
            size = int(line, 16) if end else 0
            if not end or len(rest) < size + 2:
                body += _receive(connection)
                continue
            if not size:
                return cls(sent, first_byte, is_last, delays)
            if size == STAMP_BYTES:
                delays.append(time.monotonic_ns() - int(rest[:size]))
            body = rest[size + 2 :]


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ValueError("it closed the connection")
    return data


@contextlib.contextmanager
def running(program: ServerProgram, log: Path) -> Iterator[WebServer]:
    """Run a web server until the end of the block."""
    server = WebServer(program, log)
    try:
        yield server
    finally:
        server.stop()
