"""The waits of a connection, on an event loop: none of them stops another task of the loop.

`connection.Connection` sends with one system call that does not wait. Only what the send buffer does not take has to
wait until the other side reads. Without a driver, the thread waits for that. While an `AioConnection` is attached, the
rest is kept in `unsent`, and `drain` waits on the loop. Everything else is the same code: the framing, the
phases of a response, the checks before a request. A response is received on the loop and kept like one that arrives
early, so that `Connection.read_response` returns it without a wait.

What can go wrong here, besides what `connection` describes:

- A task that waits in `drain` can be cancelled in the middle of a chunk. The rest stays in `unsent`, and is sent before
  the next chunk, so the framing is intact. If it is still there when the driver is detached, the connection is closed.
- A refusal can arrive while the loop waits for buffer space. So that wait is for both.
- An application can wait for nothing but the disconnect of its caller. So it can watch the connection too: what arrives
  before the response is complete is a refusal, or the end of the connection.
- The loop identifies a socket by its number, and the function can close numbers that it does not own. So the socket is
  registered only during a wait, and its identity is checked before.
"""

from streaming_runtime import NotDelivered, RuntimeApiError
from streaming_runtime.api import DONE, ENDED
from streaming_runtime.connection import RECEIVE_NOW, SEND_NOW, refuse
from streaming_runtime.http1 import HEAD_READ_BYTES, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections.abc import AsyncIterator, Callable, Generator

    from streaming_runtime.api import Report, ResponseStream
    from streaming_runtime.connection import Connection
    from streaming_runtime.http1 import Response

VERSION = "0.1.0"


