"""A local Function URL: each request on any path is an invocation, and its answer is streamed.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import contextlib
import http
import itertools
import json
import time
import uuid
from typing import Any

from tools.emulator.console import Console
from tools.emulator.environment import Function
from tools.emulator.events import function_url_event
from tools.emulator.http1 import Connection, ConnectionEnded, ProtocolError, Request, Server
from tools.emulator.invocation import Invocation, InvocationFailed
from tools.emulator.prelude import ResponseHead, read_head
from tools.emulator.runtime_api import LARGEST_PAYLOAD

FRAMING = ("transfer-encoding", "connection", "keep-alive", "upgrade")  # between two hops; ours, and not the function's


class FunctionUrl:
    """Serves a function at an address. Raises OSError where it cannot listen there.

    Args:
        host: a name or an address.
        port: 0 lets the system choose.
    """

    def __init__(self, function: Function, console: Console, host: str, port: int) -> None:
        self._function = function
        self._console = console
        self._server = Server(self._serve, host, port)
        self.url = f"http://{self._server.authority}/"

    def close(self) -> None:
        self._server.close()

    def _serve(self, connection: Connection) -> None:
        try:
            while (request := connection.read_request()) is not None:
                body = self._read_body(connection, request)
                if not self._answer(connection, request, body) or not request.keep_alive:
                    return
        except ProtocolError as error:
            answer_json(connection, error.status, {"Message": str(error)})
            connection.linger()

    @staticmethod
    def _read_body(connection: Connection, request: Request) -> bytes:
        if request.headers.get("Expect").lower() == "100-continue":
            connection.check_length(request, LARGEST_PAYLOAD)
            connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return connection.read_body(request, LARGEST_PAYLOAD)

    def _answer(self, connection: Connection, request: Request, body: bytes) -> bool:
        """Invoke the function and stream its answer. Returns whether the connection can take another request."""
        trace_id = f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}"
        event = function_url_event(request, body, connection.peer, self._server.port, trace_id)
        try:
            with self._function.invoke(json.dumps(event).encode()) as invocation:
                return self._stream(connection, request, invocation)
        except InvocationFailed as failure:  # nothing could be started
            return self._fail(connection, failure, request.method == "HEAD")

    def _stream(self, connection: Connection, request: Request, invocation: Invocation) -> bool:
        chunks = invocation.chunks()
        try:
            head, body = read_head(invocation.wait_for_head(), chunks)
        except InvocationFailed as failure:
            return self._fail(connection, failure, request.method == "HEAD")
        response = Response(connection, request, head, invocation.request_id)
        try:
            for chunk in itertools.chain([body], chunks):
                response.write(chunk)
        except InvocationFailed as failure:
            # Status and headers are out. Without the last chunk the client can tell that the answer is cut.
            self._console.failure(failure.document)
            return False
        return response.finish()

    def _fail(self, connection: Connection, failure: InvocationFailed, bodiless: bool) -> bool:
        self._console.failure(failure.document)
        with contextlib.suppress(ConnectionEnded):
            answer_json(connection, 502, failure.document, bodiless)
        return False


class Response:
    """The answer to one request, in chunks; as it is, up to the end of the connection, to an HTTP/1.0 client.

    A client that leaves is not told to the function, which runs on, as on the service.
    """

    def __init__(self, connection: Connection, request: Request, head: ResponseHead, request_id: str) -> None:
        self._connection = connection
        self._bodiless = request.method == "HEAD" or head.status in (204, 304) or head.status < 200
        self._counted = head.get("content-length") is not None
        self._chunked = request.version != "HTTP/1.0" and not self._counted and not self._bodiless
        self._client_left = False
        fields = [f"HTTP/1.1 {status_line(head.status)}", f"Date: {http_date()}", f"x-amzn-RequestId: {request_id}"]
        fields += [f"{name}: {value}" for name, value in head.headers if name not in FRAMING]
        fields += [f"set-cookie: {cookie}" for cookie in head.cookies]
        if self._chunked:
            fields.append("Transfer-Encoding: chunked")
        self.persistent = self._chunked or (self._bodiless and request.version != "HTTP/1.0")
        if not self.persistent:
            fields.append("Connection: close")
        self._send("\r\n".join([*fields, "", ""]).encode())

    def write(self, chunk: bytes) -> None:
        if chunk and not self._bodiless:
            self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)

    def finish(self) -> bool:
        """End the answer well. Returns whether the connection can take another request."""
        if self._chunked:
            self._send(b"0\r\n\r\n")
        return self.persistent and not self._client_left

    def _send(self, data: bytes) -> None:
        if self._client_left:
            return
        try:
            self._connection.write(data)
        except ConnectionEnded:
            self._client_left = True


def answer_json(connection: Connection, status: int, document: dict[str, Any], bodiless: bool = False) -> None:
    body = json.dumps(document).encode()
    fields = [f"HTTP/1.1 {status_line(status)}", f"Date: {http_date()}", "Content-Type: application/json"]
    fields += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    connection.write("\r\n".join(fields).encode() + (b"" if bodiless else body))


def status_line(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"


def http_date() -> str:
    """The time as HTTP has it, whatever the locale (RFC 9110, 5.6.7)."""
    from email.utils import formatdate

    return formatdate(usegmt=True)
