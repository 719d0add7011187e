"""Runs many tasks on a few threads; a task that waits occupies none.

A task is a generator. It yields a pause in seconds where it waits for AWS, and goes on after the pause, perhaps on
another thread. So 8 threads keep dozens of updates in progress, and the pace of calls is the only limit. A thread
takes, in this order: the task whose pause is over, a new task, the task whose pause ends next. In the last case the
thread sleeps: only threads that are at work add tasks, and they take those themselves if they are due earlier.

`MAX_BEGUN` limits the number of tasks that are begun and not complete. It limits the damage, too: so many functions may
have been updated before the first failure is seen. Canaries and waves are the answer to that, not few threads.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator

from tools.fleet.aws.pace import Pace
from tools.fleet.rollout.ending import Ending

Task = Generator[float, None, None]

MAX_BEGUN = 64


class Scheduler:
    """Runs one set of tasks.

    Args:
        tasks: begun in this order.
        may_begin: returns False when no further task may be begun; those in progress are completed.
        ending: no task is begun after a signal either.
    """

    def __init__(
        self, tasks: Iterable[Task], workers: int, pace: Pace, may_begin: Callable[[], bool], ending: Ending
    ) -> None:
        self._new: Iterator[Task] = iter(tasks)
        self._workers = workers
        self._pace = pace
        self._may_begin = may_begin
        self._ending = ending
        self._waiting: list[tuple[float, int, Task]] = []  # a heap, by the end of the pause
        self._numbers = itertools.count()
        self._begun = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Return when all tasks are complete; raise the first exception of a task after the others."""
        threads = [threading.Thread(target=self._work) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error:
            raise self._error

    def _work(self) -> None:
        while (next_task := self._take()) is not None:
            due, task = next_task
            try:
                if (pause := due - self._pace.clock()) > 0:
                    self._pace.sleep(pause)
                length = next(task)
            except StopIteration:
                self._complete()
            except BaseException as error:
                self._stop(error)
                self._complete()
            else:
                self._add(self._pace.clock() + length, task)

    def _take(self) -> tuple[float, Task] | None:
        """Return the next task and the time at which it goes on; None if there will be no other."""
        with self._changed:
            while True:
                now = self._pace.clock()
                if self._waiting and self._waiting[0][0] <= now:
                    return self._pop()
                task = self._begin()
                if task is not None:
                    return now, task
                if self._waiting:
                    return self._pop()
                if not self._begun:
                    return None
                self._changed.wait()  # other threads work on the last tasks

    def _pop(self) -> tuple[float, Task]:
        due, _, task = heapq.heappop(self._waiting)
        return due, task

    def _begin(self) -> Task | None:
        if self._begun >= MAX_BEGUN or self._error or self._ending.is_requested or not self._may_begin():
            return None
        task = next(self._new, None)
        if task is not None:
            self._begun += 1
            self._ending.begun = self._begun
        return task

    def _add(self, due: float, task: Task) -> None:
        with self._changed:
            heapq.heappush(self._waiting, (due, next(self._numbers), task))
            self._changed.notify()

    def _complete(self) -> None:
        with self._changed:
            self._begun -= 1
            self._ending.begun = self._begun
            self._changed.notify_all()

    def _stop(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
