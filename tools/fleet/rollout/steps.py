"""The update of one function's layers, with its lock; rolling out and rolling back use the same steps.

What can go wrong, and what happens then:

- Somebody else changes the function between our read and our update. The update carries the revision of the read
  (`RevisionId`), so AWS rejects it with 412. The function is read again, and `wanted` decides again: the list of layers
  and the revision of an update are always from one response, so no change of others is ever overwritten.
- An update of somebody else is in progress: 409. Wait for it, then the same.
- No response arrives. AWS may have carried out the update or not, so the function is read: if it has our list, the
  update was ours. The same after a 412 or 409 to a request that botocore repeated (`is_retry`).
- The process dies. The intention is in the journal already, and `--resume` compares the function with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.common.errors import ToolError
from tools.fleet.aws.errors import AwsError, Conflict, OutcomeUnknown, PreconditionFailed
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.models import Function
from tools.fleet.rollout.events import Event
from tools.fleet.rollout.history import Record
from tools.fleet.rollout.journal import Journal

MAX_ATTEMPTS = 10  # for somebody else who changes the function all the time
MAX_UNKNOWN_OUTCOMES = 3  # each is several requests, with growing pauses

RETRYABLE = (Conflict, PreconditionFailed, OutcomeUnknown)

Wanted = Callable[[Function], tuple[str, ...] | None]


@dataclass(frozen=True)
class Direction:
    """The events of an update: its intention, its success, and its rejection."""

    started: Event
    accepted: Event
    rejected: Event


FORWARDS = Direction(Event.UPDATE_STARTED, Event.UPDATED, Event.UPDATE_REJECTED)
BACKWARDS = Direction(Event.RESTORE_STARTED, Event.RESTORE_ACCEPTED, Event.RESTORE_REJECTED)


class Steps:
    """The steps on one function that both directions use."""

    def __init__(self, functions: Functions, journal: Journal) -> None:
        self.functions = functions
        self.journal = journal

    def record(self, record: Record, event: Event, **fields: Any) -> None:
        """Write an event of a function to the journal."""
        self.journal.write(event, function=record.arn, **fields)

    def update(self, record: Record, function: Function, wanted: Wanted, direction: Direction) -> bool:
        """Give `function` the layers that `wanted` returns; return True if this call changed them.

        Args:
            wanted: returns the list for the present state of the function, or None if it is up to date; may raise.

        Raises:
            ToolError: AWS rejects the update, or every attempt met somebody else's.
        """
        problem: AwsError | None = None
        unknown_outcomes = 0
        for attempt in range(MAX_ATTEMPTS):
            layers = wanted(function)
            if layers is None:
                return False
            problem = self._try(record, function, layers, direction)
            if problem is None:
                return True
            if isinstance(problem, Conflict):
                self.functions.wait_while_busy(record.name, attempt)
            function = self.functions.get(record.name)
            is_unknown = isinstance(problem, OutcomeUnknown)
            if (is_unknown or problem.is_retry) and function.layers == layers:
                self.record(record, direction.accepted, revision=function.revision)
                return True
            self.record(record, direction.rejected)
            unknown_outcomes += is_unknown
            if unknown_outcomes == MAX_UNKNOWN_OUTCOMES:
                break
        raise ToolError(f"gave up after {attempt + 1} attempts: {problem}")

    def _try(
        self, record: Record, function: Function, layers: tuple[str, ...], direction: Direction
    ) -> AwsError | None:
        """Make one attempt: lock by the revision, and update. Return an error after which another one is useful."""
        self.record(record, direction.started, old=function.layers, new=layers, revision=function.revision)
        try:
            revision = self.functions.set_layers(record.name, layers, function.revision)
        except RETRYABLE as error:
            return error
        except ToolError:
            self.record(record, direction.rejected)
            raise
        self.record(record, direction.accepted, revision=revision)
        return None
