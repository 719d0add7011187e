"""HTTP/1.1 requests, read strictly from a connection.

Theory of operation. Request smuggling needs two readers that disagree about where a request ends: one of them takes for
the body what the other takes for the next request. This reader therefore accepts one spelling of everything that
decides about the end of a message and refuses the rest; it never repairs. RFC 9112 allows a recipient to be lenient in
several of these places, so each rule names its clause.

* A line ends in CRLF. A bare LF, a bare CR and a NUL are refused (2.2; 9110, 5.5).
* No whitespace before the colon of a field name (5.1), no folded lines (5.2).
* `Content-Length` and `Transfer-Encoding` never appear together (6.1, 6.3).
* `Transfer-Encoding` is `chunked` in any case, once (6.1, 7). `Content-Length` is one number in ASCII digits (6.3).
* A chunk size consists of hexadecimal digits, and CRLF follows the data of the chunk (7.1).
* HTTP/1.1 requests have exactly one `Host` (3.2).

After a refused message the position in the stream is unknown, so the connection is closed.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator

from tools.common.operating_system import send_without_delay

MAX_HEAD_BYTES = 1024 * 1024  # request line and headers (AWS Lambda Developer Guide, gettingstarted-limits)
MAX_CHUNK_LINE_BYTES = 1024
MAX_READ_BYTES = 64 * 1024  # of a body at once
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a method or a field name (RFC 9110, 5.6.2)
LINGER_TIMEOUT = 1.0  # seconds


class ProtocolError(Exception):
    """A message violates a rule of HTTP. `status` is the status code for the response."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ConnectionClosed(Exception):
    """The peer closed or reset the connection within a message."""

    def __init__(self, part: str) -> None:
        super().__init__(f"the connection was closed within {part}")


