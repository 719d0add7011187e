"""The terminal: the response on standard output; the log and the emulator's own lines on standard error.

Theory of operation. The two outputs are often the same terminal, pipe or file (`2>&1`). Then a response without a final
line end would be followed by END on the same line, and END can come from another thread before the last chunk is
written. So the console remembers whether the last line is complete and who wrote it, and it holds reports back until
the response is complete. Where the outputs differ, the response is written byte by byte as the function sent it, and
without the lock: a reader that stops reading the response does not stop the log.

Several environments write to one log. A `print` with several arguments is several writes, and output is written as it
comes, so a line can be begun when another environment writes. What the others write then waits for the rest of that
line, but not for long: a function can print a part of a line and then work for minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from tools.emulator.report_line import Report, fitted

DIM, RED, YELLOW, PLAIN = b"\x1b[2m", b"\x1b[31m", b"\x1b[33m", b"\x1b[0m"
STDOUT, STDERR = 1, 2
LINE_TIMEOUT = 0.5  # seconds that other environments wait for the rest of a line


class LogEntry(NamedTuple):
    """What an environment writes to the log.

    Attributes:
        source: the environment; None: the emulator itself.
        request_id: of the invocation; None: it belongs to none.
        data: whole lines of the platform, or output of the function, which can end within a line.
    """

    source: object
    request_id: str | None
    data: bytes
    is_platform: bool


class Console:
    """Writes whole lines from any thread, and the function's output as it comes.

    Args:
        as_json: one JSON object for each invocation instead of START, END and REPORT lines.
        line_timeout: seconds that other environments wait for the rest of a line.
        log: the descriptor to which everything but the response is written.
    """

    def __init__(self, as_json: bool = False, line_timeout: float = LINE_TIMEOUT, log: int = STDERR) -> None:
        self._as_json = as_json
        self._line_timeout = line_timeout
        self._log = log
        self._colour = use_colour(log)
        self._columns = terminal_columns(log)
        self._same_output = same_file(STDOUT, log)
        self._lock = threading.Lock()
        self._log_line_open = False  # the function printed part of a line
        self._response_line_open = False
        self._source: object = None  # that wrote last
        self._request_id: str | None = None  # of the last START, REPORT or output
        self._waiting: list[LogEntry] = []  # for the rest of a line
        self._timer: threading.Timer | None = None
        self._closed = False
        self._held: list[tuple[Report, object]] | None = None

    def output(self, data: bytes, source: object, request_id: str | None = None) -> None:
        """Write what the function printed. The service uses a carriage return between the lines of one log event.

        Concurrent invocations print between each other's lines. A line with the request ID precedes output that does
        not belong to the START, the REPORT or the output before it.

        Args:
            source: the environment.
            request_id: of the invocation that printed it; None: it was printed between invocations.
        """
        lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._write_in_turn(LogEntry(source, request_id, lines, is_platform=False))

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
            for report, source in held:
                self.report(report, source)

    def write_response(self, chunk: bytes) -> None:
        """Write a chunk of the response to standard output. Raises OSError."""
        with self._lock if self._same_output else contextlib.nullcontext():
            write_all(STDOUT, chunk)
            self._response_line_open = not chunk.endswith(b"\n")
            if self._same_output:
                self._log_line_open = False  # the response continues the line

    def start(self, fields: tuple[str, ...], source: object, request_id: str) -> None:
        """Write the START line of an invocation."""
        line = " ".join(fields) if self._columns is None else fitted(fields, self._columns, " ")
        self.platform_line(line, source, request_id)

    def platform_line(self, line: str, source: object = None, request_id: str | None = None) -> None:
        """Write a line that the platform adds to the log, such as START."""
        if not self._as_json:
            self._write_in_turn(self._platform_entry(source, request_id, line, DIM))

    def request(self, line: str) -> None:
        """Write a line about a request that got its response."""
        self.platform_line(line)

    def report(self, report: Report, source: object) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append((report, source))
                return
        if self._as_json:
            self._write_in_turn(self._platform_entry(source, report.request_id, report.json()))
            return
        text = report.text() if self._columns is None else report.fitted(self._columns)
        colour = DIM if report.status == "success" else YELLOW
        self._write_in_turn(self._platform_entry(source, report.request_id, text.rstrip("\n"), colour))
        if (warning := report.memory_warning) is not None:
            line = f"warning: {warning}"
            self._write_in_turn(self._platform_entry(source, report.request_id, line, YELLOW))

    def failure(self, document: dict[str, Any]) -> None:
        """Write the error of an invocation, as its caller receives it from the service."""
        if not self._as_json:
            self._write_line(json.dumps(document, ensure_ascii=False), RED)

    def note(self, message: str) -> None:
        self._write_line(message, DIM)

    def error(self, message: str) -> None:
        self._write_line(f"error: {message}", RED)

    def close(self) -> None:
        """Write what waits, and then nothing more. A thread can hold the lock while nobody reads standard error."""
        if self._waiting and self._lock.acquire(timeout=LINE_TIMEOUT):
            while self._waiting:
                self._write_first_waiting()
            self._lock.release()
        self._closed = True

    # The environments in turn

    def _write_in_turn(self, entry: LogEntry) -> None:
        with self._lock:
            source = entry.source
            is_waiting = any(other.source is source for other in self._waiting)
            if is_waiting or (self._log_line_open and self._source is not source):
                self._waiting.append(entry)
                self._limit_wait()
            else:
                self._write_entry(entry)
                self._write_waiting()

    def _write_waiting(self) -> None:
        while self._waiting and not self._log_line_open:
            self._write_first_waiting()

    def _write_first_waiting(self) -> None:
        source = self._waiting[0].source
        for entry in self._waiting:
            if entry.source is source:
                self._write_entry(entry)
        self._waiting = [entry for entry in self._waiting if entry.source is not source]

    def _limit_wait(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._line_timeout, self._end_wait)
            self._timer.daemon = True
            self._timer.start()

    def _end_wait(self) -> None:
        with self._lock:
            self._timer = None
            if self._waiting:
                self._write_first_waiting()
                self._write_waiting()
            if self._waiting:
                self._limit_wait()

    def _write_entry(self, entry: LogEntry) -> None:
        is_log_line_open = self._log_line_open and (entry.is_platform or self._source is not entry.source)
        start = b"\n" if is_log_line_open or (self._same_output and self._response_line_open) else b""
        request_id = entry.request_id
        if not entry.is_platform and request_id is not None and request_id != self._request_id and not self._as_json:
            line = f"==> RequestId: {request_id} <==".encode()
            start += self._coloured(line, DIM) + b"\n"
        self._source, self._request_id = entry.source, request_id
        self._write_log(start + entry.data)

    def _platform_entry(self, source: object, request_id: str | None, text: str, colour: bytes = b"") -> LogEntry:
        data = self._coloured(text.encode("utf-8", "backslashreplace"), colour)
        return LogEntry(source, request_id, data + b"\n", is_platform=True)

    def _coloured(self, line: bytes, colour: bytes) -> bytes:
        return colour + line + PLAIN if self._colour and colour else line

    # Writing

    def _write_line(self, text: str, colour: bytes = b"") -> None:
        """Write a line of the emulator itself, which waits for nothing."""
        with self._lock:
            self._write_entry(self._platform_entry(None, self._request_id, text, colour))

    def _write_log(self, data: bytes) -> None:
        if self._closed:
            return
        self._log_line_open = not data.endswith(b"\n")
        if self._same_output:
            self._response_line_open = False
        with contextlib.suppress(OSError):  # nobody reads it
            write_all(self._log, data)


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


def terminal_columns(descriptor: int) -> int | None:
    """The width of a terminal; None: the descriptor is no terminal, or its width is unknown."""
    try:
        return os.get_terminal_size(descriptor).columns or None
    except OSError:
        return None


def use_colour(descriptor: int) -> bool:
    """Whether a descriptor is a terminal that can show colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and os.isatty(descriptor)
