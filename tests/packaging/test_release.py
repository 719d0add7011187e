"""`./build.sh release`: what it refuses, the files of a release, and that they are the same on every machine."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import debian_stand_ins
from support.built_zips import FILES, THIS_VERSION, Pythons, contents, pycs
from support.checkout import ROOT
from support.fake_cpython import ELSEWHERE, HERE, NAMES, PATCH, VERSION
from support.package_environments import SBOM
from support.release_checkout import CHANGES, NAME, RELEASED, Release

from tools.common.errors import ToolError
from tools.packaging import PackagingError
from tools.packaging import manifest as manifests
from tools.packaging.release import changelog, comparison, notes
from tools.packaging.release.libraries import PINNED_ON

LAYERS = ["layer-slim.zip", *(f"layer-python{VERSION}-{NAMES[machine]}.zip" for machine in (HERE, ELSEWHERE))]
ZIPS = [*LAYERS, "function.zip"]
BUNDLED = LAYERS[1]
WORKFLOW = "owner/name/.github/workflows/release.yml@refs/tags/v0.1.0"
SAMPLE = [BUNDLED, "function.zip"]

pytestmark = pytest.mark.skipif(shutil.which("git") is None or not HERE, reason="needs git, on x86_64 or aarch64")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, pythons: Pythons) -> Release:
    """A release, built once. The tests change nothing in it."""
    made = Release(tmp_path_factory.mktemp("release"), pythons)
    done = made.run("release", RELEASED)
    assert (done.returncode, done.stderr) == (0, "")
    return made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, pythons: Pythons) -> Release:
    return Release(tmp_path_factory.mktemp("ready"), pythons)


@pytest.fixture
def ready(shared: Release) -> Iterator[Release]:
    """A checkout that is ready for a release. A test may change it."""
    yield shared
    shared.reset()


def document(release: Release, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((release.dist / name).read_bytes())
    return value


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What a release consists of


def test_a_release_contains_every_variant_with_two_sboms_each(release: Release) -> None:
    stems = [name.removesuffix(".zip") for name in ZIPS]
    expected = {f"{stem}{suffix}" for stem in stems for suffix in (".zip", ".spdx.json", ".cdx.json")}
    expected |= {"provenance.json", "RELEASE_NOTES.md", "INTERPRETERS", "SHA256SUMS"}
    assert {path.name for path in release.dist.iterdir()} == expected


def test_the_checksums_are_those_of_all_files(release: Release) -> None:
    lines = (release.dist / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert listed == {path.name: sha256(path) for path in release.dist.iterdir() if path.name != "SHA256SUMS"}
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=release.dist, check=True)


def test_the_slim_layer_has_bytecode_for_every_supported_python(release: Release) -> None:
    expected = {*FILES, *(path for version in release.versions for path in pycs(version))}
    assert set(contents(release.dist / "layer-slim.zip")) == expected


def test_the_release_notes_contain_the_section_of_the_changelog_and_all_zips(release: Release) -> None:
    text = (release.dist / "RELEASE_NOTES.md").read_text()
    assert text.startswith(f"# {NAME} {RELEASED}\n\n{CHANGES}\n") and "Old." not in text
    assert all(f"| `{name}` |" in text and sha256(release.dist / name) in text for name in ZIPS)


@pytest.fixture(scope="module")
def second(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a release that a workflow has built elsewhere, from a clone with a password in its configuration."""
    folder = tmp_path_factory.mktemp("deeper") / "clone"
    release.git("clone", "--quiet", str(release.root), str(folder))
    release.git("-C", str(folder), "remote", "set-url", "origin", "https://user:secret@example.com/name.git")
    workflow = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_WORKFLOW_REF": WORKFLOW}
    environment = release.checkout_environment | workflow | {"TZ": "Asia/Tokyo", "LC_ALL": "C"}
    command = [folder / "build.sh", "release", RELEASED, "-o", folder.parent / "out"]
    subprocess.run(command, check=True, capture_output=True, umask=0o077, env=environment)
    return folder.parent / "out"


@pytest.mark.long
def test_another_machine_writes_the_same_zips_and_the_same_sboms(release: Release, second: Path) -> None:
    differing = [path.name for path in release.dist.iterdir() if path.read_bytes() != (second / path.name).read_bytes()]
    assert sorted(differing) == ["SHA256SUMS", "provenance.json"]  # which names the workflow and the remote


