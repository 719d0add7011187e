"""Settings of hypothesis, which keeps its cache in .venv as the other tools do."""

from __future__ import annotations

from pathlib import Path

import hypothesis
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(Path(__file__).resolve().parents[2] / ".venv" / ".hypothesis")


def examples(count: int) -> hypothesis.settings:
    """The same examples on each run; nothing of them is kept on disk."""
    slow = [hypothesis.HealthCheck.too_slow]  # says nothing of the code
    return hypothesis.settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=slow
    )
