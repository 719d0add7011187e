"""Values that are empty, as those of a variable of a script that is not set, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cloud import OURS, Cloud

ROLL_OUT = ["rollout", "--all-using", "--to", "2", "--yes"]
EMPTY = [
    ([*ROLL_OUT, "--region", ""], "argument --region: it is empty"),
    ([*ROLL_OUT, "--journal", ""], "argument --journal: the name of the journal is empty"),
    ([*ROLL_OUT, "--probe", ""], "argument --probe: cannot read the event: it is empty"),
    (["rollout", "--resume", ""], "argument --resume: the name of the journal is empty"),
    (["rollback", "", "--yes"], "argument JOURNAL: the name of the journal is empty"),
    (["rollback", "journal", "--region", ""], "argument --region: it is empty"),
    (["status", ""], "argument JOURNAL: the name of the journal is empty"),
    (["report", "--region", ""], "argument --region: it is empty"),
    (["publish", "--region", ""], "argument --region: it is empty"),
    (["verify", "--region", " "], "argument --region: it is empty"),
    (["prune", "--keep", "1", "--journal", ""], "argument --journal: the name of the journal is empty"),
    (["doctor", "a", "--region", ""], "argument --region: it is empty"),
]


@pytest.fixture
def fleet(cloud: Cloud) -> Cloud:
    cloud.layer(count=2)
    cloud.function("a", [f"{OURS}:1"])
    return cloud


def test_an_empty_value_is_wrong_usage(fleet: Cloud, subtests: pytest.Subtests) -> None:
    for words, message in EMPTY:
        with subtests.test(words=words):
            assert fleet.refusal(*words, status=2).startswith(message)


def test_a_canary_of_no_function_is_wrong_usage(fleet: Cloud) -> None:
    """It would be a roll-out to all functions at once."""
    message = fleet.refusal(*ROLL_OUT, "--canary", "0", status=2)
    assert message.startswith("argument --canary: '0' is not a number of functions from 1")


def test_a_journal_that_does_not_exist_is_not_taken_for_an_empty_one(fleet: Cloud) -> None:
    message = fleet.refusal("rollout", "--resume", "missing")
    assert message == "cannot read the journal missing: No such file or directory"
    (fleet.checkout.root / "folder").mkdir()
    assert fleet.refusal("rollout", "--resume", "folder") == "cannot read the journal folder: Is a directory"
    (fleet.checkout.root / "empty").touch()
    assert fleet.refusal("rollout", "--resume", "empty").startswith("empty contains no roll-out, so none was begun")


def test_a_summary_that_cannot_be_written_is_found_before_the_first_change(fleet: Cloud, tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no" / "summary", "does not exist"), (tmp_path, "it is a folder")):
        message = fleet.refusal(*ROLL_OUT, "--summary", path)
        assert message.startswith(f"the summary {path} cannot be written: ") and message.endswith(reason)


def test_the_help_of_detach_does_not_offer_a_target(fleet: Cloud) -> None:
    assert "--to VERSION" not in fleet.done("detach", "--help")
    assert "--to VERSION" in fleet.done("rollout", "--help")
