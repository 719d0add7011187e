"""Journals in a bucket, which several machines share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.cloud import ACCOUNT, NAME, OURS, REGION, Cloud
from support.lambda_standin import Call

from tools.common.errors import UsageError
from tools.fleet.aws.objects import Address
from tools.fleet.rollout import lock

UPDATE = "UpdateFunctionConfiguration"
NAMES = [f"f-{number}" for number in range(6)]
FOLDER = "s3://journals/team/"
LOCK = f"team/locks/aws.{ACCOUNT}.{REGION}.{NAME}.json"
WORDS = ["rollout", "--all-using", "--to", "2", "--yes", "--journal", FOLDER]


@pytest.fixture
def fleet(cloud: Cloud) -> Cloud:
    cloud.layer(count=3)
    for name in NAMES:
        cloud.function(name, [f"{OURS}:1"])
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="journals", CreateBucketConfiguration={"LocationConstraint": REGION})
    cloud.standin.calls.clear()
    return cloud


def all_at(version: int) -> dict[str, list[str]]:
    return {name: [f"{OURS}:{version}"] for name in NAMES}


def keys(cloud: Cloud) -> list[str]:
    return [each["Key"] for each in cloud.client("s3").list_objects_v2(Bucket="journals").get("Contents", ())]


def journal_of(cloud: Cloud) -> str:
    """Return the address of the only journal."""
    (folder,) = {key.rpartition("/")[0] for key in keys(cloud) if "/locks/" not in key}
    return f"s3://journals/{folder}/"


def events(cloud: Cloud) -> list[dict[str, Any]]:
    s3 = cloud.client("s3")
    chosen = [key for key in keys(cloud) if "/locks/" not in key]
    return [json.loads(s3.get_object(Bucket="journals", Key=key)["Body"].read()) for key in chosen]


FAULTS = ["after", 409, *(pytest.param(fault, marks=pytest.mark.long) for fault in ("before", 500, 503))]

# --- The objects


def test_each_event_is_a_numbered_object_and_the_lock_is_released(fleet: Cloud) -> None:
    fleet.done(*WORDS)
    assert fleet.fleet() == all_at(2)
    names = [key.rpartition("/")[2] for key in keys(fleet)]
    assert names == [f"{number:08}.json" for number in range(1, len(names) + 1)]
    kinds = [event["event"] for event in events(fleet)]
    assert kinds[:9] == ["begin", "account", *["planned"] * 6, "accepted"] and kinds[-1] == "end"
    puts = [call for call in fleet.standin.calls if call.operation == "PutObject"]
    updates = [call.at for call in fleet.standin.changes()]
    assert len([call for call in puts if call.at < updates[0]]) >= 11  # the intention is stored before the change


@pytest.mark.long
def test_a_shared_journal_can_be_rolled_back(fleet: Cloud) -> None:
    fleet.done(*WORDS)
    fleet.done("rollback", journal_of(fleet), "--yes")
    assert fleet.fleet() == all_at(1)
    assert LOCK not in keys(fleet)


def test_a_plan_that_is_not_accepted_leaves_nothing(fleet: Cloud) -> None:
    words = [word for word in WORDS if word != "--yes"]
    assert fleet.run(*words, stdin="n\n").returncode == 1
    assert keys(fleet) == []


def test_a_dry_run_writes_nothing(fleet: Cloud) -> None:
    fleet.done(*WORDS, "--dry-run")
    assert keys(fleet) == [] and fleet.standin.counted()["PutObject"] == 0


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_every_third_request_to_the_bucket_may_fail(fleet: Cloud, fault: int | str) -> None:
    requests: list[Call] = []

    def every_third(call: Call) -> int | str | None:
        if call.service != "s3":
            return None
        requests.append(call)
        return fault if len(requests) % 3 == 0 and (fault != 409 or call.operation == "PutObject") else None

    fleet.standin.faults.on = every_third
    fleet.done(*WORDS)
    fleet.standin.faults.on = lambda call: None
    assert fleet.fleet() == all_at(2)
    assert [event["event"] for event in events(fleet)].count("updated") == 6
    assert LOCK not in keys(fleet)


# --- Processes that are killed


@pytest.mark.parametrize(
    ("operation", "count", "moment"),
    [
        pytest.param("PutObject", 14, "after", marks=pytest.mark.long),
        (UPDATE, 4, "after"),
        pytest.param("PutObject", 11, "before", marks=pytest.mark.long),
        pytest.param(UPDATE, 2, "before", marks=pytest.mark.long),
    ],
)
def test_a_killed_roll_out_is_resumed(fleet: Cloud, operation: str, count: int, moment: str) -> None:
    fleet.kill_at(operation, count, moment, *WORDS)
    assert LOCK in keys(fleet)
    result = fleet.run("rollout", "--resume", FOLDER)
    assert result.returncode == 0, result.stderr
    assert "took over the lock of " in result.stderr  # its process does not exist any more
    assert fleet.fleet() == all_at(2)
    assert len(events(fleet)) == len(keys(fleet))
    fleet.done("rollback", journal_of(fleet), "--yes")
    assert fleet.fleet() == all_at(1)


def of_another_machine(fleet: Cloud) -> None:
    """Change the lock as if another machine had written it."""
    s3 = fleet.client("s3")
    holder = json.loads(s3.get_object(Bucket="journals", Key=LOCK)["Body"].read())
    s3.put_object(Bucket="journals", Key=LOCK, Body=json.dumps(holder | {"machine": "another"}).encode())


def test_a_stale_lock_shows_owner_and_time_and_can_be_taken_over(fleet: Cloud) -> None:
    fleet.kill_at(UPDATE, 3, "after", *WORDS)
    of_another_machine(fleet)
    for words in (["rollout", "--resume", FOLDER], WORDS, ["rollback", journal_of(fleet), "--yes"]):
        message = fleet.refusal(*words)
        assert message.startswith("another roll-out of this layer runs, by ")
        assert ", process " in message and " UTC (s3://journals/team/" in message and "--take-over" in message
    result = fleet.run("rollout", "--resume", FOLDER, "--take-over")
    assert result.returncode == 0, result.stderr
    assert fleet.fleet() == all_at(2)


def test_the_process_before_cannot_continue_after_a_takeover(fleet: Cloud) -> None:
    """While its third update is carried out, another roll-out takes the lock over."""
    taken: list[str] = []

    def take_over(call: Call) -> None:
        if call.operation == UPDATE and len(fleet.standin.changes()) == 3 and not taken:
            taken.append("")
            fleet.standin.faults.on = lambda call: None
            fleet.standin._lock.release()
            try:
                of_another_machine(fleet)
                taken.append(fleet.start(*WORDS, "--take-over").communicate()[1])
            finally:
                fleet.standin._lock.acquire()

    fleet.standin.faults.on = take_over  # type: ignore[assignment]
    result = fleet.run(*WORDS)
    assert "took over the lock of " in taken[1]
    assert result.returncode == 1
    assert "another process continues the journal s3://journals/team/" in result.stderr
    assert fleet.fleet() == all_at(2)


def test_two_machines_with_one_bucket_have_one_winner(fleet: Cloud) -> None:
    processes = [fleet.start(*WORDS) for _ in range(3)]
    outputs = [process.communicate()[1] for process in processes]
    statuses = [process.returncode for process in processes]
    assert 0 in statuses
    for status, text in zip(statuses, outputs, strict=True):
        if status:
            assert "another roll-out of this layer runs, by " in text
    assert fleet.fleet() == all_at(2)
    assert LOCK not in keys(fleet)


@pytest.mark.long
def test_another_region_is_not_locked(fleet: Cloud) -> None:
    fleet.kill_at(UPDATE, 1, "before", *WORDS)
    fleet.client(region="us-east-1").publish_layer_version(
        LayerName=NAME, Content={"ZipFile": b"PK\x05\x06" + b"\0" * 18}
    )
    message = fleet.refusal(*WORDS, "--region", "us-east-1")
    assert message.startswith(f"arn:aws:lambda:us-east-1:{ACCOUNT}:layer:{NAME}:2 does not exist")


# --- Bad input


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///a", "s3://UPPER/a", "s3://ab", "s3://bucket/a//b", "s3://bucket/../a"]
)
def test_a_wrong_address_is_one_line(fleet: Cloud, text: str) -> None:
    for words in (["rollout", "f-1", "--journal", text], ["rollout", "--resume", text], ["rollback", text]):
        assert "is not a folder in a bucket, such as s3://BUCKET/PREFIX/" in fleet.refusal(*words, status=2)
    with pytest.raises(UsageError):
        Address.parse(text)


def test_addresses_with_and_without_a_slash_are_the_same() -> None:
    assert Address.parse("s3://bucket/a/b") == Address.parse("s3://bucket/a/b/") == Address("bucket", "a/b/")
    assert Address.parse("s3://bucket") == Address.parse("s3://bucket/") == Address("bucket", "")


def test_problems_with_the_bucket_are_one_line(fleet: Cloud) -> None:
    words = [*WORDS[:-1], "s3://missing/team/"]
    assert fleet.refusal(*words) == "the bucket missing does not exist: create it, or use another one"
    fleet.standin.faults.on = lambda call: 403 if call.service == "s3" else None
    message = fleet.refusal(*WORDS)
    assert " is not allowed: " in message and "docs/iam.md" in message
    fleet.standin.faults.on = lambda call: 403 if call.operation == "PutObject" else None
    message = fleet.refusal(*WORDS)
    assert message.startswith(f"cannot write the journal {FOLDER}") and "PutObject is not allowed" in message


def test_a_foreign_object_at_the_place_of_the_lock_is_one_line(fleet: Cloud) -> None:
    fleet.client("s3").put_object(Bucket="journals", Key=LOCK, Body=b"hello")
    message = fleet.refusal(*WORDS)
    assert message == f"s3://journals/{LOCK} is not a lock of this tool: use another folder with --journal"
    assert keys(fleet) == [LOCK]


@pytest.mark.long
def test_a_bucket_with_versions_works(fleet: Cloud) -> None:
    fleet.client("s3").put_bucket_versioning(Bucket="journals", VersioningConfiguration={"Status": "Enabled"})
    fleet.done(*WORDS)
    fleet.done("rollback", journal_of(fleet), "--yes")
    fleet.done(*WORDS)
    assert fleet.fleet() == all_at(2)


def test_a_folder_with_no_or_several_unfinished_journals_is_one_line(fleet: Cloud) -> None:
    message = f"no roll-out in {FOLDER} is unfinished: use the address of one journal"
    assert fleet.refusal("rollout", "--resume", FOLDER) == message
    fleet.done(*WORDS)
    assert fleet.refusal("rollout", "--resume", FOLDER) == message
    assert fleet.run("rollout", "--resume", journal_of(fleet)).returncode == 0


@pytest.mark.long
def test_prune_keeps_versions_that_shared_journals_name(fleet: Cloud) -> None:
    fleet.done(*WORDS)
    for name in NAMES:
        fleet.client().update_function_configuration(FunctionName=name, Layers=[])
    found = fleet.json("prune", "--min-age", "0", "--keep", "1", "--journal", FOLDER)
    assert sum(f"the journal {journal_of(fleet)}" in each["usedBy"] for each in found["versions"]) == 2
    assert fleet.refusal("prune", "--min-age", "0", "--keep", "1", "--journal", "s3://journals/other/") == (
        "s3://journals/other/ contains no journal: check the address"
    )


def test_take_over_needs_a_bucket(fleet: Cloud) -> None:
    assert fleet.refusal("rollout", "f-1", "--take-over", status=2).startswith("--take-over is for a journal in a ")
    assert fleet.refusal("rollback", "journal", "--take-over", status=2).startswith("--take-over is for a journal in ")


def test_a_holder_has_ended_only_if_that_is_known() -> None:
    own = lock.Holder.own("s3://bucket/journal/")
    assert not own.has_ended
    assert not replace(own, machine="another", process=2**22 + 1).has_ended
    assert not replace(own, machine="", process=2**22 + 1).has_ended
    assert replace(own, process=2**22 + 1).has_ended


def test_a_process_of_a_machine_that_cannot_be_identified_may_be_alive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS, which has no /proc."""
    monkeypatch.setattr(lock, "Path", lambda path: tmp_path / "proc")
    holder = replace(lock.Holder.own("s3://bucket/journal/"), process=2**22 + 1)
    assert holder.machine == "" and not holder.has_ended
