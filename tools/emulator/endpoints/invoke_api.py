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
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import ACCOUNT, REGION, VERSION
from tools.emulator.endpoints.bandwidth import throttled
from tools.emulator.endpoints.event_stream import CONTENT_TYPE, invoke_complete, payload_chunk
from tools.emulator.endpoints.function_url import LARGEST_REQUEST, collect
from tools.emulator.execution.invocation import Invocation, InvocationFailed, check_event, new_id
from tools.emulator.execution.pool import Function, Throttled
from tools.emulator.execution.runtime_api import LARGEST_PAYLOAD
from tools.emulator.http1.responses import Stream, answer, answer_json
from tools.emulator.http1.server import Connection, ProtocolError, Request

INVOKE_PATH = re.compile(r"/2015-03-31/functions/([^/?]+)/invocations/?")
STREAM_PATH = re.compile(r"/(?:2021-11-15|2015-03-31)/functions/([^/?]+)/response-streaming-invocations/?")

# NamespacedFunctionName of the API's model: a name, an ARN, or the end of an ARN; each with a qualifier or without.
NAME = re.compile(
    r"(?:arn:(?:aws[a-zA-Z-]*)?:lambda:)?(?:(?:eusc-)?[a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d:)?(?:\d{12}:)?(?:function:)?"
    r"([a-zA-Z0-9_.-]+)(?::(\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9_-]+))?"
)
QUALIFIER = re.compile(r"\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9_$-]{1,128}")

LARGEST_ASYNCHRONOUS = 1024 * 1024  # bytes (AWS Lambda Developer Guide, gettingstarted-limits)
LARGEST_CONTEXT = 3583  # bytes in base64
MOST_WAITING = 100  # asynchronous invocations that may wait for an environment


class ApiError(Exception):
    """A call that is refused, as the API words it."""

    def __init__(self, status: int, kind: str, message: str, more: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        # The two spellings are the API's own.
        self.document = {"Type": "User", "Message" if status == 404 else "message": message, **(more or {})}


class Call(NamedTuple):
    """What the caller asks for.

    Args:
        tail: whether the answer is to hold the end of the log.
        details: those of the invocation.
    """

    function: Function
    kind: str
    tail: bool
    event: bytes
    details: dict[str, Any]

    @property
    def request_id(self) -> str:
        return str(self.details["request_id"])


class InvokeApi:
    """Answers the two calls.

    Args:
        functions: by their names.
        throttle: whether streams have the speed of the service.
    """

    def __init__(self, functions: Mapping[str, Function], console: Console, throttle: bool) -> None:
        self._functions = functions
        self._console = console
        self._throttle = throttle
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)

    @staticmethod
    def answers(path: str) -> bool:
        return bool(INVOKE_PATH.fullmatch(path) or STREAM_PATH.fullmatch(path))

    def serve(self, connection: Connection, request: Request) -> bool:
        """Answer one request, whose body is still to be read. Returns whether the connection can take another one."""
        path, _, query = request.target.partition("?")
        streaming = STREAM_PATH.fullmatch(path)
        match = streaming or INVOKE_PATH.fullmatch(path)
        assert match is not None
        request_id = new_id()
        try:
            call = self._read(connection, request, urllib.parse.unquote(match[1]), query, request_id)
            if streaming and call.kind == "Event":
                refuse_parameter("InvocationType is one of RequestResponse, DryRun for a stream")
            if call.kind == "DryRun":
                return answer(connection, request, 204, head_fields(request_id))
            if streaming:
                return self._stream(connection, request, call)
            return (self._queue if call.kind == "Event" else self._invoke)(connection, request, call)
        except Throttled:
            error = throttling()
        except ApiError as refused:
            error = refused
        fields = [*id_fields(request_id), ("x-amzn-ErrorType", error.kind)]
        unread = error.status == 413
        persistent = answer_json(connection, request, error.status, error.document, fields, last=unread)
        if unread:
            connection.linger()
        return persistent

    def _read(self, connection: Connection, request: Request, name: str, query: str, request_id: str) -> Call:
        body = read_body(connection, request)
        if request.method != "POST":
            raise ApiError(405, "MethodNotAllowedException", f"{request.method} is not allowed here, only POST")
        function, qualifier = self._look_up(name, query)
        kind = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        if kind not in ("RequestResponse", "Event", "DryRun"):
            refuse_parameter(f"InvocationType {kind!r} is not one of RequestResponse, Event, DryRun")
        if kind == "Event" and len(body) > LARGEST_ASYNCHRONOUS:
            raise too_large(len(body), kind, LARGEST_ASYNCHRONOUS)
        arn = function.configuration.arn
        details = {
            "request_id": request_id,
            "trace_id": request.headers.get("X-Amzn-Trace-Id") or None,
            "arn": f"{arn}:{qualifier}" if qualifier else arn,
            "client_context": client_context(request.headers.get("X-Amz-Client-Context")),
        }
        return Call(function, kind, request.headers.get("X-Amz-Log-Type") == "Tail", json_event(body), details)

    def _look_up(self, name: str, query: str) -> tuple[Function, str | None]:
        """The function, and the version or alias that the caller names."""
        match = NAME.fullmatch(name)
        if match is None:
            refuse_value(name, "functionName")
        asked = urllib.parse.parse_qs(query).get("Qualifier", [None])[0]
        if asked is not None and not QUALIFIER.fullmatch(asked):
            refuse_value(asked, "qualifier")
        if asked is not None and match[2] not in (None, asked):
            refuse_parameter("The derived qualifier from the function name does not match the specified qualifier.")
        function = self._functions.get(match[1])
        if function is None:
            arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{match[1]}"
            self._console.error(f"there is no function {match[1]!r}, only {', '.join(self._functions)}")
            raise ApiError(404, "ResourceNotFoundException", f"Function not found: {arn}")
        return function, match[2] or asked

    def _invoke(self, connection: Connection, request: Request, call: Call) -> bool:
        fields = head_fields(call.request_id)
        invocation: Invocation | None = None
        try:
            invocation = call.function.begin(call.event, **call.details)
            body = collect(invocation.chunks(), LARGEST_PAYLOAD)
        except InvocationFailed as failure:
            self._console.failure(failure.document)
            fields.append(("X-Amz-Function-Error", "Unhandled"))
            body = json.dumps(failure.document).encode()
        finally:
            if invocation is not None:
                invocation.discard()
        if invocation is not None:
            invocation.wait_until_settled()
        if invocation is not None and call.tail:
            fields.append(("X-Amz-Log-Result", base64.b64encode(invocation.log_tail).decode()))
        return answer(connection, request, 200, [*fields, ("Content-Type", "application/json")], body)

    def _queue(self, connection: Connection, request: Request, call: Call) -> bool:
        if not self._waiting.acquire(blocking=False):
            raise Throttled
        threading.Thread(target=self._invoke_later, args=(call,), daemon=True).start()
        return answer(connection, request, 202, id_fields(call.request_id))  # no version has been executed yet

    def _invoke_later(self, call: Call) -> None:
        try:
            invocation = call.function.begin(call.event, wait=True, **call.details)
        except InvocationFailed as failure:
            return self._console.failure(failure.document)
        finally:
            self._waiting.release()
        invocation.discard()  # nobody is told of the response
        invocation.wait_until_settled()
        if invocation.error is not None:
            self._console.failure(invocation.error.document)

    def _stream(self, connection: Connection, request: Request, call: Call) -> bool:
        failure = invocation = None
        try:
            invocation = call.function.begin(call.event, **call.details)
        except InvocationFailed as error:  # nothing could be started
            failure = error
        stream = Stream(connection, request, 200, [*head_fields(call.request_id), ("Content-Type", CONTENT_TYPE)])
        if invocation is not None:
            failure = self._copy(invocation, stream)
        if failure is not None:
            self._console.failure(failure.document)
        log = base64.b64encode(invocation.log_tail).decode() if invocation is not None and call.tail else None
        code, details = (None, None) if failure is None else (failure.code, json.dumps(failure.document))
        stream.write(invoke_complete(code, details, log))
        return stream.finish()

    def _copy(self, invocation: Invocation, stream: Stream) -> InvocationFailed | None:
        """Send the response as it comes. Returns the error that it ends with, if any, when the log is written."""
        chunks = invocation.chunks()
        try:
            for chunk in throttled(chunks) if self._throttle else chunks:
                stream.write(payload_chunk(chunk))
        except InvocationFailed as failure:
            return failure
        finally:
            invocation.discard()
            invocation.wait_until_settled()
        return None


