"""The waves of a roll-out: which functions are changed together, and how far an alias moves each time.

Regions and accounts come one after the other, each with all its waves, because a bad version should be noticed in the
first of them. With `--parallel-regions N`, N of them form a group whose first waves are one wave, and so on.

A wave is given as the number or the percentage of all functions that have the new version after it, so the waves
`1,10%,100%` of 50 functions change 1, 4 and 45. With `--shift`, a wave has several stages: in each of them the aliases
of its functions send a larger share of the requests to the new version. Gates lie between any two stages, also
between two regions.

All of this is computed from the options and the plan alone, so that a resumed roll-out has the same stages.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Generic, TypeVar

from tools.fleet.aws.arns import Place
from tools.fleet.rollout.history import Record
from tools.fleet.rollout.options import Options

Item = TypeVar("Item")

ALL = "100%"
COMPLETE = 100.0  # percent

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_PERCENTAGE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%")


def parse_waves(text: str) -> tuple[str, ...]:
    """Read the value of `--waves`; raises `ValueError`, with the reason, if it has no meaning."""
    waves = tuple(each.strip() for each in text.split(","))
    for each in waves:
        if not _NUMBER.fullmatch(each) and not 0 < _percent(each) <= COMPLETE:
            raise ValueError(f"{each!r} is neither a number of functions nor a percentage, such as 1,10%,100%")
    if _percent(waves[-1]) != COMPLETE:
        raise ValueError(f"the last wave is {waves[-1]}: end with 100%, so that all functions are changed")
    _check_order([int(each) for each in waves if "%" not in each])
    _check_order([_percent(each) for each in waves if "%" in each])
    return waves


def parse_shift(text: str) -> tuple[str, ...]:
    """Read the value of `--shift`; raises `ValueError`, with the reason, if it has no meaning."""
    steps = tuple(each.strip() for each in text.split(","))
    for each in steps:
        if not 0 < _percent(each) <= COMPLETE:
            raise ValueError(f"{each!r} is not a percentage of the requests, such as 10%,50%")
    _check_order([_percent(each) for each in steps])
    steps = steps[:-1] if _percent(steps[-1]) == COMPLETE else steps
    if not steps:
        raise ValueError("100% alone is no shift: begin with a smaller percentage, such as 10%")
    return steps


def _percent(text: str) -> float:
    """Return a percentage as a number, or -1 if it is not one."""
    match = _PERCENTAGE.fullmatch(text)
    return float(match[1]) if match else -1.0


def _check_order(values: Sequence[float]) -> None:
    for earlier, later in itertools.pairwise(values):
        if later <= earlier:
            raise ValueError(f"{later:g} follows {earlier:g}: each value must be greater than the one before")


def sizes(waves: Sequence[str], total: int) -> list[int]:
    """Return the number of functions in each wave, which can be zero.

    A percentage is rounded up, so that a first wave of 10% of 5 functions is one function.
    """
    ends = [0]
    for each in waves or (ALL,):
        end = int(each) if "%" not in each else ceil(total * round(_percent(each) * 1000) / 100_000)
        ends.append(max(ends[-1], min(end, total)))
    return [end - start for start, end in itertools.pairwise(ends)]


@dataclass(frozen=True)
class Wave(Generic[Item]):
    """Functions that are changed together.

    Args:
        items: functions, in any form.
        places: the regions and accounts of its group.
        is_first: of its group; then all of its functions must succeed.
    """

    items: tuple[Item, ...]
    places: tuple[Place, ...]
    is_first: bool


def divide_into_waves(options: Options, items: Sequence[Item], place_of: Callable[[Item], Place]) -> list[Wave[Item]]:
    """Return the waves of a roll-out; those without a function are left out.

    Args:
        items: all functions that will be changed, in the order of the plan.
    """
    by_place: dict[Place, list[Item]] = {}
    for item in items:
        by_place.setdefault(place_of(item), []).append(item)
    places = list(by_place)
    found = []
    for start in range(0, len(places), options.parallel_regions):
        group = tuple(places[start : start + options.parallel_regions])
        parts = [_parts(options.wave_ends, by_place[place]) for place in group]
        waves = [chosen for some in zip(*parts, strict=True) if (chosen := _interleaved(some))]
        found += [Wave(chosen, group, number == 0) for number, chosen in enumerate(waves)]
    return found


def _parts(waves: Sequence[str], items: Sequence[Item]) -> list[list[Item]]:
    rest = iter(items)
    return [list(itertools.islice(rest, size)) for size in sizes(waves, len(items))]


def _interleaved(parts: Sequence[Sequence[Item]]) -> tuple[Item, ...]:
    """Return the items of all parts in turns: threads that wait for the pace of one region would neglect the others."""
    rows = itertools.zip_longest(*([[item] for item in part] for part in parts), fillvalue=[])
    return tuple(item for row in rows for some in row for item in some)


@dataclass(frozen=True)
class Stage:
    """A part of a roll-out, with gates before the next one.

    Args:
        wave, waves: the number of the wave, from 1, and how many there are.
        percent: of the requests that the aliases send to the new version after it.
        records: the functions of the wave.
        where: the regions and accounts, as text; empty if the roll-out has one.
        is_first: whether all of its functions must succeed.
    """

    wave: int
    waves: int
    percent: float
    records: tuple[Record, ...]
    where: str
    is_first: bool

    @property
    def key(self) -> tuple[int, float]:
        """What identifies the stage in a journal."""
        return self.wave, self.percent

    def __str__(self) -> str:
        share = f" at {self.percent:g} % of the requests" if self.percent < COMPLETE else ""
        return f"wave {self.wave} of {self.waves}{self.where}{share}"


def stages(options: Options, records: Sequence[Record]) -> Iterator[Stage]:
    """Yield the stages of a roll-out.

    Args:
        records: all functions that will be changed, in the order of the plan.
    """
    waves = divide_into_waves(options, records, lambda record: record.place)
    is_one_place = len({place for wave in waves for place in wave.places}) == 1
    for number, wave in enumerate(waves, start=1):
        shares = [_percent(each) for each in options.shift] if any(each.alias_name for each in wave.items) else []
        where = "" if is_one_place else f" in {' and '.join(map(str, wave.places))}"
        for percent in (*shares, COMPLETE):
            yield Stage(number, len(waves), percent, wave.items, where, wave.is_first)
