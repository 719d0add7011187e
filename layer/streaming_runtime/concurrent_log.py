"""The log of an environment that serves several invocations at once (Lambda Managed Instances): JSON records only.

Many invocations write into one log, so a line without a request id could not be assigned to one of them. AWS Lambda
Developer Guide, lambda-managed-instances-python and runtimes-custom: the log consists of JSON records.

- `sys.stdout` and `sys.stderr` are replaced: each line that is written through them becomes a record. What bypasses
  them (`os.write`, C code, child processes) reaches the log unchanged.
- Each process has log descriptors of its own: two connections to the socket that the service provides. If there is no
  socket, or it closes, the log goes to the descriptors that the runtime was started with.
- The invocation of a record is a context variable: tasks and `asyncio.to_thread` inherit it. In a process with one
  invocation at a time, code of that invocation need not have the variable: see `invocation_threads` for the threads
  that belong to it. If the invocation is unknown, the record has no id.
- On an event loop, a thread writes, because a log that is read slowly would stop all invocations. See `log_writer`.
"""

import posix
import sys
import time
from _thread import get_ident

from streaming_runtime import import_standard, load, variable
from streaming_runtime.invocation import from_json
from streaming_runtime.log import Log, _Output, write_all

try:
    import _socket as socket
except ImportError:  # an interpreter that is built differently
    import socket  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from streaming_runtime.invocation import Invocation
    from streaming_runtime.invocation_threads import InvocationThreads

VERSION = "0.1.0"

PROVIDER_SOCKET = "_LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET"
CONNECT_TIMEOUT = 5.0  # seconds
MAX_LINE_BYTES = 256 * 1024  # a line that is written in parts becomes several records above this size
MAX_BEGUN_LINES = 1000  # of tasks and threads that never end a line
NAMES = {1: "stdout", 2: "stderr"}

io = import_standard("io")
invocation_threads = load("invocation_threads")