def read_body(connection: Connection, request: Request) -> bytes:
    try:
        return connection.read_body(request, LARGEST_REQUEST)
    except ProtocolError as error:
        if error.status == 413:
            message = f"Request must be smaller than {LARGEST_REQUEST} bytes for the InvokeFunction operation"
            raise ApiError(413, "RequestTooLargeException", message) from None
        raise


def json_event(body: bytes) -> bytes:
    """The event; a call without one has an empty object."""
    try:
        check_event(body or b"{}")
    except (ValueError, RecursionError) as error:
        message = f"Could not parse request body into json: {error}"
        raise ApiError(400, "InvalidRequestContentException", message) from None
    return body or b"{}"


def client_context(header: str) -> str | None:
    """The JSON that the header holds in base64, on one line of ASCII, as it becomes a header again."""
    if not header:
        return None
    if len(header) > LARGEST_CONTEXT:
        message = f"Client context has {len(header)} bytes in base64, the limit is {LARGEST_CONTEXT}"
        raise ApiError(400, "InvalidRequestContentException", message)
    try:
        return json.dumps(json.loads(base64.b64decode(header, validate=True)))
    except (ValueError, RecursionError, binascii.Error):
        message = "Client context must be a valid Base64-encoded JSON object."
        raise ApiError(400, "InvalidRequestContentException", message) from None


def id_fields(request_id: str) -> list[tuple[str, str]]:
    return [("x-amzn-RequestId", request_id)]


def head_fields(request_id: str) -> list[tuple[str, str]]:
    return [*id_fields(request_id), ("X-Amz-Executed-Version", VERSION)]


def throttling() -> ApiError:
    more = {"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded"}
    return ApiError(429, "TooManyRequestsException", "Rate Exceeded.", more)


def too_large(size: int, kind: str, limit: int) -> ApiError:
    message = f"{size} byte payload is too large for the {kind} invocation type (limit {limit} bytes)"
    return ApiError(413, "RequestTooLargeException", message)


def refuse_parameter(message: str) -> NoReturn:
    raise ApiError(400, "InvalidParameterValueException", message)


def refuse_value(value: str, member: str) -> NoReturn:
    rule = "Member must satisfy regular expression pattern"
    message = f"1 validation error detected: Value {value!r} at {member!r} failed to satisfy constraint: {rule}"
    raise ApiError(400, "ValidationException", message)