@pytest.mark.long
def test_a_dry_run_builds_everything_and_writes_nothing(ready: Release) -> None:
    before = ready.checkout.files()
    done = ready.run("release", RELEASED, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"would write dist/{name}  " in done.stdout for name in ZIPS)
    assert ready.checkout.files() == before


def test_files_that_git_ignores_are_in_no_zip(ready: Release, release: Release) -> None:
    ready.write(".git/info/exclude", "*.log\n")
    ready.write("function/debug.log", "secret")
    ready.edit_manifest(
        compatibleRuntimes=[f"python{THIS_VERSION}"],
        selfContained={"compatibleRuntimes": ["provided.al2023"], "interpreters": []},
    )
    ready.commit()
    done = ready.run("release", RELEASED, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert sha256(release.dist / "function.zip") in done.stdout


def test_links_of_the_changelog_lead_to_the_files_of_the_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "See [a](docs/a.md#b), [c](https://example.com/c) and [d](#e)."
    section = changelog.Section("1.2.3", datetime.date(2026, 11, 28), text)
    manifest = manifests.load(ROOT / manifests.FILE_NAME)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert text in notes.notes(manifest, section, {}, {}).decode()
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    linked = text.replace("(docs", "(https://github.com/owner/name/blob/v1.2.3/docs")
    assert linked in notes.notes(manifest, section, {}, {}).decode()


# What is refused


def refusal(release: Release, *words: str, **environment: str) -> list[str]:
    """The lines on stderr of a release that is refused, without the name of the program."""
    before = release.checkout.files()
    done = release.run("release", *(words or [RELEASED]), **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert release.checkout.files() == before
    *problems, last = done.stderr.splitlines()
    prefix = "build.sh: error: 0.1.0 cannot be released: ".replace("0.1.0", words[0] if words else RELEASED)
    assert last.startswith(prefix)
    return problems or [last.removeprefix(prefix)]


@pytest.mark.long
def test_changed_files_and_those_that_git_does_not_know_are_refused(ready: Release) -> None:
    ready.write("function/other.py", "")
    ready.write("function/lambda_function.py", "def handler(event, context):\n    yield b'x'\n")
    assert refusal(ready) == [
        "uncommitted changes of function/lambda_function.py, function/other.py: commit or remove them"
    ]


def test_another_version_than_that_of_the_manifest_is_refused(ready: Release) -> None:
    [first, second] = refusal(ready, "9.9.9")
    assert (
        first == f"layer-manifest.json has the version {RELEASED}: set the version of the release there and in layer/"
    )
    assert second == "CHANGELOG.md has no section 9.9.9: add the heading '## 9.9.9 - YYYY-MM-DD'"


@pytest.mark.parametrize("version", ["", "v0.1.0", "0.1"])
def test_what_is_no_version_is_wrong_usage(ready: Release, version: str) -> None:
    done = ready.run("release", version)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{version!r} is not a version, such as 1.2.3" in done.stderr


def test_a_function_that_cannot_be_packed_is_refused(ready: Release) -> None:
    ready.write("function/script.sh", "#!/bin/sh\r\n")
    ready.commit()
    assert refusal(ready) == ["function/script.sh is a script with CRLF line ends: save it with LF"]


def test_a_file_of_the_layer_with_another_version_is_refused(ready: Release) -> None:
    text = (ready.root / "layer" / "runtime.py").read_text()
    ready.write("layer/runtime.py", text.replace(f'VERSION = "{RELEASED}"', 'VERSION = "9.9.9"'))
    ready.commit()
    [problem] = refusal(ready)
    assert problem.startswith('layer/runtime.py has VERSION = "9.9.9"') or 'has VERSION = "9.9.9"' in problem


def test_a_changelog_without_a_date_for_the_version_is_refused(ready: Release) -> None:
    ready.write("CHANGELOG.md", f"## {RELEASED} - unreleased\n\nText.\n")
    ready.commit()
    [found] = refusal(ready)
    assert found == f"CHANGELOG.md: the section {RELEASED} has no date: write '## {RELEASED} - YYYY-MM-DD'"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("## 1.0.0\n\nText.\n", "the section 1.0.0 has no date"),
        ("## 1.0.0 - 2026-13-01\n\nText.\n", "the section 1.0.0 has no date"),
        ("## 1.0.0 - 2026-11-28\n\n## 0.0.1 - 2026-01-01\n", "lists no change for 1.0.0"),
        ("## 1.0.01 - 2026-11-28\n\nText.\n", "has no section 1.0.0"),
        ("## 1x0.0 - 2026-11-28\n\nText.\n", "has no section 1.0.0"),
        ("### 1.0.0 - 2026-11-28\n\nText.\n", "has no section 1.0.0"),
    ],
)
def test_a_section_needs_a_date_and_a_change(text: str, problem: str) -> None:
    with pytest.raises(PackagingError, match=re.escape(problem)):
        changelog.section(text, "1.0.0")


