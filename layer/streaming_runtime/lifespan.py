"""The lifespan of an ASGI application: its startup and shutdown, once for each execution environment.

https://asgi.readthedocs.io/en/latest/specs/lifespan.html (version 2.0)

    import -> startup -> before-snapshot hooks, restore, after-restore hooks (SnapStart) -> invocations -> shutdown

The application is called once, in a task of the loop that serves the requests, and waits there for the shutdown. What
can go wrong:

- Many applications have no lifespan. They raise an exception about the scope, or return. They are served without.
- A startup can hang, in the loop or in a call that blocks the loop. The service ends the init phase after 10 seconds
  without a cause. So a thread writes one line to the log before. There is no other limit.
- The service sends SIGTERM only if an extension is registered, and SIGKILL half a second later. So a shutdown may never
  happen.
- The loop stands still while the environment is frozen. A task that the startup has left runs only during invocations.
- The function can break the loop, which is then replaced. The shutdown would never be received, so it is left out.
"""

from _thread import allocate_lock, start_new_thread

from streaming_runtime import ContractError, import_standard, summary, variable
from streaming_runtime.log import describe

asyncio = import_standard("asyncio")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from streaming_runtime.log import Log

    Message = dict[str, Any]
    Application = Callable[[dict[str, Any], Any, Any], Awaitable[object]]

VERSION = "0.1.0"

ASGI_VERSION = "3.0"
SPEC_VERSION = "2.0"
SLOW = 5.0  # seconds after which a phase is logged

# What the application may send, by the event that it has received last.
STARTUP, SHUTDOWN = "lifespan.startup", "lifespan.shutdown"
RESULTS = {
    STARTUP: (f"{STARTUP}.complete", f"{STARTUP}.failed"),
    SHUTDOWN: (f"{SHUTDOWN}.complete", f"{SHUTDOWN}.failed"),
}


class Lifespan:
    """The call of an application with a scope of the type `lifespan`.

    Attributes:
        state: what the startup has stored for the requests, which get a shallow copy each.
    """

    def __init__(self, application: "Application", log: "Log") -> None:
        self.state: dict[str, Any] = {}
        self._application = application
        self._log = log
        self._task: Any = None
        self._loop: Any = None
        self._received = ""  # the last event
        self._result: str | None = None  # of the startup: the message of a failure; empty if it is complete
        self._is_served = asyncio.Event()  # the startup has ended, one way or the other
        self._is_stopping = asyncio.Event()
        self._is_stopped = asyncio.Event()

    async def start(self) -> None:
        """Wait for the startup. Raises ContractError (`StartupFailed`) if the application reports its failure."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())
        with SlowPhase(self._log, "startup", "; the service ends the init phase after 10 seconds"):
            await self._is_served.wait()
        if self._result:
            raise ContractError("StartupFailed", self._result)

    async def stop(self) -> None:
        """Wait for the shutdown, if the startup was complete. An error is logged."""
        if self._task is None or self._task.done() or self._loop is not asyncio.get_running_loop():
            return
        self._is_stopping.set()
        with SlowPhase(self._log, "shutdown", ""):
            await self._is_stopped.wait()

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": ASGI_VERSION, "spec_version": SPEC_VERSION},
            "state": self.state,
        }
        try:
            await self._application(scope, self._receive, self._send)
        except Exception as error:
            self._log_error(error)
        finally:
            self._is_served.set()
            self._is_stopped.set()

    def _log_error(self, error: Exception) -> None:
        if not self._received:  # raised about the type of the scope, as frameworks without a lifespan do
            self._log.line(f"the application has no lifespan, and is served without ({summary(error):.200})")
        elif not self._is_served.is_set():
            self._log.error(describe(error, "the startup of the application"))
        elif not self._result:  # a failed startup is an init error, with the message that the application has sent
            self._log.error(describe(error, "the lifespan of the application"))

    async def _receive(self) -> "Message":
        if not self._received:
            self._received = STARTUP
        else:
            await self._is_stopping.wait()
            if self._received == SHUTDOWN:
                await self._loop.create_future()  # there is no third event
            self._received = SHUTDOWN
        return {"type": self._received}

    async def _send(self, message: "Message") -> None:
        kind = message.get("type")
        is_due = self._received == SHUTDOWN or (self._received == STARTUP and not self._is_served.is_set())
        if not is_due or kind not in RESULTS[self._received]:
            found = f"the application sent {kind!r} in its lifespan"
            raise RuntimeError(f"{found} after it received {self._received or 'nothing'!r}")
        text = str(message.get("message") or f"the application sent {kind} without a message")
        has_failed = kind.endswith(".failed")
        if self._received == STARTUP:
            self._result = text if has_failed else ""
            self._is_served.set()
        else:
            if has_failed:
                self._log.line(f"the shutdown of the application failed: {text}")
            self._is_stopped.set()


class SlowPhase:
    """Writes one line to the log if a phase takes long: from a thread, because the phase can block the event loop."""

    def __init__(self, log: "Log", name: str, consequence: str) -> None:
        self._log = log
        self._name = name
        self._consequence = consequence
        self._has_ended = allocate_lock()

    def __enter__(self) -> None:
        self._has_ended.acquire()
        start_new_thread(self._watch, ())

    def __exit__(self, *_: object) -> None:
        self._has_ended.release()

    def _watch(self) -> None:
        if not self._has_ended.acquire(timeout=SLOW):
            handler = variable("_HANDLER")
            self._log.line(
                f"the lifespan {self._name} of {handler} is not complete after {SLOW:.0f} seconds{self._consequence}"
            )
