"""The end of a command that a signal interrupts: SIGINT, SIGTERM or SIGHUP.

A roll-out is not ended within a function: no further function is begun, those that were begun are completed, and the
command that continues is printed. A note says immediately what is waited for, and for how long. A second signal ends
the process at once; the journal has every intention, so that is safe, but the next process must read more from AWS.
Before the first change, and in all other commands, there is nothing to complete, and the first signal ends the process.

`tools.common.signals` receives the signals. `end` and `kill` run on a thread of their own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

END_TIMEOUT = 900.0  # seconds, after which the process ends as after a second signal


def _write(text: str) -> None:
    with suppress(OSError):  # a terminal that was closed
        os.write(2, f"{text}\n".encode())


class Ending:
    """Whether and how the process ends; one for each process.

    Args:
        note: shows a line.
    """

    def __init__(self, note: Callable[[str], None] = _write) -> None:
        self.note = note
        self.begun = 0  # functions that are in progress
        self._requested = threading.Event()
        self._finished = threading.Event()
        self._lock = threading.Lock()
        self._command = ""  # continues the roll-out; empty while there is nothing to complete
        self._cleanups: list[Callable[[], None]] = []

    @property
    def is_requested(self) -> bool:
        """Whether a signal has arrived: nothing more is begun."""
        return self._requested.is_set()

    def before_end(self, cleanup: Callable[[], None]) -> None:
        """Call `cleanup` if a signal ends the process while there is nothing to complete."""
        self._cleanups.append(cleanup)

    @contextmanager
    def orderly(self, command: str) -> Iterator[None]:
        """Complete what was begun in this block before the process ends; `command` continues afterwards."""
        with self._lock:
            if self.is_requested:
                raise KeyboardInterrupt
            self._command = command
        try:
            yield
        finally:
            self.begun, self._command = 0, ""

    def finish(self) -> None:
        """Note that the command has ended."""
        self._finished.set()

    # --- After a signal

    def end(self) -> None:
        """End the command after the first signal; return when it has ended."""
        with self._lock:
            self._requested.set()
            is_orderly = bool(self._command)
        if is_orderly:
            self.note(f"interrupted: {self._waiting()}; interrupt again to end at once")
            self._finished.wait()
            return
        for cleanup in self._cleanups:
            cleanup()

    def kill(self) -> None:
        """Show the next step after the second signal."""
        if self._command:
            self.note(f"ended at once; continue with {self._command}")

    def _waiting(self) -> str:
        if not self.begun:
            return "ending after the present step"
        things = "1 function that was" if self.begun == 1 else f"{self.begun} functions that were"
        return f"waiting for {things} begun, usually seconds, at most {END_TIMEOUT / 60:.0f} minutes"
