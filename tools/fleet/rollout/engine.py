"""Carries a plan out: canaries first, then all others, several at a time, until the end or one failure too many."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from tools.common.errors import ToolError
from tools.fleet import FleetError
from tools.fleet.aws.arns import layer_of
from tools.fleet.aws.functions import Functions, GoneError, NoAccessError, NotNowError, UnclearError
from tools.fleet.aws.models import Alias, Function
from tools.fleet.aws.session import WORKERS
from tools.fleet.rollout import plan
from tools.fleet.rollout.change import FORWARDS, change_layers
from tools.fleet.rollout.journal import DONE, PUT_BACK, AliasMove, Journal, Record
from tools.fleet.rollout.plan import Goal, Verdict
from tools.fleet.rollout.rollback import put_back

_TRIES = 10


class Show(Protocol):
    """Tells somebody how far it is."""

    def __call__(self, name: str, what: str) -> None: ...


@dataclass(frozen=True)
class Settings:
    """How a roll-out goes about it.

    Args:
        canary: so many functions go first, and one failure among them is one too many.
        probe: an event that the canaries (without any: all functions) must answer with success.
        alias: publish a version of each function, and point this alias to it.
        max_failures: so many functions may fail.
    """

    canary: int = 0
    probe: bytes | None = None
    alias: str | None = None
    max_failures: int = 0


class RollOut:
    """One roll-out, begun or gone on with: what is done is in the journal, and what is not is left to do."""

    def __init__(self, functions: Functions, journal: Journal, goal: Goal, settings: Settings, show: Show) -> None:
        self._functions = functions
        self._journal = journal
        self._goal = goal
        self._settings = settings
        self._show = show
        self._halt = threading.Event()  # nothing more is begun, what is begun is brought to its end
        self._lost: NoAccessError | None = None
        changing = [record.arn for record in journal.history.records.values() if record.verdict == "change"]
        self._canaries = set(changing[: settings.canary])

    def run(self, planned: dict[str, Function]) -> bool:
        """Bring everything that remains to its end, and tell whether it was the one that was wanted.

        Args:
            planned: the functions as they were read for the plan, by ARN; others are read anew.

        Raises:
            NoAccessError: AWS does not listen to this process any more; it can be gone on with.
        """
        history = self._journal.history
        self._stop_if_too_many(history.stopped)
        if not history.stopped:
            remaining = history.remaining
            self._bring_all([each for each in remaining if each.arn in self._canaries], planned)
            self._bring_all([each for each in remaining if each.arn not in self._canaries], planned)
        if self._lost:
            raise self._lost
        if history.stopped:
            if put_back(self._functions, self._journal, self._show):
                self._journal.write("end", outcome=PUT_BACK)
            return False
        unrestored = [record for record in history.touched if record.has_failed]
        if all([put_back(self._functions, self._journal, self._show, only=record) for record in unrestored]):
            self._journal.write("end", outcome=DONE)
        return not history.failed

    def _bring_all(self, records: Sequence[Record], planned: dict[str, Function]) -> None:
        if self._halt.is_set():
            return
        with ThreadPoolExecutor(WORKERS) as pool:
            running = [pool.submit(self._bring, record, planned.get(record.arn)) for record in records]
            try:
                for each in running:
                    each.result()
            except BaseException:  # Ctrl-C: what is begun is brought to its end, and no more
                self._halt.set()
                raise

    def _bring(self, record: Record, function: Function | None) -> None:
        """Bring one function to its end, be that a failure."""
        if self._halt.is_set():
            return
        try:
            self._advance_or_skip(record, function)
        except NoAccessError as error:
            self._lost = error
            self._halt.set()
        except ToolError as error:
            self._fail(record, str(error))

    def _advance_or_skip(self, record: Record, function: Function | None) -> None:
        """A function that somebody deleted meanwhile is no failure; an alias of one that is there is."""
        try:
            self._advance(record, function)
        except GoneError:
            if self._exists(record):
                raise
            self._end(record, "skipped", "it does not exist any more")

    def _exists(self, record: Record) -> bool:
        try:
            self._functions.get(record.name)
        except GoneError:
            return False
        return True

    def _advance(self, record: Record, function: Function | None) -> None:
        function = function or self._functions.get(record.name)
        if record.is_open and function.layers == record.new:
            self._note(record, "changed", revision=function.revision)
        is_ours = record.touched is not None and function.layers == record.new
        if not is_ours:
            is_ours = change_layers(
                self._functions, function, lambda fresh: self._wanted(record, fresh), self._noter(record), FORWARDS
            )
        self._functions.wait(record.name)
        self._probe(record)
        if self._settings.alias:
            self._move_alias(record, self._settings.alias)
        if is_ours or record.touched is not None:
            self._end(record, "done")
        else:
            self._end(record, "same", "somebody else has done it")

    def _wanted(self, record: Record, fresh: Function) -> tuple[str, ...] | None:
        """The list for a function as it is now; none where it is right."""
        step = plan.step(fresh, self._goal)
        if step.verdict is Verdict.RIGHT:
            return None
        if step.verdict is not Verdict.CHANGE:
            raise FleetError(step.reason)
        if self._ours(fresh.layers) != self._ours(record.old):
            # To overwrite it could go on for ever, with another roll-out that does the same.
            raise FleetError(
                "somebody else gave it another version of the layer meanwhile: agree on one, and begin anew"
            )
        return step.new

    def _ours(self, layers: Sequence[str]) -> list[str]:
        return [arn for arn in layers if (layer := layer_of(arn)) and layer in self._goal.targets]

    def _probe(self, record: Record) -> None:
        event = self._settings.probe
        if event is not None and (record.arn in self._canaries or not self._canaries):
            self._functions.probe(record.name, event)

    def _move_alias(self, record: Record, name: str) -> None:
        """Publish the function as the roll-out made it, and point the alias to that version."""
        for tried in range(_TRIES):
            alias = self._functions.alias(record.name, name)
            if record.move and alias.version not in (record.move.old, record.move.new):
                raise FleetError(f"somebody else pointed {name} to version {alias.version} meanwhile")
            with suppress(NotNowError, UnclearError):
                move = record.move or self._publish(record, alias)
                if (alias.version, alias.weights) != (move.new, {}):
                    self._functions.move_alias(record.name, alias, move.new, {})
                self._note(record, "alias-moved")
                return
            self._functions.come_to_rest(record.name, tried)
        raise FleetError(f"it or its alias {name} was changed by others each of {_TRIES} times")

    def _publish(self, record: Record, alias: Alias) -> AliasMove:
        function = self._functions.get(record.name)
        if plan.step(function, self._goal).verdict is not Verdict.RIGHT:
            raise FleetError("somebody else changed its layers before a version was published")
        self._note(record, "publish", revision=function.revision)
        version = self._functions.publish_version(record.name, function.revision)
        self._note(record, "alias", alias=alias.name, old=alias.version, weights=alias.weights, new=version)
        return AliasMove(alias.name, alias.version, dict(alias.weights), version)

    def _fail(self, record: Record, reason: str) -> None:
        self._note(record, "failed", reason=reason)
        self._show(record.name, f"failed: {reason}")
        self._stop_if_too_many(f"{record.name}: {reason}")
        if not self._journal.history.stopped:
            put_back(self._functions, self._journal, self._show, only=record)

    def _stop_if_too_many(self, reason: str) -> None:
        """Halt once there is one failure too many; it is in the journal, so that `--resume` puts back too."""
        history = self._journal.history
        failed = history.failed
        if any(record.arn in self._canaries for record in failed) or len(failed) > self._settings.max_failures:
            self._halt.set()
            if not history.stopped:
                self._journal.write("stop", reason=reason or f"{failed[-1].name}: {failed[-1].reason}")

    def _end(self, record: Record, outcome: str, reason: str = "") -> None:
        self._note(record, outcome, **({"reason": reason} if reason else {}))
        self._show(record.name, reason or outcome)

    def _note(self, record: Record, event: str, **fields: Any) -> None:
        self._journal.write(event, function=record.arn, **fields)

    def _noter(self, record: Record) -> Any:
        return lambda event, **fields: self._note(record, event, **fields)
