"""The Lambda Runtime API of one execution environment, over HTTP on the loopback interface.

    GET  /2018-06-01/runtime/invocation/next
    POST /2018-06-01/runtime/invocation/{id}/response
    POST /2018-06-01/runtime/invocation/{id}/error
    POST /2018-06-01/runtime/init/error

It is strict. It checks the order of the calls, their headers and the framing of the response. A runtime that violates a
rule receives a message that names the rule, its invocation fails with the same message, and its environment is
replaced. The service does the last two; the message makes a mistake in a runtime visible here.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import base64
import enum
import json
import re
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.api_responses import send_accepted, send_error
from tools.emulator.execution.invocation import OCTET_STREAM, Invocation, InvocationEnded, InvocationFailed
from tools.emulator.http1.connection import Connection, ConnectionClosed, Headers, ProtocolError, Request
from tools.emulator.http1.server import Server

if TYPE_CHECKING:
    from tools.emulator.execution.extensions_api import ExtensionsApi

PREFIX = "/2018-06-01/runtime"
EXTENSION_PATHS = ("/2020-01-01/extension/", "/2020-08-15/logs", "/2022-07-01/telemetry")  # see `extensions_api`
INVOCATION_PATH = re.compile(re.escape(PREFIX) + r"/invocation/([^/]+)/(response|error)")

RESPONSE_MODE = "Lambda-Runtime-Function-Response-Mode"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
INVOCATION_ID = "Lambda-Runtime-Invocation-Id"
CLIENT_CONTEXT = "Lambda-Runtime-Client-Context"
TENANT_ID = "Lambda-Runtime-Aws-Tenant-Id"

MAX_PAYLOAD_BYTES = 6 * 1024 * 1024 + 100  # of a buffered response: 6,291,556, the limit that the service names
DRAIN_TIMEOUT = 1.0  # seconds to read what a process sent before its end


class State(enum.Enum):
    """The state of a runtime, worded for messages."""

    INITIALIZING = "initializing, and has not called next"
    HELD = "waiting for its restore"
    RESTORING = "restored, and has not called next"
    IDLE = "waiting for an invocation"
    INVOKED = "processing an invocation, and has not responded"
    RESPONDING = "in the middle of a response"
    RESPONDED = "done with its invocation, and has not called next"
    STOPPED = "stopped"


# For each call: the states in which it is legal, and the state after it.
TRANSITIONS = {
    "next": ({State.INITIALIZING, State.RESTORING, State.IDLE, State.RESPONDED}, State.IDLE),
    "response": ({State.INVOKED}, State.RESPONDING),
    "end of the response": ({State.RESPONDING}, State.RESPONDED),
    "error": ({State.INVOKED}, State.RESPONDED),
    "init/error": ({State.INITIALIZING, State.RESTORING}, State.STOPPED),
    "restore/next": ({State.INITIALIZING}, State.HELD),
    "restore": ({State.HELD}, State.RESTORING),
    "restore/error": ({State.RESTORING}, State.STOPPED),
}


class Violation(Exception):
    """A call that violates a rule of the Runtime API."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type


class RuntimeEvents(Protocol):
    """The events of a runtime, for its environment. The server holds no lock while it calls these methods."""

    def on_start(self, invocation: Invocation) -> None:
        """The runtime is about to receive an invocation."""

    def on_idle(self) -> None:
        """The runtime called `next`: it is done with its previous invocation, if it had one."""

    def on_init_error(self) -> None:
        """The runtime reported an init error."""

    def on_violation(self, message: str) -> None:
        """The runtime violated a rule."""


