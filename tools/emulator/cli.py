"""`main.py`: start the supervisor, run one invocation or serve, and end in order.

Theory of operation of the end. `tools.common.signals` has the rules. Everything that must be ended is registered in
`Ending` by the thread that makes it. On the first signal, and also where the work is done, the registered functions are
called in the reverse order. On the second signal, or after `END_TIMEOUT`, only the supervisor is asked to end: it kills
all processes and removes the folders, and needs nothing from the threads of this process.

`os._exit` is used after a signal because the end of the interpreter would wait for threads that are blocked, in a read
of standard input for example.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from tools.common.signals import INTERRUPTED, SignalPipe, run_interruptible
from tools.emulator.sandbox.supervisor_client import Supervisor

END_TIMEOUT = 5.0  # seconds for an orderly end after a signal: extensions have two of them
KILL_TIMEOUT = 0.8  # seconds to wait for the supervisor after a second signal; the process ends within one second


class Ending:
    """The functions that end a run, in the order in which they were registered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._functions: list[Callable[[], None]] = []

    def add(self, function: Callable[[], None]) -> None:
        with self._lock:
            self._functions.append(function)

    def __call__(self) -> None:
        """Call each function once, the last one first."""
        while True:
            with self._lock:
                if not self._functions:
                    return
                function = self._functions.pop()
            function()


def main(arguments: list[str], default_event: dict[str, Any]) -> int:
    """Run the emulator and return the exit status.

    Args:
        arguments: the command line without the name of the program.
        default_event: the event of an invocation without --event.
    """
    reserve_standard_descriptors()
    signals = SignalPipe()
    ending = Ending()
    supervisor = start_supervisor()

    def end() -> None:
        ending()
        if isinstance(supervisor, Supervisor):
            supervisor.close()

    def work() -> int:
        try:
            # Imported here, while the supervisor starts: at the top it would delay the first byte by 40 ms.
            from tools.emulator.run import run

            return run(arguments, default_event, supervisor, ending.add)
        finally:
            end()

    def kill() -> None:
        if isinstance(supervisor, Supervisor):
            supervisor.kill(KILL_TIMEOUT)

    status = run_interruptible(signals, work, end, kill, END_TIMEOUT)
    if status == INTERRUPTED:
        os._exit(INTERRUPTED)
    return status


def start_supervisor() -> Supervisor | OSError:
    """Return the supervisor, or the reason why it cannot be started: a wrong command line is reported first."""
    try:
        return Supervisor()
    except OSError as error:
        return error


def reserve_standard_descriptors() -> None:
    """Open a closed standard descriptor. Otherwise a socket would get its number, and receive what is printed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # it gets the lowest free number; writing to it fails, as it should
