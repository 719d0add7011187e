"""A blocking keep-alive connection to the Runtime API.

What can go wrong here, and how each case is handled:

- The service freezes the process while it waits, for minutes or hours. So no wait for a response has
  a time limit.
- A signal can arrive between the last instruction of Python and the system call that waits. The call would not notice
  it, and the signal handler would not run before the wait is over. So each wait is divided into short ones.
- The other side may close an idle connection. A request that can be repeated (`next`) finds out and uses a new one. A
  response must not be sent twice, so its connection is checked before it begins, and a failure later is final.
- A server may answer before it has read the whole request (413 for a large response, 410 after the deadline). A client
  that only sends would then wait for buffer space for ever, so a full send buffer waits for both directions.
- A signal handler may raise in the middle of a chunk. The framing of that connection is then lost: it is closed.
- The function may fork. The child shares the socket, and two processes on one connection would mix their bytes.
- The function may close descriptors that it does not own, and its next file or socket gets the same number. The
  connection is at a high number, which the usual ranges do not reach. Its identity is checked before each request and
  after each failed send. It is not checked for each chunk, which would cost as much as sending it: a number that is
  reused by another socket in the middle of a stream goes unnoticed.
- The peer may vanish without closing the connection. TCP keep-alive ends the wait for it. A live server can be silent
  for as long as it likes: its kernel answers the probes.
"""

import sys

from streaming_runtime import WAIT_MILLISECONDS, NotDelivered, RuntimeApiError, Terminated, import_standard
from streaming_runtime.http1 import HEAD_READ_BYTES, ProtocolError, ResponseParser
from streaming_runtime.log import Descriptor, duplicate_high

# The C parts of `socket` and `signal` suffice: their Python parts import `enum` and `selectors`, which take longer than
# the rest of a cold start.
try:
    import _socket as socket
except ImportError:  # an interpreter that is built differently
    import socket  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from streaming_runtime.aio_connection import AioConnection
    from streaming_runtime.http1 import Buffer, Response

VERSION = "0.1.0"

SEND_NOW = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)  # no wait; no SIGPIPE, whatever its disposition
# tcp(7): idle seconds before the first probe, seconds between probes, probes; and how often a SYN is repeated, which
# ends an attempt to connect after about 7 seconds. The kernel counts these, so a freeze of the process does no harm.
TCP_OPTIONS = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_SYNCNT": 2}
RECEIVE_NOW = socket.MSG_DONTWAIT
PEEK_NOW = socket.MSG_DONTWAIT | socket.MSG_PEEK

# Linux 4.1, struct tcp_info of linux/tcp.h: tcpi_state, and tcpi_bytes_received, unread bytes included.
TCP_INFO = getattr(socket, "TCP_INFO", 0) if sys.platform == "linux" else 0
SO_COOKIE = 57  # asm-generic/socket.h; the module has no name for it
TCP_INFO_BYTES = 136
BYTES_RECEIVED = slice(128, 136)
ESTABLISHED = 1


class _NotConnected:
    """Takes the place of a socket that is not open."""

    def send(self, *_: object) -> int:
        raise OSError("not connected")

    fileno: "Any" = send
    recv: "Any" = send
    getsockopt: "Any" = send
    sendmsg: "Any" = send
    setblocking: "Any" = send

    def close(self) -> None:
        pass

    detach = close


NOT_CONNECTED = _NotConnected()


def _at_high_number(sock: "socket.socket", family: int, kind: int, protocol: int) -> "socket.socket":
    number = sock.fileno()
    high = duplicate_high(number)
    if high == number:
        return sock
    sock.close()
    return socket.socket(family, kind, protocol, fileno=high)  # what is given here is not asked of the kernel


