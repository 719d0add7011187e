"""The thread that writes the log of an event loop.

A pipe or a socket that is read slowly blocks whoever writes to it. On an event loop, that would stop all invocations of
the process. So what cannot be written at once is put into a queue, and a thread writes it, in its order. Nothing is
dropped: with MAX_WAITING_BYTES in the queue, the log call itself blocks, until the thread has written enough.

The service's socket usually takes a record at once. A process that is killed then loses only what nobody has read.
"""

from streaming_runtime import import_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    import collections
    from collections.abc import Callable

VERSION = "0.1.0"

MAX_WAITING_BYTES = 1024 * 1024
DRAIN_TIMEOUT = 2.0  # seconds at the end of the process; the service allows 2 seconds for the whole shutdown

threading = import_standard("threading")


class LogWriter:
    """Writes records on a thread of its own.

    Args:
        write: writes one record to a descriptor, from the byte that is the third argument on.
        write_at_once: writes what the descriptor takes without a wait, and returns the number of bytes.
    """

    def __init__(
        self, write: "Callable[[int, bytes, int], None]", write_at_once: "Callable[[int, bytes], int]"
    ) -> None:
        self._write = write
        self._write_at_once = write_at_once
        # Reentrant: a signal handler, or a destructor, of the main thread can log while that thread is in `put`.
        self._change = threading.Condition(threading.RLock())
        deque = import_standard("collections").deque
        self._records: collections.deque[tuple[int, bytes, int]] = deque()
        self._waiting = 0  # bytes that are not written yet
        threading.Thread(target=self._run, name="log-writer", daemon=True).start()

    def put(self, descriptor: int, record: bytes) -> None:
        """Write a record, or add it to the queue. Block while MAX_WAITING_BYTES wait."""
        with self._change:
            sent = self._write_at_once(descriptor, record) if not self._waiting else 0
            if sent == len(record):
                return
            while self._waiting and self._waiting + len(record) > MAX_WAITING_BYTES:
                self._change.wait()
            self._records.append((descriptor, record, sent))
            self._waiting += len(record)
            self._change.notify_all()

    def drain(self) -> None:
        """Wait until everything is written, within a time limit."""
        with self._change:
            self._change.wait_for(lambda: not self._waiting, DRAIN_TIMEOUT)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._records:
                    self._change.wait()
                descriptor, record, sent = self._records.popleft()
            self._write(descriptor, record, sent)
            with self._change:
                self._waiting -= len(record)
                self._change.notify_all()
