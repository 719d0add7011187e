"""The speed of roll-outs and what they show meanwhile.

The clock advances in pauses only (see `clock`), so a roll-out at the pace that AWS allows takes little time here.
"""

from __future__ import annotations

import io
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from support.clock import Clock
from support.cloud import OURS, Cloud
from support.examples import sample
from support.lambda_in_memory import BEFORE, OTHER, PLACE, MemoryDisk, Region, function_arn
from support.lambda_in_memory import OURS as IN_MEMORY

from tools.common.output import TIMES, Output, printable
from tools.fleet.aws.models import Function
from tools.fleet.aws.pace import DEFAULT_RATE, Pace
from tools.fleet.commands import rollout
from tools.fleet.commands.interface import Context, Environment
from tools.fleet.rollout import rendering
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.plan import PlacePlan, Verdict, plan
from tools.fleet.rollout.progress import Estimate, Progress, Reading

UPDATE = "UpdateFunctionConfiguration"

# --- The pace


def create(cloud: Cloud, count: int, has_alias: bool = False) -> None:
    cloud.layer(count=2)
    client = cloud.client()
    for number in range(count):
        name = f"f-{number:04}"
        cloud.function(name, [f"{OURS}:1"])
        if has_alias:
            version = client.publish_version(FunctionName=name)["Version"]
            client.create_alias(FunctionName=name, Name="live", FunctionVersion=version)
    cloud.standin.calls.clear()


def roll_out(cloud: Cloud, *words: str) -> float:
    """Roll out; return the seconds of the whole command."""
    clock = Clock()
    pace = Pace(sleep=clock.sleep, clock=clock)
    start = clock()
    cloud.done("rollout", "--all-using", "--to", "2", "--yes", "--workers", "1", *words, pace=pace)
    return clock() - start


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.long)])
def test_functions_are_updated_at_the_pace_of_writes(cloud: Cloud, count: int) -> None:
    create(cloud, count)
    whole = roll_out(cloud)
    assert whole <= 90 * count / 300 + 5  # 5 s: the last updates, and calls that do not depend on the number
    assert {arns[0] for arns in cloud.fleet().values()} == {f"{OURS}:2"}


@pytest.mark.long
def test_3000_functions_are_updated_in_15_minutes(cloud: Cloud) -> None:
    create(cloud, 3000)
    whole = roll_out(cloud)
    assert whole <= 15 * 60


@pytest.mark.long
@pytest.mark.parametrize("count", [30, 300])
def test_versions_and_aliases_take_at_most_a_fifth_longer_than_their_writes(cloud: Cloud, count: int) -> None:
    create(cloud, count, has_alias=True)
    whole = roll_out(cloud, "--publish-alias", "live")
    writes = sum(cloud.standin.counted()[operation] for operation in (UPDATE, "PublishVersion", "UpdateAlias"))
    assert writes == 3 * count
    assert whole <= 1.2 * writes / DEFAULT_RATE + 2  # 2 s: calls that do not depend on the number


@pytest.mark.long
def test_the_rate_can_be_chosen(cloud: Cloud) -> None:
    create(cloud, 20)
    whole = roll_out(cloud, "--rate", "2")
    assert 20 / 2 <= whole <= 2 * 20 / 2 + 10  # two calls for each function that are not GetFunction


@pytest.mark.parametrize("value", sample(["0", "15.5", "0.01", "-1", "x", "", "1e1", "nan"], 4))
def test_a_wrong_rate_is_one_line(cloud: Cloud, value: str) -> None:
    for words in (["rollout", "f"], ["attach", "f"], ["rollback", "journal"]):
        message = cloud.refusal(*words, f"--rate={value}", status=2)
        assert f"{value!r} is not a number of calls per second from 0.1 to 15" in message


@pytest.mark.parametrize("value", ["0", "65", "-1", "x", "", "1.5"])
def test_a_wrong_number_of_workers_is_one_line(cloud: Cloud, value: str) -> None:
    for words in (["rollout", "f"], ["rollback", "journal"]):
        message = cloud.refusal(*words, f"--workers={value}", status=2)
        assert f"{value!r} is not a number of threads from 1 to 64" in message


