"""Aliases in a roll-out: what is released, who changes them meanwhile, and which of them stay old.

AWS Lambda is the stand-in (see `lambda_standin`). Changes of others are made in the backend of moto, because they come
while a request of the roll-out is served.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.awslambda.utils import get_backend
from support.cloud import ACCOUNT, NAME, OURS, REGION, Cloud, zipped
from support.lambda_standin import Call

from tools.fleet.aws.settings import SETTINGS, UNREADABLE_VARIABLES, differing_settings, settings_of

PUBLISH, UPDATE, UPDATE_ALIAS = "PublishVersion", "UpdateFunctionConfiguration", "UpdateAlias"
ROLL_OUT = ("rollout", "--all-using", "--to", "2", "--publish-alias", "live", "--yes")


@pytest.fixture
def fleet(cloud: Cloud) -> Cloud:
    """Two functions whose alias `live` points to version 1, which is equal to `$LATEST`."""
    ours, *_ = cloud.layer(count=3)
    for name in ("one", "two"):
        cloud.function(name, [ours])
        add_alias(cloud, name)
    cloud.standin.calls.clear()
    return cloud


def add_alias(cloud: Cloud, name: str, alias: str = "live") -> None:
    version = cloud.client().publish_version(FunctionName=name)["Version"]
    cloud.client().create_alias(FunctionName=name, Name=alias, FunctionVersion=version)


def deploy(cloud: Cloud, name: str) -> None:
    """Change the code of `$LATEST`, as a deployment does."""
    code = base64.b64encode(zipped({"lambda_function.py": f"# {uuid.uuid4()}\n"})).decode()
    get_backend(ACCOUNT, REGION).get_function(name).update_function_code({"ZipFile": code})
    cloud.standin.revisions.pop((ACCOUNT, REGION, name), None)


def change_alias(name: str, version: str = "1", weights: dict[str, float] | None = None) -> None:
    """Change an alias, as somebody else does."""
    alias = get_backend(ACCOUNT, REGION).get_alias("live", name)
    alias.function_version = version
    alias.routing_config = {"AdditionalVersionWeights": weights} if weights else {}
    alias.revision_id = str(uuid.uuid4())


def alias_of(cloud: Cloud, name: str) -> tuple[str, dict[str, float]]:
    alias = cloud.client().get_alias(FunctionName=name, Name="live")
    return alias["FunctionVersion"], (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}


def aliases_of(cloud: Cloud) -> list[tuple[str, dict[str, float]]]:
    return [alias_of(cloud, name) for name in ("one", "two")]


def layers_of_alias(cloud: Cloud, name: str) -> list[str]:
    version, _ = alias_of(cloud, name)
    return cloud.standin.layers[ACCOUNT, REGION, name, version]


def outcomes(result: Any) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["outcome"], each["reason"]) for each in result["functions"]}


def once(cloud: Cloud, operation: str, name: str, act: Callable[[], None]) -> None:
    """Call `act` when the first call of `operation` for the function arrives, before it is carried out."""
    done: list[Call] = []

    def on(call: Call) -> None:
        if (call.operation, call.name) == (operation, name) and not done:
            done.append(call)
            act()

    cloud.standin.faults.on = on  # type: ignore[assignment]


# What is released

CHANGES: dict[str, dict[str, Any]] = {
    "Description": {"Description": "another"},
    "Environment.Variables.MODE": {"Environment": {"Variables": {"MODE": "x"}}},
    "Handler": {"Handler": "other.handler"},
    "MemorySize": {"MemorySize": 512},
    "Timeout": {"Timeout": 33},
}  # fmt: skip


def test_a_function_with_unreleased_changes_is_blocked(fleet: Cloud, subtests: pytest.Subtests) -> None:
    before = fleet.fleet()
    for setting, change in CHANGES.items():
        with subtests.test(setting=setting):
            fleet.client().update_function_configuration(FunctionName="two", **change)
            plan = fleet.json(*ROLL_OUT[:-1], "--dry-run", status=1)
            (two,) = (each for each in plan["functions"] if each["name"] == "two")
            assert (two["verdict"], two["alias"]["name"], two["alias"]["version"]) == ("blocked", "live", "1")
            assert setting in two["alias"]["differences"]
            message = fleet.refusal(*ROLL_OUT)
            assert f"{setting}" in message and "use --include-unreleased" in message
    assert fleet.fleet() == before
    assert aliases_of(fleet) == [("1", {})] * 2


def test_other_code_and_other_layers_are_unreleased_changes(fleet: Cloud) -> None:
    deploy(fleet, "one")
    other = fleet.layer("other")
    fleet.client().update_function_configuration(FunctionName="two", Layers=[f"{OURS}:1", *other])
    plan = fleet.json(*ROLL_OUT[:-1], "--dry-run", status=1)
    assert [each["alias"]["differences"] for each in plan["functions"]] == [["CodeSha256"], ["Layers"]]


def test_another_version_of_our_own_layer_is_not_an_unreleased_change(fleet: Cloud) -> None:
    fleet.client().update_function_configuration(FunctionName="two", Layers=[f"{OURS}:3"])
    fleet.done(*ROLL_OUT)
    assert layers_of_alias(fleet, "two") == [f"{OURS}:2"]


def test_unreleased_changes_are_released_on_request_and_shown(fleet: Cloud) -> None:
    fleet.client().update_function_configuration(FunctionName="two", MemorySize=512)
    stdout = fleet.done(*ROLL_OUT, "--include-unreleased")
    assert "hint: two: unreleased changes in $LATEST go to the alias live: MemorySize" in stdout
    live = fleet.client().get_function(FunctionName="two", Qualifier="live")["Configuration"]
    assert live["MemorySize"] == 512 and layers_of_alias(fleet, "two") == [f"{OURS}:2"]


def test_the_plan_never_contains_the_value_of_a_variable(fleet: Cloud) -> None:
    secret = {"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap", "TOKEN": "s3cr3t"}}
    fleet.client().update_function_configuration(FunctionName="two", Environment=secret)
    result = fleet.run(*ROLL_OUT, "--include-unreleased", "--json")
    journals = "".join(path.read_text() for path in fleet.checkout.root.glob("rollouts/*"))
    assert "Environment.Variables.TOKEN" in journals and "s3cr3t" not in journals + result.stdout + result.stderr


def test_the_settings_are_those_of_the_api() -> None:
    client = boto3.Session("a", "b", region_name=REGION).client("lambda")
    model = client.meta.service_model.operation_model("UpdateFunctionConfiguration").input_shape
    assert {*SETTINGS, "FunctionName", "RevisionId", "Layers"} == set(model.members)


def test_every_setting_is_compared_and_computed_values_are_not() -> None:
    base = {"FunctionName": "f", "CodeSha256": "x"}
    for name in SETTINGS:
        value: Any = {"Any": 7}
        field = "ImageConfigResponse" if name == "ImageConfig" else name
        changed = settings_of({**base, field: {"ImageConfig": value} if name == "ImageConfig" else value})
        assert differing_settings(settings_of(base), changed) == (f"{name}.Any",)
    published = {
        **base, "State": "Active", "LastModified": "now", "RevisionId": "r", "Version": "3", "MasterArn": "a",
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "On"}, "TracingConfig": {"Mode": "PassThrough"},
        "VpcConfig": {"SubnetIds": [], "SecurityGroupIds": [], "VpcId": ""}, "EphemeralStorage": {"Size": 512},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": "/aws/lambda/f"}, "Environment": {"Variables": {}},
        "Description": "", "FileSystemConfigs": [], "KMSKeyArn": None,
    }  # fmt: skip
    assert differing_settings(settings_of(base), settings_of(published)) == ()


def test_variables_that_cannot_be_read_count_as_a_difference() -> None:
    unreadable = {"FunctionName": "f", "Environment": {"Error": {"ErrorCode": "AccessDeniedException"}}}
    readable = {"FunctionName": "f", "Environment": {"Variables": {"A": "1"}}}
    for other in (unreadable, readable):
        assert differing_settings(settings_of(unreadable), settings_of(other)) == (UNREADABLE_VARIABLES,)


# Aliases that somebody else changes


def another_version(cloud: Cloud, name: str) -> None:
    """Publish version 2 of a function, with the code of version 1 but another description."""
    for description in ("another", ""):
        cloud.client().update_function_configuration(FunctionName=name, Description=description)
        cloud.client().get_function(FunctionName=name)
        cloud.client().get_function(FunctionName=name)
        if description:
            cloud.client().publish_version(FunctionName=name)
    cloud.standin.calls.clear()


MOVED = "somebody else pointed its alias live to version 2"
WEIGHTED = "somebody else has changed its alias live since it was read: it sends 25 % to version 2"


@pytest.mark.parametrize(
    ("operation", "weights", "expected"),
    [
        (UPDATE, {}, MOVED),
        (PUBLISH, {"2": 0.25}, WEIGHTED),
        (UPDATE_ALIAS, {}, MOVED),
        (UPDATE_ALIAS, {"2": 0.25}, WEIGHTED),
    ],
)
def test_an_alias_that_is_changed_after_the_plan_is_not_moved(
    fleet: Cloud, tmp_path: Path, operation: str, weights: dict[str, float], expected: str
) -> None:
    """Before the update of the layers, before the publication and before the move."""
    another_version(fleet, "two")
    before, theirs = fleet.fleet(), ("1", weights) if weights else ("2", {})
    once(fleet, operation, "two", lambda: change_alias("two", *theirs))
    result = fleet.json(*ROLL_OUT, "--journal", tmp_path / "journal", status=1)
    outcome, reason = outcomes(result)["two"]
    assert (outcome, reason) == ("skipped and rolled back", expected)
    assert (alias_of(fleet, "two"), alias_of(fleet, "one")[1]) == (theirs, {})
    assert fleet.fleet() == before | {"one": [f"{OURS}:2"]}
    fleet.standin.faults.on = lambda call: None
    change_alias("two", "1")
    fleet.done("rollout", "--resume", tmp_path / "journal")
    assert layers_of_alias(fleet, "two") == [f"{OURS}:2"]
    fleet.done("rollback", tmp_path / "journal", "--yes")
    assert fleet.fleet() == before and alias_of(fleet, "two") == ("1", {})


def test_without_revisions_an_alias_is_moved_and_restored(fleet: Cloud, tmp_path: Path) -> None:
    before = fleet.fleet()
    fleet.standin.has_revisions = False
    fleet.done(*ROLL_OUT, "--shift", "10%", "--journal", tmp_path / "journal")
    assert aliases_of(fleet) == [("2", {})] * 2 and layers_of_alias(fleet, "two") == [f"{OURS}:2"]
    fleet.done("rollback", tmp_path / "journal", "--yes")
    assert fleet.fleet() == before and aliases_of(fleet) == [("1", {})] * 2
    assert not any("RevisionId" in call.body for call in fleet.standin.calls)


@pytest.mark.parametrize(("weights", "expected"), [({}, MOVED), ({"2": 0.25}, WEIGHTED)])
def test_without_revisions_an_alias_is_read_again_before_it_is_moved(
    fleet: Cloud, weights: dict[str, float], expected: str
) -> None:
    another_version(fleet, "two")
    theirs = ("1", weights) if weights else ("2", {})
    fleet.standin.has_revisions = False
    once(fleet, PUBLISH, "two", lambda: change_alias("two", *theirs))
    result = fleet.json(*ROLL_OUT, status=1)
    assert outcomes(result)["two"] == ("skipped and rolled back", expected)
    assert alias_of(fleet, "two") == theirs


def test_a_function_of_which_only_the_alias_would_change_is_not_restored(fleet: Cloud) -> None:
    another_version(fleet, "two")
    fleet.done("rollout", "two", "--to", "2", "--yes")
    fleet.standin.calls.clear()
    once(fleet, UPDATE_ALIAS, "two", lambda: change_alias("two", "2"))
    result = fleet.json("rollout", "two", *ROLL_OUT[2:], status=1)
    assert outcomes(result)["two"] == ("skipped", MOVED)
    assert not fleet.standin.changes()


def test_an_alias_that_was_moved_before_the_first_change_leaves_the_function_untouched(fleet: Cloud) -> None:
    another_version(fleet, "two")
    once(fleet, UPDATE, "one", lambda: change_alias("two", "2"))
    result = fleet.run("rollout", "one", "two", *ROLL_OUT[2:], "--waves", "1,100%")
    assert result.returncode == 1 and "skipped: two, its alias live points to version 2, not to 1" in result.stdout
    assert "2/2  two  skipped: its alias live points to version 2, not to 1 as in the plan\n" in result.stderr
    assert "two" not in [call.name for call in fleet.standin.changes()]
    assert "plan 1 skipped function again with ./build.sh rollout --resume " in result.stderr


@pytest.mark.parametrize(("name", "operation"), [("one", UPDATE), ("two", UPDATE_ALIAS)])
def test_an_alias_that_was_deleted_is_skipped(fleet: Cloud, name: str, operation: str) -> None:
    """Before the function is changed, and after that, before the alias is moved."""
    before = fleet.fleet()
    once(fleet, operation, name, lambda: get_backend(ACCOUNT, REGION).delete_alias("live", "two"))
    result = fleet.json("rollout", "one", "two", *ROLL_OUT[2:], "--waves", "1,100%", status=1)
    outcome, reason = outcomes(result)["two"]
    assert outcome == ("skipped" if operation == UPDATE else "skipped and rolled back")
    assert reason == "its alias live no longer exists"
    assert fleet.fleet() == before | {"one": [f"{OURS}:2"]}


def test_a_rollback_restores_the_layers_if_somebody_has_deleted_the_alias(fleet: Cloud, tmp_path: Path) -> None:
    before = fleet.fleet()
    fleet.done(*ROLL_OUT, "--journal", tmp_path / "journal")
    get_backend(ACCOUNT, REGION).delete_alias("live", "two")
    fleet.done("rollback", tmp_path / "journal", "--yes")
    assert fleet.fleet() == before


def test_a_deployment_to_latest_after_the_plan_is_not_released(fleet: Cloud, tmp_path: Path) -> None:
    before = fleet.fleet()
    once(fleet, PUBLISH, "two", lambda: deploy(fleet, "two"))
    result = fleet.json(*ROLL_OUT, "--journal", tmp_path / "journal", status=1)
    outcome, reason = outcomes(result)["two"]
    assert outcome == "skipped and rolled back" and "differs from version 1" in reason and "CodeSha256" in reason
    assert alias_of(fleet, "two") == ("1", {}) and fleet.fleet() == before | {"one": [f"{OURS}:2"]}
    again = fleet.json("rollout", "--resume", tmp_path / "journal", status=1)
    assert outcomes(again)["two"][1].startswith("$LATEST differs from version 1")
    assert alias_of(fleet, "two") == ("1", {}) and fleet.fleet() == before | {"one": [f"{OURS}:2"]}


@pytest.mark.parametrize("operation", [PUBLISH, UPDATE_ALIAS])
@pytest.mark.parametrize("fault", ["after", *(pytest.param(each, marks=pytest.mark.long) for each in (500, 429))])
def test_a_lost_response_does_not_move_an_alias_twice(fleet: Cloud, operation: str, fault: Any) -> None:
    lost: list[Call] = []

    def lose(call: Call) -> Any:
        if call.operation == operation and call.name == "two" and not lost:
            lost.append(call)
            return fault
        return None

    fleet.standin.faults.on = lose
    fleet.done(*ROLL_OUT)
    assert lost and aliases_of(fleet) == [("2", {})] * 2


# Aliases with weights


def test_a_weighted_alias_is_skipped_unless_requested(fleet: Cloud, tmp_path: Path) -> None:
    another_version(fleet, "two")
    change_alias("two", "1", {"2": 0.2})
    before = fleet.fleet()
    stdout = fleet.done(*ROLL_OUT)
    assert "skipped: two, its alias live sends 20 % to version 2: wait until that deployment is complete" in stdout
    assert alias_of(fleet, "two") == ("1", {"2": 0.2}) and fleet.fleet()["two"] == before["two"]
    fleet.done(*ROLL_OUT, "--include-weighted", "--journal", tmp_path / "journal")
    assert alias_of(fleet, "two") == ("3", {})
    fleet.done("rollback", tmp_path / "journal", "--yes")
    assert alias_of(fleet, "two") == ("1", {"2": 0.2})


def test_an_alias_of_the_new_version_stays_and_with_weights_it_is_skipped(fleet: Cloud) -> None:
    fleet.done(*ROLL_OUT)
    change_alias("two", "2", {"1": 0.5})
    fleet.standin.calls.clear()
    assert "skipped: two, its alias live sends 50 % to version 1" in fleet.done(*ROLL_OUT)
    assert not {UPDATE, PUBLISH, UPDATE_ALIAS} & fleet.standin.counted().keys()


def test_a_rollback_does_not_overwrite_the_weights_of_others(fleet: Cloud, tmp_path: Path) -> None:
    fleet.done(*ROLL_OUT, "--journal", tmp_path / "journal")
    change_alias("two", "2", {"1": 0.5})
    result = fleet.run("rollback", tmp_path / "journal", "--yes")
    assert result.returncode == 1
    assert (
        "left alone: two, somebody else changed its alias live: it points to version 2, and sends 50 %" in result.stdout
    )
    assert alias_of(fleet, "two") == ("2", {"1": 0.5})
    assert (alias_of(fleet, "one"), fleet.fleet()["one"]) == (("1", {}), [f"{OURS}:1"])


# Mixed fleets, and old traffic


def test_functions_without_the_alias_are_blocked_or_get_the_layer_alone(fleet: Cloud) -> None:
    fleet.function("bare", [f"{OURS}:1"])
    assert "bare: it has no alias live: create it, use --where-present" in fleet.refusal(*ROLL_OUT)
    fleet.standin.calls.clear()
    fleet.done(*ROLL_OUT, "--where-present", "--shift", "10%")
    assert fleet.standin.counted()[UPDATE_ALIAS] == 4  # twice for each alias
    assert {tuple(layers) for layers in fleet.fleet().values()} == {(f"{OURS}:2",)}
    assert alias_of(fleet, "one") == alias_of(fleet, "two") == ("2", {})


def test_an_alias_of_latest_is_not_moved(fleet: Cloud) -> None:
    fleet.function("direct", [f"{OURS}:1"])
    fleet.client().create_alias(FunctionName="direct", Name="live", FunctionVersion="$LATEST")
    fleet.done(*ROLL_OUT)
    assert alias_of(fleet, "direct") == ("$LATEST", {}) and fleet.fleet()["direct"] == [f"{OURS}:2"]


def test_the_summary_lists_the_aliases_that_still_run_the_old_version(fleet: Cloud) -> None:
    words = ["rollout", "--all-using", "--to", "2", "--yes"]
    stdout = fleet.done(*words)
    assert "2 aliases still run the old version: live of one (version 1), live of two (version 1)" in stdout
    result = fleet.json("rollout", "one", "--to", "3", "--yes")
    assert result["oldAliases"] == [{"function": "one", "alias": "live", "version": "1"}]
    fleet.function("bare", [f"{OURS}:1"])
    assert "0 aliases still run the old version\n" in fleet.done("rollout", "bare", "--to", "2", "--yes")


def test_the_aliases_of_many_functions_are_found_in_few_calls(fleet: Cloud) -> None:
    for number in range(25):
        fleet.function(f"f-{number:02}", [f"{OURS}:1"])
    add_alias(fleet, "f-07")
    stdout = fleet.done("rollout", "--all-using", "--to", "2", "--yes")
    assert "3 aliases still run the old version: live of f-07 (version 1), live of one (version 1), live of" in stdout
    assert fleet.standin.counted()["ListAliases"] == 3


def test_a_summary_without_permission_does_not_fail_the_roll_out(fleet: Cloud) -> None:
    fleet.standin.faults.on = lambda call: 403 if call.operation == "ListAliases" else None
    stdout = fleet.done("rollout", "one", "--to", "2", "--yes")
    assert "aliases that still run the old version are not known: ListAliases is not allowed" in stdout


def test_requests_cannot_be_divided_between_versions_with_different_roles(fleet: Cloud) -> None:
    role = fleet.client("iam").create_role(RoleName="other", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    fleet.client().update_function_configuration(FunctionName="two", Role=role)
    message = fleet.refusal(*ROLL_OUT, "--include-unreleased", "--shift", "10%")
    assert message.endswith("two: --shift needs two versions with the same Role: roll out without --shift")
    fleet.done(*ROLL_OUT, "--include-unreleased")


# Silent downgrades


def test_a_default_target_that_is_older_is_refused(fleet: Cloud) -> None:
    fleet.done("publish")  # version 4
    fleet.layer()  # version 5
    message = fleet.refusal("rollout", "one", "--yes")
    assert message == (
        f"the manifest has version 4 of {NAME} in {REGION}, but version 5 is published: use a newer manifest, --to 5, "
        "or --to 4 for the older version"
    )
    fleet.client().update_function_configuration(FunctionName="one", Layers=[f"{OURS}:5"])
    assert "but one has version 5: use a newer manifest" in fleet.refusal("rollout", "--all-using", "--yes")
    assert "version 5 is published" in fleet.refusal("rollout", "two", "--yes", "--dry-run")
    fleet.done("rollout", "--all-using", "--to", "4", "--yes")
    assert {tuple(layers) for layers in fleet.fleet().values()} == {(f"{OURS}:4",)}


# Wrong usage

WRONG: list[tuple[list[str], str]] = [
    (["--where-present"], "--where-present is about an alias: add --publish-alias ALIAS"),
    (["--include-unreleased"], "--include-unreleased is about an alias"),
    (["--include-weighted"], "--include-weighted is about an alias"),
    (["--shift", "10%"], "--shift is about an alias"),
    (["--publish-alias", ""], "argument --publish-alias: '' is not the name of an alias"),
    (["--publish-alias", "7"], "argument --publish-alias: '7' is not the name of an alias"),
    (["--publish-alias", "$LATEST"], "argument --publish-alias: '$LATEST' is not the name of an alias"),
]


def test_wrong_usage_is_one_line(fleet: Cloud, subtests: pytest.Subtests) -> None:
    for words, message in WRONG:
        with subtests.test(words=words):
            assert fleet.refusal("rollout", "one", "--to", "2", *words, status=2).startswith(message)


def test_the_journal_contains_the_plan_of_each_alias(fleet: Cloud, tmp_path: Path) -> None:
    fleet.done(*ROLL_OUT, "--journal", tmp_path / "journal")
    lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    planned = [line["alias"] for line in lines if line["event"] == "planned"]
    assert [(each["name"], each["version"], each["differences"]) for each in planned] == [("live", "1", [])] * 2
    assert all(each["revision"] for each in planned)
