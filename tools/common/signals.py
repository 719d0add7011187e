"""SIGINT and SIGTERM as data: an orderly end on the first signal, an immediate one on the second.

Theory of operation. A signal handler that raises KeyboardInterrupt loses signals and breaks locks: Python runs the
handler between two bytecodes of the main thread, whatever they belong to. In a callback that cannot pass an exception
on (`__del__`, the weak references of importlib), Python prints "Exception ignored" and continues. Between taking a lock
and the `try` that releases it, the exception leaves the lock locked, and the end waits for it forever.

So no handler raises here. The C part of Python's signal handling writes the number of each signal to a pipe
(`signal.set_wakeup_fd`), from whatever thread the kernel has chosen. The main thread only waits for that pipe. The
work runs on a thread of its own, where no signal interrupts it, and the end runs on another one. The main thread waits
for both with a limit, because a thread can be blocked for ever, for example in a write that nobody reads.

Both ends of the pipe are non-blocking. A full pipe drops further signals, which does no harm: the two that matter are
in it.

The time before `SignalPipe` exists belongs to the interpreter: SIGTERM ends the process, and SIGINT raises
KeyboardInterrupt. A program makes its `SignalPipe` first, before it has anything to clean up.

https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

INTERRUPTED = 130  # the exit status: 128 + SIGINT, as shells report it
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAKE_UP = b"\0"  # no signal has this number


class SignalPipe:
    """Receives signals from now on. Only the main thread can make one.

    SIGINT is received also where it was ignored: shells start background jobs like that.

    Args:
        signals: SIGINT, SIGTERM, and perhaps others that end the process.
    """

    def __init__(self, signals: Sequence[signal.Signals] = SIGNALS) -> None:
        self._signals = signals
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for each in signals:
            signal.signal(each, _ignore)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def wait(self, timeout: float | None = None) -> bytes:
        """Wait for signals, for `wake`, or for a number of seconds. Returns the numbers of the signals, if any."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        if not poller.poll(None if timeout is None else max(0, timeout) * 1000):
            return b""
        received = os.read(self._reader, 65536).replace(_WAKE_UP, b"")
        return bytes(number for number in received if number in self._signals)

    def wake(self) -> None:
        """End a `wait`; from any thread."""
        with contextlib.suppress(BlockingIOError):  # a full pipe ends it too
            os.write(self._writer, _WAKE_UP)


def run_interruptible(
    signals: SignalPipe,
    work: Callable[[], int],
    end: Callable[[], None],
    kill: Callable[[], None],
    end_timeout: float,
) -> int:
    """Run `work` on another thread until it returns or a signal arrives. Only the main thread can call this.

    Args:
        work: returns the exit status.
        end: called on the first signal, on a thread of its own; it ends what `work` does in an orderly way. The end is
            complete when it returns; it may wait for `work`.
        kill: called on the second signal, or when `end` takes too long; it must return soon. Then the process exits
            at once, with status 130, whatever its threads do.
        end_timeout: seconds for `end`.

    Returns the status of `work`, or INTERRUPTED after `end`. In the second case the thread of `work` may still run, so
    the caller exits without waiting for it.

    Raises what `work` or `end` has raised.
    """
    working = _Call(work, signals.wake)
    received = b""
    while not received and not working.done:
        received = signals.wait()
    if working.done:
        return working.result() or 0
    if len(received) == 1 and (ending := _start(end, signals.wake)) is not None:
        deadline = time.monotonic() + end_timeout
        while not ending.done and not signals.wait(deadline - time.monotonic()) and time.monotonic() < deadline:
            pass
        if ending.done:
            ending.result()
            return INTERRUPTED
    kill()
    os._exit(INTERRUPTED)


class _Call:
    """A call on a daemon thread. Raises RuntimeError if the system allows no more threads.

    Args:
        on_done: called when the result is available.
    """

    def __init__(self, function: Callable[[], int | None], on_done: Callable[[], None]) -> None:
        self.done = False
        self._function = function
        self._on_done = on_done
        self._result: int | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def result(self) -> int | None:
        """Return what the function returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # SystemExit too: the main thread raises it again
            self._error = error
        self.done = True
        self._on_done()


def _start(end: Callable[[], None], on_done: Callable[[], None]) -> _Call | None:
    try:
        return _Call(end, on_done)
    except RuntimeError:  # without a thread there is no orderly end
        return None


def _ignore(number: int, frame: FrameType | None) -> None:
    """The number of the signal is in the pipe already. Without a handler in Python, it would not be written there."""
