"""The form of log events: text or JSON records, the runtime's own lines, and telemetry frames.

The formats are those of the managed runtime (AWS Lambda Developer Guide, python-logging), so that queries and alarms on
existing log groups continue to work.
"""

import sys
import time

from streaming_runtime import LAYER_FOLDER, import_standard, load, summary_of_report
from streaming_runtime.api import USER_AGENT
from streaming_runtime.invocation import from_json
from streaming_runtime.log import ERROR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from streaming_runtime.api import Report
    from streaming_runtime.log import Log

VERSION = "0.1.0"

VARIANT_FILE = "cpython/VARIANT"  # exists only in self-contained layers
MAX_EVENT_CHARACTERS = 128 * 1024  # of an error
IDENTITY = "_streaming_runtime_identity"  # of a record: request id and tenant id

# --- Events of the runtime --------------------------------------------------------------------------------------------


def write_error(log: "Log", report: "Report") -> None:
    """Write one event for one error. The first one is preceded by a line that names the layer and the interpreter."""
    if not log.is_introduced:
        line = own_line(log, "an error of the function is in the log", "INFO")
        log.write_line(line, descriptor=2)
    if log.is_json:
        document = from_json(report.body(log.request_id))
        if (log.request_id or log.unknown_id) is None:
            del document["requestId"]
        event = {"timestamp": timestamp(time.time()), "level": "ERROR", **document}
        log.write_event(load("json_text").to_json(event), ERROR)
    else:
        log.write_event(within("\n".join(text_lines(report)), MAX_EVENT_CHARACTERS), ERROR)


def write_own(log: "Log", text: str) -> None:
    """Write an event about the runtime itself to standard error."""
    log.write_event(own_line(log, text, "ERROR"), ERROR, descriptor=2)


def own_line(log: "Log", text: str, level: str) -> str:
    """Return a line of the runtime. The first one names the layer and the interpreter, which support needs to know."""
    name = f"python-streaming-runtime {VERSION}"
    if not log.is_introduced:
        log.is_introduced = True
        name += f" ({variant()}, CPython {sys.version.split()[0]} at {sys.executable})"
    if not log.is_json:
        return f"{name}: {log.request_id and f'RequestId: {log.request_id} '}{text}"
    event = {"timestamp": timestamp(time.time()), "level": level, "message": f"{name}: {text}"}
    request_id = log.request_id or log.unknown_id
    known = {} if request_id is None else {"requestId": request_id}
    line: str = load("json_text").to_json({**event, "logger": USER_AGENT, **known})
    return line


def variant() -> str:
    """Return the name of the layer's zip without `layer-` and `.zip`, such as `slim`."""
    try:
        with open(f"{LAYER_FOLDER}/{VARIANT_FILE}") as file:
            return file.read().strip()
    except OSError:
        return "slim"


def text_lines(report: "Report") -> "list[str]":
    lines = [f"[ERROR] {summary_of_report(report)}"]
    if report.stack_trace:
        lines.append("Traceback (most recent call last):")
    lines += [keep_indentation(line) for entry in report.stack_trace for line in entry.splitlines()]
    for other in report.related:
        lines.append(f"Related: {other.error_type}: {other.message}")
        lines += [keep_indentation(line) for entry in other.stack_trace for line in entry.splitlines()]
    return lines


