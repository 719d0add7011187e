"""The client of the Lambda Runtime API, and the response to one invocation.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, and runtimes-custom.html for streamed responses.
"""

import sys
import time

from streaming_runtime import (
    MAX_TRAILER_BYTES,
    ContractError,
    NotDelivered,
    RuntimeApiError,
    describe_type,
    load,
)
from streaming_runtime.connection import Connection
from streaming_runtime.http1 import CHUNK, LAST_CHUNK, MAX_COPIED_CHUNK, chunk, last_chunk, request_head
from streaming_runtime.invocation import JSON, Invocation
from streaming_runtime.log import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from streaming_runtime import MinimalReport
    from streaming_runtime.errors import ErrorReport
    from streaming_runtime.extension import Extension
    from streaming_runtime.log import Log

    Report = MinimalReport | ErrorReport

VERSION = "0.1.0"

# --- Names on the wire ------------------------------------------------------------------------------------------------

API_VERSION = "/2018-06-01"
INVOCATION_PATH = API_VERSION + "/runtime/invocation"  # followed by /next, /ID/response or /ID/error
NEXT_PATH = INVOCATION_PATH + "/next"
ERROR_PATH = INVOCATION_PATH + "/%s/error"
INIT_ERROR_PATH = API_VERSION + "/runtime/init/error"
USER_AGENT = f"python-streaming-runtime/{VERSION} CPython/{sys.version.split()[0]}"

REQUEST_ID = "lambda-runtime-aws-request-id"  # in responses, in lower case
INVOCATION_ID = "lambda-runtime-invocation-id"

ECHOED_INVOCATION_ID = "Lambda-Runtime-Invocation-Id"  # in requests
RESPONSE_MODE = "Lambda-Runtime-Function-Response-Mode"
STREAMING = "streaming"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
XRAY_CAUSE = "Lambda-Runtime-Function-XRay-Error-Cause"
OCTET_STREAM = "application/octet-stream"
HTTP_INTEGRATION = "application/vnd.awslambda.http-integration-response"
PRELUDE_END = b"\0" * 8  # JSON contains no NUL, so this cannot be part of it

NEXT_RETRY_PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8)  # seconds before each attempt to ask again on a new connection
MAX_EMPTY_PAUSE = 1.0  # seconds before `next` is asked again after a 204

# --- The response -----------------------------------------------------------------------------------------------------

# The phases of a response. It only moves down this list.
FRESH = "nothing sent"
OPEN = "head sent"
ENDED = "all sent"
DONE = "accepted or refused"


