"""A listening socket, and a thread for each connection.

Theory of operation. Nothing that happens to one connection may end the thread that accepts them: not a client that
resets its connection, which makes any call on the new socket fail, nor a system that is out of threads, descriptors or
memory, which is often over a moment later. So each connection is set up behind a barrier for every exception, and a
failed `accept` is repeated after a pause.

The thread starts with `start`, when everything that `serve` uses exists. Clients that connect before wait in the
backlog of the socket.

A thread in `accept` cannot be woken on every system: on Linux `shutdown` does it, on macOS it fails. So the thread
waits for two descriptors, the listening socket and a pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

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
        self._started = False
        self._closed = False
        self._listener = listener or listen()
        self._listener.setblocking(False)  # a client can be gone between the wait and `accept`
        self._wait, self._wake = os.pipe()
        self.host: str = self._listener.getsockname()[0]
        self.port: int = self._listener.getsockname()[1]

    @property
    def authority(self) -> str:
        """`host:port`, with brackets around an IPv6 address (RFC 3986, 3.2.2)."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def start(self) -> None:
        """Begin to accept connections. Raises RuntimeError if the system allows no more threads."""
        with self._change:
            threading.Thread(target=self._accept, daemon=True).start()
            self._started = True

    def close(self, drain_timeout: float = 0) -> None:
        """Stop listening and shut down every connection.

        What a peer sent before can still be read from a socket that was shut down.

        Args:
            drain_timeout: seconds to wait until every connection has been read to its end.
        """
        with self._change:
            if not self._closed:
                self._closed = True
                with contextlib.suppress(OSError):
                    self._listener.shutdown(socket.SHUT_RDWR)  # on Linux, clients are refused from now on
                os.close(self._wake)
                if not self._started:
                    self._release()
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)
            self._change.wait_for(lambda: not self._connections, drain_timeout)

    def close_connections(self, besides: Connection) -> None:
        """Shut down every connection except one, also those that wait in the backlog; continue to accept new ones."""
        with self._change:
            with contextlib.suppress(OSError):  # none waits any more
                while True:
                    self._listener.accept()[0].close()
            for connection in self._connections - {besides}:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        self._listener.close()
        os.close(self._wait)

    def _accept(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._wait, select.POLLIN)
        while True:
            try:
                poller.poll()
                if self._closed:
                    break
                self._accept_next()
            except (BlockingIOError, ConnectionAbortedError):  # the client has gone meanwhile
                continue
            except Exception:  # out of descriptors or memory, for example; only the end of another connection helps
                time.sleep(ACCEPT_PAUSE)
        self._release()

    def _accept_next(self) -> None:
        with self._change:  # a connection is in the backlog or in `_connections`, as `close_connections` expects
            sock, address = self._listener.accept()
            try:
                self._start(sock, address)
            except Exception:  # reset by the client, or the system allows no more threads
                sock.close()

    def _start(self, sock: socket.socket, address: Any) -> None:
        sock.setblocking(True)  # on BSD and macOS an accepted socket is non-blocking like its listener
        peer = address[0] if address else ""  # macOS has no address for a connection that was reset
        connection = Connection(sock, peer)
        if self._closed:
            connection.socket.shutdown(socket.SHUT_RDWR)
        threading.Thread(target=self._run, args=(connection,), daemon=True).start()
        self._connections.add(connection)

    def _run(self, connection: Connection) -> None:
        try:
            self._serve(connection)
        except ConnectionClosed:
            pass
        finally:
            with self._change:
                self._connections.discard(connection)
                self._change.notify_all()
            connection.close()
