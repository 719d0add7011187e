"""`./build.sh bench` as a user runs it. No test depends on a speed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from support.checkout import ENVIRONMENT, ROOT, Checkout

TIMEOUT = 300  # seconds


def bench(root: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.bench", *arguments],
        cwd=root,
        env=ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which the benchmark has never run."""
    root = Checkout.at(tmp_path / "checkout").root
    shutil.copytree(ROOT / "tools" / "bench", root / "tools" / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def measurements(output: Path) -> dict[str, Any]:
    document = json.loads((output / "bench.json").read_text())
    [interpreter] = document["interpreters"]
    return {each["name"]: each for each in interpreter["measurements"]}


def comparisons(measurement: dict[str, Any]) -> dict[str, Any]:
    return {each["with"]: each for each in measurement["comparisons"]}


@pytest.mark.long
def test_cold_starts_are_reported_as_table_json_chart_and_markdown(tmp_path: Path) -> None:
    result = bench(ROOT, "--quick", "--runs", "2", "--only", "coldstart", "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "cold start, -S: process start to first byte (ms)" in result.stdout
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["format"] == 2
    assert document["baseline"] is None
    assert document["machine"]["cores"] >= 1
    measured = measurements(tmp_path)
    assert list(measured) == [f"cold-start{site}.{name}" for site in ("", "-site") for name in ("next", "first-byte")]
    for each in measured.values():
        for summary in each["programs"].values():
            assert len(summary["samples"]) == summary["count"] == 2
            assert 0 < summary["minimum"] <= summary["median"] <= summary["maximum"]
    minimal = comparisons(measured["cold-start.first-byte"])["minimal runtime"]
    assert (minimal["hold"], minimal["aim"], minimal["pairs"]) == (1.12, 1.05, 2)
    assert ElementTree.parse(tmp_path / "bench.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"

    table = bench(ROOT, "--markdown", tmp_path / "bench.json")
    version = document["interpreters"][0]["version"]
    assert table.stdout.startswith(f"| measured | compared with | hold | aim | {version} |\n| --- |")
    assert "| cold start, -S: process start to first byte | minimal runtime | ≤ 1.12 | 1.05 | " in table.stdout


@pytest.mark.long
def test_all_other_parts_are_measured(tmp_path: Path) -> None:
    parts = ("prelude", "error", "warm", "throughput", "delay", "url")
    result = bench(ROOT, "--quick", "--runs", "1", *(f"--only={part}" for part in parts), "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    measured = measurements(tmp_path)
    assert {"prelude.first-byte", "warm.p50", "warm.cpu", "chunks", "bulk", "delay.p50"} <= set(measured)
    assert {"url.first-byte.p50", "url.over-exchange.p50", "url.start"} <= set(measured)
    assert list(comparisons(measured["url.first-byte.p50"])) == ["bare exchange"]
    assert list(comparisons(measured["prelude.first-byte"])) == ["without prelude"]
    assert list(comparisons(measured["first-error.time"])) == ["later error"]
    assert all(each["programs"]["layer"]["median"] > 0 for each in measured.values())


@pytest.mark.long
def test_a_missing_compiler_and_package_index_are_reported_and_the_rest_is_measured(
    checkout: Path, tmp_path: Path
) -> None:
    result = bench(
        checkout,
        *("--quick", "--runs", "1", "--only", "coldstart", "--only", "delay", "-o", tmp_path / "out"),
        CC="no-such-compiler",
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_INDEX="1",
    )
    assert result.returncode == 0, result.stderr
    assert "Left out: the C client; the Runtime API is the slower one in Python" in result.stdout
    assert "no C compiler (no-such-compiler is not on PATH)" in result.stdout
    assert "cannot install awslambdaric==4.2.2 (is a package index reachable?)" in result.stdout
    measured = measurements(tmp_path / "out")
    assert set(measured["cold-start.first-byte"]["programs"]) == {"layer", "minimal runtime"}
    assert measured["delay.p50"]["comparisons"] == []


# --- Comparing two layers ---------------------------------------------------------------------------------------------

COMPARE = ("--quick", "--only", "coldstart")


@pytest.mark.long
def test_the_layer_is_compared_with_a_zip_in_all_parts(tmp_path: Path) -> None:
    subprocess.run([ROOT / "build.sh", "-o", tmp_path], env=ENVIRONMENT, check=True, capture_output=True)
    baseline = tmp_path / "layer-slim.zip"
    result = bench(ROOT, "--quick", "--runs", "1", "--baseline", baseline, "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    measured = measurements(tmp_path)
    limited = {name for name, each in measured.items() if each["comparisons"][0]["hold"] == 1.03}
    assert limited == {
        *("cold-start.first-byte", "cold-start.cpu", "prelude.first-byte", "prelude.cpu", "warm.p50", "warm.cpu"),
        *("chunks.time", "chunks.cpu", "bulk.time", "bulk.cpu"),
    }
    assert all(set(each["programs"]) == {"layer", "baseline"} for each in measured.values())


@pytest.mark.long
def test_a_layer_that_is_slower_than_the_baseline_fails(checkout: Path, tmp_path: Path) -> None:
    with (checkout / "layer" / "runtime.py").open("a") as file:
        file.write("\n__import__('time').sleep(0.5)\n")
    result = bench(checkout, *COMPARE, "--runs", "6", "--baseline", ROOT / "layer", "-o", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.startswith(f"build.sh: error: slower than {ROOT / 'layer'}: cold start: process start to ")
    assert result.stderr.count("\n") == 1
    assert "FAILED" in result.stdout  # the report is printed and written all the same
    [comparison] = measurements(tmp_path / "out")["cold-start.first-byte"]["comparisons"]
    assert comparison["verdict"] == "FAILED"
    assert comparison["interval"][0] > 1.03


@pytest.mark.long
def test_a_baseline_may_be_a_git_revision(checkout: Path, tmp_path: Path) -> None:
    git = ("git", "-C", checkout, "-c", "user.name=n", "-c", "user.email=e@example.com")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"], ["tag", "older"]):
        subprocess.run([*git, *command], check=True)
    result = bench(checkout, *COMPARE, "--runs", "1", "--baseline", "older", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["baseline"] == "older"
    status = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True, text=True)
    assert status.stdout == ""


@pytest.mark.long
def test_a_baseline_may_consist_of_runtime_py_alone(tmp_path: Path) -> None:
    """As layers were before the package `streaming_runtime`."""
    folder = tmp_path / "opt"
    folder.mkdir()
    shutil.copy(ROOT / "layer" / "bootstrap", folder)
    version = json.loads((ROOT / "layer-manifest.json").read_text())["version"]
    source = (ROOT / "tools" / "bench" / "minimal_runtime.py").read_text().replace("@VERSION@", version)
    (folder / "runtime.py").write_text(source)
    result = bench(ROOT, *COMPARE, "--runs", "1", "--baseline", folder, "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--runs", "0"], 2, "'0' is not a number above 0"),
        (["--only", "everything"], 2, "invalid choice: 'everything'"),
        (["--only", "memory", "--baseline", "HEAD"], 2, "with --baseline, --only is one of coldstart, prelude"),
        (["--baseline", "no-such"], 2, "no-such is not a layer zip, a folder or a git revision of this checkout"),
        (["--baseline", "--output=x"], 2, "expected one argument"),
        (["--baseline", "tests"], 2, "tests is not a layer: it has no bootstrap"),
        (["--baseline", "README.md"], 1, "README.md is not a valid zip file"),
        (["--markdown", "README.md"], 1, "README.md is not a bench.json: run the benchmark again"),
        (["--markdown", "layer-manifest.json"], 1, "layer-manifest.json is not a bench.json"),
        (["--python", "/no/such/python"], 1, "cannot start /no/such/python"),
        (["--python", "/bin/true"], 1, "/bin/true is not a Python interpreter"),
    ],
)
def test_an_error_is_one_line(arguments: list[str], status: int, message: str) -> None:
    result = bench(ROOT, *arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith("build.sh: error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.long
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_process_and_no_file(tmp_path: Path, signum: signal.Signals, status: int) -> None:
    """It arrives while the process of a function runs."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.bench", "--only", "memory", "-o", tmp_path / "out"],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        while not list(folder.glob("bench-*/log")):
            assert process.poll() is None
        process.send_signal(signum)
        assert process.wait(TIMEOUT) == status
    finally:
        process.kill()
        process.communicate()
    assert not list(folder.iterdir())
    assert not any(str(folder).encode() in line for line in command_lines())
    assert not (tmp_path / "out").exists()


def command_lines() -> list[bytes]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue  # the process has ended
    return lines


def test_an_output_folder_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # not even root can write below it
    result = bench(ROOT, "--quick", "-o", tmp_path / "file" / "bench")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"build.sh: error: cannot write to {tmp_path}/file/bench: Not a directory; choose another with --output\n"
    )
