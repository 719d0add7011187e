"""Outages of the network or of AWS during a roll-out, lost responses, and expired credentials.

The clock advances in pauses only (see `clock`), so an outage of a minute takes no time.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from support.clock import Clock
from support.cloud import OURS, Cloud, no_pauses
from support.lambda_in_memory import MemoryDisk, Region, refusal
from support.lambda_standin import Call

from tools.common.errors import ToolError
from tools.common.output import Output
from tools.fleet.aws.pace import Pace
from tools.fleet.aws.retries import Patience, Retries, Retry
from tools.fleet.commands import rollout, undo
from tools.fleet.commands.interface import Context, Environment
from tools.fleet.rollout import journal
from tools.fleet.rollout.history import Record
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.storage import FileLocation

UPDATE = "UpdateFunctionConfiguration"
NAMES = [f"f-{number}" for number in range(6)]
WORDS = ["rollout", "--all-using", "--to", "2", "--yes", "--journal"]

# Connections that break before or after AWS carries the call out, server errors, and throttling
FAULTS = ["after", 429, *(pytest.param(fault, marks=pytest.mark.long) for fault in ("before", 500))]

# --- The pauses


def test_pauses_grow_to_eight_seconds_and_are_random_and_end_after_a_minute() -> None:
    pauses: list[float] = []
    jitter = itertools.cycle([0.0, 1.0])
    clock = Clock()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.sleep(seconds)

    patience = Patience(Retries(Pace(sleep=sleep, clock=clock, jitter=lambda: next(jitter))), UPDATE)
    while patience.pause("no response"):
        pass
    assert pauses[:7] == [0.25, 1.0, 1.0, 4.0, 4.0, 8.0, 4.0]
    assert sum(pauses) == 60


def test_a_failure_is_an_outage_only_if_no_other_request_of_the_operation_had_a_response_lately() -> None:
    clock = Clock()
    retries = Retries(Pace(sleep=clock.sleep, clock=clock))
    patience = Patience(retries, UPDATE)
    clock.sleep(1)
    retries.responded(UPDATE)  # to a request that was sent before the outage
    clock.sleep(59)
    retries.responded("GetFunction")
    assert patience.is_outage
    retries.responded(UPDATE)
    assert not patience.is_outage


def test_after_an_outage_other_calls_do_not_wait_for_it_again() -> None:
    clock = Clock()
    retries = Retries(Pace(sleep=clock.sleep, clock=clock))
    first = Patience(retries, UPDATE)
    while first.pause("no response"):
        pass
    second = Patience(retries, "GetFunction")
    assert not second.pause("no response") and second.is_outage
    retries.responded("GetFunction")
    assert second.pause("no response")


# --- Outages


@pytest.fixture
def fleet(cloud: Cloud) -> Cloud:
    return cloud.with_functions(NAMES)


def all_at(version: int) -> dict[str, list[str]]:
    return {name: [f"{OURS}:{version}"] for name in NAMES}


def outage(fault: int | str, begin: int, length: float, pace: Pace) -> Callable[[Call], int | str | None]:
    """Return faults for all calls of AWS Lambda, from the update number `begin` on, for `length` seconds."""
    start: list[float] = []
    updates: list[Call] = []

    def during(call: Call) -> int | str | None:
        updates.extend([call] if call.operation == UPDATE else [])
        if len(updates) >= begin and not start:
            start.append(pace.clock())
        is_now = bool(start) and pace.clock() < start[0] + length
        return fault if is_now and call.service == "lambda" else None

    return during


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_of_seconds_is_waited_for_and_shown(fleet: Cloud, fault: int | str) -> None:
    pace = no_pauses()
    fleet.standin.faults.on = outage(fault, begin=3, length=20, pace=pace)
    result = fleet.run(*WORDS, "journal", pace=pace)
    assert result.returncode == 0, result.stderr
    assert fleet.fleet() == all_at(2)
    notes = [line for line in result.stderr.splitlines() if line.startswith("waiting for AWS: ")]
    assert notes and all(line.endswith(" s") and "failed (" in line for line in notes)
    assert fleet.run("rollback", "journal", "--yes").returncode == 0
    assert fleet.fleet() == all_at(1)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_long_outage_stops_the_roll_out_and_it_continues_forward(fleet: Cloud, fault: int | str) -> None:
    pace = no_pauses()
    fleet.standin.faults.on = outage(fault, begin=3, length=10_000, pace=pace)
    # One worker: the minutes of this clock take no time, so the response to another's request could seem to come late.
    result = fleet.run(*WORDS, "journal", "--workers", "1", pace=pace)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("build.sh: error: gave up after ")
    assert "of 6 functions " in last
    assert "; continue with ./build.sh rollout --resume journal --forward, or undo" in last
    assert "rolled back" not in result.stderr
    fleet.standin.faults.on = lambda call: None
    fleet.done("rollout", "--resume", "journal", "--forward")
    assert fleet.fleet() == all_at(2)
    fleet.done("rollback", "journal", "--yes")
    assert fleet.fleet() == all_at(1)


def test_an_interrupted_roll_out_can_be_resumed_backward(fleet: Cloud) -> None:
    pace = no_pauses()
    fleet.standin.faults.on = outage("before", begin=4, length=10_000, pace=pace)
    assert fleet.run(*WORDS, "journal", "--workers", "1", pace=pace).returncode == 1
    fleet.standin.faults.on = lambda call: None
    fleet.done("rollout", "--resume", "journal", "--back", "--yes")
    assert fleet.fleet() == all_at(1)


def test_retries_are_json_lines_with_json(fleet: Cloud) -> None:
    pace = no_pauses()
    fleet.standin.faults.on = outage(500, begin=1, length=5, pace=pace)
    result = fleet.run(*WORDS, "journal", "--json", pace=pace)
    assert result.returncode == 0
    retries = [line for line in map(json.loads, result.stderr.splitlines()[1:]) if "retry" in line]
    assert retries and retries[0]["reason"] == "ServiceException" and retries[0]["secondsLeft"] <= 60


@pytest.mark.parametrize("words", [["--forward"], ["--back"]])
def test_a_direction_needs_resume(fleet: Cloud, words: list[str]) -> None:
    message = fleet.refusal("rollout", "f-1", *words, status=2)
    assert message.startswith("--forward and --back are directions of --resume")
    assert "not allowed with argument" in fleet.refusal("rollout", "--resume", "j", "--back", "--forward", status=2)


def test_a_roll_out_that_is_rolled_back_does_not_go_forward(fleet: Cloud) -> None:
    fleet.done(*WORDS, "journal")
    fleet.standin.faults.on = lambda call: "before" if call.service == "lambda" else None
    assert fleet.run("rollback", "journal", "--yes").returncode == 1
    fleet.standin.faults.on = lambda call: None
    message = fleet.refusal("rollout", "--resume", "journal", "--forward")
    assert message.startswith("journal is being rolled back (rollback): omit --forward")


# --- Lost responses of writes


def context(region: Region) -> Context:
    environment = Environment(connect=lambda pace: region, disk=MemoryDisk())  # type: ignore[arg-type,return-value]
    return Context(environment, Output(out=io.StringIO(), err=io.StringIO()))


def roll_out(region: Region, path: Path, **more: Any) -> int:
    return rollout.roll_out(context(region), Options(all_using=True, to="2", yes=True, **more), path)


def resume(region: Region, path: Path, direction: rollout.Direction | None = None) -> int:
    return rollout.resume(context(region), Options(yes=True), path, direction=direction)


def memory_fleet() -> Region:
    return Region({name: [f"{OURS}:1"] for name in NAMES})


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_an_update_that_takes_effect_late_is_recognized(tmp_path: Path, delay: int) -> None:
    """AWS carries out the first update after `delay` further calls; the response was lost."""
    region, path = memory_fleet(), tmp_path / "journal"
    late: list[str] = []
    calls = itertools.count()

    def lose(operation: str, name: str) -> None:
        if name != "f-2":
            return
        if operation == "update_function_configuration" and not late:
            late.append(name)
            raise ConnectionClosedError(endpoint_url="http://127.0.0.1")
        if late and next(calls) == delay:
            region.change("f-2", [f"{OURS}:2"])

    region.on_call = lose
    assert roll_out(region, path) == 0
    region.on_call = lambda operation, name: None
    assert region.functions == all_at(2)
    assert undo.roll_back(context(region), FileLocation(path, MemoryDisk()), yes=True) == 0
    assert region.functions == all_at(1)


def test_a_lost_update_is_read_back_before_the_next_one(tmp_path: Path) -> None:
    region = memory_fleet()
    calls: list[str] = []

    def lose(operation: str, name: str) -> None:
        if name == "f-2":
            calls.append(operation)
            if calls.count("update_function_configuration") in (1, 2) and operation.startswith("update"):
                raise ConnectionClosedError(endpoint_url="http://127.0.0.1")

    region.on_call = lose
    assert roll_out(region, tmp_path / "journal") == 0
    first = calls.index("update_function_configuration")
    assert calls[first : first + 5] == [
        "update_function_configuration",
        "get_function",
        "update_function_configuration",
        "get_function",
        "update_function_configuration",
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionClosedError(endpoint_url="http://127.0.0.1"), "no response"),
        (refusal(500, "ServiceException"), "ServiceException"),
    ],
)
def test_an_update_that_always_fails_is_repeated_for_a_minute_with_pauses(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    region, attempts, pauses = memory_fleet(), itertools.count(1), list[Retry]()

    def fail(operation: str, name: str) -> None:
        if operation == "update_function_configuration":
            assert next(attempts) < 100
            raise error

    region.on_call = fail
    region.all_retries.listener = pauses.append
    with pytest.raises(ToolError, match=r"gave up after \d+ s: .* continue with "):
        roll_out(region, tmp_path / "journal")
    assert {pause.reason for pause in pauses} == {reason}
    assert sum(pause.pause for pause in pauses) > 50


# --- Probes


def probed(path: Path, name: str) -> Record:
    return next(record for record in journal.read(path).records.values() if record.name == name)


@pytest.mark.parametrize("fault", ["before", "after", 500])
def test_a_function_whose_probe_got_no_response_is_not_invoked_again(fleet: Cloud, fault: int | str) -> None:
    fleet.standin.faults.on = lambda call: fault if call.operation == "Invoke" else None
    result = fleet.run(*WORDS, "journal", "--canary", "1", "--probe", "{}")
    assert result.returncode == 1
    assert "the response to the probe of f-0 was lost" in result.stderr
    assert "1 of 6 functions has the new version; continue with ./build.sh rollout --resume journal" in result.stderr
    assert fleet.standin.counted()["Invoke"] == 1
    fleet.standin.faults.on = lambda call: None
    message = fleet.refusal("rollout", "--resume", "journal")
    assert message.startswith("the result of the probe is unknown for f-0, and no function is invoked twice: look at")
    fleet.done("rollout", "--resume", "journal", "--forward")
    assert fleet.standin.counted()["Invoke"] == 1
    assert fleet.fleet() == all_at(2)


def test_a_function_whose_probe_got_no_response_can_be_restored(fleet: Cloud) -> None:
    fleet.standin.faults.on = lambda call: "after" if call.operation == "Invoke" else None
    assert fleet.run(*WORDS, "journal", "--canary", "1", "--probe", "{}").returncode == 1
    fleet.standin.faults.on = lambda call: None
    fleet.done("rollout", "--resume", "journal", "--back", "--yes")
    assert fleet.standin.counted()["Invoke"] == 1
    assert fleet.fleet() == all_at(1)


def test_a_throttled_probe_is_repeated_because_the_function_was_not_invoked(fleet: Cloud) -> None:
    throttled: list[Call] = []

    def throttle(call: Call) -> int | None:
        if call.operation != "Invoke" or len(throttled) == 3:
            return None
        throttled.append(call)
        return 429

    fleet.standin.faults.on = throttle
    fleet.done(*WORDS, "journal", "--canary", "1", "--probe", "{}")
    assert [name for name, _ in fleet.standin.invoked] == ["f-0"]


def test_expired_credentials_at_a_probe_stop_and_the_probe_is_sent_after_resume(tmp_path: Path) -> None:
    region, path = memory_fleet(), tmp_path / "journal"

    def expire(operation: str, name: str) -> None:
        if operation == "invoke":
            raise refusal(403, "ExpiredTokenException")

    region.on_call = expire
    with pytest.raises(ToolError, match=r"has expired.*1 of 6 functions has the new version; continue .* --forward"):
        roll_out(region, path, canary=1, probe="{}")
    assert region.functions == all_at(1) | {"f-0": [f"{OURS}:2"]}
    assert probed(path, "f-0").probe is None
    invoked: list[str] = []
    region.on_call = lambda operation, name: invoked.append(name) if operation == "invoke" else None
    assert resume(region, path, rollout.Direction.FORWARD) == 0
    assert invoked == ["f-0"]


def test_a_process_that_dies_during_a_probe_does_not_invoke_again(tmp_path: Path) -> None:
    region, path = memory_fleet(), tmp_path / "journal"

    class Death(BaseException):
        pass

    def die(operation: str, name: str) -> None:
        if operation == "invoke":
            raise Death

    region.after_call = die
    with pytest.raises(Death):
        roll_out(region, path, canary=1, probe="{}")
    region.after_call = lambda operation, name: pytest.fail("invoked again") if operation == "invoke" else None
    with pytest.raises(ToolError, match="the result of the probe is unknown for f-0"):
        resume(region, path)
    assert resume(region, path, rollout.Direction.FORWARD) == 0
    assert region.functions == all_at(2)


# --- Options and the direction of --resume


@pytest.fixture
def interrupted(fleet: Cloud) -> Cloud:
    """A roll-out without --yes whose credentials expired after three functions, one after the other."""

    def expire(call: Call) -> None:
        fleet.standin.faults.expired = fleet.standin.counted()["UpdateFunctionConfiguration"] >= 4

    fleet.standin.faults.on = expire
    words = [word for word in WORDS if word != "--yes"]
    assert fleet.run(*words, "journal", "--workers", "1", stdin="y\n").returncode == 1
    fleet.standin.faults = type(fleet.standin.faults)()
    return fleet


@pytest.mark.parametrize(("reply", "number"), [("forward\n", 2), ("f\n", 2), ("back\ny\n", 1)])
def test_resume_asks_for_the_direction(interrupted: Cloud, reply: str, number: int) -> None:
    result = interrupted.run("rollout", "--resume", "journal", stdin=reply)
    assert "not complete. Continue forward, or restore them? [forward/back] " in result.stderr
    assert interrupted.fleet() == all_at(number)


@pytest.mark.parametrize(("reply", "message"), [("", "no answer on stdin"), ("x\n", "forward or back, not 'x'")])
def test_without_a_direction_nothing_is_changed(interrupted: Cloud, reply: str, message: str) -> None:
    before = interrupted.fleet()
    result = interrupted.run("rollout", "--resume", "journal", stdin=reply)
    assert (result.returncode, interrupted.fleet()) == (1, before)
    assert result.stderr.endswith("nothing changed; use --forward or --back\n") and message in result.stderr


def test_resume_honours_a_limit(interrupted: Cloud) -> None:
    interrupted.standin.faults.updates_fail = {"f-5"}
    words = ["rollout", "--resume", "journal", "--forward", "--max-failures", "1"]
    assert interrupted.run(*words).returncode == 1
    assert interrupted.fleet() == all_at(2) | {"f-5": [f"{OURS}:1"]}


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--to", "3"], "--to"),
        (["--waves", "1,100%"], "--waves"),
        (["--publish-alias", "live"], "--publish-alias"),
        (["--exclude", "f-1"], "--exclude"),
        (["--match", "f"], "--all-using"),
        (["--all-using"], "--to"),
    ],
)
def test_resume_refuses_options_of_another_roll_out(interrupted: Cloud, words: list[str], option: str) -> None:
    message = interrupted.refusal("rollout", "--resume", "journal", "--forward", *words, status=2)
    assert message == (
        f"the journal contains another roll-out, with another {option}: use --resume with the journal alone"
    )
