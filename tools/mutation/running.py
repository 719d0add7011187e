"""Runs pytest in processes that are forked from this one, because importing what the tests need takes a second."""

import contextlib
import gc
import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tools.common import operating_system
from tools.common.errors import ToolError
from tools.common.paths import ROOT
from tools.mutation import reach
from tools.mutation.reach import Reach

OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--patience=5", f"--rootdir={ROOT}")


@dataclass(frozen=True)
class Job:
    """Some work in a forked process.

    Args:
        key: returned with the result.
        work: gets the number of the slot it runs in, from 0; its result must be picklable.
        seconds: until the process is killed.
    """

    key: Any
    work: Callable[[int], Any]
    seconds: float


def prepare() -> None:
    """Import the tests and what they need, and become the parent of processes that lose theirs."""
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ.pop("PYTHONPATH", None)  # of build.sh
    os.chdir(ROOT)
    operating_system.adopt_orphans()
    with contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main([*OPTIONS, "--collect-only", "tests/runtime"])
    if status != pytest.ExitCode.OK:
        raise ToolError("the tests cannot be collected: run ./build.sh test tests/runtime --collect-only")


def freeze() -> None:
    """Leave all objects out of the garbage collection. pytest collects in each process, and that would take longest."""
    gc.collect()
    gc.freeze()


def run_all(jobs: Iterator[Job], slots: int, deadline: float) -> Iterator[tuple[Any, Any]]:
    """Run jobs in `slots` processes at a time until `deadline` (time.monotonic()); yield keys and results as they end.

    The result of a process that was killed is None. What is not complete at the deadline is killed, without a result.
    """
    running: dict[int, _Running] = {}
    try:
        while True:
            while len(running) < slots and time.monotonic() < deadline and (job := next(jobs, None)) is not None:
                slot = min(set(range(slots)) - set(running))
                running[slot] = _Running(job, slot)
            if not running or time.monotonic() >= deadline:
                return
            ends = [each.end for each in running.values()]
            wait([each.pipe for each in running.values()], max(0, min([*ends, deadline]) - time.monotonic()))
            for slot in [slot for slot, each in running.items() if each.is_over()]:
                ended = running.pop(slot)
                yield ended.job.key, ended.result()
    finally:
        for each in running.values():
            each.kill()


class _Running:
    """One job in its process."""

    def __init__(self, job: Job, slot: int) -> None:
        context = multiprocessing.get_context("fork")
        self.job = job
        self.pipe, other = context.Pipe(duplex=False)
        self.end = time.monotonic() + job.seconds
        self._process: BaseProcess = context.Process(target=_work, args=(job.work, slot, other), daemon=False)
        self._process.start()
        other.close()

    def is_over(self) -> bool:
        return self.pipe.poll() or time.monotonic() >= self.end

    def result(self) -> Any:
        try:
            return self.pipe.recv() if self.pipe.poll() else None
        except EOFError:  # killed from outside
            return None
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process, and those of functions that it has left."""
        assert self._process.pid is not None
        left = operating_system.descendants(self._process.pid)
        self._process.join(0.5)
        for pid in (self._process.pid, *left):
            with contextlib.suppress(ProcessLookupError):
                if pid != self._process.pid or self._process.is_alive():
                    os.kill(pid, signal.SIGKILL)
        self._process.join()
        self.pipe.close()


def _work(work: Callable[[int], Any], slot: int, pipe: Connection) -> None:
    """The body of a forked process."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipe.send(work(slot))
    pipe.close()


# --- The work ---------------------------------------------------------------------------------------------------------


def first_failure(tests: Sequence[str], layer: Path, temporary: Path) -> str | None:
    """Run tests on an unpacked layer until one fails. Return its node ID; an empty text if pytest itself fails."""
    failures = _Failures()
    status = pytest.main([*OPTIONS, "-x", *_options(layer, temporary), *tests], plugins=[failures])
    if status == pytest.ExitCode.OK:
        return None
    return failures.first if status == pytest.ExitCode.TESTS_FAILED else ""


def reach_of_file(file: str, layer: Path, record: Path, temporary: Path, seconds: float) -> list[Reach]:
    """Run the tests of a file on an instrumented layer, for some seconds. Return what those that pass reach."""
    recorder = _Recorder(record, time.monotonic() + seconds)
    pytest.main([*OPTIONS, *_options(layer, temporary), file], plugins=[recorder])
    return [each for each in recorder.found if each.test in recorder.passed]


def _options(layer: Path, temporary: Path) -> list[str]:
    return [f"--layer={layer}", f"--basetemp={temporary}"]


class _Failures:
    """A plugin of pytest."""

    first = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.first:
            self.first = report.nodeid


class _Recorder:
    """A plugin of pytest."""

    def __init__(self, record: Path, end: float) -> None:
        self._record = record
        self._end = end
        self.found: list[Reach] = []
        self.passed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        reach.read(self._record)
        start = time.monotonic()
        result = yield
        places = reach.read(self._record)
        self.found.append(Reach(item.nodeid, time.monotonic() - start, places))
        item.session.shouldstop = time.monotonic() > self._end
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        elif report.failed:
            self.passed.discard(report.nodeid)
