"""One log record for each response, on request (STREAMING_RUNTIME_LOG_STREAMS=1).

The service's own report has the duration of an invocation, but not when its first byte left, how much was sent, or
whether the response ended well after it had begun.
"""

import time

from streaming_runtime import NotDelivered, RuntimeApiError, load
from streaming_runtime.api import DONE, ENDED, FRESH, USER_AGENT, ResponseStream, bytes_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from streaming_runtime.api import Report, RuntimeApi
    from streaming_runtime.invocation import Invocation
    from streaming_runtime.log import Log

VERSION = "0.1.0"

INFO = 20  # logging.INFO


class LoggedResponseStream(ResponseStream):
    """A response that counts what it sends, and writes one record when it has ended.

    The prelude counts as the first byte, because HTTP clients receive the status with it; it does not count as a chunk,
    and its bytes are not part of the body. The status is one of:

        success        the Runtime API has accepted the whole response
        error          the handler failed; the caller has the error
        refused        the Runtime API has refused the response, after a timeout for example
        not delivered  the connection to the Runtime API broke
    """

    __slots__ = ("_bytes", "_chunks", "_first_byte", "_is_recorded", "_started")

    def __init__(self, api: "RuntimeApi", invocation: "Invocation", log: "Log") -> None:
        super().__init__(api, invocation, log)
        self._started = time.monotonic()
        self._first_byte: float | None = None
        self._bytes = self._chunks = 0
        self._is_recorded = False

    def write_first(self, item: object) -> None:
        if not isinstance(item, dict):
            return self.write(item)
        try:
            super().write_first(item)
        except (NotDelivered, RuntimeApiError):
            self.lose()
            raise
        self._first_byte = time.monotonic()

    def write(self, item: object) -> None:
        data = item if type(item) is bytes else bytes_of(item)
        if data:
            if self._first_byte is None:
                self._first_byte = time.monotonic()
            self._chunks += 1
            self._bytes += len(data)
        try:
            super().write(data)
        except (NotDelivered, RuntimeApiError):
            self.lose()
            raise

    def finish(self) -> bool:
        try:
            accepted = super().finish()
        except (NotDelivered, RuntimeApiError):
            self.lose()
            raise
        self._record("success" if accepted else "refused")
        return accepted

    def send_error(self, report: "Report") -> bool:
        was_complete = self.phase is ENDED or self.phase is DONE  # an exit was requested while the end was sent
        try:
            return super().send_error(report)
        finally:
            if was_complete:
                self._record("success")
            else:
                self._record("error", report.error_type)

    def lose(self) -> None:
        """Record a broken connection. If nothing was sent, the runtime still reports an error, which is recorded."""
        if self.phase is not FRESH:
            self._record("not delivered")

    def _record(self, status: str, error_type: str = "") -> None:
        if self._is_recorded:
            return
        self._is_recorded = True
        duration = milliseconds(time.monotonic() - self._started)
        first_byte = None if self._first_byte is None else milliseconds(self._first_byte - self._started)
        text = self._text_record(status, error_type, duration, first_byte)
        try:
            if self._log.is_json:
                text = self._json_record(status, error_type, duration, first_byte)
            self._log.write_event(text, INFO, descriptor=2)
        except Exception:  # a module for the format is broken; the response has ended and must not fail any more
            self._log.write_line(text, descriptor=2)

    def _json_record(self, status: str, error_type: str, duration: float, first_byte: "float | None") -> str:
        record = {
            "timestamp": load("log_records").timestamp(time.time()),
            "level": "INFO",
            "message": f"stream: {status}",
            "logger": USER_AGENT,
            "requestId": self._invocation.request_id,
            "status": status,
            "durationMs": duration,
            "timeToFirstByteMs": first_byte,
            "responseBytes": self._bytes,
            "chunks": self._chunks,
        }
        if error_type:
            record["errorType"] = error_type
        text: str = load("json_text").to_json(record)
        return text

    def _text_record(self, status: str, error_type: str, duration: float, first_byte: "float | None") -> str:
        """Return one line in the form of the platform's REPORT line, with tabs between the fields."""
        fields = [f"STREAM RequestId: {self._invocation.request_id}", f"Duration: {duration:.2f} ms"]
        if first_byte is not None:
            fields.append(f"Time To First Byte: {first_byte:.2f} ms")
        fields += [f"Response Bytes: {self._bytes}", f"Chunks: {self._chunks}", f"Status: {status}"]
        if error_type:
            fields.append(f"Error Type: {error_type}")
        return "\t".join(fields)


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
