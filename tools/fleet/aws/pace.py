"""The pace of all calls of the process.

Why a pacer: AWS Lambda accepts 15 calls per second of its control plane, counted for an account and region over all
callers, deployments of other teams among them; the quota cannot be raised (AWS Lambda Developer Guide,
gettingstarted-limits). A roll-out to hundreds of functions by 8 threads would use all of it, and retries would make it
worse: each thread backs off alone while the others continue. So all threads share one `Pacer` for each region:

- Requests start at least 1/8 s apart. Delays in the network can push several together; 8 sent in a second are then
  never more than 10 that arrive within one, which leaves a third of the quota to others.
- `GetFunction` has a quota of its own, 100 per second, and so has an interval of its own here. Plans and polls use this
  call alone, so they take nothing from the updates. `Invoke` is not a call of the control plane.
- `GetAlias` counts like the updates, but a plan with `--publish-alias` needs one for each function, when nothing is
  written yet. At the pace of updates, that would be a third of their whole time. So the interval after it is shorter:
  up to 14 per second, which leaves little to others, for as long as the plan takes.
- The lock is held while a thread sleeps. A thread that wakes late delays the next one, and never meets it.
- After a 429, no thread sends for a second: the quota is exhausted, whoever used it.

Retries pass through the pacer too, because it is called before each HTTP request and not before each call.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEFAULT_RATE = 8.0  # requests per second
MAX_RATE = 15.0  # the quota
GET_FUNCTION_RATE = 50.0  # half of the quota
MAX_ALIAS_RATE = 14.0  # GetAlias, one less than the quota


@dataclass(frozen=True)
class Pace:
    """Pauses in seconds, and the clock.

    Args:
        between_requests: of all threads together, in one region.
        between_reads: the same for `GetFunction`.
        after_throttling: without any request, after a 429.
        between_polls: of a function whose update is in progress; times the number of attempts if it is busy.
        first_retry: the longest pause before the second attempt after an error of the network or of AWS; it doubles
            with each attempt, up to `longest_retry`.
        outage: after this time without success, the attempts end.
        jitter: returns a number from 0 to 1; a pause is from half of its length to all of it.
    """

    between_requests: float = 1 / DEFAULT_RATE
    between_reads: float = 1 / GET_FUNCTION_RATE
    after_throttling: float = 1.0
    between_polls: float = 1.0
    first_retry: float = 0.5
    longest_retry: float = 8.0
    outage: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    @property
    def between_alias_reads(self) -> float:
        """The pause after `GetAlias`: it grows with that of other requests, and is never longer."""
        proportional = self.between_requests * DEFAULT_RATE / MAX_ALIAS_RATE
        return min(self.between_requests, max(proportional, 1 / MAX_ALIAS_RATE))


class Pacer:
    """Delays the requests of all threads in one region; the theory is at the top of this file."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._others = _Interval(pace)
        self._reads = _Interval(pace)

    def wait(self, event_name: str, **_: Any) -> None:
        """Sleep until the next request may start; botocore calls this before each request.

        Args:
            event_name: `before-send.lambda.OPERATION`.
        """
        interval = self._interval(event_name)
        if interval:
            interval.wait(self._length(event_name))

    def record(self, event_name: str, parsed_response: dict[str, Any] | None = None, **_: Any) -> None:
        """Delay all threads after a 429; botocore calls this after each request."""
        interval = self._interval(event_name)
        if interval and (parsed_response or {}).get("ResponseMetadata", {}).get("HTTPStatusCode") == 429:
            interval.pause(self._pace.after_throttling)

    def _length(self, event_name: str) -> float:
        """Return the time until the next request of the same interval, in seconds."""
        operation = event_name.rpartition(".")[2]
        if operation == "GetFunction":
            return self._pace.between_reads
        return self._pace.between_alias_reads if operation == "GetAlias" else self._pace.between_requests

    def _interval(self, event_name: str) -> _Interval | None:
        _, service, operation = event_name.split(".")
        if service != "lambda" or operation == "Invoke":
            return None
        return self._reads if operation == "GetFunction" else self._others


class _Interval:
    """Keeps the starts of requests apart."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._lock = threading.Lock()  # held while a thread sleeps
        self._next = 0.0

    def wait(self, length: float) -> None:
        """Sleep until a request may start; the next one starts `length` seconds later."""
        with self._lock:
            while (pause := self._next - self._pace.clock()) > 0:
                self._pace.sleep(pause)
            self._next = self._pace.clock() + length

    def pause(self, seconds: float) -> None:
        self._next = max(self._next, self._pace.clock() + seconds)
