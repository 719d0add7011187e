"""Rolls functions out, wave by wave, several at a time, until all are complete, too many failed, or a gate failed.

What can go wrong: any call can fail or get no response, the process can die between any two of them, other people
change the same functions, and one of them may start a second roll-out. The engine keeps three promises:

- Every function ends as planned, as it was before, or as somebody else left it; never in a state in between.
- A failure beyond the limit stops everything. Functions that were begun are completed, no other is begun, and then all
  are rolled back. The `stop` is in the journal first, so that `--resume` also rolls back after a crash.
- A resumed roll-out repeats no step that AWS has carried out. The journal shows how far each function came, and the
  function itself shows whether an open step was carried out.

`_roll_out_function` is the life of one function, from top to bottom: check, lock, apply, wait, probe, release. With
`--shift` it runs once for each step, and only the first one changes the function.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence

from tools.common.errors import ToolError
from tools.fleet.aws.arns import layer_of
from tools.fleet.aws.cloudwatch import Metric
from tools.fleet.aws.errors import AwsError, CodeNotSigned, GatesUnreadable, Interruption, NotFound, ProbeUnknown
from tools.fleet.aws.functions import Waiting
from tools.fleet.aws.models import Function
from tools.fleet.aws.session import WORKERS
from tools.fleet.rollout import steps
from tools.fleet.rollout.ending import Ending
from tools.fleet.rollout.events import Event
from tools.fleet.rollout.gate_command import GateFailed
from tools.fleet.rollout.gates import Gates, LocatedMetric
from tools.fleet.rollout.history import DONE, HAS_NEW_VERSION, ROLLED_BACK, Record
from tools.fleet.rollout.journal import Journal
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.places import Places
from tools.fleet.rollout.plan import Verdict, plan_step
from tools.fleet.rollout.progress import SHIFTED, Progress
from tools.fleet.rollout.release import AliasChanged, Release
from tools.fleet.rollout.rollback import Rollback
from tools.fleet.rollout.scheduler import Scheduler
from tools.fleet.rollout.steps import Steps
from tools.fleet.rollout.waves import COMPLETE, Stage, stages


class RollOut:
    """A roll-out whose plan is in the journal; new or resumed.

    Args:
        places: in which functions are changed, with the target versions.
        gates: between waves.
        progress: shows the outcome of each function.
        workers: the number of threads.
        ending: no further function is begun after a signal.
    """

    def __init__(
        self,
        places: Places,
        journal: Journal,
        options: Options,
        gates: Gates,
        progress: Progress,
        workers: int = WORKERS,
        ending: Ending | None = None,
    ) -> None:
        self._ending = ending or Ending()
        self._places = places
        self._journal = journal
        self._history = journal.history
        self._options = options
        self._gates = gates
        self._show = progress
        self._workers = workers
        self._steps = Steps(places, journal)
        self._rollback = Rollback(self._steps, progress, workers, self._ending)
        self._halt = threading.Event()  # no further function is begun
        self._stop_lock = threading.Lock()
        self._interruption: Interruption | None = None
        self._release = Release(self._steps, options)
        changes = [record for record in self._history.records.values() if record.verdict is Verdict.CHANGE]
        self._stages = list(stages(options, changes))
        first_waves = [each for each in self._stages if each.is_first and options.wave_ends]
        self._canaries = {record.arn for stage in first_waves for record in stage.records}

    def run(self, planned: Mapping[str, Function]) -> bool:
        """Process all pending functions; return True if every one succeeded.

        Args:
            planned: the functions as they were read for the plan, by ARN; others are read again.

        Raises:
            Interruption: no function is the cause; the roll-out can be resumed.
            KeyboardInterrupt: after a signal, if functions remain.
        """
        self._stop_if_too_many_failed(self._history.stopped)
        if not self._history.stopped:
            self._show.restart(sum(len(self._pending(stage)) for stage in self._stages))
            self._run_stages(planned)
        if self._interruption:
            raise self._interruption
        if self._ending.is_requested and self._history.pending and not self._history.stopped:
            raise KeyboardInterrupt
        if self._history.stopped:
            self._show.restart(len(self._history.changed))
            if self._rollback.run():
                self._journal.write(Event.END, outcome=ROLLED_BACK)
            return False
        changed = self._history.changed
        is_restored = self._rollback.run(only=[each for each in changed if each.has_failed or each.is_postponed])
        if is_restored and not self._history.postponed:
            self._journal.write(Event.END, outcome=DONE)
        return not self._history.failed and not self._history.postponed

    def _run_stages(self, planned: Mapping[str, Function]) -> None:
        """Process the waves, and the steps of a shift; a resumed roll-out repeats none, and no gate that was passed."""
        for stage in self._stages:
            self._process(self._pending(stage), planned, stage.percent)
            is_last = stage is self._stages[-1]
            if not self._is_halted and not is_last and stage.key not in self._history.passed:
                self._pass_gates(stage)
            if self._is_halted:
                return

    @property
    def _is_halted(self) -> bool:
        """Whether no further function is begun."""
        return self._halt.is_set() or self._ending.is_requested

    def _pending(self, stage: Stage) -> list[Record]:
        """Return the functions that the stage changes; one without an alias is complete after the first of its wave."""
        pending = {record.arn for record in self._history.pending}
        first = next(each.percent for each in self._stages if each.wave == stage.wave)
        return [
            each
            for each in stage.records
            if each.arn in pending and each.percent < stage.percent and (each.alias_name or stage.percent == first)
        ]

    def _pass_gates(self, stage: Stage) -> None:
        """Bake and check the gates; stop the roll-out if one fails. After a crash, the rest of the pause is enough."""
        if self._history.baking is None:
            self._journal.write(Event.BAKE_STARTED, wave=stage.wave, percent=stage.percent)
        assert self._history.baking is not None
        since = self._history.baking[1]
        elapsed = max((self._gates.now() - since).total_seconds(), 0)  # the clocks of two machines can differ

        def is_interrupted() -> bool:
            return self._ending.is_requested

        try:
            self._gates.bake(str(stage), self._options.bake - elapsed, is_interrupted)
            if is_interrupted():
                return
            found = self._gates.check(self._metrics(), since, is_interrupted)
        except GateFailed as error:
            self._stop(f"after {stage}: {error}")
        except AwsError as error:
            if isinstance(error, Interruption):
                raise
            raise GatesUnreadable(f"the gates after {stage} cannot be read: {error}") from error
        else:
            if not is_interrupted():
                self._journal.write(Event.GATES_PASSED, wave=stage.wave, percent=stage.percent, found=found)

    def _metrics(self) -> Iterator[tuple[str, list[LocatedMetric]]]:
        """Yield what is counted for the error rate: all functions with the new version, and that version in a shift."""
        changed = [each for each in self._history.records.values() if each.state in HAS_NEW_VERSION]
        yield "the changed functions", [(each.place, Metric(each.name)) for each in changed]
        shifted = [
            (each.place, Metric(each.name, each.alias_name, each.move.new))
            for each in changed
            if each.move and each.percent < COMPLETE
        ]
        if shifted:
            yield "the new versions", shifted

    def _process(self, records: Sequence[Record], planned: Mapping[str, Function], percent: float) -> None:
        tasks = (self._process_function(record, planned.get(record.arn), percent) for record in records)
        try:
            Scheduler(tasks, self._workers, self._places.pace, lambda: not self._halt.is_set(), self._ending).run()
        except BaseException:
            self._halt.set()
            raise

    def _process_function(self, record: Record, function: Function | None, percent: float) -> Waiting:
        """Roll out one function, and record a failure."""
        try:
            yield from self._roll_out_function(record, function, percent)
        except Interruption as error:
            self._interruption = self._interruption or error
            self._halt.set()
        except NotFound as error:  # a deleted function is no failure, a missing alias is one
            if self._exists(record):
                yield from self._fail(record, str(error))
            else:
                self._complete(record, Event.SKIPPED, "it no longer exists")
        except CodeNotSigned as error:
            self._complete(record, Event.SKIPPED, str(error))
        except AliasChanged as error:
            yield from self._postpone(record, str(error))
        except ToolError as error:
            yield from self._fail(record, str(error))

    # --- One function

    def _roll_out_function(self, record: Record, function: Function | None, percent: float) -> Waiting:
        is_ours = False
        if not record.percent:
            self._release.check(record)
            is_ours = yield from self._apply(record, function or self._places.functions(record).get(record.name))
            yield from self._places.functions(record).wait(record.name)
            self._probe(record)
        if record.alias_name:
            yield from self._release.move(record, percent)
            if percent < COMPLETE:
                self._show(self._history.label(record), f"{percent:g} {SHIFTED}")
                return
        if is_ours or record.changed_at is not None:
            self._complete(record, Event.DONE)
        else:
            self._complete(record, Event.UNCHANGED, "somebody else has done it")

    def _apply(self, record: Record, function: Function) -> Generator[float, None, bool]:
        """Update the layers, locked by the revision; return True if this roll-out changed them, now or before."""
        if record.is_open and record.has_new(function):
            self._steps.record(record, Event.UPDATED, revision=function.revision)
        if record.changed_at is not None and record.has_new(function):
            return True
        return (
            yield from self._steps.update(
                record, function, lambda fresh: self._change_of(record, fresh), steps.FORWARDS
            )
        )

    def _change_of(self, record: Record, fresh: Function) -> steps.Change | None:
        """Return the change for the present state of the function; None if it is up to date."""
        step = plan_step(fresh, self._places.targets(record), self._options)
        if step.verdict is Verdict.UP_TO_DATE:
            return None
        if step.verdict is not Verdict.CHANGE:
            raise ToolError(step.reason)
        if self._project_layers(record, fresh.layers) != self._project_layers(record, record.old):
            # Two roll-outs with different targets would overwrite each other for ever.
            raise ToolError("somebody else gave it another version of the layer: agree on one, and start again")
        return steps.Change(step.new, step.wrappers)

    def _project_layers(self, record: Record, layers: Sequence[str]) -> list[str]:
        return [arn for arn in layers if layer_of(arn) in self._places.targets(record)]

    def _probe(self, record: Record) -> None:
        """Invoke the function, once in a roll-out: it is a production function, and each invocation has effects."""
        is_selected = record.arn in self._canaries or not self._canaries
        if self._options.probe is None or not is_selected or record.probe:
            return
        self._steps.record(record, Event.PROBE_STARTED)
        try:
            self._places.functions(record).probe(record.name, self._options.probe.encode("utf-8", "surrogateescape"))
        except ProbeUnknown:
            raise
        except Interruption:
            self._steps.record(record, Event.PROBE_REJECTED)
            raise
        self._steps.record(record, Event.PROBED)

    # --- Outcomes

    def _exists(self, record: Record) -> bool:
        try:
            self._places.functions(record).get(record.name)
        except NotFound:
            return False
        return True

    def _complete(self, record: Record, outcome: Event, reason: str = "") -> None:
        self._steps.record(record, outcome, **({"reason": reason} if reason else {}))
        self._show(self._history.label(record), reason or outcome.value)

    def _fail(self, record: Record, reason: str) -> Waiting:
        self._steps.record(record, Event.FAILED, reason=reason)
        self._show(self._history.label(record), f"failed: {reason}")
        self._stop_if_too_many_failed(f"{self._history.label(record)}: {reason}")
        if not self._history.stopped:
            yield from self._rollback.restore(record)

    def _postpone(self, record: Record, reason: str) -> Waiting:
        """Skip a function whose alias is not as in the plan, and restore it if it was changed."""
        self._steps.record(record, Event.POSTPONED, reason=reason)
        self._show(self._history.label(record), f"skipped: {reason}")
        if record.changed_at is not None:
            yield from self._rollback.restore(record)

    def _stop_if_too_many_failed(self, reason: str) -> None:
        """Stop at the first failure beyond the limit; in the first wave, at the first."""
        failed = self._history.failed
        if any(record.arn in self._canaries for record in failed) or len(failed) > self._options.max_failures:
            self._stop(reason or f"{self._history.label(failed[-1])}: {failed[-1].reason}")

    def _stop(self, reason: str) -> None:
        """Stop the roll-out, so that it is rolled back.

        Several functions can fail at the same time, each in its own thread, and a roll-out stops once. The lock covers
        the check and the event: without it, two threads could both find that nothing has stopped it yet.
        """
        self._halt.set()
        with self._stop_lock:
            if not self._history.stopped:
                self._journal.write(Event.STOP, reason=reason)
