"""The lines that the platform writes to the log of a function: START, END and REPORT; or one JSON object for both."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

from tools.emulator.deployment.configuration import VERSION, FunctionConfiguration
from tools.emulator.execution.invocation import Invocation


def start_fields(invocation: Invocation) -> tuple[str, ...]:
    return f"START RequestId: {invocation.request_id}", f"Version: {VERSION}"


def fitted(fields: Sequence[str], columns: int, separator: str = "  ") -> str:
    """The fields on one line, or on several lines if they do not fit."""
    lines = [fields[0]]
    for field in fields[1:]:
        if len(lines[-1]) + len(separator) + len(field) <= columns:
            lines[-1] += f"{separator}{field}"
        else:
            lines.append(f"  {field}")
    return "\n".join(lines)


class Report:
    """The figures of an invocation that has ended.

    Args:
        init: seconds of the init phase, for the first invocation of an environment.
        peak: KiB, the most memory of the process; None: unknown.
        restore: seconds from the restore to the first invocation, with SnapStart. The line shows it in place of `init`.
    """

    def __init__(
        self,
        function: FunctionConfiguration,
        invocation: Invocation,
        init: float | None,
        peak: int | None,
        restore: float | None = None,
    ) -> None:
        ended = invocation.ended or 0
        started = invocation.started if invocation.started is not None else ended
        self._function = function
        self._invocation = invocation
        self._duration = ended - started
        self._init = init
        self._restore = restore
        self._first_byte = None if invocation.first_byte is None else invocation.first_byte - started
        self._peak = None if peak is None else math.ceil(peak / 1024)
        self._document = None if invocation.error is None else invocation.error.document

    @property
    def request_id(self) -> str:
        return self._invocation.request_id

    @property
    def _billed(self) -> int:
        """Milliseconds; the init phase, or the restore, is billed too (https://aws.amazon.com/lambda/pricing/)."""
        before = self._init if self._restore is None else self._restore
        return math.ceil((self._duration + (before or 0)) * 1000)

    @property
    def _error_type(self) -> str:
        return " ".join(str(self._document and self._document["errorType"]).split())

    @property
    def status(self) -> str:
        """One of those of `platform.report`: success, error or timeout."""
        if self._document is None:
            return "success"
        return "timeout" if self._error_type == "Sandbox.Timedout" else "error"

    def text(self) -> str:
        """The END and REPORT lines, as the service writes them."""
        return f"{self._end_line}\n" + "\t".join(self._fields) + "\n"

    def fitted(self, columns: int) -> str:
        """The same for a terminal: the fields of REPORT are on several lines, if they do not fit on one."""
        return f"{self._end_line}\n{fitted(self._fields, columns)}\n"

    @property
    def memory_warning(self) -> str | None:
        """A sentence, if the process used more memory than the function has; the service would end it."""
        if self._peak is None or self._peak <= self._function.memory:
            return None
        name, size = self._function.name, self._function.memory
        return f"{name} used {self._peak} MB, and its Memory Size is {size} MB; Lambda would end it, set a higher one"

    @property
    def _end_line(self) -> str:
        return f"END RequestId: {self._invocation.request_id}"

    @property
    def _fields(self) -> list[str]:
        request_id = self._invocation.request_id
        fields = [
            f"REPORT RequestId: {request_id}",
            f"Duration: {self._duration * 1000:.2f} ms",
            f"Billed Duration: {self._billed} ms",
            f"Memory Size: {self._function.memory} MB",
        ]
        if self._peak is not None:
            fields.append(f"Max Memory Used: {self._peak} MB")
        if self._restore is not None:
            fields.append(f"Restore Duration: {self._restore * 1000:.2f} ms")
        elif self._init is not None:
            fields.append(f"Init Duration: {self._init * 1000:.2f} ms")
        if self._first_byte is not None:
            fields.append(f"Time To First Byte: {self._first_byte * 1000:.2f} ms")
        if self.status != "success":
            fields.append(f"Status: {self.status}")
        if self.status == "error":
            fields.append(f"Error Type: {self._error_type}")
        return fields

    def json(self) -> str:
        """One object; the names are those of the service's `platform.report` where it has them."""
        invocation = self._invocation
        started = invocation.started_unix or time.time()
        values: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(started)) + f".{int(started % 1 * 1000):03d}Z",
            "function": self._function.name,
            "requestId": invocation.request_id,
            "version": VERSION,
            "status": self.status,
            "durationMs": round(self._duration * 1000, 2),
            "billedDurationMs": self._billed,
            "initDurationMs": None if self._init is None else round(self._init * 1000, 2),
            "timeToFirstByteMs": None if self._first_byte is None else round(self._first_byte * 1000, 2),
            "responseBytes": invocation.response_bytes,
            "memorySizeMB": self._function.memory,
            "maxMemoryUsedMB": self._peak,
        }
        if self._restore is not None:
            values["restoreDurationMs"] = round(self._restore * 1000, 2)
        if self._document is not None:
            values |= {"errorType": self._error_type, "error": self._document}
        return json.dumps(values, ensure_ascii=False)
