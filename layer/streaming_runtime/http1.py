"""HTTP/1.1 for a client of the Runtime API: requests become bytes, bytes become responses. No sockets, no waiting.

A driver does the I/O: `connection.Connection` blocks. Framing returns `bytes`, or a tuple of buffers for a gathering
send; it creates no object per chunk. The parser is a generator: it yields the number of bytes that it can take, the
driver sends it the bytes received, and in the end it returns the `Response`. So the code reads from top to bottom and
works with any way to receive.

Rules: RFC 9112 (HTTP/1.1) and RFC 9110 (HTTP Semantics).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, NoReturn

    Buffer = bytes | memoryview
    Frame = bytes | tuple[Buffer, ...]

VERSION = "0.1.0"

# Header names of responses, in lower case: names are case-insensitive (RFC 9110, 5.1).
CONTENT_LENGTH = "content-length"
TRANSFER_ENCODING = "transfer-encoding"
CONNECTION = "connection"

MAX_COPIED_CHUNK = 16 * 1024  # bytes; up to this size a copy costs less than a gathering send
MAX_HEAD_BYTES = 1024 * 1024  # the service stays below (AWS Lambda Developer Guide, gettingstarted-limits)
HEAD_READ_BYTES = 16 * 1024  # above 128 KiB, malloc maps and unmaps memory for each buffer
BODY_READ_BYTES = 256 * 1024
MAX_LENGTH_DIGITS = 15  # of a Content-Length
MAX_INTERIM_RESPONSES = 100  # 1xx responses before the final one

CHUNK = b"%x\r\n%b\r\n"  # its size and its data (RFC 9112, 7.1)
LAST_CHUNK = b"0\r\n\r\n"


class ProtocolError(Exception):
    """The bytes received are not a valid HTTP/1.1 response, or the connection ended inside one."""


# --- Requests ---------------------------------------------------------------------------------------------------------


def request_head(method: str, target: str, fields: str) -> bytes:
    """Return a request line and header fields, which each end in CRLF (RFC 9112, 3 and 5)."""
    return f"{method} {target} HTTP/1.1\r\n{fields}\r\n".encode("utf-8", "surrogateescape")


def chunk(data: "Buffer", head: bytes = b"") -> "Frame":
    """Frame the data as one chunk (RFC 9112, 7.1), after the head if there is one, so that both leave in one send.

    The caller skips empty data: a chunk of size 0 ends the body.
    """
    size = len(data)
    if size > MAX_COPIED_CHUNK:
        return b"%b%x\r\n" % (head, size), data, b"\r\n"
    return head + CHUNK % (size, data)


def last_chunk(trailers: bytes) -> bytes:
    """Return the end of a chunked body with trailers, each a line that ends in CRLF (RFC 9112, 7.1.2)."""
    return b"0\r\n%b\r\n" % trailers


# --- Responses --------------------------------------------------------------------------------------------------------


class ResponseHead:
    """A status line and header fields. `status` is 0 if the data is not the head of an HTTP/1.x response.

    Args:
        data: everything up to the empty line, included.
    """

    __slots__ = ("get", "is_http_1_0", "status", "status_line")

    def __init__(self, data: bytes) -> None:
        text = data[:-4].decode("utf-8", "surrogateescape")
        self.status_line, *lines = text.split("\r\n")
        version, code = self.status_line[:9], self.status_line[9:12]
        # A bare CR or LF, or a NUL, in a value could inject a line into a request that repeats it (RFC 9112, 11.1).
        is_clean = text.count("\n") == text.count("\r") == len(lines) and "\0" not in text
        is_http = version in ("HTTP/1.1 ", "HTTP/1.0 ") and len(code) == 3 and code.isascii() and code.isdigit()
        self.status = int(code) if is_clean and is_http else 0
        self.is_http_1_0 = version == "HTTP/1.0 "
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip(" \t")
        self.get: Callable[..., Any] = headers.get  # by lower-case name


class Response:
    """A response of the Runtime API. `body` is None if the connection ended inside it."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, head: ResponseHead, body: "bytes | None") -> None:
        self.status = head.status
        self.headers = head
        self.body = body

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def __str__(self) -> str:
        return f"status {self.status} {(self.body or b'')[:500].decode('utf-8', 'replace')}".rstrip()


