"""A listening socket, and a thread for each connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from tools.emulator.http1.connection import Connection, ConnectionClosed

BACKLOG = 1024  # connections that wait to be accepted
ACCEPT_PAUSE = 0.05  # seconds after a failed accept


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A listening socket. Port 0: the system chooses a port. Raises OSError or UnicodeError."""
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


class Server:
    """Accepts connections and calls `serve` for each of them, on a thread of its own.

    Args:
        serve: called with a connection, which is closed when the call returns.
        listener: a listening socket; None: a new one on the loopback interface.
    """

    def __init__(self, serve: Callable[[Connection], None], listener: socket.socket | None = None) -> None:
        self._serve = serve
        self._change = threading.Condition()
        self._connections: set[Connection] = set()
        self._closed = False
        self._listener = listener or listen()
        self.host: str = self._listener.getsockname()[0]
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def authority(self) -> str:
        """`host:port`, with brackets around an IPv6 address (RFC 3986, 3.2.2)."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def close(self, drain_timeout: float = 0) -> None:
        """Stop listening and shut down every connection.

        What a peer sent before can still be read from a socket that was shut down.

        Args:
            drain_timeout: seconds to wait until every connection has been read to its end.
        """
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        self._listener.close()
        with self._change:
            self._closed = True
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)
            self._change.wait_for(lambda: not self._connections, drain_timeout)

    def close_connections(self, besides: Connection) -> None:
        """Shut down every connection except one; continue to accept new ones."""
        with self._change:
            for connection in self._connections - {besides}:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, (peer, *_) = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                # Out of descriptors, for example. Only the end of another connection helps.
                time.sleep(ACCEPT_PAUSE)
                continue
            try:
                self._start(Connection(sock, peer))
            except (OSError, RuntimeError):  # reset by the client, or the system allows no more threads
                sock.close()

    def _start(self, connection: Connection) -> None:
        thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
        with self._change:
            if self._closed:
                connection.socket.shutdown(socket.SHUT_RDWR)
            thread.start()
            self._connections.add(connection)

    def _run(self, connection: Connection) -> None:
        try:
            self._serve(connection)
        except ConnectionClosed:
            pass
        finally:
            connection.close()
            with self._change:
                self._connections.discard(connection)
                self._change.notify_all()
