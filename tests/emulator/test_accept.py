"""The thread that accepts connections: no connection, and no shortage, ends it."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.emulator import ECHO, Client, FunctionFolder, Program, event_of

from tools.emulator.http1.connection import Connection
from tools.emulator.http1.server import Server, listen


class ListenerWithErrors:
    """A listening socket whose `accept` fails with each error first. A result that is no error is returned instead."""

    def __init__(self, *results: Any) -> None:
        self.socket = listen()
        self._results = list(results)

    def accept(self) -> Any:
        sock, address = self.socket.accept()
        if not self._results:
            return sock, address
        result = self._results.pop(0)
        if isinstance(result, BaseException):
            sock.close()
            raise result
        return result(sock, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.socket, name)


class BrokenSocket:
    """A socket that was reset by its client: every call fails. macOS raises EINVAL in `setsockopt`."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self._socket = sock
        self._number = number

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def setsockopt(self, *arguments: Any) -> None:
        raise OSError(self._number, "broken")

    def close(self) -> None:
        self._socket.close()


def respond(connection: Connection) -> None:
    connection.read_request()
    connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    opened: list[Server] = []
    yield opened
    for server in opened:
        server.close()


def serve(servers: list[Server], *results: Any) -> Server:
    servers.append(Server(respond, ListenerWithErrors(*results)))  # type: ignore[arg-type]
    servers[-1].start()
    return servers[-1]


def status(server: Server) -> int:
    with Client(server.host, server.port) as client:
        client.send_request("GET / HTTP/1.1")
        return client.read_response().status


def fail(server: Server) -> None:
    """Make a connection that the server closes."""
    with Client(server.host, server.port) as client:
        assert client.read_rest() == b""


ERRORS = {
    "descriptors of the process": OSError(errno.EMFILE, "too many"),
    "descriptors of the system": OSError(errno.ENFILE, "too many"),
    "buffers": OSError(errno.ENOBUFS, "no buffers"),
    "aborted connection": OSError(errno.ECONNABORTED, "aborted"),
    "nothing to accept": OSError(errno.EAGAIN, "nothing"),
    "invalid argument": OSError(errno.EINVAL, "invalid"),
    "memory": MemoryError(),
    "threads": RuntimeError("can't start new thread"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=list(ERRORS))
def test_a_failed_accept_is_repeated(servers: list[Server], error: Exception) -> None:
    server = serve(servers, error, error)
    fail(server)
    fail(server)
    assert status(server) == 200


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ECONNRESET, errno.ENOTCONN])
def test_a_connection_that_is_reset_while_it_is_set_up_is_closed(servers: list[Server], number: int) -> None:
    server = serve(servers, lambda sock, address: (BrokenSocket(sock, number), address))
    fail(server)
    assert status(server) == 200


@pytest.mark.parametrize("address", [None, "", ()])
def test_a_connection_without_an_address_is_served(servers: list[Server], address: Any) -> None:
    server = serve(servers, lambda sock, _: (sock, address))
    assert status(server) == 200


def test_a_missing_thread_closes_one_connection(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(servers)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    fail(server)
    assert status(server) == 200


def test_connections_that_are_reset_at_once_do_not_end_the_server(servers: list[Server]) -> None:
    server = serve(servers)
    for _ in range(200):
        Client(server.host, server.port).reset()
    assert status(server) == 200


def test_a_connection_that_is_made_before_the_start_is_served_after_it(servers: list[Server]) -> None:
    servers.append(Server(respond))
    server = servers[-1]
    with Client(server.host, server.port) as client:
        client.send_request("GET / HTTP/1.1")
        server.start()
        assert client.read_response().status == 200


def test_close_ends_the_thread_and_releases_the_port(servers: list[Server]) -> None:
    before = set(threading.enumerate())
    server = serve(servers)
    [accepting] = set(threading.enumerate()) - before
    server.close()
    accepting.join(30)
    assert not accepting.is_alive()
    with pytest.raises(ConnectionRefusedError):
        Client(server.host, server.port)


def test_a_server_that_was_never_started_can_be_closed() -> None:
    server = Server(respond)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        Client(server.host, server.port)


class Poller:
    """A client that connects to a port from before the server listens on it, and counts incomplete responses."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self.complete = 0
        self.incomplete = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                client = Client("127.0.0.1", self._port)
            except OSError:
                continue
            with client:
                try:
                    client.send_request("GET / HTTP/1.1", "Connection: close")
                    event_of(client.read_response())
                    self.complete += 1
                except (OSError, AssertionError):
                    self.incomplete += not self._stop.is_set()


def starts_with_polling_clients(folder: FunctionFolder, count: int) -> None:
    for _ in range(count):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pollers = [Poller(port) for _ in range(3)]
        try:
            with Program("--serve", "-p", str(port), "--function", folder.path) as program:
                while not all(poller.complete for poller in pollers):
                    assert program.process.poll() is None, program.errors()
                for poller in pollers:
                    poller.stop()
                assert "Traceback" not in program.errors()
        finally:
            for poller in pollers:
                poller.stop()
        assert [poller.incomplete for poller in pollers] == [0, 0, 0]


def test_the_first_requests_are_served_however_early_they_come(tmp_path: Any) -> None:
    with FunctionFolder(tmp_path / "echo", ECHO) as folder:
        starts_with_polling_clients(folder, 3)


@pytest.mark.long
def test_the_first_requests_are_served_in_many_starts(tmp_path: Any) -> None:
    with FunctionFolder(tmp_path / "echo", ECHO) as folder:
        starts_with_polling_clients(folder, 40)
