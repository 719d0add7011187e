"""Runs the command of a gate. Its exit status decides; its output is only shown if it fails.

What can go wrong: the command does not end, prints without end, starts processes that outlive it, or is killed. So it
has a process group of its own, which is killed when the time is over and when the command has ended; its output is
read all the time, or it would block, and only the end of it is kept.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from tools.common.errors import ToolError

MAX_OUTPUT_BYTES = 2000  # that are kept
_LOOK_INTERVAL = 0.2  # seconds, at interruptions
_READ_BYTES = 65536
_READER_TIMEOUT = 5  # seconds, for the rest of the output after the end of the group


class GateFailed(ToolError):
    """A gate did not pass: the roll-out is rolled back."""


def run_gate(command: str, timeout: float, is_interrupted: Callable[[], bool] = lambda: False) -> bool:
    """Run `command` with `sh -c`; return True if it succeeds.

    Args:
        timeout: in seconds.
        is_interrupted: kill the command when this becomes true, and return False. A gate changes nothing, so it can be
            repeated.

    Raises:
        GateFailed: it fails, cannot be started, or does not end in time.
    """
    try:
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the command
        raise GateFailed(f"the gate {command!r} cannot be started: {error}") from None
    assert process.stdout
    tail = _Tail(process.stdout)
    try:
        status = _wait(process, timeout, is_interrupted)
    finally:
        _kill_group(process)
        output = tail.end()
    if is_interrupted():
        return False
    if status is None:
        raise GateFailed(f"the gate {command!r} did not end within {timeout:g} s")
    if status:
        how = f"was ended by the signal {-status}" if status < 0 else f"failed with exit status {status}"
        raise GateFailed(f"the gate {command!r} {how}{': ' if output else ''}{output}")
    return True


def _wait(process: subprocess.Popen[bytes], timeout: float, is_interrupted: Callable[[], bool]) -> int | None:
    """Return the exit status; None if the time is over or the wait was interrupted."""
    deadline = time.monotonic() + timeout
    while (rest := deadline - time.monotonic()) > 0 and not is_interrupted():
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(rest, _LOOK_INTERVAL))
    return None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Tail:
    """Reads a pipe in a thread and keeps the end of what was read."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._kept = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._pipe.fileno(), _READ_BYTES):
            self._kept = (self._kept + data)[-MAX_OUTPUT_BYTES:]

    def end(self) -> str:
        """Return the last line of the output. A process that left the group can hold the pipe open; do not wait."""
        self._thread.join(_READER_TIMEOUT)
        if not self._thread.is_alive():
            self._pipe.close()
        lines = self._kept.decode("utf-8", "backslashreplace").split("\n")
        return next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")[-200:]
