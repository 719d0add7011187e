"""The state of each slot, in memory that the parent and all workers share (Lambda Managed Instances).

A worker can be killed between any two instructions. The parent then needs its invocation, if there was one, and
whether the response had begun: `/error` is accepted only before that. So each worker records every step here before it
takes it, and the parent reads the record when the worker has ended.

    IDLE        no invocation, or one that is still unread in the socket
    INVOKED     the invocation has been received; nothing was sent for it
    SENDING     a response or an error report begins. It has begun if the socket has taken the byte that `threshold`
                counts. The worker cannot record that in time, but the kernel counts the bytes of each connection.

A slot has one writer, and the parent reads it after the writer's end. So there are no locks.
"""

import mmap
import select
import sys

try:
    import _socket as socket
except ImportError:  # an interpreter that is built differently
    import socket  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "0.1.0"

IDLE, INVOKED, SENDING = 0, 1, 2

BYTE_ORDER = sys.byteorder
# Its end shows at the other end, on Linux (unix(7)). Other systems lack it, and have no use for that.
CHANNEL_TYPE = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
HEADER_BYTES = 64
SLOT_BYTES = 1024
MAX_ID_BYTES = 480  # a longer id is not recorded

# Positions in the header, which all workers write. Each byte only changes from 0 to 1.
READY = 0  # a worker has asked for an invocation: the init phase is over
INIT_ERROR = 1  # an init error was posted
HINT = 2  # the hint about async handlers is in the log
# Positions in a slot.
PHASE, INVOCATIONS, THRESHOLD, REQUEST_ID, INVOCATION_ID = 0, 8, 16, 24, 512


class SharedState:
    """The memory. Make it before the first fork."""

    def __init__(self, slots: int) -> None:
        self._memory = mmap.mmap(-1, HEADER_BYTES + slots * SLOT_BYTES)

    def slot(self, number: int) -> "Slot":
        return Slot(self._memory, HEADER_BYTES + number * SLOT_BYTES)

    def is_set(self, flag: int) -> bool:
        return self._memory[flag] != 0

    def set(self, flag: int) -> None:
        self._memory[flag] = 1


class Slot:
    """One invocation at a time of one worker."""

    __slots__ = ("_memory", "_start")

    def __init__(self, memory: mmap.mmap, start: int) -> None:
        self._memory = memory
        self._start = start

    # Written by the worker

    def idle(self) -> None:
        self._memory[self._start] = IDLE

    def invoked(self, request_id: str, invocation_id: str) -> None:
        self._write_text(REQUEST_ID, request_id)
        self._write_text(INVOCATION_ID, invocation_id)
        self._write_number(INVOCATIONS, self.invocations + 1)
        self._memory[self._start] = INVOKED

    def sending(self, threshold: int) -> None:
        """A request that ends the invocation begins when its connection has taken `threshold` bytes."""
        self._write_number(THRESHOLD, threshold)
        self._memory[self._start] = SENDING

    # Read by the parent

    @property
    def phase(self) -> int:
        return self._memory[self._start]

    @property
    def invocations(self) -> int:
        """The number of invocations that this slot has received."""
        return self._read_number(INVOCATIONS)

    @property
    def threshold(self) -> int:
        return self._read_number(THRESHOLD)

    @property
    def request_id(self) -> str:
        return self._read_text(REQUEST_ID)

    @property
    def invocation_id(self) -> str:
        return self._read_text(INVOCATION_ID)

    # The form of numbers and texts

    def _write_number(self, position: int, number: int) -> None:
        start = self._start + position
        self._memory[start : start + 8] = number.to_bytes(8, "little")

    def _read_number(self, position: int) -> int:
        start = self._start + position
        return int.from_bytes(self._memory[start : start + 8], "little")

    def _write_text(self, position: int, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        if len(data) > MAX_ID_BYTES:
            data = b""
        start = self._start + position
        self._memory[start : start + 2 + len(data)] = len(data).to_bytes(2, "little") + data

    def _read_text(self, position: int) -> str:
        start = self._start + position
        length = int.from_bytes(self._memory[start : start + 2], "little")
        return self._memory[start + 2 : start + 2 + length].decode("utf-8", "surrogateescape")


# --- The bytes of a connection that the kernel counts -----------------------------------------------------------------

# Linux 4.19, struct tcp_info of linux/tcp.h: tcpi_notsent_bytes, tcpi_bytes_sent and tcpi_bytes_retrans.
NOT_SENT, SENT, RETRANSMITTED = slice(144, 148), slice(200, 208), slice(208, 216)
TCP_INFO_BYTES = 216


def bytes_written(sock: "Any") -> "int | None":
    """Return how many bytes the socket has taken since its connection was opened; None if the kernel does not count."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    except (OSError, AttributeError):  # another system than Linux
        return None
    if len(info) < TCP_INFO_BYTES:
        return None
    not_sent, sent, repeated = (int.from_bytes(info[part], BYTE_ORDER) for part in (NOT_SENT, SENT, RETRANSMITTED))
    return sent - repeated + not_sent


def is_readable(descriptor: int, milliseconds: int = 0) -> bool:
    """Wait for data, or for the other end to close. Return whether a read would not block."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(milliseconds))
