"""The Lambda Extensions API of one execution environment.

    POST /2020-01-01/extension/register
    GET  /2020-01-01/extension/event/next
    POST /2020-01-01/extension/init/error
    POST /2020-01-01/extension/exit/error

Theory of operation. An extension is *ready* while it waits in `event/next` and has no event to fetch. The init phase
ends when the runtime has called `next` and all extensions are ready; an invocation ends when that is so again. The
server of the Runtime API therefore lets the runtime wait in `next` until the extensions are ready. Both share one
condition, so that neither misses a change of the other.

An extension whose name is that of a file in /opt/extensions is an external one, with a process of its own. All others
are internal: they are threads of the runtime, which end with it and get no SHUTDOWN event.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html; the error types are those of the Runtime
Interface Emulator of AWS.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal

from tools.emulator.deployment.configuration import ACCOUNT, VERSION, FunctionConfiguration
from tools.emulator.execution.api_responses import send_accepted, send_error, send_json
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.http1.connection import Connection, Request

PREFIX = "/2020-01-01/extension/"
# Extensions that subscribe to logs run without them: the response is that of the Runtime Interface Emulator.
NOT_EMULATED = {"/2022-07-01/telemetry": "Telemetry", "/2020-08-15/logs": "Logs"}

NAME = "Lambda-Extension-Name"
IDENTIFIER = "Lambda-Extension-Identifier"
EVENT_IDENTIFIER = "Lambda-Extension-Event-Identifier"
ACCEPT_FEATURE = "Lambda-Extension-Accept-Feature"
ERROR_TYPE = "Lambda-Extension-Function-Error-Type"

INVOKE, SHUTDOWN = "INVOKE", "SHUTDOWN"
ShutdownReason = Literal["SPINDOWN", "TIMEOUT", "FAILURE"]  # why an environment ends, as the SHUTDOWN event names it
MAX_EXTENSIONS = 10  # gettingstarted-limits
MAX_BODY_BYTES = 1024 * 1024


class Refused(Exception):
    """A call that the API refuses, with status 403."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


class Extension:
    """A registered extension."""

    def __init__(self, name: str, external: bool, subscriptions: Sequence[str]) -> None:
        self.name = name
        self.external = external
        self.subscriptions = subscriptions
        self.identifier = str(uuid.uuid4())
        self.events: list[dict[str, Any]] = []  # to be fetched
        self.waiting = False  # in `event/next`
        self.polls = 0  # number of the newest `event/next`: an older one, whose connection is lost, gets no event
        self.closed = False  # it gets no further event

    @property
    def ready(self) -> bool:
        return self.waiting and not self.events


