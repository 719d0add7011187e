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
from contextlib import suppress
from typing import IO

from tools.common.errors import ToolError

MAX_OUTPUT_BYTES = 2000  # that are kept
_READ_BYTES = 65536
_READER_TIMEOUT = 5  # seconds, for the rest of the output after the end of the group


class GateFailed(ToolError):
    """A gate did not pass: the roll-out is rolled back."""


def run_gate(command: str, timeout: float) -> None:
    """Run `command` with `sh -c`; raises `GateFailed` if it fails, or does not end within `timeout` seconds."""
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
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise GateFailed(f"the gate {command!r} did not end within {timeout:g} s") from None
    finally:  # Ctrl-C too
        _kill_group(process)
        output = tail.end()
    if status:
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"failed with exit status {status}"
        raise GateFailed(f"the gate {command!r} {how}{': ' if output else ''}{output}")


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
