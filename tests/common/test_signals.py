"""`run_interruptible` in processes of their own, because only a main thread receives signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WAIT = 30.0  # seconds; a limit only
INTERRUPTED = 130

PRELUDE = """
import os, signal, sys, threading, time
from tools.common.signals import SignalPipe, run_interruptible

signals = SignalPipe()

def write(text):
    os.write(1, text.encode() + b"\\n")

def wait_forever():
    threading.Event().wait()

def kill():
    write("kill")
"""


class Interruptible:
    """A process that runs `run_interruptible`. `line()` is its next line of standard output."""

    def __init__(self, source: str, blocked: bool = False) -> None:
        program = PRELUDE + textwrap.dedent(source)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM] if blocked else [])
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str, str]:
        """The exit status, and what was not read of the outputs."""
        out, err = self.process.communicate(timeout=WAIT)
        return self.process.returncode, out, err


@pytest.fixture
def start() -> Iterator[Callable[..., Interruptible]]:
    started: list[Interruptible] = []

    def run(source: str, **options: bool) -> Interruptible:
        started.append(Interruptible(source, **options))
        return started[-1]

    yield run
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_the_status_of_the_work_is_returned(start: Callable[..., Interruptible]) -> None:
    process = start("sys.exit(run_interruptible(signals, lambda: 7, wait_forever, kill, 5))")
    assert process.end() == (7, "", "")


def test_an_error_of_the_work_is_raised_in_the_main_thread(start: Callable[..., Interruptible]) -> None:
    process = start("""
        def work():
            raise SystemExit(3)

        run_interruptible(signals, work, wait_forever, kill, 5)
    """)
    assert process.end() == (3, "", "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_in_order_while_the_work_is_blocked(
    start: Callable[..., Interruptible], signum: int
) -> None:
    process = start("""
        def work():
            write("working")
            wait_forever()

        status = run_interruptible(signals, work, lambda: write("end"), kill, 5)
        write(f"status {status}")
        os._exit(status)
    """)
    assert process.line() == "working"
    process.process.send_signal(signum)
    assert process.end() == (INTERRUPTED, "end\nstatus 130\n", "")


def test_an_error_of_the_end_is_raised(start: Callable[..., Interruptible]) -> None:
    process = start("""
        def work():
            write("working")
            wait_forever()

        def end():
            raise SystemExit(4)

        run_interruptible(signals, work, end, kill, 5)
    """)
    assert process.line() == "working"
    process.process.terminate()
    assert process.end() == (4, "", "")


BLOCKED_END = """
    def work():
        write("working")
        wait_forever()

    def end():
        write("end")
        wait_forever()

    run_interruptible(signals, work, end, kill, {end_timeout})
"""


def test_the_second_signal_exits_while_the_orderly_end_is_blocked(start: Callable[..., Interruptible]) -> None:
    process = start(BLOCKED_END.format(end_timeout=3600))
    assert process.line() == "working"
    process.process.terminate()
    assert process.line() == "end"
    process.process.terminate()
    assert process.end() == (INTERRUPTED, "kill\n", "")


def test_an_orderly_end_that_takes_too_long_is_cut(start: Callable[..., Interruptible]) -> None:
    process = start(BLOCKED_END.format(end_timeout=0.01))
    assert process.line() == "working"
    process.process.terminate()
    assert process.end() == (INTERRUPTED, "end\nkill\n", "")


def test_two_signals_that_arrive_together_count_as_two(start: Callable[..., Interruptible]) -> None:
    process = start("""
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        run_interruptible(signals, wait_forever, lambda: write("end"), kill, 5)
    """)
    assert process.end() == (INTERRUPTED, "kill\n", "")


def test_a_signal_before_the_work_is_received(start: Callable[..., Interruptible]) -> None:
    process = start("""
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(run_interruptible(signals, wait_forever, lambda: write("end"), kill, 5))
    """)
    assert process.end() == (INTERRUPTED, "end\n", "")


def test_a_blocked_signal_is_received_when_the_pipe_exists(start: Callable[..., Interruptible]) -> None:
    process = start("os._exit(run_interruptible(signals, wait_forever, lambda: None, kill, 5))", blocked=True)
    process.process.terminate()
    assert process.end() == (INTERRUPTED, "", "")


def test_no_signal_is_lost_in_callbacks_that_shield_exceptions(start: Callable[..., Interruptible]) -> None:
    """A KeyboardInterrupt in `__del__` would be printed and dropped."""
    process = start("""
        class Shielded:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0)

        def work():
            Shielded()
            wait_forever()

        os._exit(run_interruptible(signals, work, lambda: write("end"), kill, 5))
    """)
    assert process.end() == (INTERRUPTED, "end\n", "")


def test_a_signal_does_not_interrupt_a_lock(start: Callable[..., Interruptible]) -> None:
    process = start("""
        lock = threading.Lock()

        def work():
            with lock:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            wait_forever()

        def end():
            with lock:
                write("end")

        os._exit(run_interruptible(signals, work, end, kill, 5))
    """)
    assert process.end() == (INTERRUPTED, "end\n", "")


def test_a_full_pipe_loses_neither_the_end_of_the_work_nor_a_signal(start: Callable[..., Interruptible]) -> None:
    process = start("""
        for _ in range(100_000):
            signals.wake()
        os.kill(os.getpid(), signal.SIGURG)  # nothing receives it
        sys.exit(run_interruptible(signals, lambda: 5, wait_forever, kill, 5))
    """)
    assert process.end() == (5, "", "")


def test_a_storm_of_signals_prints_nothing(start: Callable[..., Interruptible]) -> None:
    process = start("""
        write("working")
        time.sleep(0)
        run_interruptible(signals, wait_forever, wait_forever, lambda: time.sleep(0.2), 5)
    """)
    assert process.line() == "working"
    for _ in range(2000):
        process.process.send_signal(signal.SIGINT)
        process.process.send_signal(signal.SIGTERM)
    assert process.end() == (INTERRUPTED, "", "")


def test_a_child_process_does_not_inherit_the_pipe(start: Callable[..., Interruptible]) -> None:
    process = start("""
        import subprocess

        subprocess.run(["/bin/sh", "-c", "kill -TERM $$"])
        write(str(list(signals.wait(0))))
    """)
    assert process.end() == (0, "[]\n", "")


def test_both_ends_of_the_pipe_are_non_blocking_and_closed_in_other_programs(
    start: Callable[..., Interruptible],
) -> None:
    process = start("""
        ends = signals._reader, signals._writer
        write(str([(os.get_blocking(each), os.get_inheritable(each)) for each in ends]))
    """)
    assert process.end() == (0, f"{[(False, False)] * 2}\n", "")
