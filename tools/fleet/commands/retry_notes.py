"""Shows on stderr that AWS does not respond, and for how long the attempts go on."""

from __future__ import annotations

import json
import threading

from tools.common.output import Output
from tools.fleet.aws.pace import Pace
from tools.fleet.aws.retries import Retry

INTERVAL = 5.0  # seconds between two notes, because all threads notice the same outage


class RetryNotes:
    """Writes a note for a retry, unless another thread has just done so."""

    def __init__(self, output: Output, pace: Pace) -> None:
        self._output = output
        self._clock = pace.clock
        self._lock = threading.Lock()
        self._next = 0.0

    def __call__(self, retry: Retry) -> None:
        with self._lock:
            now = self._clock()
            if now < self._next:
                return
            self._next = now + INTERVAL
        if self._output.as_json:
            fields = {"retry": retry.operation, "reason": retry.reason, "secondsLeft": round(retry.remaining)}
            self._output.note(json.dumps(fields))
            return
        start = "\r\033[K" if self._output.err.isatty() else ""  # over the bar of a roll-out
        self._output.note(
            f"{start}waiting for AWS: {retry.operation} failed ({retry.reason}), "
            f"trying again for {retry.remaining:.0f} s"
        )
