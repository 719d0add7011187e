"""Waves, gates and shifts: their order, what stops them, and what a crash in them leaves behind.

AWS Lambda and CloudWatch are the stand-in (see `lambda_standin`); processes that die at every step are simulated in
memory (see `lambda_in_memory`).
"""

from __future__ import annotations

import io
import json
import random
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto.awslambda.utils import get_backend
from moto.cloudwatch.models import cloudwatch_backends
from support.cloud import ACCOUNT, OURS, REGION, Cloud
from support.emulator import until
from support.lambda_in_memory import OURS as OURS_IN_MEMORY
from support.lambda_in_memory import Crash, MemoryDisk, MortalProcess, Region
from support.lambda_standin import Call
from support.processes import is_running

from tools.common.output import Output
from tools.fleet.commands import rollout, undo
from tools.fleet.commands.interface import Context, Environment
from tools.fleet.rollout import journal
from tools.fleet.rollout.gate_command import GateFailed, run_gate
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.storage import FileLocation
from tools.fleet.rollout.waves import parse_shift, parse_waves, sizes

UPDATE, UPDATE_ALIAS = "UpdateFunctionConfiguration", "UpdateAlias"
NAMES = [f"f-{number}" for number in range(5)]


@pytest.fixture
def fleet(cloud: Cloud) -> Cloud:
    """Five functions with version 1 of the layer and an alias `live` of their version 1; an alarm that is OK."""
    ours, *_ = cloud.layer(count=2)
    client = cloud.client()
    for name in NAMES:
        cloud.function(name, [ours])
        client.publish_version(FunctionName=name)
        client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    cloud.standin.calls.clear()
    return cloud


def add_alarm(cloud: Cloud, state: str = "OK", name: str = "errors") -> None:
    client = cloud.client("cloudwatch")
    client.put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/Lambda",
        MetricName="Errors",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )
    client.set_alarm_state(AlarmName=name, StateValue=state, StateReason="test")


def count_invocations(cloud: Cloud, name: str, invocations: int, errors: int, **dimensions: str) -> None:
    """Add data points of the present minute."""
    pairs = [{"Name": key, "Value": value} for key, value in {"FunctionName": name, **dimensions}.items()]
    for metric, value in (("Invocations", invocations), ("Errors", errors)):
        data = {"MetricName": metric, "Dimensions": pairs, "Value": value, "Timestamp": datetime.now(UTC)}
        cloud.client("cloudwatch").put_metric_data(Namespace="AWS/Lambda", MetricData=[data])


def words(*more: str) -> list[str]:
    return ["rollout", "--all-using", "--to", "2", "--yes", *more]


def new(cloud: Cloud) -> list[str]:
    """Return the functions that have the new version."""
    return [name for name, layers in cloud.fleet().items() if layers == [f"{OURS}:2"]]


def weights(cloud: Cloud, name: str) -> dict[str, float]:
    alias = cloud.client().get_alias(FunctionName=name, Name="live")
    return (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}


def events(path: Path, *names: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["event"] in names]


# Values


@pytest.mark.parametrize(
    ("waves", "total", "expected"),
    [
        ("1,10%,50%,100%", 300, [1, 29, 120, 150]),
        ("1,10%,50%,100%", 5, [1, 2, 2]),
        ("1,10%,100%", 50, [1, 4, 45]),
        ("3,100%", 2, [2]),
        ("0.5%,100%", 300, [2, 298]),
        ("100%", 7, [7]),
        ("5,10%,100%", 10, [5, 5]),
    ],
)
def test_waves_are_cumulative_and_never_empty(waves: str, total: int, expected: list[int]) -> None:
    assert [size for size in sizes(parse_waves(waves), total) if size] == expected


@given(st.lists(st.integers(1, 99), max_size=4, unique=True).map(sorted), st.integers(1, 4000))
def test_every_function_is_in_exactly_one_wave(percentages: list[int], total: int) -> None:
    found = sizes(parse_waves(",".join([*(f"{each}%" for each in percentages), "100%"])), total)
    assert sum(found) == total


