"""The states of processes, as proc(5) gives them: S while a process sleeps in a system call, T while it is stopped."""

from __future__ import annotations

from pathlib import Path

from support.emulator import until


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_running(pid: int) -> bool:
    """Return whether the process exists and has not ended; one that nobody waits for stays in the state Z."""
    try:
        return state_of(pid) != "Z"
    except FileNotFoundError:
        return False


def wait_until_asleep(pid: int) -> None:
    until(lambda: state_of(pid) == "S")