def test_a_section_ends_at_the_next_version() -> None:
    text = "# Changelog\n\n## [1.0.0] - 2026-11-28\n\n### Added\n\n- One.\n\n## 0.9.0 - 2026-01-01\n\n- Two.\n"
    assert changelog.section(text, "1.0.0").text == "### Added\n\n- One."


def test_pages_that_name_another_version_or_lack_what_is_published_are_refused(ready: Release) -> None:
    (ready.root / "docs").mkdir()
    ready.write("docs/page.md", f"The first line names {NAME} 0.0.9, the second {NAME} {RELEASED}.\n")
    ready.write("docs/layers.md", "old\n")
    ready.commit()
    assert refusal(ready) == [
        f"docs/page.md names {NAME} 0.0.9: replace it by {RELEASED}",
        "docs/layers.md differs from layer-manifest.json: run ./build.sh layers-page",
    ]


def test_an_output_folder_in_the_function_is_refused(ready: Release) -> None:
    [problem] = refusal(ready, RELEASED, "-o", "function/dist")
    assert problem.startswith("function and the output function/dist overlap")


def test_a_tag_of_the_version_at_another_commit_is_refused(ready: Release) -> None:
    ready.git("tag", f"v{RELEASED}")
    first = ready.git("rev-parse", "HEAD")
    ready.commit()
    assert refusal(ready) == [f"the tag v{RELEASED} is at another commit, {first}: increase the version"]


def test_a_checkout_without_git_is_refused(ready: Release) -> None:
    (ready.root / ".git").rename(ready.root.parent / "git")
    try:
        [problem] = refusal(ready)
    finally:
        (ready.root.parent / "git").rename(ready.root / ".git")
    assert "not a git repository" in problem


def test_everything_that_is_missing_is_listed_before_anything_is_built(ready: Release) -> None:
    gone = {**ready.pins[1], "url": "file:///nonexistent/cpython.tar.gz", "sha256": "0" * 64}
    ready.edit_manifest(
        compatibleRuntimes=["python3.98", "python3.99"],
        selfContained={"compatibleRuntimes": ["provided.al2023"], "interpreters": [ready.pins[0], gone]},
    )
    ready.commit()
    first, second, third = refusal(ready)
    assert first.startswith("layer-slim.zip needs bytecode for Python 3.98: no final release of CPython 3.98")
    assert second.startswith("layer-slim.zip needs bytecode for Python 3.99: no final release of CPython 3.99")
    assert third.startswith(f"{LAYERS[2]} needs CPython {PATCH} for {NAMES[ELSEWHERE]}: cannot fetch file:///nonexist")


# The SBOMs


@pytest.mark.parametrize("name", ZIPS)
def test_spdx_lists_all_files_of_the_zip_with_their_hashes(release: Release, name: str) -> None:
    inside = contents(release.dist / name)
    found = document(release, name.replace(".zip", ".spdx.json"))
    hashes = {
        file["fileName"]: {each["algorithm"]: each["checksumValue"] for each in file["checksums"]}
        for file in found["files"]
    }
    assert hashes == {
        f"./{path}": {"SHA1": hashlib.sha1(data).hexdigest(), "SHA256": hashlib.sha256(data).hexdigest()}
        for path, data in inside.items()
    }
    assert found["packages"][0]["checksums"] == [{"algorithm": "SHA256", "checksumValue": sha256(release.dist / name)}]


