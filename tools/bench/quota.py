"""A share of a processor, as a function has it by its memory: with the control groups of Linux."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tools.bench import BenchError

MEMORY_OF_ONE_CPU = 1769  # MB: AWS Lambda Developer Guide, configuration-memory
PERIOD = 20_000  # microseconds: a process that used its share waits for the next
_MOUNT = Path("/sys/fs/cgroup")


def share(memory: int) -> int:
    """Microseconds of processor time in each period, for a function with so many MB."""
    return max(1000, PERIOD * memory // MEMORY_OF_ONE_CPU)


@contextlib.contextmanager
def cpu_quota(memory: int) -> Iterator[Path]:
    """A control group with the processor of a function of so many MB; gives the file that takes process ids.

    Raises BenchError where the system does not let us make one.
    """
    problems = []
    for parent in _parents():
        group = parent / f"streaming-runtime-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            problems.append(f"{parent}: {error.strerror}")
            continue
        try:
            try:
                _limit(group, memory)
            except OSError as error:
                problems.append(f"{parent}: {error.strerror}")
                continue
            yield group / "cgroup.procs"
            return
        finally:
            _remove(group)
    raise BenchError(f"no control group for the processor can be made ({'; '.join(problems) or f'no {_MOUNT}'})")


def _parents() -> list[Path]:
    own = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
    unified = [line[3:].strip("/") for line in own if line.startswith("0::")]
    candidates = [_MOUNT / "cpu", *(_MOUNT / path for path in unified), _MOUNT]
    limits = ("cpu.cfs_quota_us", "cgroup.subtree_control")
    found = [path for path in candidates if any((path / name).exists() for name in limits)]
    return list(dict.fromkeys(found))


def _limit(group: Path, memory: int) -> None:
    if (group / "cpu.cfs_quota_us").exists():  # version 1
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(share(memory)))
    else:
        (group / "cpu.max").write_text(f"{share(memory)} {PERIOD}")


def _remove(group: Path) -> None:
    for _ in range(100):  # a process that was killed leaves its group a little later
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.01)