class RuntimeApiServer:
    """Serves the runtime of one execution environment, and passes it one invocation at a time.

    Theory of operation. The pool assigns an invocation to an environment right after it has started the process, so
    three things race: the hand-over of the invocation, the calls of the runtime, and the end of the process. Under load
    a process can report an init error and exit before it is handed its invocation. So a failure of the *environment*
    (an init error, a violation, the end of the process) is stored, and whatever invocation is handed over later fails
    with it. The first cause is kept: the exit status of a process that has reported an init error, or was killed after
    a violation, does not replace the report. A failure of an *invocation* is never stored: it must not reach the next
    one.

    At the end of a process, what it sent before may still be unread. `process_ended` therefore lets the connections
    finish reading before it decides how the invocation ended.

    Args:
        function: its ARN is that of an invocation whose caller names no qualifier.
        listener: a listening socket for the runtime; None: a new one.
        attached: the process belongs to a developer. It connects to an endpoint, which passes its connections to
            `serve`, and it can exit and start again at any time. Failures are not stored: the next process is another
            one.
    """

    def __init__(
        self,
        function: FunctionConfiguration,
        events: RuntimeEvents,
        listener: socket.socket | None = None,
        attached: bool = False,
    ) -> None:
        self.state = State.INITIALIZING
        self.initialized: float | None = None  # time.monotonic() of the first `next`
        self.extensions: ExtensionsApi | None = None  # made when the first one is expected, or registers
        self._function = function
        self._events = events
        self._attached = attached
        self._change = threading.Condition()
        self._invocation: Invocation | None = None
        self._failure: InvocationFailed | None = None  # of the environment
        self._exit: InvocationFailed | None = None
        self._poll = 0  # number of the newest `next`: an older one, whose connection is lost, gets no invocation
        self._server = None if attached else Server(self.serve, listener)
        self.address = self._server.authority if self._server else ""

    # Called by the environment

    def start(self) -> None:
        """Begin to serve, unless an endpoint passes the connections of an attached process."""
        if self._server is not None:
            self._server.start()

    def hand_over(self, invocation: Invocation) -> None:
        """Pass an invocation to the runtime as soon as it calls `next`, or fail it if the environment has failed."""
        with self._change:
            self._invocation = invocation
            self._change.notify_all()
            failure = self._failure_of(invocation)
        if failure is not None:
            invocation.finish(failure)

    def take_back(self) -> Invocation | None:
        """Return the invocation that was handed over; None if the runtime is not initializing any more."""
        with self._change:
            if self.initialized is not None:
                return None
            invocation, self._invocation = self._invocation, None
            return invocation

    def process_ended(self, exit_failure: InvocationFailed) -> None:
        """Read what the process sent before its end, then fail its invocation unless that has ended."""
        with self._change:
            self._poll += 1  # a pending `next` returns
            self._change.notify_all()
        if self.extensions is not None:
            self.extensions.close(external=False)
        if self._server is not None:
            self._server.close(DRAIN_TIMEOUT)
        with self._change:
            self.state = State.STOPPED
            self._exit = exit_failure
            self._change.notify_all()
            invocation = self._invocation
            failure = self._failure_of(invocation) if invocation is not None else None
        if invocation is not None:
            invocation.finish(failure)

    def expect_extensions(self, names: Sequence[str] = ()) -> ExtensionsApi:
        """Return the Extensions API.

        Args:
            names: the external extensions.
        """
        from tools.emulator.execution.extensions_api import ExtensionsApi  # only functions with extensions need it

        with self._change:
            if self.extensions is None:
                self.extensions = ExtensionsApi(
                    self._function, self._change, lambda: self.initialized is None, self._extension_failed
                )
                self.extensions.expect(names)
            return self.extensions

    def _extension_failed(self, failure: InvocationFailed) -> None:
        self.fail_environment(failure)
        self._events.on_init_error()

    def _failure_of(self, invocation: Invocation) -> InvocationFailed | None:
        if self._failure is not None:
            return self._failure
        return self._exit and self._exit.with_request_id(invocation.request_id)

    # Called by the runtime

    def serve(self, connection: Connection, request: Request | None = None) -> None:
        """Serve a connection until it closes.

        Args:
            request: the first request, if its head has been read.
        """
        keep_alive = True
        while keep_alive:
            try:
                request = request or connection.read_request()
                if request is None:
                    return
                keep_alive = request.keep_alive
                self._dispatch(connection, request)
            except ProtocolError as error:
                return self._refuse(connection, Violation(error.status, "Runtime.InvalidRequest", str(error)))
            except Violation as violation:
                return self._refuse(connection, violation)
            except InvocationEnded:
                return send_error(connection, 410, "InvokeTimeout", "Invoke timeout")
            request = None

    def _dispatch(self, connection: Connection, request: Request) -> None:
        if (request.method, request.target) == ("GET", f"{PREFIX}/invocation/next"):
            return self._next(connection)
        if (request.method, request.target) == ("POST", f"{PREFIX}/init/error"):
            return self._init_error(connection, request)
        if request.target.startswith(EXTENSION_PATHS):
            return self.expect_extensions().serve(connection, request)
        match = INVOCATION_PATH.fullmatch(request.target)
        if request.method != "POST" or match is None:
            message = f"the Runtime API has no {request.method} {request.target}"
            raise Violation(404, "Runtime.InvalidRequest", message)
        invocation = self._addressed(match[1], request.headers)
        if match[2] == "error":
            return self._invocation_error(connection, request, invocation)
        return self._response(connection, request, invocation)

    def _addressed(self, request_id: str, headers: Headers) -> Invocation:
        invocation = self._invocation
        if invocation is None or invocation.request_id != request_id:
            raise Violation(400, "InvalidRequestID", f"the runtime has no invocation {request_id}")
        if INVOCATION_ID in headers and headers.get(INVOCATION_ID) != invocation.invocation_id:
            raise Violation(410, "InvokeTimeout", f"{INVOCATION_ID} is not the one of this attempt")
        return invocation

    def _transition(self, call: str) -> None:
        legal, state = TRANSITIONS[call]
        with self._change:
            restarted = self._attached and call == "next"  # a new process; the previous one can have exited anywhere
            if self.state not in legal and not restarted:
                message = f"{call} is not allowed: the runtime is {self.state.value}"
                raise Violation(403, "InvalidStateTransition", message)
            self.state = state
            self._change.notify_all()

    def _next(self, connection: Connection) -> None:
        self._transition("next")
        self._fail_invocation(InvocationFailed.of_type("Runtime.TruncatedResponse", "the response was not completed"))
        if not self._wait_for_extensions():
            return
        self._events.on_idle()
        invocation = self._wait_for_invocation(connection)
        if invocation is None:
            return
        self._events.on_start(invocation)
        deadline_ms = invocation.start()
        arn = invocation.arn or self._function.arn
        if self.extensions is not None:
            self.extensions.invoke(invocation, deadline_ms, arn)
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Lambda-Runtime-Aws-Request-Id: {invocation.request_id}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {deadline_ms}\r\n"
            f"Lambda-Runtime-Invoked-Function-Arn: {arn}\r\n"
            f"Lambda-Runtime-Trace-Id: {invocation.trace_id}\r\n"
            f"{INVOCATION_ID}: {invocation.invocation_id}\r\n"
        )
        if invocation.client_context is not None:
            head += f"{CLIENT_CONTEXT}: {invocation.client_context}\r\n"
        if invocation.tenant_id is not None:
            head += f"{TENANT_ID}: {invocation.tenant_id}\r\n"
        head += f"Content-Length: {len(invocation.event)}\r\n\r\n"
        connection.write(head.encode() + invocation.event)

    def _wait_for_extensions(self) -> bool:
        """Wait until all extensions are ready. Returns False if the process has ended instead.

        The process of a developer can end at any time, so its extensions are not waited for.
        """
        with self._change:
            poll = self._poll
            while self.extensions is not None and not self.extensions.ready and not self._attached:
                if self.state is State.STOPPED or self._poll != poll:
                    return False
                self._change.wait()
        return True

    def _wait_for_invocation(self, connection: Connection) -> Invocation | None:
        with self._change:
            if self.initialized is None:
                self.initialized = time.monotonic()
            self._poll += 1
            poll = self._poll
            while (invocation := self._pending()) is None:
                if self.state is State.STOPPED or self._poll != poll:
                    return None
                self._change.wait()
            if self._poll != poll or (self._attached and connection.peer_closed()):
                return None  # the invocation stays pending for the runtime that calls next
            self.state = State.INVOKED
            return invocation

    def _pending(self) -> Invocation | None:
        """The invocation that was handed over, if it was neither passed on nor failed."""
        invocation = self._invocation
        if invocation is None or invocation.started is not None or invocation.finished:
            return None
        return invocation

    def _response(self, connection: Connection, request: Request, invocation: Invocation) -> None:
        mode = request.headers.get(RESPONSE_MODE)
        if RESPONSE_MODE in request.headers and mode != "streaming":
            message = f"{RESPONSE_MODE} is {mode!r}; set it to 'streaming', or leave it out for a buffered response"
            raise Violation(400, "Runtime.InvalidResponseModeHeader", message)
        if mode and not request.chunked:
            raise Violation(400, "Runtime.InvalidRequest", "a streamed response needs 'Transfer-Encoding: chunked'")
        self._transition("response")
        error = (self._streamed if mode else self._buffered)(connection, request, invocation)
        self._transition("end of the response")
        invocation.finish(error)
        send_accepted(connection)

    def _streamed(self, connection: Connection, request: Request, invocation: Invocation) -> InvocationFailed | None:
        """Pass on the chunks. Returns the error in the trailers, if there is one."""
        invocation.begin_response(request.headers.get("Content-Type", OCTET_STREAM), streamed=True)
        try:
            for chunk in connection.read_chunks():
                invocation.send(chunk)
            trailers = connection.read_trailers()
        except ConnectionClosed:
            # The process has ended, or only its connection: its exit or its next call shows which, and fails the
            # invocation.
            self._transition("end of the response")
            raise
        return parse_error_trailers(trailers, request.headers, self._function)

    @staticmethod
    def _buffered(connection: Connection, request: Request, invocation: Invocation) -> InvocationFailed | None:
        """Pass on the response of a runtime that does not stream."""
        body = connection.read_body(request, MAX_PAYLOAD_BYTES)
        invocation.begin_response(request.headers.get("Content-Type", OCTET_STREAM))
        if body:
            invocation.send(body)
        return None

    def _invocation_error(self, connection: Connection, request: Request, invocation: Invocation) -> None:
        document = self._read_error_report(connection, request)
        self._transition("error")
        invocation.finish(InvocationFailed(document, request.headers.get(ERROR_TYPE)))
        send_accepted(connection)

    def _read_error_report(self, connection: Connection, request: Request) -> dict[str, Any]:
        return parse_error_report(connection.read_body(request, MAX_PAYLOAD_BYTES), self._function)

    def _init_error(self, connection: Connection, request: Request) -> None:
        document = self._read_error_report(connection, request)
        self._transition("init/error")
        self.fail_environment(InvocationFailed(document, request.headers.get(ERROR_TYPE)))
        self._events.on_init_error()
        send_accepted(connection)

    def _refuse(self, connection: Connection, violation: Violation) -> None:
        message = f"the runtime violated a rule of the Runtime API: {violation}"
        failure = InvocationFailed.of_type(violation.error_type, message)
        if self._attached:
            self._fail_invocation(failure)
            with self._change:
                if self.state is not State.STOPPED:
                    self.state = State.RESPONDED
        else:
            self.fail_environment(failure)
        self._events.on_violation(message)
        send_error(connection, violation.status, violation.error_type, str(violation))

    def _fail_invocation(self, failure: InvocationFailed) -> None:
        """Fail the invocation that the runtime is processing, unless it has ended."""
        invocation = self._invocation
        if invocation is not None and invocation.started is not None:
            invocation.finish(failure)

    def fail_environment(self, failure: InvocationFailed) -> None:
        """Fail the invocation that was handed over, or the one that will be."""
        with self._change:
            if self._failure is None and not self._attached:
                self._failure = failure
            invocation = self._invocation
        if invocation is not None:
            invocation.finish(failure)


