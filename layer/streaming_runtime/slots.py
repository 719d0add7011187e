"""Many invocations on one event loop: the slots of an async worker (Lambda Managed Instances).

An async handler mostly waits, for tokens of a model for example. So one process serves many invocations, each slot as a
task with a connection of its own. What can go wrong, and how each case is handled:

- One invocation must not stop the others. Sends and receives wait on the loop, a thread writes the log, and a thread
  watches for handlers that block the loop.
- Errors, `sys.exit` and cancellations end one invocation. Each has a task of its own, which the slot waits for. A
  function can also cancel all tasks of the loop, so the tasks of the runtime are not in `asyncio.all_tasks`.
- At the deadline the task is cancelled. It may ignore that, or take long to clean up, so the error is sent after
  CANCELLATION_TIMEOUT at the latest. The slot serves no other invocation until the task has ended: the service counts
  its code as running.
- A reader that is slow and a deadline come together. Then the error cannot be sent either; after REPORT_TIMEOUT the
  connection is closed.
- The deadline can pass when all is sent and the Runtime API has not accepted it yet, because the caller reads slowly.
  Nothing is left to cancel, so the slot waits ACCEPTANCE_TIMEOUT more. Whatever ends that wait, the response to the
  request is read before the next request: it would be taken for the next invocation.
- Each invocation has a `contextvars` context. It has the invocation, from which the log takes the request id, and
  from which `os.environ` takes the trace id: see `trace_variable`. The task and the work after the response use the
  same context.
- An invocation that has arrived is recorded before it is read, as in `worker`.
- At the shutdown, a handler can block the loop. Then no task can be cancelled, so the exit is raised in its code.
"""

from streaming_runtime import MinimalReport, NotDelivered, RuntimeApiError, Terminated, import_standard, load
from streaming_runtime.api import ENDED, FRESH, MAX_EMPTY_PAUSE, NEXT_RETRY_PAUSES
from streaming_runtime.log import describe

asyncio = import_standard("asyncio")
CancelledError: type[BaseException] = asyncio.CancelledError
signal = import_standard("signal")
AioConnection, AioResponseStream = load("aio_connection").AioConnection, load("aio_connection").AioResponseStream
loop_watch = load("loop_watch")
timeouts = load("timeouts")
worker = load("worker")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Task
    from collections.abc import Coroutine
    from types import FrameType, ModuleType
    from typing import Any, NoReturn

    from streaming_runtime.api import ResponseStream
    from streaming_runtime.concurrent_log import ConcurrentLog
    from streaming_runtime.handler import Handler
    from streaming_runtime.invocation import Invocation
    from streaming_runtime.worker import WorkerApi, WorkerConnection

VERSION = "0.1.0"

CANCELLATION_TIMEOUT = 1.0  # seconds that a cancelled task gets before its error is sent
ACCEPTANCE_TIMEOUT = 5.0  # seconds after the deadline, for a response that is sent
REPORT_TIMEOUT = 5.0  # seconds to send an error
SHUTDOWN_TIMEOUT = 1.5  # seconds; the parent waits for 2
REACTION_TIMEOUT = 0.2  # seconds that the loop may be blocked after SIGTERM
MAX_RETRY_PAUSE = 5.0  # seconds before a slot asks again that was refused while others work


def serve(runtime: "ModuleType", apis: "list[WorkerApi]", loaded: "Handler", log: "ConcurrentLog") -> "NoReturn":
    """Serve invocations on one event loop. Ends only with an exception."""
    log.end_lines()  # that the import of the function has begun
    load("trace_variable").install(log)
    writer = log.start_writer()
    import_standard("atexit").register(log.stop_writer)
    for api in apis:
        api.response_class = apis[0].response_class
    try:
        loaded.event_loop().run_through_exits(Slots(runtime, apis, loaded, log).run(), log.line)
    finally:
        loaded.close()
        writer.drain()
    raise AssertionError("the slots end with an exception")


class SlotDriver(AioConnection):  # type: ignore[misc, valid-type]
    """The driver of a slot's connection.

    Attributes:
        is_asking: the response that begins next has an invocation.
    """

    is_asking = False
    connection: "WorkerConnection"

    def _receive(self) -> None:
        if self.is_asking:
            if not self.connection.record_invocation():
                return
            self.is_asking = False
        super()._receive()


