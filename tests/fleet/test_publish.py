"""`publish`, `verify`, `prune` and `report`, on a stand-in of AWS Lambda (see ``lambda_standin``)."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.cloud import ACCOUNT, FOREIGN_KEY, NAME, OURS, REGION, Cloud, zipped
from support.lambda_standin import Call

from tools.fleet.commands import publish
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


def test_what_is_published_is_what_was_built_and_is_written_down(cloud: Cloud) -> None:
    cloud.done("publish")
    held = cloud.client().get_layer_version(LayerName=NAME, VersionNumber=1)
    identity, data = cloud.manifest(), zip_of(cloud)
    assert held["Content"]["CodeSha256"] == base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert held["CompatibleRuntimes"] == identity["compatibleRuntimes"]
    assert held["CompatibleArchitectures"] == identity["compatibleArchitectures"]
    assert (held["LicenseInfo"], held["Description"]) == ("Apache-2.0", f"{NAME} {identity['version']}")
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


def test_the_rest_of_the_manifest_keeps_its_form(cloud: Cloud) -> None:
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
    assert "holds another" not in cloud.run("publish").stderr
    path = cloud.checkout.root / "layer/runtime.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert "layer-slim.zip holds another runtime.py than layer/ does now" in cloud.run("publish", "--dry-run").stderr
    cloud.checkout.build("--bytecode", "none")
    assert cloud.json("publish")["published"][0]["arn"] == f"{OURS}:2"
    assert [entry["arn"] for entry in cloud.manifest()["published"]] == [f"{OURS}:2"]


def test_two_processes_at_once_make_one_version(cloud: Cloud) -> None:
    processes = [cloud.start("publish") for _ in range(3)]
    for process in processes:
        said = process.communicate()
        assert process.returncode == 0, said
    assert versions(cloud) == [1]


@pytest.mark.parametrize("fault", ["before", "after", 500, 429])
def test_trouble_on_the_way_makes_no_second_version(cloud: Cloud, fault: Any) -> None:
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


def test_a_region_that_fails_does_not_hold_up_the_others_and_is_taken_up_again(cloud: Cloud) -> None:
    refused = 500
    cloud.standin.faults.on = lambda call: refused if call.region == "eu-west-1" and call.service == "lambda" else None
    told = cloud.json("publish", "--region", *REGIONS, status=1)
    assert [row["region"] for row in told["published"] if row["error"]] == ["eu-west-1"]
    assert [entry["region"] for entry in cloud.manifest()["published"]] == ["eu-central-1", "us-east-1"]
    cloud.standin.faults.on = lambda call: None
    cloud.standin.calls.clear()
    cloud.done("publish", "--region", *REGIONS)
    assert [call.region for call in cloud.standin.calls if call.operation == "PublishLayerVersion"] == ["eu-west-1"]
    assert [entry["region"] for entry in cloud.manifest()["published"]] == sorted(REGIONS)


def test_all_regions_are_those_that_are_switched_on(cloud: Cloud) -> None:
    told = cloud.json("publish", "--all-regions")
    regions = [row["region"] for row in told["published"]]
    assert regions == sorted(set(regions)) and set(REGIONS) <= set(regions) and len(regions) > 10
    assert not any(region.startswith(("cn-", "us-gov-")) for region in regions)


@pytest.mark.parametrize("region", ["cn-north-1", "us-gov-west-1"])
def test_the_partition_is_the_callers(cloud: Cloud, region: str) -> None:
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
def test_it_is_shared_as_told(cloud: Cloud, words: list[str], principals: list[str], shared_with: Any) -> None:
    cloud.done("publish", *words)
    assert sorted(map(str, grants(cloud))) == principals
    assert cloud.manifest()["published"][0]["sharedWith"] == (shared_with or principals)


def test_a_permission_that_is_missing_is_repaired(cloud: Cloud) -> None:
    cloud.done("publish", "--public")
    cloud.client().remove_layer_version_permission(LayerName=NAME, VersionNumber=1, StatementId="public")
    assert "permission" in cloud.run("verify").stdout
    assert "shared with public" in cloud.done("publish")  # the manifest knows that it should be
    assert grants(cloud) == ["*"] and versions(cloud) == [1]
    cloud.standin.calls.clear()
    assert "there already" in cloud.done("publish", "--public")
    assert "AddLayerVersionPermission" not in cloud.standin.counted()


def test_parameters_name_the_version_once_and_the_latest_always(cloud: Cloud) -> None:
    client = cloud.client("ssm")
    cloud.done("publish", "--ssm", "/streaming-runtime/")

    def value(name: str) -> str:
        return str(client.get_parameter(Name=f"/streaming-runtime/slim/{name}")["Parameter"]["Value"])

    assert (value("0.1.0"), value("latest")) == (SLIM, SLIM)
    cloud.done("publish", "--ssm", "streaming-runtime")
    client.put_parameter(Name="/streaming-runtime/slim/0.1.0", Value="other", Type="String", Overwrite=True)
    said = cloud.run("publish", "--ssm", "streaming-runtime")
    assert said.returncode == 1 and "/streaming-runtime/slim/0.1.0 is other, and a version is named once" in said.stdout
    assert value("0.1.0") == "other"


def test_a_zip_above_the_limit_goes_through_s3(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MAX_ZIP_BYTES", 100_000)
    large = zipped({"bootstrap": "#!/bin/sh\n", "runtime.py": 'VERSION = "0.1.0"\n', "ballast": os.urandom(100_000)})
    (cloud.checkout.dist / "layer-python3.13-arm64.zip").write_bytes(large)
    words = ["publish", "--variant", "python3.13-arm64"]
    assert "name a bucket in the region with --bucket" in cloud.refusal(*words)
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=f"zips-{REGION}", CreateBucketConfiguration={"LocationConstraint": REGION})
    cloud.done(*words, "--bucket", "zips-{region}")
    (entry,) = cloud.manifest()["published"]
    assert entry["arn"] == f"{OURS}-python3-13-arm64:1" and entry["size"] == len(large)
    cloud.done(*words, "--bucket", "zips-{region}")
    assert versions(cloud, name=f"{NAME}-python3-13-arm64") == [1]


def test_a_dry_run_writes_nothing_nowhere(cloud: Cloud) -> None:
    files = cloud.checkout.files()
    said = cloud.done("publish", "--dry-run", "--public", "--ssm", "x", "--region", *REGIONS)
    assert said.count("would publish, would share it with public") == len(REGIONS)
    cloud.done("publish", "--dry-run", "-o", cloud.checkout.root / "elsewhere")  # where nothing is built
    assert cloud.checkout.files() == files
    assert not any(
        call.operation in ("PublishLayerVersion", "AddLayerVersionPermission") for call in cloud.standin.calls
    )


def test_the_slim_layer_is_built_where_it_is_missing(cloud: Cloud) -> None:
    data = zip_of(cloud)
    cloud.done("publish", "--dry-run")
    (cloud.checkout.dist / "layer-slim.zip").unlink()
    cloud.done("publish")
    assert zip_of(cloud)[:2] == data[:2] == b"PK"


FAULTS: list[tuple[list[str], dict[str, Any], int, str]] = [
    (["publish"], {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, 1, "no AWS credentials "),
    (["publish"], {"AWS_DEFAULT_REGION": None}, 2, "no region is set"),
    (["publish", "--region", "mars-1"], {}, 2, "'mars-1' is not the name of a region"),
    (["publish", "--region", REGION, "cn-north-1"], {}, 2, "cn-north-1 is of the partition aws-cn"),
    (
        ["publish", "--region", REGION, "--all-regions"],
        {},
        2,
        "argument --all-regions: not allowed with argument --region",
    ),
    (["publish", "--share", "12"], {}, 2, "argument --share: '12' is not the number of an account"),
    (["publish", "--organization", "12"], {}, 2, "argument --organization: '12' is not the id of an organization"),
    (["publish", "--public", "--share", "111111111111"], {}, 2, "argument --share: not allowed with argument --public"),
    (["publish", "--ssm", "/aws/x"], {}, 2, "argument --ssm: '/aws/x' cannot begin the name of a parameter"),
    (["publish", "--variant", "fat"], {}, 2, "there is no variant 'fat', there are slim, "),
    (
        ["publish", "--variant", "python3.13-arm64"],
        {},
        1,
        "dist/layer-python3.13-arm64.zip is missing: run ",
    ),
    (["verify"], {}, 1, "the manifest names nothing published that fits: run ./build.sh publish first"),
    (["prune"], {}, 2, "the following arguments are required: --keep"),
    (["prune", "--keep", "x"], {}, 2, "argument --keep: 'x' is not a whole number"),
    (["prune", "--keep", "1", "--journal", "build.sh"], {}, 1, "build.sh: line 1 is not of a journal"),
    (["report", "--region", "mars-1"], {}, 2, "'mars-1' is not the name of a region"),
]


def test_bad_input_is_one_line(cloud: Cloud, subtests: pytest.Subtests) -> None:
    for words, environment, status, message in FAULTS:
        with subtests.test(words=words, environment=environment):
            assert cloud.refusal(*words, status=status, **environment).startswith(message)


def test_an_expired_session_is_one_line(cloud: Cloud) -> None:
    cloud.standin.faults.expired = True
    for words in (["publish"], ["report"], ["prune", "--keep", "1"]):
        assert cloud.refusal(*words).startswith("the AWS session has expired: sign in again")


def test_a_zip_of_another_version_is_refused(cloud: Cloud) -> None:
    path = cloud.checkout.dist / "layer-slim.zip"
    path.write_bytes(zipped({"bootstrap": "#!/bin/sh\n", "runtime.py": 'VERSION = "0.0.9"\n'}))
    assert cloud.refusal("publish") == "layer-slim.zip is not of version 0.1.0: run ./build.sh, and repeat"


@pytest.mark.parametrize("damage", ["no zip", "content"])
def test_a_damaged_zip_is_refused_in_one_line(cloud: Cloud, damage: str) -> None:
    path = cloud.checkout.dist / "layer-slim.zip"
    path.write_bytes(b"no zip" if damage == "no zip" else path.read_bytes().replace(b"#!/bin/sh", b"#!/bin/ha", 1))
    refusal = cloud.refusal("publish")
    assert refusal.startswith("layer-slim.zip is not a valid zip file: ")
    assert refusal.endswith("; build it again with ./build.sh")


# The manifest's list

ENTRY = {
    "variant": "slim",
    "version": "0.1.0",
    "partition": "aws",
    "account": ACCOUNT,
    "region": REGION,
    "arn": SLIM,
    "sha256": "0" * 64,
    "size": 1,
    "sharedWith": ["public"],
}
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
    ([ENTRY, ENTRY], "published contains a variant twice for one account and region"),
]


def test_a_list_edited_into_nonsense_is_one_line(cloud: Cloud, subtests: pytest.Subtests) -> None:
    path = cloud.checkout.root / manifest.FILE_NAME
    text = path.read_text()
    for content, message in NONSENSE:
        with subtests.test(message=message):
            path.write_text(text.replace("{", f'{{"published": {json.dumps(content)},', 1))
            assert cloud.refusal("verify").startswith(f"layer-manifest.json: {message}")


def test_the_list_is_replaced_wherever_it_stands() -> None:
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
    told = cloud.json("verify", status=status)
    return [(each["arn"].split(":")[3], each["what"]) for each in told["differences"]]


def test_what_was_published_is_right(published: Cloud) -> None:
    assert differences(published, status=0) == []
    assert published.done("verify").count("is as the manifest says") == 2


def test_what_differs_is_told(published: Cloud) -> None:
    path = published.checkout.root / manifest.FILE_NAME
    text = path.read_text()
    client = published.client(region="us-east-1")
    client.remove_layer_version_permission(LayerName=NAME, VersionNumber=1, StatementId="public")
    assert differences(published) == [("us-east-1", "permission")]
    path.write_text(text.replace('"license": "Apache-2.0"', '"license": "MIT"'))
    assert ("eu-central-1", "license") in differences(published)
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


def test_a_replaced_zip_is_told(published: Cloud) -> None:
    with zipfile.ZipFile(io.BytesIO(zip_of(published))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    data = zipped(files | {"bootstrap": b"#!/bin/sh\nexit 1\n"})
    from moto.awslambda.utils import get_backend

    get_backend(ACCOUNT, REGION).get_layer_version(NAME, "1").code_bytes = data
    assert differences(published) == [("eu-central-1", "bytes"), ("eu-central-1", "file bootstrap")]


def test_an_entry_of_another_account_is_verified_through_its_sharing(published: Cloud) -> None:
    assert published.json("verify", AWS_ACCESS_KEY_ID=FOREIGN_KEY)["differences"] == []
    published.client().remove_layer_version_permission(LayerName=NAME, VersionNumber=1, StatementId="public")
    told = published.json("verify", AWS_ACCESS_KEY_ID=FOREIGN_KEY, status=1)
    assert [each["held"] for each in told["differences"]] == ["not shared with 999999999999"]


# Pruning


def rows(told: Any) -> dict[int, list[str]]:
    return {int(row["arn"].split(":")[-1]): row["namedBy"] for row in told["versions"]}


def test_only_what_nothing_names_is_deleted(cloud: Cloud, tmp_path: Path) -> None:
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
    words = ["prune", "--keep", "1", "--journal", tmp_path / "journal"]
    told = rows(cloud.json(*words))
    assert [number for number, users in told.items() if not users] == [8, 7, 6, 5]
    assert told[10] == ["it is among the newest"] and told[9] == ["layer-manifest.json"]
    assert told[1] == ["function published-two", "function uses-one"]
    assert told[2] == ["function published-two:1"]
    assert told[3] == told[4] == [f"the journal {tmp_path}/journal"]
    assert versions(cloud) == list(range(1, 11))
    cloud.done(*words, "--yes", "--dry-run")
    assert versions(cloud) == list(range(1, 11))
    assert "deleted" in cloud.done(*words, "--yes")
    assert versions(cloud) == [1, 2, 3, 4, 9, 10]
    assert rows(cloud.json("prune", "--keep", "1"))[3] == []  # only the journals that it knows of count


def test_the_journals_beside_the_checkout_count_without_being_named(cloud: Cloud) -> None:
    cloud.layer(count=4)
    cloud.function("f", [f"{OURS}:1"])
    cloud.done("rollout", "f", "--to", "3", "--yes")
    assert [number for number, users in rows(cloud.json("prune", "--keep", "1")).items() if not users] == [2]


# Reporting


def test_the_report_tells_of_every_version_and_alias(cloud: Cloud) -> None:
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
    cloud.function("c", [])
    cloud.standin.layers[(ACCOUNT, REGION, "c", "$LATEST")] = [foreign]
    cloud.function("unrelated", cloud.layer("other"))
    told = cloud.json("report")["functions"]
    assert [(row["function"], row["version"], row["aliases"], row["problems"]) for row in told] == [
        ("a", "$LATEST", [], []),
        ("a", "1", ["live"], []),
        ("b", "$LATEST", [], ["foreign architecture", "end-of-life runtime"]),
        ("c", "$LATEST", [], ["unshared"]),
    ]
    assert {row["function"]: row["release"] for row in told} == {"a": "0.1.0", "b": "-", "c": "-"}
    client.delete_layer_version(LayerName=NAME, VersionNumber=2)
    path = cloud.checkout.root / "layer/runtime.py"
    path.write_text(path.read_text() + "\n# changed\n")
    cloud.checkout.build("--bytecode", "none")
    cloud.done("publish")
    told = cloud.json("report")["functions"]
    assert [row["problems"] for row in told][:3] == [
        ["behind"],
        ["behind"],
        ["deleted", "behind", "end-of-life runtime"],
    ]
    table = cloud.done("report", "--region", REGION, "us-east-1")
    assert "behind (3)" in table and "3 functions with the layer, 4 of 4 rows need a look" in table


def test_a_region_that_is_closed_does_not_hide_the_others(cloud: Cloud) -> None:
    cloud.layer(count=1)
    cloud.function("a", [f"{OURS}:1"])
    cloud.standin.faults.on = lambda call: 500 if (call.region, call.service) == ("us-east-1", "lambda") else None
    told = cloud.json("report", "--region", REGION, "us-east-1", status=1)
    assert [row["function"] for row in told["functions"]] == ["a"] and list(told["failures"]) == ["us-east-1"]


def test_a_function_that_is_deleted_meanwhile_does_not_end_the_report(cloud: Cloud) -> None:
    cloud.layer(count=1)
    for name in ("a", "b"):
        cloud.function(name, [f"{OURS}:1"])

    def delete(call: Call) -> None:
        if (call.operation, call.name) == ("ListAliases", "a"):
            cloud.delete("a")

    cloud.standin.faults.on = delete  # type: ignore[assignment]
    assert "b" in [row["function"] for row in cloud.json("report")["functions"]]


def test_the_description_of_a_version_is_within_the_limit() -> None:
    assert len(publish.description("n" * 140, "1.2.3-" + "a" * 60)) <= 256
