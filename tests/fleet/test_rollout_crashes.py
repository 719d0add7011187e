"""Roll-outs that die at any step, and pairs of them: every function is as before or right, and the journal can go on.

AWS Lambda is a dict here (see ``lambda_in_memory``); real processes, killed, are in ``test_rollout.py``.
"""

from __future__ import annotations

import itertools
import random
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.lambda_in_memory import BEFORE, OTHER, OURS, Crash, Mortal, Region, refusal

from tools.common import output as terminal
from tools.fleet import FleetError
from tools.fleet.aws import functions
from tools.fleet.commands import rollout
from tools.fleet.rollout import engine as carry_out
from tools.fleet.rollout import journal
from tools.fleet.rollout import rollback as put_back
from tools.fleet.rollout.options import Request
from tools.packaging import manifest

MANIFEST = manifest.load(rollout.ROOT / manifest.FILE_NAME)
FUNCTIONS = 40
LISTS = ([f"{OURS}:1"], [BEFORE, f"{OURS}:1"], [f"{OURS}:1", OTHER], [BEFORE, f"{OURS}:1", OTHER])


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "remark", lambda text: None)
    monkeypatch.setattr(functions, "_SECONDS_BETWEEN_LOOKS", 0)
    monkeypatch.setattr("builtins.print", lambda *_, **__: None)


def fleet(count: int = FUNCTIONS) -> dict[str, list[str]]:
    """Functions with our layer in every place among others, and some without it."""
    lists = itertools.cycle(LISTS)
    with_layer = {f"f-{number:02}": list(next(lists)) for number in range(count)}
    return with_layer | {"without": [BEFORE, OTHER], "bare": []}


def moved(functions: dict[str, list[str]], to: int) -> dict[str, list[str]]:
    return {name: [f"{OURS}:{to}" if arn == f"{OURS}:1" else arn for arn in arns] for name, arns in functions.items()}


def request(**more: Any) -> Request:
    return Request("rollout", all_using=True, to="2", yes=True, **more)


def roll_out(region: Region, path: Path, **more: Any) -> int:
    return rollout.roll_out(region, MANIFEST, request(**more), path, dry_run=False, as_json=False)


def resume(region: Region, path: Path, **more: Any) -> int:
    return rollout.resume(region, MANIFEST, request(**more), path, dry_run=False, as_json=False)


def roll_back(region: Region, path: Path) -> int:
    return rollout.roll_back(region, path, None, yes=True, dry_run=False, as_json=False)


def alone(patch: pytest.MonkeyPatch, workers: int = 1) -> None:
    """Let one thread do it all, so that every run takes the same steps."""
    for module in (carry_out, put_back):
        patch.setattr(module, "WORKERS", workers)


def number_of_steps(tmp_path: Path, **more: Any) -> int:
    with pytest.MonkeyPatch.context() as patch:
        alone(patch)
        region = with_aliases(Region(fleet()))
        life = Mortal(region, patch, fatal=None)
        assert roll_out(region, tmp_path / "whole", **more) == 0
        return life.steps


def with_aliases(region: Region) -> Region:
    for name, arns in region.functions.items():
        region.published[name, "1"] = list(arns)
        region.aliases[name] = {"Name": "live", "FunctionVersion": "1", "RevisionId": "0"}
    return region


def die(region: Region, path: Path, fatal: int, workers: int, **more: Any) -> None:
    """Roll out until the step ``fatal``; the file lock goes with the process."""
    with pytest.MonkeyPatch.context() as patch:
        opened: list[int] = []
        alone(patch, workers)
        patch.setattr(journal, "_open", lambda *words, real=journal._open: opened.append(real(*words)) or opened[-1])
        patch.setattr(journal.Journal, "discard", lambda self: None)
        patch.setattr(journal.Journal, "close", lambda self: None)
        Mortal(region, patch, fatal)
        try:
            with pytest.raises(Crash):
                roll_out(region, path, **more)
        finally:
            for file in opened:
                journal.os.close(file)
    region.on_call = region.after_call = lambda operation, name: None


def test_it_may_die_at_any_step_and_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = number_of_steps(tmp_path)
    assert steps > 7 * FUNCTIONS
    monkeypatch.setattr(journal.os, "fsync", lambda file: None)
    for fatal in range(1, steps + 1):
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
        assert not any(record.is_open for record in history.records.values())


