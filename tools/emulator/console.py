"""What a person in front of the emulator is told, on standard error: the log lines of the service, and errors."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from typing import Any

from tools.emulator.invocation import Invocation


class Console:
    """Writes whole lines, whichever thread they come from, and the function's output as it comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line_open = False  # the function has printed part of a line

    def output(self, data: bytes) -> None:
        """What the function printed. Carriage returns keep the lines of one log event together on the service."""
        with self._lock:
            self._write_out(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))

    def start(self, invocation: Invocation, version: str) -> None:
        self._write(f"START RequestId: {invocation.request_id} Version: {version}")

    def report(self, invocation: Invocation, memory: int, init: float | None) -> None:
        """The END and REPORT lines of an invocation that has ended.

        Args:
            memory: of the function, in MB.
            init: seconds, where the invocation was the first of its environment.
        """
        request_id = invocation.request_id
        started = invocation.started if invocation.started is not None else invocation.ended
        duration = (invocation.ended or 0) - (started or 0)
        fields = [
            f"REPORT RequestId: {request_id}",
            f"Duration: {duration * 1000:.2f} ms",
            f"Billed Duration: {math.ceil((duration + (init or 0)) * 1000)} ms",
            f"Memory Size: {memory} MB",
        ]
        if init is not None:
            fields.append(f"Init Duration: {init * 1000:.2f} ms")
        if invocation.first_byte is not None and started is not None:
            fields.append(f"Time To First Byte: {(invocation.first_byte - started) * 1000:.2f} ms")
        if invocation.error is not None:
            fields += ["Status: error", f"Error Type: {' '.join(str(invocation.error.document['errorType']).split())}"]
        self._write(f"END RequestId: {request_id}\n" + "\t".join(fields))

    def failure(self, document: dict[str, Any]) -> None:
        """The error that an invocation ended with, as its caller gets it from the service."""
        self._write(json.dumps(document, ensure_ascii=False))

    def error(self, message: str) -> None:
        self._write(f"error: {message}")

    def _write(self, text: str) -> None:
        with self._lock:
            start = "\n" if self._line_open else ""
            self._write_out(f"{start}{text}\n".encode("utf-8", "backslashreplace"))

    def _write_out(self, data: bytes) -> None:
        self._line_open = not data.endswith(b"\n")
        rest = memoryview(data)
        with contextlib.suppress(OSError):  # nobody reads it
            while rest:
                rest = rest[os.write(2, rest) :]