WRONG: list[tuple[list[str], str]] = [
    (["--waves", ""], "argument --waves: '' is neither a number of functions nor a percentage, such as 1,10%,100%"),
    (["--waves", "0,100%"], "argument --waves: '0' is neither"),
    (["--waves", "1,,100%"], "argument --waves: '' is neither"),
    (["--waves", "1,101%"], "argument --waves: '101%' is neither"),
    (["--waves", "-1,100%"], "argument --waves: expected one argument"),
    (["--waves", "1,50%"], "argument --waves: the last wave is 50%: end with 100%, so that all functions are changed"),
    (["--waves", "50%,10%,100%"], "argument --waves: 10 follows 50: each value must be greater than the one before"),
    (["--waves", "2,2,100%"], "argument --waves: 2 follows 2"),
    (["--waves", "1,100%", "--canary", "1"], "argument --canary: not allowed with argument --waves"),
    (["--canary", "1", "--bake", "soon"], "argument --bake: 'soon' is not a time from 1s to 168h, such as 90s"),
    (["--canary", "1", "--bake", ""], "argument --bake: '' is not a time"),
    (["--canary", "1", "--bake", "0s"], "argument --bake: '0s' is not a time"),
    (["--canary", "1", "--bake", "999h"], "argument --bake: '999h' is not a time"),
    (["--bake", "1m"], "the pause and the gates come between waves: add --waves, --canary or --shift"),
    (["--alarm", "a"], "the pause and the gates come between waves"),
    (["--gate", "true"], "the pause and the gates come between waves"),
    (["--max-error-rate", "1"], "the pause and the gates come between waves"),
    (["--canary", "1", "--alarm", ""], "argument --alarm: it is empty"),
    (["--canary", "1", "--gate", " "], "argument --gate: it is empty"),
    (["--canary", "1", "--gate-timeout", "1m"], "--gate-timeout is for a command: add --gate COMMAND"),
    (
        ["--canary", "1", "--max-error-rate", "101"],
        "argument --max-error-rate: '101' is not a percentage from 0 to 100",
    ),
    (["--canary", "1", "--max-error-rate", "nan"], "argument --max-error-rate: 'nan' is not a percentage"),
    (["--canary", "1", "--min-invocations", "5"], "--min-invocations is for the error rate: add --max-error-rate"),
    (["--canary", "1", "--max-error-rate", "1", "--min-invocations", "-5"], "argument --min-invocations: "),
    (["--publish-alias", "live", "--shift", "0%"], "argument --shift: '0%' is not a percentage of the requests"),
    (["--publish-alias", "live", "--shift", "10"], "argument --shift: '10' is not a percentage of the requests"),
    (["--publish-alias", "live", "--shift", "50%,10%"], "argument --shift: 10 follows 50"),
    (["--publish-alias", "live", "--shift", "100%"], "argument --shift: 100% alone is no shift"),
]


def test_wrong_values_are_one_line(cloud: Cloud, subtests: pytest.Subtests) -> None:
    for values, message in WRONG:
        with subtests.test(values=values):
            assert cloud.refusal(*words(*values), status=2).startswith(message)


def test_a_shift_may_end_with_100_percent() -> None:
    assert parse_shift("10%,50%,100%") == parse_shift("10%,50%") == ("10%", "50%")


# The order of waves


