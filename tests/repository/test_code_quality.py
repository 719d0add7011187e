"""Linters and type checker over everything, with the settings of `pyproject.toml`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import ROOT


def assert_silent(*command: str | Path) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("script", ["build.sh", "layer/bootstrap", ".ci/run"])
def test_shellcheck_finds_nothing(script: str) -> None:
    assert_silent(Path(sys.executable).with_name("shellcheck"), script)


# What GNU has and macOS does not: options of its BSD programs, and syntax that its shell, bash 3.2, cannot parse.
GNU_ONLY = {
    "sed": r"\bsed (-\w*[irz]|--)",
    "stat": r"\bstat -c|\bstat --",
    "mktemp": r"\bmktemp( -[dq]+)?( -p| --|$| \))",
    "readlink": r"\breadlink -[em]",
    "date": r"\bdate (-d|--|-I)",
    "grep": r"\bgrep -\w*P",
    "xargs": r"\bxargs -\w*[rd]",
    "timeout": r"^\s*timeout |\| timeout ",
    "case in a substitution": r"\$\([^()]*\bcase\b",
    "expansion": r"\$\{\w+(,,|\^\^|@)",
}


@pytest.mark.parametrize("script", ["build.sh", "layer/bootstrap"])
@pytest.mark.parametrize("pattern", GNU_ONLY.values(), ids=list(GNU_ONLY))
def test_scripts_need_no_gnu_programs_and_no_new_bash(script: str, pattern: str) -> None:
    lines = (ROOT / script).read_text().splitlines()
    assert [line for line in lines if re.search(pattern, line.partition(" # ")[0]) and not line.startswith("#")] == []


def test_ruff_finds_nothing() -> None:
    assert_silent(sys.executable, "-m", "ruff", "check")


def test_the_code_is_formatted() -> None:
    assert_silent(sys.executable, "-m", "ruff", "format", "--check")


def test_the_types_are_right() -> None:
    assert_silent(sys.executable, "-m", "mypy")


def test_no_file_has_the_address_of_a_package_index() -> None:
    hosts = "|".join(("py" + "pi.org", "python" + "hosted", "registry." + "npmjs", "deb." + "debian"))
    found = subprocess.run(["git", "grep", "-lE", hosts], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == ""