def test_it_may_die_at_any_step_and_be_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = number_of_steps(tmp_path)
    monkeypatch.setattr(journal.os, "fsync", lambda file: None)
    for fatal in range(FUNCTIONS, steps + 1, 3):
        region, path = Region(fleet()), tmp_path / f"{fatal}.jsonl"
        die(region, path, fatal, workers=1)
        assert roll_back(region, path) == 0
        assert region.functions == fleet(), fatal


def test_its_rollback_may_die_at_any_step_and_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal.os, "fsync", lambda file: None)
    for fatal in itertools.count(1):
        region, path = Region(fleet(8)), tmp_path / f"{fatal}.jsonl"
        roll_out(region, path)
        with pytest.MonkeyPatch.context() as patch:
            alone(patch)
            Mortal(region, patch, fatal)
            with suppress(Crash):
                roll_back(region, path)
                break
        region.on_call = region.after_call = lambda operation, name: None
        assert roll_back(region, path) == 0
        assert region.functions == fleet(8), fatal
    assert fatal > 6 * 8


@pytest.mark.parametrize("seed", range(25))
def test_eight_threads_may_die_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(journal.os, "fsync", lambda file: None)
    region, path = Region(fleet()), tmp_path / "journal"
    die(region, path, random.Random(seed).randint(1, 7 * FUNCTIONS), workers=8)
    assert resume(region, path) == 0
    assert region.functions == moved(fleet(), 2)
    assert len(region.updates) == FUNCTIONS


def test_it_may_die_at_any_step_of_publishing_and_moving_an_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = number_of_steps(tmp_path, alias="live")
    monkeypatch.setattr(journal.os, "fsync", lambda file: None)
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


def test_a_failure_that_is_followed_by_death_is_put_back_by_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal.os, "fsync", lambda file: None)
    region = Region(fleet())
    region.failing = {"f-20"}
    with pytest.MonkeyPatch.context() as patch:
        alone(patch)
        life = Mortal(region, patch, fatal=None)
        assert roll_out(region, tmp_path / "whole") == 1
    for fatal in range(life.steps - 130, life.steps, 2):
        region, path = Region(fleet()), tmp_path / f"{fatal}.jsonl"
        region.failing = {"f-20"}
        die(region, path, fatal, workers=1)
        region.failing = set()
        status = resume(region, path)
        outcome = {0: moved(fleet(), 2), 1: fleet()}[status]
        assert region.functions == outcome, fatal


# Two at once


def at_once(*runs: Any) -> list[int]:
    results: list[int] = []
    threads = [threading.Thread(target=lambda run=run: results.append(run())) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("attempt", range(10))
def test_two_at_once_with_one_goal_share_the_work(tmp_path: Path, attempt: int) -> None:
    region = Region(fleet())
    statuses = at_once(lambda: roll_out(region, tmp_path / "one"), lambda: roll_out(region, tmp_path / "two"))
    assert statuses == [0, 0]
    assert region.functions == moved(fleet(), 2)
    assert len(region.updates) == FUNCTIONS
    done = [len(journal.read(tmp_path / name).touched) for name in ("one", "two")]
    assert sum(done) == FUNCTIONS  # each counts as its own what it did itself


@pytest.mark.parametrize("attempt", range(10))
def test_two_at_once_with_two_goals_do_not_fight(tmp_path: Path, attempt: int) -> None:
    region = Region(fleet())

    def other() -> int:
        wanted = Request("rollout", all_using=True, to="3", yes=True)
        return rollout.roll_out(region, MANIFEST, wanted, tmp_path / "two", dry_run=False, as_json=False)

    at_once(lambda: roll_out(region, tmp_path / "one"), other)
    assert len(region.updates) <= 4 * FUNCTIONS
    for name, arns in region.functions.items():
        assert arns in (fleet()[name], moved(fleet(), 2)[name], moved(fleet(), 3)[name])


def test_somebody_elses_version_is_not_overwritten(tmp_path: Path) -> None:
    region = Region(fleet())
    asked = []

    def interfere(operation: str, name: str) -> None:
        if operation == "update_function_configuration" and name == "f-03" and not asked:
            asked.append(name)
            region.change("f-03", moved(fleet(), 3)["f-03"])

    region.on_call = interfere
    assert roll_out(region, tmp_path / "journal") == 1
    assert region.functions == fleet() | {"f-03": moved(fleet(), 3)["f-03"]}


def test_a_change_of_something_else_meanwhile_is_planned_anew(tmp_path: Path) -> None:
    region = Region(fleet())
    asked: set[str] = set()

    def interfere(operation: str, name: str) -> None:
        if operation == "update_function_configuration" and name not in asked:
            asked.add(name)
            region.change(name, [*region.functions[name], BEFORE] if name == "f-00" else None)

    region.on_call = interfere
    assert roll_out(region, tmp_path / "journal") == 0
    assert region.functions == moved(fleet(), 2) | {"f-00": [f"{OURS}:2", BEFORE]}


def test_an_update_in_progress_is_waited_for(tmp_path: Path) -> None:
    region = Region(fleet())
    region.busy = dict.fromkeys(region.functions, 2)
    assert roll_out(region, tmp_path / "journal") == 0
    assert region.functions == moved(fleet(), 2)


def test_a_change_whose_answer_is_lost_is_known_to_be_its_own(tmp_path: Path) -> None:
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


def test_a_function_that_somebody_changes_all_the_time_is_given_up(tmp_path: Path) -> None:
    region = Region(fleet())
    region.on_call = lambda operation, name: (
        region.change(name) if (operation, name) == ("update_function_configuration", "f-05") else None
    )
    assert roll_out(region, tmp_path / "journal") == 1
    assert region.functions == fleet()


# What is put back, and what is not


def test_one_failure_puts_back_everything_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch)
    region = Region(fleet())
    region.failing = {"f-30"}
    assert roll_out(region, tmp_path / "journal") == 1
    assert region.functions == fleet()
    names = [name for name, _ in region.updates]
    forwards, backwards = names[:31], names[31:]
    assert backwards == forwards[::-1]
    assert journal.read(tmp_path / "journal").outcome == "put back"