@pytest.mark.parametrize("name", ZIPS)
def test_cyclonedx_lists_all_files_of_the_zip_with_their_hashes(release: Release, name: str) -> None:
    inside = contents(release.dist / name)
    found = document(release, name.replace(".zip", ".cdx.json"))
    files = {each["name"]: each["hashes"][1]["content"] for each in found["components"] if each["type"] == "file"}
    assert files == {path: hashlib.sha256(data).hexdigest() for path, data in inside.items()}
    assert found["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": sha256(release.dist / name)}]


def test_both_formats_name_the_interpreter_and_the_libraries_with_version_license_purl_and_cpe(
    release: Release,
) -> None:
    spdx = {each["name"]: each for each in document(release, BUNDLED.replace(".zip", ".spdx.json"))["packages"][1:]}
    cyclonedx = {
        each["name"]: each
        for each in document(release, BUNDLED.replace(".zip", ".cdx.json"))["components"]
        if each["type"] == "library"
    }
    assert set(spdx) == set(cyclonedx)
    expected = {
        "CPython": (PATCH, "Python-2.0", "pkg:generic/python", "cpe:2.3:a:python:python"),
        "openssl": ("3.5.7", "Apache-2.0", "pkg:generic/openssl", "cpe:2.3:a:openssl:openssl"),
        "zlib": ("1.3.2", "Zlib", "pkg:generic/zlib", "cpe:2.3:a:zlib:zlib"),
        "sqlite": ("3.53.1", "blessing", "pkg:generic/sqlite", "cpe:2.3:a:sqlite:sqlite"),
        "expat": ("2.8.3", "MIT", "pkg:generic/expat", "cpe:2.3:a:libexpat_project:libexpat"),
        "libffi": ("3.4.8", "MIT", "pkg:generic/libffi", "cpe:2.3:a:libffi_project:libffi"),
        "xz": ("5.8.3", "0BSD", "pkg:generic/xz", "cpe:2.3:a:tukaani:xz"),
    }
    for name, (version, license, purl, cpe) in expected.items():
        references = {each["referenceType"]: each["referenceLocator"] for each in spdx[name]["externalRefs"]}
        assert (spdx[name]["versionInfo"], spdx[name]["licenseDeclared"]) == (version, license)
        assert references == {"purl": f"{purl}@{version}", "cpe23Type": f"{cpe}:{version}:*:*:*:*:*:*:*"}
        assert (cyclonedx[name]["version"], cyclonedx[name]["licenses"]) == (version, [{"license": {"id": license}}])
        assert {"purl": cyclonedx[name]["purl"], "cpe23Type": cyclonedx[name]["cpe"]} == references
    pinned = f"The files do not contain the version; python-build-standalone pinned this one on {PINNED_ON}"
    assert spdx["libffi"]["comment"] == cyclonedx["libffi"]["description"] == pinned
    assert spdx["openssl"]["comment"] == cyclonedx["openssl"]["description"] == "The version was read from the files"


def test_our_files_have_our_license_and_those_of_the_interpreter_none(release: Release) -> None:
    spdx = document(release, BUNDLED.replace(".zip", ".spdx.json"))["files"]
    cyclonedx = document(release, BUNDLED.replace(".zip", ".cdx.json"))["components"]
    concluded = {file["fileName"].removeprefix("./"): file["licenseConcluded"] for file in spdx}
    stated = {each["name"]: each.get("licenses") for each in cyclonedx if each["type"] == "file"}
    for path in ("runtime.py", "cpython/VARIANT"):
        assert (concluded[path], stated[path]) == ("Apache-2.0", [{"license": {"id": "Apache-2.0"}}])
    assert (concluded["cpython/bin/python3"], stated["cpython/bin/python3"]) == ("NOASSERTION", None)


def test_spdx_distinguishes_programs_and_bytecode_from_sources_and_text(release: Release) -> None:
    files = document(release, BUNDLED.replace(".zip", ".spdx.json"))["files"]
    types = {file["fileName"].removeprefix("./"): file["fileTypes"] for file in files}
    expected = {
        "cpython/bin/python3": "BINARY",
        "bootstrap": "SOURCE",
        "runtime.py": "SOURCE",
        "cpython/VARIANT": "TEXT",
    }
    assert {path: types[path] for path in expected} == {path: [kind] for path, kind in expected.items()}
    assert {types[path][0] for path in types if path.endswith((".pyc", ".so.3"))} == {"BINARY"}


