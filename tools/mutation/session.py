"""The order of the work: build the layer, find out which tests reach what, make each change, and run its tests.

Most changes are noticed within a second by a test that has noticed others in the same function. So there are three
rounds: in the first, each change gets its most promising tests for two seconds; in the others, those that no test has
noticed get more. No change gets more than its share of the time that is left, so the last round reaches all of them.
"""

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.bench.layers import build_layer
from tools.common.errors import UsageError
from tools.common.output import count
from tools.common.paths import ROOT
from tools.mutation import reach, running
from tools.mutation.bytecode import write_module
from tools.mutation.cache import Cache, sources
from tools.mutation.changes import Change, changes_of
from tools.mutation.reach import Reach
from tools.mutation.running import Job

# Seconds of tests for each change. Hundreds of tests reach a statement that each start executes, and all of them for
# each survivor would take hours.
ROUNDS = (2.0, 8.0, 60.0)
JOB_SECONDS = 1.0  # that a process needs besides its tests

REACH_SHARE = 0.3  # of the time, at most, for the tests on the layer that reports what they reach
FILE_SECONDS = 60.0  # for the tests of one file there; the others of the file take no part

STARTING, SLOWNESS = 30.0, 3.0  # seconds until tests are killed: these, and a multiple of their usual time


@dataclass
class Outcome:
    """What became of one change.

    Args:
        tests: those that have not run and may still do, the most promising first.
        reached_by: how many tests reach its statement.
        ran: how many ran without noticing it.
        noticed: by a test.
        by: the test; empty if it did not end.
    """

    change: Change
    tests: list[Reach]
    reached_by: int
    ran: int = 0
    noticed: bool = False
    by: str = ""

    @property
    def survived(self) -> bool:
        return not self.noticed and not self.tests


