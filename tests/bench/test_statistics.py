"""The confidence interval of a median, ratios of pairs, and verdicts."""

from __future__ import annotations

import random

import pytest

from tools.bench.measurement import BASELINE, LAYER, Comparison, Limit, Measurement, Verdict
from tools.bench.statistics import Summary, median_interval, quantile

MAXIMUM = Limit(1.03)
MINIMUM = Limit(0.8, is_minimum=True)


@pytest.mark.parametrize(
    ("count", "rank"),
    # Conover, "Practical Nonparametric Statistics", and the tables of Dixon and Massey.
    [(6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (50, 18), (300, 133)],
)
def test_the_interval_of_a_median_has_the_ranks_of_the_sign_test(count: int, rank: int) -> None:
    numbers = [float(number) for number in range(1, count + 1)]
    random.Random(count).shuffle(numbers)
    assert median_interval(numbers) == (rank, count + 1 - rank)


@pytest.mark.parametrize("count", range(6))
def test_fewer_than_six_numbers_have_no_interval(count: int) -> None:
    assert median_interval([1.0] * count) is None


def test_the_interval_contains_the_true_median_in_about_95_of_100_cases() -> None:
    generator = random.Random(1)
    intervals = [median_interval([generator.expovariate(1) for _ in range(50)]) for _ in range(2000)]
    true_median = 0.6931471805599453  # ln 2
    hits = sum(interval is not None and interval[0] <= true_median <= interval[1] for interval in intervals)
    assert 0.94 < hits / len(intervals) < 0.985


def test_a_quantile_is_interpolated() -> None:
    assert quantile([4.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 0.25) == 1.25
    assert Summary.of([3.0, 1.0, 2.0]) == Summary(3, 1.0, 1.5, 2.0, 2.5, 3.0)


@pytest.mark.parametrize(
    ("limit", "value", "interval", "verdict"),
    [
        (MAXIMUM, 1.02, (0.9, 1.5), Verdict.MET),
        (MAXIMUM, 1.03, (1.0, 1.1), Verdict.MET),
        (MAXIMUM, 1.05, (1.02, 1.08), Verdict.UNCLEAR),
        (MAXIMUM, 1.05, (1.03, 1.08), Verdict.UNCLEAR),
        (MAXIMUM, 1.05, (1.04, 1.08), Verdict.FAILED),
        (MINIMUM, 0.81, (0.5, 0.9), Verdict.MET),
        (MINIMUM, 0.75, (0.7, 0.85), Verdict.UNCLEAR),
        (MINIMUM, 0.75, (0.7, 0.79), Verdict.FAILED),
    ],
)
def test_a_figure_fails_only_if_its_whole_interval_is_beyond_the_limit(
    limit: Limit, value: float, interval: tuple[float, float], verdict: Verdict
) -> None:
    assert limit.verdict(value, interval) is verdict


def measurement(ours: list[float], theirs: list[float], limit: Limit = MAXIMUM) -> Measurement:
    return Measurement("name", "title", "ms", (Comparison(BASELINE, limit),), {LAYER: ours, BASELINE: theirs})


def test_ratios_are_those_of_pairs_so_a_machine_that_becomes_slower_changes_nothing() -> None:
    theirs = [float(2**number) for number in range(10)]
    [result] = measurement([1.5 * number for number in theirs], theirs).results
    assert (result.value, result.interval, result.verdict) == (1.5, (1.5, 1.5), Verdict.FAILED)


def test_a_round_that_was_not_finished_forms_no_pair() -> None:
    [result] = measurement([1.0, 1.0, 9.0], [1.0, 1.0]).results
    assert result.numbers == [1.0, 1.0]


def test_too_few_pairs_cannot_fail() -> None:
    [result] = measurement([9.0] * 5, [1.0] * 5).results
    assert (result.interval, result.verdict) == (None, Verdict.UNCLEAR)


def test_a_figure_without_another_program_is_compared_with_the_limit_itself() -> None:
    growth = Measurement("growth", "growth", "MiB", (Comparison(None, Limit(1)),), {LAYER: [1.5]})
    assert [result.verdict for result in growth.results] == [Verdict.FAILED]


def test_a_program_that_was_not_measured_gives_no_result() -> None:
    assert measurement([1.0], []).results == []
