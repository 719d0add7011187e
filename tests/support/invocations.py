"""The caller of an invocation, for tests that call the emulator's classes instead of an endpoint."""

from __future__ import annotations

import threading
from typing import Any

from support.emulator import WAIT
from tools.emulator.execution.invocation import Invocation, InvocationFailed


class Caller:
    """Reads the response as it comes, on a thread of its own."""

    def __init__(self, invocation: Invocation) -> None:
        self.chunks: list[bytes] = []
        self.content_type = ""
        self._invocation = invocation
        self._error: InvocationFailed | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def response(self) -> bytes:
        """The whole response, which must end without an error."""
        self.wait()
        assert self._error is None, self._error
        return b"".join(self.chunks)

    def error(self) -> dict[str, Any]:
        self.wait()
        assert self._error is not None
        return self._error.document

    def wait(self) -> None:
        self._thread.join(WAIT)
        assert not self._thread.is_alive(), "the invocation does not end"

    def _read(self) -> None:
        try:
            self.content_type = self._invocation.wait_for_content_type()
            for chunk in self._invocation.chunks():
                self.chunks.append(chunk)
        except InvocationFailed as error:
            self._error = error
