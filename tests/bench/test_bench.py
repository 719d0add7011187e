"""``python3 -m tools.bench`` measures, tells, and says what it leaves out. No test looks at how long anything took."""

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

PATIENCE = 300  # seconds; only a safety net


def bench(root: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.bench", *arguments],
        cwd=root,
        env=ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One that has not measured anything yet."""
    root = Checkout.at(tmp_path / "checkout").root
    shutil.copytree(ROOT / "tools" / "bench", root / "tools" / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def measurements(output: Path) -> dict[str, Any]:
    document = json.loads((output / "bench.json").read_text())
    [interpreter] = document["interpreters"]
    return {each["name"]: each for each in interpreter["measurements"]}


def test_cold_starts_are_measured_and_told_as_table_json_and_chart(tmp_path: Path) -> None:
    result = bench(ROOT, "--quick", "--runs", "2", "--only", "coldstart", "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "cold start, -S: to the first byte (ms)" in result.stdout
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["format"] == 1
    assert document["machine"]["cores"] >= 1
    measured = measurements(tmp_path)
    assert list(measured) == [f"cold-start{site}.{what}" for site in ("", "-site") for what in ("next", "first-byte")]
    for each in measured.values():
        for summary in each["contestants"].values():
            assert len(summary["samples"]) == summary["count"] == 2
            assert 0 < summary["least"] <= summary["median"] <= summary["most"]
        if each["ratio"] is not None:
            assert len(each["ratio"]["samples"]) == 2
    assert measured["cold-start.first-byte"]["target"]["at_most"] == 0.5
    assert ElementTree.parse(tmp_path / "bench.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_all_else_is_measured_in_the_quick_way_too(tmp_path: Path) -> None:
    parts = ("warm", "throughput", "delay", "url")
    result = bench(ROOT, "--quick", "--runs", "1", *(f"--only={part}" for part in parts), "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    measured = measurements(tmp_path)
    assert {"warm.p50", "warm.p99", "chunks", "bulk", "delay.p50", "delay.p99"} <= set(measured)
    assert {"url.first-byte.p50", "url.over-exchange.p50", "url.start"} <= set(measured)
    assert measured["url.first-byte.p50"]["ratio"]["against"] == "bare exchange"
    assert all(each["contestants"]["layer"]["median"] > 0 for each in measured.values())


def test_a_missing_compiler_and_a_missing_package_index_are_told(checkout: Path, tmp_path: Path) -> None:
    result = bench(
        checkout,
        *("--quick", "--runs", "1", "--only", "coldstart", "--only", "delay", "-o", tmp_path / "out"),
        CC="no-such-compiler",
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_INDEX="1",
    )
    assert result.returncode == 0, result.stderr
    assert "Left out: the C client, and the Runtime API is one in Python" in result.stdout
    assert "no C compiler (no-such-compiler is not on PATH)" in result.stdout
    assert "awslambdaric==4.2.2 could not be installed (is a package index within reach?)" in result.stdout
    measured = measurements(tmp_path / "out")
    assert set(measured["cold-start.first-byte"]["contestants"]) == {"layer"}
    assert measured["cold-start.first-byte"]["target"]["met"] is None
    assert measured["delay.p50"]["ratio"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--runs", "0"], 2, "'0' is no number above 0"),
        (["--only", "everything"], 2, "invalid choice: 'everything'"),
        (["--python", "/no/such/python"], 1, "/no/such/python could not be started"),
        (["--python", "/bin/true"], 1, "/bin/true is no Python"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], status: int, words: str) -> None:
    result = bench(ROOT, *arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith("bench: error: ") and result.stderr.count("\n") == 1
    assert words in result.stderr


def test_an_interrupt_leaves_no_process_and_no_file_behind(tmp_path: Path) -> None:
    """The function's process says that it runs, then the benchmark is interrupted in the middle of it."""
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
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
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
            continue  # it has ended
    return lines
