"""One event for a runtime, and the response to it, passed between two threads."""

from __future__ import annotations

import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

OCTET_STREAM = "application/octet-stream"

# An error type that a runtime reports is kept if it contains this pattern anywhere; the service replaces others.
_ERROR_CODE = re.compile(r"(Runtime|Function)\.[A-Z][a-zA-Z]+")


class InvocationFailed(Exception):
    """The invocation ended with an error, before its response or within it.

    Args:
        document: the error as the caller receives it: `errorType`, `errorMessage` and, from a runtime, more.
        reported_type: the type that the runtime put into a header or a trailer, for `InvokeComplete`.
    """

    def __init__(self, document: dict[str, Any], reported_type: str | None = None) -> None:
        super().__init__(f"{document.get('errorType')}: {document.get('errorMessage')}")
        self.document = document
        self._reported_type = reported_type

    @classmethod
    def of_type(cls, error_type: str, message: str) -> InvocationFailed:
        return cls({"errorType": error_type, "errorMessage": message}, error_type)

    @property
    def code(self) -> str:
        """The type for `InvokeComplete`: the platform's own, or a runtime's if the service would keep it."""
        reported = self._reported_type or ""
        if reported.startswith("Sandbox.") or _ERROR_CODE.search(reported):
            return reported
        return "Function.Unknown" if reported.startswith("Function.") else "Runtime.Unknown"

    def with_request_id(self, request_id: str) -> InvocationFailed:
        """The same error with the request ID before its message, as the platform words its own errors."""
        message = f"RequestId: {request_id} Error: {self.document['errorMessage']}"
        return InvocationFailed({**self.document, "errorMessage": message}, self._reported_type)


class InvocationEnded(Exception):
    """The runtime continues a response whose invocation has ended, at its deadline for example."""


def new_request_id() -> str:
    return str(uuid.uuid4())


def new_trace_id() -> str:
    """A trace ID of AWS X-Ray: version, seconds since 1970 and 96 random bits, in hexadecimal digits."""
    return f"Root=1-{int(time.time()):08x}-{os.urandom(12).hex()}"


class Invocation:
    """An invocation, shared by the caller's thread and the thread that serves the runtime.

    Only one chunk is stored at a time. The runtime's thread waits until the caller has taken it, does not read from its
    connection meanwhile, and TCP then stops the function. So a slow caller slows the function down, as on the service,
    and the memory does not grow with the response.

    An invocation ends twice. It is *finished* when the response is complete or has failed. It is *closed* when the
    environment is available again and the log is written; a handler can still work after its last chunk.

    Args:
        event: the payload.
        timeout: seconds.
        request_id: for the log and the response; None: a new one.
        trace_id: from the caller; None: a new one.
        arn: of the function, with the qualifier from the caller; None: without a qualifier.
        client_context: JSON in ASCII, on one line.
        tenant_id: from the caller; None: the function has no tenants.
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
        tenant_id: str | None = None,
    ) -> None:
        self.event = event
        self.timeout = timeout
        self.request_id = request_id or new_request_id()
        self.invocation_id = os.urandom(16).hex()  # Lambda-Runtime-Invocation-Id: it identifies this attempt
        self.trace_id = trace_id or f"{new_trace_id()};Sampled=0"
        self.arn = arn
        self.client_context = client_context
        self.tenant_id = tenant_id
        self.content_type: str | None = None
        self.streamed = False  # the runtime streams the response; otherwise it sends it as a whole
        self.error: InvocationFailed | None = None
        self.started: float | None = None  # time.monotonic(), seconds
        self.started_unix = 0.0  # time.time(), seconds
        self.first_byte: float | None = None
        self.ended: float | None = None
        self.response_bytes = 0
        self.log_tail = b""
        self._change = threading.Condition()
        self._chunk: bytes | None = None
        self._finished = False
        self._discarded = False
        self._closed = threading.Event()

    # Called for the runtime

    def start(self) -> int:
        """Start the clock. Returns the deadline in milliseconds since 1970."""
        self.started = time.monotonic()
        self.started_unix = time.time()
        return int((self.started_unix + self.timeout) * 1000)

    def begin_response(self, content_type: str, streamed: bool = False) -> None:
        """Raises InvocationEnded."""
        with self._change:
            self._check_not_finished()
            self.content_type = content_type
            self.streamed = streamed
            self._change.notify_all()

    def send(self, chunk: bytes) -> None:
        """Pass a chunk to the caller; wait until the caller has taken the previous one. Raises InvocationEnded."""
        with self._change:
            self._check_not_finished()
            if self.first_byte is None:
                self.first_byte = time.monotonic()
            self.response_bytes += len(chunk)
            while self._chunk is not None and not self._discarded:
                self._change.wait()
                self._check_not_finished()
            if not self._discarded:
                self._chunk = chunk
                self._change.notify_all()

    def finish(self, error: InvocationFailed | None = None) -> None:
        """End the response, with an error or without. Only the first call has an effect."""
        with self._change:
            if not self._finished:
                self._finished = True
                self.error = error
                self._change.notify_all()

    def close(self, log_tail: bytes) -> None:
        """The environment is available again, or gone, and the log is written. `log_tail` is the end of the log."""
        self.log_tail = log_tail
        self._closed.set()

    @property
    def finished(self) -> bool:
        return self._finished

    def _check_not_finished(self) -> None:
        if self._finished:
            raise InvocationEnded

    # Called for the caller

    def wait_for_content_type(self) -> str:
        """Wait until the response begins. Raises InvocationFailed if the invocation fails before."""
        with self._change:
            while self.content_type is None and not self._finished:
                self._change.wait()
            if self.content_type is None and self.error is not None:
                raise self.error
            return self.content_type or OCTET_STREAM

    def chunks(self) -> Iterator[bytes]:
        """The response as it comes. Raises InvocationFailed if it ends with an error."""
        while (chunk := self._take()) is not None:
            yield chunk
        if self.error is not None:
            raise self.error

    def discard(self) -> None:
        """Drop the rest of the response. The function is not interrupted: Lambda does not report disconnects."""
        with self._change:
            self._discarded = True
            self._chunk = None
            self._change.notify_all()

    def wait_until_closed(self) -> None:
        self._closed.wait()

    def _take(self) -> bytes | None:
        with self._change:
            while self._chunk is None and not self._finished:
                self._change.wait()
            chunk, self._chunk = self._chunk, None
            self._change.notify_all()
            return chunk
