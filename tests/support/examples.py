"""How many examples the tests use: the configuration of hypothesis, and samples of tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

DEFAULT = 100  # examples of a test that gives no number, with --long
SAMPLE = 5  # other runs take one of so many


def configure(long: bool) -> None:
    """Use the same examples in each run, store none, and keep the cache in .venv as the other tools do.

    Args:
        long: use all examples, not a sample of them.
    """
    set_hypothesis_home_dir(Path(__file__).resolve().parents[2] / ".venv" / ".hypothesis")
    hypothesis.settings.register_profile(
        "project",
        max_examples=DEFAULT if long else DEFAULT // SAMPLE,
        derandomize=True,
        database=None,
        deadline=None,  # like the health check, it depends on the speed of the machine only
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("project")


def examples(count: int) -> hypothesis.settings:
    """Return the configuration with another number of examples than DEFAULT. A run without --long takes a sample."""
    return hypothesis.settings(max_examples=count * hypothesis.settings.default.max_examples // DEFAULT)


def sample(values: Iterable[Any], every: int) -> list[Any]:
    """Return the values as parameters of a test. The first of each `every` runs always, the others with --long.

    Args:
        values: of one parameter, or tuples of several.
    """
    return [
        value if not number % every else pytest.param(*_values(value), marks=pytest.mark.long)
        for number, value in enumerate(values)
    ]


def _values(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
