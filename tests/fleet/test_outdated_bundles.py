"""`report` of functions whose self-contained layer contains an older CPython than the pinned one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from support.cloud import OURS, VERSION, Cloud, zipped
from support.fake_cpython import X86_64, elf

from tools.fleet.checks.bundles import Bundle
from tools.fleet.rollout import target_version
from tools.packaging import manifest
from tools.packaging.manifest import Published
from tools.packaging.manifest_edit import with_published
from tools.packaging.release import published

VARIANT = "python3.13-arm64"
RECORD = "layer-{}.zip  bundled  {}, sha256 0123\nlayer-{}.zip  deflated  zlib 1.3.1\n"


def pin(cloud: Cloud, version: str, release: str) -> None:
    """Pin another release for 3.13."""
    path = cloud.checkout.root / "layer-manifest.json"
    manifest = json.loads(path.read_bytes())
    for each in manifest["selfContained"]["interpreters"]:
        if each["python"] == "3.13":
            each.update(version=version, release=release)
    path.write_text(json.dumps(manifest, indent=2))


def publish(cloud: Cloud, bundled: str | None, program: bytes = b"", number: int = 1) -> None:
    """Publish a layer whose build has recorded what it contains, as version `number`, and attach it to a function."""
    files = {"bootstrap": "#!/bin/sh\n", "runtime.py": f'VERSION = "{VERSION}"\n', "cpython/bin/python3": program}
    (cloud.checkout.dist / f"layer-{VARIANT}.zip").write_bytes(zipped(files))
    record = "" if bundled is None else RECORD.format(VARIANT, bundled, VARIANT)
    (cloud.checkout.dist / "INTERPRETERS").write_text(f"layer-slim.zip  bytecode  CPython 3.13.0\n{record}")
    cloud.done("publish", "--variant", VARIANT)
    arn = f"{OURS}-python3-13-arm64:{number}"
    cloud.function(f"f{number}", [arn], Runtime="provided.al2023", Architectures=["arm64"])


def row(cloud: Cloud, *options: str, status: int = 0) -> Any:
    [found] = cloud.json("report", *options, status=status)["functions"]
    return found["problems"]


BUILD = "CPython 3.13.17, python-build-standalone 20261021 3.13.17 arm64"


@pytest.mark.parametrize(
    ("bundled", "version", "release", "is_outdated"),
    [
        (BUILD, "3.13.17", "20261021", False),
        (BUILD, "3.13.18", "20261110", True),
        (BUILD, "3.13.17", "20261110", True),  # the same CPython with a newer OpenSSL
        (BUILD, "3.13.16", "20261110", False),
        ("CPython 3.13.9, python-build-standalone 20261021 3.13.9 arm64", "3.13.10", "20261021", True),
        ("CPython 3.13.17, /home/me/cpython.tar.gz", "3.13.17", "20261110", False),
        ("CPython 3.13.17, /home/me/cpython.tar.gz", "3.13.18", "20261110", True),
        (None, "3.13.18", "20261110", False),
    ],
)
def test_a_bundle_is_outdated_if_the_pinned_build_is_newer(
    cloud: Cloud, bundled: str | None, version: str, release: str, is_outdated: bool
) -> None:
    publish(cloud, bundled)
    pin(cloud, version, release)
    assert row(cloud) == (["outdated bundle"] if is_outdated else [])
    assert row(cloud, "--fail-on", "bundle", status=int(is_outdated)) == row(cloud)


def test_the_report_names_both_builds(cloud: Cloud) -> None:
    publish(cloud, BUILD)
    pin(cloud, "3.13.18", "20261110")
    [entry] = cloud.manifest()["published"]
    assert entry["bundled"] == BUILD
    problem = "outdated bundle (CPython 3.13.17 of 20261021; pinned: 3.13.18 of 20261110)"
    assert problem in cloud.done("report")


def openssl(version: str) -> bytes:
    """A program with the strings of an OpenSSL and of a zlib."""
    return elf(X86_64, data=f"OpenSSL {version} 9 Jun 2026\0 deflate 1.3.2 Copyright 1995-2026 ".encode())


def test_the_versions_of_the_libraries_are_recorded_and_shown(cloud: Cloud) -> None:
    publish(cloud, BUILD, openssl("3.5.7"))
    [entry] = cloud.manifest()["published"]
    assert entry["libraries"] == "openssl 3.5.7, zlib 1.3.2"
    page = published.page(manifest.load(cloud.checkout.root / manifest.FILE_NAME)).decode()
    assert f"| eu-central-1 | {BUILD} | openssl 3.5.7, zlib 1.3.2 |\n" in page
    pin(cloud, "3.13.18", "20261110")
    assert "(CPython 3.13.17 of 20261021, OpenSSL 3.5.7; pinned: 3.13.18 of 20261110)" in cloud.done("report")


@pytest.mark.parametrize(
    ("version", "is_outdated"), [("3.5.10", True), ("3.5.9", False), ("3.5.8", False), ("3.6.1", False)]
)
def test_an_openssl_that_is_older_than_that_of_another_layer_is_outdated(
    cloud: Cloud, version: str, is_outdated: bool
) -> None:
    publish(cloud, "CPython 3.13.17, /home/me/cpython.tar.gz", openssl("3.5.9"))
    path = cloud.checkout.root / "layer-manifest.json"
    [entry] = cloud.manifest()["published"]
    other = {"region": "us-east-1", "arn": entry["arn"].replace("eu-central-1", "us-east-1")}
    entries = [Published(**{**each, "sharedWith": ()}) for each in (entry, {**entry, **other})]
    entries[1] = dataclasses.replace(entries[1], libraries=f"openssl {version}")
    path.write_text(with_published(path.read_text(), entries))
    assert row(cloud) == (["outdated bundle"] if is_outdated else [])
    if is_outdated:
        assert "outdated bundle (CPython 3.13.17, OpenSSL 3.5.9; in another layer: 3.5.10)" in cloud.done("report")


def test_a_function_that_keeps_an_outdated_version_is_named_after_a_newer_one_is_published(cloud: Cloud) -> None:
    publish(cloud, BUILD, openssl("3.5.7"))
    pin(cloud, "3.13.17", "20261110")
    publish(cloud, BUILD.replace("20261021", "20261110"), openssl("3.5.9"), number=2)
    [entry] = cloud.manifest()["published"]
    assert entry["arn"].endswith(":2")
    found = cloud.json("report", "--fail-on", "bundle", status=1)["functions"]
    assert {each["function"]: each["problems"] for each in found} == {"f1": ["outdated", "outdated bundle"], "f2": []}
    assert [each["release"] for each in found] == [VERSION, VERSION]


def test_a_version_of_the_project_is_found_although_its_description_names_the_bundle(cloud: Cloud) -> None:
    publish(cloud, BUILD)
    path = cloud.checkout.root / "layer-manifest.json"
    path.write_text(with_published(path.read_text(), []))
    arn = f"{OURS}-python3-13-arm64:1"
    [found] = cloud.json("report")["functions"]
    assert (found["layer"], found["release"]) == (arn, VERSION)
    cloud.done("rollout", "f1", "--variant", VARIANT, "--to", VERSION, "--yes")


@pytest.mark.parametrize(
    ("text", "bundle"),
    [
        ("CPython 3.13.17 of 20261021, OpenSSL 3.5.7", Bundle((3, 13, 17), "20261021", (3, 5, 7))),
        ("CPython 3.13.17 of 20261021", Bundle((3, 13, 17), "20261021", ())),
        ("CPython 3.13.17, OpenSSL 3.5.7", Bundle((3, 13, 17), "", (3, 5, 7))),
        ("CPython 3.13.17", Bundle((3, 13, 17), "", ())),
        ("CPython 3.13", None),
        ("", None),
    ],
)
def test_a_description_is_read_as_it_is_written(text: str, bundle: Bundle | None) -> None:
    assert Bundle.parse(text) == bundle
    if bundle:
        assert str(bundle) == text
        whole = target_version.description("name", "1.2.3", text)
        assert (whole, target_version.bundle(whole)) == (f"name 1.2.3 ({text})", text)
    assert target_version.bundle(target_version.description("name", "1.2.3")) == ""