class ExtensionsApi:
    """Serves the extensions of one environment.

    Args:
        change: the condition of the Runtime API server.
        registration_open: whether an internal extension can register: not after the init phase.
        on_failure: called with the error that an extension reported.
    """

    def __init__(
        self,
        function: FunctionConfiguration,
        change: threading.Condition,
        registration_open: Callable[[], bool],
        on_failure: Callable[[InvocationFailed], None],
    ) -> None:
        self._function = function
        self._change = change
        self._registration_open = registration_open
        self._on_failure = on_failure
        self._external_names: frozenset[str] = frozenset()
        self._extensions: list[Extension] = []

    # Called by the environment and by the Runtime API server

    @property
    def registered(self) -> Sequence[Extension]:
        return tuple(self._extensions)

    @property
    def ready(self) -> bool:
        """Whether no extension works on an event. Call it with the condition held."""
        return all(extension.ready or extension.closed for extension in self._extensions)

    def expect(self, names: Sequence[str]) -> None:
        """Expect external extensions to register with these names."""
        self._external_names = frozenset(names)

    def wait_until_registered(self, name: str, timeout: float, abort: Callable[[], bool]) -> bool:
        """Wait until an external extension has registered. Returns False after the timeout, or when `abort` is true."""
        with self._change:
            self._change.wait_for(lambda: self._named(name) is not None or abort(), timeout)
            return self._named(name) is not None

    def invoke(self, invocation: Invocation, deadline_ms: int, arn: str) -> None:
        """Send an INVOKE event to the extensions that have subscribed to it."""
        event = {
            "eventType": INVOKE,
            "deadlineMs": deadline_ms,
            "requestId": invocation.request_id,
            "invokedFunctionArn": arn,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": invocation.trace_id},
        }
        self._send(event, self._extensions)

    def shut_down(self, reason: ShutdownReason, deadline_ms: int) -> set[str]:
        """Send a SHUTDOWN event to the external extensions that have subscribed to it. Returns their names."""
        event = {"eventType": SHUTDOWN, "shutdownReason": reason, "deadlineMs": deadline_ms}
        return self._send(event, [extension for extension in self._extensions if extension.external])

    def close(self, external: bool) -> None:
        """End the calls of the internal extensions, or also those of the external ones."""
        with self._change:
            for extension in self._extensions:
                extension.closed = extension.closed or external or not extension.external
            self._change.notify_all()

    def wake(self) -> None:
        """Have `wait_until_registered` check its condition again."""
        with self._change:
            self._change.notify_all()

    def _send(self, event: dict[str, Any], extensions: Sequence[Extension]) -> set[str]:
        with self._change:
            subscribed = [each for each in extensions if event["eventType"] in each.subscriptions and not each.closed]
            for extension in subscribed:
                extension.events.append(event)
            self._change.notify_all()
        return {extension.name for extension in subscribed}

    def _named(self, name: str) -> Extension | None:
        return next((extension for extension in self._extensions if extension.name == name), None)

    # Called by extensions

    @staticmethod
    def matches(path: str) -> bool:
        return path.startswith(PREFIX) or path in NOT_EMULATED

    def serve(self, connection: Connection, request: Request) -> None:
        body = connection.read_body(request, MAX_BODY_BYTES)
        try:
            self._dispatch(connection, request, body)
        except Refused as refused:
            send_error(connection, 403, refused.error_type, str(refused))

    def _dispatch(self, connection: Connection, request: Request, body: bytes) -> None:
        call = request.method, request.target.removeprefix(PREFIX)
        if call == ("POST", "register"):
            return self._register(connection, request, body)
        if call == ("GET", "event/next"):
            return self._next(connection, self._identified(request))
        if call in (("POST", "init/error"), ("POST", "exit/error")):
            return self._fail(connection, request, body)
        if request.target in NOT_EMULATED:
            name = NOT_EMULATED[request.target]
            return send_error(connection, 202, f"{name}.NotSupported", f"{name} API is not supported")
        send_error(connection, 404, "InvalidRequest", f"the Extensions API has no {request.method} {request.target}")

    def _register(self, connection: Connection, request: Request, body: bytes) -> None:
        name = request.headers.get(NAME)
        if not name:
            raise Refused("Extension.InvalidExtensionName", "Empty extension name")
        external = name in self._external_names
        subscriptions = parse_subscriptions(body, external)
        with self._change:
            self._check_registration(name, external)
            extension = Extension(name, external, subscriptions)
            self._extensions.append(extension)
            self._change.notify_all()
        document = {
            "functionName": self._function.name,
            "functionVersion": VERSION,
            "handler": self._function.handler,
        }
        if "accountId" in [feature.strip() for feature in request.headers.get(ACCEPT_FEATURE).split(",")]:
            document["accountId"] = ACCOUNT
        send_json(connection, 200, document, {IDENTIFIER: extension.identifier})

    def _check_registration(self, name: str, external: bool) -> None:
        if self._named(name) is not None:
            raise Refused("Extension.InvalidExtensionState", "Extension with this name already registered")
        if not external and not self._registration_open():
            raise Refused("Extension.RegistrationClosed", "Extension registration closed already")
        if len(self._extensions) >= MAX_EXTENSIONS:
            raise Refused("Extension.TooManyExtensions", f"Extension limit ({MAX_EXTENSIONS}) reached")

    def _identified(self, request: Request) -> Extension:
        identifier = request.headers.get(IDENTIFIER)
        if not identifier:
            raise Refused("Extension.MissingExtensionIdentifier", f"Missing {IDENTIFIER} header")
        extension = next((each for each in self._extensions if each.identifier == identifier), None)
        if extension is None:
            raise Refused("Extension.UnknownExtensionIdentifier", f"Unknown extension {identifier}")
        return extension

    def _next(self, connection: Connection, extension: Extension) -> None:
        with self._change:
            extension.polls += 1
            poll = extension.polls
            extension.waiting = True
            self._change.notify_all()
            while not extension.events and not extension.closed and extension.polls == poll:
                self._change.wait()
            if extension.polls != poll or not extension.events:
                return
            event = extension.events.pop(0)
            extension.waiting = False
        send_json(connection, 200, event, {EVENT_IDENTIFIER: str(uuid.uuid4())})

    def _fail(self, connection: Connection, request: Request, body: bytes) -> None:
        extension = self._identified(request)
        reported = request.headers.get(ERROR_TYPE)
        if not reported:
            raise Refused("Extension.MissingHeader", f"{ERROR_TYPE} not found")
        send_accepted(connection)
        kind = "Extension.InitError" if request.target.endswith("init/error") else "Extension.ExitError"
        message = f"the extension {extension.name} reported {reported}: {error_message(body)}"
        self._on_failure(InvocationFailed.of_type(kind, message))


def parse_subscriptions(body: bytes, external: bool) -> Sequence[str]:
    """The events that an extension subscribes to. Raises Refused."""
    try:
        document = json.loads(body or b"{}")
        events = document.get("events") or []
        valid = isinstance(events, list) and all(isinstance(event, str) for event in events)
    except (ValueError, RecursionError, AttributeError):
        valid = False
    if not valid:
        raise Refused("InvalidRequestFormat", 'the body must be a JSON object such as {"events": ["INVOKE"]}')
    for event in events:
        if event not in (INVOKE, SHUTDOWN):
            raise Refused("Extension.InvalidEventType", f"{event}: the events are INVOKE and SHUTDOWN")
        if event == SHUTDOWN and not external:
            raise Refused("Extension.InvalidEventType", f"{event}: an internal extension cannot subscribe to it")
    return tuple(events)


def error_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["errorMessage"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return "no message"
