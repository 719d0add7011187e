"""Time limits of invocations on Lambda Managed Instances, where the service stops no code.

AWS Lambda Developer Guide, lambda-managed-instances-execution-environment: an invocation has its own timeout, but its
code runs on and keeps the slot. So the runtime ends the stream itself: a process worker looks at the deadline between
two chunks, an async one has a timer. The service may have ended the invocation before; it then responds with 410.
"""

import math
import time

from streaming_runtime import ContractError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from streaming_runtime.invocation import Invocation

VERSION = "0.1.0"

FOREVER = math.inf
CLOCK_TOLERANCE = 0.05  # seconds; timeouts are whole seconds, and the clocks of two processes are read


class TimedOut(ContractError):
    """The deadline of the invocation has passed. Its type on the wire is `Function.Timeout`."""

    category = "Function"

    def __init__(self, seconds: int) -> None:
        super().__init__("Timeout", f"Task timed out after {seconds}.00 seconds")  # the message of the service


class TimeLimit:
    """The deadline of one invocation.

    Attributes:
        seconds: the timeout of the function. The service sends the deadline only, and timeouts are whole seconds.
    """

    __slots__ = ("_deadline", "seconds")

    def __init__(self, invocation: "Invocation") -> None:
        deadline_ms = invocation.deadline_ms
        self._deadline = deadline_ms / 1000 if deadline_ms > 0 else FOREVER
        remaining = self._deadline - time.time()
        self.seconds = max(1, math.ceil(remaining - CLOCK_TOLERANCE)) if remaining < FOREVER else 0

    def remaining(self) -> float:
        """Return the seconds until the deadline; infinity if the Runtime API sent none."""
        return self._deadline - time.time()

    def check(self) -> None:
        """Raise TimedOut after the deadline."""
        if time.time() >= self._deadline:
            raise TimedOut(self.seconds)
