"""The processor share that a function has by its memory setting, with the control groups of Linux."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tools.common.errors import ToolError

ONE_CPU_MB = 1769  # AWS Lambda Developer Guide, configuration-memory: at this setting a function has one vCPU
PERIOD_US = 20_000  # a process that has used its share waits for the next period
_MIN_QUOTA_US = 1000  # the kernel accepts no less
_MOUNT = Path("/sys/fs/cgroup")


def quota_us(memory_mb: int) -> int:
    """Return the processor time in each period, in microseconds."""
    return max(_MIN_QUOTA_US, PERIOD_US * memory_mb // ONE_CPU_MB)


@contextlib.contextmanager
def cpu_share(memory_mb: int) -> Iterator[Path]:
    """Create a control group with the processor share of a memory setting; yield its `cgroup.procs`.

    Raises:
        ToolError: the system does not allow it.
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
                _set_quota(group, memory_mb)
            except OSError as error:
                problems.append(f"{parent}: {error.strerror}")
                continue
            yield group / "cgroup.procs"
            return
        finally:
            _remove(group)
    raise ToolError(f"cannot create a control group with a processor quota ({'; '.join(problems) or f'no {_MOUNT}'})")


def _parents() -> list[Path]:
    own = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
    unified = [line[3:].strip("/") for line in own if line.startswith("0::")]
    candidates = [_MOUNT / "cpu", *(_MOUNT / path for path in unified), _MOUNT]
    limits = ("cpu.cfs_quota_us", "cgroup.subtree_control")
    found = [path for path in candidates if any((path / name).exists() for name in limits)]
    return list(dict.fromkeys(found))


def _set_quota(group: Path, memory_mb: int) -> None:
    if (group / "cpu.cfs_quota_us").exists():  # cgroup version 1
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us(memory_mb)))
    else:
        (group / "cpu.max").write_text(f"{quota_us(memory_mb)} {PERIOD_US}")


def _remove(group: Path) -> None:
    for _ in range(100):  # a killed process leaves its group with a delay
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.01)
