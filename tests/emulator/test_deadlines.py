"""Deadlines: they are called in time, survive failing callbacks, and leave nothing behind when they are cancelled."""

from __future__ import annotations

import queue
import threading

import pytest
from support.emulator import WAIT, until

from tools.emulator.execution.deadlines import Deadlines

FAR = 900.0  # seconds


def raise_os_error() -> None:
    raise OSError("no more threads")


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def deadlines(errors: list[Exception]) -> Deadlines:
    return Deadlines(errors.append)


def test_deadlines_are_called_in_the_order_of_their_times(deadlines: Deadlines) -> None:
    called: queue.Queue[str] = queue.Queue()
    deadlines.set(0.2, lambda: called.put("second"))
    deadlines.set(FAR, lambda: called.put("never"))
    deadlines.set(0.01, lambda: called.put("first"))
    assert [called.get(timeout=WAIT) for _ in range(2)] == ["first", "second"]
    assert called.empty()


def test_an_earlier_deadline_is_called_while_the_thread_waits_for_a_later_one(deadlines: Deadlines) -> None:
    deadlines.set(FAR, raise_os_error)
    for _ in range(20):  # after each call, the thread waits for the far one again
        called = threading.Event()
        deadlines.set(0, called.set)
        assert called.wait(WAIT)


def test_a_failing_callback_does_not_end_the_other_deadlines(deadlines: Deadlines, errors: list[Exception]) -> None:
    deadlines.set(0, raise_os_error)
    until(lambda: errors)
    for _ in range(2):
        called = threading.Event()
        deadlines.set(0.01, called.set)
        assert called.wait(WAIT)
    assert [str(error) for error in errors] == ["no more threads"]


def test_a_failing_callback_does_not_end_deadlines_that_are_pending(deadlines: Deadlines) -> None:
    called = threading.Event()
    deadlines.set(0.2, called.set)
    deadlines.set(0, raise_os_error)
    assert called.wait(WAIT)


def test_a_cancelled_deadline_is_not_called(deadlines: Deadlines) -> None:
    called: queue.Queue[str] = queue.Queue()
    cancelled = deadlines.set(0.05, lambda: called.put("cancelled"))
    deadlines.set(0.1, lambda: called.put("pending"))
    cancelled.cancel()
    cancelled.cancel()
    assert called.get(timeout=WAIT) == "pending"
    assert called.empty()


def test_a_cancelled_deadline_takes_no_memory(deadlines: Deadlines) -> None:
    for _ in range(1000):
        deadlines.set(FAR, raise_os_error).cancel()
    assert len(deadlines) == 0


def test_deadlines_can_be_set_again_after_the_last_one(deadlines: Deadlines) -> None:
    for _ in range(3):
        called = threading.Event()
        deadlines.set(0.01, called.set)
        assert called.wait(WAIT)
        until(lambda: len(deadlines) == 0)