@pytest.mark.parametrize("options", [["--canary", "2"], ["--waves", "2,100%"]])
def test_a_canary_is_the_first_of_two_waves(fleet: Cloud, options: list[str], tmp_path: Path) -> None:
    """The gate runs once, between them, and the functions of the first wave are probed."""
    seen = tmp_path / "seen"
    gate = ["--gate", f"echo {seen.name} >> {seen}", "--probe", "{}", "--bake", "10m"]
    fleet.done(*words(*options, *gate, "--journal", str(tmp_path / "journal")))
    assert new(fleet) == NAMES and seen.read_text().count("\n") == 1
    assert sorted(name for name, _ in fleet.standin.invoked) == NAMES[:2]
    order = [line for line in events(tmp_path / "journal", "done", "bake-started", "gates-passed")]
    kinds = [line["event"] for line in order]
    assert kinds == ["done"] * 2 + ["bake-started", "gates-passed"] + ["done"] * 3
    assert order[3]["found"] == [f"gate {gate[1]!r}: passed"]


def test_the_plan_shows_the_waves(fleet: Cloud) -> None:
    options = words("--waves", "1,50%,100%")[:-1]
    assert "waves: 1, 2, 2 functions" in fleet.done("rollout", *options[1:4], "--waves", "1,50%,100%", "--dry-run")
    plan = fleet.json(*words("--waves", "1,50%,100%"), "--dry-run")
    assert plan["waves"] == [1, 2, 2]
    result = fleet.json(*words("--waves", "1,50%,100%"))
    assert [each["wave"] for each in result["functions"]] == [1, 2, 2, 3, 3]


# Gates


def first_time(folder: Path) -> str:
    """Return a command that succeeds once."""
    return f"echo >> {folder / 'runs'}; test $(wc -l < {folder / 'runs'}) = 1"


def test_a_gate_that_fails_rolls_everything_back(fleet: Cloud, tmp_path: Path) -> None:
    before = fleet.fleet()
    gate = f"{first_time(tmp_path)} || {{ echo no good; exit 3; }}"
    result = fleet.run(*words("--waves", "1,3,100%", "--gate", gate, "--journal", str(tmp_path / "journal")))
    assert result.returncode == 1 and fleet.fleet() == before
    assert "stopped: after wave 2 of 3: the gate " in result.stdout
    assert "failed with exit status 3: no good" in result.stdout
    assert {call.name for call in fleet.standin.changes()} == set(NAMES[:3])
    assert journal.read(tmp_path / "journal").outcome == "rolled back"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sleep 100", "did not end within 0.3 s"),
        ("sleep 100 & wait", "did not end within 0.3 s"),
        ("yes 'a long line' | head -c 30000000; exit 7", "failed with exit status 7: a long line"),
        ("kill -9 $$", "was ended by the signal 9"),
        ("printf '\\377\\n\\n'; exit 1", "failed with exit status 1: \\xff"),
        ("no-such-command", "failed with exit status 127: "),
    ],
)
def test_a_gate_that_does_not_pass_is_one_line(command: str, reason: str) -> None:
    timeout = 0.3 if "sleep" in command else 60
    with pytest.raises(GateFailed) as failure:
        run_gate(command, timeout)
    assert reason in str(failure.value) and "\n" not in str(failure.value) and len(str(failure.value)) < 400


def test_a_gate_that_succeeds_may_print_megabytes_and_leaves_no_process(tmp_path: Path) -> None:
    run_gate(f"yes | head -c 30000000; sleep 100 & echo $! > {tmp_path / 'pid'}", 60)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not is_running(pid))


def test_an_alarm_must_exist_and_must_not_be_active_before_the_first_wave(fleet: Cloud) -> None:
    message = fleet.refusal(*words("--canary", "1", "--alarm", "errors"))
    assert message == "the alarm errors does not exist: check the name and the region"
    add_alarm(fleet, "ALARM")
    message = fleet.refusal(*words("--canary", "1", "--alarm", "errors"))
    assert message.startswith("nothing was changed, because the alarm errors is in the state ALARM: ")


def test_permissions_for_cloudwatch_are_checked_before_the_first_wave(fleet: Cloud) -> None:
    fleet.standin.faults.on = lambda call: 403 if call.service == "monitoring" else None
    for option in (["--alarm", "errors"], ["--max-error-rate", "5"]):
        message = fleet.refusal(*words("--canary", "1", *option))
        assert " is not allowed: " in message and message.endswith("(see docs/iam.md for the permissions)")


