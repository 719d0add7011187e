"""HTTP/1.1 messages, read strictly as RFC 9112 has them, and a server that gives each connection a thread."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

LARGEST_HEAD = 1024 * 1024  # bytes of request line and headers (AWS Lambda Developer Guide, gettingstarted-limits)
LARGEST_SLICE = 64 * 1024  # bytes of a body that are handed on at once
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a method, or a header's name (RFC 9110, 5.6.2)


class ProtocolError(Exception):
    """A message breaks a rule of HTTP. `status` is what a server answers to it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ConnectionEnded(Exception):
    """The other side closed the connection, or reset it; `within` tells what it left unfinished."""

    def __init__(self, within: str) -> None:
        super().__init__(f"the connection ended within {within}")


class Headers:
    """Header fields in their order; names compare without case (RFC 9110, 5.1)."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self.fields = fields

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str, default: str = "") -> str:
        """The value, repeated ones joined with a comma (RFC 9110, 5.3)."""
        return ", ".join(self.all(name)) or default

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))


class Request:
    """A request whose head was read; its body follows on the same connection."""

    def __init__(self, method: str, target: str, version: str, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers

    @property
    def chunked(self) -> bool:
        return "Transfer-Encoding" in self.headers

    @property
    def keep_alive(self) -> bool:
        connection = self.headers.get("Connection").lower()
        return "keep-alive" in connection if self.version == "HTTP/1.0" else "close" not in connection


class Connection:
    """One accepted connection: requests are read from it, answers written to it.

    Every method raises ProtocolError where the peer breaks a rule, ConnectionEnded where it leaves.
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.socket = sock
        self.peer = peer  # address
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = sock.makefile("rb")

    def write(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            raise ConnectionEnded("an answer") from None

    def peer_left(self) -> bool:
        """Whether the peer has closed the connection, or reset it, at a time when it has nothing to send."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def linger(self) -> None:
        """Take, for a while, what the peer still sends: closed at once, it might never see the last answer."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(1)
            for _ in range(1024):
                if not self.socket.recv(LARGEST_SLICE):
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._reader.close()
        self.socket.close()

    def read_request(self) -> Request | None:
        """The next request's head; None where the peer has closed the connection after the one before."""
        try:
            request_line = self._line(LARGEST_HEAD, "a request line")
        except ConnectionEnded:
            return None
        parts = request_line.split(" ")
        if len(parts) != 3 or not all(parts) or not TOKEN.fullmatch(parts[0]):
            raise ProtocolError(f"the request line is malformed: {request_line[:80]!r}")
        method, target, version = parts
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise ProtocolError(f"the version is {version[:20]!r}, and not HTTP/1.1", 505)
        headers = self._fields(LARGEST_HEAD - len(request_line))
        check_framing(headers, version)
        return Request(method, target, version, headers)

    def read_counted(self, request: Request, limit: int) -> bytes:
        """The whole body of a request that is not chunked, at most `limit` bytes."""
        return self._exactly(self.check_length(request, limit), "a body")

    @staticmethod
    def check_length(request: Request, limit: int) -> int:
        """The length of a counted body, in bytes; refused above the limit."""
        digits = request.headers.get("Content-Length", "0").lstrip("0") or "0"
        if len(digits) > len(str(limit)) or int(digits) > limit:
            raise ProtocolError(f"the body has {digits[:20]} bytes, the limit is {limit}", 413)
        return int(digits)

    def read_body(self, request: Request, limit: int) -> bytes:
        """The whole body, chunked or counted, at most `limit` bytes. A client that waits for a go-ahead gets it."""
        if request.headers.get("Expect").lower() == "100-continue":
            self.check_length(request, limit)
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not request.chunked:
            return self.read_counted(request, limit)
        body = bytearray()
        for piece in self.read_chunks():
            body += piece
            if len(body) > limit:
                raise ProtocolError(f"the body has more than the limit of {limit} bytes", 413)
        self.read_trailers()
        return bytes(body)

    def read_chunks(self) -> Iterator[bytes]:
        """The data of a chunked body as it comes, up to the last chunk; the trailers are to be read next."""
        while size := self._chunk_size():
            while size:
                data = self._some(min(size, LARGEST_SLICE))
                size -= len(data)
                yield data
            if self._exactly(2, "a chunk") != b"\r\n":
                raise ProtocolError("a chunk's data is not followed by CRLF: it is longer than its size says")

    def read_trailers(self) -> Headers:
        """The fields after the last chunk of a body."""
        return self._fields(LARGEST_HEAD)

    def _chunk_size(self) -> int:
        line = self._line(1024, "a chunk's size")
        digits = line.partition(";")[0].strip(" \t")
        if not digits or digits.strip("0123456789abcdefABCDEF") or len(digits) > 16:
            raise ProtocolError(f"a chunk begins with {line[:40]!r}, and not with its size in hexadecimal digits")
        return int(digits, 16)

    def _fields(self, limit: int) -> Headers:
        fields = []
        while line := self._line(limit, "the head"):
            limit -= len(line) + 2
            name, colon, value = line.partition(":")
            if not colon or not TOKEN.fullmatch(name):
                raise ProtocolError(f"a header line is malformed: {line[:80]!r}")
            fields.append((name, value.strip(" \t")))
        return Headers(fields)

    def _line(self, limit: int, what: str) -> str:
        try:
            line = self._reader.readline(max(0, limit) + 2)
        except (OSError, ValueError):  # reset; or closed by another thread
            raise ConnectionEnded(what) from None
        if len(line) >= limit + 2 and not line.endswith(b"\r\n"):
            raise ProtocolError(f"{what} is longer than the limit", 431)
        if not line.endswith(b"\n"):
            raise ConnectionEnded(what)
        text = line[:-2].decode("latin-1")
        if not line.endswith(b"\r\n") or any(c in text for c in "\r\0"):
            raise ProtocolError(f"{what} holds a bare CR or LF, or a NUL: {line[:80]!r}")
        return text

    def _exactly(self, length: int, what: str) -> bytes:
        try:
            data = self._reader.read(length)
        except (OSError, ValueError):
            raise ConnectionEnded(what) from None
        if len(data) < length:
            raise ConnectionEnded(what)
        return data

    def _some(self, most: int) -> bytes:
        try:
            data = self._reader.read1(most)
        except (OSError, ValueError):
            raise ConnectionEnded("a chunk") from None
        if not data:
            raise ConnectionEnded("a chunk")
        return data


def check_framing(headers: Headers, version: str) -> None:
    """Refuse a head that leaves open where the body ends (RFC 9112, 6.1 to 6.3), or that names no host (3.2)."""
    lengths = headers.all("Content-Length")
    encodings = headers.all("Transfer-Encoding")
    if encodings and lengths:
        raise ProtocolError("both Transfer-Encoding and Content-Length are given")
    if encodings and encodings != ["chunked"]:
        raise ProtocolError(f"Transfer-Encoding is {', '.join(encodings)!r}, and not 'chunked'", 501)
    if len(lengths) > 1 or any(not (value.isascii() and value.isdigit()) for value in lengths):
        raise ProtocolError(f"Content-Length is {', '.join(lengths)!r}, and not one number")
    if version == "HTTP/1.1" and len(headers.all("Host")) != 1:
        raise ProtocolError("there is not exactly one Host header")


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A socket that listens at a name or an address; port 0 lets the system choose.

    Raises OSError or UnicodeError where that cannot be.
    """
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server((host, port), family=family, backlog=1024)


class Server:
    """Listens at an address and calls `serve` for each connection, on a thread of its own.

    Args:
        serve: called with a connection; it is closed when the call returns.
        listener: listens already; None: a new one on the loopback interface. `host` and `port` tell where.
    """

    def __init__(self, serve: Callable[[Connection], None], listener: socket.socket | None = None) -> None:
        self._serve = serve
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._closed = False
        self._listener = listener or listen()
        self.host: str = self._listener.getsockname()[0]
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def close(self) -> None:
        """Stop listening and cut every connection."""
        with self._lock:
            self._closed = True
            connections = list(self._connections)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        self._listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, (peer, *_) = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.05)  # out of descriptors, for example, until some connection ends
                continue
            threading.Thread(target=self._run, args=(Connection(sock, peer),), daemon=True).start()

    def _run(self, connection: Connection) -> None:
        with self._lock:
            self._connections.add(connection)
            closed = self._closed
        try:
            if not closed:
                self._serve(connection)
        except ConnectionEnded:
            pass
        finally:
            connection.close()
            with self._lock:
                self._connections.discard(connection)