class AioConnection:
    """The driver of one connection on one event loop. It is attached within a `with` block.

    One task at a time may send or receive a response. Others may `watch` meanwhile.

    Attributes:
        unsent: what the send buffer did not take, in order.
    """

    def __init__(self, connection: "Connection", loop: "AbstractEventLoop") -> None:
        self.connection = connection
        self.unsent: list[memoryview] = []
        self._loop = loop
        self._number: int | None = None  # of the socket, while the loop watches it
        self._waiters: list[Future[None]] = []
        self._parsing: Generator[int, bytes, Response] | None = None
        self._size = HEAD_READ_BYTES  # that the parser takes
        self._problem: NotDelivered | None = None  # why there can be no response

    def __enter__(self) -> "AioConnection":
        self.connection.driver = self
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Let the thread wait again. The connection is closed if its framing is broken."""
        if self.connection.driver is self:
            self._stop_waiting()
            if self.unsent or self._parsing is not None or self._problem is not None:
                self.connection.close()
            self.connection.driver = None

    # Sending

    async def drain(self) -> None:
        """Send what is unsent. Raises NotDelivered or RuntimeApiError, as `Connection.send` does."""
        while self.unsent:
            rest = self.unsent[0]
            try:
                sent = self.connection.sock.send(rest, SEND_NOW)
            except BlockingIOError:
                await self._wait(for_space=True)
                self.raise_refusal()
            except OSError as error:
                await self._give_up(error)
            else:
                self.unsent[0] = rest[sent:]
                if sent == len(rest):
                    del self.unsent[0]

    async def _give_up(self, error: OSError) -> None:
        """Leave a request incomplete. Raises NotDelivered or RuntimeApiError, with the response if there is one."""
        if self._parsing is not None and isinstance(error, ConnectionError):
            while not self._has_arrived():
                await self._wait()
            self.raise_refusal()
        self.connection.give_up(error)

    def raise_refusal(self) -> None:
        """Raise NotDelivered or RuntimeApiError if the request was refused, or if there can be no response."""
        response = self.connection.early_response
        if self._problem is not None:
            self._raise_problem()
        if response is not None and not response.is_success:
            self.connection.close()
            refuse(response)

    def _raise_problem(self) -> None:
        problem, self._problem = self._problem, None
        self.connection.close()
        if problem is not None:
            raise problem

    # Receiving

    async def receive_response(self) -> None:
        """Wait for the response to the request. Afterwards `Connection.read_response` returns it at once.

        Raises NotDelivered if there is none; the connection is closed.
        """
        while not self._has_arrived():
            await self._wait()
        if self._problem is not None:
            self._raise_problem()

    def is_refused(self) -> bool:
        """Return whether the request that is being sent was refused, or can have no response."""
        response = self.connection.early_response
        return self._problem is not None or (response is not None and not response.is_success)

    def _has_arrived(self) -> bool:
        return self.connection.early_response is not None or self._problem is not None

    # The loop

    def watch(self, waiter: "Future[None]") -> int:
        """Resolve the future when the response arrives or can never arrive. Return the number of the socket.

        `unwatch` must follow. Raises NotDelivered if there is nothing to watch.
        """
        if self.connection.driver is not self:
            raise NotDelivered("the response is over")
        if not self.connection.is_ours():
            raise NotDelivered("the function closed the descriptor of the connection")
        if self._number is None:
            self._number = self.connection.sock.fileno()
            if not self._has_arrived():  # otherwise it is not read before the next request
                self._loop.add_reader(self._number, self._receive)
        self._waiters.append(waiter)
        return self._number

    def unwatch(self, waiter: "Future[None]") -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            if not self._waiters:
                self._stop_waiting()

    async def _wait(self, for_space: bool = False) -> None:
        """Wait until the response has arrived, or can never arrive, or the send buffer has space."""
        waiter: Future[None] = self._loop.create_future()
        number = self.watch(waiter)
        if for_space:
            self._loop.add_writer(number, resolve, waiter)
        try:
            await waiter
        finally:
            if for_space and self._number is not None:
                self._loop.remove_writer(number)
            self.unwatch(waiter)

    def disown(self) -> None:
        """In a forked process: leave the loop alone. Its epoll descriptor belongs to the parent too."""
        self._number = None

    def forget_connection(self) -> None:
        """The socket is about to be closed: forget it, and what belongs to it."""
        self.unsent.clear()
        self._parsing, self._size, self._problem = None, HEAD_READ_BYTES, None
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        """Remove the socket from the loop, and let those who wait look again."""
        if self._number is not None:
            self._loop.remove_reader(self._number)
            self._loop.remove_writer(self._number)
            self._number = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            resolve(waiter)

    def _receive(self) -> None:
        """Receive a part of the response. The loop calls this when the socket is readable."""
        connection = self.connection
        try:
            data = connection.sock.recv(self._size, RECEIVE_NOW)
            connection.bytes_read += len(data)
            connection.early_response = self._parse(data)
        except BlockingIOError:
            return
        except (OSError, ProtocolError) as error:
            self._parsing = None
            self._problem = NotDelivered(str(error))
        if self._has_arrived():
            self._stop_waiting()

    def _parse(self, data: bytes) -> "Response | None":
        """Parse the next bytes; no bytes mean the end of the connection. Return the response when it is complete."""
        parser = self.connection.parser
        try:
            if self._parsing is None:
                if not data:
                    raise ProtocolError("the Runtime API closed the connection")
                parser.received = data
                whole = parser.whole_response()
                if whole is not None:
                    return whole
                self._parsing = parser.response()
                self._size = next(self._parsing)
            else:
                self._size = self._parsing.send(data)
        except StopIteration as done:
            self._parsing, self._size = None, HEAD_READ_BYTES
            response: Response = done.value
            return response
        return None


class AioResponseStream:
    """A response on an event loop: the methods of `ResponseStream` that can wait, as coroutines.

    One task at a time may use it. The chunk of a cancelled `write` is complete before anything else is sent.
    """

    def __init__(self, response: "ResponseStream", driver: AioConnection) -> None:
        self._response = response
        self._driver = driver

    async def write_first(self, item: object) -> None:
        """Send the first item: a prelude or a chunk."""
        await self.drain()
        self._response.write_first(item)
        await self.drain()

    async def write(self, item: object) -> None:
        """Send one chunk. Return when all of it is in the send buffer."""
        if self._driver.unsent:
            await self.drain()
        self._response.write(item)
        if self._driver.unsent:
            await self.drain()

    async def write_all(self, items: "AsyncIterator[object]", log_clean_up: "Callable[[Exception], None]") -> None:
        """Send what the iterator yields, each chunk before it resumes; then close it.

        Args:
            log_clean_up: is called with an error that the iterator raises while it is closed.
        """
        unsent = self._driver.unsent
        try:
            write, write_next = self._response.write_first, self._response.write
            async for item in items:
                write(item)
                if unsent:
                    await self.drain()
                write = write_next
                del item  # or two large chunks would exist at a time
        finally:
            if hasattr(items, "aclose"):
                try:
                    await items.aclose()
                except Exception as error:
                    log_clean_up(error)

    async def finish(self) -> bool:
        """End the response, and wait for the Runtime API. Return whether it has accepted the response."""
        await self.drain()
        if self._response.phase is not DONE:
            try:
                self._response.end()
                await self._driver.drain()
                await self._driver.receive_response()
            except (NotDelivered, RuntimeApiError):
                self._response.lose()
                raise
        return self._response.finish()

    async def fail(self, report: "Report") -> None:
        """Report an error to the caller by the way that is still open."""
        try:
            await self.drain()
            if self._response.send_error(report):
                await self._driver.drain()
                await self._driver.receive_response()
                self._response.api.read_acceptance("the error")
            elif self._response.phase is ENDED:  # the error has interrupted the wait for the acceptance
                await self._driver.receive_response()
                self._response.finish()
        except NotDelivered as reason:
            self._response.log_lost_error(reason)

    async def drain(self) -> None:
        """Wait until what was written is in the send buffer."""
        try:
            await self._driver.drain()
        except (NotDelivered, RuntimeApiError):
            self._response.lose()
            raise


def resolve(waiter: "Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
