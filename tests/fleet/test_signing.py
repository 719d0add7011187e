"""`publish --signing-profile`, and `verify` of signed layers, against a stand-in of AWS Signer (`signing_jobs`)."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from typing import Any

import pytest
from support.cloud import NAME, OURS, REGION, Cloud
from support.lambda_standin import Call
from support.signing_jobs import SIGNATURE

from tools.fleet.aws.layers import download
from tools.packaging.manifest_edit import with_published

PROFILE = "streaming_layers"
BUCKET = "zips"
WORDS = ("publish", "--bucket", BUCKET, "--signing-profile", PROFILE)


@pytest.fixture
def signing(cloud: Cloud) -> Cloud:
    """An account with a signing profile and a versioned bucket."""
    cloud.client("signer").put_signing_profile(profileName=PROFILE, platformId="AWSLambda-SHA384-ECDSA")
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    cloud.standin.calls.clear()
    return cloud


def built(cloud: Cloud) -> bytes:
    return (cloud.checkout.dist / "layer-slim.zip").read_bytes()


def files(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def published(cloud: Cloud, number: int = 1) -> Any:
    return cloud.client().get_layer_version(LayerName=NAME, VersionNumber=number)["Content"]


def forget(cloud: Cloud) -> None:
    """Lose the entries of the manifest, as in a fresh clone."""
    path = cloud.checkout.root / "layer-manifest.json"
    path.write_text(with_published(path.read_text(), []))


def test_the_signed_zip_is_published_and_both_hashes_are_recorded(signing: Cloud) -> None:
    signing.done(*WORDS)
    [entry] = signing.manifest()["published"]
    content = published(signing)
    assert entry["sha256"] == hashlib.sha256(built(signing)).hexdigest()
    assert entry["size"] == len(built(signing))
    assert base64.b64encode(bytes.fromhex(entry["signedSha256"])).decode() == content["CodeSha256"]
    assert entry["signedSize"] == content["CodeSize"] > entry["size"]
    assert entry["signingProfileVersion"] == content["SigningProfileVersionArn"]
    assert f":/signing-profiles/{PROFILE}/" in entry["signingProfileVersion"]


def test_the_same_zip_is_signed_and_published_once(signing: Cloud) -> None:
    for _ in range(2):
        assert signing.json(*WORDS)["published"][0]["arn"] == f"{OURS}:1"
    counted = signing.standin.counted()
    assert (counted["StartSigningJob"], counted["PublishLayerVersion"]) == (1, 1)


def test_without_the_manifest_the_signed_object_is_found_again(signing: Cloud) -> None:
    signing.done(*WORDS)
    before = signing.manifest()["published"]
    forget(signing)
    signing.done(*WORDS)
    assert signing.manifest()["published"] == before
    assert signing.standin.counted()["StartSigningJob"] == 1


def test_an_object_that_was_signed_before_a_failure_is_published(signing: Cloud) -> None:
    def refuse(call: Call) -> int | None:
        return 403 if call.operation == "PublishLayerVersion" else None

    signing.standin.faults.on = refuse
    assert signing.run(*WORDS).returncode == 1
    signing.standin.faults.on = lambda call: None
    signing.done(*WORDS)
    assert signing.standin.counted()["StartSigningJob"] == 1
    signing.done("verify")


def test_a_lost_response_does_not_create_a_second_version(signing: Cloud) -> None:
    lost = iter(["after"])
    signing.standin.faults.on = lambda call: next(lost, None) if call.operation == "PublishLayerVersion" else None
    signing.done(*WORDS)
    assert signing.standin.counted()["PublishLayerVersion"] == 1


def test_a_lost_response_does_not_start_a_second_job(signing: Cloud) -> None:
    lost = iter(["after"])
    signing.standin.faults.on = lambda call: next(lost, None) if call.operation == "StartSigningJob" else None
    signing.done(*WORDS)
    objects = signing.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"{NAME}/signed/")["Contents"]
    assert (signing.standin.counted()["StartSigningJob"], len(objects)) == (2, 1)


def test_an_unsigned_version_is_not_enough_where_a_signature_is_requested(signing: Cloud) -> None:
    signing.done("publish")
    assert signing.json(*WORDS)["published"][0]["arn"] == f"{OURS}:2"
    signing.done("verify")


def test_a_signed_version_is_enough_where_none_is_requested(signing: Cloud) -> None:
    signing.done(*WORDS)
    before = signing.manifest()
    assert signing.json("publish")["published"][0]["actions"] == ["up to date"]
    assert signing.manifest() == before


def test_another_profile_signs_again(signing: Cloud) -> None:
    signing.client("signer").put_signing_profile(profileName="other", platformId="AWSLambda-SHA384-ECDSA")
    signing.done(*WORDS)
    assert signing.json(*WORDS[:-1], "other")["published"][0]["arn"] == f"{OURS}:2"


def test_a_dry_run_signs_nothing(signing: Cloud) -> None:
    actions = signing.json(*WORDS, "--dry-run", "--public")["published"][0]["actions"]
    assert actions == [f"would sign with {PROFILE}", "would publish", "would share it with public"]
    assert not {"StartSigningJob", "PutObject", "PublishLayerVersion"} & set(signing.standin.counted())


# Verify


def test_verify_leaves_the_signature_out(signing: Cloud) -> None:
    signing.done(*WORDS)
    location = published(signing)["Location"]
    assert SIGNATURE in files(download(location))
    signing.done("verify")


def test_verify_finds_a_changed_file_in_a_signed_layer(signing: Cloud) -> None:
    signing.done(*WORDS)
    (signing.checkout.dist / "layer-slim.zip").unlink()
    source = signing.checkout.root / "layer" / "runtime.py"
    source.write_text(source.read_text() + "\n# changed\n")
    assert "file runtime.py" in signing.run("verify").stdout


def test_verify_finds_another_signature_than_the_recorded_one(signing: Cloud) -> None:
    signing.done(*WORDS)
    path = signing.checkout.root / "layer-manifest.json"
    [entry] = signing.manifest()["published"]
    path.write_text(path.read_text().replace(entry["signedSha256"], "0" * 64))
    done = signing.run("verify")
    assert done.returncode == 1 and "sha256" in done.stdout


def test_verify_finds_another_signing_profile_than_the_recorded_one(signing: Cloud) -> None:
    signing.done(*WORDS)
    path = signing.checkout.root / "layer-manifest.json"
    path.write_text(path.read_text().replace(f"/signing-profiles/{PROFILE}/", "/signing-profiles/another/"))
    done = signing.run("verify")
    assert done.returncode == 1 and "signing profile" in done.stdout


# Refusals


def test_a_profile_without_a_bucket_is_wrong_usage(cloud: Cloud) -> None:
    done = cloud.run("publish", "--signing-profile", PROFILE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--signing-profile needs --bucket, with a bucket that has versioning" in done.stderr


def test_the_name_of_a_profile_is_checked(cloud: Cloud) -> None:
    done = cloud.run("publish", "--bucket", BUCKET, "--signing-profile", "a-b")
    assert done.returncode == 2 and "'a-b' is not the name of a signing profile" in done.stderr


def test_a_bucket_without_versioning_is_refused(signing: Cloud) -> None:
    location = {"LocationConstraint": REGION}
    signing.client("s3").create_bucket(Bucket="plain-zips", CreateBucketConfiguration=location)
    for _ in range(2):  # the first time, the zip is not in the bucket
        done = signing.run("publish", "--bucket", "plain-zips", "--signing-profile", PROFILE)
        assert done.returncode == 1
        assert "the bucket plain-zips has no versioning, which AWS Signer needs: enable it" in done.stdout + done.stderr


def test_an_unknown_profile_is_an_error_of_its_region(signing: Cloud) -> None:
    done = signing.run(*WORDS[:-1], "unknown")
    assert done.returncode == 1 and "ResourceNotFoundException" in done.stdout + done.stderr
    assert "PublishLayerVersion" not in signing.standin.counted()


def test_a_signed_zip_with_other_files_is_not_published(signing: Cloud) -> None:
    signing.standin.signing.changes_files = True
    done = signing.run(*WORDS)
    assert done.returncode == 1 and "contains other files than were signed" in done.stdout + done.stderr
    assert "PublishLayerVersion" not in signing.standin.counted()
    signing.standin.signing.changes_files = False
    signing.done(*WORDS)  # its object is still in the bucket, and is not used
    assert signing.standin.counted()["StartSigningJob"] == 2
    signing.done("verify")


def test_a_zip_without_a_signature_is_not_published(signing: Cloud) -> None:
    signing.standin.signing.omits_signature = True
    done = signing.run(*WORDS)
    assert done.returncode == 1 and "contains no signature: check the signing profile" in done.stdout + done.stderr
    assert "PublishLayerVersion" not in signing.standin.counted()


def test_the_reason_of_a_failed_job_is_shown(signing: Cloud) -> None:
    path = signing.checkout.dist / "layer-slim.zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(SIGNATURE, b"")
    done = signing.run(*WORDS)
    assert done.returncode == 1 and "AWS Signer could not sign it: the zip has a signature" in done.stdout + done.stderr


@pytest.mark.long
def test_a_job_that_does_not_end_is_an_error(signing: Cloud) -> None:
    signing.standin.signing.looks_until_done = 10_000
    done = signing.run(*WORDS)
    assert done.returncode == 1 and "is not complete after 500 s: repeat the command" in done.stdout + done.stderr


def test_the_page_of_published_layers_is_written_with_the_manifest(signing: Cloud) -> None:
    page = signing.checkout.root / "docs" / "layers.md"
    page.parent.mkdir()
    page.write_text("old")
    signing.done(*WORDS)
    [entry] = signing.manifest()["published"]
    text = page.read_text()
    assert entry["arn"] in text and entry["signedSha256"] in text and entry["signingProfileVersion"] in text