# --- Memory


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_calls(count: int, tmp_path: Path) -> None:
    """The plan takes about 2 kB for each function. The calls for it, and its lines in the journal, leave little."""
    region = Region({f"f-{number:04}": [f"{IN_MEMORY}:1"] for number in range(count)})
    used: list[int] = []

    def measure(operation: str, name: str) -> None:
        if operation == "update_function_configuration":
            used.append(tracemalloc.get_traced_memory()[0])

    region.on_call = measure
    environment = Environment(pace=region.pace, connect=lambda pace: region, disk=MemoryDisk())  # type: ignore[arg-type,return-value]
    tracemalloc.start()
    try:
        with open(os.devnull, "w") as output:
            context = Context(environment, Output(out=output, err=output))
            rollout.roll_out(context, Options(all_using=True, to="2", yes=True), tmp_path / "journal")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(used) == count
    assert used[-1] - used[0] < 1_000 * count  # bytes; the region in memory notes the updates, too
    assert peak < 6_000 * count


# --- Progress


def test_an_estimate_has_the_rate_and_the_time_that_is_left() -> None:
    clock = Clock()
    estimate = Estimate(100, clock)
    assert str(estimate) == "" and estimate.seconds_left is None
    for _ in range(20):
        clock.sleep(0.5)
        estimate.done += 1
    assert str(estimate) == "2.0 per second, 40 s left"
    assert str(replace_total(estimate, 300)) == "2.0 per second, 2 min 20 s left"
    assert str(replace_total(estimate, 30_000)) == "2.0 per second, 4 h 9 min 50 s left"


def test_an_estimate_of_a_slow_roll_out_has_a_rate_above_0() -> None:
    clock = Clock()
    estimate = Estimate(10, clock)
    clock.sleep(3 * 3600)
    estimate.done = 6
    assert str(estimate) == "2.0 per hour, 2 h left"
    estimate.done = 9
    clock.sleep(-2 * 3600)
    assert str(estimate) == "0.1 per minute, 6 min 40 s left"


def replace_total(estimate: Estimate, total: int) -> Estimate:
    estimate.total = total
    return estimate


def test_reading_many_functions_shows_progress_and_few_nothing() -> None:
    notes: list[str] = []
    clock = Clock()
    reading = Reading(300, "function", notes.append, clock)
    for _ in range(300):
        clock.sleep(0.1)
        reading()
    assert notes[0] == "reading 300 functions"
    assert notes[1] == "read 51 of 300 functions, 10.0 per second, 25 s left"
    Reading(30, "function", pytest.fail, clock)()


def test_lines_of_a_roll_out_have_an_estimate_now_and_then() -> None:
    clock, err = Clock(), io.StringIO()
    progress = Progress(100, Output(err=err), clock=clock)
    for number in range(20):
        clock.sleep(0.5)
        progress(f"f-{number}", "done")
    lines = err.getvalue().splitlines()
    assert lines[0] == "1/100  f-0  done"
    assert "2.0 per second, 45 s left" in lines


# --- The plan


def planned(count: int, name: str = "function-{:03}") -> PlacePlan:
    functions = [
        Function(each, function_arn(each), layers=(BEFORE, f"{OURS}:{1 + number % 2}", OTHER))
        for number, each in enumerate(map(name.format, range(count)))
    ]
    layer = PLACE.layer("python-streaming-runtime")
    targets = {layer: layer.version(3)}
    return PlacePlan(PLACE, "", targets, plan(functions, targets, Options(all_using=True, to="3")))


@pytest.mark.parametrize("name", ["f-{}", "a-function-with-a-name-of-the-greatest-length-that-is-allowed-{:03}"])
def test_a_plan_of_300_functions_is_readable_on_80_columns(name: str) -> None:
    lines = "\n".join(rendering.plan_lines(Options(), [planned(300, name)], width=80)).splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    assert f"150 {TIMES} 1→3, 150 {TIMES} 2→3" in lines
    assert "and 270 more; --verbose lists all" in lines
    assert lines[-1] == "300 functions: 300 to change"


def test_a_verbose_plan_lists_all_functions_with_all_layers() -> None:
    text = "\n".join(rendering.plan_lines(Options(), [planned(300)], width=0))
    assert text.count("before:4, python-streaming-runtime:3, other:9") == 300


def test_functions_that_are_skipped_for_one_reason_are_one_line() -> None:
    whole = planned(40)
    owned = [replace(step, verdict=Verdict.SKIPPED, reason="a stack owns it") for step in whole.steps]
    lines = list(rendering.plan_lines(Options(), [replace(whole, steps=owned)], width=80))
    names = ", ".join(f"function-00{number}" for number in range(5))
    assert f"skipped: {names} and 35 more, a stack owns it" in lines


def test_a_terminal_without_unicode_gets_ascii() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert printable(f"3 {TIMES} 1→2 █░ … é", stream) == "3 x 1->2 #. ... \\xe9"
