"""Quantiles, and the confidence interval of a median."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


def quantile(numbers: Sequence[float], share: float) -> float:
    """Return the quantile of `share` (0 to 1), interpolated between the two nearest numbers."""
    ordered = sorted(numbers)
    position = share * (len(ordered) - 1)
    low, high = ordered[math.floor(position)], ordered[math.ceil(position)]
    return low + (high - low) * (position - math.floor(position))


def median_interval(numbers: Sequence[float]) -> tuple[float, float] | None:
    """Return the confidence interval (95 %) of the median, None for fewer than six numbers.

    The interval is free of assumptions about the distribution, which for times on a shared machine is neither normal
    nor symmetric. Each number lies below the true median with probability 1/2, so the count of those below it is
    binomial. The interval reaches from the k-th smallest to the k-th largest number, with the largest k for which the
    median lies outside with a probability of at most 5 % (the inverted sign test; Conover, "Practical Nonparametric
    Statistics", 3.2). With 300 numbers, k is 133.
    """
    ordered, count = sorted(numbers), len(numbers)
    outside, k = 0.0, 0
    while True:
        outside += 2 * math.comb(count, k) * 0.5**count
        if outside > 1 - CONFIDENCE:
            break
        k += 1
    return (ordered[k - 1], ordered[count - k]) if k else None


@dataclass(frozen=True)
class Summary:
    """Count, extremes and quartiles of a list of numbers."""

    count: int
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Summary:
        """Summarize at least one number."""
        return cls(len(numbers), *(quantile(numbers, quarter / 4) for quarter in range(5)))
