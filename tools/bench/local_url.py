"""The emulator as its users start it: `main.py`, and requests to its local Function URL."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from tools.common.errors import ToolError
from tools.common.paths import ROOT

_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.contextmanager
def main_py(python: str | Path, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `main.py` on an interpreter until the end of the block."""
    command = [python, ROOT / "main.py", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def start_to_first_byte_ms(python: str | Path, *arguments: str | Path) -> float:
    """Return the milliseconds from the start of `main.py` to the first byte of the response to its one invocation."""
    started = time.monotonic_ns()
    with main_py(python, *arguments) as process:
        assert process.stdout is not None
        if not process.stdout.read(1):
            raise ToolError("main.py printed no response; run it by hand to see why")
        return (time.monotonic_ns() - started) / 1e6


class UrlClient:
    """One connection to the Function URL that `main.py --serve` prints.

    Raises:
        ToolError: the first line on stdout contains no URL, or a response is not a complete 200.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        if len(words) < 3:
            raise ToolError("main.py --serve printed no Function URL; run it by hand to see why")
        address = urllib.parse.urlsplit(words[2].decode())
        self._socket = socket.create_connection((address.hostname, address.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def first_byte_us(self) -> float:
        """Send a request; return the microseconds to the first byte of the response's body."""
        started = time.monotonic_ns()
        self._socket.sendall(_REQUEST)
        received = b""
        while not received.partition(b"\r\n\r\n")[2]:
            received += self._receive()
        microseconds = (time.monotonic_ns() - started) / 1e3
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += self._receive()
        if not received.startswith(b"HTTP/1.1 200 "):
            raise ToolError(f"the Function URL responded with {received[:80]!r}")
        return microseconds

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise ToolError("the Function URL closed the connection")
        return data
