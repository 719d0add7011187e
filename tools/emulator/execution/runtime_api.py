"""The Lambda Runtime API of one execution environment, over HTTP on the loopback interface.

It is strict: it checks the order of the calls, their headers and the framing of what is streamed, and fails the
invocation of a runtime that breaks a rule, with a message that names the rule.

    GET  /2018-06-01/runtime/invocation/next
    POST /2018-06-01/runtime/invocation/{id}/response
    POST /2018-06-01/runtime/invocation/{id}/error
    POST /2018-06-01/runtime/init/error

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
from collections.abc import Callable
from typing import Any

from tools.emulator.execution.invocation import OCTET_STREAM, Invocation, InvocationFailed, InvocationOver
from tools.emulator.http1.server import Connection, ConnectionEnded, Headers, ProtocolError, Request, Server

PREFIX = "/2018-06-01/runtime"
INVOCATION_PATH = re.compile(re.escape(PREFIX) + r"/invocation/([^/]+)/(response|error)")

RESPONSE_MODE = "Lambda-Runtime-Function-Response-Mode"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
INVOCATION_ID = "Lambda-Runtime-Invocation-Id"
CLIENT_CONTEXT = "Lambda-Runtime-Client-Context"

LARGEST_PAYLOAD = 6 * 1024 * 1024 + 100  # bytes, buffered; the service's own limit (6291556)


class State(enum.Enum):
    """Where the runtime of an environment stands. Each call is legal in the states that its method names."""

    STARTING = "started, and has not asked for an invocation yet"
    WAITING = "waiting for an invocation"
    INVOKED = "given an invocation, and has not answered it yet"
    RESPONDING = "in the middle of a response"
    ANSWERED = "done with its invocation, and has not asked for the next one yet"
    ENDED = "at its end"


class Refusal(Exception):
    """A call that the Runtime API does not accept. `fatal`: the environment is of no further use."""

    def __init__(self, status: int, error_type: str, message: str, fatal: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.fatal = fatal


class RuntimeApi:
    """Serves the runtime of one execution environment, and hands it one invocation at a time.

    Args:
        function_arn: what the context tells the handler, where the caller does not name a version or an alias.
        on_start: called when an invocation is about to be handed to the runtime.
        on_breach: called, with what was wrong, when the runtime broke a rule and has to be ended.
        on_idle: called when the runtime has asked for its next invocation, after one.
        listener: where the runtime calls; None: a new one.
        attached: the runtime is somebody else's process, under a debugger for example: it calls at a front door,
            which hands its connections over to `serve`, and it may be ended and started again at any time.
    """

    def __init__(
        self,
        function_arn: str,
        on_start: Callable[[Invocation], None],
        on_breach: Callable[[str], None],
        on_idle: Callable[[], None] = lambda: None,
        listener: socket.socket | None = None,
        attached: bool = False,
    ) -> None:
        self.state = State.STARTING
        self.initialized: float | None = None  # time.monotonic() of the first `next`
        self._function_arn = function_arn
        self._on_start = on_start
        self._on_breach = on_breach
        self._on_idle = on_idle
        self._attached = attached
        self._change = threading.Condition()
        self._invocation: Invocation | None = None
        self._end: InvocationFailed | None = None  # what became of the process
        self._poll = 0  # numbers the calls of `next`, so that one whose connection was lost gives way to another
        self._open_connections = 0
        self._server = None if attached else Server(self.serve, listener)
        self.address = self._server.authority if self._server else ""

    # The environment's side

    def hand_over(self, invocation: Invocation) -> None:
        """Give the runtime an invocation, as soon as it asks for one."""
        with self._change:
            self._invocation = invocation
            self._change.notify_all()
            ended = self._end
        if ended is not None:
            invocation.finish(ended)

    def take_back(self) -> Invocation | None:
        """The invocation that it was handed; None where the runtime has asked for one by now, or is at its end."""
        with self._change:
            if self.state is not State.STARTING:
                return None
            invocation, self._invocation = self._invocation, None
            return invocation

    def wait_until_idle(self) -> bool:
        """Wait until the runtime asks for its next invocation. Returns False where it ended instead."""
        with self._change:
            while self.state not in (State.WAITING, State.ENDED):
                self._change.wait()
            return self.state is State.WAITING

    def end(self, failure: InvocationFailed) -> None:
        """The process is gone: the invocation that it was given ends with this failure, unless it has ended."""
        if self._server is not None:
            self._server.close()
        with self._change:
            self._poll += 1  # a call of `next` that waits is over
            self._change.notify_all()
            deadline = time.monotonic() + 1
            while self._open_connections and time.monotonic() < deadline:
                self._change.wait(0.05)  # what the process said before it went is still being read
            self.state = State.ENDED
            self._end = failure
            self._change.notify_all()
            invocation = self._invocation
        if invocation is not None:
            invocation.finish(failure)

    # The runtime's side

    def serve(self, connection: Connection, request: Request | None = None) -> None:
        """Serve a connection to its end.

        Args:
            request: its first, where that was read already.
        """
        with self._change:
            self._open_connections += 1
        try:
            self._serve_requests(connection, request)
        finally:
            with self._change:
                self._open_connections -= 1
                self._change.notify_all()

    def _serve_requests(self, connection: Connection, request: Request | None) -> None:
        keep_alive = True
        while keep_alive:
            try:
                request = request or connection.read_request()
                if request is None:
                    return
                keep_alive = request.keep_alive
                self._dispatch(connection, request)
            except ProtocolError as error:
                self._refuse(connection, Refusal(error.status, "Runtime.InvalidRequest", str(error)))
                return
            except Refusal as refusal:
                self._refuse(connection, refusal)
                if refusal.fatal:
                    return
            except InvocationOver:
                answer(connection, 410, "InvokeTimeout", "Invoke timeout")
                return
            request = None

    def _dispatch(self, connection: Connection, request: Request) -> None:
        if (request.method, request.target) == ("GET", f"{PREFIX}/invocation/next"):
            return self._next(connection)
        if (request.method, request.target) == ("POST", f"{PREFIX}/init/error"):
            return self._init_error(connection, request)
        match = INVOCATION_PATH.fullmatch(request.target)
        if request.method != "POST" or match is None:
            message = f"{request.method} {request.target} is no call of the Runtime API"
            raise Refusal(404, "Runtime.InvalidRequest", message)
        invocation = self._addressed(match[1], request.headers)
        if match[2] == "error":
            return self._invocation_error(connection, request, invocation)
        return self._response(connection, request, invocation)

    def _addressed(self, request_id: str, headers: Headers) -> Invocation:
        invocation = self._invocation
        if invocation is None or invocation.request_id != request_id:
            raise Refusal(400, "InvalidRequestID", f"no invocation {request_id} is under way")
        if INVOCATION_ID in headers and headers.get(INVOCATION_ID) != invocation.nonce:
            raise Refusal(410, "InvokeTimeout", f"{INVOCATION_ID} is not that of this attempt")
        return invocation

    def _move(self, call: str, to: State, *legal: State) -> None:
        with self._change:
            if self.state not in legal:
                message = f"{call} was called by a runtime that is {self.state.value}"
                raise Refusal(403, "InvalidStateTransition", message)
            self.state = to
            self._change.notify_all()

    def _next(self, connection: Connection) -> None:
        legal = State if self._attached else (State.STARTING, State.ANSWERED, State.WAITING)
        self._move("next", State.WAITING, *legal)
        self._fail(InvocationFailed.because("Runtime.TruncatedResponse", "the runtime left its response unfinished"))
        self._on_idle()
        invocation = self._await_invocation(connection)
        if invocation is None:
            return
        self._on_start(invocation)
        deadline_ms = invocation.start()
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Lambda-Runtime-Aws-Request-Id: {invocation.request_id}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {deadline_ms}\r\n"
            f"Lambda-Runtime-Invoked-Function-Arn: {invocation.arn or self._function_arn}\r\n"
            f"Lambda-Runtime-Trace-Id: {invocation.trace_id}\r\n"
            f"{INVOCATION_ID}: {invocation.nonce}\r\n"
        )
        if invocation.client_context is not None:
            head += f"{CLIENT_CONTEXT}: {invocation.client_context}\r\n"
        head += f"Content-Length: {len(invocation.event)}\r\n\r\n"
        connection.write(head.encode() + invocation.event)

    def _await_invocation(self, connection: Connection) -> Invocation | None:
        with self._change:
            if self.initialized is None:
                self.initialized = time.monotonic()
            self._poll += 1
            poll = self._poll
            while self._invocation is None or self._invocation.started is not None:
                if self.state is State.ENDED or self._poll != poll:
                    return None
                self._change.wait()
            if self._attached and connection.peer_left():
                return None  # the invocation waits for the runtime that is started next
            self.state = State.INVOKED
            return self._invocation

    def _response(self, connection: Connection, request: Request, invocation: Invocation) -> None:
        mode = request.headers.get(RESPONSE_MODE)
        if RESPONSE_MODE in request.headers and mode != "streaming":
            message = f"{RESPONSE_MODE} is {mode!r}; it is 'streaming', or left out for a buffered response"
            raise Refusal(400, "Runtime.InvalidResponseModeHeader", message)
        if mode and not request.chunked:
            raise Refusal(400, "Runtime.InvalidRequest", "a streamed response needs 'Transfer-Encoding: chunked'")
        self._move("response", State.RESPONDING, State.INVOKED)
        error = (self._streamed if mode else self._buffered)(connection, request, invocation)
        self._move("response", State.ANSWERED, State.RESPONDING)
        invocation.finish(error)
        accept(connection)

    def _streamed(self, connection: Connection, request: Request, invocation: Invocation) -> InvocationFailed | None:
        """Pass the chunks on. Returns the error that the trailers tell of, if any."""
        invocation.begin(request.headers.get("Content-Type", OCTET_STREAM), streamed=True)
        try:
            for chunk in connection.read_chunks():
                invocation.send(chunk)
            trailers = connection.read_trailers()
        except ConnectionEnded:
            # Why, is told by what comes next: the end of the process, or another call of `next`.
            self._move("response", State.ANSWERED, State.RESPONDING)
            raise
        return trailers_error(trailers, request.headers)

    @staticmethod
    def _buffered(connection: Connection, request: Request, invocation: Invocation) -> InvocationFailed | None:
        """Pass on the response of a runtime that does not stream."""
        body = connection.read_body(request, LARGEST_PAYLOAD)
        invocation.begin(request.headers.get("Content-Type", OCTET_STREAM))
        if body:
            invocation.send(body)
        return None

    def _invocation_error(self, connection: Connection, request: Request, invocation: Invocation) -> None:
        document = error_document(connection.read_body(request, LARGEST_PAYLOAD))
        self._move("error", State.ANSWERED, State.INVOKED)
        invocation.finish(InvocationFailed(document, request.headers.get(ERROR_TYPE)))
        accept(connection)

    def _init_error(self, connection: Connection, request: Request) -> None:
        document = error_document(connection.read_body(request, LARGEST_PAYLOAD))
        self._move("init/error", State.ENDED, State.STARTING)
        self._fail(InvocationFailed(document, request.headers.get(ERROR_TYPE)))
        accept(connection)

    def _refuse(self, connection: Connection, refusal: Refusal) -> None:
        if refusal.fatal:
            message = f"the runtime broke a rule of the Runtime API: {refusal}"
            self._fail(InvocationFailed.because(refusal.error_type, message))
            with self._change:
                if self._attached and self.state is not State.ENDED:
                    self.state = State.ANSWERED
            self._on_breach(message)
        answer(connection, refusal.status, refusal.error_type, str(refusal))

    def _fail(self, failure: InvocationFailed) -> None:
        """Fail the invocation that the runtime was given, unless it has ended."""
        invocation = self._invocation
        if invocation is not None and (invocation.started is not None or self.state in (State.STARTING, State.ENDED)):
            invocation.finish(failure)


def trailers_error(trailers: Headers, request_headers: Headers) -> InvocationFailed | None:
    """The error that a response ended with, from its trailers (AWS Lambda Developer Guide, runtimes-custom)."""
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
    return InvocationFailed(error_document(body), trailers.get(ERROR_TYPE))


def error_document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"an error report is not JSON: {error}") from None
    if not isinstance(document, dict) or not {"errorType", "errorMessage"} <= document.keys():
        raise ProtocolError("an error report is no JSON object with errorType and errorMessage")
    return document


def accept(connection: Connection) -> None:
    send_json(connection, "202 Accepted", {"status": "OK"})


def answer(connection: Connection, status: int, error_type: str, message: str) -> None:
    send_json(connection, f"{status} Refused", {"errorMessage": message, "errorType": error_type})


def send_json(connection: Connection, status: str, document: dict[str, str]) -> None:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.write(head.encode() + body)
