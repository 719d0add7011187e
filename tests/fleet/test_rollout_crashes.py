"""Roll-outs whose process dies at any step, and pairs of them: each function is as before or updated, and the journal
can be continued.

AWS Lambda is in memory here (see `lambda_in_memory`); real processes are killed in `test_rollout.py`.
"""

from __future__ import annotations

import io
import itertools
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples, sample
from support.lambda_in_memory import BEFORE, OTHER, OURS, Crash, MemoryDisk, MortalProcess, Region, refusal

from tools.common.errors import ToolError
from tools.common.output import Output
from tools.fleet.aws.functions import Functions
from tools.fleet.commands import rollout, undo
from tools.fleet.commands.interface import Context, Environment
from tools.fleet.rollout import journal
from tools.fleet.rollout.events import FunctionState
from tools.fleet.rollout.history import Record
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.storage import Disk, FileLocation

FUNCTIONS = 40
WAIT = 60  # seconds until a test gives up
WORKERS = 8
LISTS = ([f"{OURS}:1"], [BEFORE, f"{OURS}:1"], [f"{OURS}:1", OTHER], [BEFORE, f"{OURS}:1", OTHER])


def fleet(count: int = FUNCTIONS) -> dict[str, list[str]]:
    """Functions with our layer at every position among others, and some without it."""
    lists = itertools.cycle(LISTS)
    with_layer = {f"f-{number:02}": list(next(lists)) for number in range(count)}
    return with_layer | {"without": [BEFORE, OTHER], "bare": []}


def moved(functions: dict[str, list[str]], to: int) -> dict[str, list[str]]:
    return {name: [f"{OURS}:{to}" if arn == f"{OURS}:1" else arn for arn in arns] for name, arns in functions.items()}


def options(**more: Any) -> Options:
    return Options(**{"all_using": True, "to": "2", "yes": True, **more})


def context(region: Region, workers: int = 8, disk: Disk | None = None) -> Context:
    environment = Environment(connect=lambda pace: region, disk=disk or MemoryDisk(), workers=workers)  # type: ignore[arg-type,return-value]
    return Context(environment, Output(out=io.StringIO(), err=io.StringIO()))


def roll_out(region: Region, path: Path, workers: int = 8, disk: Disk | None = None, **more: Any) -> int:
    return rollout.roll_out(context(region, workers, disk), options(**more), path)


def resume(region: Region, path: Path, **more: Any) -> int:
    return rollout.resume(context(region), options(**more), path)


def roll_back(region: Region, path: Path, workers: int = 8, disk: Disk | None = None) -> int:
    return undo.roll_back(context(region, workers, disk), FileLocation(path, disk or MemoryDisk()), yes=True)


def number_of_steps(tmp_path: Path, **more: Any) -> int:
    region = Region(fleet())
    if "alias" in more:
        with_aliases(region)
    process = MortalProcess(region, fatal=None)
    assert roll_out(region, tmp_path / "whole", workers=1, disk=process, **more) == 0
    return process.steps


def with_aliases(region: Region) -> Region:
    for name, arns in region.functions.items():
        region.published[name, "1"] = list(arns)
        region.aliases[name] = {"Name": "live", "FunctionVersion": "1", "RevisionId": "0"}
    return region


def die(region: Region, path: Path, fatal: int, workers: int, **more: Any) -> None:
    """Roll out until the process dies at the step `fatal`."""
    with pytest.raises(Crash):
        roll_out(region, path, workers, MortalProcess(region, fatal), **more)
    revive(region)


def revive(region: Region) -> None:
    region.on_call = region.after_call = lambda operation, name: None


def record_of(path: Path, name: str) -> Record:
    return next(record for record in journal.read(path).records.values() if record.name == name)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.long)])  # not 5, the steps of a function
