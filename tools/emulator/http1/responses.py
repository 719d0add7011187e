"""HTTP/1.1 responses: a body of known length, or a stream of chunks."""

from __future__ import annotations

import http
import json
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

from tools.emulator.http1.connection import Connection, ConnectionClosed, Request

Fields = Sequence[tuple[str, str]]
INTERIM = range(100, 200)  # RFC 9110, 15.2: a client waits for another response
WITHOUT_BODY = frozenset((*INTERIM, 204, 304))  # RFC 9112, 6.3


class StreamedResponse:
    """A response that is sent in chunks. A client of HTTP/1.0 receives the body without framing, up to the close.

    The caller of `write` does not learn that the client has disconnected: Lambda does not report it to the function.

    Args:
        fields: the headers. If `Content-Length` is one of them, the body is cut at that length.
    """

    def __init__(self, connection: Connection, request: Request, status: int, fields: Fields) -> None:
        self._connection = connection
        self._request = request
        request.status = status
        self._without_body = request.method == "HEAD" or status in WITHOUT_BODY
        self._remaining = declared_length(fields)  # bytes; None: not declared
        self._chunked = request.version != "HTTP/1.0" and self._remaining is None and not self._without_body
        self._disconnected = False
        lines = head_lines(status, fields)
        if self._chunked:
            lines.append("Transfer-Encoding: chunked")
        delimited = self._chunked or (self._without_body and request.version != "HTTP/1.0")
        # A function may send an interim status as its response. The end of the connection ends the client's wait.
        self._reusable = request.keep_alive and delimited and status not in INTERIM
        if not self._reusable:
            lines.append("Connection: close")
        self._send("\r\n".join([*lines, "", ""]).encode())

    def write(self, chunk: bytes) -> None:
        if self._remaining is not None:
            chunk = chunk[: self._remaining]
            self._remaining -= len(chunk)
        if chunk and not self._without_body:  # an empty chunk would end the body
            self._request.add_sent(len(chunk))
            self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)

    def finish(self) -> bool:
        """Send the last chunk. Returns whether the connection can serve another request.

        A response that fails in the middle is not finished: without the last chunk the client detects that it is cut.
        """
        if self._chunked:
            self._send(b"0\r\n\r\n")
        return self._reusable and not self._disconnected

    def _send(self, data: bytes) -> None:
        if self._disconnected:
            return
        try:
            self._connection.write(data)
        except ConnectionClosed:
            self._disconnected = True


def send(
    connection: Connection,
    request: Request | None,
    status: int,
    fields: Fields = (),
    body: bytes = b"",
    close: bool = False,
) -> bool:
    """Send a whole response. Returns whether the connection can serve another request.

    Args:
        request: None if it could not be read.
        close: whether the connection ends with this response in any case.
    """
    reusable = request is not None and request.keep_alive and not close and status not in INTERIM
    lines = head_lines(status, fields)
    if status not in WITHOUT_BODY:
        lines.append(f"Content-Length: {len(body)}")
    if not reusable:
        lines.append("Connection: close")
    without_body = status in WITHOUT_BODY or (request is not None and request.method == "HEAD")
    if request is not None:
        request.status = status
        request.add_sent(0 if without_body else len(body))
    try:
        connection.write("\r\n".join([*lines, "", ""]).encode() + (b"" if without_body else body))
    except ConnectionClosed:
        return False
    return reusable


def send_json(
    connection: Connection,
    request: Request | None,
    status: int,
    document: dict[str, Any],
    fields: Fields = (),
    close: bool = False,
) -> bool:
    typed = [("Content-Type", "application/json"), *fields]
    return send(connection, request, status, typed, json.dumps(document).encode(), close)


def head_lines(status: int, fields: Fields) -> list[str]:
    return [
        f"HTTP/1.1 {status} {phrase(status)}",
        f"Date: {formatdate(usegmt=True)}",  # RFC 9110, 5.6.7, whatever the locale
        *(f"{name}: {value}" for name, value in fields),
    ]


def declared_length(fields: Fields) -> int | None:
    return next((int(value) for name, value in fields if name.lower() == "content-length"), None)


def phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