def _set_options(sock: "socket.socket") -> None:
    # Without it, a small chunk waits up to 40 ms for the acknowledgement of the previous one (tcp(7)).
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS.items():
        option = getattr(socket, name, None)  # macOS lacks some of them
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def timeval(milliseconds: int) -> bytes:
    """Return a time in the form of SO_RCVTIMEO (socket(7))."""
    return b"".join(part.to_bytes(8, sys.byteorder) for part in (milliseconds // 1000, milliseconds % 1000 * 1000))


def cookie(sock: "socket.socket") -> bytes:
    """Return the number that the kernel gives to one socket only; empty on other systems than Linux."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
    except OSError:
        return b""


def refuse(response: "Response") -> "NoReturn":
    """Raise the error for a response that ends a request: RuntimeApiError for a 5xx, otherwise NotDelivered."""
    if response.status >= 500:
        raise RuntimeApiError(f"the Runtime API responded with {response}")
    raise NotDelivered(f"the Runtime API ended the request with {response}")


class Connection:
    """One keep-alive HTTP/1.1 connection. A request starts after the response to the previous one was read.

    Attributes:
        sock: NOT_CONNECTED while there is no connection.
        parser: of the responses.
        bytes_read: from this socket.
        early_response: received before the request was complete.
        driver: waits on an event loop; None if the thread waits.
        exit_request: set by SIGTERM; whoever sends a response raises it as soon as the current send is complete.
        disowned: this process is a fork of the one that opened the connection.
        receive_timeout: SO_RCVTIMEO of the socket, after which a receive is repeated.
    """

    receive_timeout = timeval(WAIT_MILLISECONDS)

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self.sock: socket.socket | _NotConnected = NOT_CONNECTED
        self._descriptor: Descriptor | None = None
        self.parser = ResponseParser()
        self.bytes_read = 0
        self._cookie = b""
        self.early_response: Response | None = None
        self.driver: AioConnection | None = None
        self.exit_request: Terminated | None = None
        self.disowned = False

    # Before a request

    def renew(self) -> None:
        """Make sure that the connection is open and carries no stray bytes; otherwise open a new one.

        Call it before a request, never within an exchange: a second connection could deliver a response twice.
        Raises NotDelivered if no connection can be opened.
        """
        if self.is_stale():
            self.close()
        if self.sock is NOT_CONNECTED:
            self._open()

    def reuse(self) -> None:
        """As `renew`, for the request that follows a response at once: the connection had no time to become stale.

        Only the identity of the socket is checked, which takes a third of the time. A connection that was closed in the
        meantime shows when the request is sent, so the request must be one that can be sent again.
        """
        if self.parser.is_last or self.parser.received or not self._has_its_cookie():
            self.close()
        if self.sock is NOT_CONNECTED:
            self._open()

    def _has_its_cookie(self) -> bool:
        try:
            return self.sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8) == self._cookie
        except OSError:  # another system, or the number belongs to a file
            return self.is_ours()

    def is_stale(self) -> bool:
        """Return whether the connection is closed, or carries stray bytes."""
        return bool(self.parser.is_last or self.parser.received or not self._is_idle())

    def _is_idle(self) -> bool:
        """Return whether the socket is ours, its connection is open and nothing is unread.

        A receive that finds nothing raises, which takes several times as long as TCP_INFO. So first compare the state,
        and the bytes that have arrived with those that were read. Another TCP socket passes only if it has received as
        many. The receive decides where that fails: on other systems, and if the connection is not idle.
        """
        try:
            info = self.sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, TCP_INFO_BYTES)
            if info[0] == ESTABLISHED and int.from_bytes(info[BYTES_RECEIVED], sys.byteorder) == self.bytes_read:
                return True
        except (OSError, IndexError):
            pass
        return self.is_ours() and self._has_nothing_to_read()

    def _has_nothing_to_read(self) -> bool:
        try:
            self.sock.recv(1, PEEK_NOW)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # closed, or bytes that belong to no request: they would be parsed as the next response

    def is_ours(self) -> bool:
        """Return whether the socket's number still refers to the socket. If not, it is neither used nor closed."""
        if self._descriptor is not None and self._descriptor.is_valid():
            return True
        self.sock.detach()
        self.sock, self._descriptor = NOT_CONNECTED, None
        return False

    def disown(self) -> None:
        """Close this end of the connection in a forked process, and never open another."""
        if self.driver is not None:
            self.driver.disown()
            self.driver = None
        self.close()
        self.disowned = True

    def _open(self) -> None:
        if self.disowned:
            raise RuntimeApiError("a process that the function forked returned from its handler")
        host, port = self._address
        problem: Exception | None = None
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(host.encode(), port, 0, socket.SOCK_STREAM):
                sock = _at_high_number(socket.socket(family, kind, protocol), family, kind, protocol)
                sock.settimeout(None)  # the function may have set another default
                _set_options(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, self.receive_timeout)
                try:
                    sock.connect(address)
                    self.sock, self._descriptor, self.bytes_read = sock, Descriptor(sock.fileno()), 0
                    self._cookie = cookie(sock)
                    return
                except OSError as error:
                    sock.close()
                    problem = error
        except (OSError, OverflowError) as error:
            problem = error
        raise NotDelivered(f"no connection to {host} port {port}: {problem}")

    def close(self) -> None:
        if self.driver is not None:
            self.driver.forget_connection()
        if self.is_ours():
            self.sock.close()
        self.sock, self._descriptor = NOT_CONNECTED, None
        self.parser, self.early_response = ResponseParser(), None

    # Sending

    def send(self, data: bytes) -> None:
        """Send all bytes, with one system call if the send buffer has room.

        Raises NotDelivered if the other side closed the connection or refused the request; the connection is closed.
        """
        try:
            sent = self.sock.send(data, SEND_NOW)
        except BaseException as error:
            sent = self._sent_before(error)
        if sent != len(data):
            self._send_or_keep(memoryview(data)[sent:])

    def send_gathered(self, buffers: "tuple[Buffer, ...]") -> None:
        """Send the buffers one after the other without joining them. Raises what `send` raises."""
        try:
            sent = self.sock.sendmsg(buffers, [], SEND_NOW)
        except BaseException as error:
            sent = self._sent_before(error)
        for buffer in buffers:
            if sent < len(buffer):
                self._send_or_keep(memoryview(buffer)[sent:])
            sent = max(0, sent - len(buffer))

    def _sent_before(self, error: BaseException) -> int:
        """Return 0 if the send buffer is full. Any other error ends the request."""
        if isinstance(error, BlockingIOError):
            return 0
        if isinstance(error, OSError):
            self.give_up(error)
        self.close()  # raised by a signal handler, perhaps in the middle of a chunk
        raise error

    def _send_or_keep(self, rest: memoryview) -> None:
        if self.driver is None:
            self._send_rest(rest)
        else:
            self.driver.unsent.append(rest)

    def _send_rest(self, rest: memoryview) -> None:
        """Send the rest. Close the connection if anything interrupts that: its framing is then broken."""
        try:
            self._send_when_writable(rest)
        except BaseException:
            self.close()
            raise

    def _send_when_writable(self, rest: memoryview) -> None:
        select = import_standard("select")
        sock = self.sock
        poller = select.poll()
        poller.register(sock, select.POLLOUT | (0 if self.early_response else select.POLLIN))
        while rest:
            for _, events in poller.poll(WAIT_MILLISECONDS):
                if events & select.POLLIN:
                    self._take_early_response()
                    poller.modify(sock, select.POLLOUT)
            try:
                rest = rest[sock.send(rest, SEND_NOW) :]
            except BlockingIOError:
                continue
            except OSError as error:
                self.give_up(error)

    def _take_early_response(self) -> None:
        """Read a response that arrives before the request is complete.

        A refusal ends the request. A success is kept: the server still expects the rest of the request.
        """
        response = self.read_response()
        if self.sock is NOT_CONNECTED:
            raise NotDelivered("the Runtime API closed the connection")
        self.early_response = response
        if not response.is_success:
            self.give_up(None)

    def give_up(self, error: "OSError | None") -> "NoReturn":
        """Leave a request incomplete. The response, if there is one, explains more than the error does."""
        if self.sock is NOT_CONNECTED:
            raise NotDelivered("the connection was closed within the response")
        if not self.is_ours():
            self.close()
            raise NotDelivered("the function closed the descriptor of the connection")
        if error is not None and not isinstance(error, ConnectionError):  # raised by the function's signal handler
            self.close()
            raise NotDelivered(str(error))
        try:
            response = self.read_response()
        except NotDelivered:
            raise NotDelivered(f"the Runtime API closed the connection ({error})") from None
        finally:
            self.close()
        refuse(response)

    # Receiving

    def read_response(self) -> "Response":
        """Read the response to the request. If there is no valid one, close the connection and raise NotDelivered."""
        if self.early_response is not None:
            early, self.early_response = self.early_response, None
            return early
        try:
            response = self._receive(self.parser)
        except ProtocolError as error:
            self.close()
            raise NotDelivered(str(error)) from None
        except BaseException:  # raised by a signal handler: the rest would be parsed as the next response
            self.close()
            raise
        if response.body is None:
            self.close()
        return response

    def _receive(self, parser: ResponseParser) -> "Response":
        # The parser is empty here: a connection with unread bytes of an earlier response is not used again.
        try:
            parser.received = self._read(HEAD_READ_BYTES)
        except OSError as error:
            raise ProtocolError(str(error)) from None
        whole = parser.whole_response()
        if whole is not None:
            return whole
        parsing = parser.response()
        try:
            size = next(parsing)
            while True:
                try:
                    data = self._read(size)
                except OSError as error:
                    size = parsing.throw(ProtocolError(str(error)))
                else:
                    size = parsing.send(data)
        except StopIteration as done:
            response: Response = done.value
            return response

    def _read(self, size: int) -> bytes:
        while True:
            try:
                data: bytes = self.sock.recv(size)
            except BlockingIOError:  # nothing has arrived within SO_RCVTIMEO
                if not self.is_ours():
                    raise OSError("the function closed the descriptor of the connection") from None
                self.sock.setblocking(True)  # the function may have changed that, and this loop would not wait
            else:
                self.bytes_read += len(data)
                return data