def test_identifiers_and_times_come_from_the_commit_and_the_zip(release: Release) -> None:
    spdx = {name: document(release, name.replace(".zip", ".spdx.json")) for name in ZIPS}
    cyclonedx = {name: document(release, name.replace(".zip", ".cdx.json")) for name in ZIPS}
    assert {each["creationInfo"]["created"] for each in spdx.values()} == {"2026-11-28T12:00:00Z"}
    assert {each["metadata"]["timestamp"] for each in cyclonedx.values()} == {"2026-11-28T12:00:00Z"}
    assert len({each["documentNamespace"] for each in spdx.values()}) == len(ZIPS)
    assert len({each["serialNumber"] for each in cyclonedx.values()}) == len(ZIPS)


VALIDATOR = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

for path in sys.argv[1:]:
    if path.endswith(".spdx.json"):
        print(*validate_full_spdx_document(parse_file(path), "SPDX-2.3"), sep="\\n", end="")
    else:
        print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(path).read()) or "", end="")
"""


@pytest.mark.skipif(not SBOM.is_prepared, reason=SBOM.reason_to_skip)
@pytest.mark.parametrize("names", [SAMPLE, pytest.param(ZIPS, marks=pytest.mark.long)])
def test_the_sboms_are_valid_to_spdx_tools_and_to_cyclonedx(release: Release, names: list[str]) -> None:
    sboms = [release.dist / f"{Path(name).stem}{suffix}" for name in names for suffix in (".spdx.json", ".cdx.json")]
    done = subprocess.run([SBOM.python, "-c", VALIDATOR, *sboms], capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.mark.long
@pytest.mark.skipif(not SBOM.is_prepared, reason=SBOM.reason_to_skip)
@pytest.mark.skipif(not debian_stand_ins.is_prepared(), reason="the stand-ins are not prepared")
def test_the_sbom_of_a_whole_interpreter_is_valid(ready: Release) -> None:
    data = debian_stand_ins.interpreter(debian_stand_ins.X86_64)
    pin = {
        **ready.pins[0],
        "python": "3.13",
        "version": "3.13.5",
        "url": data.as_uri(),
        "sha256": sha256(data),
    }
    ready.edit_manifest(selfContained={"compatibleRuntimes": ["provided.al2023"], "interpreters": [pin]})
    ready.commit()
    assert ready.run("release", RELEASED).returncode == 0
    sboms = sorted(ready.dist.glob("layer-python3.13-*.json"))
    done = subprocess.run([SBOM.python, "-c", VALIDATOR, *sboms], capture_output=True, text=True, check=True)
    assert (len(sboms), done.stdout) == (2, "")


# The provenance


def test_the_provenance_is_a_statement_about_all_zips(release: Release) -> None:
    found = document(release, "provenance.json")
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {each["name"]: each["digest"]["sha256"] for each in found["subject"]}
    assert subjects == {name: sha256(release.dist / name) for name in ZIPS}
    definition = found["predicate"]["buildDefinition"]
    source, *archives = definition["resolvedDependencies"]
    assert source["digest"] == {"gitCommit": release.git("rev-parse", "HEAD")}
    assert [(each["uri"], each["digest"]) for each in archives] == [
        (pin["url"], {"sha256": pin["sha256"]}) for pin in release.pins
    ]
    interpreters = definition["internalParameters"]["interpreters"]
    assert set(interpreters["layer-slim.zip"]) == {
        f"cpython-{version.replace('.', '')}" for version in release.versions
    }
    assert interpreters[BUNDLED]["deflated"] == definition["internalParameters"]["zlib"]
    assert found["predicate"]["runDetails"]["builder"]["id"].endswith("#build.sh")


@pytest.mark.long
def test_the_provenance_names_workflow_and_repository_without_a_password(second: Path) -> None:
    predicate = json.loads((second / "provenance.json").read_bytes())["predicate"]
    assert predicate["runDetails"]["builder"] == {"id": f"https://github.com/{WORKFLOW}"}
    source = predicate["buildDefinition"]["resolvedDependencies"][0]
    assert source["uri"] == "git+https://example.com/name.git"


# Building a zip again


@pytest.fixture
def published(release: Release, tmp_path: Path) -> Path:
    """A folder with what somebody has downloaded: the zips and the provenance."""
    for name in (*ZIPS, "provenance.json"):
        shutil.copy(release.dist / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "name", [name if name == BUNDLED else pytest.param(name, marks=pytest.mark.long) for name in ZIPS]
)
def test_a_released_zip_is_equal_to_the_one_that_is_built_again(release: Release, published: Path, name: str) -> None:
    done = release.run("verify-build", published / name)
    assert (done.returncode, done.stderr) == (0, "")
    commit = release.git("rev-parse", "HEAD")
    assert done.stdout.splitlines() == [
        f"{name} of {NAME} {RELEASED}, commit {commit}",
        f"equal: both have the sha256 {sha256(published / name)}",
    ]


def changed(path: Path, **edits: bytes | None) -> None:
    """Write the zip at `path` again with other files; None removes one."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in entries:
            if edits.get(info.filename, data) is not None:
                archive.writestr(info, edits.pop(info.filename, data) or b"")
        for name, added in edits.items():
            if added is not None:
                archive.writestr(zipfile.ZipInfo(name), added)


