"""Async generators: one event loop for the life of the process, so that a client bound to it serves many invocations.

What can go wrong:

- The function's module may have set a loop as the current one, and clients of the module may be bound to it. That loop
  is adopted.
- The function can break a loop: close it or its selector, stop it from a callback, shut its executor down, or close its
  descriptors. Such a loop is replaced before the next invocation. It is never closed: its descriptor numbers may belong
  to other files by now.
- asyncio closes an abandoned async generator in a task of the loop, which stands still between invocations. A proxy
  would keep its upstream open until the next one. So the loop runs on after each stream until these are closed.
- A signal can arrive just before the loop waits in the kernel, which would not notice it. So no such wait is long.
- The end of a loop can take forever. A task can refuse to be cancelled, and a thread of the default executor cannot be
  stopped at all; `asyncio.Runner.close` waits for both. The service would wait too, and then kill the process before
  `atexit` has run. So every wait here has a limit, and threads are not waited for.
"""

import sys

from streaming_runtime import WAIT_MILLISECONDS, import_standard, load, summary_of_report
from streaming_runtime.log import Descriptor, describe, duplicate_high

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextvars import Context
    from typing import Any

    from streaming_runtime.api import ResponseStream

VERSION = "0.1.0"

AioConnection, AioResponseStream = load("aio_connection").AioConnection, load("aio_connection").AioResponseStream

CANCELLATION_TIMEOUT = 1.0  # seconds that a cancelled task gets
CLOSING_TIMEOUT = 1.0  # seconds, for abandoned async generators after a stream

_abandoned: "list[Any]" = []  # broken loops; a reference keeps Python from closing their descriptors


class EventLoop:
    """Drives async generators.

    Args:
        log_clean_up: is called with an error that a generator raises while it is closed.

    Attributes:
        context: the `contextvars` context that the last stream or awaitable of this invocation has left.
    """

    def __init__(self, log_clean_up: "Callable[[Exception], None]") -> None:
        self._asyncio = import_standard("asyncio")
        contextvars = import_standard("contextvars")
        self._copy_context, self._empty_context = contextvars.copy_context, contextvars.Context()
        self._log_clean_up = log_clean_up
        self._loop: Any = None
        self.context: Any = None
        self._waker: Descriptor | None = None  # the end of the wake-up socket that other threads write to

    def stream(self, items: "AsyncIterator[object]", response: "ResponseStream") -> None:
        """Send what the iterator yields, each chunk before it resumes; then close it."""
        errors: list[BaseException] = []
        try:
            self._run(self._send_all(items, response, errors))
        finally:
            if response.connection.driver is not None:  # an interrupted task has not ended
                response.connection.driver.detach()
        if errors:
            raise errors.pop()

    def run(self, awaitable: "Awaitable[object]", context: "Context | None" = None) -> None:
        """Run the loop until an awaitable is done, in a copy of the context. Raises what it raises."""
        errors: list[BaseException] = []
        waiting = self._wait_for(awaitable, errors)
        if context is None:
            self._run(waiting)
        else:
            context.run(self._run, waiting)
        if errors:
            raise errors.pop()

    async def _wait_for(self, awaitable: "Awaitable[object]", errors: "list[BaseException]") -> None:
        """Await the awaitable. An error is added to the list, as in `_send_all`."""
        try:
            await awaitable
        except BaseException as error:
            errors.append(error)
        self.context = self._copy_context()

    async def _send_all(
        self, items: "AsyncIterator[object]", response: "ResponseStream", errors: "list[BaseException]"
    ) -> None:
        """Send the items. An error is added to the list.

        If it was raised or returned, the finished task would keep it, and with it the objects of the handler. An
        abandoned generator among them would not be closed after the stream.
        """
        try:
            with AioConnection(response.connection, self._loop) as driver:
                await AioResponseStream(response, driver).write_all(items, self._log_clean_up)
        except BaseException as error:
            errors.append(error)
        self.context = self._copy_context()

    def _run(self, coroutine: "Any") -> None:
        """Run a coroutine in the loop. Raises what it raises."""
        loop = self._open()
        task = loop.create_task(coroutine)
        try:
            loop.run_until_complete(task)
        finally:
            if not task.done():  # an exit has interrupted the loop itself, or the function has stopped it
                task.cancel()
                self._wait([task], CANCELLATION_TIMEOUT)
                if not task.done():
                    self._abandon()  # the task would continue in the middle of the next invocation

    def run_through_exits(self, coroutine: "Any", log: "Callable[[str], None]") -> None:
        """Run a coroutine that serves many invocations to its end. Raises what it raises.

        asyncio stops the loop if a task raises SystemExit, and on `loop.stop()`. Both come from the code of one
        invocation, so the loop continues. Whoever awaits the task receives the exception.
        """
        loop = self._open()
        task = loop.create_task(coroutine)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
                if task.done() or loop.is_closed():
                    raise
                reason = summary_of_report(describe(error, "the task"))
                log(f"a task has stopped the event loop, which continues: {reason}")

    def settle(self) -> None:
        """After a stream, run the loop until the async generators are closed that nothing refers to any more.

        https://docs.python.org/3/library/asyncio-eventloop.html, `shutdown_asyncgens`, describes the hook that makes a
        task for each. Closing one can abandon another, so this repeats until there is none, within a time limit.
        """
        self.context = None  # its variables may refer to such generators
        loop = self._loop
        if loop is None or not self._is_intact():
            return
        try:
            deadline = loop.time() + CLOSING_TIMEOUT
            loop.run_until_complete(self._asyncio.sleep(0))
            while closing := [task for task in self._asyncio.all_tasks(loop) if is_closing(task)]:
                if (remaining := deadline - loop.time()) <= 0:
                    return
                self._wait(closing, remaining)
                loop.run_until_complete(self._asyncio.sleep(0))
        except RuntimeError:
            self._abandon()  # a callback of the function has stopped the loop

    def close(self) -> None:
        """Cancel all tasks and close all async generators, within a time limit; do not wait for threads."""
        loop = self._loop
        if loop is None or not self._is_intact():
            return
        try:
            tasks = self._asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            self._wait(tasks, CANCELLATION_TIMEOUT)
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    message = "unhandled exception while the event loop is closed"
                    loop.call_exception_handler({"message": message, "exception": task.exception(), "task": task})
            self._wait([loop.create_task(loop.shutdown_asyncgens())], CLOSING_TIMEOUT)
            executor = getattr(loop, "_default_executor", None)  # no public way closes it without waiting on 3.11
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)
            self._loop = None
            loop.close()
        except Exception as error:
            self._log_clean_up(error)

    def _wait(self, tasks: "Any", timeout: float) -> None:
        if tasks:
            try:
                self._loop.run_until_complete(self._asyncio.wait(tasks, timeout=timeout))
            except RuntimeError:
                self._abandon()

    def tasks(self) -> "set[Any]":
        """Return the tasks that have not ended."""
        tasks: set[Any] = self._asyncio.all_tasks(self._loop) if self._loop is not None else set()
        return tasks

    # The choice of the loop

    def _open(self) -> "Any":
        """Return the loop: the one in use, the one that the function has set as current, or a new one."""
        if self._loop is not None and not self._is_intact():
            self._abandon()
        if self._loop is None:
            loop = self._current()
            if loop is None or loop in _abandoned or not is_usable(loop):
                if loop is not None:
                    _abandoned.append(loop)
                loop = self._asyncio.new_event_loop()
                self._asyncio.set_event_loop(loop)
            move_descriptors(loop)
            self._loop = loop
            self._waker = Descriptor(loop._csock.fileno()) if hasattr(loop, "_csock") else None
            self._wake(loop)
        return self._loop

    def _wake(self, loop: "Any") -> None:
        """Limit the time that the loop waits in one system call, so that signal handlers run.

        A copy of the current context would keep the objects of an invocation.
        """
        loop.call_later(WAIT_MILLISECONDS / 1000, self._wake, loop, context=self._empty_context)

    def _current(self) -> "Any":
        """Return the current loop of this thread; None if there is none.

        Before Python 3.14, asyncio makes one then, and imports `warnings` by name to warn of that on 3.12 and 3.13. The
        function can have another module of that name, so its policy is asked first.
        """
        try:
            if sys.version_info >= (3, 14):
                return self._asyncio.get_event_loop()
            policy = self._asyncio.get_event_loop_policy()
            local = getattr(policy, "_local", None)
            if getattr(local, "_loop", policy) is None and not getattr(local, "_set_called", True):
                return None
            warnings = import_standard("warnings")
            with warnings.catch_warnings(module=warnings):  # by default `sys.modules["warnings"]`
                warnings.simplefilter("ignore", DeprecationWarning)
                return self._asyncio.get_event_loop()
        except RuntimeError:
            return None

    def _abandon(self) -> None:
        _abandoned.append(self._loop)
        self._loop = None

    def _is_intact(self) -> bool:
        return is_usable(self._loop) and (self._waker is None or self._waker.is_valid())


def is_usable(loop: "Any") -> bool:
    """Return whether the loop can run: the function has not closed or stopped it or any of its parts."""
    if loop.is_closed() or loop.is_running() or getattr(loop, "_stopping", False):
        return False
    executor = getattr(loop, "_default_executor", None)
    if getattr(loop, "_executor_shutdown_called", False) or getattr(executor, "_shutdown", False):
        return False
    return has_its_descriptors(loop)


def move_descriptors(loop: "Any") -> None:
    """Give the selector and the wake-up sockets of the loop high descriptor numbers; see `duplicate_high`.

    asyncio has no interface for that. A loop of another implementation stays as it is.
    """
    epoll: Any = getattr(getattr(loop, "_selector", None), "_selector", None)
    if not hasattr(epoll, "fromfd") or not hasattr(loop, "_read_from_self"):
        return
    loop._remove_reader(loop._ssock.fileno())
    high = duplicate_high(epoll.fileno())
    if high != epoll.fileno():
        loop._selector._selector = type(epoll).fromfd(high)
        epoll.close()
    for name in ("_ssock", "_csock"):
        sock = getattr(loop, name)
        high = duplicate_high(sock.fileno())
        if high == sock.fileno():
            continue
        moved = type(sock)(fileno=high)
        moved.setblocking(False)
        setattr(loop, name, moved)
        if name == "_csock" and loop._signal_handlers:  # Python writes each signal to this socket
            move_signal_wake_up(sock.fileno(), moved.fileno())
        sock.close()
    loop._add_reader(loop._ssock.fileno(), loop._read_from_self)


def move_signal_wake_up(number: int, new_number: int) -> None:
    """Let signals wake the loop through another descriptor, unless another loop has registered since."""
    set_wakeup_fd = import_standard("signal").set_wakeup_fd
    registered = set_wakeup_fd(new_number)
    if registered != number:
        set_wakeup_fd(registered)


def has_its_descriptors(loop: "Any") -> bool:
    """Return whether the loop's own descriptors are intact. Loops of other implementations are not examined.

    All epoll descriptors have the same inode. But only the loop's own accepts a change of the loop's wake-up socket.
    """
    selector, wake_up = getattr(loop, "_selector", None), getattr(loop, "_ssock", None)
    epoll: Any = getattr(selector, "_selector", None)
    if wake_up is None or not hasattr(epoll, "modify"):
        return True
    try:
        epoll.modify(wake_up.fileno(), 1)  # EPOLLIN, as it is registered
    except (OSError, ValueError):
        return False
    return True


def is_closing(task: "Any") -> bool:
    """Return whether the task closes an abandoned async generator."""
    return type(task.get_coro()).__name__ == "async_generator_athrow"
