"""Deadlines, all on one thread: to set one must cost an invocation next to nothing."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Alarm:
    """Calls an action once, on a thread that must not be held up, unless it is cancelled before."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self._action = None

    def ring(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


class Alarms:
    def __init__(self) -> None:
        self._change = threading.Condition()
        self._pending: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()  # tell two of the same moment apart
        self._wakes: float | None = None  # when the thread looks next; None: there is no thread

    def set(self, seconds: float, action: Callable[[], None]) -> Alarm:
        """Have the action called after so many seconds."""
        alarm = Alarm(action)
        moment = time.monotonic() + seconds
        with self._change:
            heapq.heappush(self._pending, (moment, next(self._numbers), alarm))
            if self._wakes is None:
                threading.Thread(target=self._watch, daemon=True).start()
                self._wakes = moment
            elif moment < self._wakes:
                self._change.notify()
        return alarm

    def _watch(self) -> None:
        while True:
            with self._change:
                while self._pending and (rest := self._pending[0][0] - time.monotonic()) > 0:
                    self._wakes = self._pending[0][0]
                    self._change.wait(rest)
                if not self._pending:
                    self._wakes = None
                    return
                _, _, alarm = heapq.heappop(self._pending)
            alarm.ring()


ALARMS = Alarms()