def test_a_process_may_die_at_any_step_and_be_resumed(tmp_path: Path, stride: int) -> None:
    steps = number_of_steps(tmp_path)
    assert steps > 6 * FUNCTIONS
    for fatal in range(1, steps + 1, stride):
        before = fleet()
        region, path = Region(fleet()), tmp_path / f"{fatal}.jsonl"
        die(region, path, fatal, workers=1)
        for name, arns in region.functions.items():
            assert arns in (before[name], moved(before, 2)[name]), fatal
        assert resume(region, path) == 0, fatal
        assert region.functions == moved(before, 2), fatal
        assert len(region.updates) == FUNCTIONS, fatal  # none was changed twice
        history = journal.read(path)
        assert history.outcome == "done"
        assert not any(record.is_open or record.is_unconfirmed for record in history.records.values())


@pytest.mark.long
def test_a_process_may_die_at_any_step_and_be_rolled_back(tmp_path: Path) -> None:
    steps = number_of_steps(tmp_path)
    for fatal in range(FUNCTIONS, steps + 1, 3):
        region, path = Region(fleet()), tmp_path / f"{fatal}.jsonl"
        die(region, path, fatal, workers=1)
        assert roll_back(region, path) == 0
        assert region.functions == fleet(), fatal


@pytest.mark.long
def test_a_rollback_may_die_at_any_step_and_be_repeated(tmp_path: Path) -> None:
    for fatal in itertools.count(1):
        region, path = Region(fleet(8)), tmp_path / f"{fatal}.jsonl"
        roll_out(region, path)
        with suppress(Crash):
            roll_back(region, path, workers=1, disk=MortalProcess(region, fatal))
            break
        revive(region)
        assert roll_back(region, path) == 0
        assert region.functions == fleet(8), fatal
    assert fatal > 6 * 8


@pytest.mark.parametrize("seed", sample(range(25), 5))
def test_eight_threads_may_die_at_any_step(tmp_path: Path, seed: int) -> None:
    region, path = Region(fleet()), tmp_path / "journal"
    die(region, path, random.Random(seed).randint(1, 6 * FUNCTIONS), workers=8)
    assert resume(region, path) == 0
    assert region.functions == moved(fleet(), 2)
    assert len(region.updates) == FUNCTIONS


def test_a_function_that_was_probed_before_a_crash_is_not_invoked_again(tmp_path: Path) -> None:
    region, path = with_aliases(Region(fleet(1))), tmp_path / "journal"
    invoked = []

    def die_after_the_probe(operation: str, name: str) -> None:
        if operation == "publish_version":
            raise Crash
        if operation == "invoke":
            invoked.append(name)

    region.on_call = die_after_the_probe
    with pytest.raises(Crash):
        roll_out(region, path, workers=1, alias="live", probe="{}")
    region.on_call = lambda operation, name: invoked.append(name) if operation == "invoke" else None
    assert resume(region, path, alias="live", probe="{}") == 0
    assert invoked == ["f-00"]


@pytest.mark.long
def test_a_process_may_die_while_it_publishes_and_moves_aliases(tmp_path: Path) -> None:
    steps = number_of_steps(tmp_path, alias="live")
    for fatal in range(3 * FUNCTIONS, steps + 1, 11):
        region, path = with_aliases(Region(fleet())), tmp_path / f"{fatal}.jsonl"
        die(region, path, fatal, workers=1, alias="live")
        assert resume(region, path, alias="live") == 0
        assert region.functions == moved(fleet(), 2)
        for name in ("f-00", "f-39"):
            assert region.aliases[name]["FunctionVersion"] == "2", fatal
            assert region.published[name, "2"] == region.functions[name]
        assert ("f-00", "3") not in region.published
        assert roll_back(region, path) == 0
        assert {alias["FunctionVersion"] for alias in region.aliases.values()} == {"1"}, fatal
        assert region.functions == fleet()


