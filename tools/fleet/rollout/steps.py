"""The update of one function's layers, with its lock; rolling out and rolling back use the same steps.

What can go wrong, and what happens then:

- Somebody else changes the function between our read and our update. The update carries the revision of the read
  (`RevisionId`), so AWS rejects it with 412. The function is read again, and `wanted` decides again: the list of layers
  and the revision of an update are always from one response, so no change of others is ever overwritten.
- An update of somebody else is in progress: 409. Wait for it, then the same.
- No response arrives. AWS may have carried out the update or not, or may still do so. So the function is read before
  the next attempt: if it has our list, the update was ours. Until then the intention stays open in the journal, also if
  a later attempt meets a 412, because the update in the way can be the first one.
- The process dies. The intention is in the journal already, and `--resume` compares the function with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from tools.common.errors import ToolError
from tools.common.output import count
from tools.fleet.aws.errors import AwsError, Conflict, OutcomeUnknown, PreconditionFailed, outage
from tools.fleet.aws.models import Function, Wrappers
from tools.fleet.aws.retries import Patience
from tools.fleet.rollout.events import Event
from tools.fleet.rollout.history import Record
from tools.fleet.rollout.journal import Journal
from tools.fleet.rollout.places import Places
from tools.fleet.rollout.wrappers import with_wrappers

MAX_ATTEMPTS = 10  # for somebody else who changes the function all the time

RETRYABLE = (Conflict, PreconditionFailed, OutcomeUnknown)


@dataclass(frozen=True)
class Change:
    """What an update gives a function: its layers, and the two variables; None keeps these."""

    layers: tuple[str, ...]
    wrappers: Wrappers | None = None

    def is_in(self, function: Function) -> bool:
        """Whether the function has it."""
        return function.layers == self.layers and self.wrappers in (None, function.wrappers)


Wanted = Callable[[Function], Change | None]


@dataclass(frozen=True)
class Direction:
    """The events of an update: its intention, its success, and its rejection."""

    started: Event
    accepted: Event
    rejected: Event


FORWARDS = Direction(Event.UPDATE_STARTED, Event.UPDATED, Event.UPDATE_REJECTED)
BACKWARDS = Direction(Event.RESTORE_STARTED, Event.RESTORE_ACCEPTED, Event.RESTORE_REJECTED)


def pause_before_retry(problem: AwsError, attempt: int, patience: Patience) -> None:
    """Sleep after an unknown outcome, which is a matter of time; otherwise count the attempts.

    Raises:
        Outage: the time is over, and no other function was more successful.
        ToolError: the time or the number of attempts is over.
    """
    if isinstance(problem, OutcomeUnknown):
        if patience.pause(problem.code or "no response"):
            return
        if patience.is_outage:
            raise outage(problem, patience.elapsed)
    elif attempt + 1 < MAX_ATTEMPTS:
        return
    raise ToolError(f"gave up after {count(attempt + 1, 'attempt')}: {problem}")


class Steps:
    """The steps on one function that both directions use."""

    def __init__(self, places: Places, journal: Journal) -> None:
        self.places = places
        self.journal = journal

    def record(self, record: Record, event: Event, **fields: Any) -> None:
        """Write an event of a function to the journal."""
        self.journal.write(event, function=record.arn, **fields)

    def update(
        self, record: Record, function: Function, wanted: Wanted, direction: Direction
    ) -> Generator[float, None, bool]:
        """Give `function` what `wanted` returns; return True if this call changed it.

        Args:
            wanted: returns the change for the present state of the function, or None if it is up to date; may raise.

        Raises:
            Outage: the outcome stayed unknown for about a minute, as that of all other updates.
            ToolError: AWS rejects the update, or every attempt met somebody else's.
        """
        sent: list[Change] = []  # with an unknown outcome
        functions = self.places.functions(record)
        patience = functions.patience("UpdateFunctionConfiguration")
        for attempt in itertools.count():
            change = wanted(function)
            if change is None:
                return False
            problem = self._try(record, function, change, direction)
            if problem is None:
                return True
            if isinstance(problem, OutcomeUnknown):
                sent.append(change)
            elif isinstance(problem, Conflict):
                yield from functions.wait_while_busy(record.name, attempt)
            function = functions.get(record.name)
            if any(each.is_in(function) for each in sent):
                self.record(record, direction.accepted, revision=function.revision)
                return True
            if not sent:
                self.record(record, direction.rejected)
            pause_before_retry(problem, attempt, patience)
        raise AssertionError("unreachable")

    def _try(self, record: Record, function: Function, change: Change, direction: Direction) -> AwsError | None:
        """Make one attempt: lock by the revision, and update. Return an error after which another one is useful."""
        fields: dict[str, Any] = {"old": function.layers, "new": change.layers, "revision": function.revision}
        variables = None
        if change.wrappers is not None:
            fields |= {"oldWrappers": function.wrappers, "newWrappers": change.wrappers}
            variables = with_wrappers(function, change.wrappers)
        self.record(record, direction.started, **fields)
        try:
            functions = self.places.functions(record)
            revision = functions.set_layers(record.name, change.layers, function.revision, variables)
        except RETRYABLE as error:
            return error
        except ToolError:
            self.record(record, direction.rejected)
            raise
        self.record(record, direction.accepted, revision=revision)
        return None
