"""`attach` and `detach`: the layer, and the variable with which a managed runtime uses it."""

from __future__ import annotations

import pytest
from support.cloud import NAME, OURS, Cloud
from support.lambda_standin import Call

FIRST, SECOND = "AWS_LAMBDA_EXEC_WRAPPER", "STREAMING_RUNTIME_EXEC_WRAPPER"
AGENT, BOOTSTRAP = "/opt/otel-instrument", "/opt/bootstrap"
ATTACH = ("attach", "--match", ".", "--to", "2", "--yes", "--journal", "journal")
DETACH = ("detach", "--all-using", "--yes", "--journal", "journal")


@pytest.fixture
def mixed(cloud: Cloud) -> Cloud:
    """Functions without the layer, with different variables, and one that has the layer alone."""
    cloud.layer(count=2)
    (other,) = cloud.layer("other")
    cloud.function("plain", [other], Environment={"Variables": {"KEY": "secret"}})
    cloud.function("traced", [], Environment={"Variables": {FIRST: AGENT}})
    cloud.function("os-only", [], Runtime="provided.al2023", Environment={"Variables": {}})
    cloud.function("layer-only", [f"{OURS}:2"], Environment={"Variables": {}})
    return cloud


def variables(cloud: Cloud) -> dict[str, dict[str, str]]:
    client = cloud.client()
    return {
        name: client.get_function(FunctionName=name)["Configuration"].get("Environment", {}).get("Variables", {})
        for name in cloud.fleet()
    }


ATTACHED = {
    "plain": {"KEY": "secret", FIRST: BOOTSTRAP},
    "traced": {FIRST: BOOTSTRAP, SECOND: AGENT},
    "os-only": {},
    "layer-only": {FIRST: BOOTSTRAP},
}


def test_attach_sets_the_variable_and_rollback_restores_it(mixed: Cloud) -> None:
    before = mixed.fleet(), variables(mixed)
    stdout = mixed.done(*ATTACH)
    assert variables(mixed) == ATTACHED
    assert f"{FIRST} becomes {BOOTSTRAP}" in stdout and f"{SECOND} becomes {AGENT}" in stdout
    assert all(f"{OURS}:2" in layers for layers in mixed.fleet().values())
    assert "secret" not in (mixed.checkout.root / "journal").read_text()
    assert "4 functions: 4 up to date" in mixed.done(*ATTACH[:-1], "again", "--dry-run")
    mixed.done("rollback", "journal", "--yes")
    assert (mixed.fleet(), variables(mixed)) == before


def test_attach_without_a_function_does_not_require_the_layer(mixed: Cloud) -> None:
    refusal = mixed.refusal("attach", "--match", "^zzz", "--to", "2", "--yes")
    assert refusal.startswith("no function in eu-central-1 is selected: ")


def test_the_default_target_of_attach_is_the_published_version(mixed: Cloud) -> None:
    mixed.done("publish")  # version 3; no function that is changed has the layer
    mixed.done("attach", "traced", "--yes")
    assert mixed.fleet()["traced"] == [f"{OURS}:3"]


def test_detach_removes_the_layer_and_the_variable_and_can_be_rolled_back(mixed: Cloud) -> None:
    layers_before, variables_before = mixed.fleet(), variables(mixed)
    mixed.done(*ATTACH)
    attached = mixed.fleet()
    (mixed.checkout.root / "journal").unlink()
    stdout = mixed.done(*DETACH)
    assert stdout.startswith(f"Detach {NAME} in ") and f"{NAME} 2→none\n" in stdout
    assert f"{FIRST} is removed" in stdout
    assert mixed.fleet() == layers_before | {"layer-only": []}
    assert variables(mixed) == variables_before
    mixed.done("rollback", "journal", "--yes")
    assert (mixed.fleet(), variables(mixed)) == (attached, ATTACHED)


@pytest.mark.parametrize("fault", ["before", "after", 500])
def test_a_lost_response_is_read_back(mixed: Cloud, fault: int | str) -> None:
    lost: list[Call] = []

    def lose(call: Call) -> int | str | None:
        if call.operation == "UpdateFunctionConfiguration" and call.name == "plain" and not lost:
            lost.append(call)
            return fault
        return None

    mixed.standin.faults.on = lose
    mixed.done(*ATTACH)
    assert variables(mixed) == ATTACHED


def test_a_variable_that_others_changed_is_left_alone(mixed: Cloud) -> None:
    mixed.done(*ATTACH)
    mixed.client().update_function_configuration(FunctionName="plain", Environment={"Variables": {FIRST: "/opt/x"}})
    result = mixed.run("rollback", "journal", "--yes")
    assert result.returncode == 1
    assert f"left alone: plain, somebody else has changed {FIRST} or {SECOND} since" in result.stdout
    assert variables(mixed)["plain"] == {FIRST: "/opt/x"}


def test_two_programs_of_others_are_not_overwritten(mixed: Cloud) -> None:
    mixed.function("both", [], Environment={"Variables": {FIRST: "/opt/a", SECOND: "/opt/b"}})
    message = mixed.refusal("attach", "both", "--to", "2", "--yes")
    assert message.endswith(f"both: {FIRST} and {SECOND} name two programs, /opt/a and /opt/b: remove one of them")


def test_detach_has_no_target(mixed: Cloud) -> None:
    message = mixed.refusal("detach", "plain", "--to", "2", status=2)
    assert message == "detach has no target: omit --to (see ./build.sh detach --help)"


def test_an_interrupted_attach_continues(mixed: Cloud) -> None:
    def expire(call: Call) -> None:
        mixed.standin.faults.expired = len(mixed.standin.changes()) > 1

    mixed.standin.calls.clear()
    mixed.standin.faults.on = expire
    assert mixed.run(*ATTACH).returncode == 1
    mixed.standin.faults = type(mixed.standin.faults)()
    mixed.done("attach", "--resume", "journal", "--forward")
    assert variables(mixed) == ATTACHED


def test_attach_and_detach_move_an_alias_and_can_be_rolled_back(mixed: Cloud) -> None:
    client = mixed.client()
    client.publish_version(FunctionName="plain")
    client.create_alias(FunctionName="plain", Name="live", FunctionVersion="1")

    def live() -> tuple[list[str], str | None]:
        found = client.get_function(FunctionName="plain", Qualifier="live")["Configuration"]
        layers = [each["Arn"] for each in found.get("Layers", []) if NAME in each["Arn"]]
        return layers, found["Environment"]["Variables"].get(FIRST)

    alias = ("--publish-alias", "live", "--yes")
    mixed.done("attach", "plain", "--to", "2", *alias)
    assert live() == ([f"{OURS}:2"], BOOTSTRAP)
    mixed.done("detach", "plain", *alias, "--journal", "detached")
    assert live() == ([], None)
    assert "1 function: 1 up to date" in mixed.done("detach", "plain", *alias, "--dry-run")
    mixed.done("rollback", "detached", "--yes")
    assert live() == ([f"{OURS}:2"], BOOTSTRAP)


def test_detach_moves_an_alias_that_still_has_the_layer(mixed: Cloud) -> None:
    mixed.done("attach", "plain", "--to", "2", "--yes")
    client = mixed.client()
    client.publish_version(FunctionName="plain")
    client.create_alias(FunctionName="plain", Name="live", FunctionVersion="1")
    mixed.done("detach", "plain", "--yes")
    mixed.done("detach", "plain", "--publish-alias", "live", "--yes")
    layers = client.get_function(FunctionName="plain", Qualifier="live")["Configuration"].get("Layers", [])
    assert NAME not in str(layers)
