"""Async generators: one event loop for the life of the process, so that a client bound to it serves many invocations.

The end of a loop can take forever. A task can refuse to be cancelled, and a thread of the default executor cannot be
stopped at all; `asyncio.Runner.close` waits for both. The service would wait too, and then kill the process before
`atexit` has run. So every wait here has a limit, and threads are not waited for.
"""

from streaming_runtime import import_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import Any

    from streaming_runtime.api import ResponseStream

VERSION = "0.1.0"

CANCELLATION_TIMEOUT = 1.0  # seconds that a cancelled task gets


class EventLoop:
    """Drives async generators.

    Args:
        log_clean_up: is called with an error that a generator raises while it is closed.
    """

    def __init__(self, log_clean_up: "Callable[[Exception], None]") -> None:
        self._asyncio = import_standard("asyncio")
        self._log_clean_up = log_clean_up
        self._loop: Any = None

    def stream(self, items: "AsyncIterator[object]", response: "ResponseStream") -> None:
        """Send what the iterator yields, each chunk before it resumes; then close it."""
        loop = self._open()
        task = loop.create_task(self._send_all(items, response))
        try:
            loop.run_until_complete(task)
        finally:
            if task.done():
                task.cancelled() or task.exception()  # retrieved here; otherwise asyncio logs that nobody did
            else:  # an exit has interrupted the loop itself
                task.cancel()
                self._wait([task])
                if not task.done():
                    self._loop = None  # the task would continue in the middle of the next invocation

    async def _send_all(self, items: "AsyncIterator[object]", response: "ResponseStream") -> None:
        try:
            write, write_next = response.write_first, response.write
            async for item in items:
                write(item)
                write = write_next
        finally:
            if hasattr(items, "aclose"):
                try:
                    await items.aclose()
                except Exception as error:
                    self._log_clean_up(error)

    def close(self) -> None:
        """Cancel all tasks and close all async generators, within a time limit; do not wait for threads."""
        loop, self._loop = self._loop, None
        if loop is None or loop.is_closed() or loop.is_running():
            return
        try:
            tasks = self._asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            self._wait(tasks, loop)
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    message = "unhandled exception while the event loop is closed"
                    loop.call_exception_handler({"message": message, "exception": task.exception(), "task": task})
            self._wait([loop.create_task(loop.shutdown_asyncgens())], loop)
            executor = getattr(loop, "_default_executor", None)  # no public way closes it without waiting on 3.11
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)
            loop.close()
        except Exception as error:
            self._log_clean_up(error)

    def _open(self) -> "Any":
        """Return the loop. Make another one if the function has closed it."""
        if self._loop is None or self._loop.is_closed():
            self._loop = self._asyncio.new_event_loop()
            self._asyncio.set_event_loop(self._loop)
        return self._loop

    def _wait(self, tasks: "Any", loop: "Any" = None) -> None:
        if tasks:
            (loop or self._loop).run_until_complete(self._asyncio.wait(tasks, timeout=CANCELLATION_TIMEOUT))
