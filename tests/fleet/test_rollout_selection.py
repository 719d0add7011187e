"""Which functions a roll-out selects, and unusual functions among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.cloud import OURS, Cloud

ALL = ("rollout", "--all-using", "--to", "3", "--yes")


@pytest.fixture
def several(cloud: Cloud) -> Cloud:
    """Four functions, one with another version."""
    cloud.layer(count=3)
    for name in ("api", "batch", "test-a"):
        cloud.function(name, [f"{OURS}:1"], Tags={"team": name[:1]})
    cloud.function("later", [f"{OURS}:2"])
    return cloud


def changed(cloud: Cloud) -> list[str]:
    return [name for name, layers in cloud.fleet().items() if layers == [f"{OURS}:3"]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--all-using", "--exclude", "api", "test-*"], ["batch", "later"]),
        (
            ["--all-using", "--exclude", "arn:aws:lambda:eu-central-1:123456789012:function:api"],
            ["batch", "later", "test-a"],
        ),
        (["--from", "2"], ["later"]),
        (["--from", f"{OURS}:1", "--match", "^[a-b]"], ["api", "batch"]),
        (["--all-using", "--from", "1", "--exclude", "batch"], ["api", "test-a"]),
        (["--match", "a", "--tag", "team=b"], ["batch"]),
    ],
)
def test_conditions_are_combined(several: Cloud, words: list[str], expected: list[str]) -> None:
    several.done("rollout", *words, "--to", "3", "--yes")
    assert changed(several) == expected


def test_names_come_from_a_file(several: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfapi  # of the shop\r\n\r\n# batch\r\ntest-a\r\n")
    several.done("rollout", f"@{path}", "later", "--to", "3", "--yes")
    assert changed(several) == ["api", "later", "test-a"]
    several.done("rollout", "--match", "a|b", "--exclude", f"@{path}", "--to", "3", "--yes")
    assert changed(several) == ["api", "batch", "later", "test-a"]


def test_an_exclusion_without_effect_is_noted(several: Cloud) -> None:
    result = several.run(*ALL, "--exclude", "bacth", "api")
    assert "--exclude bacth matches none of the functions that are selected otherwise" in result.stderr
    assert "--exclude api" not in result.stderr


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["api", "--exclude", "a*"], 2, "api is named and excluded: omit one of the two"),
        (["--all-using", "--exclude", "a b"], 2, "'a b' is neither the name nor the ARN of a function"),
        (["--all-using", "--exclude", ""], 2, "'' is neither the name nor the ARN of a function"),
        (["--all-using", "--exclude", "*"], 1, "no function with the layer in eu-central-1 is selected"),
        (["--from", "9"], 1, "no function with python-streaming-runtime:9 in eu-central-1 is selected"),
        (["--from", ""], 2, "--from is empty"),
        (["--from", "x"], 2, "python-streaming-runtime has no version 'x' in eu-central-1"),
        (["--all-using", "--tag", "a=b"], 2, "--all-using selects every function with the layer"),
        (["@none.txt"], 2, "argument FUNCTION: cannot read 'none.txt': No such file or directory"),
        (["@empty.txt"], 2, "argument FUNCTION: empty.txt contains no names"),
        (["@binary.txt"], 2, "argument FUNCTION: binary.txt is not a text file in UTF-8"),
    ],
)
def test_wrong_and_contradictory_selections_are_refused(
    several: Cloud, words: list[str], status: int, message: str
) -> None:
    (several.checkout.root / "empty.txt").write_text("# none\n")
    (several.checkout.root / "binary.txt").write_bytes(b"\xff\xfe")
    assert several.refusal("rollout", *words, "--to", "3", "--yes", status=status).startswith(message)


UNUSUAL: list[tuple[str, dict[str, Any], str]] = [
    ("inactive", {"states": {"batch": "Inactive"}}, "it is inactive"),
    ("pending", {"states": {"batch": "Pending"}}, "it is being created"),
    ("failed", {"states": {"batch": "Failed"}}, "the function failed"),
    ("signing", {"signing": {"batch"}}, "its code signing configuration accepts signed layers alone"),
]


@pytest.mark.parametrize(("kind", "faults", "reason"), UNUSUAL, ids=[each[0] for each in UNUSUAL])
def test_an_unusual_function_stops_no_other(several: Cloud, kind: str, faults: dict[str, Any], reason: str) -> None:
    for name, value in faults.items():
        setattr(several.standin.faults, name, value)
    stdout = several.done(*ALL)
    assert changed(several) == ["api", "later", "test-a"]
    assert f"skipped: batch, {reason}" in stdout
    assert "4 functions: 3 changed, 1 skipped" in stdout


@pytest.mark.parametrize(
    "denied", [("ListCodeSigningConfigs",), ("ListCodeSigningConfigs", "GetFunctionCodeSigningConfig")]
)
def test_code_signing_needs_no_permission(several: Cloud, denied: tuple[str, ...]) -> None:
    """Without the list, each function is read; without that too, the update is rejected, and stops no other."""
    several.standin.faults.signing = {"batch"}
    several.standin.faults.on = lambda call: 403 if call.operation in denied else None
    stdout = several.done(*ALL)
    assert changed(several) == ["api", "later", "test-a"]
    assert "4 functions: 3 changed, 1 skipped" in stdout
    is_unknown = len(denied) == 2
    assert ("batch" in {call.name for call in several.standin.changes()}) == is_unknown
    assert several.standin.counted()["GetCodeSigningConfig"] == (0 if is_unknown else 1)
