"""`main.py`: start the supervisor, run one invocation or serve, and end in order.

Theory of operation of the end. Signals can arrive at any time, also while the emulator ends. The first SIGINT or
SIGTERM raises KeyboardInterrupt in the main thread; later ones are ignored, so that nothing interrupts the removal of
processes and folders. The exit status is then 130. `os._exit` is used because the interpreter's own end could still be
interrupted, and would wait for threads that are blocked in a write.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from tools.emulator.sandbox.supervisor_client import Supervisor

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: list[str], default_event: dict[str, Any]) -> int:
    """Run the emulator and return the exit status.

    Args:
        arguments: the command line without the name of the program.
        default_event: the event of an invocation without --event.
    """
    reserve_standard_descriptors()
    try:
        end_on_signals()
        with supervising() as supervisor:
            # Imported here, while the supervisor starts: at the top it would delay the first byte by 40 ms.
            from tools.emulator.run import run

            return run(arguments, default_event, supervisor)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


@contextlib.contextmanager
def supervising() -> Iterator[Supervisor | OSError]:
    """Yield the supervisor, or the reason why it cannot be started: a wrong command line is reported first."""
    try:
        supervisor = Supervisor()
    except OSError as error:
        yield error
        return
    try:
        yield supervisor
    finally:
        supervisor.close()


def reserve_standard_descriptors() -> None:
    """Open a closed standard descriptor. Otherwise a socket would get its number, and receive what is printed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # it gets the lowest free number; writing to it fails, as it should


def end_on_signals() -> None:
    """Raise KeyboardInterrupt on the first SIGTERM or SIGINT, and ignore further ones.

    SIGINT needs a handler of its own: shells start background jobs with that signal ignored.
    """
    signals = itertools.count()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if next(signals) == 0:
            raise KeyboardInterrupt

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, interrupt)
