"""The Lambda API for callers: `Invoke` and `InvokeWithResponseStream`, for SDKs and the AWS CLI.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html and API_InvokeWithResponseStream.html. Requests are not
authenticated.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
from typing import Any, NamedTuple

from tools.common.event_argument import check_json
from tools.emulator.console import Console
from tools.emulator.deployment.configuration import VERSION
from tools.emulator.endpoints.api_call import (
    ApiError,
    Functions,
    id_fields,
    raise_invalid_parameter,
    raise_invalid_value,
    send_error,
)
from tools.emulator.endpoints.bandwidth import limit_bandwidth
from tools.emulator.endpoints.event_stream import CONTENT_TYPE, invoke_complete, payload_chunk
from tools.emulator.endpoints.function_url import MAX_REQUEST_BYTES, read_whole_response
from tools.emulator.execution.invocation import Invocation, InvocationFailed, new_request_id
from tools.emulator.execution.pool import EnvironmentPool, Throttled
from tools.emulator.execution.runtime_api import MAX_PAYLOAD_BYTES
from tools.emulator.http1.connection import Connection, ProtocolError, Request
from tools.emulator.http1.responses import StreamedResponse, send

INVOKE_PATH = re.compile(r"/2015-03-31/functions/([^/?]+)/invocations/?")
STREAM_PATH = re.compile(r"/(?:2021-11-15|2015-03-31)/functions/([^/?]+)/response-streaming-invocations/?")

TENANT_ID = re.compile(r"[a-zA-Z0-9._:/=+\-@ ]{1,256}")  # API_Invoke: X-Amz-Tenant-Id

MAX_ASYNC_PAYLOAD_BYTES = 1024 * 1024  # AWS Lambda Developer Guide, gettingstarted-limits
MAX_CLIENT_CONTEXT_BYTES = 3583  # in base64 (API_Invoke: X-Amz-Client-Context)
MAX_QUEUED_EVENTS = 100  # asynchronous invocations that wait for an environment


class Call(NamedTuple):
    """A call of the API.

    Args:
        invocation_type: RequestResponse, Event or DryRun.
        tail: whether the caller requests the end of the log.
        details: keyword arguments of `Invocation`.
    """

    pool: EnvironmentPool
    invocation_type: str
    tail: bool
    event: bytes
    details: dict[str, Any]

    @property
    def request_id(self) -> str:
        return str(self.details["request_id"])


class InvokeApi:
    """Serves the two calls.

    Args:
        throttle: whether to limit the bandwidth of streams as the service does.
    """

    def __init__(self, functions: Functions, console: Console, throttle: bool) -> None:
        self._functions = functions
        self._console = console
        self._throttle = throttle
        self._queue_places = threading.BoundedSemaphore(MAX_QUEUED_EVENTS)

    @staticmethod
    def matches(path: str) -> bool:
        return bool(INVOKE_PATH.fullmatch(path) or STREAM_PATH.fullmatch(path))

    def serve(self, connection: Connection, request: Request) -> bool:
        """Respond to a request whose body is unread. Returns whether the connection can serve another request."""
        path, _, query = request.target.partition("?")
        streaming = STREAM_PATH.fullmatch(path)
        match = streaming or INVOKE_PATH.fullmatch(path)
        assert match is not None
        request_id = new_request_id()
        try:
            call = self._read_call(connection, request, match[1], query, request_id)
            if streaming and call.invocation_type == "Event":
                raise_invalid_parameter("InvocationType of a stream is one of RequestResponse, DryRun")
            if call.invocation_type == "DryRun":
                return send(connection, request, 204, head_fields(request_id))
            if streaming:
                return self._invoke_stream(connection, request, call)
            invoke = self._invoke_async if call.invocation_type == "Event" else self._invoke
            return invoke(connection, request, call)
        except Throttled:
            error = throttling()
        except ApiError as refused:
            error = refused
        return send_error(connection, request, request_id, error, close=error.status == 413)

    def _read_call(self, connection: Connection, request: Request, name: str, query: str, request_id: str) -> Call:
        body = read_body(connection, request)
        if request.method != "POST":
            raise ApiError(405, "MethodNotAllowedException", f"{request.method} is not allowed here; use POST")
        addressed = self._functions.look_up(name, query, VERSION)
        request.function = addressed.pool.configuration.name
        invocation_type = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        if invocation_type not in ("RequestResponse", "Event", "DryRun"):
            raise_invalid_parameter(f"InvocationType {invocation_type!r} is not one of RequestResponse, Event, DryRun")
        if invocation_type == "Event" and len(body) > MAX_ASYNC_PAYLOAD_BYTES:
            raise too_large(len(body), invocation_type, MAX_ASYNC_PAYLOAD_BYTES)
        details = {
            "request_id": request_id,
            "trace_id": request.headers.get("X-Amzn-Trace-Id") or None,
            "arn": addressed.arn,
            "client_context": parse_client_context(request.headers.get("X-Amz-Client-Context")),
            "tenant_id": parse_tenant_id(request.headers.get("X-Amz-Tenant-Id")),
        }
        tail = request.headers.get("X-Amz-Log-Type") == "Tail"
        return Call(addressed.pool, invocation_type, tail, parse_event(body), details)

    def _invoke(self, connection: Connection, request: Request, call: Call) -> bool:
        fields = head_fields(call.request_id)
        invocation: Invocation | None = None
        try:
            invocation = call.pool.start_invocation(call.event, **call.details)
            body = read_whole_response(invocation.chunks(), MAX_PAYLOAD_BYTES)
        except InvocationFailed as failure:
            self._console.failure(failure.document)
            fields.append(("X-Amz-Function-Error", "Unhandled"))
            body = json.dumps(failure.document).encode()
        finally:
            if invocation is not None:
                invocation.discard()
        if invocation is not None:
            invocation.wait_until_closed()
        if invocation is not None and call.tail:
            fields.append(("X-Amz-Log-Result", base64.b64encode(invocation.log_tail).decode()))
        return send(connection, request, 200, [*fields, ("Content-Type", "application/json")], body)

    def _invoke_async(self, connection: Connection, request: Request, call: Call) -> bool:
        if not self._queue_places.acquire(blocking=False):
            raise Throttled
        threading.Thread(target=self._run_async, args=(call,), daemon=True).start()
        return send(connection, request, 202, id_fields(call.request_id))  # without a version: none has run yet

    def _run_async(self, call: Call) -> None:
        try:
            invocation = call.pool.start_invocation(call.event, wait=True, **call.details)
        except InvocationFailed as failure:
            return self._console.failure(failure.document)
        finally:
            self._queue_places.release()
        invocation.discard()  # nobody receives the response
        invocation.wait_until_closed()
        if invocation.error is not None:
            self._console.failure(invocation.error.document)

    def _invoke_stream(self, connection: Connection, request: Request, call: Call) -> bool:
        failure = invocation = None
        try:
            invocation = call.pool.start_invocation(call.event, **call.details)
        except InvocationFailed as error:  # no environment could be started
            failure = error
        fields = [*head_fields(call.request_id), ("Content-Type", CONTENT_TYPE)]
        response = StreamedResponse(connection, request, 200, fields)
        if invocation is not None:
            failure = self._copy(invocation, response)
        if failure is not None:
            self._console.failure(failure.document)
        log = base64.b64encode(invocation.log_tail).decode() if invocation is not None and call.tail else None
        code, details = (None, None) if failure is None else (failure.code, json.dumps(failure.document))
        response.write(invoke_complete(code, details, log))
        return response.finish()

    def _copy(self, invocation: Invocation, response: StreamedResponse) -> InvocationFailed | None:
        """Send the chunks as they come, and wait until the log is written. Returns the error at the end, if any."""
        chunks = invocation.chunks()
        try:
            for chunk in limit_bandwidth(chunks) if self._throttle else chunks:
                response.write(payload_chunk(chunk))
        except InvocationFailed as failure:
            return failure
        finally:
            invocation.discard()
            invocation.wait_until_closed()
        return None


def read_body(connection: Connection, request: Request) -> bytes:
    try:
        return connection.read_body(request, MAX_REQUEST_BYTES)
    except ProtocolError as error:
        if error.status == 413:
            message = f"Request must be smaller than {MAX_REQUEST_BYTES} bytes for the InvokeFunction operation"
            raise ApiError(413, "RequestTooLargeException", message) from None
        raise


def parse_event(body: bytes) -> bytes:
    """The event; a call without a payload has an empty object. Raises ApiError if it is not JSON."""
    try:
        check_json(body or b"{}")
    except (ValueError, RecursionError) as error:
        message = f"Could not parse request body into json: {error}"
        raise ApiError(400, "InvalidRequestContentException", message) from None
    return body or b"{}"


def parse_client_context(header: str) -> str | None:
    """Return the JSON that the header contains in base64, on one line of ASCII, because it becomes a header again."""
    if not header:
        return None
    if len(header) > MAX_CLIENT_CONTEXT_BYTES:
        message = f"Client context has {len(header)} bytes in base64; the limit is {MAX_CLIENT_CONTEXT_BYTES}"
        raise ApiError(400, "InvalidRequestContentException", message)
    try:
        return json.dumps(json.loads(base64.b64decode(header, validate=True)))
    except (ValueError, RecursionError, binascii.Error):
        message = "Client context must be a valid Base64-encoded JSON object."
        raise ApiError(400, "InvalidRequestContentException", message) from None


def parse_tenant_id(header: str) -> str | None:
    if header and not TENANT_ID.fullmatch(header):
        raise_invalid_value(header, "tenantId")
    return header or None


def head_fields(request_id: str) -> list[tuple[str, str]]:
    return [*id_fields(request_id), ("X-Amz-Executed-Version", VERSION)]


def throttling() -> ApiError:
    more = {"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded"}
    return ApiError(429, "TooManyRequestsException", "Rate Exceeded.", more)


def too_large(size: int, invocation_type: str, limit: int) -> ApiError:
    message = f"{size} byte payload is too large for the {invocation_type} invocation type (limit {limit} bytes)"
    return ApiError(413, "RequestTooLargeException", message)
