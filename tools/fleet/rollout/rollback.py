"""Restores functions that a roll-out changed, newest change first, unless somebody else has changed them since.

Newest first, because the oldest changes have proven themselves the longest: if a rollback is interrupted, the functions
that remain changed are those. First all updates are sent, then all are waited for: AWS carries out many at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tools.common.errors import ToolError
from tools.fleet.aws.errors import CredentialsError, NotFound
from tools.fleet.aws.models import Function
from tools.fleet.aws.session import WORKERS
from tools.fleet.rollout.events import Event
from tools.fleet.rollout.history import Record
from tools.fleet.rollout.steps import BACKWARDS, MAX_ATTEMPTS, RETRYABLE, Steps


class ChangedByOthers(ToolError):
    """The function is not as the roll-out left it, so it must not be overwritten."""


class Rollback:
    """Restores functions.

    Args:
        show: receives the name and the outcome of each function.
        workers: the number of threads that wait for updates.
    """

    def __init__(self, steps: Steps, show: Callable[[str, str], None], workers: int = WORKERS) -> None:
        self._steps = steps
        self._functions = steps.functions
        self._show = show
        self._workers = workers

    def run(self, only: Record | None = None) -> bool:
        """Restore all changed functions, or `only` one; return True if none remains changed.

        Raises:
            CredentialsError: every further call would fail; the rollback can be repeated.
        """
        records = [record for record in self._steps.journal.history.changed if only in (None, record)]
        started = [record for record in records if self._start(record)]
        with ThreadPoolExecutor(self._workers) as pool:
            complete = list(pool.map(self._complete, started))
        return all(complete) and not any(record.changed_at is not None for record in records)

    def _start(self, record: Record) -> bool:
        """Restore the alias, and send the update of the layers; return True if its update must be awaited."""
        self._steps.record(record, Event.ROLLBACK_STARTED)
        try:
            self._restore_alias(record)
            function = self._functions.get(record.name)
            self._steps.update(record, function, lambda fresh: _old_layers(record, fresh), BACKWARDS)
        except CredentialsError:
            raise
        except (ChangedByOthers, NotFound) as error:
            self._leave_alone(record, error)
            return False
        except ToolError as error:  # not an outcome: the next rollback tries again
            self._show(record.name, f"not rolled back: {error}")
            return False
        return True

    def _complete(self, record: Record) -> bool:
        try:
            self._functions.wait(record.name)
        except CredentialsError:
            raise
        except NotFound as error:
            self._leave_alone(record, error)
            return True
        except ToolError as error:
            self._show(record.name, f"not rolled back: {error}")
            return False
        self._steps.record(record, Event.ROLLED_BACK)
        self._show(record.name, "rolled back")
        return True

    def _leave_alone(self, record: Record, reason: ToolError) -> None:
        self._steps.record(record, Event.LEFT_ALONE, reason=str(reason))
        self._show(record.name, f"left alone: {reason}")

    def _restore_alias(self, record: Record) -> None:
        """Point the alias to its old version with its old weights; each attempt begins with a read."""
        move = record.move
        if move is None or move.is_restored:
            return
        for attempt in range(MAX_ATTEMPTS):
            alias = self._functions.alias(record.name, move.alias)
            if (alias.version, alias.weights) == (move.old, move.weights):
                self._steps.record(record, Event.ALIAS_RESTORED)
                return
            if alias.version != move.new:
                raise ChangedByOthers(f"somebody else pointed its alias {move.alias} to version {alias.version}")
            self._steps.record(record, Event.ALIAS_RESTORE_STARTED, alias=move.alias, old=move.new, new=move.old)
            with suppress(*RETRYABLE):
                self._functions.move_alias(record.name, alias, move.old, move.weights)
                continue
            self._functions.wait_while_busy(record.name, attempt)
        raise ToolError(f"gave up after {MAX_ATTEMPTS} attempts: somebody else keeps changing its alias {move.alias}")


def _old_layers(record: Record, fresh: Function) -> tuple[str, ...] | None:
    if fresh.layers == record.old:
        return None
    if fresh.layers != record.new:
        raise ChangedByOthers("somebody else has changed its layers since")
    return record.old