def test_an_alarm_ends_the_pause_and_rolls_everything_back(fleet: Cloud) -> None:
    add_alarm(fleet)
    before, looks = fleet.fleet(), 0

    def on(call: Call) -> None:
        nonlocal looks
        looks += call.operation == "DescribeAlarms"
        if looks == 4:
            set_state("errors", "ALARM")

    fleet.standin.faults.on = on  # type: ignore[assignment]
    result = fleet.run(*words("--canary", "1", "--alarm", "errors", "--bake", "1h"))
    assert result.returncode == 1 and fleet.fleet() == before
    assert "stopped: after wave 1 of 2: the alarm errors is in the state ALARM" in result.stdout
    assert "wave 1 of 2 is complete; waiting 1 h, until " in result.stderr
    assert looks == 4


def set_state(name: str, state: str) -> None:
    cloudwatch_backends[ACCOUNT][REGION].alarms[name].state_value = state


@pytest.mark.parametrize(
    ("invocations", "errors", "status", "text"),
    [
        (100, 6, 1, "the error rate of the changed functions is 6 % (6 errors in 100 invocations), above 5 %"),
        (100, 5, 0, "error rate of the changed functions: 5 % (5 errors in 100 invocations), at most 5 % allowed"),
        (19, 19, 0, "19 errors in 19 invocations, fewer than 20, so it is not checked"),
    ],
)
def test_the_error_rate_decides_if_there_are_enough_invocations(
    fleet: Cloud, invocations: int, errors: int, status: int, text: str
) -> None:
    before = fleet.fleet()
    fleet.standin.faults.on = count_once(fleet, "f-0", invocations, errors)
    result = fleet.run(*words("--canary", "1", "--max-error-rate", "5"))
    assert (result.returncode, text in result.stdout + result.stderr) == (status, True), result.stdout + result.stderr
    assert fleet.fleet() == before if status else new(fleet) == NAMES


def count_once(cloud: Cloud, name: str, invocations: int, errors: int) -> Callable[[Call], None]:
    """Return what adds data points in the process of the stand-in, when its first function is updated."""
    done: list[Call] = []

    def on(call: Call) -> None:
        if call.operation != UPDATE or done:
            return
        done.append(call)
        for metric, value in (("Invocations", invocations), ("Errors", errors)):
            data = {
                "MetricName": metric,
                "Dimensions": [{"Name": "FunctionName", "Value": name}],
                "Value": value,
                "Timestamp": datetime.now(UTC).replace(tzinfo=None),
            }
            cloudwatch_backends[ACCOUNT][REGION].put_metric_data("AWS/Lambda", [data])

    return on


def test_an_outage_of_cloudwatch_is_not_a_gate_that_failed(fleet: Cloud, tmp_path: Path) -> None:
    add_alarm(fleet)
    fleet.standin.faults.on = lambda call: 500 if call.service == "monitoring" and new(fleet) else None
    result = fleet.run(*words("--canary", "1", "--alarm", "errors", "--journal", str(tmp_path / "journal")))
    assert result.returncode == 1 and new(fleet) == ["f-0"]
    assert "continue with ./build.sh rollout --resume " in result.stderr
    fleet.standin.faults.on = lambda call: None
    fleet.done("rollout", "--resume", tmp_path / "journal", "--forward")
    assert new(fleet) == NAMES


# Shifts


