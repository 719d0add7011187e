"""The socket at which the processes of a managed instance get their log descriptors.

Each process connects twice, and uses the two sockets as standard output and standard error. So each line arrives whole,
whatever other processes write at the same moment. A runtime finds the path of the socket in
`_LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET`, as with AWS's own runtime interface client for Python.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

VARIABLE = "_LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET"
MAX_PATH_BYTES = 107  # unix(7)
READ_BYTES = 65536


class LogProvider:
    """Listens on a socket, and passes on whole lines.

    Args:
        write: called with lines.

    Raises OSError if the path is too long for a socket.
    """

    def __init__(self, path: Path, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._lines: dict[socket.socket, bytes] = {}  # the begun line of each connection
        self._listener = socket.socket(socket.AF_UNIX)
        bind(self._listener, path)
        self._listener.listen(1024)
        self._listener.setblocking(False)
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Pass on what has arrived, and stop."""
        self.drain()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread

    def drain(self) -> None:
        """Pass on all that was written until now."""
        with self._lock:
            self._accept()
            for connection in list(self._lines):
                self._read(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self._lines[connection] = b""

    def _read(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(READ_BYTES):
                lines, newline, rest = (self._lines[connection] + data).rpartition(b"\n")
                self._lines[connection] = rest
                if newline:
                    self._write(lines + newline)
        except BlockingIOError:
            return
        except OSError:
            pass
        rest = self._lines.pop(connection)
        connection.close()
        if rest:
            self._write(rest + b"\n")

    def _run(self) -> None:
        while True:
            poller = select.poll()
            poller.register(self._listener, select.POLLIN)
            with self._lock:
                for connection in self._lines:
                    poller.register(connection, select.POLLIN)
            events = dict(poller.poll())
            if events.get(self._listener.fileno(), 0) & select.POLLHUP:
                break
            self.drain()
        with self._lock:
            for connection in [self._listener, *self._lines]:
                connection.close()


def bind(listener: socket.socket, path: Path) -> None:
    """Bind to a path, also to one that is too long, where the system shows the folder under a shorter one.

    Raises OSError.
    """
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        return listener.bind(str(path))
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
