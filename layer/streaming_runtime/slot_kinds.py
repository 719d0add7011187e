"""How invocations that come at the same time are served: each in a process of its own, or many on one event loop."""

import os
import sys

from streaming_runtime import ContractError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from streaming_runtime.handler import Handler

VERSION = "0.1.0"

CONCURRENCY = "STREAMING_RUNTIME_CONCURRENCY"  # process or async; by default the handler decides
PROCESS, ASYNC = "process", "async"
MAX_CONCURRENCY = "AWS_LAMBDA_MAX_CONCURRENCY"
MAX_SLOTS = 1600  # PerExecutionEnvironmentMaxConcurrency of the Lambda API

CO_ASYNC_GENERATOR = 0x200  # inspect


def check_settings(concurrency: str, kind: "str | None") -> int:
    """Return the number of slots. Raises ContractError (`InvalidConcurrency`) if a variable has an invalid value."""
    if not (concurrency.isascii() and concurrency.isdigit() and 1 <= int(concurrency[:9]) <= MAX_SLOTS):
        message = f"{MAX_CONCURRENCY} is {concurrency[:40]!r}, expected a whole number from 1 to {MAX_SLOTS}"
        raise ContractError("InvalidConcurrency", message)
    if kind not in (None, "", PROCESS, ASYNC):
        raise ContractError("InvalidConcurrency", f"{CONCURRENCY} is {kind[:40]!r}, expected process or async")
    return int(concurrency)


def shares(kind: str, slots: int) -> "list[range]":
    """Return the slots of each worker. On event loops, some workers can have one slot less than others."""
    count = slots if kind == PROCESS else min(cpu_count(), slots)
    return [range(number, slots, count) for number in range(count)]


def cpu_count() -> int:
    """Return the number of CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # another system than Linux
        return os.cpu_count() or 1


def choose(loaded: "Handler", requested: "str | None") -> str:
    """Return the kind that was requested, or the one that suits the handler.

    Raises ContractError (`InvalidConcurrency`) if `async` was requested for a handler that is not async.
    """
    if requested == PROCESS:
        return PROCESS
    if is_async(loaded):
        return ASYNC
    if requested == ASYNC:
        problem = (
            "but a tracing agent calls the handler, and needs a process for each invocation: remove one of the two"
            if loaded.is_observed
            else "but the handler is not: make it an async generator function (async def with yield) or an ASGI "
            "application, or remove the variable"
        )
        raise ContractError("InvalidConcurrency", f"{CONCURRENCY} is async, {problem}")
    return PROCESS


def is_async(loaded: "Handler") -> bool:
    """Return whether the handler is an ASGI application or an async generator function, and no tracing agent calls it.

    An agent observes the call of the handler, which has to last as long as the stream. So it needs a thread of its own.
    """
    return not loaded.is_observed and (loaded.is_asgi or is_async_generator_function(loaded.function))


def is_async_generator_function(function: "Callable[..., Any]") -> bool:
    """Return what `inspect.isasyncgenfunction` returns, also for an object with an async `__call__`."""
    partial: Any = getattr(sys.modules.get("_functools"), "partial", ())
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    call: Any = getattr(type(function), "__call__", None)  # noqa: B004 - the method itself, which a class can inherit
    code = getattr(function, "__code__", None) or getattr(call, "__code__", None)
    return code is not None and bool(code.co_flags & CO_ASYNC_GENERATOR)
