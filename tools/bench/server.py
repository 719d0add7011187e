"""Replaces `server.c` where there is no compiler: the same commands, replies and moments."""

from __future__ import annotations

import socket
import sys
import time

STAMP_BYTES = 20  # a chunk of this size is a moment in decimal digits


class Server:
    """The Runtime API of one process."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connection: socket.socket | None = None
        self._buffer = bytearray(1 << 18)
        self._view = memoryview(self._buffer)
        self._start = self._stop = 0
        self._received_at = 0
        self._count = 0
        self.delays: list[int] = []

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def expect_next(self) -> int:
        """Read a request for an invocation, and return when it was received. The process may reconnect before it."""
        while self._connection is None or not (line := self._line(may_end=True)):
            self._connection, _ = self._listener.accept()
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start = self._stop = 0
        if b"/runtime/invocation/next" not in line:
            raise SystemExit(line.decode("latin-1"))
        while self._line():
            pass
        return self._received_at

    def invoke(self, event: bytes) -> tuple[int, int, int, int]:
        """Send one invocation; return the moments sent, first_byte, last_byte and ready."""
        self._count += 1
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Lambda-Runtime-Aws-Request-Id: 00000000-0000-4000-8000-{self._count:012d}\r\n"
            "Lambda-Runtime-Deadline-Ms: 4102444800000\r\n"
            "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-west-1:123456789012:function:f\r\n"
            "Lambda-Runtime-Trace-Id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419\r\n"
            f"Content-Length: {len(event)}\r\n\r\n"
        )
        assert self._connection is not None
        sent = time.monotonic_ns()
        self._connection.sendall(head.encode() + event)
        first_byte, last_byte = self._read_response()
        self._connection.sendall(
            b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"status":"OK"}\n'
        )
        return sent, first_byte, last_byte, self.expect_next()

    def _read_response(self) -> tuple[int, int]:
        line = self._line()
        if b"/response" not in line:
            raise SystemExit(line.decode("latin-1"))
        length = 0
        while line := self._line():
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        if not length:
            return self._read_chunks()
        if self._start == self._stop:
            self._fill()
        first_byte = self._received_at
        self._skip(length)
        return first_byte, self._received_at

    def _read_chunks(self) -> tuple[int, int]:
        size = int(self._line(), 16)
        first_byte = self._received_at
        while size:
            if size == STAMP_BYTES:
                self._note_delay()
            self._skip(size + 2)
            size = int(self._line(), 16)
        while self._line():
            pass
        return first_byte, self._received_at

    def _note_delay(self) -> None:
        while self._stop - self._start < STAMP_BYTES:
            self._fill()
        self.delays.append(self._received_at - int(self._buffer[self._start : self._start + STAMP_BYTES]))

    def _line(self, may_end: bool = False) -> bytes:
        """Return the next line without its end; if `may_end`, an empty one also where the connection has ended."""
        while (end := self._buffer.find(b"\n", self._start, self._stop)) < 0:
            if not self._fill(may_end):
                return b""
        line = bytes(self._buffer[self._start : end])
        self._start = end + 1
        return line.rstrip(b"\r")

    def _skip(self, count: int) -> None:
        while count > self._stop - self._start:
            count -= self._stop - self._start
            self._start = self._stop
            self._fill()
        self._start += count

    def _fill(self, may_end: bool = False) -> bool:
        if self._start:
            rest = bytes(self._view[self._start : self._stop])
            self._view[: len(rest)] = rest
            self._start, self._stop = 0, len(rest)
        assert self._connection is not None
        try:
            count = self._connection.recv_into(self._view[self._stop :])
        except ConnectionError:
            count = 0
        self._received_at = time.monotonic_ns()
        self._stop += count
        if not count and not may_end:
            raise SystemExit("the connection ended in the middle of a response")
        return count > 0


def main() -> None:
    server = Server()
    print(server.port, flush=True)
    asked = 0
    for command in sys.stdin:
        count, _, event = command.rstrip("\n").partition(" ")
        asked = asked or server.expect_next()
        server.delays, lines = [], []
        for _ in range(int(count)):
            moments = server.invoke(event.encode())
            lines.append(" ".join(map(str, (asked, *moments))))
            asked = moments[-1]
        print(count, len(server.delays))
        print(*lines, *server.delays, sep="\n", flush=True)


if __name__ == "__main__":
    main()
