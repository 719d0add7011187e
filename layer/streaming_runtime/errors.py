"""Error reports: what the caller, the log and X-Ray get about an exception.

An exception is code of the function. Its `__str__`, its metaclass and its attributes can raise, exit, or return other
types, and its message can contain anything. So every access is guarded, and every size has a limit. Only `Terminated`
passes a guard: it comes from SIGTERM, not from the exception.
"""

import posix
import sys

from streaming_runtime import (
    FOLDER,
    LAYER_FOLDER,
    MAX_MESSAGE_CHARACTERS,
    MAX_TYPE_CHARACTERS,
    ContractError,
    Terminated,
    exit_status,
    header_type,
    import_standard,
    is_a,
    load,
    standard_library,
    text_of,
    type_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    StackFrame = tuple[str, int, str, str]  # path, line number, name of the function, source line

VERSION = "0.1.0"

# Loaded with this module: if one fails, `describe` makes a minimal report. A failure on use would lose the report.
to_json = load("json_text").to_json
SourceLines = load("source_lines").SourceLines
binascii = import_standard("binascii")

MAX_RELATED_ERRORS = 8  # causes, contexts and members of groups that are reported with an error
MAX_REPEATED_FRAMES = 3  # as in `traceback`: more of the same are counted
MAX_BODY_BYTES = 256 * 1024
MAX_XRAY_CAUSE_BYTES = 64 * 1024  # the service drops a longer cause


class ErrorReport:
    """The report about one error.

    Args:
        error_type: the name of the exception's class, or `Runtime.` and a reason.
        message: of the error.
        frames: the user's, outermost first.
        stack_trace: replaces the frames if the error's trace is not one of Python's.
        exit_status: set if the process has to end after the report.
        related: the errors that caused this one, and the members of a group; the log and X-Ray get them too.
    """

    def __init__(
        self,
        error_type: str,
        message: str,
        frames: "list[StackFrame] | None" = None,
        stack_trace: "list[str] | None" = None,
        exit_status: "int | None" = None,
        related: "list[ErrorReport] | None" = None,
    ) -> None:
        self.error_type = error_type[:MAX_TYPE_CHARACTERS]
        is_long = len(message) > MAX_MESSAGE_CHARACTERS
        self.message = message[:MAX_MESSAGE_CHARACTERS] + " [cut]" if is_long else message
        self.frames = frames or []
        self.stack_trace = stack_trace if stack_trace is not None else format_frames(self.frames)
        self.exit_status = exit_status
        self.related = related or []

    @property
    def header(self) -> str:
        return header_type(self.error_type)

    def body(self, request_id: str, limit: int = MAX_BODY_BYTES) -> bytes:
        """Return the documented JSON error document, in ASCII."""

        def document(stack_trace: "list[str]", message: str) -> "dict[str, object]":
            described = {"errorMessage": message, "errorType": self.error_type}
            return {**described, "requestId": request_id, "stackTrace": stack_trace}

        return json_within(limit, document, self.stack_trace, self.message)

    def trailer_body(self, request_id: str, limit: int) -> bytes:
        """Return the error document in base64, on one line, in at most `limit` bytes."""
        document = self.body(request_id, limit // 4 * 3)
        encoded: bytes = binascii.b2a_base64(document, newline=False)
        return encoded

    def xray_cause(self) -> bytes:
        """Return the cause for X-Ray, one line of ASCII JSON."""

        def document(frames: "list[StackFrame]", message: str) -> "dict[str, object]":
            exceptions = [xray_exception(self.error_type, message, frames)]
            exceptions += [
                xray_exception(other.error_type, other.message[:1000], other.frames[-10:]) for other in others
            ]
            paths = sorted({path for path, *_ in frames})
            return {"working_directory": working_directory(), "exceptions": exceptions, "paths": paths}

        others = self.related
        cause = json_within(MAX_XRAY_CAUSE_BYTES, document, self.frames, self.message)
        if len(cause) > MAX_XRAY_CAUSE_BYTES:
            others = []
            cause = json_within(MAX_XRAY_CAUSE_BYTES, document, self.frames, self.message)
        return cause


def xray_exception(error_type: str, message: str, frames: "list[StackFrame]") -> "dict[str, object]":
    stack = [{"label": name, "path": path, "line": line} for path, line, name, _ in frames]
    return {"message": message, "type": error_type, "stack": stack}


def json_within(limit: int, document: "Callable[[list[Any], str], object]", stack: "list[Any]", message: str) -> bytes:
    """Return the JSON of a document with as much of the inner stack, then of the message, as fits into the limit."""
    while True:
        text: bytes = to_json(document(stack, message)).encode("ascii")
        if len(text) <= limit or not (stack or message):
            return text
        if stack:
            stack = stack[len(stack) // 2 + 1 :]
        else:
            message = message[: len(message) // 2]


def working_directory() -> str:
    try:
        return posix.getcwd()
    except OSError:  # the function has removed it
        return ""


# --- Inspecting an exception ------------------------------------------------------------------------------------------


def report(error: BaseException, culprit: str) -> ErrorReport:
    """Return the report about an exception. `culprit` is the subject of a sentence, such as "the handler"."""
    frames = user_frames(error)
    if is_a(error, ContractError):
        error_type, stack_trace = error.error_type, error.stack_trace  # type: ignore[attr-defined]
        return ErrorReport(error_type, str(error), frames, stack_trace)
    status = exit_status(error)
    if is_a(error, Terminated):
        message = f"{culprit} was ended by the shutdown of the environment"
        return ErrorReport("Runtime.ExitError", message, frames, exit_status=status)
    if is_a(error, SystemExit):
        message = f"{culprit} called sys.exit({text_of(error.code, repr)})"  # type: ignore[attr-defined]
        return ErrorReport("Runtime.ExitError", message, frames, exit_status=status)
    related = [ErrorReport(type_name(other), text_of(other), user_frames(other)) for other in related_to(error)]
    return ErrorReport(type_name(error), text_of(error), frames, exit_status=status, related=related)


def related_to(error: BaseException) -> "list[BaseException]":
    """Return the errors that led to this one, and the members of a group, nearest first."""
    try:
        return chain_of(error)[1 : MAX_RELATED_ERRORS + 1]
    except Exception:  # the attributes can be properties that the exception's class defines
        return []


def chain_of(error: BaseException) -> "list[BaseException]":
    found = [error]
    for each in found:
        cause = each.__cause__
        if cause is None and not each.__suppress_context__:
            cause = each.__context__
        members = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        for other in (cause, *members):  # an exception can be false
            if other is not None and all(other is not known for known in found):
                found.append(other)
        if len(found) > MAX_RELATED_ERRORS:
            break
    return found


def user_frames(error: BaseException) -> "list[StackFrame]":
    """Return the user's frames of a traceback, outermost first; those of the runtime and its callers are left out."""
    frames = all_frames(error)
    ours = (f"{LAYER_FOLDER}/runtime.py", f"{FOLDER}/")
    library = standard_library()
    callers = (f"{library}/asyncio/", f"{library}/selectors.py", "<frozen importlib")
    frames = [frame for frame in frames if not frame[0].startswith(ours)]
    while frames and frames[0][0].startswith(callers):
        del frames[0]
    limit = getattr(sys, "tracebacklimit", None)
    return frames[: max(0, limit)] if isinstance(limit, int) else frames


def all_frames(error: BaseException) -> "list[StackFrame]":
    """Return what `traceback.extract_tb` returns, whose module takes longer to import than the rest of a report."""
    sources = SourceLines()
    frames: list[StackFrame] = []
    trace = error.__traceback__
    while trace is not None:
        code, number = trace.tb_frame.f_code, trace.tb_lineno or 0  # None: generated code without line numbers
        frames.append((code.co_filename, number, code.co_name, sources.line(trace.tb_frame, number)))
        trace = trace.tb_next
    return frames


def format_frames(frames: "list[StackFrame]") -> "list[str]":
    """Return what `traceback.format_list` returns: one string for each frame, repeated ones in a recursion counted."""
    lines = []
    last, count = None, 0
    for path, number, name, line in [*frames, ("", 0, "", "")]:
        if (path, number, name) != last:
            if count > MAX_REPEATED_FRAMES:
                more = count - MAX_REPEATED_FRAMES
                lines.append(f"  [Previous line repeated {more} more time{'s' if more > 1 else ''}]\n")
            last, count = (path, number, name), 0
        count += 1
        if count <= MAX_REPEATED_FRAMES:
            lines.append(f'  File "{path}", line {number}, in {name}\n' + (f"    {line}\n" if line else ""))
    return lines[:-1]