def report(release: Release, path: Path) -> str:
    """The report about a zip that differs."""
    done = release.run("verify-build", path)
    assert (done.returncode, done.stderr) == (1, "")
    return done.stdout


def test_a_changed_line_is_shown_as_a_difference(release: Release, published: Path) -> None:
    path = published / "function.zip"
    source = contents(path)["lambda_function.py"]
    changed(path, **{"lambda_function.py": source + b"import evil\n"})
    text = report(release, path)
    assert "function.zip is not the released zip: its sha256 is " in text
    assert "different  lambda_function.py\n" in text and "  -import evil\n" in text


def listed(path: Path, digest: str) -> None:
    """Write the provenance beside a zip again, with another hash of that zip."""
    statement = path.with_name("provenance.json")
    value = json.loads(statement.read_bytes())
    [subject] = (each for each in value["subject"] if each["name"] == path.name)
    subject["digest"]["sha256"] = digest
    statement.write_text(json.dumps(value))


def test_a_changed_zip_is_different_although_the_provenance_lists_it(release: Release, published: Path) -> None:
    path = published / "function.zip"
    changed(path, **{"lambda_function.py": b"import evil\n"})
    listed(path, sha256(path))
    text = report(release, path)
    assert "is not the released zip" not in text and "different  lambda_function.py\n" in text


def test_an_equal_zip_that_the_provenance_does_not_list_is_an_error(release: Release, published: Path) -> None:
    path = published / "function.zip"
    listed(path, "0" * 64)
    assert f"the provenance lists {'0' * 64}\nequal: both have the sha256 " in report(release, path)


def recompressed(path: Path) -> None:
    """Write a zip again as another zlib would: the same files and attributes, other compressed bytes."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in entries:
            archive.writestr(info, data, compresslevel=1)
    listed(path, sha256(path))


@pytest.mark.long
def test_bytes_that_another_zlib_has_compressed_are_equal_files(release: Release, published: Path) -> None:
    recompressed(published / BUNDLED)
    statement = published / "provenance.json"
    value = json.loads(statement.read_bytes())
    value["predicate"]["buildDefinition"]["internalParameters"]["zlib"] = "zlib-ng, as zlib 1.3.1"
    statement.write_text(json.dumps(value))
    done = release.run("verify-build", published / BUNDLED)
    assert done.returncode == 0
    assert "equal files: zlib-ng, as zlib 1.3.1 compressed them to other bytes than zlib" in done.stdout


@pytest.mark.long
def test_other_compressed_bytes_of_the_same_zlib_are_a_difference(release: Release, published: Path) -> None:
    recompressed(published / BUNDLED)
    text = report(release, published / BUNDLED)
    assert "the files and their headers are equal, but other bytes of the zips are not" in text


def test_nothing_in_a_zip_controls_the_terminal(release: Release, published: Path) -> None:
    path = published / "function.zip"
    changed(path, **{"\x1b[2J.py": b"", "lambda_function.py": b"\x1b]0;title\x07\n\xe2\x80\xae\n"})
    text = report(release, path)
    assert r"additional \x1b[2J.py" in text and r"-\x1b]0;title\x07" in text and r"-\u202e" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_another_order_is_described(release: Release, published: Path) -> None:
    path = published / "layer-slim.zip"
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in reversed(entries):
            archive.writestr(info, data)
    text = report(release, path)
    first, last = entries[0][0].filename, entries[-1][0].filename
    assert f"the files are equal, but the zips are not:\n  order: {last} is in the place of {first}\n" in text


def in_memory(entries: dict[str, bytes], *when: int) -> bytes:
    """A zip with `entries` of the time `when`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in entries.items():
            info = zipfile.ZipInfo(path, (*(when or (1980, 1, 1)), 0, 0, 0))
            info.external_attr = 0o100644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def compared(given: bytes, rebuilt: bytes) -> tuple[list[str], list[str]]:
    """The differences between the files of two zips, and those between their headers."""
    one, other = comparison.parse("a.zip", given), comparison.parse("b.zip", rebuilt)
    different = comparison.differences(one, other)
    return different, [] if different else comparison.other_differences(one, other)