class ConcurrentLog(Log):
    """Writes JSON records, each with the id of its invocation."""

    unknown_id = None

    def __init__(self) -> None:
        self._current: Invocation | None = None
        self._variable: Any = None
        self._threads: InvocationThreads | None = None
        self._writer: Any = None
        super().__init__()
        self.is_json = True
        self._provider = variable(PROVIDER_SOCKET) or ""
        self._inherited = self._outputs
        self._streams = {number: LineRecords(self, number) for number in NAMES}

    # The invocation of a record

    @property
    def invocation(self) -> "Invocation | None":
        found: Invocation | None = self._variable.get() if self._variable is not None else None
        current = self._current
        if found is None and current is not None and (self._threads is None or self._threads.belongs_to(current)):
            found = current
        return found

    @invocation.setter
    def invocation(self, invocation: "Invocation | None") -> None:
        """Set the one invocation that this process serves."""
        self._current = invocation

    def enter_context(self, invocation: "Invocation | None") -> None:
        """Set the invocation of the current context."""
        self._variable.set(invocation)

    def separate_contexts(self) -> None:
        """From now on, each context can have an invocation of its own, and each thread belongs to one."""
        self._variable = import_standard("contextvars").ContextVar("invocation", default=None)
        self._threads = invocation_threads.InvocationThreads(self)

    def identity(self, invocation: "Invocation | None") -> "dict[str, str]":
        """Return the fields of a record that identify its invocation; none if that is unknown."""
        if invocation is None:
            return {}
        tenant_id = invocation.tenant_id
        return {"requestId": invocation.request_id, **({"tenantId": tenant_id} if tenant_id is not None else {})}

    def configure(self, logging: "Any") -> None:
        super().configure(logging)
        if hasattr(logging, "LogRecord"):
            load("log_records").keep_identity(self, logging)

    # Descriptors

    def replace_streams(self) -> None:
        """Make each line that is written through `sys.stdout` and `sys.stderr` a record."""
        for number, name in NAMES.items():
            stream = io.TextIOWrapper(self._streams[number], "utf-8", "backslashreplace", write_through=True)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        # Registered before the function is imported, so it runs after the function's `atexit` functions.
        import_standard("atexit").register(self.end_all_lines)

    def connect(self) -> None:
        """Connect standard output and standard error of this process to the service's socket, if there is one."""
        if self._provider:
            try:
                for number in NAMES:
                    self._connect(number)
            except OSError as error:
                self._leave_provider()
                self.line(f"no connection to the log socket {self._provider}: {error}; using the inherited descriptors")

    def _connect(self, number: int) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONNECT_TIMEOUT)
            connection.connect(self._provider)
            connection.settimeout(None)
            posix.dup2(connection.fileno(), number)
        finally:
            connection.close()
        self._outputs = {**self._outputs, number: _Output(number)}

    def _leave_provider(self) -> None:
        """Use the descriptors that the runtime was started with."""
        self._provider = ""
        for number in NAMES:
            inherited = self._inherited[number].number()
            if inherited is not None and inherited != number:
                posix.dup2(inherited, number)
        self._outputs = {number: _Output(number) for number in NAMES}

    # Writing

    def write_line(self, text: str, descriptor: int) -> None:
        data = (text.replace("\r\n", "\r").replace("\n", "\r") + "\n").encode("utf-8", "backslashreplace")
        if self._writer is not None:
            self._writer.put(descriptor, data)
        else:
            self.write_now(descriptor, data)

    def write_now(self, descriptor: int, data: bytes, sent: int = 0) -> None:
        """Write a record with the calling thread. If the service's socket is closed, open another connection.

        The other connection gets the whole record: half of it would not be JSON.

        Args:
            sent: bytes that `write_at_once` has written.
        """
        while True:
            number = self._outputs[descriptor].number() or self._outputs[3 - descriptor].number()
            if number is None:  # the function has closed both outputs
                return
            error = write_all(number, data[sent:])
            if error is None or not self._provider:
                return
            sent = 0
            try:
                self._connect(descriptor)
            except OSError:
                self._leave_provider()

    def write_at_once(self, descriptor: int, data: bytes) -> int:
        """Write what the service's socket takes without a wait. Return the number of bytes; 0 for other files."""
        number = self._outputs[descriptor].number()
        if not self._provider or number is None:
            return 0
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, number)
        try:
            return connection.send(data, socket.MSG_DONTWAIT)
        except OSError:  # it is full or closed
            return 0
        finally:
            connection.detach()  # the number belongs to the output

    def start_writer(self) -> "Any":
        """Let a thread write from now on what has to wait. Return it."""
        self._writer = load("log_writer").LogWriter(self.write_now, self.write_at_once)
        return self._writer

    def stop_writer(self) -> None:
        """Write what waits, and write with the calling thread from now on."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.drain()

    def disown(self) -> None:
        """In a forked process: there is no writer thread, and its parent writes the lines that were begun before."""
        self._writer = None
        for stream in self._streams.values():
            stream.forget_lines()

    def end_lines(self) -> None:
        """Write lines that the current invocation has not completed."""
        for stream in self._streams.values():
            stream.end_lines_of(self.invocation)

    def end_all_lines(self) -> None:
        """Write all lines that are not complete, at the end of the process."""
        for stream in self._streams.values():
            stream.end_all_lines()

    def note(self, text: str, level: str = "INFO") -> None:
        """Write a record about the runtime that is not an error."""
        self.write_event(load("log_records").own_line(self, text, level), 20, descriptor=2)

    def text(self, text: str) -> None:
        """Write the text of `context.log`."""
        self._streams[1].write(text.encode("utf-8", "backslashreplace"))

    def record_of(self, text: str, level: str, name: str, identity: "dict[str, str]") -> str:
        """Return the record of a text. A text that is a JSON object already only gets the id of its invocation.

        Args:
            name: of the logger.
            identity: the fields that identify the invocation.
        """
        to_json = load("json_text").to_json
        if text.startswith("{") and text.endswith("}"):
            try:
                fields = from_json(text.encode())
            except (ValueError, RecursionError):
                pass
            else:
                added = to_json({key: value for key, value in identity.items() if key not in fields})
                return text if added == "{}" else f"{text[:-1]}{', ' if fields else ''}{added[1:]}"
        now = load("log_records").timestamp(time.time())
        record: str = to_json({"timestamp": now, "level": level, "message": text, "logger": name, **identity})
        return record


class LineRecords(io.RawIOBase):  # type: ignore[misc, name-defined]
    """The binary stream below `sys.stdout` or `sys.stderr`. Invocations on one event loop do not share a line."""

    def __init__(self, log: ConcurrentLog, descriptor: int) -> None:
        self._log = log
        self._descriptor = descriptor
        # The begun lines, by invocation and thread. An empty one continues after a part that was written.
        self._begun: dict[tuple[Invocation | None, int], bytes] = {}

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return False

    def write(self, data: "Any") -> int:
        text = bytes(data)
        invocation = self._log.invocation
        owner = invocation, get_ident()
        begun = self._begun.pop(owner, None)
        *lines, rest = ((begun or b"") + text).split(b"\n")
        is_continued = begun == b""
        if is_continued and lines:
            if not lines[0]:
                del lines[0]
            is_continued = False
        if len(rest) > MAX_LINE_BYTES:
            lines, rest, is_continued = [*lines, rest], b"", True
        if rest or is_continued:
            self._begun[owner] = rest
        for line in lines:
            self._write_record(line, invocation)
        if len(self._begun) > MAX_BEGUN_LINES:
            self._end_line(list(self._begun)[0])  # noqa: RUF015 - other threads can change it meanwhile
        return len(text)

    def end_lines_of(self, invocation: "Invocation | None") -> None:
        """Write the begun lines of an invocation."""
        for owner in [owner for owner in list(self._begun) if owner[0] is invocation]:
            self._end_line(owner)

    def end_all_lines(self) -> None:
        for owner in list(self._begun):
            self._end_line(owner)

    def forget_lines(self) -> None:
        self._begun.clear()

    def _end_line(self, owner: "tuple[Invocation | None, int]") -> None:
        line = self._begun.pop(owner, b"")
        if line:
            self._write_record(line, owner[0])

    def _write_record(self, line: bytes, invocation: "Invocation | None") -> None:
        text = line.decode("utf-8", "backslashreplace").removesuffix("\r")
        identity = self._log.identity(invocation)
        record = self._log.record_of(text, "INFO", f"sys.{NAMES[self._descriptor]}", identity)
        self._log.write_event(record, 20, self._descriptor)