class ResponseStream:
    """The response to one invocation: FRESH -> OPEN -> ENDED -> DONE. The head leaves in one send with the first chunk.

    The phase alone decides how an error is reported. `/error` is accepted only before a response has begun: the service
    answers a second POST for the same invocation with 403. Once the head is out, trailers are the only way.
    """

    __slots__ = ("_invocation", "_log", "_send", "api", "connection", "is_reported", "phase", "status")

    def __init__(self, api: "RuntimeApi", invocation: Invocation, log: "Log") -> None:
        self.api = api
        self._invocation = invocation
        self._log = log
        self.connection = api.connection
        self._send = api.connection.send
        self.phase = FRESH
        self.is_reported = False  # an error of this invocation is in the log, and on its way to the caller
        self.status = 200

    @property
    def is_disowned(self) -> bool:
        """Whether this process is a fork, in which nothing of the response may be sent."""
        return self.connection.disowned

    def write_first(self, item: object) -> None:
        """Send the first item: the prelude of an HTTP response if it is a dict, otherwise a chunk.

        A prelude leaves at once, its JSON in one chunk and its delimiter in the next, without a byte of the body: some
        readers take the first two chunks for the prelude. Raises what `prelude.encode` and `write` raise.
        """
        if isinstance(item, dict):
            prelude = load("prelude").encode(item)
            head = self._begin(HTTP_INTEGRATION)
            self._send(head + CHUNK % (len(prelude), prelude) + CHUNK % (len(PRELUDE_END), PRELUDE_END))
            self.status = item.get("statusCode", 200)
            if self.connection.exit_request is not None:
                raise self.connection.exit_request
        else:
            self.write(item)

    def write(self, item: object) -> None:
        """Send one yielded chunk (bytes, bytearray or memoryview) at once. An empty one is skipped.

        Raises ContractError (`InvalidChunk`) for any other type; NotDelivered if the Runtime API closed the connection
        or refused the response.
        """
        data = item if type(item) is bytes else bytes_of(item)
        size = len(data)
        if self.phase is OPEN and 0 < size <= MAX_COPIED_CHUNK:
            self._send(CHUNK % (size, data))  # what `chunk` does, without the call: this is the path of small chunks
        elif size:
            frame = chunk(data) if self.phase is OPEN else chunk(data, self._begin(OCTET_STREAM))
            self._send(frame) if type(frame) is bytes else self.connection.send_gathered(frame)  # type: ignore[arg-type]
        if self.connection.exit_request is not None:
            raise self.connection.exit_request

    def finish(self) -> bool:
        """End the response. One without a chunk begins first, so that the caller gets an empty response.

        Does nothing if the response has ended within the call of an agent. Returns whether the Runtime API accepted it.
        """
        if self.phase is DONE:
            return True
        self.end()
        self.phase = DONE
        return self.api.read_acceptance("the response")

    def end(self) -> None:
        """Send the end of the response, unless it is sent."""
        if self.phase is FRESH or self.phase is OPEN:
            self._end(LAST_CHUNK)
            if self.connection.exit_request is not None:
                raise self.connection.exit_request

    def fail(self, report: "Report") -> None:
        """Report an error to the caller by the way that is still open."""
        try:
            if self.send_error(report):
                self.api.read_acceptance("the error")
        except NotDelivered as reason:
            self.log_lost_error(reason)

    def send_error(self, report: "Report") -> bool:
        """Send the report to `/error`, or in the trailers. Return whether one of them was still open."""
        self.is_reported = True
        phase = self.phase
        if phase is FRESH:
            self.phase = DONE
            self.api.send_error(self._invocation, report)
        elif phase is OPEN:
            request_id = self._invocation.request_id
            self._end(last_chunk(encode(report, lambda each: trailers(each, request_id))))
            self.phase = DONE
        return phase is FRESH or phase is OPEN

    def log_lost_error(self, reason: NotDelivered) -> None:
        self._log.line(f"the error was not delivered: {reason}")

    def lose(self) -> None:
        """Note that the connection broke within the response."""

    def _begin(self, content_type: str) -> bytes:
        if self.phase is not FRESH:
            raise RuntimeError("a response begins once")
        self.connection.renew()  # first: while it fails, nothing has begun and `/error` is still accepted
        self.phase = OPEN
        return self.api.response_head(self._invocation, content_type)

    def _end(self, last: bytes) -> None:
        if self.phase is FRESH:
            last = self._begin(OCTET_STREAM) + last
        elif self.phase is not OPEN:
            raise RuntimeError("a response ends once")
        self.phase = ENDED
        self._send(last)


def bytes_of(item: object) -> memoryview:
    """Return the bytes of a chunk that is not plain `bytes`, without a copy unless they are not contiguous."""
    if not isinstance(item, (bytes, bytearray, memoryview)):
        raise ContractError(
            "InvalidChunk",
            f"the handler yielded {describe_type(item)}, but each chunk must be bytes, bytearray or memoryview: "
            'convert text with .encode("utf-8")',
        )
    view = memoryview(item)
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def trailers(report: "Report", request_id: str) -> bytes:
    """Return the two declared trailers. Base64 keeps the JSON on one line, whatever the message contains."""
    body = report.trailer_body(request_id, MAX_TRAILER_BYTES - len(report.header))
    return b"%b: %b\r\n%b: %b\r\n" % (ERROR_TYPE.encode(), report.header.encode(), ERROR_BODY.encode(), body)


# --- The client -------------------------------------------------------------------------------------------------------


