"""One measured quantity: samples of several programs, compared in pairs, with a limit and a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from tools.bench.statistics import Summary, median_interval, quantile

# Names of the programs in tables and JSON.
LAYER, BASELINE, AWSLAMBDARIC = "layer", "baseline", "awslambdaric"
MINIMAL_RUNTIME, C_CLIENT = "minimal runtime", "C client"
MANGUM = "Mangum"  # on awslambdaric
LATER_ERROR = "later error"  # the layer and the same function, which has failed before
WITHOUT_PRELUDE = "without prelude"  # the layer and the same function, which then yields no dict
BARE_EXCHANGE = "bare exchange"  # the layer on the Runtime API of the benchmark, without the emulator


class Verdict(Enum):
    """How a figure relates to its limit."""

    MET = "met"
    UNCLEAR = "unclear"  # beyond the limit, but the confidence interval includes it: measure more pairs
    FAILED = "FAILED"  # the whole confidence interval lies beyond the limit


@dataclass(frozen=True)
class Limit:
    """A limit of a ratio, or of the figure itself where it is compared with nothing.

    Args:
        hold: the limit that decides the verdict.
        aim: the value to work towards; None if there is none.
        is_minimum: whether larger is better.
    """

    hold: float
    aim: float | None = None
    is_minimum: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.is_minimum else '≤'} {self.hold:g}"

    def verdict(self, value: float, interval: tuple[float, float]) -> Verdict:
        """Return the verdict on a median; `interval` is its confidence interval."""
        sign = -1 if self.is_minimum else 1
        if sign * value <= sign * self.hold:
            return Verdict.MET
        return Verdict.FAILED if all(sign * end > sign * self.hold for end in interval) else Verdict.UNCLEAR


@dataclass(frozen=True)
class Comparison:
    """What the layer's samples are compared with.

    Args:
        other: the name of a program; None for the samples themselves, as with memory growth.
        limit: None if the figure is for information only.
    """

    other: str | None
    limit: Limit | None = None


@dataclass(frozen=True)
class Result:
    """The outcome of one comparison.

    Args:
        value: the median of the ratios, or of the samples where there is no other program.
        interval: the confidence interval of `value`; None for fewer than six pairs.
        verdict: None if there is no limit.
    """

    comparison: Comparison
    numbers: list[float]
    value: float
    interval: tuple[float, float] | None
    verdict: Verdict | None


@dataclass
class Measurement:
    """One quantity.

    Samples with the same index come from the same round, in which all programs ran one after the other. The ratio of
    such a pair is free of slow changes of the machine's speed, which medians of separate runs are not.

    Args:
        name: the name in JSON.
        title: the name in tables.
        unit: the unit of the samples.
        samples: for each program one number from each round; from the first rounds alone if it takes long to start.
    """

    name: str
    title: str
    unit: str
    comparisons: tuple[Comparison, ...] = ()
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, program: str, value: float) -> None:
        """Add the sample of one round."""
        self.samples.setdefault(program, []).append(value)

    @property
    def summaries(self) -> dict[str, Summary]:
        """The summary of each measured program."""
        return {program: Summary.of(numbers) for program, numbers in self.samples.items()}

    @property
    def results(self) -> list[Result]:
        """The comparisons for which there are samples."""
        return [result for each in self.comparisons if (result := self._result(each))]

    def _result(self, comparison: Comparison) -> Result | None:
        ours, theirs = self.samples.get(LAYER, []), self.samples.get(comparison.other or "", [])
        numbers = ours
        if comparison.other is not None:
            numbers = [one / other for one, other in zip(ours, theirs, strict=False) if other]
        if not numbers:
            return None
        value, interval = quantile(numbers, 0.5), median_interval(numbers)
        # Too few pairs prove nothing; a figure that stands alone is a single, exact number.
        certain = interval or ((value, value) if comparison.other is None else (-float("inf"), float("inf")))
        verdict = comparison.limit.verdict(value, certain) if comparison.limit else None
        return Result(comparison, numbers, value, interval, verdict)
