"""`_X_AMZN_TRACE_ID` with many invocations in one process: `os.environ` returns the trace id of the current invocation.

The variable belongs to the process, and a process-wide value would be that of another invocation. But the X-Ray SDK and
OpenTelemetry read it, each time they need it, with `os.environ.get` or `os.getenv`. So the process has no such
variable, child processes do not get one either, and a lookup of this name returns the value of the context.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from streaming_runtime.concurrent_log import ConcurrentLog

VERSION = "0.1.0"

NAME = "_X_AMZN_TRACE_ID"


def install(log: "ConcurrentLog") -> None:
    """Change the class of `os.environ`.

    Args:
        log: has the invocation of each context.
    """

    class Environment(type(os.environ)):  # type: ignore[misc]
        def __getitem__(self, name: str) -> str:
            if name == NAME:
                invocation = log.invocation
                trace_id = invocation.trace_id if invocation is not None else None
                if trace_id is None:
                    raise KeyError(name)
                return trace_id
            value: str = super().__getitem__(name)
            return value

    os.environ.pop(NAME, None)
    os.environ.__class__ = Environment