def within(text: str, limit: int) -> str:
    """Return the text, with its middle cut out if it has more characters than the limit."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} [cut] {text[-half:]}"


def keep_indentation(line: str) -> str:
    bare = line.lstrip(" ")
    return "\u00a0" * (len(line) - len(bare)) + bare  # CloudWatch removes ordinary leading spaces


def timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def telemetry_frame(text: str, level: int, is_json: bool) -> bytes:
    """Return an event for the telemetry descriptor: type, length and microseconds, big-endian, then the text."""
    data = text.encode("utf-8", "backslashreplace")
    kind = 0xA55A0002 if is_json else 0xA55A0003
    severity = (min(50, level) // 10 + 1) * 4 if level >= 10 else 0  # DEBUG 8, INFO 12, and so on
    header = (kind | severity, 4), (len(data), 4), (time.time_ns() // 1000, 8)
    return b"".join(number.to_bytes(size, "big") for number, size in header) + data


# --- Records of the function's loggers --------------------------------------------------------------------------------


def configure(log: "Log", logging: "Any") -> None:
    """Give the root logger a handler with the format and the level of the managed runtime."""

    class Handler(logging.Handler):  # type: ignore[misc]
        def emit(self, record: "Any") -> None:
            owner = getattr(record, IDENTITY, None) or identity_of(log)
            record.aws_request_id, record.tenant_id = owner
            try:
                text = self.format(record).removesuffix("\n")
                if log.unknown_id is None and type(self.formatter) is not JsonFormatter:
                    text = as_record(log, record, text)
                log.write_event(text, record.levelno)
            except Exception:
                self.handleError(record)

    class JsonFormatter(logging.Formatter):  # type: ignore[misc]
        own = {*vars(logging.makeLogRecord({})), "aws_request_id", "tenant_id"} - {"taskName"}

        def format(self, record: "Any") -> str:
            return json_record(logging, record, self.own)

    logging.Formatter.converter = time.gmtime
    text = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s"
    handler = Handler()
    handler.setFormatter(JsonFormatter() if log.is_json else logging.Formatter(text, "%Y-%m-%dT%H:%M:%S"))
    root = logging.getLogger()
    root.addHandler(handler)
    if isinstance(logging.getLevelName(log.level), int):
        root.setLevel(log.level)


def identity_of(log: "Log") -> "tuple[str | None, str | None]":
    """Return the request id and the tenant id for a record that is made now."""
    invocation = log.invocation
    return log.request_id or log.unknown_id, invocation.tenant_id if invocation is not None else None


def keep_identity(log: "Log", logging: "Any") -> None:
    """Let each record keep the ids of the invocation that makes it.

    A QueueHandler or a MemoryHandler of the function passes the record on later, from another thread or within another
    invocation. The ids are in a slot: whatever is in the dictionary of a record, formatters write as a field.
    """

    class Record(logging.LogRecord):  # type: ignore[misc]
        __slots__ = (IDENTITY,)

        def __init__(self, *args: "Any", **kwargs: "Any") -> None:
            super().__init__(*args, **kwargs)
            setattr(self, IDENTITY, identity_of(log))

        def __copy__(self) -> "Record":
            copied = type(self)(None, None, "", 0, "", (), None)
            copied.__dict__.update(self.__dict__)
            setattr(copied, IDENTITY, getattr(self, IDENTITY))
            return copied

        def __reduce__(self) -> "Any":  # for another process, in which the class may not exist
            return logging.makeLogRecord, (self.__dict__,)

    logging.setLogRecordFactory(Record)


def as_record(log: "Any", record: "Any", text: str) -> str:
    """Return the JSON record of what a formatter of the function has made.

    Args:
        log: a `ConcurrentLog`.
    """
    identity = {"requestId": record.aws_request_id, "tenantId": record.tenant_id}
    known = {name: value for name, value in identity.items() if value is not None}
    made: str = log.record_of(text, record.levelname, record.name, known)
    return made


def json_record(logging: "Any", record: "Any", own: "set[str]") -> str:
    """Return a log record as the managed runtime writes it, with the values of `extra`, without fields that are None.

    Args:
        own: the attributes of a record that do not come from `extra`.
    """
    kind, error, trace = record.exc_info if record.exc_info and record.exc_info[0] else (None, None, None)
    level = min(50, max(0, record.levelno)) // 10 * 10
    fields = {
        "timestamp": timestamp(record.created),
        "level": logging.getLevelName(level),
        "message": record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage(),
        "logger": record.name,
        "stackTrace": import_standard("traceback").format_tb(trace) if kind else None,
        "errorType": kind.__name__ if kind else None,
        "errorMessage": str(error) if kind else None,
        "requestId": record.aws_request_id,
        "location": f"{record.pathname}:{record.funcName}:{record.lineno}" if kind else None,
    }
    if record.tenant_id is not None:
        fields["tenantId"] = record.tenant_id
    extra = {name: value for name, value in vars(record).items() if name not in own and name not in fields}
    given = {name: value for name, value in (fields | extra).items() if value is not None}
    encoder = import_standard("json").JSONEncoder(ensure_ascii=False, default=str)  # `extra` can contain any object
    return str(encoder.encode(given))
