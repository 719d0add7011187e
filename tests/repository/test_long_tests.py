"""The marker `long`: `./build.sh test` leaves these tests out, and prints how to run them."""

import subprocess
import sys

import pytest
from support.checkout import ROOT


def collect(*arguments: str) -> list[str]:
    """Return the output of pytest, which collects the tests of one file."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/runtime/test_soak.py", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result
    return result.stdout.splitlines()


@pytest.mark.long
@pytest.mark.parametrize("arguments", [[], ["-n", "1"]], ids=["one process", "workers"])
def test_a_long_test_is_left_out_and_counted(arguments: list[str]) -> None:
    output = collect(*arguments)
    assert not any("[20000]" in line for line in output)
    assert "1 long test was left out: run them with ./build.sh test --long" in output


@pytest.mark.long
def test_the_number_counts_only_what_the_arguments_have_chosen() -> None:
    output = collect("-k", "1500")
    assert not any("left out" in line for line in output)


@pytest.mark.long
def test_with_the_option_all_tests_run() -> None:
    output = collect("--long")
    assert any("[20000]" in line for line in output)
    assert not any("left out" in line for line in output)
