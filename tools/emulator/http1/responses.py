"""Answers over HTTP: heads, bodies of a known length, and streams in chunks."""

from __future__ import annotations

import http
import json
import time
from collections.abc import Sequence
from typing import Any

from tools.emulator.http1.server import Connection, ConnectionEnded, Request

Fields = Sequence[tuple[str, str]]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Stream:
    """The answer to one request, in chunks; as it is, up to the end of the connection, to an HTTP/1.0 client.

    Args:
        fields: its headers. A `Content-Length` among them is kept to.

    A client that leaves is not told to the one who writes: the function runs on, as on the service.
    """

    def __init__(self, connection: Connection, request: Request, status: int, fields: Fields) -> None:
        self._connection = connection
        self._bodiless = request.method == "HEAD" or status in (204, 304)
        self._rest = counted_length(fields)  # bytes that may still come, where their number was told
        self._chunked = request.version != "HTTP/1.0" and self._rest is None and not self._bodiless
        self._client_left = False
        lines = head_lines(status, fields)
        if self._chunked:
            lines.append("Transfer-Encoding: chunked")
        self._persistent = request.keep_alive and (self._chunked or (self._bodiless and request.version != "HTTP/1.0"))
        if not self._persistent:
            lines.append("Connection: close")
        self._send("\r\n".join([*lines, "", ""]).encode())

    def write(self, chunk: bytes) -> None:
        if self._rest is not None:
            chunk = chunk[: self._rest]
            self._rest -= len(chunk)
        if chunk and not self._bodiless:
            self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)

    def finish(self) -> bool:
        """End the answer well. Returns whether the connection can take another request."""
        if self._chunked:
            self._send(b"0\r\n\r\n")
        return self._persistent and not self._client_left

    def _send(self, data: bytes) -> None:
        if self._client_left:
            return
        try:
            self._connection.write(data)
        except ConnectionEnded:
            self._client_left = True


def answer(
    connection: Connection,
    request: Request | None,
    status: int,
    fields: Fields = (),
    body: bytes = b"",
    last: bool = False,
) -> bool:
    """Give a whole answer. Returns whether the connection can take another request.

    Args:
        request: None where it could not be read.
        last: the connection ends with it in any case.
    """
    persistent = request is not None and request.keep_alive and not last
    lines = head_lines(status, fields)
    if status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}")
    if not persistent:
        lines.append("Connection: close")
    bodiless = request is not None and request.method == "HEAD"
    try:
        connection.write("\r\n".join([*lines, "", ""]).encode() + (b"" if bodiless else body))
    except ConnectionEnded:
        return False
    return persistent


def answer_json(
    connection: Connection,
    request: Request | None,
    status: int,
    document: dict[str, Any],
    fields: Fields = (),
    last: bool = False,
) -> bool:
    typed = [("Content-Type", "application/json"), *fields]
    return answer(connection, request, status, typed, json.dumps(document).encode(), last)


def head_lines(status: int, fields: Fields) -> list[str]:
    return [
        f"HTTP/1.1 {status} {phrase(status)}",
        f"Date: {http_date()}",
        *(f"{name}: {value}" for name, value in fields),
    ]


def counted_length(fields: Fields) -> int | None:
    return next((int(value) for name, value in fields if name.lower() == "content-length"), None)


def phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def http_date() -> str:
    """The time as HTTP has it, whatever the locale (RFC 9110, 5.6.7)."""
    now = time.gmtime()
    day, month = _DAYS[now.tm_wday], _MONTHS[now.tm_mon - 1]
    return f"{day}, {now.tm_mday:02d} {month} {now.tm_year} {time.strftime('%H:%M:%S', now)} GMT"