class Session:
    """One run of the command.

    Args:
        module: of the layer, such as `http1`.
        folder: for temporary files.
        deadline: on the clock of time.monotonic().
        slots: processes at a time.
        show: gets a line for each survivor as it is known.
        progress: gets a line after each part of the work.
    """

    def __init__(
        self,
        module: str,
        folder: Path,
        deadline: float,
        slots: int,
        show: Callable[[str], None],
        progress: Callable[[str], None],
    ) -> None:
        self.path = source_of(module)
        self._module = module
        self._folder = folder
        self._deadline = deadline
        self._slots = slots
        self._show = show
        self._progress = progress
        self._files = sorted(ROOT.glob("tests/runtime/test_*.py"), key=self._order_of_file)
        self._cache = Cache(module, self._files)
        self.source = self.path.read_bytes()

    def run(self, changes: list[Change]) -> list[Outcome]:
        """Test the changes until the deadline. Return their outcomes; what was not run is incomplete."""
        running.prepare()
        build_layer(ROOT, self._folder)
        reaches = self._reaches()
        for slot in range(self._slots):
            self._copy(f"changed-{slot}")
        outcomes = self._outcomes(reaches, changes)
        running.freeze()
        order = random.Random(0).sample(outcomes, len(outcomes))  # if the time is over, all parts of it were tested
        try:
            for seconds in ROUNDS:
                jobs = (self._change_job(each, seconds, order) for each in order if each.tests and not each.noticed)
                for outcome, result in running.run_all(jobs, self._slots, self._deadline):
                    self._note(outcome, result)
                self._progress(f"{sum(each.noticed for each in outcomes)} of {count(len(outcomes), 'change')} noticed")
        finally:
            self._cache.save()
        return outcomes

    # The layer

    def _copy(self, name: str) -> Path:
        layer = self._folder / name
        shutil.copytree(self._folder / "opt", layer)
        return layer

    def _changed_layer(self, slot: int, change: Change) -> Path:
        layer = self._folder / f"changed-{slot}"
        write_module(layer / self.path.relative_to(ROOT / "layer"), change.apply(self.source))
        return layer

    # Which tests reach what

    def _reaches(self) -> list[Reach]:
        """Measure what the tests of each file reach, unless that is known from an earlier run."""
        until = time.monotonic() + REACH_SHARE * (self._deadline - time.monotonic())
        missing = [file for file in self._files if self._cache.reach(file) is None]
        for slot in range(self._slots if missing else 0):
            reach.instrument(self._copy(f"reporting-{slot}"), self._folder / f"record-{slot}")
        for file, found in running.run_all(map(self._reach_job, missing), self._slots, until):
            self._cache.keep_reach(file, found or [])
        self._cache.save()
        self._progress("the tests are chosen")
        unknown = [file.name for file in self._files if self._cache.reach(file) is None]
        if unknown:
            self._progress(f"no time for {count(len(unknown), 'file')} of tests: {', '.join(unknown)}")
        return [each for file in self._files for each in self._cache.reach(file) or []]

    def _reach_job(self, file: Path) -> Job:
        def work(slot: int) -> list[Reach]:
            layer, record = self._folder / f"reporting-{slot}", self._folder / f"record-{slot}"
            name = str(file.relative_to(ROOT))
            return running.reach_of_file(name, layer, record, self._folder / f"tests-{slot}", FILE_SECONDS)

        return Job(file, work, STARTING + 2 * FILE_SECONDS)

    def _order_of_file(self, file: Path) -> tuple[bool, int]:
        """Begin with the file of the module's name, and then with the small ones: each file tests something else."""
        return file.stem != f"test_{self._module.strip('_')}", file.stat().st_size

    # The changes

    def _outcomes(self, reaches: list[Reach], changes: list[Change]) -> list[Outcome]:
        lines: dict[str, list[int]] = {}
        for each in changes_of(self.source):
            lines.setdefault(each.function, []).append(each.statement)
        outcomes = []
        for each in changes:
            function = range(min(lines[each.function]), max(lines[each.function]) + 1)
            found = reach.choose(reaches, (self._module, each.statement), function)
            by = self._cache.noticed_by(each)
            outcomes.append(Outcome(each, found, len(found), noticed=by is not None, by=by or ""))
        return outcomes

    def _change_job(self, outcome: Outcome, seconds: float, outcomes: list[Outcome]) -> Job:
        change = outcome.change
        outcome.tests = self._cache.promising(outcome.tests, change)
        share = self._share(outcomes)
        chosen = reach.within(outcome.tests, min(seconds, share))
        if share <= seconds or seconds == ROUNDS[-1]:  # no time is left for another round
            outcome.tests = list(chosen)

        def work(slot: int) -> tuple[str | None, int]:
            layer = self._changed_layer(slot, change)
            names = [each.test for each in chosen]
            return running.first_failure(names, layer, self._folder / f"tests-{slot}"), len(chosen)

        return Job(outcome, work, STARTING + SLOWNESS * sum(each.seconds for each in chosen))

    def _share(self, outcomes: list[Outcome]) -> float:
        """Return the seconds of tests for each change that is left, if all get the same."""
        left = sum(bool(each.tests) and not each.noticed for each in outcomes)
        return (self._deadline - time.monotonic()) * self._slots / left - JOB_SECONDS

    def _note(self, outcome: Outcome, result: tuple[str | None, int] | None) -> None:
        if result is None:
            outcome.noticed = True  # a test does not end
        elif result[0] is not None:
            outcome.noticed, outcome.by = True, result[0]
            self._cache.keep_noticed(outcome.change, outcome.by)
        else:
            outcome.ran += result[1]
            del outcome.tests[: result[1]]
            if outcome.survived:
                self._show(self.describe(outcome))

    def describe(self, outcome: Outcome) -> str:
        """Return the line about a change that no test has noticed."""
        place = f"{self.path.relative_to(ROOT)}:{outcome.change.line}"
        ran = f"{outcome.ran} of {count(outcome.reached_by, 'test')}" if outcome.reached_by else "no test reaches it"
        return f"{place}: {outcome.change.describe(self.source)} ({ran})"


def source_of(module: str) -> Path:
    """Return the path of a module of the layer, such as `http1`. Raises UsageError if there is none."""
    names = {path.stem: path for path in sources()}
    if module not in names:
        raise UsageError(f"the layer has no module {module!r}: use one of {', '.join(sorted(names))}")
    return names[module]