@pytest.mark.long
def test_resume_rolls_back_after_a_failure_and_a_crash(tmp_path: Path) -> None:
    region = Region(fleet())
    region.failing = {"f-20"}
    process = MortalProcess(region, fatal=None)
    assert roll_out(region, tmp_path / "whole", workers=1, disk=process) == 1
    for fatal in range(process.steps - 170, process.steps, 2):
        region, path = Region(fleet()), tmp_path / f"{fatal}.jsonl"
        region.failing = {"f-20"}
        die(region, path, fatal, workers=1)
        region.failing = set()
        status = resume(region, path)
        outcome = {0: moved(fleet(), 2), 1: fleet()}[status]
        assert region.functions == outcome, fatal


# Two roll-outs at the same time


def at_once(*runs: Any) -> list[int]:
    results: list[int] = []
    threads = [threading.Thread(target=lambda run=run: results.append(run())) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("attempt", sample(range(10), 3))
def test_two_roll_outs_with_one_target_share_the_work(tmp_path: Path, attempt: int) -> None:
    region = Region(fleet())
    statuses = at_once(lambda: roll_out(region, tmp_path / "one"), lambda: roll_out(region, tmp_path / "two"))
    assert statuses == [0, 0]
    assert region.functions == moved(fleet(), 2)
    assert len(region.updates) == FUNCTIONS
    done = [len(journal.read(tmp_path / name).changed) for name in ("one", "two")]
    assert sum(done) == FUNCTIONS  # each counts only its own updates


@pytest.mark.parametrize("attempt", sample(range(10), 3))
def test_two_roll_outs_with_different_targets_do_not_overwrite_each_other(tmp_path: Path, attempt: int) -> None:
    region = Region(fleet())

    at_once(lambda: roll_out(region, tmp_path / "one"), lambda: roll_out(region, tmp_path / "two", to="3"))
    assert len(region.updates) <= 4 * FUNCTIONS
    for name, arns in region.functions.items():
        assert arns in (fleet()[name], moved(fleet(), 2)[name], moved(fleet(), 3)[name])


def test_a_version_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    region = Region(fleet())
    asked = []

    def interfere(operation: str, name: str) -> None:
        if operation == "update_function_configuration" and name == "f-03" and not asked:
            asked.append(name)
            region.change("f-03", moved(fleet(), 3)["f-03"])

    region.on_call = interfere
    assert roll_out(region, tmp_path / "journal") == 1
    assert region.functions == fleet() | {"f-03": moved(fleet(), 3)["f-03"]}


def test_a_function_with_another_change_meanwhile_is_planned_again(tmp_path: Path) -> None:
    region = Region(fleet())
    asked: set[str] = set()

    def interfere(operation: str, name: str) -> None:
        if operation == "update_function_configuration" and name not in asked:
            asked.add(name)
            region.change(name, [*region.functions[name], BEFORE] if name == "f-00" else None)

    region.on_call = interfere
    assert roll_out(region, tmp_path / "journal") == 0
    assert region.functions == moved(fleet(), 2) | {"f-00": [f"{OURS}:2", BEFORE]}


def test_the_roll_out_waits_for_an_update_in_progress(tmp_path: Path) -> None:
    region = Region(fleet())
    region.busy = dict.fromkeys(region.functions, 2)
    assert roll_out(region, tmp_path / "journal") == 0
    assert region.functions == moved(fleet(), 2)


def test_the_pause_after_a_conflict_grows_with_each_attempt() -> None:
    region = Region(fleet())
    functions = Functions(region, region.region(None))  # type: ignore[arg-type]
    assert [list(functions.wait_while_busy("f-00", attempt)) for attempt in (1, 2, 3)] == [[1.0], [2.0], [3.0]]


def test_an_alias_is_moved_when_its_version_is_active(tmp_path: Path) -> None:
    region = with_aliases(Region(fleet()))
    looks: Counter[str] = Counter()
    states = []

    def activate(operation: str, name: str) -> None:
        if operation == "get_function" and (name, "2") in region.published:
            looks[name] += 1
            region.published_settings[name, "2"] = {"State": "Active" if looks[name] == 3 else "Pending"}
        elif operation == "update_alias":
            states.append(region.published_settings[name, "2"].get("State"))

    region.on_call = activate
    assert roll_out(region, tmp_path / "journal", alias="live") == 0
    assert set(states) == {"Active"}


def test_an_update_whose_response_is_lost_is_recognized(tmp_path: Path) -> None:
    region, path = Region(fleet()), tmp_path / "journal"
    lost: set[str] = set()

    def lose(operation: str, name: str) -> None:
        if operation == "update_function_configuration" and name not in lost:
            lost.add(name)
            raise ConnectionClosedError(endpoint_url="http://127.0.0.1")

    region.after_call = lose
    assert roll_out(region, path) == 0
    assert len(lost) == len(region.updates) == FUNCTIONS
    assert roll_back(region, path) == 0
    assert region.functions == fleet()


def test_a_function_that_somebody_keeps_changing_fails(tmp_path: Path) -> None:
    region = Region(fleet())
    region.on_call = lambda operation, name: (
        region.change(name) if (operation, name) == ("update_function_configuration", "f-05") else None
    )
    assert roll_out(region, tmp_path / "journal") == 1
    assert region.functions == fleet()


# What is rolled back, and what is not


def test_one_failure_rolls_back_everything_newest_first(tmp_path: Path) -> None:
    region = Region(fleet())
    region.failing = {"f-30"}
    assert roll_out(region, tmp_path / "journal", workers=1) == 1
    assert region.functions == fleet()
    names = [name for name, _ in region.updates]
    forwards, backwards = names[:31], names[31:]
    assert backwards == forwards[::-1]
    assert journal.read(tmp_path / "journal").outcome == "rolled back"


class SlowDisk(MemoryDisk):
    """Takes so long to write `stop` that all other threads reach the same point in the meantime."""

    def write(self, file: int, data: bytes) -> int:
        if b'"stop"' in data:
            time.sleep(0.2)
        return super().write(file, data)


class SlowTerminal(io.StringIO):
    """Takes so long to show a failure that all other threads have recorded theirs in the meantime."""

    def write(self, text: str) -> int:
        if "failed" in text:
            time.sleep(0.01)
        return super().write(text)


def test_failures_at_the_same_time_stop_the_roll_out_once_and_everything_is_rolled_back(tmp_path: Path) -> None:
    region, path = Region(fleet()), tmp_path / "journal"
    failing = {f"f-{number:02}" for number in range(WORKERS, 2 * WORKERS)}
    together = threading.Barrier(WORKERS)

    def fail(operation: str, name: str) -> None:
        if operation == "update_function_configuration" and name in failing:
            failing.remove(name)
            together.wait(WAIT)
            raise refusal(403, "AccessDeniedException")

    region.on_call = fail
    environment = Environment(connect=lambda pace: region, disk=SlowDisk(), workers=WORKERS)  # type: ignore[arg-type,return-value]
    slow = Context(environment, Output(out=io.StringIO(), err=SlowTerminal()))
    assert rollout.roll_out(slow, options(), path) == 1
    assert region.functions == fleet()
    assert path.read_text().count('"event": "stop"') == 1
    assert journal.read(path).outcome == "rolled back"


def test_a_tolerated_failure_is_rolled_back_at_once_and_alone(tmp_path: Path) -> None:
    region, before = Region(fleet()), fleet()
    region.failing = {"f-10", "f-20"}
    assert roll_out(region, tmp_path / "journal", workers=1, max_failures=2) == 1
    assert region.functions == moved(before, 2) | {name: before[name] for name in region.failing}
    assert region.updates.index(("f-10", before["f-10"])) < region.updates.index(("f-11", moved(before, 2)["f-11"]))


def test_a_failing_canary_stops_the_roll_out(tmp_path: Path) -> None:
    region = Region(fleet())
    region.failing = {"f-01"}
    assert roll_out(region, tmp_path / "journal", max_failures=9, canary=2) == 1
    assert region.functions == fleet()
    assert {name for name, _ in region.updates} == {"f-00", "f-01"}


def test_an_update_that_does_not_end_is_a_failure(tmp_path: Path) -> None:
    region, path = Region({"f": [f"{OURS}:1"]}), tmp_path / "journal"

    def stay_pending(operation: str, name: str) -> None:
        if operation == "update_function_configuration":
            region.settings[name] = {"State": "Pending"}

    region.after_call = stay_pending
    assert roll_out(region, path) == 1
    assert record_of(path, "f").reason == "the update is not complete after 300 polls"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"errorType": "ValueError", "errorMessage": "no"}', "ValueError: no"),
        (b"a part of a stream \xff", "a part of a stream \\xff"),
        (b"[1]", "[1]"),
    ],
)
def test_a_probe_that_fails_is_reported_with_its_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: bytes, reason: str
) -> None:
    region, path = Region({"f": [f"{OURS}:1"]}), tmp_path / "journal"
    response = {"StatusCode": 200, "FunctionError": "Unhandled", "Payload": io.BytesIO(payload)}
    monkeypatch.setattr(region, "invoke", lambda **_: response)
    assert roll_out(region, path, probe="{}") == 1
    assert record_of(path, "f").reason == f"the probe failed: {reason}"
    assert region.functions == {"f": [f"{OURS}:1"]}