def test_missing_additional_and_binary_files_are_listed() -> None:
    given = in_memory({"added.py": b"pass\n", "program": b"\xff\0\1", "same.py": b""})
    rebuilt = in_memory({"gone.py": b"", "program": b"\xff\0\2", "same.py": b""})
    lines, _ = compared(given, rebuilt)
    assert [line for line in lines if not line.startswith(("  zip", "  rebuilt"))] == [
        f"additional added.py  (0644  5 bytes  sha256 {hashlib.sha256(b'pass' + bytes([10])).hexdigest()[:16]})",
        f"missing    gone.py  (rebuilt: 0644  0 bytes  sha256 {hashlib.sha256(b'').hexdigest()[:16]})",
        "different  program",
        "  the first different byte is at position 2",
    ]


def test_an_appended_byte_is_found_behind_the_common_part() -> None:
    lines, _ = compared(in_memory({"program": b"\xff\0\1"}), in_memory({"program": b"\xff\0"}))
    assert lines[-1] == "  the first different byte is at position 2"


def test_long_differences_are_shortened() -> None:
    given = in_memory({f"{number:03}.py": b"a\n" * 100 for number in range(50)})
    lines, _ = compared(given, in_memory({f"{number:03}.py": b"b\n" * 100 for number in range(50)}))
    assert lines[-1] == "and 30 more files"
    assert len(lines) < 600


@pytest.mark.parametrize(("given", "rebuilt"), [(b"a\r\nb\r\n", b"a\nb\n"), (b"a\nb", b"a\nb\n")])
def test_a_difference_of_the_line_ends_alone_has_a_position(given: bytes, rebuilt: bytes) -> None:
    lines, _ = compared(in_memory({"a.py": given}), in_memory({"a.py": rebuilt}))
    position = next(place for place in range(4) if given[: place + 1] != rebuilt[: place + 1])
    assert lines[3:] == [f"  the first different byte is at position {position}"]


SAME = {"a.py": b"", "b.py": b""}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (in_memory({"b.py": b"", "a.py": b""}), "order: b.py is in the place of a.py"),
        (in_memory(SAME, 2026, 11, 28), "time of a.py: 2026-11-28 00:00:00, rebuilt: 1980-01-01 00:00:00"),
        (b"#!/bin/sh\n" + in_memory(SAME), "bytes that belong to no file: 200, rebuilt: 190"),
        (in_memory(SAME)[:-2] + b"\1\0!", "bytes that belong to no file: 191, rebuilt: 190"),
    ],
    ids=["order", "time", "bytes before", "comment"],
)
def test_what_is_not_a_file_is_a_difference_of_the_zips(given: bytes, line: str) -> None:
    lines, others = compared(given, in_memory(SAME))
    assert lines == [] and line in others


@pytest.mark.parametrize(
    ("field", "value"), [("compress_type", zipfile.ZIP_DEFLATED), ("extra", b"\1\2\0\0"), ("comment", b"x")]
)
def test_every_field_of_a_header_is_compared(field: str, value: object) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("a.py")
        info.external_attr = 0o100644 << 16
        setattr(info, field, value)
        archive.writestr(info, b"")
    _, others = compared(buffer.getvalue(), in_memory({"a.py": b""}))
    assert any(" of a.py: " in line for line in others)


def test_a_path_that_a_zip_contains_twice_is_an_error() -> None:
    twice = in_memory({"a.py": b"1", "b.py": b"2"}).replace(b"b.py", b"a.py")
    with pytest.raises(ToolError, match=r"a\.zip contains a\.py twice"):
        comparison.parse("a.zip", twice)


