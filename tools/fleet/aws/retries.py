"""Repeats requests that failed because of the network or of AWS, for about a minute.

Why not the retries of botocore: its pauses begin at 50 ms, so six attempts are over after about a second, and a network
that is away for ten seconds would look like a function that fails. It also repeats a write whose response was lost,
without a look at what became of the first one. Here:

- A read is repeated after a connection error, a 5xx and a 429.
- A write is repeated only if AWS has certainly not carried it out: after a 429, or if there was no connection. After
  any other connection error and after a 5xx, the caller gets `OutcomeUnknown`, reads the resource, and decides; its
  next attempt waits with `Patience`, the same pauses.
- Pauses grow from half a second to eight and are random (AWS Builders' Library, "Timeouts, retries, and backoff with
  jitter"), so that threads that failed together do not return together.
- After a minute, it matters whether others were more successful. If no request of the operation got a response in the
  second half of that time, it is an `Outage`, whatever the function. Otherwise the error is that of one function.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.fleet.aws.errors import failure, mark_outage
from tools.fleet.aws.pace import Pace

SHORTEST_PAUSE = 0.01  # seconds

_READS = ("Get", "List", "Describe", "Head")
# Writes that may be repeated: the second one fails or does nothing if the first was carried out, and the callers of
# those that fail then look at the result.
_REPEATABLE = frozenset(
    {
        "AddLayerVersionPermission",
        "AssumeRole",
        "DeleteLayerVersion",
        "DeleteObject",
        "DeleteObjects",
        "PutObject",
        "PutParameter",
        "StartSigningJob",  # has a token, for which AWS Signer starts one job
    }
)


@dataclass(frozen=True)
class Retry:
    """A pause before the next attempt.

    Args:
        pause: its length in seconds.
        remaining: seconds until the attempts end.
    """

    operation: str
    reason: str
    pause: float
    remaining: float


class Retries:
    """The retries of all threads.

    Args:
        listener: receives each pause before it begins.
    """

    def __init__(self, pace: Pace, listener: Callable[[Retry], None] | None = None) -> None:
        self.pace = pace
        self.listener = listener or (lambda retry: None)
        self.is_down = False  # an outage has lasted a minute, and AWS has not responded since
        self._responses: dict[str, float] = {}  # the time of the last response, by operation
        self._calls = threading.local()  # botocore repeats a request in the thread that made the call

    def decide(
        self, operation: Any, response: Any, caught_exception: Exception | None, attempts: int, **_: Any
    ) -> int | None:
        """Sleep and return 0 if a request should be repeated, None otherwise; botocore calls this after each request.

        Args:
            operation: the `OperationModel` of botocore.
            response: the HTTP response and its content, or None.
            attempts: 1 after the first request of a call.
        """
        name: str = operation.name
        reason, is_harmless = failure(response, caught_exception)
        if not reason:
            self.responded(name)
            return None
        if attempts == 1:
            self._calls.patience = Patience(self, name)
        if not is_harmless and not name.startswith(_READS) and name not in _REPEATABLE:
            return None
        patience: Patience = self._calls.patience
        if patience.pause(reason):
            return 0
        if patience.is_outage:
            mark_outage(patience.elapsed)
        return None

    def responded(self, operation: str) -> None:
        """Note that AWS responds to this operation."""
        self._responses[operation] = self.pace.clock()
        self.is_down = False

    def last_response(self, operation: str) -> float | None:
        """Return when AWS last responded to this operation, on the clock of the pace; None for never."""
        return self._responses.get(operation)


class Patience:
    """The pauses of one call, or of several attempts at one write."""

    def __init__(self, retries: Retries, operation: str) -> None:
        self._retries = retries
        self._pace = retries.pace
        self._operation = operation
        self._since = self._pace.clock()
        self._attempts = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the first failure."""
        return self._pace.clock() - self._since

    @property
    def is_outage(self) -> bool:
        """Whether AWS has responded to no request of the operation lately.

        Not "since the first failure": responses to requests that were sent just before may arrive after it.
        """
        last = self._retries.last_response(self._operation)
        return last is None or self._pace.clock() - last > self._pace.outage / 2

    def pause(self, reason: str) -> bool:
        """Sleep before the next attempt; return False, without a pause, if the time is over.

        Dozens of functions are in progress when an outage begins. One of them waits for it; the others, which come to
        their next call later, would wait one after the other, so they do not wait at all.
        """
        remaining = self._pace.outage - self.elapsed
        if remaining < SHORTEST_PAUSE:
            self._retries.is_down = self._retries.is_down or self.is_outage
            return False
        if self._retries.is_down:
            return False
        longest = min(self._pace.first_retry * 2 ** min(self._attempts, 10), self._pace.longest_retry)
        length = min(longest * (1 + self._pace.jitter()) / 2, remaining)
        self._attempts += 1
        self._retries.listener(Retry(self._operation, reason, length, remaining))
        self._pace.sleep(length)
        return True