class Slots:
    """The slots of one process."""

    def __init__(self, runtime: "ModuleType", apis: "list[WorkerApi]", loaded: "Handler", log: "ConcurrentLog") -> None:
        self._runtime = runtime
        self._apis = apis
        self._loaded = loaded
        self._log = log
        self._refused: set[WorkerApi] = set()  # the slots that get no invocations
        self._serving: set[Any] = set()  # the tasks of the slots that have an invocation
        self._running: dict[Task[BaseException | None], Invocation] = {}
        self._exit: Terminated | None = None

    async def run(self) -> None:
        """Serve until SIGTERM. Raises Terminated then, and RuntimeApiError if no slot gets invocations any more."""
        loop = asyncio.get_running_loop()
        hide(asyncio.current_task())
        terminated = loop.create_future()
        self._follow_sigterm(loop, terminated)
        loop_watch.start(loop, self._log, self._running)
        slots = [hide(loop.create_task(self._serve_slot(api))) for api in self._apis]
        try:
            await asyncio.wait([terminated, *slots], return_when=asyncio.FIRST_COMPLETED)
            if self._exit is not None:
                for task in self._running:
                    task.cancel()
                if self._serving:
                    await asyncio.wait(self._serving, timeout=SHUTDOWN_TIMEOUT)
                raise self._exit
            for slot in slots:
                if slot.done():
                    slot.result()
        finally:
            for slot in slots:
                slot.cancel()
            await asyncio.wait(slots, timeout=REACTION_TIMEOUT)

    def _follow_sigterm(self, loop: "AbstractEventLoop", terminated: "Future[None]") -> None:
        def terminate(signum: int, _: object) -> None:
            # It can arrive twice: the service signals the group, and the parent forwards the signal.
            if self._exit is None and not loop.is_closed():
                self._exit = Terminated(128 + signum)
                signal.signal(signal.SIGALRM, interrupt)
                signal.setitimer(signal.ITIMER_REAL, REACTION_TIMEOUT, REACTION_TIMEOUT)
                loop.call_soon_threadsafe(react)

        def react() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            terminated.set_result(None)

        def interrupt(_: int, frame: "FrameType | None") -> None:
            if loop_watch.is_in_function(frame):  # not within the sending of a chunk
                raise self._exit or Terminated

        signal.signal(signal.SIGTERM, terminate)

    # Asking for invocations

    async def _serve_slot(self, api: "WorkerApi") -> None:
        with SlotDriver(api.connection, asyncio.get_running_loop()) as driver:
            while self._exit is None:
                invocation = await self._next(api, driver)
                slot = asyncio.current_task()
                self._serving.add(slot)
                await self._serve(api, driver, invocation)
                self._serving.discard(slot)

    async def _next(self, api: "WorkerApi", driver: SlotDriver) -> "Invocation":
        """Return the next invocation. Raises RuntimeApiError if all slots are refused."""
        pauses = iter(NEXT_RETRY_PAUSES)
        empty_pause = 0.0
        while True:
            try:
                invocation = await self._ask(api, driver)
            except NotDelivered as reason:
                pause = next(pauses, None)
                if pause is None:
                    self._give_up(api, reason)
                await asyncio.sleep(MAX_RETRY_PAUSE if pause is None else pause)
                continue
            self._refused.discard(api)
            if invocation is not None:
                return invocation
            await asyncio.sleep(empty_pause)
            empty_pause = min(MAX_EMPTY_PAUSE, 2 * empty_pause + 0.001)

    async def _ask(self, api: "WorkerApi", driver: SlotDriver) -> "Invocation | None":
        api.ask()
        driver.is_asking = True
        try:
            await driver.drain()
            await driver.receive_response()
        finally:
            driver.is_asking = False
        return api.take_invocation()

    def _give_up(self, api: "WorkerApi", reason: NotDelivered) -> None:
        self._refused.add(api)
        if len(self._refused) == len(self._apis):
            raise RuntimeApiError(f"the Runtime API returned no next invocation: {reason}") from None

    # Serving an invocation

    async def _serve(self, api: "WorkerApi", driver: SlotDriver, invocation: "Invocation") -> None:
        """Serve one invocation, in a context of its own."""
        loop = asyncio.get_running_loop()
        context = self._loaded.new_context()
        response = context.run(api.response_class, api, invocation, self._log)
        stream = AioResponseStream(response, driver)
        limit = timeouts.TimeLimit(invocation)
        task = loop.create_task(self._stream(invocation, response, stream, driver), context=context)
        self._running[task] = invocation
        try:
            await self._wait_until_deadline(task, limit, response, driver)
            error = await self._outcome(task, limit, api)
            if error is not None:
                await run_apart(self._fail(error, response, stream, driver), context)
            await asyncio.wait([task])
        finally:
            del self._running[task]
        await run_apart(self._end(invocation), context)

    async def _wait_until_deadline(
        self, task: "Task[BaseException | None]", limit: "Any", response: "ResponseStream", driver: SlotDriver
    ) -> None:
        remaining = limit.remaining()
        await asyncio.wait([task], timeout=max(0.0, remaining) if remaining < timeouts.FOREVER else None)
        if not task.done() and response.phase is ENDED and not driver.unsent:
            await asyncio.wait([task], timeout=ACCEPTANCE_TIMEOUT)

    async def _outcome(
        self, task: "Task[BaseException | None]", limit: "Any", api: "WorkerApi"
    ) -> "BaseException | None":
        """Cancel the task if it has not ended by the deadline. Return the error to report."""
        if not task.done():
            api.has_timed_out = True
            task.cancel()
            await asyncio.wait([task], timeout=CANCELLATION_TIMEOUT)
        error: BaseException | None = CancelledError()
        if task.done() and not task.cancelled():
            error = task.result()
        if error is not None and api.has_timed_out:
            error = timeouts.TimedOut(limit.seconds)
        elif self._exit is not None and isinstance(error, CancelledError):
            error = self._exit
        return error

    async def _stream(
        self, invocation: "Invocation", response: "ResponseStream", stream: "Any", driver: SlotDriver
    ) -> "BaseException | None":
        """Send what the handler yields. Return the error that ends the response early."""
        try:
            if self._loaded.is_asgi:
                await self._loaded.respond(invocation, response, driver)  # type: ignore[attr-defined]
            else:
                event, context = self._loaded.arguments(invocation)
                items = self._loaded.function(event, context)
                await stream.write_all(items, self._log_clean_up)
            await stream.finish()
        except BaseException as error:
            if driver.connection.disowned:
                self._end_fork(error)
            return error
        return None

    def _end_fork(self, error: BaseException) -> "NoReturn":
        """End a process that the handler has forked. It has copies of all tasks, and none of them may continue."""
        if isinstance(error, (NotDelivered, RuntimeApiError)):
            self._log.line("a process that the function forked returned from its handler")
            self._runtime.leave(1)
        self._runtime.end(error, self._log)
        raise AssertionError("the process has ended")

    def _log_clean_up(self, error: Exception) -> None:
        self._log.error(describe(error, "the handler's clean-up"))

    async def _fail(self, error: BaseException, response: "ResponseStream", stream: "Any", driver: SlotDriver) -> None:
        """Log the error, and report it to the caller."""
        if isinstance(error, RuntimeApiError):
            self._log.line(str(error))
            return
        if isinstance(error, NotDelivered):
            self._log.line(f"the response was not delivered: {error}")
            if response.phase is not FRESH:
                return
            report: Any = MinimalReport("Runtime.ResponseNotDelivered", str(error), error)
        else:
            report = describe(error, "the handler")
            self._log.error(report)
        try:
            async with asyncio.timeout(REPORT_TIMEOUT):
                await stream.fail(report)
        except (TimeoutError, RuntimeApiError) as problem:
            self._log.line(f"the error was not delivered: {str(problem) or 'nobody reads the response'}")
            driver.connection.close()

    async def _end(self, invocation: "Invocation") -> None:
        """Call the work after the response, and write lines that were begun."""
        invocation.has_ended = True
        if invocation.callbacks is not None:
            await invocation.callbacks.await_all(self._log)
        self._log.end_lines()


def hide(task: "Task[Any]") -> "Task[Any]":
    """Remove a task from `asyncio.all_tasks` (asyncio-extending, task lifetime support)."""
    asyncio._unregister_task(task)
    return task


async def run_apart(coroutine: "Coroutine[Any, Any, None]", context: "Any") -> None:
    """Run a coroutine in a context. Raises what it raises, except a cancellation by code of the function in it."""
    task = hide(asyncio.get_running_loop().create_task(coroutine, context=context))
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
