"""The order of the work: build the layer, find out which tests reach what, make each change, and run its tests."""

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.layers import build_layer
from tools.common.errors import UsageError
from tools.common.output import count
from tools.common.paths import ROOT, write_atomically
from tools.mutation import reach, running
from tools.mutation.changes import Change
from tools.mutation.reach import Reach
from tools.mutation.running import Job

# Seconds of tests. Most changes are noticed by one of the first; hundreds of tests reach a statement that each start
# executes, and all of them for each survivor would take hours.
FIRST_TESTS = 10.0
MAX_TESTS = 60.0
REACH_SHARE = 0.6  # of the time, at most, for the tests on the layer that reports what they reach
FILE_SECONDS = 300.0  # until the tests of one file are given up

STARTING, SLOWNESS = 30.0, 3.0  # seconds until tests are killed: these, and a multiple of their usual time


@dataclass
class Outcome:
    """What became of one change.

    Args:
        tests: those that reach its statement and have not run, the most promising first.
        ran: how many ran without noticing it.
        noticed: by a test.
        by: the test; empty if it did not end.
    """

    change: Change
    tests: list[Reach]
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
        show: gets a line for each outcome as it is known.
    """

    def __init__(self, module: str, folder: Path, deadline: float, slots: int, show: Callable[[str], None]) -> None:
        self.path = source_of(module)
        self._module = module
        self._folder = folder
        self._deadline = deadline
        self._slots = slots
        self._show = show
        self.source = self.path.read_bytes()

    def run(self, changes: list[Change]) -> list[Outcome]:
        """Test the changes until the deadline. Return their outcomes; what was not run is incomplete."""
        running.prepare()
        build_layer(ROOT, self._folder)
        reaches = self._reaches()
        outcomes = [Outcome(each, self._tests(reaches, each)) for each in changes]
        order = random.Random(0).sample(outcomes, len(outcomes))  # if the time is over, all parts of it were tested
        for seconds in (FIRST_TESTS, MAX_TESTS):
            jobs = (self._change_job(each, seconds) for each in order if each.tests and not each.noticed)
            for outcome, result in running.run_all(jobs, self._slots, self._deadline):
                self._note(outcome, result)
        return outcomes

    # The layer

    def _copy(self, name: str) -> Path:
        layer = self._folder / name
        shutil.rmtree(layer, ignore_errors=True)
        shutil.copytree(self._folder / "opt", layer)
        return layer

    def _changed_layer(self, slot: int, change: Change) -> Path:
        layer = self._copy(f"changed-{slot}")
        path = layer / self.path.relative_to(ROOT / "layer")
        path.write_bytes(change.apply(self.source))
        for bytecode in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            bytecode.unlink()
        return layer

    # Which tests reach what

    def _reaches(self) -> list[Reach]:
        """Measure what the tests of each file reach, unless that is known from an earlier run."""
        until = time.monotonic() + REACH_SHARE * (self._deadline - time.monotonic())
        files = sorted(ROOT.glob("tests/runtime/test_*.py"), key=lambda file: (file.stem != self._test_name, file))
        known = Cache(files)
        missing = [file for file in files if known.get(file) is None]
        for slot in range(self._slots if missing else 0):
            reach.instrument(self._copy(f"reporting-{slot}"), self._folder / f"record-{slot}")
        for file, found in running.run_all(map(self._reach_job, missing), self._slots, until):
            known.put(file, found or [])
            self._show(f"{file.name}: {count(len(found or []), 'test')}")
        return [each for file in files for each in known.get(file) or []]

    def _reach_job(self, file: Path) -> Job:
        def work(slot: int) -> list[Reach]:
            layer, record = self._folder / f"reporting-{slot}", self._folder / f"record-{slot}"
            return running.reach_of_file(str(file.relative_to(ROOT)), layer, record, self._folder / f"tests-{slot}")

        return Job(file, work, FILE_SECONDS)

    @property
    def _test_name(self) -> str:
        return f"test_{self._module.strip('_')}"

    # The changes

    def _tests(self, reaches: list[Reach], change: Change) -> list[Reach]:
        found = reach.choose(reaches, (self._module, change.statement), self._module)
        return reach.within(found, MAX_TESTS)

    def _change_job(self, outcome: Outcome, seconds: float) -> Job:
        chosen = reach.within(outcome.tests, seconds)

        def work(slot: int) -> tuple[str | None, int]:
            layer = self._changed_layer(slot, outcome.change)
            names = [each.test for each in chosen]
            return running.first_failure(names, layer, self._folder / f"tests-{slot}"), len(chosen)

        return Job(outcome, work, STARTING + SLOWNESS * sum(each.seconds for each in chosen))

    def _note(self, outcome: Outcome, result: tuple[str | None, int] | None) -> None:
        if result is None:
            outcome.noticed = True  # a test does not end
        elif result[0] is not None:
            outcome.noticed, outcome.by = True, result[0]
        else:
            outcome.ran += result[1]
            del outcome.tests[: result[1]]
            if outcome.survived:
                self._show(self.describe(outcome))

    def describe(self, outcome: Outcome) -> str:
        """Return the line about a change that no test has noticed."""
        place = f"{self.path.relative_to(ROOT)}:{outcome.change.line}"
        ran = count(outcome.ran, "test") if outcome.ran else "no test reaches it"
        return f"{place}: {outcome.change.describe(self.source)} ({ran}{', more left' if outcome.tests else ''})"


def source_of(module: str) -> Path:
    """Return the path of a module of the layer, such as `http1`. Raises UsageError if there is none."""
    names = {path.stem: path for path in [ROOT / "layer" / "runtime.py", *ROOT.glob("layer/streaming_runtime/*.py")]}
    if module not in names:
        raise UsageError(f"the layer has no module {module!r}: use one of {', '.join(sorted(names))}")
    return names[module]


class Cache:
    """What the tests of each file reach, as long as nothing that they use changes."""

    def __init__(self, files: list[Path]) -> None:
        self._path = ROOT / ".venv" / "mutation.json"
        shared = [
            *sorted(ROOT.glob("layer/**/*")),
            *sorted(ROOT.glob("tests/support/*.py")),
            ROOT / "tests/conftest.py",
        ]
        common = b"".join(path.read_bytes() for path in shared if path.is_file())
        self._keys = {file: hashlib.sha256(common + file.read_bytes()).hexdigest() for file in files}
        try:
            document = json.loads(self._path.read_text())
        except (OSError, ValueError):  # the first run
            document = {}
        self._known: dict[str, Any] = {key: document[key] for key in self._keys.values() if key in document}

    def get(self, file: Path) -> list[Reach] | None:
        found = self._known.get(self._keys[file])
        if found is None:
            return None
        return [
            Reach(name, seconds, frozenset((module, line) for module, line in places))
            for name, seconds, places in found
        ]

    def put(self, file: Path, found: list[Reach]) -> None:
        self._known[self._keys[file]] = [[each.test, each.seconds, sorted(each.places)] for each in found]
        write_atomically(self._path, json.dumps(self._known).encode())
