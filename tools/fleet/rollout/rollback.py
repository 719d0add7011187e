"""Restores functions that a roll-out changed, newest change first, unless somebody else has changed them since.

Newest first, because the oldest changes have proven themselves the longest: if a rollback is interrupted, the functions
that remain changed are those. Waiting for an update occupies no thread: AWS carries out many at a time.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

from tools.common.errors import ToolError
from tools.fleet.aws.errors import Conflict, Interruption, NotFound
from tools.fleet.aws.functions import Functions, Waiting
from tools.fleet.aws.models import SECOND_WRAPPER, WRAPPER, Function
from tools.fleet.aws.session import WORKERS
from tools.fleet.rollout.aliases import weights_text
from tools.fleet.rollout.ending import Ending
from tools.fleet.rollout.events import Event
from tools.fleet.rollout.history import Record
from tools.fleet.rollout.scheduler import Scheduler
from tools.fleet.rollout.steps import BACKWARDS, RETRYABLE, Change, Steps, pause_before_retry


class ChangedByOthers(ToolError):
    """The function is not as the roll-out left it, so it must not be overwritten."""


class Rollback:
    """Restores functions.

    Args:
        show: receives the name and the outcome of each function.
        workers: the number of threads that call AWS.
        ending: no further function is begun after a signal.
    """

    def __init__(
        self, steps: Steps, show: Callable[[str, str], None], workers: int = WORKERS, ending: Ending | None = None
    ) -> None:
        self._ending = ending or Ending()
        self._steps = steps
        self._places = steps.places
        self._show = show
        self._workers = workers

    def run(self, only: Sequence[Record] | None = None) -> bool:
        """Restore all changed functions, or `only` some; return True if none remains changed.

        Raises:
            Interruption: no function is the cause; the rollback can be repeated.
            KeyboardInterrupt: after a signal, if functions remain.
        """
        records = self._steps.journal.history.changed if only is None else only
        halt = threading.Event()

        def restore(record: Record) -> Waiting:
            try:
                yield from self.restore(record)
            except Interruption:
                halt.set()
                raise

        tasks = (restore(record) for record in records)
        Scheduler(tasks, self._workers, self._places.pace, lambda: not halt.is_set(), self._ending).run()
        is_changed = any(record.changed_at is not None for record in records)
        if is_changed and self._ending.is_requested:
            raise KeyboardInterrupt
        return not is_changed

    def restore(self, record: Record) -> Waiting:
        """Restore the alias and the layers of one function."""
        functions = self._places.functions(record)
        self._steps.record(record, Event.ROLLBACK_STARTED)
        try:
            yield from self._restore_alias(record, functions)
            function = functions.get(record.name)
            yield from self._steps.update(record, function, lambda fresh: restoration(record, fresh), BACKWARDS)
            yield from functions.wait(record.name)
        except Interruption:
            raise
        except (ChangedByOthers, NotFound) as error:
            self._leave_alone(record, error)
        except ToolError as error:  # not an outcome: the next rollback tries again
            self._show(self._label(record), f"not rolled back: {error}")
        else:
            self._steps.record(record, Event.ROLLED_BACK)
            self._show(self._label(record), "rolled back")

    def _label(self, record: Record) -> str:
        return self._steps.journal.history.label(record)

    def _leave_alone(self, record: Record, reason: ToolError) -> None:
        self._steps.record(record, Event.LEFT_ALONE, reason=str(reason))
        self._show(self._label(record), f"left alone: {reason}")

    def _restore_alias(self, record: Record, functions: Functions) -> Waiting:
        """Point the alias to its old version with its old weights; each attempt begins with a read.

        If the outcome of the last update is not known, AWS may carry it out later. So the alias is updated even if it
        has its old state: that gives it another revision, with which the late update fails.
        """
        move = record.move
        if move is None or move.is_restored:
            return
        is_fenced = move.is_confirmed
        patience = functions.patience("UpdateAlias")
        for attempt in itertools.count():
            try:
                alias = functions.alias(record.name, move.alias)
            except NotFound:  # somebody else deleted the alias; if the function too, `restore` finds that next
                return
            is_old = (alias.version, alias.weights) == (move.old, move.weights)
            if is_old and is_fenced:
                self._steps.record(record, Event.ALIAS_RESTORED)
                return
            if not is_old and (alias.version, alias.weights) not in move.states:
                weights = f", and sends {weights_text(alias.weights)}" if alias.weights else ""
                raise ChangedByOthers(
                    f"somebody else changed its alias {move.alias}: it points to version {alias.version}{weights}"
                )
            self._steps.record(record, Event.ALIAS_RESTORE_STARTED, alias=move.alias, old=move.new, new=move.old)
            try:
                functions.move_alias(record.name, alias, move.old, move.weights)
                is_fenced = True
            except RETRYABLE as error:
                if isinstance(error, Conflict):
                    yield from functions.wait_while_busy(record.name, attempt)
                pause_before_retry(error, attempt, patience)


def restoration(record: Record, fresh: Function) -> Change | None:
    """Return what to restore; None if the function has it, and no late update can change that.

    An update with an unknown outcome may be carried out later. After another update, the function has another revision,
    and the late one fails.

    Raises:
        ChangedByOthers: somebody else has changed the project's layer or the two variables since.
    """
    layers, wrappers = _old_layers(record, fresh.layers), record.old_wrappers
    if wrappers is not None and fresh.wrappers not in (wrappers, record.new_wrappers):
        raise ChangedByOthers(f"somebody else has changed {WRAPPER} or {SECOND_WRAPPER} since")
    is_old = layers == fresh.layers and wrappers in (None, fresh.wrappers)
    return Change(layers, wrappers) if record.is_unconfirmed or not is_old else None


def _old_layers(record: Record, fresh: tuple[str, ...]) -> tuple[str, ...]:
    """Return the list of layers in which the change of the roll-out is undone, and those of others are kept.

    Somebody may have added, removed or moved layers of other projects meanwhile.
    """
    if fresh in (record.old, record.new):
        return record.old
    added = [arn for arn in record.new if arn not in record.old]
    removed = [arn for arn in record.old if arn not in record.new]
    if all(arn in fresh for arn in removed) and not any(arn in fresh for arn in added):
        return fresh
    if len(added) == len(removed) and all(arn in fresh for arn in added):
        old_of = dict(zip(added, removed, strict=True))
        return tuple(old_of.get(arn, arn) for arn in fresh)
    if not removed and all(arn in fresh for arn in added):
        return tuple(arn for arn in fresh if arn not in added)
    raise ChangedByOthers("somebody else has changed its layers since")
