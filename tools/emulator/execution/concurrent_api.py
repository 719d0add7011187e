"""The Runtime API of a managed instance: several invocations at once, each on any connection.

It differs from the Runtime API of an on-demand function, as the one of AWS's emulator for managed instances does:

    next          as many calls as slots may wait at a time; more receive 500, Runtime.TooManyIdleRuntimes
    response      matched by the request ID; a second one for the same invocation receives 400, a late one 410
    error         also while the response runs, which it then ends
    init/error    403 as soon as one call of `next` has ended the init phase

A violation fails the invocation that it belongs to, and the environment continues: the others are not affected.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from typing import Protocol

from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.api_responses import send_error
from tools.emulator.execution.invocation import Invocation, InvocationEnded, InvocationFailed
from tools.emulator.execution.runtime_api import (
    INVOCATION_ID,
    MAX_PAYLOAD_BYTES,
    RuntimeApiServer,
    RuntimeEvents,
    State,
    Violation,
)
from tools.emulator.http1.connection import Connection, ConnectionClosed, Headers, ProtocolError, Request

CLEARING_TIMEOUT = 1.0  # seconds for calls of `next` whose process is dead


class ConcurrentEvents(RuntimeEvents, Protocol):
    """The events of a runtime that serves several invocations at once."""

    def on_done(self, invocation: Invocation) -> None:
        """The runtime has ended the exchange for an invocation."""


class ConcurrentApiServer(RuntimeApiServer):
    """Serves the processes of one managed instance.

    Args:
        slots: the largest number of invocations at a time.
    """

    def __init__(
        self, function: FunctionConfiguration, events: ConcurrentEvents, listener: socket.socket, slots: int
    ) -> None:
        super().__init__(function, events, listener)
        self._concurrent_events = events
        self._slots = slots
        self._waiting = 0  # calls of `next`
        self._queue: deque[Invocation] = deque()
        self._active: dict[str, Invocation] = {}
        self._responding: set[str] = set()

    # Called by the environment

    def hand_over(self, invocation: Invocation) -> None:
        with self._change:
            self._queue.append(invocation)
            self._change.notify_all()
            failure = self._failure_of(invocation)
        if failure is not None:
            invocation.finish(failure)

    def process_ended(self, exit_failure: InvocationFailed) -> None:
        super().process_ended(exit_failure)
        self._finish_all()

    def fail_environment(self, failure: InvocationFailed) -> None:
        super().fail_environment(failure)
        self._finish_all()

    def _finish_all(self) -> None:
        with self._change:
            lost = [*self._queue, *self._active.values()]
        for invocation in lost:
            invocation.finish(self._failure_of(invocation))

    # Called by the runtime

    def _transition(self, call: str) -> None:
        """Each invocation has a state of its own; see `_response`."""
        if call == "init/error":
            if self.initialized is not None:
                raise Violation(403, "InvalidStateTransition", "the init phase is over: a process has called next")
            super()._transition(call)

    def _next(self, connection: Connection) -> None:
        with self._change:
            self._change.notify_all()  # the calls of dead processes end
            if not self._change.wait_for(lambda: self._waiting < self._slots, CLEARING_TIMEOUT):
                message = f"{self._slots} calls of next wait already"
                raise Violation(500, "Runtime.TooManyIdleRuntimes", message)
            self._waiting += 1
        super()._next(connection)

    def _wait_for_invocation(self, connection: Connection) -> Invocation | None:
        with self._change:
            if self.initialized is None:
                self.initialized = time.monotonic()
                self.state = State.IDLE
            invocation = None
            while invocation is None and self.state is not State.STOPPED and not connection.peer_closed():
                invocation = self._take()
                if invocation is None:
                    self._change.wait()
            self._waiting -= 1
            self._change.notify_all()
            return invocation

    def _take(self) -> Invocation | None:
        """Return an invocation of the queue that has not failed yet."""
        while self._queue:
            invocation = self._queue.popleft()
            if not invocation.finished:
                self._active[invocation.request_id] = invocation
                return invocation
        return None

    def _addressed(self, request_id: str, headers: Headers) -> Invocation:
        with self._change:
            invocation = self._active.get(request_id)
        if invocation is None:
            raise Violation(400, "InvalidRequestID", f"the runtime has no invocation {request_id}")
        if INVOCATION_ID in headers and headers.get(INVOCATION_ID) != invocation.invocation_id:
            raise Violation(410, "InvokeTimeout", f"{INVOCATION_ID} is not the one of this attempt")
        return invocation

    def _response(self, connection: Connection, request: Request, invocation: Invocation) -> None:
        with self._change:
            if invocation.request_id in self._responding:
                raise Violation(400, "InvalidRequestID", f"{invocation.request_id} has a response already")
            self._responding.add(invocation.request_id)
        try:
            super()._response(connection, request, invocation)
        except ConnectionClosed:
            message = "the response was not completed"
            invocation.finish(InvocationFailed.of_type("Runtime.TruncatedResponse", message))
            raise
        except (Violation, ProtocolError) as error:
            error_type = error.error_type if isinstance(error, Violation) else "Runtime.InvalidRequest"
            invocation.finish(InvocationFailed.of_type(error_type, str(error)))
            raise
        finally:
            self._end(invocation)

    def _invocation_error(self, connection: Connection, request: Request, invocation: Invocation) -> None:
        if invocation.finished:  # at its deadline
            connection.read_body(request, MAX_PAYLOAD_BYTES)
            self._end(invocation)
            raise InvocationEnded
        try:
            super()._invocation_error(connection, request, invocation)
        finally:
            self._end(invocation)

    def _end(self, invocation: Invocation) -> None:
        with self._change:
            self._responding.discard(invocation.request_id)
            ended = self._active.pop(invocation.request_id, None)
        if ended is not None:
            self._concurrent_events.on_done(invocation)

    def _refuse(self, connection: Connection, violation: Violation) -> None:
        if (violation.status, self.initialized is not None) != (403, True):  # several processes may report an error
            self._events.on_violation(f"the runtime violated a rule of the Runtime API: {violation}")
        send_error(connection, violation.status, violation.error_type, str(violation))
