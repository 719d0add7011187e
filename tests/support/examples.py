"""Settings of hypothesis, which keeps its cache in .venv as the other tools do."""

from __future__ import annotations

from pathlib import Path

import hypothesis
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(__file__).resolve().parents[2] / ".venv" / ".hypothesis")


def examples(count: int) -> hypothesis.settings:
    """Return settings with the same examples in each run, none of which is stored."""
    slow = [hypothesis.HealthCheck.too_slow]  # depends on the machine only
    return hypothesis.settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=slow
    )
