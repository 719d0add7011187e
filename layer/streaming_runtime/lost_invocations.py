"""The invocation that a dead worker has left, found with the parent's duplicate of its connection.

The worker has recorded its last step; see `worker_state`. The socket has the rest: an invocation that has arrived and
that the worker has not read, and whether the first byte of a response was written.

An invocation can also arrive after the death of the worker, until the Runtime API notices the end of the connection. It
need not notice before it writes, and then never closes an idle connection. So the parent waits LAST_BYTES_TIMEOUT for
it, besides its other work: the kernel can kill all workers at once, and each has a connection for each of its slots.
"""

import contextlib
import select
import time

from streaming_runtime import load
from streaming_runtime.api import INVOCATION_ID, REQUEST_ID
from streaming_runtime.http1 import HEAD_READ_BYTES
from streaming_runtime.invocation import Invocation

try:
    import _socket as socket
except ImportError:  # an interpreter that is built differently
    import socket  # type: ignore[no-redef]

worker_state = load("worker_state")
head_of = load("worker").head_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from streaming_runtime.worker_state import Slot

VERSION = "0.1.0"

LAST_BYTES_TIMEOUT = 1.0  # seconds, for what the Runtime API sends until it notices the end of a connection


class UnreadConnections:
    """The connections of dead workers on which an invocation can be unread.

    Args:
        poller: of the parent, which calls `receive` for the descriptors that it reports and that are `in` this object.
    """

    def __init__(self, poller: "select.poll") -> None:
        self._poller = poller
        self._found: dict[int, tuple[socket.socket, bytes]] = {}
        self._deadlines: dict[int, tuple[float, str]] = {}  # with the reason for the report

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._found

    def add(self, connection: "socket.socket", reason: str) -> None:
        """Take over a connection. `reason` is why its invocation fails."""
        descriptor = connection.fileno()
        self._poller.register(descriptor, select.POLLIN)
        self._found[descriptor] = connection, b""
        self._deadlines[descriptor] = time.monotonic() + LAST_BYTES_TIMEOUT, reason

    def receive(self, descriptor: int) -> "tuple[Invocation, str] | None":
        """Receive what has arrived. Return the invocation and the reason when its head is complete."""
        connection, received = self._found[descriptor]
        try:
            data = connection.recv(HEAD_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        received += data
        self._found[descriptor] = connection, received
        head = head_of(received)
        if data and head is None and len(received) < HEAD_READ_BYTES:
            return None
        _, reason = self._remove(descriptor)
        request_id = head.get(REQUEST_ID, "") if head is not None else ""
        return (Invocation(request_id, head, None), reason) if head is not None and request_id else None

    def next_deadline(self) -> "float | None":
        """Return when the time of the next connection is over; None if there are no connections."""
        return min((due for due, _ in self._deadlines.values()), default=None)

    def close_overdue(self, polled: float, readable: "set[int]") -> None:
        """Close the connections whose time was over before the parent polled, and which had nothing to read then.

        Not those whose time is over now: while the parent waits for the Runtime API to accept a report, invocations
        can arrive in time, and would be lost.
        """
        for descriptor in [descriptor for descriptor, (due, _) in self._deadlines.items() if due <= polled]:
            if descriptor not in readable:
                self._remove(descriptor)

    def close(self) -> None:
        """In a forked process: the parent reads them."""
        for connection, _ in self._found.values():
            connection.close()

    def _remove(self, descriptor: int) -> "tuple[float, str]":
        self._poller.unregister(descriptor)
        connection, _ = self._found.pop(descriptor)
        connection.close()
        return self._deadlines.pop(descriptor)


def of_slot(slot: "Slot", connection: "socket.socket | None") -> "Invocation | None":
    """Return the invocation that a dead worker's slot has recorded, if its response has not begun."""
    if not slot.request_id or (slot.phase == worker_state.SENDING and has_written(connection, slot.threshold)):
        return None
    headers: Any = {INVOCATION_ID: slot.invocation_id}
    return Invocation(slot.request_id, headers, None)


def end_sending(connection: "socket.socket") -> None:
    """Let the Runtime API see the end of the connection. What it has sent stays readable."""
    with contextlib.suppress(OSError):  # it has closed the connection
        connection.shutdown(socket.SHUT_WR)


def has_written(connection: "socket.socket | None", threshold: int) -> bool:
    """Return whether the socket has taken `threshold` bytes; also if that is unknown."""
    written = worker_state.bytes_written(connection) if connection is not None else None
    return written is None or written >= threshold
