"""`rollback` where others have changed functions meanwhile, and the object of an error."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from support import lambda_in_memory
from support.cloud import OURS, Cloud

from tools.common.output import TIMES, Output
from tools.fleet.commands import rollout
from tools.fleet.commands.interface import Context, Environment
from tools.fleet.rollout import journal, rendering
from tools.fleet.rollout.options import Options

ROLL_OUT = ("rollout", "f", "--to", "2", "--yes", "--journal", "journal")


@pytest.fixture
def rolled_out(cloud: Cloud) -> Cloud:
    """A function with another layer in front, after a roll-out; the account has two more layers."""
    cloud.layer(count=2)
    for name in ("other", "tracing"):
        cloud.layer(name)
    cloud.function("f", [layer("other"), f"{OURS}:1"])
    cloud.done(*ROLL_OUT)
    cloud.client().get_function(FunctionName="f")
    cloud.client().get_function(FunctionName="f")
    return cloud


def layer(name: str) -> str:
    return f"{OURS.rpartition(':')[0]}:{name}:1"


@pytest.mark.parametrize(
    ("others", "restored"),
    [
        (["other", 2, "tracing"], ["other", 1, "tracing"]),
        (["tracing", 2], ["tracing", 1]),
        ([2], [1]),
        ([1, "tracing"], [1, "tracing"]),
    ],
)
def test_our_layer_is_restored_among_other_layers(
    rolled_out: Cloud, others: list[str | int], restored: list[str | int]
) -> None:
    change(rolled_out, others)
    assert rolled_out.json("rollback", "journal", "--dry-run")["functions"][0]["leftAlone"] is None
    rolled_out.standin.calls.clear()
    rolled_out.done("rollback", "journal", "--yes")
    assert rolled_out.fleet() == {"f": arns(restored)}
    assert len(rolled_out.standin.changes()) == (others != restored)


def test_the_dry_run_reads_the_functions(rolled_out: Cloud) -> None:
    change(rolled_out, ["other"])
    stdout = rolled_out.done("rollback", "journal", "--dry-run")
    assert "left alone: f, somebody else has changed its layers since" in stdout
    assert "layers before" not in stdout  # an empty table
    assert rolled_out.run("rollback", "journal", "--yes").returncode == 1
    assert rolled_out.fleet() == {"f": [layer("other")]}


def test_a_rollback_names_the_aliases_that_it_restores(cloud: Cloud) -> None:
    cloud.layer(count=2)
    client = cloud.client()
    for name in ("a", "b"):
        cloud.function(name, [f"{OURS}:1"])
        client.publish_version(FunctionName=name)
        client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    cloud.done("rollout", "--all-using", "--to", "2", "--publish-alias", "live", "--yes", "--journal", "moved")
    assert "the alias live of 2 functions is restored\n" in cloud.done("rollback", "moved", "--dry-run")
    assert "the alias live of 2 functions is restored\n" in cloud.done("rollback", "moved", "--yes")
    assert client.get_alias(FunctionName="a", Name="live")["FunctionVersion"] == "1"


def test_a_rollback_of_many_functions_is_readable_on_80_columns(tmp_path: Path) -> None:
    memory = lambda_in_memory.Region({f"function-{number:03}": [f"{lambda_in_memory.OURS}:1"] for number in range(300)})
    disk = lambda_in_memory.MemoryDisk()
    environment = Environment(connect=lambda pace: memory, disk=disk)  # type: ignore[arg-type,return-value]
    context = Context(environment, Output(out=io.StringIO(), err=io.StringIO()))
    assert rollout.roll_out(context, Options(all_using=True, to="2", yes=True), tmp_path / "journal") == 0
    history = journal.read(tmp_path / "journal")
    lines = "\n".join(rendering.rollback_lines(history, width=80)).splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert f"300 {TIMES} 2→1" in lines
    assert lines[-1] == "and 270 more; --dry-run --json lists all"
    assert len(rendering.rollback_document(history, {})["functions"]) == 300


def test_rollback_removes_an_attached_layer_among_others(rolled_out: Cloud) -> None:
    rolled_out.function("g", [layer("other")])
    rolled_out.done("attach", "g", "--to", "2", "--yes", "--journal", "attached")
    rolled_out.client().get_function(FunctionName="g")
    change(rolled_out, ["tracing", 2, "other"], "g")
    rolled_out.done("rollback", "attached", "--yes")
    assert rolled_out.fleet()["g"] == arns(["tracing", "other"])


def test_the_variable_is_restored_where_somebody_has_removed_the_layer(rolled_out: Cloud) -> None:
    rolled_out.function("g", [], Environment={"Variables": {"KEY": "value"}})
    rolled_out.done("attach", "g", "--to", "2", "--yes", "--journal", "attached")
    change(rolled_out, ["other"], "g")
    rolled_out.done("rollback", "attached", "--yes")
    configuration = rolled_out.client().get_function(FunctionName="g")["Configuration"]
    assert configuration["Environment"]["Variables"] == {"KEY": "value"}
    assert rolled_out.fleet()["g"] == arns(["other"])


def arns(layers: list[str | int]) -> list[str]:
    return [f"{OURS}:{each}" if isinstance(each, int) else layer(each) for each in layers]


def change(cloud: Cloud, layers: list[str | int], name: str = "f") -> None:
    cloud.client().update_function_configuration(FunctionName=name, Layers=arns(layers))


def test_an_error_is_an_object_with_json(cloud: Cloud) -> None:
    result = cloud.run("rollout", "nobody", "--to", "1", "--json")
    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert document["command"] == "rollout"
    assert result.stderr.endswith(f"build.sh: error: {document['error']}\n")


@pytest.mark.parametrize("cause", ["denied", "failing"])
def test_a_function_that_is_not_restored_is_never_reported_as_changed(rolled_out: Cloud, cause: str) -> None:
    rolled_out.function("g", [f"{OURS}:1"])
    rolled_out.done("rollout", "g", "--to", "2", "--yes", "--journal", "second")
    break_updates(rolled_out, cause)
    result = rolled_out.run("rollback", "journal", "--yes")
    assert (result.returncode, result.stdout.splitlines()[-1]) == (1, "1 function: 1 not rolled back")
    assert rolled_out.json("rollback", "second", "--yes", status=1)["functions"][0]["outcome"] == "not rolled back"
    for name in ("journal", "second"):
        state = rolled_out.json("status", name)
        assert (state["outcome"], state["functions"][0]["outcome"]) == ("unfinished", "not rolled back")
    repair_updates(rolled_out)
    rolled_out.done("rollback", "journal", "--yes")
    assert rolled_out.fleet()["f"] == arns(["other", 1])


def break_updates(cloud: Cloud, cause: str) -> None:
    if cause == "denied":
        cloud.standin.faults.on = lambda call: 403 if call.operation == "UpdateFunctionConfiguration" else None
    else:
        cloud.standin.faults.updates_fail |= {"f", "g"}


def repair_updates(cloud: Cloud) -> None:
    cloud.standin.faults.on = lambda call: None
    cloud.standin.faults.updates_fail.clear()
    cloud.standin.failed.clear()


def test_a_rollback_that_ends_early_does_not_report_the_other_functions_as_changed(cloud: Cloud) -> None:
    cloud.layer(count=2)
    for number in range(3):
        cloud.function(f"f-{number}", [f"{OURS}:1"])
    cloud.done("rollout", "--all-using", "--to", "2", "--yes", "--journal", "journal")
    cloud.standin.faults.on = lambda call: "before" if call.operation == "GetFunction" else None
    result = cloud.run("rollback", "journal", "--yes", "--workers", "1")
    assert result.returncode == 1
    assert "3 functions not restored yet; continue with ./build.sh rollback journal" in result.stderr
    cloud.standin.faults.on = lambda call: None
    assert cloud.done("status", "journal").splitlines()[-2].endswith("3 functions: 3 not rolled back")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["rollout", "f", "--rate", "x"], "argument --rate: 'x' is not a number of calls per second"),
        (["report", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["rollout", "f", "--bake", "1m"], "the pause and the gates come between waves"),
        (["rollback"], "the following arguments are required: JOURNAL"),
    ],
)
def test_wrong_usage_is_an_object_with_json(cloud: Cloud, words: list[str], error: str) -> None:
    result = cloud.run(*words, "--json")
    document = json.loads(result.stdout)
    assert (result.returncode, document["command"]) == (2, words[0])
    assert document["error"].startswith(error)
    assert result.stderr == f"build.sh: error: {document['error']}\n"
    assert cloud.run(*words).stdout == ""
