"""A function on Lambda Managed Instances: several slots, each with a connection of its own to the Runtime API."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.emulator import until
from support.function_process import FunctionProcess


class Slot(FunctionProcess):
    """One connection of the environment. Its methods are those of a function with one connection."""

    def __init__(self, environment: ConcurrentFunction) -> None:
        self.listener = environment.listener
        self.process = environment.process
        self.peer = None
        self.connect()


class ConcurrentFunction(FunctionProcess):
    """An environment with AWS_LAMBDA_MAX_CONCURRENCY.

    Args:
        slots: the value of the variable.
        Others: see `FunctionProcess`.
    """

    def __init__(self, layer: Path, folder: Path, code: str | dict[str, str], slots: int | str = 1, **options: Any):
        variables = {"AWS_LAMBDA_MAX_CONCURRENCY": str(slots), **(options.pop("variables", None) or {})}
        super().__init__(layer, folder, code, variables, **options)
        self._slots: list[Slot] = []

    def slot(self) -> Slot:
        """Wait for the next connection."""
        self._slots.append(Slot(self))
        return self._slots[-1]

    def waiting_slots(self, count: int) -> list[Slot]:
        """Return slots that have asked for an invocation."""
        slots = [self.slot() for _ in range(count)]
        for slot in slots:
            slot.expect_next()
        return slots

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return the whole log, which has to consist of JSON objects."""
        return [json.loads(line) for line in (self.stdout + self.stderr).splitlines()]

    def records_of(self, request_id: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record.get("requestId") == request_id]

    def wait_for_records(self, request_id: str, count: int) -> list[dict[str, Any]]:
        """Return the records of an invocation when there are so many: on an event loop, a thread writes them."""
        until(lambda: len(self.records_of(request_id)) >= count)
        return self.records_of(request_id)

    def messages(self) -> list[str]:
        """Return the messages of the runtime itself."""
        return [record["message"] for record in self.records if "streaming-runtime" in record.get("logger", "")]

    def workers(self) -> list[int]:
        """Return the ids of the worker processes."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True)
        return [int(line) for line in found.stdout.split()]

    def shut_down(self) -> None:
        """End the environment as the service does. Its log is complete then: on an event loop, a thread writes it."""
        self.process.terminate()
        self.wait()

    def end(self) -> None:
        for pid in [self.process.pid, *self.workers()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().end()
        for slot in self._slots:
            assert slot.peer is not None
            slot.peer.close()


def one_process(start: Callable[..., ConcurrentFunction], code: str, slots: int, **options: Any) -> ConcurrentFunction:
    """Start an environment with one CPU, so that all slots share one event loop.

    Args:
        start: the fixture `concurrent`.
    """
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        return start(code, slots, **options)
    finally:
        os.sched_setaffinity(0, cpus)


def break_response(function: ConcurrentFunction) -> str:
    """Break a connection within its response, and shut the environment down. Return the request id.

    The handler sends a chunk, then waits if the event is True, until an invocation with the event False ends.
    """
    broken, other = function.waiting_slots(2)
    request_id = broken.send_invocation(True)
    broken.expect_response(request_id)
    assert broken.peer is not None
    broken.peer.read_chunk()
    broken.peer.reset()
    other.read_response(other.send_invocation(False))
    function.waiting_slots(1)
    function.shut_down()
    return request_id
