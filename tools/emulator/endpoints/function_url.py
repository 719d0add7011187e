"""A local Function URL: each request on any path is an invocation.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tools.emulator.console import Console
from tools.emulator.endpoints.bandwidth import throttled
from tools.emulator.endpoints.cors import Cors
from tools.emulator.endpoints.function_url_event import function_url_event
from tools.emulator.endpoints.prelude import CONTENT_TYPE, ResponseHead, head_of, malformed, read_head
from tools.emulator.execution.invocation import Invocation, InvocationFailed, new_id, new_trace_id
from tools.emulator.execution.pool import Function, Throttled
from tools.emulator.execution.runtime_api import LARGEST_PAYLOAD
from tools.emulator.http1.responses import Stream, answer, answer_json
from tools.emulator.http1.server import Connection, Request

LARGEST_REQUEST = 6 * 1024 * 1024  # bytes of a request's body (AWS Lambda Developer Guide, gettingstarted-limits)
BUFFERED, RESPONSE_STREAM = "BUFFERED", "RESPONSE_STREAM"
# Headers that are between two hops, and those that every answer has from us.
NOT_THE_FUNCTIONS = (
    *("transfer-encoding", "connection", "keep-alive", "upgrade"),
    *("date", "x-amzn-requestid", "x-amzn-trace-id"),
)
THROTTLED = {"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded", "Type": "User", "message": "Rate Exceeded."}


class Exchange(NamedTuple):
    """One request, and the way to answer it.

    Args:
        request_id: as the event, the log and the answer name it.
        trace_id: for the same three.
    """

    connection: Connection
    request: Request
    request_id: str
    trace_id: str

    @property
    def ids(self) -> list[tuple[str, str]]:
        return [("x-amzn-RequestId", self.request_id), ("x-amzn-Trace-Id", self.trace_id)]


class FunctionUrl:
    """How requests become invocations, and responses answers.

    Args:
        invoke_mode: of `CreateFunctionUrlConfig`.
        cors: as it is configured; None: OPTIONS is a method as any other.
        throttle: whether streams have the speed of the service.
    """

    def __init__(self, console: Console, invoke_mode: str, cors: Cors | None, throttle: bool) -> None:
        self._console = console
        self._respond = self._respond_at_the_end if invoke_mode == BUFFERED else self._respond_as_it_comes
        self._cors = cors
        self._throttle = throttle

    def serve(self, function: Function, connection: Connection, request: Request, port: int) -> bool:
        """Answer one request, whose body is still to be read. Returns whether the connection can take another one.

        Args:
            port: that the client connected to.

        Raises ProtocolError where the body breaks a rule or is too large.
        """
        body = connection.read_body(request, LARGEST_REQUEST)
        if self._cors is not None and self._cors.is_preflight(request):
            return answer(connection, request, 200, self._cors.preflight_headers(request.headers))
        trace_id = request.headers.get("X-Amzn-Trace-Id") or new_trace_id()
        exchange = Exchange(connection, request, new_id(), trace_id)
        event = function_url_event(request, body, connection.peer, port, exchange.request_id, trace_id)
        return self._invoke(function, exchange, json.dumps(event).encode())

    def _invoke(self, function: Function, exchange: Exchange, event: bytes) -> bool:
        try:
            invocation = function.begin(event, request_id=exchange.request_id, trace_id=exchange.trace_id)
        except Throttled:
            fields = [("x-amzn-ErrorType", "TooManyRequestsException"), *exchange.ids]
            return answer_json(exchange.connection, exchange.request, 429, THROTTLED, fields)
        except InvocationFailed as failure:  # nothing could be started
            return self._fail(exchange, failure)
        try:
            persistent = self._respond(exchange, invocation)
        finally:
            invocation.discard()
        if persistent:  # the next request on this connection is to find the environment free
            invocation.wait_until_settled()
        return persistent

    def _respond_as_it_comes(self, exchange: Exchange, invocation: Invocation) -> bool:
        chunks = throttled(invocation.chunks()) if self._throttle else invocation.chunks()
        try:
            head, body = read_head(invocation.wait_for_head(), chunks)
        except InvocationFailed as failure:
            return self._fail(exchange, failure)
        stream = Stream(exchange.connection, exchange.request, head.status, self._fields(exchange, head))
        try:
            for chunk in itertools.chain([body], chunks):
                stream.write(chunk)
        except InvocationFailed as failure:
            # Status and headers are out. Without the last chunk the client can tell that the answer is cut.
            self._console.failure(failure.document)
            return False
        return stream.finish()

    def _respond_at_the_end(self, exchange: Exchange, invocation: Invocation) -> bool:
        chunks = invocation.chunks()
        try:
            content_type = invocation.wait_for_head()
            if invocation.streamed and content_type == CONTENT_TYPE:
                head, start = read_head(content_type, chunks)
                body = start + collect(chunks, LARGEST_PAYLOAD - len(start))
            else:
                head, body = interpret(collect(chunks, LARGEST_PAYLOAD), content_type)
        except InvocationFailed as failure:
            return self._fail(exchange, failure)
        fields = [(name, value) for name, value in self._fields(exchange, head) if name != "content-length"]
        return answer(exchange.connection, exchange.request, head.status, fields, body)

    def _fields(self, exchange: Exchange, head: ResponseHead) -> list[tuple[str, str]]:
        """The headers of an answer: the function's, as far as they are its own to tell, its cookies, and ours."""
        own = [(name, value) for name, value in head.headers if name not in NOT_THE_FUNCTIONS]
        has_length = head.status != 204  # RFC 9110, 8.6
        own = [(name, value) for name, value in own if name != "content-length" or (has_length and is_length(value))]
        if self._cors is not None:
            own = [(name, value) for name, value in own if not name.startswith("access-control-")]
            own += self._cors.headers(exchange.request.headers)
        return [*exchange.ids, *own, *(("set-cookie", cookie) for cookie in head.cookies)]

    def _fail(self, exchange: Exchange, failure: InvocationFailed) -> bool:
        """Answer with the error, where the service says `Internal Server Error` alone."""
        self._console.failure(failure.document)
        return answer_json(exchange.connection, exchange.request, 502, failure.document, exchange.ids, last=True)


