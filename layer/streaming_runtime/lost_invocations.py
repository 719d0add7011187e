"""The invocation that a dead worker has left, found with the parent's duplicate of its connection.

The worker has recorded its last step; see `worker_state`. The socket has the rest: an invocation that has arrived and
that the worker has not read, and whether the first byte of a response was written.
"""

import contextlib
import select

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

LAST_BYTES_TIMEOUT_MS = 1000  # for what the Runtime API sends until it sees the end of a connection


def of_slot(slot: "Slot", connection: "socket.socket | None") -> "Invocation | None":
    """Return the invocation of a dead worker's slot if its response has not begun."""
    if slot.phase == worker_state.IDLE:
        return unread_invocation(connection)
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


def unread_invocation(connection: "socket.socket | None") -> "Invocation | None":
    """Return the invocation that has arrived and that the dead worker has not read."""
    if connection is None:
        return None
    received = b""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    while len(received) < HEAD_READ_BYTES and poller.poll(LAST_BYTES_TIMEOUT_MS):
        try:
            data = connection.recv(HEAD_READ_BYTES)
        except OSError:
            break
        if not data:
            break
        received += data
    head = head_of(received)
    request_id = head.get(REQUEST_ID, "") if head is not None else ""
    return Invocation(request_id, head, None) if head is not None and request_id else None