class RuntimeApi:
    """The calls of the Lambda Runtime API, over one connection.

    Args:
        address: `AWS_LAMBDA_RUNTIME_API`: `host:port`, optionally with a scheme and a path prefix, which emulators use
            (`http://127.0.0.1:9000/.rt`). Raises RuntimeApiError for any other form.
    """

    def __init__(self, address: str, log: "Log") -> None:
        self._log = log
        authority, slash, path = address.removeprefix("http://").partition("/")
        self.prefix = (slash + path).rstrip("/")
        self.common_fields = f"Host: {authority}\r\nUser-Agent: {USER_AGENT}\r\n"
        # The parts of a response head that are the same for all invocations.
        self._response_line = f"POST {self.prefix}{INVOCATION_PATH}/"
        self._response_fields = f"/response HTTP/1.1\r\n{self.common_fields}"
        self._next_request = request_head("GET", self.prefix + NEXT_PATH, self.common_fields)
        self.address = host_and_port(authority, address)
        self.connection = Connection(*self.address)
        self.extension: Extension | None = None
        self.response_class = ResponseStream

    def disown(self) -> None:
        """In a process that the function forked: leave the connection and the invocation to the parent."""
        self.connection.disown()
        if self._log.invocation is not None:
            self._log.invocation.has_ended = True

    def next_invocation(self) -> Invocation:
        """Wait, without a limit, for the next invocation. Raises RuntimeApiError if there can be none."""
        pauses = iter(NEXT_RETRY_PAUSES)
        empty_pause = 0.0
        while True:
            try:
                invocation = self._ask_for_invocation()
            except NotDelivered as reason:
                pause = next(pauses, None)
                if pause is None:
                    raise RuntimeApiError(f"the Runtime API returned no next invocation: {reason}") from None
                time.sleep(pause)
                continue
            if invocation is not None:
                return invocation
            time.sleep(empty_pause)  # a server that answers 204 at once would otherwise be asked in a busy loop
            empty_pause = min(MAX_EMPTY_PAUSE, 2 * empty_pause + 0.001)

    def _ask_for_invocation(self) -> "Invocation | None":
        connection = self.connection
        connection.reuse()
        connection.send(self._next_request)
        response = connection.read_response()
        if response.status == 204:
            return None
        request_id = response.headers.get(REQUEST_ID, "")
        if not response.is_success or not is_path_segment(request_id):
            found = f"status {response.status}, {REQUEST_ID} {request_id!r}"
            raise RuntimeApiError(f"the Runtime API responded to {NEXT_PATH} without an invocation: {found}")
        return Invocation(request_id, response.headers, response.body)

    def response_head(self, invocation: Invocation, content_type: str) -> bytes:
        """Return the head of a streamed response. It declares the trailers: undeclared ones are dropped on the way."""
        return (
            f"{self._response_line}{invocation.request_id}{self._response_fields}{echo(invocation)}"
            f"{RESPONSE_MODE}: {STREAMING}\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n"
            f"Trailer: {ERROR_TYPE}, {ERROR_BODY}\r\n\r\n"
        ).encode("utf-8", "surrogateescape")

    def send_error(self, invocation: Invocation, report: "Report") -> None:
        """Report a failed invocation whose response has not begun. The caller reads the acceptance."""
        cause = encode(report, lambda each: each.xray_cause()).decode("ascii")
        fields = f"{echo(invocation)}{XRAY_CAUSE}: {cause}\r\n"
        self._send_report(ERROR_PATH % invocation.request_id, report, fields, invocation.request_id)

    def post_init_error(self, report: "Report") -> None:
        """Report that the environment could not start. Allowed once, before the first `next`."""
        self.post_report(INIT_ERROR_PATH, report)

    def post_report(self, path: str, report: "Report", error_type: str = "") -> None:
        """Post an error report. `error_type` replaces the type in the header; the one in the body stays."""
        try:
            self._send_report(path, report, error_type=error_type)
            self.read_acceptance(path)
        except NotDelivered as reason:
            self._log.line(f"the error was not delivered to {path}: {reason}")

    def _send_report(
        self, path: str, report: "Report", fields: str = "", request_id: str = "", error_type: str = ""
    ) -> None:
        body = encode(report, lambda each: each.body(request_id))
        fields += (
            f"{ERROR_TYPE}: {error_type or report.header}\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n"
        )
        head = request_head("POST", self.prefix + path, self.common_fields + fields)
        self.connection.renew()
        self.connection.send(head + body)

    def read_acceptance(self, request: str) -> bool:
        """Read the response to a POST, and return whether it was accepted. A 5xx ends the environment.

        A refusal is logged, and the loop continues.

        runtimes-api.html lists 202, 400, 403, 413 and 500, the last one as not recoverable.
        """
        response = self.connection.read_response()
        if response.status >= 500:
            raise RuntimeApiError(f"the Runtime API responded to {request} with {response}")
        if not response.is_success:
            self._log.line(f"the Runtime API refused {request} with {response}")
        return response.is_success


def echo(invocation: Invocation) -> str:
    """Return the header that repeats the id of this attempt, if the service sent one.

    A request id is the same for all attempts of an event. With the invocation id, the service refuses the response to
    an attempt that has timed out (410).
    """
    invocation_id = invocation.headers.get(INVOCATION_ID)
    return f"{ECHOED_INVOCATION_ID}: {invocation_id}\r\n" if invocation_id else ""


_NOT_IN_PATH_SEGMENT = frozenset(" /?#%")


def is_path_segment(text: str) -> bool:
    """Return whether the text can be a segment of a path as it is, and cannot change the path."""
    return text.isascii() and text.isprintable() and text != "" and _NOT_IN_PATH_SEGMENT.isdisjoint(text)


def host_and_port(authority: str, address: str) -> "tuple[str, int]":
    host, _, port = authority.rpartition(":")
    if port.isdecimal() and host:
        return host.removeprefix("[").removesuffix("]"), int(port)
    raise RuntimeApiError(f"AWS_LAMBDA_RUNTIME_API is {address!r}, expected host:port")