def collect(chunks: Iterator[bytes], limit: int) -> bytes:
    """A whole response. Raises InvocationFailed where it is above the limit, and where it ends with an error."""
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > limit:
            message = f"Response payload size exceeded maximum allowed payload size ({LARGEST_PAYLOAD} bytes)."
            raise InvocationFailed.because("Function.ResponseSizeTooLarge", message)
    return bytes(body)


def interpret(payload: bytes, content_type: str) -> tuple[ResponseHead, bytes]:
    """A buffered response in the format 2.0: an object that has a `statusCode`, or any JSON, which is the body.

    What is no JSON has no format there; it is the body, with the content type that the runtime gave it.
    """
    try:
        document: Any = json.loads(payload)
    except (ValueError, RecursionError):
        return ResponseHead(headers=[("content-type", content_type)]), payload
    if not isinstance(document, dict) or "statusCode" not in document:
        return ResponseHead(headers=[("content-type", "application/json")]), payload
    told = document.get("headers")
    headers = {name: as_text(value) for name, value in told.items()} if isinstance(told, dict) else told
    head = head_of({**document, "headers": headers}, "application/json")
    body = as_text(document.get("body", ""))
    if document.get("isBase64Encoded") is not True:
        return head, body.encode("utf-8", "replace")
    try:
        return head, base64.b64decode(body)
    except ValueError as error:
        raise malformed(f"the body is no base64: {error}") from None


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def is_length(text: str) -> bool:
    return text.isascii() and text.isdigit()
