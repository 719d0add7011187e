"""One event on its way to a runtime, and the response on its way back, between two threads."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

OCTET_STREAM = "application/octet-stream"


class InvocationFailed(Exception):
    """The invocation ended with an error instead of an answer, or within it.

    Args:
        document: the error as the caller is told of it: `errorType`, `errorMessage` and, from a runtime, more.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(f"{document.get('errorType')}: {document.get('errorMessage')}")
        self.document = document

    @classmethod
    def because(cls, error_type: str, message: str) -> InvocationFailed:
        return cls({"errorType": error_type, "errorMessage": message})


class InvocationOver(Exception):
    """The runtime goes on with a response whose invocation has already ended, by its deadline for example."""


class Invocation:
    """The meeting point of a caller's thread and of the thread that serves the runtime.

    A chunk that the runtime sends is held until the caller has taken the one before, so that a slow caller slows the
    function down, as on the service, and nothing piles up.

    Args:
        event: the payload, as bytes.
        timeout: seconds that the function may take.
    """

    def __init__(self, event: bytes, timeout: float) -> None:
        self.event = event
        self.timeout = timeout
        self.request_id = str(uuid.uuid4())
        self.nonce = uuid.uuid4().hex  # Lambda-Runtime-Invocation-Id: of this attempt alone
        self.trace_id = f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0"
        self.content_type: str | None = None
        self.error: InvocationFailed | None = None
        self.started: float | None = None  # time.monotonic(), seconds
        self.first_byte: float | None = None
        self.ended: float | None = None
        self._change = threading.Condition()
        self._chunk: bytes | None = None
        self._finished = False  # all of the response has come, or it has failed

    # The runtime's side

    def start(self) -> int:
        """The event is about to be handed over. Returns the deadline, in milliseconds since 1970."""
        self.started = time.monotonic()
        return int((time.time() + self.timeout) * 1000)

    def begin(self, content_type: str) -> None:
        with self._change:
            self._check_open()
            self.content_type = content_type
            self._change.notify_all()

    def send(self, chunk: bytes) -> None:
        """Hand a chunk to the caller; waits while there is one that was not taken. Raises InvocationOver."""
        with self._change:
            self._check_open()
            if self.first_byte is None:
                self.first_byte = time.monotonic()
            while self._chunk is not None:
                self._change.wait()
                self._check_open()
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

    def _take(self) -> bytes | None:
        with self._change:
            while self._chunk is None and not self._finished:
                self._change.wait()
            chunk, self._chunk = self._chunk, None
            self._change.notify_all()
            return chunk