def test_an_alias_is_shifted_in_steps_with_gates_between_them(fleet: Cloud, tmp_path: Path) -> None:
    seen: list[tuple[str, dict[str, float]]] = []

    def on(call: Call) -> None:
        if call.operation == UPDATE_ALIAS and call.name == "f-0":
            seen.append((call.body["FunctionVersion"], call.body["RoutingConfig"]["AdditionalVersionWeights"]))

    fleet.standin.faults.on = on  # type: ignore[assignment]
    options = ["--publish-alias", "live", "--shift", "10%,50%", "--gate", f"echo >> {tmp_path / 'seen'}"]
    fleet.done(*words(*options, "--journal", str(tmp_path / "journal")))
    assert seen == [("1", {"2": 0.1}), ("1", {"2": 0.5}), ("2", {})]
    assert (tmp_path / "seen").read_text().count("\n") == 2
    assert len(fleet.standin.changes()) == len(NAMES) and fleet.standin.counted()["PublishVersion"] == len(NAMES)
    fleet.done("rollback", tmp_path / "journal", "--yes")
    assert not new(fleet) and weights(fleet, "f-0") == {}


def test_a_gate_that_fails_in_a_shift_restores_the_aliases(fleet: Cloud, tmp_path: Path) -> None:
    before = fleet.fleet()
    gate = first_time(tmp_path)
    options = ["--publish-alias", "live", "--shift", "10%,50%", "--waves", "2,100%", "--gate", gate]
    result = fleet.run(*words(*options, "--journal", str(tmp_path / "journal")))
    assert result.returncode == 1 and fleet.fleet() == before
    assert "stopped: after wave 1 of 2 at 50 % of the requests: the gate " in result.stdout
    aliases = [fleet.client().get_alias(FunctionName=name, Name="live") for name in NAMES]
    assert [alias["FunctionVersion"] for alias in aliases] == ["1"] * len(NAMES)
    assert not any(weights(fleet, name) for name in NAMES)


def test_the_error_rate_of_a_shift_is_also_that_of_the_new_versions_alone(fleet: Cloud, tmp_path: Path) -> None:
    before = fleet.fleet()
    gate = ["--publish-alias", "live", "--shift", "10%", "--max-error-rate", "5", "--min-invocations", "20"]
    count_invocations(fleet, "f-0", 30, 30, Resource="f-0:live", ExecutedVersion="2")
    count_invocations(fleet, "f-0", 3000, 30)
    result = fleet.run(*words(*gate))
    assert result.returncode == 1 and fleet.fleet() == before
    assert "the error rate of the new versions is 100 % (30 errors in 30 invocations), above 5 %" in result.stdout


def test_somebody_who_changes_an_alias_in_a_shift_is_respected(fleet: Cloud, tmp_path: Path) -> None:
    moves: list[Call] = []

    def on(call: Call) -> None:
        if call.operation == UPDATE_ALIAS and call.name == "f-0":
            moves.append(call)
            if len(moves) == 2:
                alias = get_backend(ACCOUNT, REGION).get_alias("live", "f-0")
                alias.routing_config, alias.revision_id = {"AdditionalVersionWeights": {"2": 0.7}}, "theirs"

    fleet.standin.faults.on = on  # type: ignore[assignment]
    result = fleet.json(*words("--publish-alias", "live", "--shift", "10%"), status=1)
    outcomes = {each["name"]: each["outcome"] for each in result["functions"]}
    assert outcomes == dict.fromkeys(NAMES, "done") | {"f-0": "skipped and left alone"}
    assert weights(fleet, "f-0") == {"2": 0.7}


# Processes that die


