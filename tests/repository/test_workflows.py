"""The workflows of GitHub Actions: their syntax, and their shell steps, which run here with stand-in commands on PATH.

The steps that use an action of others run only on GitHub; docs/testing.md lists them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import documents
from support.checkout import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yml"))}
MANIFEST = json.loads((ROOT / "layer-manifest.json").read_bytes())
PYTHONS = [name.removeprefix("python") for name in MANIFEST["compatibleRuntimes"]]

# Writes its arguments to the file CALLS, and does what the file of its name in the folder DOES contains.
STAND_IN = """#!/bin/sh
echo "${0##*/} $*" >>"$CALLS"
if [ -f "$DOES/${0##*/}" ]; then . "$DOES/${0##*/}"; fi
"""


def jobs() -> dict[tuple[str, str], dict[str, Any]]:
    return {(name, job): each for name, workflow in WORKFLOWS.items() for job, each in workflow["jobs"].items()}


SHELL_STEPS = {
    (workflow, job, step["name"]): step
    for (workflow, job), each in jobs().items()
    for step in each["steps"]
    if "run" in step
}


PUBLISHED = ("release", "record", "Commit what is published")
PINS = ("pin", "pull-request", "Open a pull request")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@dataclass
class Runner:
    """A machine of GitHub Actions: a checkout with a remote, and stand-ins of `build.sh`, `gh` and `python3`."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checkout, self.bin, self.does = (self.folder / name for name in ("checkout", "bin", "does"))
        for path in (self.checkout / "docs", self.bin, self.does):
            path.mkdir(parents=True)
        for program in (self.bin / "gh", self.bin / "python3", self.checkout / "build.sh"):
            program.write_text(STAND_IN)
            program.chmod(0o755)
        self.write("layer-manifest.json", "{}\n")
        self.write("docs/layers.md", "none\n")
        git(self.folder, "init", "--quiet", "--bare", "origin")
        git(self.checkout, "init", "--quiet", "--initial-branch=main")
        git(self.checkout, "remote", "add", "origin", str(self.folder / "origin"))
        git(self.checkout, "add", "--all")
        git(self.checkout, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "--message=first")

    def write(self, name: str, text: str) -> None:
        path = self.checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def do(self, program: str, script: str) -> None:
        """Set what a stand-in does."""
        (self.does / program).write_text(script)

    def run(self, workflow: str, job: str, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a shell step as the runner does, with `bash -e`. `variables` takes the place of its `env`."""
        environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "CALLS": str(self.folder / "calls"),
            "DOES": str(self.does),
            "TAG": "v1.2.3",
            **variables,
        }
        command = ["bash", "-e", "-c", SHELL_STEPS[workflow, job, name]["run"]]
        return subprocess.run(command, cwd=self.checkout, env=environment, capture_output=True, text=True)

    def done(self, *names: str, **variables: str) -> str:
        result = self.run(names[0], names[1], names[2], **variables)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return lines


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


# The files


def test_the_workflows_have_no_finding() -> None:
    program = shutil.which("actionlint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("actionlint is not installed, see tests/requirements.txt")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # with the shellcheck of the tests
    done = subprocess.run([program, *FOLDER.glob("*.yml")], capture_output=True, text=True, env={"PATH": path})
    assert (done.returncode, done.stdout) == (0, "")


def test_a_job_has_no_permission_that_it_does_not_need() -> None:
    writing = {
        name: {scope for scope, access in each["permissions"].items() if access == "write"}
        for name, each in jobs().items()
        if "permissions" in each
    }
    assert writing == {
        ("pin", "pull-request"): {"contents", "pull-requests"},
        ("release", "attest"): {"contents", "id-token", "attestations"},
        ("release", "publish"): {"id-token"},
        ("release", "record"): {"contents", "pull-requests"},
    }
    assert all(workflow["permissions"] == {"contents": "read"} for workflow in WORKFLOWS.values())


def test_releases_wait_for_each_other_only_to_publish() -> None:
    workflow = WORKFLOWS["release"]
    assert workflow["concurrency"] == {"group": "release-${{ github.ref }}", "cancel-in-progress": False}
    waiting = {name: each["concurrency"] for name, each in workflow["jobs"].items() if "concurrency" in each}
    assert waiting == {"publish": {"group": "publish", "cancel-in-progress": False}}


def test_the_jobs_that_push_run_no_program_of_the_checkout() -> None:
    pushing = {name: str(each["steps"]) for name, each in jobs().items() if "git push" in str(each)}
    assert set(pushing) == {("pin", "pull-request"), ("release", "record")}
    assert [
        name for name, steps in pushing.items() if "build.sh" in steps.replace("Written by ./build.sh pin.", "")
    ] == []


@pytest.mark.parametrize(
    ("sender", "receiver"), [(("pin", "update"), PINS[:2]), (("release", "publish"), PUBLISHED[:2])]
)
def test_the_files_that_are_committed_come_from_the_job_before(
    sender: tuple[str, str], receiver: tuple[str, str]
) -> None:
    def artifact(job: tuple[str, str], action: str) -> Any:
        [found] = (step for step in jobs()[job]["steps"] if step.get("uses", "").startswith(f"actions/{action}@"))
        return found["with"]

    [commit] = (step["run"] for step in jobs()[receiver]["steps"] if "run" in step)
    sent = artifact(sender, "upload-artifact")
    assert artifact(receiver, "download-artifact") == {"name": sent["name"]}  # at the paths that they had
    assert f" -- {' '.join(sent['path'].split())}\n" in commit
    assert jobs()[receiver]["needs"] == sender[1]


def test_what_is_published_is_recorded_also_after_a_failure() -> None:
    jobs_of_release = WORKFLOWS["release"]["jobs"]
    assert jobs_of_release["record"]["if"] == "${{ !cancelled() && needs.publish.result != 'skipped' }}"
    assert jobs_of_release["publish"]["steps"][-1]["if"] == "${{ !cancelled() }}"


def test_only_the_jobs_that_push_keep_the_token_in_the_checkout() -> None:
    kept = [
        name
        for name, each in jobs().items()
        for step in each["steps"]
        if step.get("uses", "").startswith("actions/checkout@")
        if step.get("with", {}).get("persist-credentials", True)
    ]
    assert kept == [name for name, each in jobs().items() if "git push" in str(each)]


def test_the_documented_trust_policy_accepts_the_environment_of_the_publishing_job() -> None:
    [policy] = (json.loads(block.text) for block in documents.blocks("json", ["docs/releasing.md"]))
    [statement] = policy["Statement"]
    subject = statement["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
    assert subject == f"repo:OWNER/REPOSITORY:environment:{WORKFLOWS['release']['jobs']['publish']['environment']}"
    assert WORKFLOWS["release"][True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as True


def test_no_expression_is_inside_a_shell_script() -> None:
    assert [name for name, step in SHELL_STEPS.items() if "${{" in step["run"]] == []


def test_every_job_has_a_time_limit() -> None:
    assert [name for name, each in jobs().items() if "timeout-minutes" not in each] == []


def test_the_documentation_lists_every_job_and_every_action() -> None:
    page = documents.source("docs/testing.md")
    actions = {step["uses"].partition("@")[0] for each in jobs().values() for step in each["steps"] if "uses" in step}
    names = {f"`{workflow}.yml`" for workflow in WORKFLOWS} | {f"`{name}`" for name in actions}
    assert [name for name in sorted(names) if name not in page] == []


def test_every_action_is_pinned_to_a_commit_with_its_version() -> None:
    """A tag can be moved to other code; the hash of a commit cannot."""
    lines = [line.strip() for file in FOLDER.glob("*.yml") for line in file.read_text().splitlines() if "uses:" in line]
    assert lines
    pattern = re.compile(r"(- )?uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in lines if not pattern.fullmatch(line)] == []
    assert len({line.removeprefix("- ") for line in lines}) == len({line.partition("@")[0] for line in lines})


# ci.yml


def test_the_tests_run_on_every_supported_python_and_on_both_architectures() -> None:
    matrix = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert [machine.endswith("-arm") for machine in matrix["machine"]] == [False, True]


@pytest.mark.parametrize(
    ("workflow", "job", "command"),
    [
        ("ci", "test", "build.sh test"),
        ("ci", "long", "build.sh test --long"),
        ("ci", "macos", "build.sh test"),
        ("release", "test", "build.sh test --long"),
    ],
)
def test_a_job_runs_the_tests_with_the_command_of_developers(
    runner: Runner, workflow: str, job: str, command: str
) -> None:
    runner.done(workflow, job, "Test")
    assert runner.calls() == [command]


def test_a_mac_runs_the_sample_function_and_builds(runner: Runner) -> None:
    runner.do("python3", "echo response")
    runner.done("ci", "macos", "Run the sample function")
    runner.done("ci", "macos", "Build")
    assert runner.calls() == ['python3 main.py --event {"name": "macOS"}', "build.sh "]
    runner.do("python3", "")
    assert runner.run("ci", "macos", "Run the sample function").returncode == 1


@pytest.mark.parametrize("name", [name for name, each in jobs().items() if "release" in str(each) or name[1] == "long"])
def test_python3_is_not_the_newest_where_several_are_installed(name: tuple[str, str]) -> None:
    steps = [step for step in jobs()[name]["steps"] if step.get("uses", "").startswith("actions/setup-python@")]
    for step in steps:
        versions = step["with"]["python-version"].split()
        assert sorted(versions) in (["3.13"], PYTHONS)
        assert versions[-1] == "3.13"


# release.yml


def test_the_build_makes_the_release_of_the_tag(runner: Runner) -> None:
    runner.done("release", "build", "Build")
    assert runner.calls() == ["build.sh release 1.2.3"]


COMPARE = ("release", "attest", "Compare the two builds")


def two_builds(runner: Runner) -> None:
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of `foo`
    for folder in ("dist", "second"):
        runner.write(f"{folder}/layer-slim.zip", "foo")
        runner.write(f"{folder}/SHA256SUMS", f"{digest}  layer-slim.zip\n")


def test_two_equal_builds_are_released(runner: Runner) -> None:
    two_builds(runner)
    assert "layer-slim.zip: OK" in runner.done(*COMPARE)


@pytest.mark.parametrize("change", ["another byte", "another file", "a missing file", "a wrong hash"])
def test_builds_that_differ_are_not_released(runner: Runner, change: str) -> None:
    two_builds(runner)
    match change:
        case "another byte":
            runner.write("second/layer-slim.zip", "fop")
        case "another file":
            runner.write("dist/extra", "")
        case "a missing file":
            (runner.checkout / "second/layer-slim.zip").unlink()
        case "a wrong hash":
            for folder in ("dist", "second"):
                runner.write(f"{folder}/layer-slim.zip", "bar")
    assert runner.run(*COMPARE).returncode == 1


@pytest.mark.parametrize(("tag", "is_final"), [("v1.2.3", True), ("v1.2.3+b-1", True), ("v1.2.3-rc.1", False)])
def test_a_version_that_is_not_final_is_a_prerelease(runner: Runner, tag: str, is_final: bool) -> None:
    two_builds(runner)
    runner.do("gh", 'if [ "$2" = view ]; then exit 1; fi')
    runner.done("release", "attest", "Upload", TAG=tag)
    assert ("--prerelease" in runner.calls()[1]) != is_final


@pytest.mark.parametrize("exists", [False, True])
def test_a_release_is_created_once_and_then_completed(runner: Runner, exists: bool) -> None:
    two_builds(runner)
    runner.do("gh", f'if [ "$2" = view ]; then exit {0 if exists else 1}; fi')
    runner.done("release", "attest", "Upload")
    files = "dist/SHA256SUMS dist/layer-slim.zip"
    create = f"--verify-tag --title v1.2.3 --notes-file dist/RELEASE_NOTES.md {files}"
    expected = f"gh release upload v1.2.3 --clobber {files}" if exists else f"gh release create v1.2.3 {create}"
    assert runner.calls() == ["gh release view v1.2.3", expected]


@pytest.mark.parametrize("configured", [False, True])
def test_every_variant_is_published_to_all_regions(runner: Runner, configured: bool) -> None:
    two_builds(runner)
    runner.write("dist/layer-python3.13-arm64.zip", "")
    values = {"BUCKET": "zips-{region}", "SSM_PREFIX": "layers/streaming", "SIGNING_PROFILE": "streaming"}
    step = SHELL_STEPS["release", "publish", "Publish"]
    assert step["env"] == {name: f"${{{{ vars.{name} }}}}" for name in values}
    runner.done("release", "publish", "Publish", **(values if configured else dict.fromkeys(values, "")))
    runner.done("release", "publish", "Verify")
    more = "--bucket zips-{region} --ssm layers/streaming --signing-profile streaming " if configured else ""
    publish = f"build.sh publish --all-regions --public {more}--variant python3.13-arm64 slim"
    assert runner.calls() == [publish, "build.sh verify"]


def test_nothing_is_committed_if_nothing_new_is_published(runner: Runner) -> None:
    assert "nothing new" in runner.done(*PUBLISHED)
    assert runner.calls() == []
    assert git(runner.folder / "origin", "branch").split() == []


@pytest.mark.parametrize(
    ("step", "branch", "changed"),
    [
        (PUBLISHED, "published-v1.2.3", ["docs/layers.md", "layer-manifest.json"]),
        (PINS, "pins", ["layer-manifest.json"]),
    ],
)
def test_a_change_becomes_one_open_pull_request_also_if_the_step_runs_again(
    runner: Runner, step: tuple[str, str, str], branch: str, changed: list[str]
) -> None:
    # As `gh`: it finds the pull request of a branch, also one that was merged or closed.
    state = runner.folder / "state"
    runner.do("gh", f'if [ "$2" = view ]; then cat {state}; else echo OPEN >{state}; fi')
    for number, text in enumerate(("first", "second", "third")):
        if number == 2:
            state.write_text("MERGED\n")
        git(runner.checkout, "checkout", "--quiet", "--force", "main")
        git(runner.checkout, "branch", "--list", branch) and git(runner.checkout, "branch", "-D", branch)
        for name in changed:
            runner.write(name, text)
        runner.write("dist/layer-slim.zip", "foo")  # is not committed
        runner.done(*step)
        assert git(runner.folder / "origin", "show", f"{branch}:layer-manifest.json") == text
        assert state.read_text() == "OPEN\n"
    assert git(runner.folder / "origin", "diff", "--name-only", f"{branch}~1", branch).split() == changed
    calls = [call.split()[2] for call in runner.calls()]
    assert calls == ["view", "create", "view", "view", "create"]


# pin.yml


def test_new_pins_are_built_for_every_variant(runner: Runner) -> None:
    runner.done("pin", "update", "Update the pins")
    assert runner.calls() == ["build.sh pin"]
    runner.done("pin", "update", "Build with the new pins")
    runner.done(*PINS)
    assert runner.calls() == []  # nothing has changed
    runner.write("layer-manifest.json", "{ }\n")
    runner.done("pin", "update", "Build with the new pins")
    pins = MANIFEST["selfContained"]["interpreters"]
    expected = [f"build.sh layer --python {each['python']} --arch {each['architecture']}" for each in pins]
    assert sorted(runner.calls()) == sorted(expected)


@pytest.mark.parametrize(("days", "status"), [(0, 0), (44, 0), (46, 1), (None, 1)])
def test_pins_of_the_main_branch_that_are_too_old_fail_the_run(runner: Runner, days: int | None, status: int) -> None:
    def pins(*ages: int) -> None:
        dates = [
            subprocess.run(
                ["date", "-u", "-d", f"{age} days ago", "+%Y%m%d"], capture_output=True, text=True, check=True
            )
            for age in ages
        ]
        releases = [{"release": date.stdout.strip()} for date in dates]
        runner.write("layer-manifest.json", json.dumps({"interpreters": releases}, indent=2))

    if days is not None:
        pins(0, days, 0)
    done = runner.run("pin", "age", "Check the age of the pins")
    assert done.returncode == status
    assert ("::error::" in done.stdout) == bool(status)


def test_every_shell_step_runs_in_a_test() -> None:
    source = Path(__file__).read_text()
    assert [name for name in SHELL_STEPS if f'"{name[2]}"' not in source] == []
