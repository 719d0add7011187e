"""How a roll-out ends early: signals, and readers that go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from support.cloud import OURS, Cloud
from support.lambda_standin import Call

UPDATE = "UpdateFunctionConfiguration"
NAMES = [f"f-{number}" for number in range(12)]
WAIT = 60  # seconds until a test gives up
WORDS = ["rollout", "--all-using", "--to", "2", "--yes", "--journal", "journal"]


@pytest.fixture
def fleet(cloud: Cloud) -> Cloud:
    return cloud.with_functions(NAMES)


def all_at(version: int) -> dict[str, list[str]]:
    return {name: [f"{OURS}:{version}"] for name in sorted(NAMES)}


class Held:
    """Holds the updates back, and starts a process that waits for the first one."""

    def __init__(self, fleet: Cloud, words: list[str], operation: str = UPDATE) -> None:
        self.arrived, self.may_continue = threading.Event(), threading.Event()
        self._operation = operation
        fleet.standin.faults.on = self._hold
        self.process = fleet.start(*words)
        assert self.arrived.wait(WAIT)

    def _hold(self, call: Call) -> None:
        if call.operation == self._operation:
            self.arrived.set()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=WAIT)
        return self.process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
def test_a_signal_completes_what_was_begun_and_names_what_is_waited_for(fleet: Cloud, number: signal.Signals) -> None:
    fleet.standin.looks_until_done = 1000  # the updates do not end by themselves
    run = Held(fleet, WORDS)
    os.kill(run.process.pid, number)
    assert run.process.stderr is not None
    lines = iter(run.process.stderr.readline, "")
    note = next(line for line in lines if line.startswith("interrupted: "))
    assert "begun, usually seconds, at most 15 minutes; interrupt again to end at once" in note
    fleet.standin.pending.clear()
    fleet.standin.looks_until_done = 0
    status, errors = run.end()
    assert status == 130
    assert "interrupted; " in errors and "continue with ./build.sh rollout --resume journal --forward" in errors
    assert "Traceback" not in errors
    fleet.done("rollout", "--resume", "journal", "--forward")
    assert fleet.fleet() == all_at(2)


def test_a_second_signal_ends_at_once_with_the_command_to_continue(fleet: Cloud) -> None:
    fleet.standin.looks_until_done = 1_000_000
    run = Held(fleet, WORDS)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.process.stderr is not None
    lines = iter(run.process.stderr.readline, "")
    next(line for line in lines if line.startswith("interrupted: "))
    os.kill(run.process.pid, signal.SIGTERM)
    status, errors = run.end()
    assert status == 130
    assert errors.splitlines()[-1] == "ended at once; continue with ./build.sh rollout --resume journal --forward"
    fleet.standin.pending.clear()
    fleet.standin.looks_until_done = 1
    fleet.done("rollout", "--resume", "journal", "--forward")
    assert fleet.fleet() == all_at(2)


def test_a_signal_during_the_plan_ends_at_once_and_leaves_no_journal(fleet: Cloud) -> None:
    run = Held(fleet, WORDS, operation="ListFunctions")
    os.kill(run.process.pid, signal.SIGTERM)
    status, _ = run.end()
    if not fleet.standin.changes():  # the signal came before the first change
        assert status == 130
        assert not (fleet.checkout.root / "journal").exists()
        assert fleet.fleet() == all_at(1)


@pytest.mark.long
def test_a_signal_during_a_rollback_names_the_command(fleet: Cloud) -> None:
    fleet.done(*WORDS)
    fleet.standin.looks_until_done = 1000
    run = Held(fleet, ["rollback", "journal", "--yes"])
    os.kill(run.process.pid, signal.SIGHUP)
    assert run.process.stderr is not None
    next(line for line in iter(run.process.stderr.readline, "") if line.startswith("interrupted: "))
    fleet.standin.pending.clear()
    fleet.standin.looks_until_done = 0
    assert run.end()[0] == 130
    fleet.done("rollback", "journal", "--yes")
    assert fleet.fleet() == all_at(1)


def test_a_command_without_changes_ends_at_the_first_signal(fleet: Cloud) -> None:
    held = threading.Event()
    arrived = threading.Event()

    def hold(call: Call) -> None:
        if call.operation == "ListFunctions":
            arrived.set()
            fleet.standin._lock.release()
            held.wait(WAIT)
            fleet.standin._lock.acquire()

    fleet.standin.faults.on = hold
    process = fleet.start("report")
    assert arrived.wait(WAIT)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=WAIT)
    held.set()
    assert process.returncode == 130


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_a_signal_ends_the_build_of_publish_and_leaves_no_temporary_folder(
    cloud: Cloud, tmp_path: Path, words: list[str]
) -> None:
    """It arrives while the build waits for a Python that compiles."""
    started, released, temporary = tmp_path / "started", tmp_path / "released", tmp_path / "tmp"
    os.mkfifo(started)
    os.mkfifo(released)
    temporary.mkdir()
    python = tmp_path / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    python.parent.mkdir()
    wait = f"echo >{started}; read -r _ <{released}"
    python.write_text(f'#!/bin/sh\ncase "$*" in *compile_tree.py*) {wait} ;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    path = f"{python.parent}:{cloud.environment['PATH']}"
    process = replace(cloud, environment=cloud.environment | {"PATH": path, "TMPDIR": str(temporary)}).start(
        "publish", *words, "-o", str(tmp_path / "dist")
    )
    started.read_text()
    process.terminate()
    released.write_text("\n")
    assert process.communicate(timeout=WAIT) == ("", "")
    assert process.returncode == 130
    assert list(temporary.iterdir()) == [] and not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    "redirection",
    [
        "2>&1 | head -c 1",
        pytest.param("| head -c 1", marks=pytest.mark.long),
        pytest.param("2>&1 | true", marks=pytest.mark.long),
    ],
)
def test_a_reader_that_goes_away_does_not_end_a_roll_out(fleet: Cloud, redirection: str, tmp_path: Path) -> None:
    command = 'status=$(mktemp); { "$@"; echo $? >"$status"; } ' + redirection + ' >/dev/null; cat "$status"'
    result = subprocess.run(
        ["sh", "-c", command, "sh", *map(str, fleet.command(*WORDS))],
        cwd=fleet.checkout.root,
        env=fleet.environment | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert fleet.fleet() == all_at(2), result.stderr
    assert result.stdout.strip() == "0"
