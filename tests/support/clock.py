"""A clock that only `sleep` advances, so that a minute of pauses takes no time."""

from __future__ import annotations

import threading


class Clock:
    """In place of `time.monotonic` and `time.sleep`; threads may share it."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds
