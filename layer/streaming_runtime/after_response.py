"""Work after the response: the callbacks that a handler registers with `context.after_response`.

The service freezes the environment when the runtime asks for the next invocation. Work that is not complete by then
waits for the next caller, or is lost. Work before the last chunk delays the caller. So the callbacks run between the
end of the response and the next request to `next`.

- The response can end well, with an error, or because the caller has left. The callbacks run in each case.
- An error of a callback is logged; the next one runs. An exit, by `sys.exit` or by SIGTERM, waits for the rest.
- A callback sees the context variables of its invocation. A task has a copy of them, so those that an async handler or
  a coroutine function has set are taken over from its task.
- Threads can register too, at any time. A callback that nobody would call must not be accepted. So the end of an
  invocation is marked before its callbacks are read, and a registration reads the mark after it has made the list.
- A forked child inherits the callbacks. Only the process that received the invocation may call them.
"""

import posix
import sys
from _collections import deque  # type: ignore[import-not-found]  # `collections` imports much more
from _thread import allocate_lock

from streaming_runtime import describe_type
from streaming_runtime.log import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from streaming_runtime.handler import Handler
    from streaming_runtime.invocation import Invocation
    from streaming_runtime.log import Log

    Call = tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]

VERSION = "0.1.0"

_registration = allocate_lock()


def register(
    invocation: "Invocation | None",
    function: "Callable[..., object]",
    args: "tuple[Any, ...]",
    kwargs: "dict[str, Any]",
) -> None:
    """Add a callback to the invocation; None is that of a copied context.

    Raises:
        TypeError: `function` cannot be called.
        RuntimeError: nothing would call it any more.
    """
    if not callable(function):
        raise TypeError(
            f"context.after_response needs a function and its arguments, not {describe_type(function)}: "
            "context.after_response(save, item), not context.after_response(save(item))"
        )
    if invocation is None:
        raise RuntimeError("this context is a copy: register work with context.after_response of the original")
    with _registration:
        if invocation.callbacks is None:
            invocation.callbacks = Callbacks()
            if invocation.has_ended:
                invocation.callbacks.close()
        invocation.callbacks.add((function, args, kwargs))


class Callbacks:
    """The callbacks of one invocation, in the order of registration."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._process = posix.getpid()
        self._is_closed = False
        self._exit: BaseException | None = None

    def add(self, call: "Call") -> None:
        if self._is_closed or self._process != posix.getpid():
            raise RuntimeError("the invocation has ended: context.after_response registers no more work")
        self._calls.append(call)

    def close(self) -> None:
        self._is_closed = True

    def finish(self, handler: "Handler", log: "Log") -> None:
        """Call what is still registered, then raise the exit that a callback has requested, if there is one.

        If the environment already ends for another reason, that one is raised.
        """
        self.call_all(handler, log)
        if self._exit is not None and sys.exception() is None:
            raise self._exit

    def call_all(self, handler: "Handler", log: "Log") -> None:
        """Call all callbacks, and those that they register. Errors are logged, and none is raised."""
        if self._process != posix.getpid():
            return
        for call in self._take_all():
            try:
                run(call, handler)
            except BaseException as error:
                report = describe(error, "a callback of context.after_response")
                log.error(report)
                if report.exit_status is not None and self._exit is None:
                    self._exit = error
            del call  # its arguments are not needed while the next one runs

    async def await_all(self, log: "Log") -> None:
        """As `call_all`, on an event loop that serves several invocations, in the context of this one."""
        if self._process != posix.getpid():
            return
        for function, args, kwargs in self._take_all():
            try:
                result = function(*args, **kwargs)
                if hasattr(type(result), "__await__"):
                    await result  # type: ignore[misc]
            except BaseException as error:
                log.error(describe(error, "a callback of context.after_response"))

    def _take_all(self) -> "Iterator[Call]":
        while True:
            with _registration:
                if not self._calls:
                    self.close()
                    return
                call = self._calls.popleft()
            yield call
            del call


def run(call: "Call", handler: "Handler") -> None:
    """Call a function in the context of the invocation. If it returns an awaitable, await that on the event loop."""
    function, args, kwargs = call
    context = handler.loop.context if handler.loop is not None else None
    result = function(*args, **kwargs) if context is None else context.run(function, *args, **kwargs)
    if hasattr(type(result), "__await__"):
        handler.event_loop().run(result, context)  # type: ignore[arg-type]
