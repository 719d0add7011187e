"""Timeouts of invocations and of init phases, all on one thread.

Theory of operation. Every invocation sets a deadline and, as a rule, cancels it a few milliseconds later. A
`threading.Timer` would start a thread each time. A heap would keep each cancelled deadline until its time has come: at
1,000 invocations a second and a timeout of 30 minutes, almost two million. So the pending deadlines are a plain
set. To set and to cancel one costs the same small time however many there are, and `cancel` really removes it. Only
the thread looks for the earliest one, and it looks only when that one is due. An environment has one deadline at a
time, so the set is never larger than the number of environments.

The thread must survive its callbacks: if one of them raised an exception through the loop, no later invocation would
ever time out. It reports the exception and continues.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Deadline:
    """A callback that is due at a time of the monotonic clock. It is called once, unless it is cancelled before."""

    def __init__(self, due: float, callback: Callable[[], None], cancel: Callable[[Deadline], None]) -> None:
        self.due = due
        self.callback = callback
        self._cancel = cancel

    def cancel(self) -> None:
        """Remove the deadline; without effect when the callback has been called."""
        self._cancel(self)


class Deadlines:
    """Calls callbacks when their time has come, on a thread that they must not block.

    Args:
        on_error: called with the exception that a callback raised.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._change = threading.Condition()
        self._pending: set[Deadline] = set()
        self._wake_up: float | None = None  # when the thread looks again; None: it does not run

    def __len__(self) -> int:
        return len(self._pending)

    def set(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        """Have `callback` called after a number of seconds."""
        deadline = Deadline(time.monotonic() + seconds, callback, self._cancel)
        with self._change:
            self._pending.add(deadline)
            if self._wake_up is None:
                self._wake_up = deadline.due
                threading.Thread(target=self._run, daemon=True).start()
            elif deadline.due < self._wake_up:
                self._change.notify()
        return deadline

    def _cancel(self, deadline: Deadline) -> None:
        with self._change:
            self._pending.discard(deadline)

    def _run(self) -> None:
        while (deadline := self._next_due()) is not None:
            try:
                deadline.callback()
            except Exception as error:
                self._on_error(error)

    def _next_due(self) -> Deadline | None:
        """Wait for the earliest deadline and remove it; None when there is none left, and the thread ends."""
        with self._change:
            while self._pending:
                earliest = min(self._pending, key=lambda deadline: deadline.due)
                remaining = earliest.due - time.monotonic()
                if remaining <= 0:
                    self._pending.remove(earliest)
                    return earliest
                self._wake_up = earliest.due
                self._change.wait(remaining)
            self._wake_up = None
            return None