class ResponseParser:
    """Parses the responses of one connection, one after the other.

    Attributes:
        received: bytes received and not yet consumed.
        is_last: the connection cannot carry another response.
    """

    __slots__ = ("is_last", "received")

    def __init__(self) -> None:
        self.received = b""
        self.is_last = False

    def whole_response(self) -> "Response | None":
        """Consume `received` if it is one response with a Content-Length and nothing else; otherwise return None.

        Most responses of the Runtime API arrive in one piece. Without the generators, parsing takes less time.
        """
        data = self.received
        stop = data.find(b"\r\n\r\n") + 4
        if stop < 4:
            return None
        head = ResponseHead(data[:stop])
        get = head.get
        if head.status < 200 or head.is_http_1_0 or get(CONTENT_LENGTH) != str(len(data) - stop):
            return None
        if get(TRANSFER_ENCODING) is not None or get(CONNECTION) is not None:
            return None
        self.received = b""
        return Response(head, data[stop:])

    def response(self) -> "Generator[int, bytes, Response]":
        """Parse the next final response; interim ones (1xx) are skipped (RFC 9110, 15.2).

        Yields the maximum number of bytes to receive, takes those bytes, or `b""` at the end of the connection. A
        driver that cannot receive throws a ProtocolError in. Raises ProtocolError if there is no valid head. An invalid
        or incomplete body gives a response with the body None, as the status is known.
        """
        for _ in range(MAX_INTERIM_RESPONSES):
            head = ResponseHead((yield from self._line(b"\r\n\r\n")))
            if head.status >= 200:
                break
            if not head.status:
                self._fail(f"received a response that is not HTTP/1.1: {head.status_line[:80]!r}")
        else:
            self._fail("received too many interim responses")
        connection = head.get(CONNECTION, "").lower()
        # RFC 9112, 9.3: HTTP/1.1 connections persist by default, HTTP/1.0 ones only on request.
        self.is_last = "close" in connection or (head.is_http_1_0 and "keep-alive" not in connection)
        try:
            return Response(head, (yield from self._body(head)))
        except ProtocolError:
            self.is_last = True
            return Response(head, None)

    def _body(self, head: ResponseHead) -> "Generator[int, bytes, bytes]":
        """Read the body by the rules of RFC 9112, 6.3."""
        if head.status in (204, 304):
            return b""
        encoding = head.get(TRANSFER_ENCODING)
        length = head.get(CONTENT_LENGTH)
        if encoding is not None:
            if encoding.lower() != "chunked":
                self._fail(f"received a response with transfer encoding {encoding!r}")
            return (yield from self._chunks())
        if length is None:
            return (yield from self._until_end())
        if not (length.isascii() and length.isdigit() and len(length) <= MAX_LENGTH_DIGITS):
            self._fail(f"received a response with the length {length[:80]!r}")
        return (yield from self._exactly(int(length)))

    def _chunks(self) -> "Generator[int, bytes, bytes]":
        body = bytearray()
        while True:
            size = (yield from self._line(b"\r\n")).partition(b";")[0].strip()
            if not size or size.strip(b"0123456789abcdefABCDEF"):
                self._fail(f"received a chunk with the size {size[:20]!r}")
            if int(size, 16) == 0:
                break
            body += yield from self._exactly(int(size, 16))
            if (yield from self._exactly(2)) != b"\r\n":
                self._fail("received a chunk that is longer than its size")
        while (yield from self._line(b"\r\n")) != b"\r\n":
            pass  # a trailer
        return bytes(body)

    def _until_end(self) -> "Generator[int, bytes, bytes]":
        self.is_last = True
        body, self.received = bytearray(self.received), b""
        while data := (yield BODY_READ_BYTES):
            body += data
        return bytes(body)

    def _exactly(self, length: int) -> "Generator[int, bytes, bytes]":
        received = self.received
        if len(received) >= length:
            self.received = received[length:]
            return received[:length]
        body, self.received = bytearray(received), b""
        while len(body) < length:
            body += (yield min(length - len(body), BODY_READ_BYTES)) or self._fail_at_end()
        return bytes(body)

    def _line(self, end: bytes) -> "Generator[int, bytes, bytes]":
        """Read up to and including `end`."""
        received = self.received or (yield HEAD_READ_BYTES) or self._fail_at_end()
        searched = 0
        while (found := received.find(end, searched)) < 0:
            if len(received) > MAX_HEAD_BYTES:
                self._fail(f"received a head or line of more than {MAX_HEAD_BYTES} bytes")
            searched = max(0, len(received) - len(end) + 1)
            received += (yield HEAD_READ_BYTES) or self._fail_at_end()
        stop = found + len(end)
        self.received = received[stop:]
        return received[:stop]

    def _fail_at_end(self) -> "NoReturn":
        self._fail("the Runtime API closed the connection")

    def _fail(self, reason: str) -> "NoReturn":
        raise ProtocolError(reason)
