"""`publish`, `verify`, `prune` and `report` against a stand-in of AWS Lambda (see `lambda_standin`)."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from moto.awslambda.utils import get_backend
from support.cloud import ACCOUNT, FOREIGN_KEY, NAME, OURS, REGION, VERSION, Cloud, zipped
from support.lambda_standin import Call

from tools.fleet.aws.pace import Pace
from tools.fleet.rollout.target_version import description
from tools.packaging import manifest
from tools.packaging.manifest import Published
from tools.packaging.manifest_edit import with_published

REGIONS = ("eu-central-1", "eu-west-1", "us-east-1")
SLIM = f"{OURS}:1"


def versions(cloud: Cloud, region: str = REGION, name: str = NAME) -> list[int]:
    found = cloud.client(region=region).list_layer_versions(LayerName=name)["LayerVersions"]
    return sorted(version["Version"] for version in found)


def zip_of(cloud: Cloud, variant: str = "slim") -> bytes:
    return (cloud.checkout.dist / f"layer-{variant}.zip").read_bytes()


def grants(cloud: Cloud, number: int = 1, region: str = REGION) -> list[Any]:
    client = cloud.client(region=region)
    try:
        policy = client.get_layer_version_policy(LayerName=NAME, VersionNumber=number)["Policy"]
    except client.exceptions.ResourceNotFoundException:
        return []
    return [statement["Principal"] for statement in json.loads(policy)["Statement"]]


# Publishing


def test_the_published_version_has_the_built_bytes_and_is_in_the_manifest(cloud: Cloud) -> None:
    cloud.done("publish")
    version = cloud.client().get_layer_version(LayerName=NAME, VersionNumber=1)
    identity, data = cloud.manifest(), zip_of(cloud)
    assert version["Content"]["CodeSha256"] == base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert version["CompatibleRuntimes"] == identity["compatibleRuntimes"]
    assert version["CompatibleArchitectures"] == identity["compatibleArchitectures"]
    assert (version["LicenseInfo"], version["Description"]) == ("Apache-2.0", f"{NAME} {identity['version']}")
    assert identity["published"] == [
        {
            "variant": "slim",
            "version": identity["version"],
            "partition": "aws",
            "account": ACCOUNT,
            "region": REGION,
            "arn": SLIM,
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "sharedWith": [],
        }
    ]


def test_the_rest_of_the_manifest_is_unchanged(cloud: Cloud) -> None:
    path = cloud.checkout.root / "layer-manifest.json"
    before = path.read_text()
    cloud.done("publish", "--region", *REGIONS)
    after = path.read_text()
    assert after.startswith(before.rstrip().removesuffix("}").rstrip() + ',\n  "published": [\n')
    lines = [line for line in after.splitlines() if '"arn"' in line]
    assert [json.loads(line.rstrip(","))["region"] for line in lines] == sorted(REGIONS)
    cloud.done("publish", "--region", *reversed(REGIONS))
    assert path.read_text() == after


def test_the_same_bytes_are_published_once(cloud: Cloud) -> None:
    cloud.layer(count=60)  # more than a page of others
    for _ in range(2):
        assert cloud.json("publish")["published"][0]["arn"] == f"{OURS}:61"
    path = cloud.checkout.root / "layer-manifest.json"
    path.write_text(with_published(path.read_text(), []))
    cloud.layer(count=60)
    assert cloud.json("publish")["published"][0]["arn"] == f"{OURS}:61"
    assert len(cloud.manifest()["published"]) == 1
    assert cloud.standin.counted()["PublishLayerVersion"] == 121


def test_other_bytes_are_another_version(cloud: Cloud) -> None:
    assert "has changed since" not in cloud.run("publish").stderr
    path = cloud.checkout.root / "layer/runtime.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert "layer/runtime.py has changed since layer-slim.zip was built" in cloud.run("publish", "--dry-run").stderr
    cloud.checkout.build("--bytecode", "none")
    assert cloud.json("publish")["published"][0]["arn"] == f"{OURS}:2"
    assert [entry["arn"] for entry in cloud.manifest()["published"]] == [f"{OURS}:2"]


def test_a_version_that_is_deleted_while_its_bytes_are_compared_is_another_one(cloud: Cloud) -> None:
    cloud.layer(count=2)

    def delete(call: Call) -> None:
        if call.operation == "GetLayerVersion" and call.part == "1":
            get_backend(ACCOUNT, REGION).delete_layer_version(NAME, "1")

    cloud.standin.faults.on = delete  # type: ignore[assignment]
    assert cloud.json("publish")["published"][0]["arn"] == f"{OURS}:3"


@pytest.mark.long
def test_publishers_on_one_machine_take_turns(cloud: Cloud) -> None:
    """The first publisher is held up before it creates the version; the second must wait for it, not for a clock."""
    creating, second_started = threading.Event(), threading.Event()

    def hold_up(call: Call) -> None:
        if call.operation == "PublishLayerVersion" and not creating.is_set():
            creating.set()
            assert second_started.wait(30)
            wait_until_blocked(second.pid, cloud.checkout.root / "build.sh")

    cloud.standin.faults.on = hold_up  # type: ignore[assignment]
    first = cloud.start("publish")
    assert creating.wait(30)
    second = cloud.start("publish")
    second_started.set()
    for process in (first, second):
        output = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert versions(cloud) == [1]
    assert cloud.standin.counted()["PublishLayerVersion"] == 1


def wait_until_blocked(process: int, file: Path) -> None:
    """Wait until a process waits for a lock on `file`, as /proc/locks lists it, or until it is past that point."""
    inode = file.stat().st_ino
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
        if any(words[5] == str(process) and words[6].endswith(f":{inode}") for words in waiting):
            return
        time.sleep(0.01)
    raise AssertionError("the second publisher did not wait for the lock")


@pytest.mark.parametrize("fault", ["after", "before", 500, 429])
def test_a_publisher_pauses_before_each_attempt_after_a_fault(cloud: Cloud, fault: Any) -> None:
    pauses: list[float] = []
    pace = Pace(between_requests=0, between_reads=0, after_throttling=0, jitter=lambda: 1.0, sleep=pauses.append)
    met: list[Call] = []

    def twice(call: Call) -> Any:
        if call.operation == "PublishLayerVersion" and len(met) < 2:
            met.append(call)
            return fault
        return None

    cloud.standin.faults.on = twice
    assert cloud.run("publish", pace=pace).returncode == 0
    assert pauses == ([0.5] if fault == "after" else [0.5, 1.0])
    assert versions(cloud) == [1]


def test_other_bytes_than_were_sent_are_refused(cloud: Cloud) -> None:
    cloud.standin.faults.corrupt_layers = True
    result = cloud.run("publish")
    assert result.returncode == 1
    assert f"AWS received other bytes than were sent: {SLIM} has the CodeSha256 " in result.stdout
    assert "published" not in cloud.manifest()


@pytest.mark.parametrize("fault", ["before", "after", 500, 429])
def test_no_fault_creates_a_second_version(cloud: Cloud, fault: Any) -> None:
    met: list[Call] = []

    def once_each(call: Call) -> Any:
        if call.operation in [each.operation for each in met]:
            return None
        met.append(call)
        return fault

    cloud.standin.faults.on = once_each
    cloud.done("publish", "--public")
    assert versions(cloud) == [1]
    assert grants(cloud) == ["*"]
    assert cloud.manifest()["published"][0]["arn"] == SLIM


def test_a_region_that_fails_does_not_stop_the_others_and_is_published_by_the_next_run(cloud: Cloud) -> None:
    refused = 500
    cloud.standin.faults.on = lambda call: refused if call.region == "eu-west-1" and call.service == "lambda" else None
    result = cloud.json("publish", "--region", *REGIONS, status=1)
    assert [row["region"] for row in result["published"] if row["error"]] == ["eu-west-1"]
    assert [entry["region"] for entry in cloud.manifest()["published"]] == ["eu-central-1", "us-east-1"]
    cloud.standin.faults.on = lambda call: None
    cloud.standin.calls.clear()
    cloud.done("publish", "--region", *REGIONS)
    assert [call.region for call in cloud.standin.calls if call.operation == "PublishLayerVersion"] == ["eu-west-1"]
    assert [entry["region"] for entry in cloud.manifest()["published"]] == sorted(REGIONS)


def test_all_regions_are_those_that_the_account_has_enabled(cloud: Cloud) -> None:
    result = cloud.json("publish", "--all-regions")
    regions = [row["region"] for row in result["published"]]
    assert regions == sorted(set(regions)) and set(REGIONS) <= set(regions) and len(regions) > 10
    assert not any(region.startswith(("cn-", "us-gov-")) for region in regions)


@pytest.mark.parametrize("region", ["cn-north-1", "us-gov-west-1"])
def test_the_partition_is_that_of_the_caller(cloud: Cloud, region: str) -> None:
    cloud.done("publish", AWS_DEFAULT_REGION=region)
    (entry,) = cloud.manifest()["published"]
    assert entry["arn"] == f"arn:{entry['partition']}:lambda:{region}:{ACCOUNT}:layer:{NAME}:1"
    assert entry["partition"] in ("aws-cn", "aws-us-gov")


@pytest.mark.parametrize(
    ("words", "principals", "shared_with"),
    [
        (["--public"], ["*"], ["public"]),
        (["--organization", "o-a1b2c3d4e5"], ["*"], ["o-a1b2c3d4e5"]),
        (["--share", "111111111111"], ["111111111111"], ["111111111111"]),
        (["--share", "222222222222", "--share", "111111111111"], ["111111111111", "222222222222"], None),
    ],
)
def test_the_version_is_shared_as_the_options_say(
    cloud: Cloud, words: list[str], principals: list[str], shared_with: Any
) -> None:
    cloud.done("publish", *words)
    assert sorted(map(str, grants(cloud))) == principals
    assert cloud.manifest()["published"][0]["sharedWith"] == (shared_with or principals)


def test_a_missing_permission_is_added(cloud: Cloud) -> None:
    cloud.done("publish", "--public")
    cloud.client().remove_layer_version_permission(LayerName=NAME, VersionNumber=1, StatementId="public")
    assert "permission" in cloud.run("verify").stdout
    assert "shared with public" in cloud.done("publish")  # because the manifest lists it
    assert grants(cloud) == ["*"] and versions(cloud) == [1]
    cloud.standin.calls.clear()
    assert "up to date" in cloud.done("publish", "--public")
    assert "AddLayerVersionPermission" not in cloud.standin.counted()


def test_the_parameter_of_a_version_never_changes_and_that_of_the_latest_does(cloud: Cloud) -> None:
    client = cloud.client("ssm")
    cloud.done("publish", "--ssm", "/streaming-runtime/")

    def value(name: str) -> str:
        return str(client.get_parameter(Name=f"/streaming-runtime/slim/{name}")["Parameter"]["Value"])

    assert (value(VERSION), value("latest")) == (SLIM, SLIM)
    cloud.done("publish", "--ssm", "streaming-runtime")
    client.put_parameter(Name=f"/streaming-runtime/slim/{VERSION}", Value="other", Type="String", Overwrite=True)
    result = cloud.run("publish", "--ssm", "streaming-runtime")
    assert (
        result.returncode == 1
        and f"/streaming-runtime/slim/{VERSION} is other, and the parameter of a version never changes" in result.stdout
    )
    assert value(VERSION) == "other"


@pytest.mark.long
def test_a_zip_above_the_limit_goes_through_s3(cloud: Cloud) -> None:
    ballast = os.urandom(52_428_800)
    large = zipped({"bootstrap": "#!/bin/sh\n", "runtime.py": f'VERSION = "{VERSION}"\n', "ballast": ballast})
    (cloud.checkout.dist / "layer-python3.13-arm64.zip").write_bytes(large)
    words = ["publish", "--variant", "python3.13-arm64"]
    assert "use --bucket with a bucket in the region" in cloud.refusal(*words)
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=f"zips-{REGION}", CreateBucketConfiguration={"LocationConstraint": REGION})
    cloud.standin.calls.clear()
    cloud.done(*words, "--bucket", "zips-{region}")
    (entry,) = cloud.manifest()["published"]
    assert entry["arn"] == f"{OURS}-python3-13-arm64:1" and entry["size"] == len(large)
    cloud.done(*words, "--bucket", "zips-{region}")
    assert versions(cloud, name=f"{NAME}-python3-13-arm64") == [1]
    cloud.client().delete_layer_version(LayerName=f"{NAME}-python3-13-arm64", VersionNumber=1)
    cloud.done(*words, "--bucket", "zips-{region}")
    counted = cloud.standin.counted()
    assert (counted["PublishLayerVersion"], counted["PutObject"]) == (2, 1)


def test_a_dry_run_writes_nothing(cloud: Cloud) -> None:
    files = cloud.checkout.files()
    result = cloud.done("publish", "--dry-run", "--public", "--ssm", "x", "--region", *REGIONS)
    assert result.count("would publish, would share it with public") == len(REGIONS)
    cloud.done("publish", "--dry-run", "-o", cloud.checkout.root / "elsewhere")  # without built zips
    assert cloud.checkout.files() == files
    assert not any(
        call.operation in ("PublishLayerVersion", "AddLayerVersionPermission") for call in cloud.standin.calls
    )


def test_a_missing_slim_layer_is_built(cloud: Cloud) -> None:
    data = zip_of(cloud)
    cloud.done("publish", "--dry-run")
    (cloud.checkout.dist / "layer-slim.zip").unlink()
    cloud.done("publish")
    assert zip_of(cloud)[:2] == data[:2] == b"PK"


REFUSALS: list[tuple[list[str], dict[str, Any], int, str]] = [
    (["publish"], {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, 1, "no AWS credentials "),
    (["publish"], {"AWS_DEFAULT_REGION": None}, 2, "no region is set"),
    (["publish", "--region", "mars-1"], {}, 2, "'mars-1' is not the name of a region"),
    (["publish", "--region", REGION, "cn-north-1"], {}, 2, "cn-north-1 is in the partition aws-cn"),
    (
        ["publish", "--region", REGION, "--all-regions"],
        {},
        2,
        "argument --all-regions: not allowed with argument --region",
    ),
    (["publish", "--share", "12"], {}, 2, "argument --share: '12' is not an account ID"),
    (["publish", "--organization", "12"], {}, 2, "argument --organization: '12' is not the ID of an organization"),
    (["publish", "--organization", ACCOUNT], {}, 2, f"argument --organization: '{ACCOUNT}' is not the ID of an organ"),
    (["publish", "--public", "--share", "111111111111"], {}, 2, "argument --share: not allowed with argument --public"),
    (["publish", "--ssm", "/aws/x"], {}, 2, "argument --ssm: '/aws/x' cannot be the prefix of a parameter"),
    (["publish", "--variant", "fat"], {}, 2, "there is no variant 'fat'; the variants are slim, "),
    (
        ["publish", "--variant", "python3.13-arm64"],
        {},
        1,
        "dist/layer-python3.13-arm64.zip is missing: run ",
    ),
    (["verify"], {}, 1, "the manifest has no published entry for these options: run ./build.sh publish first"),
    (["prune"], {}, 2, "the following arguments are required: --keep"),
    (["prune", "--keep", "x"], {}, 2, "argument --keep: 'x' is not a whole number"),
    (
        ["prune", "--min-age", "0", "--keep", "1", "--journal", "build.sh"],
        {},
        1,
        "build.sh: line 1 is not an event of a journal",
    ),
    (["report", "--region", "mars-1"], {}, 2, "'mars-1' is not the name of a region"),
]


def test_bad_input_is_one_line(cloud: Cloud, subtests: pytest.Subtests) -> None:
    for words, environment, status, message in REFUSALS:
        with subtests.test(words=words, environment=environment):
            assert cloud.refusal(*words, status=status, **environment).startswith(message)


def test_an_expired_session_is_one_line(cloud: Cloud) -> None:
    cloud.standin.faults.expired = True
    for words in (["publish"], ["report"], ["prune", "--min-age", "0", "--keep", "1"]):
        assert cloud.refusal(*words).startswith("the AWS session has expired: sign in again")


def test_a_zip_of_another_version_is_refused(cloud: Cloud) -> None:
    path = cloud.checkout.dist / "layer-slim.zip"
    path.write_bytes(zipped({"bootstrap": "#!/bin/sh\n", "runtime.py": 'VERSION = "0.0.9"\n'}))
    assert (
        cloud.refusal("publish")
        == f"layer-slim.zip is not of version {VERSION}: run ./build.sh, and repeat the command"
    )


@pytest.mark.parametrize("damage", ["no zip", "content"])
def test_a_damaged_zip_is_refused_in_one_line(cloud: Cloud, damage: str) -> None:
    path = cloud.checkout.dist / "layer-slim.zip"
    path.write_bytes(b"no zip" if damage == "no zip" else path.read_bytes().replace(b"#!/bin/sh", b"#!/bin/ha", 1))
    refusal = cloud.refusal("publish")
    assert refusal.startswith("layer-slim.zip is not a valid zip file: ")
    assert refusal.endswith("; build it again with ./build.sh")


# The manifest's list of published versions

ENTRY = {
    "variant": "slim",
    "version": VERSION,
    "partition": "aws",
    "account": ACCOUNT,
    "region": REGION,
    "arn": SLIM,
    "sha256": "0" * 64,
    "size": 1,
    "sharedWith": ["public"],
}
SIGNED = {"signedSha256": "1" * 64, "signedSize": 2, "signingProfileVersion": "arn:aws:signer:::profile"}
NONSENSE: list[tuple[Any, str]] = [
    ({}, "published must be a list"),
    ([1], "published[0]: must be an object"),
    ([{**ENTRY, "variant": "x"}], "published[0]: variant 'x' must be slim, or a name such as python3.13-arm64"),
    ([{**ENTRY, "arn": "x"}], "published[0]: arn 'x' must be the ARN of a layer version"),
    ([{**ENTRY, "account": "9" * 12}], f"published[0]: account '{'9' * 12}' must be the one in the arn, {ACCOUNT}"),
    ([{**ENTRY, "region": "eu-west-1"}], "published[0]: region 'eu-west-1' must be the one in the arn, "),
    ([{**ENTRY, "partition": "aws-cn"}], "published[0]: partition 'aws-cn' must be the one in the arn, aws"),
    (
        [{**ENTRY, "arn": SLIM.replace(NAME, "other")}],
        f"published[0]: arn '{SLIM.replace(NAME, 'other')}' must be a version of",
    ),
    ([{**ENTRY, "sha256": "x"}], "published[0]: sha256 'x' must be 64 of the characters 0-9 a-f"),
    ([{**ENTRY, "version": "x"}], "published[0]: version 'x' must be a semantic version, such as 1.2.3"),
    ([{**ENTRY, "size": 0}], "published[0]: size 0 must be above 0"),
    ([{**ENTRY, "size": True}], "published[0]: size must be an integer"),
    ([{**ENTRY, "sharedWith": ["me"]}], "published[0]: sharedWith: 'me' must be public, an account or an organization"),
    *(
        ([{**ENTRY, **SIGNED, name: value}], "published[0]: signedSha256, signedSize, signingProfileVersion must be ")
        for name, value in (("signedSha256", ""), ("signedSize", 0), ("signingProfileVersion", ""))
    ),
    ([ENTRY, ENTRY], "published contains a variant twice for one account and region"),
]


def test_an_invalid_list_is_one_line(cloud: Cloud, subtests: pytest.Subtests) -> None:
    path = cloud.checkout.root / manifest.FILE_NAME
    text = path.read_text()
    for content, message in NONSENSE:
        with subtests.test(message=message):
            path.write_text(text.replace("{", f'{{"published": {json.dumps(content)},', 1))
            assert cloud.refusal("verify").startswith(f"layer-manifest.json: {message}")


def test_the_list_is_replaced_at_any_position() -> None:
    entry = Published(**{**ENTRY, "sharedWith": ("public",)})  # type: ignore[arg-type]
    line = '[\n    {"variant": "slim", '
    for text in (
        '{"a": "published", "published": [1, {"x": "}"}], "b": 2}\n',
        '{\n  "a": {"published": []}, "b": "é\\""\n}\n',
    ):
        new = with_published(text, [entry])
        assert json.loads(new) == {**json.loads(text), "published": [ENTRY]}
        assert line in new
        assert with_published(new, [entry]) == new


# Verifying


@pytest.fixture
def published(cloud: Cloud) -> Cloud:
    cloud.done("publish", "--public", "--region", REGION, "us-east-1")
    return cloud


def differences(cloud: Cloud, status: int = 1) -> list[tuple[str, str]]:
    result = cloud.json("verify", status=status)
    return [(each["arn"].split(":")[3], each["what"]) for each in result["differences"]]


def test_a_published_version_matches(published: Cloud) -> None:
    assert differences(published, status=0) == []
    assert published.done("verify").count("matches the manifest") == 2


def test_each_difference_is_reported(published: Cloud) -> None:
    path = published.checkout.root / manifest.FILE_NAME
    text = path.read_text()
    client = published.client(region="us-east-1")
    client.remove_layer_version_permission(LayerName=NAME, VersionNumber=1, StatementId="public")
    assert differences(published) == [("us-east-1", "permission")]
    path.write_text(text.replace('"license": "Apache-2.0"', '"license": "MIT"'))
    assert ("eu-central-1", "license") in differences(published)
    assert "; only a new version changes it" in published.run("verify").stdout
    path.write_text(text.replace('"python3.11", ', "").replace('"x86_64", "arm64"', '"x86_64"'))
    assert {"runtimes", "architectures"} <= {what for _, what in differences(published)}
    path.write_text(text.replace('"size": ', '"size": 1'))
    assert ("eu-central-1", "size") in differences(published)
    path.write_text(text)
    client.delete_layer_version(LayerName=NAME, VersionNumber=1)
    assert differences(published) == [("us-east-1", "layer version")]
    assert "none, it was deleted" in published.run("verify").stdout


def test_the_bytes_are_compared_file_by_file(published: Cloud) -> None:
    (published.checkout.dist / "layer-slim.zip").unlink()
    path = published.checkout.root / "layer/runtime.py"
    path.write_text(path.read_text() + "# changed\n")
    assert differences(published) == [("eu-central-1", "file runtime.py"), ("us-east-1", "file runtime.py")]


def test_verify_compares_with_the_zip_in_the_folder_of_the_option(published: Cloud, tmp_path: Path) -> None:
    zips = tmp_path / "zips"
    published.checkout.dist.rename(zips)
    path = published.checkout.root / "layer/runtime.py"
    path.write_text(path.read_text() + "# changed since\n")
    assert differences(published) != []
    assert published.json("verify", "--output", zips)["differences"] == []


def test_a_replaced_zip_is_reported(published: Cloud) -> None:
    with zipfile.ZipFile(io.BytesIO(zip_of(published))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    data = zipped(files | {"bootstrap": b"#!/bin/sh\nexit 1\n"})
    get_backend(ACCOUNT, REGION).get_layer_version(NAME, "1").code_bytes = data
    assert differences(published) == [("eu-central-1", "bytes"), ("eu-central-1", "file bootstrap")]


def test_a_shared_version_of_another_account_is_verified(published: Cloud) -> None:
    assert published.json("verify", AWS_ACCESS_KEY_ID=FOREIGN_KEY)["differences"] == []
    published.client().remove_layer_version_permission(LayerName=NAME, VersionNumber=1, StatementId="public")
    result = published.json("verify", AWS_ACCESS_KEY_ID=FOREIGN_KEY, status=1)
    assert [each["found"] for each in result["differences"]] == ["not shared with 999999999999"]


# Pruning


def rows(result: Any) -> dict[int, list[str]]:
    return {int(row["arn"].split(":")[-1]): row["usedBy"] for row in result["versions"]}


def test_only_unused_versions_are_deleted(cloud: Cloud, tmp_path: Path) -> None:
    cloud.layer(count=8)
    cloud.done("publish")  # 9
    cloud.layer(count=1)
    client = cloud.client()
    cloud.function("uses-one", [f"{OURS}:1"])
    cloud.function("published-two", [f"{OURS}:2"])
    client.publish_version(FunctionName="published-two")
    client.update_function_configuration(FunctionName="published-two", Layers=[f"{OURS}:1"])
    cloud.function("rolled", [f"{OURS}:3"])
    cloud.done("rollout", "rolled", "--to", "4", "--yes", "--journal", tmp_path / "journal")
    client.get_function(FunctionName="rolled")
    client.update_function_configuration(FunctionName="rolled", Layers=[])
    words = ["prune", "--min-age", "0", "--keep", "1", "--journal", tmp_path / "journal"]
    result = rows(cloud.json(*words))
    assert [number for number, users in result.items() if not users] == [8, 7, 6, 5]
    assert result[10] == ["it is among the newest"] and result[9] == ["layer-manifest.json"]
    assert result[1] == ["function published-two", "function uses-one"]
    assert result[2] == ["function published-two:1"]
    assert result[3] == result[4] == [f"the journal {tmp_path}/journal"]
    assert versions(cloud) == list(range(1, 11))
    cloud.done(*words, "--yes", "--dry-run")
    assert versions(cloud) == list(range(1, 11))
    assert "deleted" in cloud.done(*words, "--yes")
    assert versions(cloud) == [1, 2, 3, 4, 9, 10]
    without_journal = rows(cloud.json("prune", "--min-age", "0", "--keep", "1"))
    assert without_journal[3] == []


def test_young_versions_and_those_in_parameters_are_kept(cloud: Cloud) -> None:
    cloud.layer(count=2)
    cloud.done("publish", "--ssm", "streaming-runtime")  # 3
    cloud.layer(count=1)
    manifest = cloud.manifest()
    manifest["published"] = []
    (cloud.checkout.root / "layer-manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    found = rows(cloud.json("prune", "--min-age", "0", "--keep", "1"))
    assert found[3] == [f"the parameter /streaming-runtime/slim/{name}" for name in (VERSION, "latest")]
    assert found[1] == found[2] == []
    young = ["it is younger than --min-age"]
    assert [rows(cloud.json("prune", "--keep", "1"))[number] for number in (1, 2, 3)] == [young] * 3
    assert rows(cloud.json("prune", "--keep", "1", "--min-age", "0", "--ssm", "/other/"))[3] == []


def test_parameters_that_cannot_be_read_delete_nothing(cloud: Cloud) -> None:
    cloud.layer(count=3)
    cloud.standin.faults.on = lambda call: 403 if call.service == "ssm" else None
    message = cloud.refusal("prune", "--keep", "1", "--min-age", "0", "--yes")
    assert message.startswith("GetParametersByPath ") and versions(cloud) == [1, 2, 3]


@pytest.mark.parametrize("age", ["", "x", "-1d", "1 d", "1w", "1.5d"])
def test_a_wrong_age_is_refused(cloud: Cloud, age: str) -> None:
    message = cloud.refusal("prune", "--keep", "1", f"--min-age={age}", status=2)
    assert message.startswith(f"argument --min-age: {age!r} is not a time such as 1d, 12h, 30m or 0")


def test_journals_in_the_folder_rollouts_count(cloud: Cloud) -> None:
    cloud.layer(count=4)
    cloud.function("f", [f"{OURS}:1"])
    cloud.done("rollout", "f", "--to", "3", "--yes")
    assert [
        number for number, users in rows(cloud.json("prune", "--min-age", "0", "--keep", "1")).items() if not users
    ] == [2]


# Reporting


def test_the_report_lists_every_version_and_alias(cloud: Cloud) -> None:
    cloud.done("publish")
    cloud.layer(count=1, CompatibleArchitectures=["arm64"])
    foreign = cloud.layer(NAME, key=FOREIGN_KEY)[0]
    client = cloud.client()
    cloud.function("a", [f"{OURS}:1"])
    client.create_alias(
        FunctionName="a", Name="live", FunctionVersion=client.publish_version(FunctionName="a")["Version"]
    )
    cloud.function("b", [f"{OURS}:2"], Runtime="provided.al2")
    cloud.standin.layers[(ACCOUNT, REGION, "c", "$LATEST")] = []
    cloud.function("c", [], Runtime="python3.15")
    cloud.standin.layers[(ACCOUNT, REGION, "c", "$LATEST")] = [foreign]
    cloud.function("unrelated", cloud.layer("other"))
    result = cloud.json("report")["functions"]
    assert [(row["function"], row["version"], row["aliases"], row["problems"]) for row in result] == [
        ("a", "$LATEST", [], []),
        ("a", "1", ["live"], []),
        ("b", "$LATEST", [], ["wrong architecture", "deprecated runtime"]),
        ("c", "$LATEST", [], ["not shared", "preview runtime"]),
    ]
    assert {row["function"]: row["release"] for row in result} == {"a": VERSION, "b": "-", "c": "-"}
    client.delete_layer_version(LayerName=NAME, VersionNumber=2)
    path = cloud.checkout.root / "layer/runtime.py"
    path.write_text(path.read_text() + "\n# changed\n")
    cloud.checkout.build("--bytecode", "none")
    cloud.done("publish")
    result = cloud.json("report")["functions"]
    assert [row["problems"] for row in result][:3] == [
        ["outdated"],
        ["outdated"],
        ["deleted", "outdated", "deprecated runtime"],
    ]
    table = cloud.done("report", "--region", REGION, "us-east-1")
    assert "outdated (3)" in table and "3 functions with the layer; 4 of 4 rows have problems" in table


def test_a_region_that_cannot_be_read_does_not_hide_the_others(cloud: Cloud) -> None:
    cloud.layer(count=1)
    cloud.function("a", [f"{OURS}:1"])
    cloud.standin.faults.on = lambda call: 500 if (call.region, call.service) == ("us-east-1", "lambda") else None
    result = cloud.json("report", "--region", REGION, "us-east-1", status=1)
    assert [row["function"] for row in result["functions"]] == ["a"] and list(result["failures"]) == ["us-east-1"]


def test_a_function_that_is_deleted_meanwhile_does_not_stop_the_report(cloud: Cloud) -> None:
    cloud.layer(count=1)
    for name in ("a", "b"):
        cloud.function(name, [f"{OURS}:1"])

    def delete(call: Call) -> None:
        if (call.operation, call.name) == ("ListAliases", "a"):
            cloud.delete("a")

    cloud.standin.faults.on = delete  # type: ignore[assignment]
    assert "b" in [row["function"] for row in cloud.json("report")["functions"]]


def test_the_description_of_a_version_is_within_the_limit() -> None:
    assert len(description("n" * 140, "1.2.3-" + "a" * 60)) <= 256