@pytest.mark.long
def test_a_killed_process_continues_with_the_rest_of_the_pause(fleet: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    gate = f"test -e {tmp_path / 'go'} || kill -9 $(cat {tmp_path / 'pid'})"
    process = fleet.start(*words("--canary", "1", "--gate", gate, "--journal", str(path)))
    (tmp_path / "pid").write_text(str(process.pid))
    process.communicate()
    assert process.returncode == -signal.SIGKILL and new(fleet) == ["f-0"]
    (tmp_path / "go").touch()
    fleet.done("rollout", "--resume", path)
    assert new(fleet) == NAMES
    assert [len(events(path, name)) for name in ("bake-started", "gates-passed", "done")] == [1, 1, len(NAMES)]


@pytest.mark.parametrize("seed", [1, *(pytest.param(each, marks=pytest.mark.long) for each in range(2, 30))])
def test_a_process_that_is_killed_in_any_wave_is_resumed_or_rolled_back(
    fleet: Cloud, tmp_path: Path, seed: int
) -> None:
    """Real processes die at a random call, before or after AWS carries it out, several times in one roll-out."""
    dice, path = random.Random(seed), tmp_path / "journal"
    options = ["--publish-alias", "live", "--shift", "10%", "--waves", "1,3,100%", "--bake", "1s", "--gate", "true"]
    command = words(*options, "--journal", str(path))
    for _ in range(3):
        status = killed_at(fleet, command, dice.randrange(20, 60), dice.choice(["before", "after"]))
        for name, layers in fleet.fleet().items():
            assert layers in ([f"{OURS}:1"], [f"{OURS}:2"]), name
        if status != -signal.SIGKILL:
            break
        command = ["rollout", "--resume", str(path)] if path.exists() else command
    if dice.random() < 0.5 and path.exists() and journal.read(path).is_accepted:
        fleet.done("rollback", path, "--yes")
        expected, version = {f"{OURS}:1"}, {"1"}
    else:
        fleet.done(*(["rollout", "--resume", str(path)] if path.exists() else command))
        expected, version = {f"{OURS}:2"}, {"2"}
    assert {arn for layers in fleet.fleet().values() for arn in layers} == expected
    aliases = [fleet.client().get_alias(FunctionName=name, Name="live") for name in NAMES]
    assert {alias["FunctionVersion"] for alias in aliases} == version
    assert not any(weights(fleet, name) for name in NAMES)


def killed_at(cloud: Cloud, command: list[str], number: int, moment: str) -> int:
    """Run a command that is killed at its call `number`; return its exit status."""
    cloud.standin.calls.clear()
    return cloud.kill_when(lambda call: len(cloud.standin.calls) == number, moment, *command)


@pytest.mark.long
def test_ctrl_c_in_the_pause_ends_at_once_and_can_be_resumed(fleet: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    gate = f"test -e {tmp_path / 'go'} || {{ kill -2 $(cat {tmp_path / 'pid'}); sleep 100; }}"
    process = fleet.start(*words("--canary", "1", "--gate", gate, "--journal", str(path)))
    (tmp_path / "pid").write_text(str(process.pid))
    _, message = process.communicate()
    assert process.returncode == 130 and "continue with ./build.sh rollout --resume " in message
    (tmp_path / "go").touch()
    fleet.done("rollout", "--resume", path)
    assert new(fleet) == NAMES


class Machine:
    """A region in memory with aliases, and roll-outs in it whose clock stands still except in pauses."""

    def __init__(self, **more: Any) -> None:
        names = [f"f-{number}" for number in range(6)]
        self.region = Region({name: [f"{OURS_IN_MEMORY}:1"] for name in names})
        for name in names:
            self.region.published[name, "1"] = [f"{OURS_IN_MEMORY}:1"]
            self.region.aliases[name] = {"Name": "live", "FunctionVersion": "1", "RevisionId": "0"}
        waves = {"waves": ("1", "50%", "100%"), "shift": ("10%", "50%"), "bake": 60, "alias": "live"}
        self.options = Options(**{"all_using": True, "to": "2", "yes": True, **waves, **more})
        self.start = datetime(2026, 11, 28, tzinfo=UTC)

    def context(self, disk: MemoryDisk | None = None) -> Context:
        environment = Environment(
            connect=lambda pace: self.region,  # type: ignore[arg-type,return-value]
            disk=disk or MemoryDisk(),
            workers=1,
            pace=self.region.pace,
            now=lambda: self.start + timedelta(seconds=self.region.clock()),
        )
        return Context(environment, Output(out=io.StringIO(), err=io.StringIO()))

    def roll_out(self, path: Path, disk: MemoryDisk | None = None) -> int:
        return rollout.roll_out(self.context(disk), self.options, path)

    def die(self, path: Path, fatal: int) -> None:
        with pytest.raises(Crash):
            self.roll_out(path, MortalProcess(self.region, fatal))
        self.region.on_call = self.region.after_call = lambda operation, name: None

    def resume(self, path: Path) -> int:
        return rollout.resume(self.context(), self.options, path)

    def roll_back(self, path: Path) -> int:
        return undo.roll_back(self.context(), FileLocation(path, MemoryDisk()), yes=True)

    def aliases(self) -> set[tuple[str, tuple[tuple[str, float], ...]]]:
        found = self.region.aliases.values()
        return {
            (each["FunctionVersion"], tuple(each.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}).items()))
            for each in found
        }

    def layers(self) -> set[str]:
        return {arn for layers in self.region.functions.values() for arn in layers}


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.long)])
def test_a_process_may_die_at_any_step_of_waves_and_shifts(tmp_path: Path, stride: int) -> None:
    whole = Machine()
    process = MortalProcess(whole.region, fatal=None)
    assert whole.roll_out(tmp_path / "whole", process) == 0
    assert process.steps > 150
    for fatal in range(20, process.steps, stride):
        for back in (False, True):
            machine, path = Machine(), tmp_path / f"{fatal}-{back}.jsonl"
            machine.die(path, fatal)
            if back and path.exists() and journal.read(path).is_accepted:
                assert machine.roll_back(path) == 0, fatal
                assert (machine.layers(), machine.aliases()) == ({f"{OURS_IN_MEMORY}:1"}, {("1", ())}), fatal
            elif not back:
                assert machine.resume(path) == 0, fatal
                assert (machine.layers(), machine.aliases()) == ({f"{OURS_IN_MEMORY}:2"}, {("2", ())}), fatal
                assert len(machine.region.updates) == 6, fatal
                assert journal.read(path).outcome == "done"


