"""Rolls functions out: canaries first, then the others, several at a time, until all are complete or too many failed.

What can go wrong: any call can fail or get no response, the process can die between any two of them, other people
change the same functions, and one of them may start a second roll-out. The engine keeps three promises:

- Every function ends as planned, as it was before, or as somebody else left it; never in a state in between.
- A failure beyond the limit stops everything. Functions that were begun are completed, no other is begun, and then all
  are rolled back. The `stop` is in the journal first, so that `--resume` also rolls back after a crash.
- A resumed roll-out repeats no step that AWS has carried out. The journal shows how far each function came, and the
  function itself shows whether an open step was carried out.

`_roll_out_function` is the life of one function, from top to bottom: read, lock, apply, wait, probe, alias.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Mapping, Sequence

from tools.common.errors import ToolError
from tools.fleet.aws.arns import layer_of
from tools.fleet.aws.errors import AwsError, Conflict, Interruption, NotFound, ProbeUnknown
from tools.fleet.aws.functions import Functions, Waiting
from tools.fleet.aws.models import Alias, Function
from tools.fleet.aws.session import WORKERS
from tools.fleet.rollout import steps
from tools.fleet.rollout.events import Event
from tools.fleet.rollout.history import DONE, ROLLED_BACK, AliasMove, Record
from tools.fleet.rollout.journal import Journal
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.plan import Targets, Verdict, plan_step
from tools.fleet.rollout.progress import Progress
from tools.fleet.rollout.rollback import Rollback
from tools.fleet.rollout.scheduler import Scheduler
from tools.fleet.rollout.steps import RETRYABLE, Steps, pause_before_retry


class RollOut:
    """A roll-out whose plan is in the journal; new or resumed.

    Args:
        targets: the version that each layer of this project will have.
        progress: shows the outcome of each function.
        workers: the number of threads.
    """

    def __init__(
        self,
        functions: Functions,
        journal: Journal,
        targets: Targets,
        options: Options,
        progress: Progress,
        workers: int = WORKERS,
    ) -> None:
        self._functions = functions
        self._journal = journal
        self._history = journal.history
        self._targets = targets
        self._options = options
        self._show = progress
        self._workers = workers
        self._steps = Steps(functions, journal)
        self._rollback = Rollback(self._steps, progress, workers)
        self._halt = threading.Event()  # no further function is begun
        self._stop_lock = threading.Lock()
        self._interruption: Interruption | None = None
        changes = [record.arn for record in self._history.records.values() if record.verdict is Verdict.CHANGE]
        self._canaries = set(changes[: options.canary])

    def run(self, planned: Mapping[str, Function]) -> bool:
        """Process all pending functions; return True if every one succeeded.

        Args:
            planned: the functions as they were read for the plan, by ARN; others are read again.

        Raises:
            Interruption: no function is the cause; the roll-out can be resumed.
        """
        self._stop_if_too_many_failed(self._history.stopped)
        if not self._history.stopped:
            pending = self._history.pending
            self._process([each for each in pending if each.arn in self._canaries], planned)
            self._process([each for each in pending if each.arn not in self._canaries], planned)
        if self._interruption:
            raise self._interruption
        if self._history.stopped:
            self._show.restart(len(self._history.changed))
            if self._rollback.run():
                self._journal.write(Event.END, outcome=ROLLED_BACK)
            return False
        if self._rollback.run(only=[record for record in self._history.changed if record.has_failed]):
            self._journal.write(Event.END, outcome=DONE)
        return not self._history.failed

    def _process(self, records: Sequence[Record], planned: Mapping[str, Function]) -> None:
        tasks = (self._process_function(record, planned.get(record.arn)) for record in records)
        try:
            Scheduler(tasks, self._workers, self._functions.pace, lambda: not self._halt.is_set()).run()
        except BaseException:  # Ctrl-C too: the functions that were begun are complete now
            self._halt.set()
            raise

    def _process_function(self, record: Record, function: Function | None) -> Waiting:
        """Roll out one function, and record a failure."""
        try:
            yield from self._roll_out_function(record, function)
        except Interruption as error:
            self._interruption = self._interruption or error
            self._halt.set()
        except NotFound as error:  # a deleted function is no failure, a missing alias is one
            if self._exists(record):
                yield from self._fail(record, str(error))
            else:
                self._complete(record, Event.SKIPPED, "it no longer exists")
        except ToolError as error:
            yield from self._fail(record, str(error))

    # --- One function

    def _roll_out_function(self, record: Record, function: Function | None) -> Waiting:
        function = function or self._functions.get(record.name)
        is_ours = yield from self._apply(record, function)
        yield from self._functions.wait(record.name)
        self._probe(record)
        if self._options.alias:
            yield from self._move_alias(record, self._options.alias)
        if is_ours or record.changed_at is not None:
            self._complete(record, Event.DONE)
        else:
            self._complete(record, Event.UNCHANGED, "somebody else has done it")

    def _apply(self, record: Record, function: Function) -> Generator[float, None, bool]:
        """Update the layers, locked by the revision; return True if this roll-out changed them, now or before."""
        if record.is_open and function.layers == record.new:
            self._steps.record(record, Event.UPDATED, revision=function.revision)
        if record.changed_at is not None and function.layers == record.new:
            return True
        return (
            yield from self._steps.update(
                record, function, lambda fresh: self._new_layers(record, fresh), steps.FORWARDS
            )
        )

    def _new_layers(self, record: Record, fresh: Function) -> tuple[str, ...] | None:
        """Return the new list of layers for the present state of the function; None if it is up to date."""
        step = plan_step(fresh, self._targets, self._options)
        if step.verdict is Verdict.UP_TO_DATE:
            return None
        if step.verdict is not Verdict.CHANGE:
            raise ToolError(step.reason)
        if self._project_layers(fresh.layers) != self._project_layers(record.old):
            # Two roll-outs with different targets would overwrite each other for ever.
            raise ToolError("somebody else gave it another version of the layer: agree on one, and start again")
        return step.new

    def _project_layers(self, layers: Sequence[str]) -> list[str]:
        return [arn for arn in layers if (layer := layer_of(arn)) and layer in self._targets]

    def _probe(self, record: Record) -> None:
        """Invoke the function, once in a roll-out: it is a production function, and each invocation has effects."""
        is_selected = record.arn in self._canaries or not self._canaries
        if self._options.probe is None or not is_selected or record.probe:
            return
        self._steps.record(record, Event.PROBE_STARTED)
        try:
            self._functions.probe(record.name, self._options.probe.encode("utf-8", "surrogateescape"))
        except ProbeUnknown:
            raise
        except Interruption:
            self._steps.record(record, Event.PROBE_REJECTED)
            raise
        self._steps.record(record, Event.PROBED)

    def _move_alias(self, record: Record, name: str) -> Waiting:
        """Publish a version with the new layers, and point the alias to it; each attempt begins with a read."""
        patience = self._functions.patience("UpdateAlias")
        for attempt in itertools.count():
            alias = self._functions.alias(record.name, name)
            if record.move and alias.version not in (record.move.old, record.move.new):
                raise ToolError(f"somebody else pointed {name} to version {alias.version}")
            try:
                move = record.move or (yield from self._publish(record, alias))
                if (alias.version, alias.weights) != (move.new, {}):
                    self._functions.move_alias(record.name, alias, move.new, {})
            except RETRYABLE as error:
                problem: AwsError = error
            else:
                self._steps.record(record, Event.ALIAS_MOVED)
                return
            if isinstance(problem, Conflict):
                yield from self._functions.wait_while_busy(record.name, attempt)
            pause_before_retry(problem, attempt, patience)

    def _publish(self, record: Record, alias: Alias) -> Generator[float, None, AliasMove]:
        function = self._functions.get(record.name)
        if plan_step(function, self._targets, self._options).verdict is not Verdict.UP_TO_DATE:
            raise ToolError("somebody else changed its layers before a version was published")
        self._steps.record(record, Event.PUBLISH_STARTED, revision=function.revision)
        version = self._functions.publish_version(record.name, function.revision)
        yield from self._functions.wait(record.name, version)
        fields = {"alias": alias.name, "old": alias.version, "weights": dict(alias.weights), "new": version}
        self._steps.record(record, Event.ALIAS_MOVE_STARTED, **fields)
        return AliasMove(alias.name, alias.version, dict(alias.weights), version)

    # --- Outcomes

    def _exists(self, record: Record) -> bool:
        try:
            self._functions.get(record.name)
        except NotFound:
            return False
        return True

    def _complete(self, record: Record, outcome: Event, reason: str = "") -> None:
        self._steps.record(record, outcome, **({"reason": reason} if reason else {}))
        self._show(record.name, reason or outcome.value)

    def _fail(self, record: Record, reason: str) -> Waiting:
        self._steps.record(record, Event.FAILED, reason=reason)
        self._show(record.name, f"failed: {reason}")
        self._stop_if_too_many_failed(f"{record.name}: {reason}")
        if not self._history.stopped:
            yield from self._rollback.restore(record)

    def _stop_if_too_many_failed(self, reason: str) -> None:
        """Stop at the first failure beyond the limit; among canaries, at the first.

        Several functions can fail at the same time, each in its own thread, and a roll-out stops once. The lock covers
        the check and the event: without it, two threads could both find that nothing has stopped it yet.
        """
        failed = self._history.failed
        if any(record.arn in self._canaries for record in failed) or len(failed) > self._options.max_failures:
            self._halt.set()
            with self._stop_lock:
                if not self._history.stopped:
                    self._journal.write(Event.STOP, reason=reason or f"{failed[-1].name}: {failed[-1].reason}")