def test_failures_up_to_the_limit_are_put_back_alone_and_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone(monkeypatch)
    region, before = Region(fleet()), fleet()
    region.failing = {"f-10", "f-20"}
    assert roll_out(region, tmp_path / "journal", max_failures=2) == 1
    assert region.functions == moved(before, 2) | {name: before[name] for name in region.failing}
    assert region.updates.index(("f-10", before["f-10"])) < region.updates.index(("f-11", moved(before, 2)["f-11"]))


def test_a_canary_that_fails_is_one_failure_too_many(tmp_path: Path) -> None:
    region = Region(fleet())
    region.failing = {"f-01"}
    assert roll_out(region, tmp_path / "journal", max_failures=9, canary=2) == 1
    assert region.functions == fleet()
    assert {name for name, _ in region.updates} == {"f-00", "f-01"}


def test_what_somebody_changed_since_is_left_alone_and_told(tmp_path: Path) -> None:
    region, path = Region(fleet()), tmp_path / "journal"
    roll_out(region, path)
    region.change("f-02", [OTHER, *region.functions["f-02"][:1]])
    region.change("f-04")  # something else than layers
    assert roll_back(region, path) == 1
    assert region.functions == fleet() | {"f-02": [OTHER, f"{OURS}:2"]}
    assert (
        journal.read(path).records[next(arn for arn in journal.read(path).records if arn.endswith("f-02"))].state
        == "left"
    )


def test_lost_credentials_stop_it_and_it_can_be_resumed(tmp_path: Path) -> None:
    region, path = Region(fleet()), tmp_path / "journal"
    calls = itertools.count()

    def expire(operation: str, name: str) -> None:
        if operation == "update_function_configuration" and next(calls) >= 10:
            raise refusal(403, "ExpiredTokenException")

    region.on_call = expire
    with pytest.raises(FleetError, match=r"has expired.*--resume"):
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


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=st.lists(ARNS, min_size=1, max_size=12), fatal=st.integers(1, 120), back=st.booleans())
def test_whatever_the_lists_only_our_layer_moves(
    lists: list[list[str]], fatal: int, back: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    functions = {f"f-{number:02}": arns for number, arns in enumerate(lists)} | {"sure": [f"{OURS}:1"]}
    region, path = Region({name: list(arns) for name, arns in functions.items()}), tmp_path_factory.mktemp("j") / "j"
    region.versions |= {arn for arns in lists for arn in arns}
    with suppress(pytest.fail.Exception):  # it came to its end before the fatal step
        die(region, path, fatal, workers=1)
    region.on_call = region.after_call = lambda operation, name: None
    if back and path.exists() and journal.read(path).records:
        assert roll_back(region, path) == 0
        assert region.functions == functions
        return
    assert resume(region, path) == 0
    assert region.functions == moved(functions, 2)