def with_interpreters(path: Path, value: Any) -> None:
    """Write the provenance again with another value for the interpreters."""
    text = json.loads(path.read_bytes())
    text["predicate"]["buildDefinition"]["internalParameters"]["interpreters"] = value
    path.write_text(json.dumps(text))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda path: path.unlink(), "; put the provenance.json of the release there, or use --provenance"),
        (lambda path: path.write_text("[]"), " is not the provenance of a release "),
        (lambda path: path.write_text("{"), " is not the provenance of a release "),
        (lambda path: with_interpreters(path, []), " is not the provenance of a release "),
        (lambda path: with_interpreters(path, {"layer-slim.zip": ["cpython-313"]}), " is not the provenance of a rel"),
        (lambda path: with_interpreters(path, {"layer-slim.zip": {"cpython-313": 1}}), " is not the provenance of a r"),
        (
            lambda path: path.write_text(path.read_text().replace("layer-slim.zip", "x.zip")),
            " does not list layer-slim",
        ),
    ],
)
def test_a_zip_without_its_provenance_is_an_error(release: Release, published: Path, edit: Any, message: str) -> None:
    edit(published / "provenance.json")
    done = release.run("verify-build", published / "layer-slim.zip")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_commit_that_the_clone_does_not_have_is_an_error(release: Release, published: Path) -> None:
    path = published / "provenance.json"
    commit = release.git("rev-parse", "HEAD")
    path.write_text(path.read_text().replace(commit, "0" * 40))
    done = release.run("verify-build", published / "layer-slim.zip")
    assert done.returncode == 1
    assert f"this repository has no commit {'0' * 40}: fetch it with git" in done.stderr


def test_a_checkout_without_git_cannot_build_again(ready: Release, published: Path) -> None:
    (ready.root / ".git").rename(ready.root.parent / "git")
    try:
        done = ready.run("verify-build", published / "function.zip")
    finally:
        (ready.root.parent / "git").rename(ready.root / ".git")
    assert done.returncode == 1
    assert "not a git repository" in done.stderr and "has no commit" not in done.stderr


@pytest.mark.long
def test_another_interpreter_than_the_one_of_the_release_is_named(release: Release, published: Path) -> None:
    path = published / "provenance.json"
    value = json.loads(path.read_bytes())
    [tag, *_] = value["predicate"]["buildDefinition"]["internalParameters"]["interpreters"]["layer-slim.zip"]
    value["predicate"]["buildDefinition"]["internalParameters"]["interpreters"]["layer-slim.zip"][tag] = "3.0.0 (old)"
    path.write_text(json.dumps(value))
    done = release.run("verify-build", published / "layer-slim.zip")
    assert done.returncode == 0
    assert f"{tag} was  3.0.0 (old)\n{tag} here 3." in done.stdout


def test_the_provenance_cannot_make_git_run_an_option(release: Release, published: Path) -> None:
    path = published / "provenance.json"
    path.write_text(path.read_text().replace(release.git("rev-parse", "HEAD"), "--output=/tmp/x"))
    done = release.run("verify-build", published / "layer-slim.zip")
    assert done.returncode == 1 and "is not the provenance of a release" in done.stderr


def test_sigterm_removes_the_temporary_folders(release: Release, published: Path, tmp_path: Path) -> None:
    """It arrives while the build of the commit waits for a Python that compiles."""
    started, released, temporary = tmp_path / "started", tmp_path / "released", tmp_path / "tmp"
    os.mkfifo(started)
    os.mkfifo(released)
    temporary.mkdir()
    version = release.versions[0]
    real = shutil.which(f"python{version}", path=release.environment["PATH"])
    python = tmp_path / "bin" / f"python{version}"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *compile_tree.py*) echo >{started}; read -r _ <{released} ;; esac\nexec {real} "$@"\n'
    )
    python.chmod(0o755)
    path = f"{python.parent}:{release.environment['PATH']}"
    process = subprocess.Popen(
        [release.root / "build.sh", "verify-build", published / "layer-slim.zip"],
        env=release.checkout_environment | {"PATH": path, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        started.read_text()
        process.terminate()
        released.write_text("\n")
        assert process.communicate() == (b"", b"")
    assert process.returncode == 143
    assert list(temporary.iterdir()) == []