class Headers:
    """Header fields in their order; names are case-insensitive (RFC 9110, 5.1)."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self.fields = fields

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str, default: str = "") -> str:
        """The value; repeated fields are joined with a comma (RFC 9110, 5.3)."""
        return ", ".join(self.all(name)) or default

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))


class Request:
    """The head of a request, whose body follows on the same connection, and what was sent in response.

    Attributes:
        received: when the head was complete, in seconds of the monotonic clock.
        status: of the response; None: nothing was sent.
        sent_bytes: of the body of the response, without its framing.
        first_byte: seconds from `received` to the first byte of the body; None: no body was sent.
        function: name of the function that the request is for; None: it is for no function.
    """

    def __init__(self, method: str, target: str, version: str, headers: Headers) -> None:
        self.received = time.monotonic()
        self.status: int | None = None
        self.sent_bytes = 0
        self.first_byte: float | None = None
        self.function: str | None = None
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers

    def add_sent(self, size: int) -> None:
        """Record bytes of the body that are about to be sent."""
        if size and self.first_byte is None:
            self.first_byte = time.monotonic() - self.received
        self.sent_bytes += size

    @property
    def chunked(self) -> bool:
        return "Transfer-Encoding" in self.headers

    @property
    def keep_alive(self) -> bool:
        connection = self.headers.get("Connection").lower()
        return "keep-alive" in connection if self.version == "HTTP/1.0" else "close" not in connection


class Connection:
    """An accepted connection, for reading requests and writing responses.

    Every method raises ProtocolError if the peer violates a rule, and ConnectionClosed if it leaves.

    Args:
        peer: address of the client.
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.socket = sock
        self.peer = peer
        send_without_delay(sock)
        self._reader = sock.makefile("rb")

    def write(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            raise ConnectionClosed("a response") from None

    def peer_closed(self) -> bool:
        """Whether the peer has closed or reset the connection. Only for times when it has nothing to send."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def linger(self) -> None:
        """Read and drop what the peer still sends, for a limited time.

        If the socket were closed with unread data, the kernel would send a reset, and the peer could lose the response
        that it has not read yet (RFC 9112, 9.6).
        """
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(LINGER_TIMEOUT)
            for _ in range(1024):
                if not self.socket.recv(MAX_READ_BYTES):
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._reader.close()
        self.socket.close()

    def read_request(self) -> Request | None:
        """Read the head of the next request; None if the peer closed the connection after the previous one."""
        try:
            request_line = self._read_line(MAX_HEAD_BYTES, "a request line")
        except ConnectionClosed:
            return None
        parts = request_line.split(" ")
        if len(parts) != 3 or not all(parts) or not TOKEN.fullmatch(parts[0]):
            raise ProtocolError(f"the request line is malformed: {request_line[:80]!r}")
        method, target, version = parts
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise ProtocolError(f"the version is {version[:20]!r}; only HTTP/1.1 and HTTP/1.0 are supported", 505)
        headers = self._read_fields(MAX_HEAD_BYTES - len(request_line))
        check_framing(headers, version)
        return Request(method, target, version, headers)

    def read_body(self, request: Request, limit: int) -> bytes:
        """Read a whole body of at most `limit` bytes. A client that expects `100 Continue` receives it first."""
        if request.headers.get("Expect").lower() == "100-continue":
            content_length(request, limit)
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not request.chunked:
            return self._read_exactly(content_length(request, limit), "a body")
        body = bytearray()
        for piece in self.read_chunks():
            body += piece
            if len(body) > limit:
                raise ProtocolError(f"the body is larger than the limit of {limit} bytes", 413)
        self.read_trailers()
        return bytes(body)

    def read_chunks(self) -> Iterator[bytes]:
        """Read a chunked body as it arrives, up to and including the last chunk. Then call `read_trailers`."""
        while size := self._read_chunk_size():
            while size:
                data = self._read_some(min(size, MAX_READ_BYTES))
                size -= len(data)
                yield data
            if self._read_exactly(2, "a chunk") != b"\r\n":
                raise ProtocolError("the data of a chunk is longer than its size: CRLF does not follow it")

    def read_trailers(self) -> Headers:
        return self._read_fields(MAX_HEAD_BYTES)

    def _read_chunk_size(self) -> int:
        line = self._read_line(MAX_CHUNK_LINE_BYTES, "a chunk size")
        digits = line.partition(";")[0].strip(" \t")
        if not digits or digits.strip("0123456789abcdefABCDEF") or len(digits) > 16:
            raise ProtocolError(f"a chunk begins with {line[:40]!r} instead of its size in hexadecimal digits")
        return int(digits, 16)

    def _read_fields(self, limit: int) -> Headers:
        fields = []
        while line := self._read_line(limit, "the head"):
            limit -= len(line) + 2
            name, colon, value = line.partition(":")
            if not colon or not TOKEN.fullmatch(name):
                raise ProtocolError(f"a header line is malformed: {line[:80]!r}")
            fields.append((name, text_of_value(value.strip(" \t"))))
        return Headers(fields)

    def _read_line(self, limit: int, part: str) -> str:
        try:
            line = self._reader.readline(max(0, limit) + 2)
        except (OSError, ValueError):  # reset by the peer, or closed by another thread
            raise ConnectionClosed(part) from None
        if len(line) >= limit + 2 and not line.endswith(b"\r\n"):
            raise ProtocolError(f"{part} is longer than the limit", 431)
        if not line.endswith(b"\n"):
            raise ConnectionClosed(part)
        text = line[:-2].decode("latin-1")
        if not line.endswith(b"\r\n") or any(c in text for c in "\r\0"):
            raise ProtocolError(f"{part} contains a bare CR or LF, or a NUL: {line[:80]!r}")
        return text

    def _read_exactly(self, length: int, part: str) -> bytes:
        try:
            data = self._reader.read(length)
        except (OSError, ValueError):
            raise ConnectionClosed(part) from None
        if len(data) < length:
            raise ConnectionClosed(part)
        return data

    def _read_some(self, limit: int) -> bytes:
        try:
            data = self._reader.read1(limit)
        except (OSError, ValueError):
            raise ConnectionClosed("a chunk") from None
        if not data:
            raise ConnectionClosed("a chunk")
        return data


def text_of_value(value: str) -> str:
    """Return a header value that was read as Latin-1 as the UTF-8 text that it is, if it is valid UTF-8.

    Browsers and SDKs send UTF-8, and the service delivers it as such. RFC 9110, 5.5, leaves the encoding open.
    """
    try:
        return value if value.isascii() else value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def content_length(request: Request, limit: int) -> int:
    """The length of a body that is not chunked, in bytes. Raises ProtocolError (413) above the limit."""
    digits = request.headers.get("Content-Length", "0").lstrip("0") or "0"
    if len(digits) > len(str(limit)) or int(digits) > limit:
        raise ProtocolError(f"the body has {digits[:20]} bytes; the limit is {limit}", 413)
    return int(digits)


def check_framing(headers: Headers, version: str) -> None:
    """Refuse a head that leaves the end of the body, or the host, ambiguous (see the top of this module)."""
    lengths = headers.all("Content-Length")
    encodings = headers.all("Transfer-Encoding")
    if encodings and lengths:
        raise ProtocolError("the request has both Transfer-Encoding and Content-Length")
    if encodings and [encoding.lower() for encoding in encodings] != ["chunked"]:
        raise ProtocolError(f"Transfer-Encoding is {', '.join(encodings)!r}; only 'chunked' is supported", 501)
    if len(lengths) > 1 or any(not (value.isascii() and value.isdigit()) for value in lengths):
        raise ProtocolError(f"Content-Length is {', '.join(lengths)!r}; it must be one number")
    if version == "HTTP/1.1" and len(headers.all("Host")) != 1:
        raise ProtocolError("the request must have exactly one Host header")
