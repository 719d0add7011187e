"""The machine that a benchmark ran on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """Processor, kernel, and the load averages before and after the benchmark."""

    processor: str
    cores: int
    kernel: str
    load_before: tuple[float, ...]
    load_after: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.kernel}"

    @classmethod
    def now(cls, load_before: tuple[float, ...]) -> Machine:
        """Describe this machine at the end of a benchmark."""
        return cls(
            _processor(),
            _cores(),
            f"{platform.system()} {platform.release()} {platform.machine()}",
            load_before,
            load(),
        )


def load() -> tuple[float, ...]:
    """Return the load averages over 1, 5 and 15 minutes."""
    return tuple(round(number, 2) for number in os.getloadavg())


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or "unknown processor"
