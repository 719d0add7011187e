"""ASGI applications as handlers, without a server.

    event -> http_event -> scope -> application(scope, receive, send) -> each body event is sent at once

https://asgi.readthedocs.io/en/latest/specs/www.html. Frameworks rely on more than the specification: on what uvicorn
does. What can go wrong:

- `receive` after the body means "wait until the caller has left". Frameworks call it in a task beside the response, and
  end the response when it returns. So it waits until the response has ended, or the Runtime API has closed or refused
  it. The service does not report callers that leave. `spec_version` is 2.3, as uvicorn's: from 2.4 on, Starlette does
  not call `receive`, and expects an OSError of `send`.
- `http.response.start` cannot be taken back. So it is held back until the first body event: an exception before that is
  an error of the invocation, and the caller gets a status of its own. A later one goes to the trailers. One after the
  end of the response changes nothing for the caller: Starlette raises the error again for which it has sent a 500.
- Work of the application after the response, such as Starlette's background tasks, would be frozen with the
  environment. So the response ends with the final body event, and the next invocation waits for the application.
- The application may call `send` in several tasks, and cancel them. Each chunk is complete before the next one.
- After the caller has left, `send` does nothing, as the specification requires before 2.4, but lets other tasks run,
  which cancel the stream. An application that sends without end gets an OSError in the end.
- A task that the application leaves is frozen with the environment, and continues during the next invocation. It cannot
  send anything there. The log names it, because few applications intend that.
"""

import posix

from streaming_runtime import ContractError, NotDelivered, RuntimeApiError, describe_type, import_standard, load
from streaming_runtime.api import DONE, ENDED, FRESH, OPEN, bytes_of
from streaming_runtime.handler import Handler
from streaming_runtime.log import describe

asyncio = import_standard("asyncio")
AioConnection, AioResponseStream = load("aio_connection").AioConnection, load("aio_connection").AioResponseStream
http_response = load("http_response")
prelude = load("prelude")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from streaming_runtime.api import ResponseStream
    from streaming_runtime.http_event import HttpRequest
    from streaming_runtime.invocation import Invocation
    from streaming_runtime.lifespan import Application, Message
    from streaming_runtime.log import Log

VERSION = "0.1.0"

ASGI_VERSION = "3.0"
SPEC_VERSION = "2.3"
MAX_IGNORED = 100  # messages that are ignored after the caller has left

START, BODY = "http.response.start", "http.response.body"


def make_handler(application: "Application", log: "Log") -> "AsgiHandler":
    """Return the handler, after the startup of the application. Raises ContractError (`StartupFailed`).

    Before a fork there is no startup: each process has an event loop and a lifespan of its own.
    """
    handler = AsgiHandler(application, log)
    if not log.is_before_fork:
        handler.start()
    return handler


class AsgiHandler(Handler):
    """A handler that is an ASGI application."""

    is_asgi = True

    def __init__(self, application: "Application", log: "Log") -> None:
        super().__init__(application, log)  # type: ignore[arg-type]
        self._events = load("http_event").EventReader(log)
        self._lifespan = load("lifespan").Lifespan(application, log)
        self._process = 0  # in which the application has started
        self._known_tasks: Any = import_standard("weakref").WeakSet()

    def start(self) -> None:
        self._process = posix.getpid()
        self.event_loop().run(self._lifespan.start())
        self._known_tasks.update(self.event_loop().tasks())

    def close(self) -> None:
        """Wait for the shutdown of the application; then end what it has left running."""
        if posix.getpid() == self._process:  # not in a process that the application forked
            try:
                self.event_loop().run(self._lifespan.stop())
            except Exception as error:
                self._log_clean_up(error)
        super().close()

    def stream(self, invocation: "Invocation", response: "ResponseStream") -> None:
        """Call the application, and send what it sends. Return when the application has returned.

        Raises ContractError (`InvalidEvent`) if the event is not an HTTP request.
        """
        try:
            self.event_loop().run(self._respond_alone(invocation, response))
        finally:
            if response.connection.driver is not None:  # an interrupted task has not ended
                response.connection.driver.detach()

    async def _respond_alone(self, invocation: "Invocation", response: "ResponseStream") -> None:
        with AioConnection(response.connection, asyncio.get_running_loop()) as driver:
            await self.respond(invocation, response, driver)

    async def respond(self, invocation: "Invocation", response: "ResponseStream", driver: "Any") -> None:
        """Do the same on the running loop.

        Args:
            driver: of the response's connection, an `AioConnection`.
        """
        event, context = self.arguments(invocation)
        request = self._events.read(event)
        scope = {**scope_of(request), "state": self._lifespan.state.copy(), "aws.event": event, "aws.context": context}
        await Exchange(request, response, driver, self._log).run(self._handler, scope)  # type: ignore[arg-type]

    def settle(self) -> None:
        """Let the loop finish what the response has left, and log the tasks that it cannot finish."""
        super().settle()
        left = [task for task in self.event_loop().tasks() if task not in self._known_tasks]
        if left:
            self._known_tasks.update(left)
            name = getattr(left[0].get_coro(), "__qualname__", "") or left[0].get_name()
            self._log.line(
                f"the application has returned, but {len(left)} of its tasks still run, such as {name}: they are "
                "frozen until the next invocation; await them, or use background tasks of the framework or "
                "context.after_response"
            )


