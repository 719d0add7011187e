"""One event on its way to a runtime, and the response on its way back, between two threads."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

OCTET_STREAM = "application/octet-stream"
LOG_TAIL = 4096  # bytes of the log that a caller can ask for (AWS Lambda API Reference, API_Invoke: LogType)

# An error type that a runtime reports is kept where this stands somewhere in it.
_ERROR_CODE = re.compile(r"(Runtime|Function)\.[A-Z][a-zA-Z]+")


class InvocationFailed(Exception):
    """The invocation ended with an error instead of an answer, or within it.

    Args:
        document: the error as the caller is told of it: `errorType`, `errorMessage` and, from a runtime, more.
        reported: the type that the runtime put into a header or a trailer, for `InvokeComplete`.
    """

    def __init__(self, document: dict[str, Any], reported: str | None = None) -> None:
        super().__init__(f"{document.get('errorType')}: {document.get('errorMessage')}")
        self.document = document
        self._reported = reported

    @classmethod
    def because(cls, error_type: str, message: str) -> InvocationFailed:
        return cls({"errorType": error_type, "errorMessage": message}, error_type)

    @property
    def code(self) -> str:
        """The type as `InvokeComplete` has it: the platform's own, or a runtime's as far as the platform keeps it."""
        reported = self._reported or ""
        if reported.startswith("Sandbox.") or _ERROR_CODE.search(reported):
            return reported
        return "Function.Unknown" if reported.startswith("Function.") else "Runtime.Unknown"

    def named(self, request_id: str) -> InvocationFailed:
        """The same, with the request in front of its message, as the platform words its own errors."""
        message = f"RequestId: {request_id} Error: {self.document['errorMessage']}"
        return InvocationFailed({**self.document, "errorMessage": message}, self._reported)


class InvocationOver(Exception):
    """The runtime goes on with a response whose invocation has already ended, by its deadline for example."""


def check_event(event: bytes | str) -> None:
    """Raises ValueError or RecursionError where an event is not JSON; NaN and Infinity are none (RFC 8259, 6)."""
    json.loads(event, parse_constant=refuse_constant)


def refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def new_id() -> str:
    """A random UUID (RFC 9562, version 4); the module for them would be imported for this alone."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def new_trace_id() -> str:
    return f"Root=1-{int(time.time()):08x}-{os.urandom(12).hex()}"


class Invocation:
    """The meeting point of a caller's thread and of the thread that serves the runtime.

    A chunk that the runtime sends is held until the caller has taken the one before, so that a slow caller slows the
    function down, as on the service, and nothing piles up.

    Args:
        event: the payload, as bytes.
        timeout: seconds that the function may take.
        request_id: as the log and the answer name it.
        trace_id: of the caller; None: a new one.
        arn: of the function, with the qualifier that the caller named; None: the function's own.
        client_context: JSON in ASCII, on one line.
    """

    def __init__(
        self,
        event: bytes,
        timeout: float,
        *,
        request_id: str | None = None,
        trace_id: str | None = None,
        arn: str | None = None,
        client_context: str | None = None,
    ) -> None:
        self.event = event
        self.timeout = timeout
        self.request_id = request_id or new_id()
        self.nonce = os.urandom(16).hex()  # Lambda-Runtime-Invocation-Id: of this attempt alone
        self.trace_id = trace_id or f"{new_trace_id()};Sampled=0"
        self.arn = arn
        self.client_context = client_context
        self.content_type: str | None = None
        self.streamed = False  # the runtime streams it, and does not send it as one piece
        self.error: InvocationFailed | None = None
        self.started: float | None = None  # time.monotonic(), seconds
        self.started_at = 0.0  # time.time(), seconds
        self.first_byte: float | None = None
        self.ended: float | None = None
        self.size = 0  # bytes of the response
        self.log_tail = b""
        self._change = threading.Condition()
        self._chunk: bytes | None = None
        self._finished = False  # all of the response has come, or it has failed
        self._discarded = False
        self._settled = threading.Event()

    # The runtime's side

    def start(self) -> int:
        """The event is about to be handed over. Returns the deadline, in milliseconds since 1970."""
        self.started = time.monotonic()
        self.started_at = time.time()
        return int((self.started_at + self.timeout) * 1000)

    def begin(self, content_type: str, streamed: bool = False) -> None:
        with self._change:
            self._check_open()
            self.content_type = content_type
            self.streamed = streamed
            self._change.notify_all()

    def send(self, chunk: bytes) -> None:
        """Hand a chunk to the caller; waits while there is one that was not taken. Raises InvocationOver."""
        with self._change:
            self._check_open()
            if self.first_byte is None:
                self.first_byte = time.monotonic()
            self.size += len(chunk)
            while self._chunk is not None and not self._discarded:
                self._change.wait()
                self._check_open()
            if not self._discarded:
                self._chunk = chunk
                self._change.notify_all()

    def finish(self, error: InvocationFailed | None = None) -> bool:
        """End the response, well or with an error. Only the first end counts; returns whether this was it."""
        with self._change:
            if self._finished:
                return False
            self._finished = True
            self.error = error
            self._change.notify_all()
            return True

    def settle(self, log_tail: bytes) -> None:
        """The environment is done with it, and has written its log: `log_tail` is the end of that."""
        self.log_tail = log_tail
        self._settled.set()

    @property
    def finished(self) -> bool:
        return self._finished

    def _check_open(self) -> None:
        if self._finished:
            raise InvocationOver

    # The caller's side

    def wait_for_head(self) -> str:
        """Wait until the runtime begins its response. Returns its content type; raises InvocationFailed."""
        with self._change:
            while self.content_type is None and not self._finished:
                self._change.wait()
            if self.content_type is None and self.error is not None:
                raise self.error
            return self.content_type or OCTET_STREAM

    def chunks(self) -> Iterator[bytes]:
        """The response as it comes. Raises InvocationFailed where it ends with an error."""
        while (chunk := self._take()) is not None:
            yield chunk
        if self.error is not None:
            raise self.error

    def discard(self) -> None:
        """Nobody takes the rest of the response; the function goes on all the same."""
        with self._change:
            self._discarded = True
            self._chunk = None
            self._change.notify_all()

    def wait_until_settled(self) -> None:
        """Wait until the environment is free for another invocation, or gone; the log is written then."""
        self._settled.wait()

    def _take(self) -> bytes | None:
        with self._change:
            while self._chunk is None and not self._finished:
                self._change.wait()
            chunk, self._chunk = self._chunk, None
            self._change.notify_all()
            return chunk
