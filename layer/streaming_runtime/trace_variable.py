"""`_X_AMZN_TRACE_ID` with many invocations in one process: `os.environ` returns the trace id of the current invocation.

The variable belongs to the process, and a process-wide value would be that of another invocation. But the X-Ray SDK and
OpenTelemetry read it, each time they need it, with `os.environ.get` or `os.getenv`. So the process has no such
variable, child processes do not get one either, and a lookup of this name returns the value of the context.

The X-Ray SDK also keeps the subsegments that are open, in Lambda in a `threading.local`, where those of several
invocations would mix. So it gets storage in the context instead.
"""

import os
import sys

from streaming_runtime import import_standard
from streaming_runtime.log import ImportHook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from streaming_runtime.concurrent_log import ConcurrentLog

VERSION = "0.1.0"

NAME = "_X_AMZN_TRACE_ID"
XRAY_MODULE = "aws_xray_sdk.core.lambda_launcher"


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

        def __delitem__(self, name: str) -> None:
            if name != NAME or name.encode() in self._data:
                super().__delitem__(name)

    os.environ.pop(NAME, None)
    os.environ.__class__ = Environment
    if XRAY_MODULE in sys.modules:
        separate_subsegments(sys.modules[XRAY_MODULE])
    else:
        sys.meta_path.insert(0, ImportHook(XRAY_MODULE, separate_subsegments))


def separate_subsegments(module: "Any") -> None:
    """Let the X-Ray SDK keep open subsegments in the context of each invocation."""
    storage = ContextStorage()
    # A property precedes the attribute that objects made before have set.
    module.LambdaContext._local = property(lambda self: storage, lambda self, value: None)


class ContextStorage:
    """The interface of `threading.local`, with a set of attributes for each context."""

    __slots__ = ("_variable",)

    def __init__(self) -> None:
        object.__setattr__(self, "_variable", import_standard("contextvars").ContextVar("storage", default=None))

    @property
    def __dict__(self) -> "Any":  # type: ignore[override]
        """The SDK calls its `clear`."""
        return self

    def clear(self) -> None:
        self._variable.set({})

    def __getattr__(self, name: str) -> "Any":
        attributes = self._variable.get()
        if attributes is None or name not in attributes:
            raise AttributeError(name)
        return attributes[name]

    def __setattr__(self, name: str, value: object) -> None:
        variable = self._variable
        variable.set({**(variable.get() or {}), name: value})
