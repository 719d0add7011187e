"""The log: descriptors, descriptions of errors, and writing.

The form of the records is in `log_records`, which the first record loads.

The function can close or replace what it does not own: `sys.stdout`, descriptors 1 and 2, the handlers of the root
logger. So the log keeps duplicates of both descriptors at high numbers, and writes each event with one system call. The
function can close the duplicates too. Their numbers then belong to the next file or socket that is opened, such as the
connection that carries the response, so every event checks first where it goes.
"""

import posix
import sys
from _thread import allocate_lock

from streaming_runtime import (
    WAIT_MILLISECONDS,
    ContractError,
    MinimalReport,
    Terminated,
    import_standard,
    is_a,
    load,
    set_variable,
    summary,
    summary_of_report,
    text_of,
    type_name,
    variable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from streaming_runtime.errors import ErrorReport
    from streaming_runtime.invocation import Invocation

VERSION = "0.1.0"

ERROR = 40  # logging.ERROR

_write = posix.write  # the function may replace it

# --- Descriptors ------------------------------------------------------------------------------------------------------

# The function may replace these names in `posix`. Those of the runtime stay valid.
_close, _fstat, _dup2, _pipe = posix.close, posix.fstat, posix.dup2, posix.pipe

HIGHEST_DESCRIPTOR = 1000  # below the limit of an execution environment, 1,024 (gettingstarted-limits)
DESCRIPTORS_TRIED = 64
LOCK_TIMEOUT = 1.0  # seconds
_choice = allocate_lock()  # of a high number


def identity(number: int) -> "tuple[int, int] | None":
    """Return what identifies the open file behind a descriptor: device and inode. None if it is closed."""
    try:
        status = _fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Descriptor:
    """A descriptor that the runtime remembers. It is valid while its number still refers to the same open file.

    The function can close any number, and the next file or socket that it opens gets that number. Bytes of the runtime
    would then go into a file of the function, and log lines into the response. So check before each use.
    """

    __slots__ = ("_identity", "number")

    def __init__(self, number: int, of: "Descriptor | None" = None) -> None:
        """`of` is the descriptor of which this is a duplicate, so that the kernel need not be asked again."""
        self.number = number
        self._identity: tuple[int, int] | None = identity(number) if of is None else of._identity

    def is_valid(self) -> bool:
        return self._identity is not None and identity(self.number) == self._identity


def duplicate_high(number: int) -> int:
    """Return a duplicate of a descriptor with a high number, closed on exec; the descriptor itself if that fails.

    Functions close descriptors that they do not own, usually a range of low ones such as `os.closerange(3, 64)`.
    """
    high = HIGHEST_DESCRIPTOR
    # Two threads must not choose the same number. In a fork of a process the lock can be held for ever.
    is_alone = _choice.acquire(timeout=LOCK_TIMEOUT)
    try:
        for _ in range(DESCRIPTORS_TRIED):
            if identity(high) is None:
                try:
                    return _dup2(number, high, False)
                except OSError:  # above a lower limit of this process, such as 256 on macOS
                    high = min(high, posix.sysconf("SC_OPEN_MAX"))
            high -= 1
            if high <= number:
                break
    finally:
        if is_alone:
            _choice.release()
    return number


class Reserve:
    """One descriptor and some memory for an error report, in case the function has exhausted both."""

    BYTES = 1024 * 1024  # allocated and never touched, so it occupies address space only

    def __init__(self) -> None:
        self.is_full = False
        self._memory: bytes | None = None
        self._descriptor: Descriptor | None = None

    def fill(self) -> None:
        """Allocate what is missing; without success while the function uses everything up."""
        try:
            if self._descriptor is None:
                # A low number: the function may have lowered the limit, and a high one could then not be used again.
                # A pipe: no other file has its inode. The function could open /dev/null under the same number.
                number, other_end = _pipe()
                _close(other_end)
                self._descriptor = Descriptor(number)
            if self._memory is None:
                self._memory = bytes(self.BYTES)
            self.is_full = True
        except (OSError, MemoryError):
            pass

    def release(self) -> None:
        """Free both. The descriptor is left alone if its number belongs to another file by now."""
        self.is_full = False
        self._memory = None
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and descriptor.is_valid():
            _close(descriptor.number)


reserve = Reserve()

# --- Describing errors ------------------------------------------------------------------------------------------------

# A function can set a limit that is too low for a report. The stack is short here, so there is no recursion to stop.
MIN_RECURSION_LIMIT = 500
_recursion_limit, _set_recursion_limit = sys.getrecursionlimit, sys.setrecursionlimit


def describe(error: BaseException, culprit: str) -> "ErrorReport | MinimalReport":
    """Return the report about an exception. Nothing that the exception does while it is inspected is raised here.

    The cold module `errors` makes the full report. If that fails (its file is missing, there is no memory and no
    descriptor, the function has broken a module that it needs), a minimal one takes its place, so that the caller
    always gets the type and the message.

    Args:
        culprit: what raised, as the subject of a sentence, such as "the handler".
    """
    try:
        reserve.release()
        report: ErrorReport = load("errors").report(error, culprit)
        return report
    except Terminated as shutdown:  # SIGTERM arrived in the meantime; it must not get lost
        return MinimalReport("Runtime.ExitError", f"{culprit} was ended by the shutdown of the environment", shutdown)
    except ContractError as problem:
        cause = "" if text_of(error) == str(problem) else f"; the error was {summary(error)}"
        return MinimalReport(f"Runtime.{problem.reason}", f"{problem}{cause}", error)
    except BaseException:
        if _recursion_limit() < MIN_RECURSION_LIMIT:  # a function in Python could not even be called
            _set_recursion_limit(MIN_RECURSION_LIMIT)
        name = error.error_type if is_a(error, ContractError) else type_name(error)  # type: ignore[attr-defined]
        return MinimalReport(name, text_of(error), error)


def encode(report: "ErrorReport | MinimalReport", function: "Callable[[Any], Any]") -> "Any":
    """Return `function(report)`. If that fails, as `describe` can, return the same for a minimal report."""
    try:
        return function(report)
    except Terminated:
        raise
    except BaseException:
        if _recursion_limit() < MIN_RECURSION_LIMIT:
            _set_recursion_limit(MIN_RECURSION_LIMIT)
        minimal = MinimalReport(report.error_type, report.message, None)
        return function(minimal)


# --- Writing ----------------------------------------------------------------------------------------------------------


class Log:
    """Writes events of the runtime and of the function's loggers in the format that the function is configured for.

    A text event is one line of the output; carriage returns separate the lines within it, as on the managed runtime. If
    the service provides a telemetry descriptor, events are framed instead and may contain any character.

    The variables AWS_LAMBDA_LOG_FORMAT and AWS_LAMBDA_LOG_LEVEL choose the format and the level (AWS Lambda Developer
    Guide, python-logging and monitoring-cloudwatchlogs-advanced).

    Attributes:
        invocation: the one that events belong to.
        is_json: events are JSON objects.
        level: the name of the root logger's level; empty if it is not configured.
        is_introduced: a line with the layer's version and variant is in the log.
        is_before_fork: this process serves no invocations; it imports the function for those that it forks.
        unknown_id: the request id of a record that belongs to no invocation; None: the record has no such field.
    """

    unknown_id: "str | None" = ""
    is_before_fork = False

    def __init__(self) -> None:
        self.invocation: Invocation | None = None
        self.is_json = (variable("AWS_LAMBDA_LOG_FORMAT") or "").upper() == "JSON"
        level = (variable("AWS_LAMBDA_LOG_LEVEL") or "").upper()
        self.level = "DEBUG" if level == "TRACE" else level
        self.is_introduced = False
        telemetry = variable("_LAMBDA_TELEMETRY_LOG_FD") or ""
        set_variable("_LAMBDA_TELEMETRY_LOG_FD", None)  # a child process must not use it
        self._telemetry = Descriptor(duplicate_high(int(telemetry))) if telemetry.isdecimal() else None
        self._outputs = {1: _Output(1), 2: _Output(2)}

    @property
    def request_id(self) -> str:
        return self.invocation.request_id if self.invocation is not None else ""

    def error(self, report: "ErrorReport | MinimalReport") -> None:
        """Write one event for one error, with the user's frames only."""
        try:
            load("log_records").write_error(self, report)
        except Terminated:
            raise
        except BaseException:  # the module or one that it needs is broken; the error must still be visible
            line = f"[ERROR] {summary_of_report(report)} RequestId: {self.request_id}"
            self.write_line(line, descriptor=2)

    def line(self, text: str) -> None:
        """Write an event about the runtime itself to standard error."""
        try:
            load("log_records").write_own(self, text)
        except Terminated:
            raise
        except BaseException:
            self.write_line(f"python-streaming-runtime {VERSION}: {text}", descriptor=2)

    def text(self, text: str) -> None:
        """Write the text of `context.log`: one event if events are framed, otherwise unchanged."""
        if not self._write_frame(text, 0, False):
            sys.stdout.write(text)

    def write_event(self, text: str, level: int, descriptor: int = 1) -> None:
        """Write one event with one system call, past `sys.stdout`, which the function may have replaced."""
        if not self._write_frame(text, level, self.is_json):
            self.write_line(text, descriptor)

    def write_line(self, text: str, descriptor: int) -> None:
        line = text.replace("\r\n", "\r").replace("\n", "\r") + "\n"
        number = self._outputs[descriptor].number() or self._outputs[3 - descriptor].number()
        if number is not None:  # otherwise the function has closed both outputs
            write_all(number, line.encode("utf-8", "backslashreplace"))

    def _write_frame(self, text: str, level: int, is_json: bool) -> bool:
        """Write an event to the telemetry descriptor. Return False if there is none, or the function has closed it."""
        if self._telemetry is None or not self._telemetry.is_valid():
            return False
        write_all(self._telemetry.number, load("log_records").telemetry_frame(text, level, is_json))
        return True

    def follow_logging(self) -> None:
        """Configure the root logger when `logging` is imported, so that a function without it does not pay for it."""
        if "logging" in sys.modules:
            self.configure(sys.modules["logging"])
        else:
            hook = ImportHook("logging", lambda module: self._configure_once(hook, module))
            sys.meta_path.insert(0, hook)

    def _configure_once(self, hook: "ImportHook", logging: "Any") -> None:
        if hook in sys.meta_path:
            sys.meta_path.remove(hook)
            self.configure(logging)

    def configure(self, logging: "Any") -> None:
        """Give the root logger the handler, the format and the level of the managed runtime.

        Args:
            logging: the module; the function may contain another one of this name, which stays as it is.
        """
        if hasattr(logging, "LogRecord"):
            load("log_records").configure(self, logging)


class _Output:
    """Standard output or standard error: the descriptor itself, and a duplicate of it at a high number."""

    def __init__(self, number: int) -> None:
        self._original = Descriptor(number)
        self._duplicate = Descriptor(duplicate_high(number), self._original)

    def number(self) -> "int | None":
        """Return a number that refers to the output; None if the function has closed all of them."""
        if self._duplicate.is_valid():
            return self._duplicate.number
        if not self._original.is_valid():
            return None
        self._duplicate = Descriptor(duplicate_high(self._original.number), self._original)
        return self._duplicate.number


def write_all(descriptor: int, data: bytes) -> "OSError | None":
    """Write all of the data. Return the error if that fails: the invocation is more important than its log."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[_write(descriptor, rest) :]
        except BlockingIOError:  # the function has made the descriptor non-blocking
            select = import_standard("select")
            poller = select.poll()
            poller.register(descriptor, select.POLLOUT)
            poller.poll(WAIT_MILLISECONDS)
        except OSError as error:  # nothing reads the log
            return error
    return None


class ImportHook:
    """A finder that calls a function when a module has been executed, before any other code can use the module."""

    def __init__(self, name: str, run: "Callable[[Any], None]") -> None:
        self._name = name
        self.run = run

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name != self._name:
            return None
        for finder in sys.meta_path:
            # Finders without `find_spec` are legal: the import system skips them, and so does this one.
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec: Any = find_spec(name, path, target) if find_spec is not None else None
            if spec is not None and spec.loader is not None:
                spec.loader = _HookedLoader(spec.loader, self.run)
                return spec
        return None


class _HookedLoader:
    """Loads a module with another loader, and then replaces itself by that one in the module's attributes."""

    def __init__(self, loader: "Any", run: "Callable[[Any], None]") -> None:
        self._loader = loader
        self._run = run

    def create_module(self, spec: "Any") -> "Any":
        return self._loader.create_module(spec)

    def exec_module(self, module: "Any") -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._run(module)
