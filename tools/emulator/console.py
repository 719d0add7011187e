"""The terminal: the response on standard output; the log and the emulator's own lines on standard error.

Theory of operation. The two outputs are often the same terminal, pipe or file (`2>&1`). Then a response without a final
line end would be followed by END on the same line, and END can come from another thread before the last chunk is
written. So the console remembers whether the last line is complete and who wrote it, and it holds reports back until
the response is complete. Where the outputs differ, the response is written byte by byte as the function sent it, and
without the lock: a reader that stops reading the response does not stop the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

from tools.emulator.report_line import Report

DIM, RED, YELLOW, PLAIN = b"\x1b[2m", b"\x1b[31m", b"\x1b[33m", b"\x1b[0m"
STDOUT, STDERR = 1, 2


class Console:
    """Writes whole lines from any thread, and the function's output as it comes.

    Args:
        as_json: one JSON object for each invocation instead of START, END and REPORT lines.
    """

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json
        self._colour = use_colour()
        self._columns = terminal_columns()
        self._same_output = same_file(STDOUT, STDERR)
        self._lock = threading.Lock()
        self._log_line_open = False  # the function printed part of a line
        self._response_line_open = False
        self._source: str | None = None  # the request ID of the last START, REPORT or output
        self._closed = False
        self._held: list[Report] | None = None

    def output(self, data: bytes, request_id: str | None = None) -> None:
        """Write what the function printed. The service uses a carriage return between the lines of one log event.

        Concurrent invocations print between each other's lines. A line with the request ID precedes output that does
        not belong to the START, the REPORT or the output before it.

        Args:
            request_id: of the invocation that printed it; None: it was printed between invocations.
        """
        with self._lock:
            start = b"\n" if self._same_output and self._response_line_open else b""
            if request_id is not None and request_id != self._source and not self._as_json:
                start = b"\n" if self._log_line_open else start
                line = f"==> RequestId: {request_id} <==".encode()
                start += (DIM + line + PLAIN if self._colour else line) + b"\n"
            self._source = request_id
            self._write_log(start + data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))

    @contextlib.contextmanager
    def response(self) -> Iterator[None]:
        """Hold reports back while the response is written, and end its last line on a terminal or a shared output."""
        with self._lock:
            self._held = []
        try:
            yield
        except Exception:
            self._end_response()
            raise
        else:
            self._end_response()
        # Not after KeyboardInterrupt: another thread can hold the lock for ever, in a write that nobody reads.

    def _end_response(self) -> None:
        try:
            if self._response_line_open and (self._same_output or os.isatty(STDOUT)):
                self.write_response(b"\n")
        finally:
            with self._lock:
                held, self._held = self._held or [], None
            for report in held:
                self.report(report)

    def write_response(self, chunk: bytes) -> None:
        """Write a chunk of the response to standard output. Raises OSError."""
        with self._lock if self._same_output else contextlib.nullcontext():
            write_all(STDOUT, chunk)
            self._response_line_open = not chunk.endswith(b"\n")
            if self._same_output:
                self._log_line_open = False  # the response continues the line

    def start(self, line: str, request_id: str) -> None:
        """Write the START line of an invocation."""
        self.platform_line(line)
        with self._lock:
            self._source = request_id

    def platform_line(self, line: str) -> None:
        """Write a line that the platform adds to the log, such as START."""
        if not self._as_json:
            self._write_line(line, DIM)

    def request(self, line: str) -> None:
        """Write a line about a request that got its response."""
        self.platform_line(line)

    def report(self, report: Report) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append(report)
                return
            self._source = report.request_id
        if self._as_json:
            self._write_line(report.json())
        else:
            text = report.text() if self._columns is None else report.fitted(self._columns)
            self._write_line(text.rstrip("\n"), DIM if report.status == "success" else YELLOW)
            if (warning := report.memory_warning) is not None:
                self._write_line(f"warning: {warning}", YELLOW)

    def failure(self, document: dict[str, Any]) -> None:
        """Write the error of an invocation, as its caller receives it from the service."""
        if not self._as_json:
            self._write_line(json.dumps(document, ensure_ascii=False), RED)

    def note(self, message: str) -> None:
        self._write_line(message, DIM)

    def error(self, message: str) -> None:
        self._write_line(f"error: {message}", RED)

    def close(self) -> None:
        """Write nothing more. It takes no lock: a thread can hold it while nobody reads standard error."""
        self._closed = True

    def _write_line(self, text: str, colour: bytes = b"") -> None:
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            open_line = self._log_line_open or (self._same_output and self._response_line_open)
            start = b"\n" if open_line else b""
            self._write_log(start + (colour + data + PLAIN if self._colour and colour else data) + b"\n")

    def _write_log(self, data: bytes) -> None:
        if self._closed:
            return
        self._log_line_open = not data.endswith(b"\n")
        if self._same_output:
            self._response_line_open = False
        with contextlib.suppress(OSError):  # nobody reads it
            write_all(STDERR, data)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of the data, without a buffer. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def same_file(one: int, other: int) -> bool:
    """Whether two descriptors refer to the same terminal, pipe or file."""
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


def terminal_columns() -> int | None:
    """The width of the terminal of standard error; None: it is no terminal, or its width is unknown."""
    try:
        return os.get_terminal_size(STDERR).columns or None
    except OSError:
        return None


def use_colour() -> bool:
    """Whether standard error is a terminal that can show colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and os.isatty(STDERR)