def parse_error_trailers(
    trailers: Headers, request_headers: Headers, function: FunctionConfiguration
) -> InvocationFailed | None:
    """Return the error that a response ended with (AWS Lambda Developer Guide, runtimes-custom).

    Raises ProtocolError for a trailer that was not declared in the `Trailer` header, or that cannot be parsed.
    """
    declared = {name.strip().lower() for name in request_headers.get("Trailer").split(",")}
    for name, _ in trailers.fields:
        if name.lower() not in declared:
            raise ProtocolError(f"the trailer {name} was not declared in the Trailer header")
    if ERROR_TYPE not in trailers and ERROR_BODY not in trailers:
        return None
    try:
        body = base64.b64decode(trailers.get(ERROR_BODY), validate=True)
    except ValueError as error:
        raise ProtocolError(f"the trailer {ERROR_BODY} is not base64: {error}") from None
    return InvocationFailed(parse_error_report(body, function), trailers.get(ERROR_TYPE))


def parse_error_report(body: bytes, function: FunctionConfiguration) -> dict[str, Any]:
    """Raises ProtocolError."""
    try:
        document = json.loads(function.with_source_paths(body))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"an error report is not JSON: {error}") from None
    if not isinstance(document, dict) or not {"errorType", "errorMessage"} <= document.keys():
        raise ProtocolError("an error report must be a JSON object with errorType and errorMessage")
    return document
