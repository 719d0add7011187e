"""How many functions are begun at a time, and after an error none."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from support.cloud import no_pauses

from tools.fleet.rollout.ending import Ending
from tools.fleet.rollout.scheduler import MAX_BEGUN, Scheduler


class Tasks:
    """Tasks that record what they do."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.open, self.most, self.complete = 0, 0, 0

    def task(self, name: str) -> Generator[float, None, None]:
        self.begun.append(name)
        self.open += 1
        self.most = max(self.most, self.open)
        yield 1.0
        self.open -= 1
        self.complete += 1

    def failing(self, name: str) -> Generator[float, None, None]:
        self.begun.append(name)
        raise ValueError(name)
        yield


def test_no_more_tasks_are_begun_than_are_allowed_at_a_time() -> None:
    tasks, ending = Tasks(), Ending()
    Scheduler((tasks.task(str(each)) for each in range(200)), 1, no_pauses(), lambda: True, ending).run()
    assert (tasks.most, tasks.complete, ending.begun) == (MAX_BEGUN, 200, 0)


def test_after_an_exception_the_begun_tasks_are_completed_and_no_other_is_begun() -> None:
    tasks = Tasks()
    with pytest.raises(ValueError, match=r"^second$"):
        Scheduler(
            iter([tasks.task("first"), tasks.failing("second"), tasks.task("third")]),
            *(1, no_pauses(), lambda: True, Ending()),
        ).run()
    assert (tasks.begun, tasks.complete) == (["first", "second"], 1)
