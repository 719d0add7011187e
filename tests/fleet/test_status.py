"""`status`, `report --fail-on` and `--summary`: what a CI system reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cloud import HANDLER, OURS, Cloud
from support.lambda_standin import Call

ROLL_OUT = ("rollout", "--all-using", "--to", "2", "--yes", "--journal", "journal")


@pytest.fixture
def fleet(cloud: Cloud) -> Cloud:
    cloud.layer(count=2)
    for name in ("a", "b", "c"):
        cloud.function(name, [f"{OURS}:1"])
    return cloud


def interrupt(cloud: Cloud) -> None:
    """Let the credentials expire after the first update."""

    def expire(call: Call) -> None:
        cloud.standin.faults.expired = bool(cloud.standin.changes()) and call.operation != "UpdateFunctionConfiguration"

    cloud.standin.faults.on = expire
    cloud.run(*ROLL_OUT)
    cloud.standin.faults = type(cloud.standin.faults)()


def test_the_status_of_an_interrupted_roll_out_names_the_next_command(fleet: Cloud) -> None:
    interrupt(fleet)
    fleet.standin.calls.clear()
    stdout = fleet.done("status", "journal")
    assert "journal: rollout in eu-central-1, account 123456789012, unfinished\n" in stdout
    assert "target: python-streaming-runtime:2\n" in stdout
    assert stdout.endswith(
        "next: ./build.sh rollout --resume journal --forward\nnext: ./build.sh rollout --resume journal --back\n"
    )
    document = fleet.json("status", "journal")
    assert (document["command"], document["outcome"], len(document["next"])) == ("status", "unfinished", 2)
    assert not fleet.standin.calls


def test_the_status_of_a_complete_roll_out_and_of_a_rollback(fleet: Cloud) -> None:
    fleet.done(*ROLL_OUT)
    stdout = fleet.done("status", "journal")
    assert stdout.endswith("3 functions: 3 changed\nnext: ./build.sh rollback journal\n")
    fleet.done("rollback", "journal", "--yes")
    assert fleet.done("status", "journal").endswith("3 functions: 3 rolled back\n")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["none"], 1, "cannot read the journal none: No such file or directory"),
        (["layer-manifest.json"], 1, "layer-manifest.json: line 2 is not an event of a journal"),
        ([], 2, "the following arguments are required: JOURNAL"),
    ],
)
def test_a_journal_that_cannot_be_read_is_one_line(fleet: Cloud, words: list[str], status: int, message: str) -> None:
    assert fleet.refusal("status", *words, status=status).startswith(message)


# --- report


def test_a_report_fails_on_problems_in_use(fleet: Cloud) -> None:
    client = fleet.client()
    client.publish_version(FunctionName="a")
    for name in ("a", "b", "c"):
        client.update_function_configuration(FunctionName=name, Layers=[f"{OURS}:2"])
    assert fleet.run("report", "--fail-on", "behind").returncode == 0  # version 1 of a has no alias
    client.create_alias(FunctionName="a", Name="live", FunctionVersion="1")
    result = fleet.run("report", "--fail-on", "behind", "deleted")
    assert (result.returncode, "--fail-on behind: 1 row\n" in result.stderr) == (1, True)
    assert fleet.run("report", "--fail-on", "unshared").returncode == 0
    client.delete_layer_version(LayerName=OURS.split(":")[-1], VersionNumber=1)
    assert fleet.run("report", "--fail-on", "deleted").returncode == 1
    assert fleet.run("report").returncode == 0
    message = fleet.refusal("report", "--fail-on", "old", status=2)
    assert message.startswith("argument --fail-on: invalid choice: 'old'")


def test_summaries_are_appended_in_markdown(fleet: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    fleet.done(*ROLL_OUT, "--summary", path)
    fleet.done("status", "journal", "--summary", path)
    fleet.done("report", "--summary", path)
    text = path.read_text()
    assert text.count("### Roll-out: done\n\n| function | outcome | reason |\n| --- | --- | --- |\n| a | done |") == 2
    assert "### Layer versions\n\n| region | function |" in text
    assert text.endswith("\n3 functions with the layer; 0 of 3 rows have problems\n\n")


def test_a_summary_that_cannot_be_written_is_one_line(fleet: Cloud, tmp_path: Path) -> None:
    result = fleet.run("report", "--summary", tmp_path / "none" / "summary.md")
    assert result.returncode == 1
    assert result.stderr.endswith("summary.md cannot be written: No such file or directory\n")


def test_versions_with_the_same_bytes_are_reported(cloud: Cloud) -> None:
    client = cloud.client()
    for number in (1, 2):
        client.publish_layer_version(LayerName=OURS.split(":")[-1], Content={"ZipFile": HANDLER})
        cloud.function(f"f-{number}", [f"{OURS}:{number}"])
    first, second = cloud.json("report")["functions"]
    assert "same bytes" not in first["problems"] and "same bytes" in second["problems"]
    assert "same bytes (as version 1)" in cloud.done("report")
