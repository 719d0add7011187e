"""`rollback` where others have changed functions meanwhile, and the object of an error."""

from __future__ import annotations

import json

import pytest
from support.cloud import OURS, Cloud

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
    rolled_out.done("rollback", "journal", "--yes")
    assert rolled_out.fleet() == {"f": arns(restored)}


def test_the_dry_run_reads_the_functions(rolled_out: Cloud) -> None:
    change(rolled_out, ["other"])
    stdout = rolled_out.done("rollback", "journal", "--dry-run")
    assert "left alone: f, somebody else has changed its layers since" in stdout
    assert rolled_out.run("rollback", "journal", "--yes").returncode == 1
    assert rolled_out.fleet() == {"f": [layer("other")]}


def test_rollback_removes_an_attached_layer_among_others(rolled_out: Cloud) -> None:
    rolled_out.function("g", [layer("other")])
    rolled_out.done("attach", "g", "--to", "2", "--yes", "--journal", "attached")
    rolled_out.client().get_function(FunctionName="g")
    change(rolled_out, ["tracing", 2, "other"], "g")
    rolled_out.done("rollback", "attached", "--yes")
    assert rolled_out.fleet()["g"] == arns(["tracing", "other"])


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
