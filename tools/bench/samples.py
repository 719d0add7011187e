"""What was measured, and what is told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

LAYER, AWSLAMBDARIC, C_CLIENT = "layer", "awslambdaric", "C client"
BARE_EXCHANGE = "bare exchange"  # the layer itself, over the Runtime API of the benchmark


def quantile(numbers: Sequence[float], share: float) -> float:
    """The number that this share of the numbers does not exceed, between two of them by their distance."""
    ordered = sorted(numbers)
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


@dataclass(frozen=True)
class Summary:
    """Quartiles and ends of a row of numbers."""

    count: int
    least: float
    lower_quartile: float
    median: float
    upper_quartile: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Summary:
        return cls(len(numbers), *(quantile(numbers, quarter / 4) for quarter in range(5)))


@dataclass(frozen=True)
class Target:
    """What the ratio (or the number itself, where there is nothing beside it) is to be."""

    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass
class Measurement:
    """One quantity, of all that were measured for it in turns.

    Args:
        name: for machines.
        what: for people.
        unit: of the samples.
        against: the contestant that the layer is compared with; None where it stands alone.
        target: of the ratio, or of the median where there is no ratio.
        samples: of each contestant one for each round; those of one round were measured one after the other.
    """

    name: str
    what: str
    unit: str
    against: str | None = None
    target: Target | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, contestant: str, *values: float) -> None:
        self.samples.setdefault(contestant, []).extend(values)

    @property
    def summaries(self) -> dict[str, Summary]:
        return {contestant: Summary.of(numbers) for contestant, numbers in self.samples.items()}

    @property
    def ratios(self) -> list[float]:
        """Of the layer to the other, pair by pair; empty where the other was not measured."""
        ours, theirs = self.samples.get(LAYER, []), self.samples.get(self.against or "", [])
        return [one / other for one, other in zip(ours, theirs, strict=False) if other]

    @property
    def judged(self) -> float | None:
        """The number that the target is about."""
        numbers = self.samples.get(LAYER, []) if self.against is None else self.ratios
        return quantile(numbers, 0.5) if numbers else None

    @property
    def is_met(self) -> bool | None:
        """None where there is no target, or nothing to compare with."""
        return None if self.target is None or self.judged is None else self.target.is_met(self.judged)
