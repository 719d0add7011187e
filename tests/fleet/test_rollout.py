"""`rollout`, `attach` and `rollback` against a stand-in of AWS Lambda (see `lambda_standin`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.cloud import ACCOUNT, FOREIGN_ACCOUNT, FOREIGN_KEY, NAME, OURS, REGION, VERSION, Cloud, no_pauses
from support.examples import sample
from support.lambda_standin import Call

UPDATE = "UpdateFunctionConfiguration"


@pytest.fixture
def fleet(cloud: Cloud) -> Cloud:
    """Five functions with our layer at every position, one without it, and one that a stack owns."""
    before, after = cloud.layer("before") + cloud.layer("after")
    foreign = cloud.foreign_layer()
    ours, *_ = cloud.layer(count=3)
    for name, layers in {
        "alone": [ours],
        "first": [ours, before],
        "last": [before, foreign, ours],
        "middle": [foreign, ours, after],
        "full": [after, before, foreign, ours, *cloud.layer("fifth")],
        "without": [before, after],
    }.items():
        cloud.function(name, layers)
    cloud.function("owned", [ours], Tags={"aws:cloudformation:stack-name": "shop"})
    cloud.standin.calls.clear()
    return cloud


def moved(layers: dict[str, list[str]], to: int, *names: str) -> dict[str, list[str]]:
    """Return the layers of all functions after a roll-out of version `to` to the named ones."""
    return {
        name: [f"{OURS}:{to}" if arn.startswith(OURS) and name in names else arn for arn in arns]
        for name, arns in layers.items()
    }


WITH = ("alone", "first", "full", "last", "middle")


# Successful roll-outs


def test_our_layer_is_replaced_in_place_and_nothing_else(fleet: Cloud) -> None:
    before = fleet.fleet()
    stdout = fleet.done("rollout", "--all-using", "--to", "2", "--yes", "--verbose")
    assert fleet.fleet() == moved(before, 2, *WITH)
    row = f"last before:1, {FOREIGN_ACCOUNT}:tracing:1, {NAME}:1 → before:1, {FOREIGN_ACCOUNT}:tracing:1, {NAME}:2"
    assert row in [" ".join(line.split()) for line in stdout.splitlines()]
    assert "skipped: owned, CloudFormation owns it (stack shop)" in stdout
    assert "without" not in stdout
    assert stdout.endswith("6 functions: 5 changed, 1 skipped\n")


def test_a_second_run_changes_nothing(fleet: Cloud) -> None:
    fleet.done("rollout", "--all-using", "--to", "2", "--yes")
    fleet.standin.calls.clear()
    assert "6 functions: 5 up to date, 1 skipped" in fleet.done("rollout", "--all-using", "--to", "2")
    assert not fleet.standin.changes()


@pytest.mark.parametrize("to", ["2", f"{OURS}:2"])
def test_functions_can_be_named_matched_or_tagged(fleet: Cloud, to: str) -> None:
    fleet.function("tagged", [f"{OURS}:1"], Tags={"team": "a=b"})
    before = fleet.fleet()
    fleet.done("rollout", "alone", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:first", "--to", to, "--yes")
    assert fleet.fleet() == moved(before, 2, "alone", "first")
    fleet.done("rollout", "--match", "^mid|^with", "--to", to, "--yes")
    assert fleet.fleet() == moved(before, 2, "alone", "first", "middle")
    fleet.done("rollout", "--tag", "team=a=b", "--to", to, "--yes")
    assert fleet.fleet() == moved(before, 2, "alone", "first", "middle", "tagged")


def test_unreadable_tags_are_not_treated_as_no_tags(fleet: Cloud) -> None:
    for name in ("secret", "tagged"):
        fleet.function(name, [f"{OURS}:1"], Tags={"team": "a"})
    fleet.standin.faults.tags_denied = {"secret", "tagged"}
    message = fleet.refusal("rollout", "--tag", "team=a", "--to", "2", "--yes")
    assert message == "the tags of secret and 1 more cannot be read: allow lambda:ListTags, or name the functions"
    fleet.standin.faults.tags_denied = {"secret"}
    message = fleet.refusal("rollout", "--tag", "team=a", "--to", "2", "--yes")
    assert message == "the tags of secret cannot be read: allow lambda:ListTags, or name the functions"
    message = fleet.refusal("rollout", "secret", "--to", "2", "--yes")
    assert message.endswith("cannot be read: allow lambda:ListTags, or use --include-cloudformation")
    before = fleet.fleet()
    fleet.done("rollout", "secret", "--to", "2", "--yes", "--include-cloudformation")
    assert fleet.fleet() == moved(before, 2, "secret")


def test_a_function_of_a_stack_is_changed_if_the_option_says_so(fleet: Cloud) -> None:
    before = fleet.fleet()
    fleet.done("rollout", "owned", "--to", "3", "--yes", "--include-cloudformation")
    assert fleet.fleet() == moved(before, 3, "owned")


def test_the_default_target_is_the_published_version(fleet: Cloud) -> None:
    fleet.done("publish")
    before = fleet.fleet()
    fleet.done("rollout", "--all-using", "--yes")
    assert fleet.fleet() == moved(before, 4, *WITH)
    assert "up to date" in fleet.done("rollout", "--all-using", "--to", VERSION, "--yes")


def test_all_pages_of_functions_are_read(cloud: Cloud) -> None:
    ours, other = cloud.layer(count=2)
    for number in range(120):
        cloud.function(f"f-{number:03}", [ours] if number % 40 == 39 else [])
    cloud.done("rollout", "--all-using", "--to", "2", "--yes")
    assert [name for name, layers in cloud.fleet().items() if layers == [other]] == ["f-039", "f-079", "f-119"]


def test_attach_adds_the_layer_last_to_functions_without_it(fleet: Cloud) -> None:
    before = fleet.fleet()
    stdout = fleet.done("attach", "without", "alone", "--to", "2", "--yes")
    assert fleet.fleet() == before | {"without": [*before["without"], f"{OURS}:2"]}
    assert "skipped: alone, it has the layer already" in stdout
    fleet.done("rollback", *fleet.checkout.root.glob("rollouts/*.jsonl"), "--yes")
    assert fleet.fleet() == before


def test_a_shared_layer_of_another_account_can_be_rolled_out(cloud: Cloud) -> None:
    client = cloud.client(key=FOREIGN_KEY)
    arns = cloud.layer(count=2, key=FOREIGN_KEY)
    for number in (1, 2):
        client.add_layer_version_permission(
            LayerName=NAME, VersionNumber=number, StatementId="a", Action="lambda:GetLayerVersion", Principal=ACCOUNT
        )
    cloud.function("far", [arns[0]])
    assert "--layer-account 999999999999" in cloud.refusal("rollout", "far", "--to", arns[1], "--yes", status=2)
    cloud.done("rollout", "--all-using", "--layer-account", FOREIGN_ACCOUNT, "--to", "2", "--yes")
    assert cloud.fleet() == {"far": [arns[1]]}


# The prompt


@pytest.mark.parametrize(("reply", "status"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_the_command_asks_before_it_changes_anything(fleet: Cloud, reply: str, status: int) -> None:
    before = fleet.fleet()
    result = fleet.run("rollout", "alone", "--to", "2", stdin=reply)
    assert result.returncode == status
    assert "Change 1 function? [y/N] " in result.stderr
    assert fleet.fleet() == (before if status else moved(before, 2, "alone"))
    assert len(list(fleet.checkout.root.glob("rollouts/*"))) == (0 if status else 1)


@pytest.mark.parametrize("words", [["rollout", "--all-using"], ["attach", "without"]])
def test_a_dry_run_shows_the_plan_and_writes_nothing(fleet: Cloud, words: list[str], tmp_path: Path) -> None:
    files, before = fleet.checkout.files(), fleet.fleet()
    journal = tmp_path / "journal"
    plan = fleet.json(*words, "--to", "2", "--dry-run", "--journal", journal)
    assert plan["dryRun"] and {each["verdict"] for each in plan["functions"]} <= {"change", "skipped"}
    assert all(each["old"] == before[each["name"]] for each in plan["functions"])
    assert "→" in fleet.done(*words, "--to", "2", "--dry-run", "--journal", journal)
    assert (fleet.checkout.files(), fleet.fleet(), journal.exists()) == (files, before, False)
    assert {call.operation for call in fleet.standin.calls} <= {
        "GetCallerIdentity", "ListFunctions", "GetFunction", "GetLayerVersion", "ListCodeSigningConfigs"
    }  # fmt: skip


# Canaries, probes, aliases


def test_canaries_are_updated_first_and_probed(fleet: Cloud) -> None:
    event = fleet.checkout.root / "event.json"
    event.write_text('{"sentence": "hello"}')
    fleet.done("rollout", "--all-using", "--to", "2", "--yes", "--canary", "2", "--probe", event)
    assert sorted(name for name, _ in fleet.standin.invoked) == ["alone", "first"]
    assert {event for _, event in fleet.standin.invoked} == {b'{"sentence": "hello"}'}
    names = [call.name for call in fleet.standin.calls if call.operation in (UPDATE, "Invoke")]
    assert sorted(names[:4]) == ["alone", "alone", "first", "first"]


def test_without_canaries_all_functions_are_probed(fleet: Cloud) -> None:
    fleet.done("rollout", "--all-using", "--to", "2", "--yes", "--probe", "{}")
    assert sorted(name for name, _ in fleet.standin.invoked) == sorted(WITH)


def test_a_canary_whose_probe_fails_stops_the_roll_out(fleet: Cloud) -> None:
    before = fleet.fleet()
    fleet.standin.faults.invocations_fail = {"first"}
    result = fleet.run("rollout", "--all-using", "--to", "2", "--yes", "--canary", "2", "--probe", "{}")
    assert result.returncode == 1
    assert "first, the probe failed: ValueError: boom" in result.stdout
    assert fleet.fleet() == before
    assert {call.name for call in fleet.standin.changes()} == {"alone", "first"}


def alias(cloud: Cloud, name: str) -> Any:
    client = cloud.client()
    version = client.publish_version(FunctionName=name)["Version"]
    return client.create_alias(FunctionName=name, Name="live", FunctionVersion=version)


def test_an_alias_is_moved_to_a_published_version_and_restored(fleet: Cloud, tmp_path: Path) -> None:
    client, before = fleet.client(), fleet.fleet()
    for name in ("alone", "first"):
        alias(fleet, name)
    words = ["rollout", "alone", "first", "--to", "2", "--publish-alias", "live"]
    fleet.done(*words, "--yes", "--journal", tmp_path / "journal")
    assert client.get_alias(FunctionName="alone", Name="live")["FunctionVersion"] == "2"
    live = client.get_function(FunctionName="alone", Qualifier="live")["Configuration"]
    assert [layer["Arn"] for layer in live["Layers"]] == [f"{OURS}:2"]
    assert "2 functions: 2 up to date" in fleet.done(*words, "--yes")
    fleet.done("rollback", tmp_path / "journal", "--yes")
    assert client.get_alias(FunctionName="alone", Name="live")["FunctionVersion"] == "1"
    assert fleet.fleet() == before


def test_an_alias_of_a_function_that_is_up_to_date_is_moved(fleet: Cloud) -> None:
    alias(fleet, "alone")
    fleet.done("rollout", "alone", "--to", "2", "--yes")
    assert "its alias live points to a version with other layers" in fleet.done(
        "rollout", "alone", "--to", "2", "--publish-alias", "live", "--yes"
    )
    assert fleet.client().get_alias(FunctionName="alone", Name="live")["FunctionVersion"] == "2"


# Problems that are known before the roll-out


def test_a_blocked_function_fails_before_anything_is_changed(fleet: Cloud) -> None:
    gone = fleet.layer("gone")
    fleet.function("has-a-deleted-one", [f"{OURS}:1", *gone])
    fleet.client().delete_layer_version(LayerName="gone", VersionNumber=1)
    message = fleet.refusal("rollout", "--all-using", "--to", "2", "--yes")
    assert message.startswith("nothing was changed, because this would fail: has-a-deleted-one: ")
    result = fleet.run("rollout", "--all-using", "--to", "2", "--yes", "--max-failures", "1")
    assert result.returncode == 1 and "1 blocked" in result.stdout
    assert fleet.fleet()["alone"] == [f"{OURS}:2"] and fleet.fleet()["has-a-deleted-one"] == [f"{OURS}:1", *gone]


def test_attach_refuses_a_sixth_layer(fleet: Cloud) -> None:
    others = [arn for number in range(5) for arn in fleet.layer(f"other-{number}")]
    fleet.function("crowded", others)
    assert "it has 5 layers, and 5 are allowed" in fleet.refusal("attach", "crowded", "--to", "2", "--yes")


def test_a_layer_for_another_architecture_is_refused(fleet: Cloud) -> None:
    fleet.layer(CompatibleArchitectures=["arm64"])
    message = fleet.refusal("rollout", "alone", "--to", "4", "--yes")
    assert message.endswith("alone: it runs on x86_64, the layer on arm64")


def test_a_layer_that_is_not_shared_is_refused(fleet: Cloud) -> None:
    version = fleet.standin.layers[(ACCOUNT, REGION, "alone", "$LATEST")]
    version.append(fleet.foreign_layer(shared=False))
    assert "is not shared with this account" in fleet.refusal("rollout", "alone", "--to", "2", "--yes")


# Faults of the network and of AWS


def test_the_roll_out_waits_for_a_function_that_is_being_updated(fleet: Cloud) -> None:
    before = fleet.fleet()
    for name in ("alone", "last"):
        fleet.standin.pending[ACCOUNT, REGION, name] = 4
    fleet.done("rollout", "--all-using", "--to", "2", "--yes")
    assert fleet.fleet() == moved(before, 2, *WITH)
    assert len(fleet.standin.changes()) > len(WITH)


def test_a_function_that_changed_since_it_was_read_is_read_again(fleet: Cloud) -> None:
    before, met = fleet.fleet(), set()

    def interfere(call: Call) -> None:
        if call.operation == UPDATE and call.name not in met:
            met.add(call.name)
            fleet.standin.revisions.pop((ACCOUNT, REGION, call.name), None)
            if call.name == "first":
                fleet.standin.layers[ACCOUNT, REGION, "first", "$LATEST"].reverse()

    fleet.standin.faults.on = interfere  # type: ignore[assignment]
    fleet.done("rollout", "--all-using", "--to", "2", "--yes")
    assert fleet.fleet() == moved(before | {"first": before["first"][::-1]}, 2, *WITH)


def disturbed(fleet: Cloud, *faults: int | str, only: str = "") -> None:
    """Let every third call meet the next of `faults`."""
    upcoming: Iterator[int | str | None] = iter([each for fault in faults for each in (None, None, fault)] * 40)

    def fault(call: Call) -> int | str | None:
        return next(upcoming, None) if call.service == "lambda" and only in call.operation else None

    fleet.standin.faults.on = fault


@pytest.mark.parametrize("faults", sample([[429, "after", 500, "before"], [429], [500], ["before"], ["after"]], 5))
def test_the_roll_out_survives_throttling_errors_and_broken_connections(fleet: Cloud, faults: list[Any]) -> None:
    before = fleet.fleet()
    disturbed(fleet, *faults)
    fleet.done("rollout", "--all-using", "--to", "2", "--yes")
    assert fleet.fleet() == moved(before, 2, *WITH)
    fleet.standin.faults.on = lambda call: None
    fleet.done("rollback", *fleet.checkout.root.glob("rollouts/*.jsonl"), "--yes")
    assert fleet.fleet() == before  # it recognized its own updates, even those without a response


def test_an_update_of_somebody_else_during_throttling_is_not_its_own(fleet: Cloud, tmp_path: Path) -> None:
    before = fleet.fleet()

    def be_slow(call: Call) -> int | None:
        if call.operation != UPDATE:
            return None
        if len(fleet.standin.changes()) == 1:
            return 429
        fleet.standin.layers[ACCOUNT, REGION, "alone", "$LATEST"] = [f"{OURS}:2"]
        fleet.standin.revisions.pop((ACCOUNT, REGION, "alone"))
        return None

    fleet.standin.faults.on = be_slow
    result = fleet.json("rollout", "alone", "--to", "2", "--yes", "--journal", tmp_path / "journal")
    assert result["functions"][0]["outcome"] == "done by others"
    fleet.done("rollback", tmp_path / "journal", "--yes")
    assert fleet.fleet() == moved(before, 2, "alone")


@pytest.mark.parametrize("updates", [0, 1])
def test_a_function_that_is_deleted_meanwhile_is_skipped(fleet: Cloud, tmp_path: Path, updates: int) -> None:
    """It is deleted before its update, and while the update is in progress."""
    before = fleet.fleet()
    updated: list[Call] = []

    def delete(call: Call) -> None:
        is_time = len(updated) == updates and (updated or call.operation == UPDATE)
        if call.name == "alone" and is_time and "alone" in fleet.fleet():
            fleet.delete("alone")
        updated.extend([call] if call.name == "alone" and call.operation == UPDATE else [])

    fleet.standin.faults.on = delete  # type: ignore[assignment]
    result = fleet.json("rollout", "--all-using", "--to", "2", "--yes", "--journal", tmp_path / "journal")
    (alone,) = (each for each in result["functions"] if each["name"] == "alone")
    assert (alone["outcome"], alone["reason"]) == ("skipped", "it no longer exists")
    del before["alone"]
    assert fleet.fleet() == moved(before, 2, *WITH)
    fleet.run("rollback", tmp_path / "journal", "--yes")
    assert fleet.fleet() == before


def test_a_function_that_always_fails_stops_the_roll_out_and_everything_is_rolled_back(fleet: Cloud) -> None:
    before = fleet.fleet()
    fleet.standin.faults.on = lambda call: 500 if (call.operation, call.name) == (UPDATE, "middle") else None
    pace = replace(no_pauses(), outage=0, between_polls=0)  # the updates of the others succeed in that time
    result = fleet.run("rollout", "--all-using", "--to", "2", "--yes", pace=pace)
    assert result.returncode == 1
    assert "stopped: middle: gave up after 1 attempt: UpdateFunctionConfiguration failed with " in result.stdout
    assert fleet.fleet() == before


def test_an_update_that_fails_is_rolled_back(fleet: Cloud) -> None:
    before = fleet.fleet()
    fleet.standin.faults.updates_fail = {"last"}
    result = fleet.run("rollout", "--all-using", "--to", "2", "--yes", "--max-failures", "1")
    assert result.returncode == 1
    assert "last, the update failed: InvalidRuntime" in result.stdout
    assert fleet.fleet() == moved(before, 2, *WITH) | {"last": before["last"]}


def test_at_most_ten_requests_arrive_within_a_second(fleet: Cloud) -> None:
    command = [sys.executable, "-P", "-m", "tools.fleet", "rollout", "--all-using", "--to", "2", "--yes"]
    subprocess.run(command, env=fleet.environment, cwd=fleet.checkout.root, check=True, capture_output=True)
    times = [call.at for call in fleet.standin.calls if call.operation not in ("GetFunction", "GetCallerIdentity")]
    assert len(times) > 10  # `GetFunction` has a quota of its own
    assert all(later - earlier > 1 for earlier, later in zip(times, times[10:], strict=False))


# Processes that are killed


@pytest.mark.parametrize(
    ("operation", "count", "moment"),
    [
        pytest.param("GetFunction", 20, "before", marks=pytest.mark.long),
        pytest.param(UPDATE, 23, "before", marks=pytest.mark.long),
        pytest.param(UPDATE, 40, "after", marks=pytest.mark.long),
    ],
)
def test_forty_functions_survive_kill_9(cloud: Cloud, tmp_path: Path, operation: str, count: int, moment: str) -> None:
    (ours, _), other = cloud.layer(count=2), cloud.layer("other")
    for number in range(40):
        cloud.function(f"f-{number:02}", [*other, ours] if number % 2 else [ours, *other])
    before, journal = cloud.fleet(), tmp_path / "journal"
    cloud.kill_at(operation, count, moment, "rollout", "--all-using", "--to", "2", "--yes", "--journal", journal)
    for name, layers in cloud.fleet().items():
        assert layers in (before[name], moved(before, 2, name)[name])
    cloud.done("rollout", "--resume", "--journal", journal)
    assert cloud.fleet() == moved(before, 2, *before)
    cloud.done("rollback", journal, "--yes")
    assert cloud.fleet() == before


def test_two_processes_at_the_same_time_succeed(cloud: Cloud, tmp_path: Path) -> None:
    ours, target = cloud.layer(count=2)
    for number in range(20):
        cloud.function(f"f-{number:02}", [ours])
    words = ["rollout", "--all-using", "--to", "2", "--yes", "--journal"]
    processes = [cloud.start(*words, tmp_path / name) for name in ("one", "two")]
    for process in processes:
        message = process.communicate()
        assert process.returncode == 0, message
    assert set(map(tuple, cloud.fleet().values())) == {(target,)}


def test_a_journal_is_used_by_one_process_only(fleet: Cloud, tmp_path: Path) -> None:
    words = ["rollout", "--all-using", "--to", "2", "--yes", "--journal", tmp_path / "journal"]
    meanwhile: list[str] = []

    def look(call: Call) -> None:
        if call.operation == UPDATE and not meanwhile:
            meanwhile.append(fleet.start("rollback", tmp_path / "journal", "--yes").communicate()[1])

    fleet.standin.faults.on = look  # type: ignore[assignment]
    fleet.done(*words)
    assert "another process uses " in meanwhile[0]


def test_ctrl_c_completes_what_was_begun_and_the_rest_can_be_resumed(fleet: Cloud, tmp_path: Path) -> None:
    before = fleet.fleet()

    def interrupt(call: Call) -> None:
        if call.operation == UPDATE and len(fleet.standin.changes()) == 1:
            os.kill(process.pid, signal.SIGINT)

    fleet.standin.faults.on = interrupt  # type: ignore[assignment]
    process = fleet.start("rollout", "--all-using", "--to", "2", "--yes", "--journal", tmp_path / "journal")
    _, message = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in message and "interrupted: waiting for " in message
    fleet.done("rollout", "--resume", tmp_path / "journal")
    assert fleet.fleet() == moved(before, 2, *WITH)


def test_ctrl_c_during_the_import_of_boto3_prints_no_traceback(fleet: Cloud, tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise KeyboardInterrupt\n")  # as if it came while boto3 is imported
    path = f"{tmp_path}{os.pathsep}{fleet.environment['PYTHONPATH']}"
    result = subprocess.run(
        [sys.executable, "-P", "-m", "tools.fleet", "report"],
        env=fleet.environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


# Progress and results


def test_json_is_one_object_with_every_function(fleet: Cloud, tmp_path: Path) -> None:
    before = fleet.fleet()
    result = fleet.json("rollout", "--all-using", "--to", "2", "--yes", "--journal", tmp_path / "journal")
    assert (result["account"], result["region"], result["outcome"]) == (ACCOUNT, REGION, "done")
    assert {each["name"]: each["old"] for each in result["functions"]} == {
        name: before[name] for name in (*WITH, "owned")
    }
    outcomes = {each["name"]: each["outcome"] for each in result["functions"]}
    assert outcomes == dict.fromkeys(WITH, "done") | {"owned": "skipped"}


def test_the_journal_contains_every_update_before_and_after_it(fleet: Cloud, tmp_path: Path) -> None:
    fleet.done("rollout", "alone", "--to", "2", "--yes", "--journal", tmp_path / "journal")
    events = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    kinds = ["begin", "account", "planned", "accepted", "update-started", "updated", "done", "end"]
    assert [event["event"] for event in events] == kinds
    account, update = events[1], events[4]
    assert (account["partition"], account["account"], account["region"]) == ("aws", ACCOUNT, REGION)
    assert account["caller"].startswith(f"arn:aws:sts::{ACCOUNT}:")
    assert (update["old"], update["new"]) == ([f"{OURS}:1"], [f"{OURS}:2"])
    assert update["function"] == f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:alone" and update["revision"]


# Wrong usage and bad input

NO_CREDENTIALS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
NO_REGION = {"AWS_DEFAULT_REGION": None}
LAYER = "arn:aws:lambda:eu-central-1:123456789012:layer"
REFUSALS: list[tuple[list[str], dict[str, Any], int, str]] = [
    (["rollout", "alone", "--to", "2"], NO_CREDENTIALS, 1, "no AWS credentials "),
    (["rollout", "alone", "--to", "2"], NO_REGION, 2, "no region is set: use --region, "),
    (["rollout", "alone", "--to", "2"], {"AWS_PROFILE": "nobody"}, 1, "The config profile (nobody) could not be found"),
    (["rollout", "alone", "--to", "2"], {"AWS_ENDPOINT_URL": "localhost"}, 2, "Invalid endpoint: localhost: set AWS"),
    (["rollout", "alone", "--to", "2", "--region", "mars-1"], {}, 2, "'mars-1' is not the name of a region"),
    (
        ["rollout"],
        {},
        2,
        "no functions are selected: use FUNCTION …, --all-using, --match or --tag (see ./build.sh rollout --help)",
    ),
    (["rollout", "alone", "--all-using"], {}, 2, "name functions, or select them by an option; not both"),
    (["rollout", "--all-using", "--match", "a"], {}, 2, "argument --match: not allowed with argument --all-using"),
    (["rollout", "--match", "("], {}, 2, "argument --match: '(' is not a regular expression"),
    (["rollout", "--tag", "x"], {}, 2, "argument --tag: 'x' is not a tag"),
    (["rollout", "a", "--canary", "-1"], {}, 2, "argument --canary: "),
    (["rollout", "a", "--probe", "{"], {}, 2, "argument --probe: "),
    (["rollout", "a", "--variant", "fat"], {}, 2, "there is no variant 'fat'; the variants are slim, "),
    (["attach", "--all-using"], {}, 2, "unrecognized arguments: --all-using"),
    (["rollout", "alone", "alone", "--to", "2"], {}, 2, "alone is named twice"),
    (
        ["rollout", "alone", "arn:aws:lambda:eu-central-1:123456789012:function:alone", "--to", "2"],
        {},
        2,
        "alone is named",
    ),
    (["rollout", "nobody", "--to", "2"], {}, 1, "the function nobody does not exist: check"),
    (["rollout", "alone:live", "--to", "2"], {}, 2, "alone:live contains the qualifier live"),
    (["rollout", "a b", "--to", "2"], {}, 2, "'a b' is neither the name nor the ARN of a function"),
    (["rollout", "arn:aws:lambda:us-east-1:123456789012:function:f", "--to", "2"], {}, 2, "arn:aws:lambda:us-east-1:1"),
    (["rollout", "arn:aws:lambda:eu-central-1:999999999999:function:f", "--to", "2"], {}, 2, "arn:aws:lambda:eu-c"),
    (["rollout", "alone", "--to", "99"], {}, 1, f"{OURS}:99 does not exist"),
    (["rollout", "alone", "--to", "9.9.9"], {}, 2, f"{NAME} has no version '9.9.9' in {REGION}"),
    (
        ["rollout", "alone"],
        {},
        1,
        f"the manifest has no version of {NAME} in {REGION}, account {ACCOUNT}: run ",
    ),
    (["rollout", "alone", "--to", f"{LAYER}:before:1"], {}, 2, "before is not one of this project's layers: "),
    (["rollout", "alone", "--to", "arn:nonsense"], {}, 2, "'arn:nonsense' is not the ARN of a layer version"),
    (
        ["rollout", "alone", "--to", f"arn:aws:lambda:us-east-1:123456789012:layer:{NAME}:1"],
        {},
        2,
        f"arn:aws:lambda:us-east-1:123456789012:layer:{NAME}:1 is in the region us-east-1",
    ),
    (
        ["rollout", "alone", "--to", f"arn:aws-cn:lambda:eu-central-1:123456789012:layer:{NAME}:1"],
        {},
        2,
        f"arn:aws-cn:lambda:eu-central-1:123456789012:layer:{NAME}:1 is in the partition aws-cn",
    ),
    (["rollout", "--match", "^zzz", "--to", "2"], {}, 1, "no function with the layer in eu-central-1 is selected"),
    (["rollout", "without", "--to", "2"], {}, 1, "nothing to do: 1 function: 1 skipped"),
    (["rollout", "owned", "--to", "2"], {}, 1, "nothing to do: 1 function: 1 skipped"),
    (["rollback", "nothing.jsonl"], {}, 1, "cannot read the journal nothing.jsonl: No such file or directory"),
    (["rollback", "build.sh"], {}, 1, "build.sh: line 1 is not an event of a journal"),
    (["rollout", "--resume", "nothing.jsonl"], {}, 1, "cannot read the journal nothing.jsonl: No such file"),
    (["rollout", "--resume"], {}, 1, "no roll-out in rollouts can be resumed: name the journal"),
    (
        ["rollout", "alone", "--to", "2", "--journal", "build.sh"],
        {},
        1,
        "build.sh exists: continue it with --resume",
    ),
]


def test_bad_input_is_one_line(fleet: Cloud, subtests: pytest.Subtests) -> None:
    for words, environment, status, message in REFUSALS:
        with subtests.test(words=words, environment=environment):
            assert fleet.refusal(*words, status=status, **environment).startswith(message)


def test_an_expired_session_is_one_line(fleet: Cloud) -> None:
    fleet.standin.faults.expired = True
    assert fleet.refusal("rollout", "alone", "--to", "2", "--yes").startswith("the AWS session has expired: sign in")


def test_an_unreachable_service_is_one_line(fleet: Cloud) -> None:
    message = fleet.refusal("rollout", "alone", "--to", "2", AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert message.startswith("gave up after 60 s: AWS cannot be reached ")


def test_a_journal_of_another_account_or_region_is_refused(fleet: Cloud, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    fleet.done("rollout", "alone", "--to", "2", "--yes", "--journal", journal)
    foreign = {"AWS_ACCESS_KEY_ID": FOREIGN_KEY}
    message = (
        "the journal is for the account 123456789012, these credentials are for 999999999999: use other credentials"
    )
    assert fleet.refusal("rollback", journal, "--yes", **foreign) == message
    assert fleet.refusal("rollback", journal, "--yes", "--region", "us-east-1", status=2) == (
        "the journal is for eu-central-1: omit --region"
    )


def test_a_damaged_manifest_is_one_line(fleet: Cloud) -> None:
    path = fleet.checkout.root / "layer-manifest.json"
    path.write_text(path.read_text().replace('"name"', '"published": [{"arn": 7}], "name"'))
    message = fleet.refusal("rollout", "alone", "--to", "2", "--yes")
    assert message == "layer-manifest.json: published[0]: variant is missing"


@pytest.mark.parametrize("nonsense", [{"to": 7}, {"functions": [7]}, {"canary": "x"}, {"all_using": 1}, {"command": 5}])
def test_a_journal_with_invalid_options_is_one_line(fleet: Cloud, tmp_path: Path, nonsense: dict[str, Any]) -> None:
    journal = tmp_path / "journal"
    options = {"command": "rollout", "all_using": True, "to": "2", **nonsense}
    journal.write_text(json.dumps({"event": "begin", "format": 2, "options": options}) + "\n")
    message = fleet.refusal("rollout", "--resume", journal, "--yes")
    assert message == "the journal was written by another version of this tool: use that version"


def test_a_damaged_journal_is_one_line(fleet: Cloud, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    fleet.done("rollout", "alone", "--to", "2", "--yes", "--journal", journal)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:4], "garbage\n", *lines[4:]]))
    message = fleet.refusal("rollback", journal, "--yes")
    assert message.endswith("journal: line 5 is not an event of a journal; use the file that a roll-out wrote")