def scope_of(request: "HttpRequest") -> "dict[str, Any]":
    return {
        "type": "http",
        "asgi": {"version": ASGI_VERSION, "spec_version": SPEC_VERSION},
        "http_version": request.http_version,
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query_string,
        "root_path": request.root_path,
        "headers": request.headers,
        "client": request.client,
        "server": request.server,
    }


class Exchange:
    """One request and its response: the callables `receive` and `send` of one call of the application."""

    def __init__(self, request: "HttpRequest", response: "ResponseStream", driver: "Any", log: "Log") -> None:
        self._body: bytes | None = request.body  # until the application has received it
        self._method = request.method
        self._response = response
        self._driver = driver
        self._stream = AioResponseStream(response, driver)
        self._log = log
        self._lock = asyncio.Lock()  # one task at a time may send
        self._receivers: list[Any] = []  # futures of those that wait for the end
        self._head: dict[str, Any] | None = None
        self._has_body = True
        self._missing: int | None = None  # bytes of the body, if the application has announced its length
        self._is_over = False  # the application has returned
        self._loss: NotDelivered | RuntimeApiError | None = None
        self._fault: ContractError | None = None  # the first message that was not allowed
        self._ignored = 0

    async def run(self, application: "Application", scope: "dict[str, Any]") -> None:
        """Call the application. Raises why the response is incomplete: an error of the application, or of the delivery.

        Raises:
            ContractError: `InvalidResponse`, the application has not sent a complete response.
        """
        try:
            await application(scope, self.receive, self.send)
            if not await self._is_settled():
                raise self._take_fault()
        except Exception as error:
            if not await self._is_settled():
                raise
            self._log.error(describe(error, "the application"))
        finally:
            self._is_over = True
            self._wake_receivers()
        if self._loss is not None:
            raise self._take_loss()

    async def _is_settled(self) -> bool:
        """Complete what a cancelled `send` has left. Return whether nothing more can be sent to the caller."""
        try:
            if self._loss is None:
                if self._driver.is_refused():
                    self._driver.raise_refusal()
                await (self._stream.finish() if self._response.phase is ENDED else self._stream.drain())
        except (NotDelivered, RuntimeApiError) as reason:
            self._lose(reason)
        return self._loss is not None or self._response.phase is DONE

    def _take_fault(self) -> ContractError:
        fault, self._fault = self._fault, None
        if fault is not None:
            return fault
        if self._head is None:
            return invalid("returned without a response")
        return invalid("returned before the end of its response, a body event without more_body")

    def _take_loss(self) -> "NotDelivered | RuntimeApiError":
        loss, self._loss = self._loss, None
        assert loss is not None
        return loss

    # receive

    async def receive(self) -> "Message":
        """Return the whole body; then wait until the response has ended or the caller has left."""
        if self._body is not None and not self._has_left():
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        while not self._has_left():
            await self._wait_for_end()
        return {"type": "http.disconnect"}

    def _has_left(self) -> bool:
        is_at_end = self._is_over or self._loss is not None or self._response.phase is DONE
        return is_at_end or bool(self._driver.is_refused())

    async def _wait_for_end(self) -> None:
        """Wait for the end of the response, or its refusal, or its begin: before it there is nothing to watch.

        A connection that is closed before the response begins is not a loss. The response opens another one.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._receivers.append(waiter)
        try:
            if self._response.phase is OPEN:
                self._driver.watch(waiter)
            await waiter
        except NotDelivered as reason:
            self._lose(reason)
        finally:
            self._driver.unwatch(waiter)
            if waiter in self._receivers:
                self._receivers.remove(waiter)

    def _wake_receivers(self) -> None:
        receivers, self._receivers = self._receivers, []
        for waiter in receivers:
            if not waiter.done():
                waiter.set_result(None)

    def _lose(self, reason: "NotDelivered | RuntimeApiError") -> None:
        self._loss = reason
        self._response.lose()
        self._wake_receivers()

    # send

    async def send(self, message: "Message") -> None:
        """Take the next event of the response. Return when its bytes are in the send buffer.

        Raises:
            ContractError: the event is not allowed here, or invalid.
            OSError: the caller has left, and many events have been ignored since.
        """
        async with self._lock:
            if self._loss is not None:
                await self._ignore()
                return
            try:
                await self._send(message)
            except ContractError as fault:
                self._fault = self._fault or fault
                raise
            except (NotDelivered, RuntimeApiError) as reason:
                self._lose(reason)

    async def _send(self, message: "Message") -> None:
        kind = message.get("type")
        if self._is_over or self._response.phase not in (FRESH, OPEN):
            raise invalid(f"sent {kind!r} after the end of its response")
        if self._driver.is_refused():
            self._driver.raise_refusal()
        if kind == BODY:
            if self._head is None:
                raise invalid(f"sent {BODY!r} before {START!r}")
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == START:
            if self._head is not None:
                raise invalid(f"sent {START!r} twice")
            self._set_head(message)
        else:
            raise invalid(f"sent {kind!r}, which is not an event of an HTTP response")

    def _set_head(self, message: "Message") -> None:
        """Check the head, which is sent with the first body event, so that the application can handle the error."""
        status, fields = message.get("status"), message.get("headers", ())
        head = http_response.prelude_of(status, [decoded(name, value) for name, value in fields])
        prelude.encode(head)
        self._has_body = http_response.has_body(self._method, status)
        self._missing = http_response.content_length(head["headers"]) if self._has_body else None
        self._head = head

    async def _send_body(self, item: object, is_followed: bool) -> None:
        data = self._bytes_of(item)
        excess = 0
        if self._missing is not None:
            excess = max(0, len(data) - self._missing)
            data = data[: self._missing]
            self._missing -= len(data)
        if self._response.phase is FRESH:
            await self._stream.write_first(self._head)
            self._wake_receivers()  # they can watch the connection now
        if data:
            await self._stream.write(data)
        if excess:
            raise invalid(f"sent {excess} bytes more than its Content-Length; they were dropped")
        if not is_followed:
            if self._missing:
                raise invalid(f"sent {self._missing} bytes less than its Content-Length")
            await self._stream.finish()
            self._wake_receivers()

    def _bytes_of(self, item: object) -> "bytes | memoryview":
        """Return the bytes to send. Raises ContractError (`InvalidChunk`) if the body is not bytes."""
        if not isinstance(item, (bytes, bytearray, memoryview)):
            found = f"the application sent a body that is {describe_type(item)}, but it must be bytes"
            raise ContractError("InvalidChunk", f'{found}: convert text with .encode("utf-8")')
        if not self._has_body:
            return b""
        return item if type(item) is bytes else bytes_of(item)

    async def _ignore(self) -> None:
        """Let other tasks run, which may cancel this one."""
        self._ignored += 1
        await asyncio.sleep(0)
        if self._ignored > MAX_IGNORED:
            raise OSError("the caller has left")


def invalid(message: str) -> ContractError:
    return ContractError("InvalidResponse", f"the application {message}")


def decoded(name: object, value: object) -> "tuple[str, str]":
    if isinstance(name, bytes) and isinstance(value, bytes):
        return name.decode("latin-1"), value.decode("latin-1")
    other = value if isinstance(name, bytes) else name
    raise ContractError(
        "InvalidResponseHead", f"the application sent a header with {describe_type(other)}; names and values are bytes"
    )