def test_an_update_that_arrives_after_the_rollback_has_no_effect(tmp_path: Path) -> None:
    """AWS carries out an update of the layers, or of an alias, long after the process that sent it has died."""
    for operation in ("update_function_configuration", "update_alias"):
        machine, path = Machine(), tmp_path / operation
        late = lose(machine.region, operation)
        with pytest.raises(Crash):
            machine.roll_out(path)
        machine.region.on_call = lambda operation, name: None
        assert machine.roll_back(path) == 0
        with pytest.raises(ClientError, match="PreconditionFailedException"):
            late()
        assert (machine.layers(), machine.aliases()) == ({f"{OURS_IN_MEMORY}:1"}, {("1", ())})


def lose(region: Region, operation: str) -> Callable[[], Any]:
    """Let the process die when it sends its first `operation`; return what carries the lost request out."""
    original, lost = getattr(region, operation), []

    def die(**parameters: Any) -> Any:
        lost.append(parameters)
        setattr(region, operation, original)
        region.on_call = dead
        raise Crash

    def dead(*_: str) -> None:
        raise Crash

    setattr(region, operation, die)
    return lambda: original(**lost[0])


def test_the_pause_is_as_long_as_the_option_in_total(tmp_path: Path) -> None:
    machine = Machine()
    before = machine.region.clock()
    assert machine.roll_out(tmp_path / "journal") == 0
    stages = len(events(tmp_path / "journal", "gates-passed"))
    assert stages == 3 * 3 - 1
    assert machine.region.clock() - before >= stages * 60


def test_a_clock_that_went_backwards_makes_no_pause_longer(tmp_path: Path) -> None:
    machine = Machine(bake=100)
    machine.start = datetime(2020, 1, 1, tzinfo=UTC)  # the journal has the time of this machine
    before = machine.region.clock()
    assert machine.roll_out(tmp_path / "journal") == 0
    assert machine.region.clock() - before <= 8 * 100 + 60
