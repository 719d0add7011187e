"""Roll-outs in several regions and accounts, with one plan and one journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from moto.cloudwatch.models import cloudwatch_backends
from support.cloud import ACCOUNT, FOREIGN_ACCOUNT, FOREIGN_KEY, HANDLER, NAME, REGION, Cloud
from support.examples import sample
from support.lambda_standin import Call

UPDATE = "UpdateFunctionConfiguration"
FIRST, SECOND, EMPTY = REGION, "us-east-1", "ap-south-1"
HOME = f"arn:aws:iam::{ACCOUNT}:role/roll-out"
ABROAD = f"arn:aws:iam::{FOREIGN_ACCOUNT}:role/roll-out"
NAMES = ["a", "b", "c"]

Place = tuple[str, str]  # an account and a region
TWO_REGIONS: list[Place] = [(ACCOUNT, FIRST), (ACCOUNT, SECOND)]
TWO_ACCOUNTS: list[Place] = [(ACCOUNT, FIRST), (FOREIGN_ACCOUNT, FIRST)]


def layer(place: Place, version: int) -> str:
    account, region = place
    return f"arn:aws:lambda:{region}:{account}:layer:{NAME}:{version}"


def prepare(cloud: Cloud, place: Place, names: list[str] = NAMES, versions: int = 3) -> None:
    """Publish the layer in a region of an account, and create functions with its first version."""
    account, region = place
    key = FOREIGN_KEY if account == FOREIGN_ACCOUNT else "testing"
    for number in range(versions):
        content = {"ZipFile": HANDLER + bytes(number)}
        cloud.standin.create(f"/2018-10-31/layers/{NAME}/versions", {"Content": content}, region, key)
    role = cloud.client("iam", key=key).create_role(RoleName=f"{names[0]}-{region}", AssumeRolePolicyDocument="{}")
    for name in names:
        function = {
            "FunctionName": name,
            "Layers": [layer(place, 1)],
            "Runtime": "python3.13",
            "Handler": "lambda_function.handler",
            "Role": role["Role"]["Arn"],
            "Code": {"ZipFile": HANDLER},
            "Environment": {"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}},
        }
        cloud.standin.create("/2015-03-31/functions", function, region, key)


@pytest.fixture
def regions(cloud: Cloud) -> Cloud:
    for place in TWO_REGIONS:
        prepare(cloud, place)
    cloud.standin.faults.enabled_regions = {FIRST, SECOND, EMPTY}
    cloud.standin.calls.clear()
    return cloud


@pytest.fixture
def accounts(cloud: Cloud) -> Cloud:
    for place in TWO_ACCOUNTS:
        prepare(cloud, place)
    cloud.standin.calls.clear()
    return cloud


def versions(cloud: Cloud, place: Place) -> dict[str, int]:
    """Return the version of the layer that each function of a region has."""
    return {
        name: int(arns[0].rpartition(":")[2])
        for (account, region, name, version), arns in sorted(cloud.standin.layers.items())
        if (account, region) == place and version == "$LATEST"
    }


def all_at(version: int, names: list[str] = NAMES) -> dict[str, int]:
    return dict.fromkeys(names, version)


def order(cloud: Cloud) -> list[Place]:
    """Return where functions were updated, without repetitions."""
    places = [(call.account, call.region) for call in cloud.standin.changes()]
    return [place for number, place in enumerate(places) if place != places[number - 1] or number == 0]


def refused(cloud: Cloud, *words: str | Path, status: int = 1, **options: Any) -> str:
    """Run a command that must change nothing anywhere, and leave no journal; return its line."""
    before = dict(cloud.standin.layers)
    message = cloud.refusal(*words, status=status, **options)
    assert cloud.standin.layers == before
    return message


# --- Regions


def test_regions_are_changed_one_after_the_other_with_one_journal(regions: Cloud, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    words = ["rollout", "--all-using", "--to", "2", "--region", SECOND, FIRST, "--journal", journal]
    result = regions.json(*words, "--yes")
    assert [versions(regions, place) for place in TWO_REGIONS] == [all_at(2), all_at(2)]
    assert order(regions) == [(ACCOUNT, SECOND), (ACCOUNT, FIRST)]
    assert [each["region"] for each in result["places"]] == [SECOND, FIRST]
    assert [each["outcome"] for each in result["functions"]] == ["done"] * 6
    regions.done("rollback", journal, "--yes")
    assert [versions(regions, place) for place in TWO_REGIONS] == [all_at(1), all_at(1)]


def test_regions_can_be_changed_at_the_same_time(regions: Cloud) -> None:
    words = ["rollout", "--all-using", "--to", "2", "--region", FIRST, SECOND, "--parallel-regions", "2"]
    regions.done(*words, "--yes", "--workers", "1")
    assert [versions(regions, place) for place in TWO_REGIONS] == [all_at(2), all_at(2)]
    assert order(regions) == [*TWO_REGIONS] * 3


def test_each_region_has_all_waves(regions: Cloud) -> None:
    words = ["rollout", "--all-using", "--to", "2", "--region", FIRST, SECOND, "--canary", "1", "--probe", "{}"]
    plan = regions.json(*words, "--dry-run")
    assert plan["waves"] == [1, 2, 1, 2]
    assert regions.json(*words, "--dry-run", "--parallel-regions", "2")["waves"] == [2, 4]
    result = regions.run(*words, "--yes", "--gate", "true")
    assert result.returncode == 0
    assert result.stderr.count("gate 'true': passed") == 3
    assert [name for name, _ in regions.standin.invoked] == ["a", "a"]


def test_a_failure_stops_what_has_not_begun(regions: Cloud) -> None:
    regions.standin.faults.invocations_fail.add("b")
    words = ["rollout", "--all-using", "--to", "2", "--region", FIRST, SECOND, "--probe", "{}", "--yes"]
    result = regions.run(*words)
    assert result.returncode == 1
    assert f"stopped: b in {FIRST}: the probe failed: ValueError: boom" in result.stdout
    assert [versions(regions, place) for place in TWO_REGIONS] == [all_at(1), all_at(1)]
    assert {call.region for call in regions.standin.changes()} == {FIRST}


def test_a_failure_in_the_second_region_rolls_both_back(regions: Cloud) -> None:
    regions.client(region=SECOND).delete_function(FunctionName="c")
    regions.standin.layers.pop((ACCOUNT, SECOND, "c", "$LATEST"))
    prepare(regions, (ACCOUNT, SECOND), ["only-here"], versions=0)
    regions.standin.faults.invocations_fail.add("only-here")
    words = ["rollout", "--all-using", "--to", "2", "--region", FIRST, SECOND, "--yes", "--probe", "{}"]
    result = regions.run(*words)
    assert result.returncode == 1
    assert f"failed and rolled back: only-here in {SECOND}, the probe failed" in result.stdout
    assert versions(regions, (ACCOUNT, FIRST)) == all_at(1)
    assert versions(regions, (ACCOUNT, SECOND)) == all_at(1, ["a", "b", "only-here"])


def test_the_plan_has_a_section_for_each_region(regions: Cloud) -> None:
    text = regions.done("rollout", "--all-using", "--to", "2", "--region", FIRST, SECOND, "--dry-run")
    for region in (FIRST, SECOND):
        assert f"Roll out {NAME}:2 in {region}, account {ACCOUNT}\n" in text
    assert text.endswith(f"6 functions: 6 to change; 2 regions, account {ACCOUNT}\n")


def test_named_functions_are_searched_in_all_regions(regions: Cloud) -> None:
    regions.done("rollout", "--to", "2", "--yes", "--region", FIRST, SECOND, "a")
    assert [versions(regions, place) for place in TWO_REGIONS] == [{"a": 2, "b": 1, "c": 1}] * 2
    arn = f"arn:aws:lambda:{SECOND}:{ACCOUNT}:function:b"
    regions.done("rollout", arn, "--to", "2", "--yes", "--region", FIRST, SECOND)
    assert versions(regions, (ACCOUNT, FIRST))["b"] == 1 and versions(regions, (ACCOUNT, SECOND))["b"] == 2
    prepare(regions, (ACCOUNT, SECOND), ["only-here"], versions=0)
    regions.done("rollout", "only-here", "--to", "2", "--yes", "--region", FIRST, SECOND)
    assert versions(regions, (ACCOUNT, SECOND))["only-here"] == 2
    words = ["rollout", "a", "typo", "--to", "2", "--yes", "--region", FIRST, SECOND]
    assert refused(regions, *words) == (
        "the function typo exists in none of these regions and accounts: check the name and --region"
    )


@pytest.mark.long
def test_attach_and_detach_work_in_several_regions(regions: Cloud) -> None:
    regions.done("detach", "--all-using", "--yes", "--region", FIRST, SECOND)
    for place in TWO_REGIONS:
        assert regions.standin.layers[(*place, "a", "$LATEST")] == []
    regions.done("attach", "a", "b", "--to", "2", "--yes", "--region", FIRST, SECOND)
    for place in TWO_REGIONS:
        assert regions.standin.layers[(*place, "a", "$LATEST")] == [layer(place, 2)]


def test_an_alias_is_planned_and_moved_in_each_region(regions: Cloud) -> None:
    for _, region in TWO_REGIONS:
        client = regions.client(region=region)
        client.publish_version(FunctionName="a")
        client.create_alias(FunctionName="a", Name="live", FunctionVersion="1")
    words = ["rollout", "a", "--to", "2", "--publish-alias", "live", "--yes", "--region", FIRST, SECOND]
    regions.done(*words, "--shift", "50%", "--parallel-regions", "2")
    for _, region in TWO_REGIONS:
        assert regions.client(region=region).get_alias(FunctionName="a", Name="live")["FunctionVersion"] == "2"


def test_old_aliases_of_all_regions_are_listed(regions: Cloud) -> None:
    client = regions.client(region=SECOND)
    client.publish_version(FunctionName="a")
    client.create_alias(FunctionName="a", Name="live", FunctionVersion="1")
    text = regions.done("rollout", "--all-using", "--to", "2", "--yes", "--region", FIRST, SECOND)
    assert f"1 alias still runs the old version: live of a in {SECOND} (version 1)" in text


@pytest.mark.long
def test_alarms_are_read_in_each_region(regions: Cloud) -> None:
    alarm = {"Namespace": "AWS/Lambda", "MetricName": "Errors", "Statistic": "Sum", "Period": 60, "Threshold": 1}
    alarm |= {"EvaluationPeriods": 1, "ComparisonOperator": "GreaterThanThreshold"}
    words = ["rollout", "--all-using", "--to", "2", "--yes", "--region", FIRST, SECOND, "--alarm", "errors"]
    regions.client("cloudwatch").put_metric_alarm(AlarmName="errors", **alarm)
    assert refused(regions, *words).startswith(f"in {SECOND}, account {ACCOUNT}: the alarm errors does not exist")
    regions.client("cloudwatch", region=SECOND).put_metric_alarm(AlarmName="errors", **alarm)

    def break_second(call: Call) -> None:
        if call.operation == UPDATE:
            cloudwatch_backends[ACCOUNT][SECOND].set_alarm_state("errors", "a test", "{}", "ALARM")

    regions.standin.faults.on = break_second
    result = regions.run(*words)
    assert result.returncode == 1
    alarmed = f"the alarm errors in {SECOND}, account {ACCOUNT} is in the state ALARM"
    assert f"stopped: after wave 1 of 2 in {FIRST}, account {ACCOUNT}: {alarmed}" in result.stdout
    assert [versions(regions, place) for place in TWO_REGIONS] == [all_at(1), all_at(1)]


# --- All regions


@pytest.mark.long
def test_regions_without_the_layer_are_left_out_of_all_regions(regions: Cloud) -> None:
    result = regions.run("rollout", "--all-using", "--to", "2", "--yes", "--all-regions")
    assert result.returncode == 0, result.stderr
    assert [versions(regions, place) for place in TWO_REGIONS] == [all_at(2), all_at(2)]
    assert f"without the layer, so left out: {EMPTY}, account {ACCOUNT}\n" in result.stderr


@pytest.mark.long
def test_a_region_with_functions_but_without_the_version_is_not_left_out(regions: Cloud) -> None:
    regions.client(region=SECOND).delete_layer_version(LayerName=NAME, VersionNumber=2)
    message = refused(regions, "rollout", "--all-using", "--to", "2", "--yes", "--all-regions")
    assert message.startswith(f"{SECOND}, account {ACCOUNT}: {layer((ACCOUNT, SECOND), 2)} does not exist")


def test_a_version_that_no_region_has_is_one_line(regions: Cloud) -> None:
    message = refused(regions, "rollout", "--all-using", "--to", "9.9.9", "--yes", "--all-regions", status=2)
    assert f"{NAME} has no version '9.9.9' in " in message


@pytest.mark.parametrize("what", ["bytes", "description"])
def test_a_number_that_is_another_version_elsewhere_is_refused(regions: Cloud, what: str) -> None:
    """Each region counts its versions: number 4 of the first is number 5 of the second."""
    for place, texts in ((FIRST, ["1.0.0", "2.0.0"]), (SECOND, ["0.9.0", "1.0.0", "2.0.0"])):
        for text in texts:
            content = {"ZipFile": HANDLER + (text.encode() if what == "bytes" else b"")}
            description = f"{NAME} {text}" if what == "description" else ""
            regions.client(region=place).publish_layer_version(LayerName=NAME, Content=content, Description=description)
    words = ["rollout", "--all-using", "--region", FIRST, SECOND]
    for option in ("--yes", "--dry-run"):
        result = regions.run(*words, "--to", "4", option)
        assert result.returncode == 1 and "Roll out python-streaming-runtime" in result.stdout + result.stderr
        message = result.stderr.splitlines()[-1]
        assert "--to 4 is not the same version everywhere, so nothing was changed: it is " in message
        assert (
            f" in {FIRST}, account {ACCOUNT}, but " in message and f" in {SECOND}, account {ACCOUNT}; use " in message
        )
    assert regions.standin.changes() == []
    assert regions.run(*words, "--to", "4", "--yes", "--json").returncode == 1
    if what == "description":
        regions.done(*words, "--to", "1.0.0", "--yes")
        assert [versions(regions, place) for place in TWO_REGIONS] == [all_at(4), all_at(5)]


def test_nothing_to_change_is_no_difference(regions: Cloud) -> None:
    words = ["rollout", "--all-using", "--to", "1", "--yes"]
    for options in ([], ["--region", FIRST, SECOND]):
        regions.done(*words, *options)


def test_a_number_may_be_another_version_where_nothing_is_changed(regions: Cloud) -> None:
    content = {"ZipFile": HANDLER + b"other"}
    for place in (FIRST, SECOND):
        regions.client(region=place).publish_layer_version(LayerName=NAME, Content=content, Description=place)
    regions.done(
        "rollout", f"arn:aws:lambda:{FIRST}:{ACCOUNT}:function:a", "--to", "4", "--yes", "--region", FIRST, SECOND
    )
    assert versions(regions, (ACCOUNT, FIRST))["a"] == 4


# --- Accounts


def test_a_number_that_is_another_version_in_another_account_is_refused(accounts: Cloud) -> None:
    for key, text in (("testing", b"one"), (FOREIGN_KEY, b"other")):
        accounts.client(key=key).publish_layer_version(LayerName=NAME, Content={"ZipFile": HANDLER + text})
    words = ["rollout", "--all-using", "--to", "4", "--yes", "--assume-role", HOME, ABROAD]
    result = accounts.run(*words)
    assert result.returncode == 1 and accounts.standin.changes() == []
    assert f"in {FIRST}, account {ACCOUNT}, but " in result.stderr
    assert f"in {FIRST}, account {FOREIGN_ACCOUNT}; use " in result.stderr


@pytest.mark.parametrize("from_file", sample([True, False], 2))
def test_roles_are_assumed_for_the_functions_of_their_accounts(accounts: Cloud, from_file: bool) -> None:
    path = accounts.checkout.root / "roles.txt"
    path.write_text(f"# the accounts of the team\n{HOME}\n\n{ABROAD}  # abroad\n")
    roles = [f"@{path}"] if from_file else [HOME, ABROAD]
    accounts.done("rollout", "--all-using", "--to", "2", "--yes", "--journal", "journal", "--assume-role", *roles)
    assert [versions(accounts, place) for place in TWO_ACCOUNTS] == [all_at(2), all_at(2)]
    assert order(accounts) == TWO_ACCOUNTS
    assert accounts.standin.counted()["AssumeRole"] == 2
    path.unlink(missing_ok=True)  # the journal has the roles
    accounts.done("rollback", "journal", "--yes")
    assert [versions(accounts, place) for place in TWO_ACCOUNTS] == [all_at(1), all_at(1)]
    assert accounts.standin.counted()["AssumeRole"] == 4


def test_one_layer_can_be_shared_with_all_accounts(accounts: Cloud) -> None:
    accounts.client().add_layer_version_permission(
        LayerName=NAME, VersionNumber=2, StatementId="all", Action="lambda:GetLayerVersion", Principal="*"
    )
    key = (FOREIGN_ACCOUNT, FIRST, "a", "$LATEST")
    accounts.client(key=FOREIGN_KEY).update_function_configuration(FunctionName="a", Layers=[])
    accounts.standin.pending.clear()
    accounts.done("attach", "a", "--to", "2", "--yes", "--layer-account", ACCOUNT, "--assume-role", ABROAD)
    assert accounts.standin.layers[key] == [layer((ACCOUNT, FIRST), 2)]


def test_the_bucket_is_used_with_the_own_credentials_and_both_accounts_are_locked(accounts: Cloud) -> None:
    accounts.client("s3").create_bucket(Bucket="journals", CreateBucketConfiguration={"LocationConstraint": REGION})
    words = ["rollout", "--all-using", "--to", "2", "--yes", "--assume-role", HOME, ABROAD]
    accounts.done(*words, "--journal", "s3://journals/team/")
    objects = [call for call in accounts.standin.calls if call.service == "s3"]
    own = {call.account for call in accounts.standin.calls if call.operation == "AssumeRole"}
    assert {call.account for call in objects} == own == {ACCOUNT}
    locks = [call.name for call in objects if call.operation == "PutObject" and "/locks/" in call.name]
    assert locks == [f"team/locks/aws.{account}.{FIRST}.{NAME}.json" for account, _ in TWO_ACCOUNTS]
    first_update = next(call.at for call in accounts.standin.changes())
    assert all(call.at < first_update for call in objects if "/locks/" in call.name and call.operation == "PutObject")
    assert not [key for key in keys(accounts) if "/locks/" in key]


def keys(cloud: Cloud) -> list[str]:
    return [each["Key"] for each in cloud.client("s3").list_objects_v2(Bucket="journals").get("Contents", ())]


def test_a_second_roll_out_in_one_of_the_regions_is_refused_and_releases_its_locks(regions: Cloud) -> None:
    """The first process dies with its locks; the other one wants two regions and gets the lock of the first."""
    regions.client("s3").create_bucket(Bucket="journals", CreateBucketConfiguration={"LocationConstraint": REGION})
    words = ["rollout", "--all-using", "--to", "2", "--yes", "--journal", "s3://journals/team/"]
    regions.kill_at(UPDATE, 1, "before", *words, "--region", SECOND)
    (held,) = [key for key in keys(regions) if "/locks/" in key]
    lock = regions.client("s3").get_object(Bucket="journals", Key=held)["Body"].read()
    elsewhere = json.dumps(json.loads(lock) | {"machine": "another"})
    regions.client("s3").put_object(Bucket="journals", Key=held, Body=elsewhere.encode())
    message = refused(regions, *words, "--region", FIRST, SECOND)
    assert message.startswith("another roll-out of this layer runs, by ")
    assert [key for key in keys(regions) if "/locks/" in key] == [held]


@pytest.mark.parametrize("count", [2, pytest.param(5, marks=pytest.mark.long)])
@pytest.mark.parametrize("direction", ["--forward", pytest.param("--back", marks=pytest.mark.long)])
def test_a_killed_roll_out_is_resumed_with_the_roles_of_its_journal(
    accounts: Cloud, count: int, direction: str
) -> None:
    words = ["rollout", "--all-using", "--to", "2", "--yes", "--journal", "journal", "--assume-role", HOME, ABROAD]
    accounts.kill_at(UPDATE, count, "before", *words)
    state = accounts.json("status", "journal")
    assert [each["role"] for each in state["places"]] == [HOME, ABROAD]
    accounts.done("rollout", "--resume", "journal", direction, "--yes")
    version = 2 if direction == "--forward" else 1
    assert [versions(accounts, place) for place in TWO_ACCOUNTS] == [all_at(version)] * 2


def test_credentials_of_a_role_are_renewed(accounts: Cloud) -> None:
    """STS returns credentials that end in a minute, so boto3 renews them before each call."""
    accounts.standin.faults.session_seconds = 60
    accounts.done("rollout", "a", "--to", "2", "--yes", "--assume-role", ABROAD)
    assert accounts.standin.counted()["AssumeRole"] > 2


def test_a_role_that_can_no_longer_be_assumed_interrupts_the_roll_out(accounts: Cloud) -> None:
    accounts.standin.faults.session_seconds = 60

    def deny(call: Call) -> int | None:
        is_later = len(accounts.standin.changes()) > 1
        return 403 if call.operation == "AssumeRole" and is_later else None

    accounts.standin.faults.on = deny
    result = accounts.run("rollout", "--all-using", "--to", "2", "--yes", "--journal", "j", "--assume-role", ABROAD)
    assert result.returncode == 1
    assert f"the role {ABROAD} cannot be assumed: AssumeRole is not allowed" in result.stderr
    assert "continue with ./build.sh rollout --resume j --forward" in result.stderr
    accounts.standin.faults.on = lambda call: None
    accounts.done("rollout", "--resume", "j", "--forward")
    assert versions(accounts, (FOREIGN_ACCOUNT, FIRST)) == all_at(2)


# --- Reports


def test_report_prune_and_publish_assume_roles(accounts: Cloud) -> None:
    rows = accounts.json("report", "--assume-role", HOME, ABROAD)["functions"]
    assert {(row["account"], row["region"]) for row in rows} == set(TWO_ACCOUNTS)
    table = accounts.done("report", "--assume-role", HOME, ABROAD)
    assert table.splitlines()[0].startswith("account       region        function")
    found = accounts.json("prune", "--keep", "1", "--min-age", "0", "--assume-role", ABROAD)["versions"]
    assert [each["arn"] for each in found if each["unused"]] == [layer((FOREIGN_ACCOUNT, FIRST), 2)]
    accounts.json("publish", "--assume-role", HOME, ABROAD)
    published = accounts.manifest()["published"]
    assert {entry["account"] for entry in published} == {ACCOUNT, FOREIGN_ACCOUNT}


def test_prune_keeps_a_version_that_another_account_of_the_roles_uses(accounts: Cloud) -> None:
    accounts.client().add_layer_version_permission(
        LayerName=NAME, VersionNumber=2, StatementId="all", Action="lambda:GetLayerVersion", Principal="*"
    )
    accounts.client(key=FOREIGN_KEY).update_function_configuration(
        FunctionName="a", Layers=[layer((ACCOUNT, FIRST), 2)]
    )
    words = ["prune", "--keep", "0", "--min-age", "0", "--yes", "--assume-role"]
    versions = {each["arn"]: each for each in accounts.json(*words, HOME, ABROAD)["versions"]}
    assert versions[layer((ACCOUNT, FIRST), 2)]["usedBy"] == [f"function a of account {FOREIGN_ACCOUNT}"]
    assert [arn for arn, each in versions.items() if each["deleted"]] == [
        layer((ACCOUNT, FIRST), 3),
        layer((FOREIGN_ACCOUNT, FIRST), 3),
        layer((FOREIGN_ACCOUNT, FIRST), 2),
    ]


def test_verify_reads_each_entry_with_the_role_of_its_account(accounts: Cloud) -> None:
    accounts.done("publish", "--share", FOREIGN_ACCOUNT, "--assume-role", HOME, ABROAD)
    accounts.standin.calls.clear()
    result = accounts.json("verify", "--assume-role", HOME, ABROAD)
    assert [(each["account"], each["matches"]) for each in result["entries"]] == [
        (ACCOUNT, True),
        (FOREIGN_ACCOUNT, True),
    ]
    policies = [call.account for call in accounts.standin.calls if call.operation == "GetLayerVersionPolicy"]
    assert sorted(policies) == sorted([ACCOUNT, FOREIGN_ACCOUNT])
    for line, account in zip(
        accounts.done("verify", "--assume-role", HOME, ABROAD).splitlines(), (ACCOUNT, FOREIGN_ACCOUNT), strict=True
    ):
        assert line.startswith(f"{account}  {FIRST}  arn:") and line.endswith("  matches the manifest")


def test_verify_reads_an_entry_of_an_account_without_a_role_with_each_role(accounts: Cloud) -> None:
    accounts.done("publish", "--share", FOREIGN_ACCOUNT)
    path = accounts.checkout.root / "roles.txt"
    path.write_text(f"{ABROAD}\n")
    result = accounts.json("verify", "--assume-role", f"@{path}")
    assert [(each["account"], each["matches"]) for each in result["entries"]] == [(FOREIGN_ACCOUNT, True)]
    (entry,) = accounts.manifest()["published"]
    number = int(entry["arn"].rpartition(":")[2])
    accounts.client().remove_layer_version_permission(LayerName=NAME, VersionNumber=number, StatementId=FOREIGN_ACCOUNT)
    (difference,) = accounts.json("verify", "--assume-role", ABROAD, status=1)["differences"]
    assert (difference["account"], difference["found"]) == (FOREIGN_ACCOUNT, f"not shared with {FOREIGN_ACCOUNT}")


# --- Bad input


def test_wrong_roles_and_regions_are_one_line(accounts: Cloud, subtests: pytest.Subtests) -> None:
    empty = accounts.checkout.root / "empty.txt"
    empty.write_text("# none yet\n")
    again = f"arn:aws:iam::{ACCOUNT}:role/another"
    china = "arn:aws-cn:iam::123456789012:role/roll-out"
    cases: list[tuple[list[str], int, str]] = [
        (["--assume-role", "roll-out"], 2, "argument --assume-role: 'roll-out' is not the ARN of a role, such as "),
        (["--assume-role", f"@{empty}"], 2, f"argument --assume-role: {empty} contains no names"),
        (["--assume-role", "@missing"], 2, "argument --assume-role: cannot read 'missing': No such file"),
        (["--assume-role", HOME, HOME], 2, f"--assume-role: {HOME} is given twice"),
        (["--assume-role", HOME, again], 2, f"--assume-role: {HOME} and {again} are both in the account {ACCOUNT}"),
        (["--assume-role", china], 2, f"{china} is in the partition aws-cn, {FIRST} is in aws"),
        (["--assume-role"], 2, "argument --assume-role: expected at least one argument"),
        (["--region", FIRST, "mars-north-1"], 2, "'mars-north-1' is not the name of a region, such as "),
        (["--region", FIRST, "eu-central-99"], 2, "'eu-central-99' is not the name of a region, such as "),
        (["--region", FIRST, "cn-north-1"], 2, "cn-north-1 is in the partition aws-cn, the credentials are for aws"),
        (["--region", FIRST, "--all-regions"], 2, "argument --all-regions: not allowed with argument --region"),
        (["--region", FIRST, EMPTY], 1, f"{EMPTY}, account {ACCOUNT}: {layer((ACCOUNT, EMPTY), 2)} does not exist"),
        (["--parallel-regions", "2"], 2, "--parallel-regions is for several regions or accounts"),
        (["--parallel-regions", "0"], 2, "argument --parallel-regions: '0' is not a number of regions from 1 to 50"),
        (["--region", FIRST, SECOND, "--parallel-regions", "x"], 2, "argument --parallel-regions: 'x' is not a"),
        (["--region", FIRST, SECOND, "--alarm", "none"], 1, "the alarm none does not exist"),
    ]
    prepare(accounts, (ACCOUNT, SECOND))
    for words, status, message in cases:
        with subtests.test(words=words):
            found = refused(accounts, "rollout", "--all-using", "--to", "2", "--yes", *words, status=status)
            assert message in found
    assert not list((accounts.checkout.root / "rollouts").glob("*"))


def test_a_role_that_cannot_be_assumed_is_one_line(accounts: Cloud) -> None:
    accounts.standin.faults.on = lambda call: 403 if call.operation == "AssumeRole" else None
    accounts.done("publish")
    for words in (["rollout", "--all-using", "--to", "2", "--yes"], ["report"], ["prune", "--keep", "1"], ["verify"]):
        message = refused(accounts, *words, "--assume-role", ABROAD)
        assert message.startswith(f"the role {ABROAD} cannot be assumed: AssumeRole is not allowed: ")


def test_a_region_that_is_not_enabled_is_one_line(regions: Cloud) -> None:
    def disabled(call: Call) -> int | None:
        return 401 if call.region == SECOND else None

    regions.standin.faults.on = disabled
    for parallel in ("1", "2"):
        words = ["rollout", "--all-using", "--to", "2", "--yes", "--region", FIRST, SECOND]
        message = refused(regions, *words, "--parallel-regions", parallel)
        assert message.startswith(f"{SECOND}, account {ACCOUNT}: AWS rejects these credentials")
        assert "whether the account has the region enabled" in message


def test_a_journal_of_two_regions_is_not_for_one_of_them(regions: Cloud) -> None:
    words = ["rollout", "--all-using", "--to", "2", "--yes", "--journal", "journal"]
    regions.done(*words, "--region", FIRST, SECOND)
    message = refused(regions, "rollback", "journal", "--yes", "--region", FIRST, status=2)
    assert message == f"the journal is for {FIRST} and {SECOND}: omit --region"
