"""The output of a process, standard output and standard error in one, and the end of it."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

TAIL_BYTES = 4096  # the end of the log that a caller can request (AWS Lambda API Reference, API_Invoke: LogType)


class FunctionLog:
    """Passes on what a process prints, as it comes, and keeps the end of it for the caller of an invocation.

    The process writes to a pipe, and the Runtime API is a socket: nothing orders the two. Before the emulator writes a
    START or an END line it calls `drain`, which passes on all that the process printed up to then. Without that, a line
    printed before the end of an invocation could appear after its REPORT.

    Args:
        write: called with what was printed.
        edit: returns what to show in place of what was printed.
    """

    def __init__(self, write: Callable[[bytes], None], edit: Callable[[bytes], bytes]) -> None:
        self._write = write
        self._edit = edit
        self._lock = threading.Lock()
        self._reader: int | None = None
        self._is_at_end = False
        self._tail = b""

    def open(self) -> int:
        """Return the descriptor for the output of the processes. The caller closes it when they have it."""
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        return writer

    def follow(self) -> None:
        """Pass on the output from now on, until this process and all others have closed the pipe."""
        threading.Thread(target=self._follow, daemon=True).start()

    def drain(self) -> None:
        """Pass on all that was printed until now."""
        with self._lock:
            while self._reader is not None and not self._is_at_end:
                try:
                    data = os.read(self._reader, 65536)
                except BlockingIOError:
                    return
                if data:
                    data = self._edit(data)
                    self._tail = (self._tail + data)[-TAIL_BYTES:]
                    self._write(data)
                else:
                    self._is_at_end = True

    def add_to_tail(self, text: str) -> bytes:
        """Add lines of the platform to the end of the log that a caller can request, and return that."""
        with self._lock:
            self._tail = (self._tail + text.encode())[-TAIL_BYTES:]
            return self._tail

    def clear_tail(self) -> None:
        """Begin the log of another invocation."""
        with self._lock:
            self._tail = b""

    def _follow(self) -> None:
        reader = self._reader
        if reader is None:
            return
        poller = select.poll()
        poller.register(reader, select.POLLIN)
        while not self._is_at_end:
            poller.poll()
            self.drain()
        # Only this thread closes the pipe: the number of a closed one could belong to another file during `poll`.
        with self._lock:
            self._reader = None
        os.close(reader)
