"""What a person in front of the emulator is told, on standard error: the log lines of the service, and errors."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from tools.emulator.deployment.configuration import VERSION, FunctionConfiguration
from tools.emulator.execution.invocation import Invocation

DIM, RED, YELLOW, PLAIN = b"\x1b[2m", b"\x1b[31m", b"\x1b[33m", b"\x1b[0m"


def start_line(invocation: Invocation, version: str) -> str:
    return f"START RequestId: {invocation.request_id} Version: {version}"


class Report:
    """What an invocation took, once it has ended.

    Args:
        init: seconds, where the invocation was the first of its environment.
        peak: KiB that the process had at most, where the system tells.
    """

    def __init__(
        self, function: FunctionConfiguration, invocation: Invocation, init: float | None, peak: int | None
    ) -> None:
        started = invocation.started if invocation.started is not None else invocation.ended
        self._function = function
        self._invocation = invocation
        self._duration = (invocation.ended or 0) - (started or 0)
        self._init = init
        self._first_byte = None if invocation.first_byte is None else invocation.first_byte - (started or 0)
        self._peak = None if peak is None else math.ceil(peak / 1024)
        self._document = None if invocation.error is None else invocation.error.document

    @property
    def _billed(self) -> int:
        return math.ceil((self._duration + (self._init or 0)) * 1000)

    @property
    def _error_type(self) -> str:
        return " ".join(str(self._document and self._document["errorType"]).split())

    @property
    def status(self) -> str:
        """As the service has it: success, error or timeout."""
        if self._document is None:
            return "success"
        return "timeout" if self._error_type == "Sandbox.Timedout" else "error"

    def text(self) -> str:
        """The END and REPORT lines."""
        request_id = self._invocation.request_id
        fields = [
            f"REPORT RequestId: {request_id}",
            f"Duration: {self._duration * 1000:.2f} ms",
            f"Billed Duration: {self._billed} ms",
            f"Memory Size: {self._function.memory} MB",
        ]
        if self._peak is not None:
            fields.append(f"Max Memory Used: {self._peak} MB")
        if self._init is not None:
            fields.append(f"Init Duration: {self._init * 1000:.2f} ms")
        if self._first_byte is not None:
            fields.append(f"Time To First Byte: {self._first_byte * 1000:.2f} ms")
        if self.status != "success":
            fields.append(f"Status: {self.status}")
        if self.status == "error":
            fields.append(f"Error Type: {self._error_type}")
        return f"END RequestId: {request_id}\n" + "\t".join(fields) + "\n"

    def json(self) -> str:
        """One object; the names are those of the service's `platform.report` where that has them."""
        invocation = self._invocation
        begun = invocation.started_at or time.time()
        values: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(begun)) + f".{int(begun % 1 * 1000):03d}Z",
            "function": self._function.name,
            "requestId": invocation.request_id,
            "version": VERSION,
            "status": self.status,
            "durationMs": round(self._duration * 1000, 2),
            "billedDurationMs": self._billed,
            "initDurationMs": None if self._init is None else round(self._init * 1000, 2),
            "timeToFirstByteMs": None if self._first_byte is None else round(self._first_byte * 1000, 2),
            "responseBytes": invocation.size,
            "memorySizeMB": self._function.memory,
            "maxMemoryUsedMB": self._peak,
        }
        if self._document is not None:
            values |= {"errorType": self._error_type, "error": self._document}
        return json.dumps(values, ensure_ascii=False)


class Console:
    """Writes whole lines, whichever thread they come from, and the function's output as it comes.

    Args:
        as_json: one object for each invocation, in place of the START, END and REPORT lines.
    """

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json
        self._colour = use_colour()
        self._lock = threading.Lock()
        self._line_open = False  # the function has printed part of a line
        self._closed = False
        self._kept: list[Report] | None = None

    def output(self, data: bytes) -> None:
        """What the function printed. Carriage returns keep the lines of one log event together on the service."""
        with self._lock:
            self._write_out(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))

    def start(self, line: str) -> None:
        if not self._as_json:
            self._write(line, DIM)

    @contextlib.contextmanager
    def answer_first(self) -> Iterator[None]:
        """Keep reports until the answer is out: whoever sees both in one place sees the end of it before END."""
        with self._lock:
            self._kept = []
        try:
            yield
        finally:
            with self._lock:
                kept, self._kept = self._kept, None
            for report in kept:
                self.report(report)

    def report(self, report: Report) -> None:
        with self._lock:
            if self._kept is not None:
                self._kept.append(report)
                return
        if self._as_json:
            self._write(report.json())
        else:
            self._write(report.text().rstrip("\n"), DIM if report.status == "success" else YELLOW)

    def failure(self, document: dict[str, Any]) -> None:
        """The error that an invocation ended with, as its caller gets it from the service."""
        if not self._as_json:
            self._write(json.dumps(document, ensure_ascii=False), RED)

    def note(self, message: str) -> None:
        self._write(message, DIM)

    def error(self, message: str) -> None:
        self._write(f"error: {message}", RED)

    def close(self) -> None:
        """Be silent from now on: what is ended at the end has nothing more to tell."""
        with self._lock:
            self._closed = True

    def _write(self, text: str, colour: bytes = b"") -> None:
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            start = b"\n" if self._line_open else b""
            self._write_out(start + (colour + data + PLAIN if self._colour and colour else data) + b"\n")

    def _write_out(self, data: bytes) -> None:
        if self._closed:
            return
        self._line_open = not data.endswith(b"\n")
        rest = memoryview(data)
        with contextlib.suppress(OSError):  # nobody reads it
            while rest:
                rest = rest[os.write(2, rest) :]


def use_colour() -> bool:
    """Whether standard error is a terminal that shows colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and os.isatty(2)
