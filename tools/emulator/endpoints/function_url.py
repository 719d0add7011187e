"""A local Function URL: each request, on any path, is an invocation.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tools.emulator.console import Console
from tools.emulator.endpoints.bandwidth import BURST_BYTES, limit_bandwidth
from tools.emulator.endpoints.cors import Cors
from tools.emulator.endpoints.function_url_event import function_url_event
from tools.emulator.endpoints.prelude import CONTENT_TYPE, ResponseHead, malformed, read_prelude, response_head
from tools.emulator.execution.invocation import Invocation, InvocationFailed, new_request_id, new_trace_id
from tools.emulator.execution.pool import EnvironmentPool, Throttled
from tools.emulator.execution.runtime_api import MAX_PAYLOAD_BYTES
from tools.emulator.http1.connection import Connection, Request
from tools.emulator.http1.responses import StreamedResponse, send, send_json

MAX_REQUEST_BYTES = 6 * 1024 * 1024  # of a body (AWS Lambda Developer Guide, gettingstarted-limits)
BUFFERED, RESPONSE_STREAM = "BUFFERED", "RESPONSE_STREAM"
# Headers that a function cannot set: those of a single hop (RFC 9110, 7.6.1), and those that every response contains.
NOT_PASSED_ON = (
    *("transfer-encoding", "connection", "keep-alive", "upgrade"),
    *("date", "x-amzn-requestid", "x-amzn-trace-id"),
)
THROTTLED = {"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded", "Type": "User", "message": "Rate Exceeded."}


class Exchange(NamedTuple):
    """A request and the connection for its response.

    Args:
        request_id: for the event, the log and the response.
        trace_id: for the same.
    """

    connection: Connection
    request: Request
    request_id: str
    trace_id: str

    @property
    def ids(self) -> list[tuple[str, str]]:
        return [("x-amzn-RequestId", self.request_id), ("x-amzn-Trace-Id", self.trace_id)]


class FunctionUrl:
    """Converts requests to invocations, and responses of functions to HTTP responses.

    Args:
        pool: the environments of the function.
        invoke_mode: as in `CreateFunctionUrlConfig`.
        cors: as in `CreateFunctionUrlConfig`; None: OPTIONS is a method like any other.
        throttle: whether to limit the bandwidth of streams as the service does.
    """

    burst_bytes = BURST_BYTES  # that are sent at once, if `throttle` is set

    def __init__(
        self, pool: EnvironmentPool, console: Console, invoke_mode: str, cors: dict[str, Any] | None, throttle: bool
    ) -> None:
        self.pool = pool
        self._console = console
        self._invoke_mode = invoke_mode
        self._respond = self._send_buffered if invoke_mode == BUFFERED else self._send_stream
        self._cors = None if cors is None else Cors(cors)
        self._throttle = throttle

    @property
    def settings(self) -> dict[str, Any]:
        """As in `GetFunctionUrlConfig`."""
        cors = {} if self._cors is None else {"Cors": self._cors.settings}
        return {"AuthType": "NONE", "InvokeMode": self._invoke_mode, **cors}

    def serve(self, connection: Connection, request: Request, port: int) -> bool:
        """Respond to a request whose body is unread. Returns whether the connection can serve another request.

        Args:
            port: the port that the client connected to.

        Raises ProtocolError if the body violates a rule or is too large.
        """
        request.function = self.pool.configuration.name
        body = connection.read_body(request, MAX_REQUEST_BYTES)
        if self._cors is not None and self._cors.is_preflight(request):
            return send(connection, request, 200, self._cors.preflight_headers(request.headers))
        trace_id = request.headers.get("X-Amzn-Trace-Id") or new_trace_id()
        exchange = Exchange(connection, request, new_request_id(), trace_id)
        return self._invoke(exchange, json.dumps(self._event(exchange, body, port)).encode())

    def _event(self, exchange: Exchange, body: bytes, port: int) -> dict[str, Any]:
        peer, request_id, trace_id = exchange.connection.peer, exchange.request_id, exchange.trace_id
        return function_url_event(exchange.request, body, peer, port, request_id, trace_id)

    def cors_fields(self, request: Request) -> list[tuple[str, str]]:
        """The CORS headers of every response to this request: without them, a page cannot read an error."""
        return self._cors.headers(request.headers) if self._cors is not None else []

    def _invoke(self, exchange: Exchange, event: bytes) -> bool:
        try:
            invocation = self.pool.start_invocation(event, request_id=exchange.request_id, trace_id=exchange.trace_id)
        except Throttled:
            cors = self.cors_fields(exchange.request)
            fields = [("x-amzn-ErrorType", "TooManyRequestsException"), *exchange.ids, *cors]
            return send_json(exchange.connection, exchange.request, 429, THROTTLED, fields)
        except InvocationFailed as failure:  # no environment could be started
            return self._send_failure(exchange, failure)
        try:
            reusable = self._respond(exchange, invocation)
        finally:
            invocation.discard()
        if reusable:  # so that the next request on this connection finds the environment idle
            invocation.wait_until_closed()
        return reusable

    def _send_stream(self, exchange: Exchange, invocation: Invocation) -> bool:
        chunks = invocation.chunks()
        if self._throttle:
            chunks = limit_bandwidth(chunks, burst_bytes=self.burst_bytes)
        try:
            head, body = self._read_head(invocation.wait_for_content_type(), chunks)
        except InvocationFailed as failure:
            return self._send_failure(exchange, failure)
        response = StreamedResponse(exchange.connection, exchange.request, head.status, self._fields(exchange, head))
        try:
            for chunk in itertools.chain([body], chunks):
                response.write(chunk)
        except InvocationFailed as failure:
            # The status is sent already. The client detects the failure because the last chunk is missing.
            self._console.failure(failure.document)
            return False
        return response.finish()

    def _read_head(self, content_type: str, chunks: Iterator[bytes]) -> tuple[ResponseHead, bytes]:
        """Raises InvocationFailed."""
        return read_prelude(content_type, chunks)

    def _send_buffered(self, exchange: Exchange, invocation: Invocation) -> bool:
        chunks = invocation.chunks()
        try:
            content_type = invocation.wait_for_content_type()
            if invocation.streamed and content_type == CONTENT_TYPE:
                head, start = read_prelude(content_type, chunks)
                body = start + read_whole_response(chunks, MAX_PAYLOAD_BYTES - len(start))
            else:
                head, body = parse_buffered(read_whole_response(chunks, MAX_PAYLOAD_BYTES), content_type)
        except InvocationFailed as failure:
            return self._send_failure(exchange, failure)
        fields = [(name, value) for name, value in self._fields(exchange, head) if name != "content-length"]
        return send(exchange.connection, exchange.request, head.status, fields, body)

    def _fields(self, exchange: Exchange, head: ResponseHead) -> list[tuple[str, str]]:
        """The headers of a response: IDs, those of the function without `NOT_PASSED_ON`, CORS and cookies."""
        own = [(name, value) for name, value in head.headers if name not in NOT_PASSED_ON]
        may_have_length = head.status != 204  # RFC 9110, 8.6
        own = [item for item in own if item[0] != "content-length" or (may_have_length and is_number(item[1]))]
        if self._cors is not None:
            own = [(name, value) for name, value in own if not name.startswith("access-control-")]
            own += self.cors_fields(exchange.request)
        return [*exchange.ids, *own, *(("set-cookie", cookie) for cookie in head.cookies)]

    def _send_failure(self, exchange: Exchange, failure: InvocationFailed) -> bool:
        """Respond with the error itself; the service responds with `Internal Server Error` only."""
        self._console.failure(failure.document)
        fields = [*exchange.ids, *self.cors_fields(exchange.request)]
        status = self._failure_status(failure)
        return send_json(exchange.connection, exchange.request, status, failure.document, fields, close=True)

    def _failure_status(self, failure: InvocationFailed) -> int:
        return 502


def read_whole_response(chunks: Iterator[bytes], limit: int) -> bytes:
    """Raises InvocationFailed if the response is larger than `limit` bytes, or ends with an error."""
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > limit:
            message = f"Response payload size exceeded maximum allowed payload size ({MAX_PAYLOAD_BYTES} bytes)."
            raise InvocationFailed.of_type("Function.ResponseSizeTooLarge", message)
    return bytes(body)


def parse_buffered(payload: bytes, content_type: str) -> tuple[ResponseHead, bytes]:
    """Parse a buffered response in payload format 2.0: an object with a `statusCode`, or other JSON as the body.

    The format does not define a response that is not JSON. It becomes the body, with the content type from the runtime.
    """
    try:
        document: Any = json.loads(payload)
    except (ValueError, RecursionError):
        return ResponseHead(headers=[("content-type", content_type)]), payload
    if not isinstance(document, dict) or "statusCode" not in document:
        return ResponseHead(headers=[("content-type", "application/json")]), payload
    given = document.get("headers")
    headers = {name: as_text(value) for name, value in given.items()} if isinstance(given, dict) else given
    status = document["statusCode"]
    if isinstance(status, str) and is_number(status) and len(status) == 3:  # the service accepts it in this format only
        status = int(status)
    head = response_head({**document, "statusCode": status, "headers": headers}, "application/json")
    body = as_text(document.get("body", ""))
    if document.get("isBase64Encoded") is not True:
        return head, body.encode("utf-8", "replace")
    try:
        return head, base64.b64decode(body)
    except ValueError as error:
        raise malformed(f"the body is not base64: {error}") from None


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