def test_a_function_that_is_up_to_date_is_no_canary(tmp_path: Path) -> None:
    functions = fleet() | {"f-00": [f"{OURS}:2"]}
    region = Region(functions.copy())
    region.failing = {"f-01"}
    assert roll_out(region, tmp_path / "journal", max_failures=9, canary=1) == 1
    assert region.functions == functions
    assert {name for name, _ in region.updates} == {"f-01"}


def test_functions_that_somebody_changed_since_are_left_alone(tmp_path: Path) -> None:
    region, path = Region(fleet()), tmp_path / "journal"
    roll_out(region, path)
    region.change("f-02", [OTHER])  # without the layer of the roll-out
    region.change("f-04")  # something else than layers
    assert roll_back(region, path) == 1
    assert region.functions == fleet() | {"f-02": [OTHER]}
    assert record_of(path, "f-02").state is FunctionState.LEFT_ALONE


def test_expired_credentials_stop_the_roll_out_and_it_can_be_resumed(tmp_path: Path) -> None:
    region, path = Region(fleet()), tmp_path / "journal"
    calls = itertools.count()

    def expire(operation: str, name: str) -> None:
        if operation == "update_function_configuration" and next(calls) >= 10:
            raise refusal(403, "ExpiredTokenException")

    region.on_call = expire
    with pytest.raises(ToolError, match=r"has expired.*--resume"):
        roll_out(region, path)
    assert 10 <= len(region.updates) < FUNCTIONS
    region.on_call = lambda operation, name: None
    assert resume(region, path) == 0
    assert region.functions == moved(fleet(), 2)


# The rules, for any list

ARNS = st.lists(
    st.sampled_from([BEFORE, OTHER, f"{OURS}:1", "arn:aws:lambda:eu-central-1:999999999999:layer:far:7"]),
    unique=True,
    max_size=5,
)


@examples(50)
@given(lists=st.lists(ARNS, min_size=1, max_size=12), fatal=st.integers(1, 120), back=st.booleans())
def test_only_our_layer_changes_in_any_list_of_layers(
    lists: list[list[str]], fatal: int, back: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    functions = {f"f-{number:02}": arns for number, arns in enumerate(lists)} | {"sure": [f"{OURS}:1"]}
    region, path = Region({name: list(arns) for name, arns in functions.items()}), tmp_path_factory.mktemp("j") / "j"
    region.versions |= {arn for arns in lists for arn in arns}
    with suppress(pytest.fail.Exception):  # complete before the fatal step
        die(region, path, fatal, workers=1)
    revive(region)
    if back and path.exists() and journal.read(path).records:
        assert roll_back(region, path) == 0
        assert region.functions == functions
        return
    assert resume(region, path) == 0
    assert region.functions == moved(functions, 2)
