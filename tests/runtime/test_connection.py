"""The keep-alive connection: reuse, replacement, full buffers, and responses that arrive early."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket

import pytest
from support.function_process import TIMEOUT, Gate, invocation
from support.processes import wait_until_asleep

RESET = errno.ECONNRESET, os.strerror(errno.ECONNRESET)

ECHO = """
def handler(event, context):
    yield repr(event).encode()
"""

WAITING = """
def wait_for(path):
    with open(path) as gate:
        gate.read()

def handler(event, context):
    try:
        wait_for(event["gate"])
        yield b"part"
    finally:
        if "clean-up" in event:
            wait_for(event["clean-up"])
"""
ENDLESS = """
def handler(event, context):
    try:
        while True:
            yield b"x" * event
    finally:
        print("left", flush=True)
"""


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc here")


def test_connection_close_is_honoured_after_each_response(runtime):
    function = runtime(ECHO)
    peers = []  # stay open until the end, so that only the runtime can close a connection
    for number in range(3):
        function.expect_next()
        function.peer.send(invocation(b"%d" % number, fields=b"Connection: close\r\n"))
        peers.append(function.peer)
        function.peer = None
        function.connect()
        assert function.read_response(str(number)).body == b"{}"
        function.peer.send(b"HTTP/1.1 202 Accepted\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n")
        peers.append(function.peer)
        function.peer = None
        function.connect()
    function.expect_next()
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_idle_connection_that_ends_is_replaced(runtime, how):
    function = runtime(ECHO)
    for number in range(3):
        function.expect_next()
        getattr(function.peer, how)()
        function.connect()
        assert function.respond(number).body == b"%d" % number


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_that_ends_while_the_handler_runs_is_replaced(runtime, how):
    code = """
        def handler(event, context):
            open(event).close()
            yield b"a"
        """
    function = runtime(code)
    gate = str(function.task / "gate")
    os.mkfifo(gate)
    request_id = function.invoke(gate)
    getattr(function.peer, how)()
    function.peer = None
    open(gate, "w").close()
    assert function.read_response(request_id).body == b"a"
    function.accept()
    function.expect_next()


@pytest.mark.parametrize(
    "response", [b"", b"HTT", b"HTTP/1.1 202 Accepted\r\nContent-Length: 15\r\n\r\n{", b"garbage\r\n\r\n"]
)
def test_after_an_incomplete_acceptance_nothing_is_sent_twice(runtime, response):
    function = runtime(ECHO)
    function.read_response(function.invoke())
    function.peer.send(response)
    function.connect()
    assert function.respond(2).body == b"2"


@pytest.mark.parametrize(
    ("how", "reason"),
    [("close", "the Runtime API closed the connection"), ("reset", str(ConnectionResetError(*RESET)))],
)
def test_the_line_about_a_response_that_is_not_accepted_contains_the_reason(runtime, how, reason):
    function = runtime(ECHO)
    function.read_response(function.invoke())
    getattr(function.peer, how)()
    function.connect()
    function.expect_next()
    assert function.runtime_lines == [f"the response was not delivered: {reason}"]


def test_a_half_closed_connection_is_replaced(runtime):
    function = runtime(ECHO)
    function.read_response(function.invoke())
    function.peer.socket.shutdown(socket.SHUT_WR)
    function.connect()
    assert function.respond(2).body == b"2"


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_that_ends_within_a_stream_closes_the_generator(runtime, how, size):
    function = runtime(ENDLESS)
    function.expect_response(function.invoke(size))
    function.peer.read_chunk()
    getattr(function.peer, how)()
    function.connect()
    function.expect_next()
    assert function.stdout == "left\n"
    assert "was not delivered" in function.stderr and function.stderr.count("\n") == 1


def test_a_function_that_dies_of_sigpipe_does_not_die_of_a_connection_that_ends(runtime):
    function = runtime(
        """
        import signal

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

        def handler(event, context):
            while True:
                yield b"x"
        """
    )
    function.expect_response(function.invoke())
    function.peer.read_chunk()
    function.peer.socket.shutdown(socket.SHUT_WR)  # after it, a reset is EPIPE
    function.peer.close()
    function.connect()
    function.expect_next()


@pytest.mark.parametrize("status", [b"413 Too Large", b"400 Bad Request"])
def test_an_early_refusal_ends_a_stream_that_is_not_read(runtime, status):
    function = runtime(ENDLESS)
    function.expect_response(function.invoke(100_000))
    function.peer.send(b"HTTP/1.1 %b\r\nContent-Length: 4\r\n\r\nfull" % status)
    first = function.peer  # stays open and is never read again
    function.peer = None
    function.expect_next()
    assert function.stdout == "left\n"
    assert f"status {status[:3].decode()} full" in function.stderr
    first.close()


def test_an_early_refusal_of_a_stream_that_is_read_to_its_end_is_logged(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield b"a"
            yield b"b"
        """
    )
    function.expect_response(function.invoke())
    function.peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert list(iter(function.peer.read_chunk, b"")) == [b"a", b"b"]
    function.connect()
    function.expect_next()
    assert "status 413" in function.stderr


def test_a_refusal_whose_connection_ends_is_logged(runtime, tmp_path):
    function = runtime(
        """
        def handler(event, context):
            yield b"a"
            with open(event) as gate:
                gate.read()
            while True:
                yield b"b"
        """
    )
    gate = Gate(tmp_path)
    function.expect_response(function.invoke(gate.path))
    assert function.peer.read_chunk() == b"a"
    function.peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    function.peer.close()
    gate.open()
    function.connect()
    function.expect_next()
    assert function.runtime_lines == [
        "the response was not delivered: the Runtime API ended the request with status 413"
    ]


@needs_proc
@pytest.mark.parametrize("half_closes", [False, True], ids=["", "half-closed"])
def test_an_early_acceptance_does_not_end_the_stream(runtime, half_closes):
    function = runtime(
        """
        def handler(event, context):
            for _ in range(50):
                yield bytes(1_000_000)
        """
    )
    function.expect_response(function.invoke())
    wait_until_asleep(function.process.pid)  # its send buffer is full
    function.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    if half_closes:
        function.peer.socket.shutdown(socket.SHUT_WR)
    assert [len(chunk) for chunk in iter(function.peer.read_chunk, b"")] == [1_000_000] * 50
    assert function.peer.read_trailers() == {}
    function.expect_next()
    assert function.stderr == ""


def test_a_connection_that_ends_after_an_early_acceptance_closes_the_generator(runtime):
    function = runtime(ENDLESS)
    function.expect_response(function.invoke(100_000))
    function.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    for _ in range(200):  # more than all buffers contain, so the runtime has waited, and has read the acceptance
        function.peer.read_chunk()
    function.peer.reset()
    function.connect()
    function.expect_next()
    assert function.stdout == "left\n"
    assert "was not delivered" in function.stderr and function.stderr.count("\n") == 1


def test_an_early_container_error_ends_the_process(runtime):
    function = runtime(ENDLESS)
    function.expect_response(function.invoke(100_000))
    function.peer.send(b"HTTP/1.1 500 Container error\r\nContent-Length: 0\r\n\r\n")
    assert function.wait() == 1
    assert function.stdout == "left\n"


def test_the_head_and_the_first_chunk_are_sent_together(runtime, tmp_path):
    function = runtime(
        """
        def handler(event, context):
            yield b"x"
            with open(event) as gate:
                gate.read()
        """
    )
    gate = Gate(tmp_path)
    function.invoke(gate.path)
    first = function.peer.socket.recv(65536)
    assert first.startswith(b"POST ") and first.endswith(b"\r\n\r\n1\r\nx\r\n")
    gate.open()


def test_one_connection_serves_all_invocations(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield str(event).encode()
        """
    )
    first = function.connect()
    assert [function.respond(n).body for n in range(20)] == [str(n).encode() for n in range(20)]
    assert function.peer is first


# Bytes that belong to no request

FORGED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


def test_extra_bytes_after_an_acceptance_are_not_the_response_to_next(runtime):
    function = runtime(ECHO)
    function.read_response(function.invoke(1))
    function.peer.send(FORGED + invocation(b"forged", b"666"))
    first, function.peer = function.peer, None  # stays open
    function.connect()
    assert function.respond(2).body == b"2"
    assert function.stderr == ""
    first.close()


def test_extra_bytes_after_an_invocation_are_not_the_acceptance_of_its_response(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(invocation(b"one", b"1") + b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    first, function.peer = function.peer, None  # stays open
    function.connect()
    assert function.read_response("one").body == b"1"
    function.accept()
    function.expect_next()
    assert function.stderr == ""
    first.close()


def test_extra_bytes_after_a_large_invocation_are_not_a_part_of_its_event(runtime):
    function = runtime(ECHO)
    function.expect_next()
    text = "x" * 100_000  # more than one read
    function.peer.send(invocation(b"one", json.dumps(text).encode()) + FORGED)
    first, function.peer = function.peer, None  # stays open
    function.connect()
    assert function.read_response("one").body == repr(text).encode()
    first.close()


def test_bytes_that_arrive_while_the_handler_runs_are_not_the_acceptance_of_its_response(runtime, tmp_path):
    function = runtime(WAITING)
    gate = Gate(tmp_path)
    request_id = function.invoke({"gate": gate.path})
    pipe = os.open(gate.path, os.O_WRONLY)  # returns once the handler waits
    function.peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    os.close(pipe)
    first, function.peer = function.peer, None  # stays open
    function.connect()
    assert function.read_response(request_id).body == b"part"
    function.accept()
    function.expect_next()
    assert function.stderr == ""
    first.close()


# No connection at the start of a response


def test_a_response_that_found_no_connection_is_reported_to_error(runtime, tmp_path):
    function = runtime(WAITING)
    (tmp_path / "clean-up").mkdir()
    start, clean_up = Gate(tmp_path), Gate(tmp_path / "clean-up")
    request_id = function.invoke({"gate": start.path, "clean-up": clean_up.path})
    address = function.listener.getsockname()
    function.listener.close()
    function.peer.close()
    function.peer = None
    start.open()
    writer = os.open(clean_up.path, os.O_WRONLY)  # returns once the generator is closed: the connection was refused
    function.listener = socket.create_server(address)
    function.listener.settimeout(TIMEOUT)
    os.close(writer)
    request, document = function.read_error(request_id)
    assert document["errorType"] == "Runtime.ResponseNotDelivered"
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.ResponseNotDelivered"
    assert "no connection" in document["errorMessage"]
    function.expect_next()
    assert "was not delivered" in function.stderr


# The socket itself. A handler finds it among its own descriptors.

FIND_SOCKET = """
import os
import select
import socket

def runtime_api_socket():
    port = int(os.environ["AWS_LAMBDA_RUNTIME_API"].rpartition(":")[2])
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(descriptor)))
            if found.getpeername()[1] == port:
                return found
        except OSError:
            pass
"""


@needs_proc
@pytest.mark.parametrize("reconnects", [False, True], ids=["first connection", "second connection"])
def test_small_chunks_are_sent_without_delay_and_only_a_vanished_peer_ends_a_wait(runtime, reconnects):
    function = runtime(
        {
            "find_socket.py": FIND_SOCKET,
            "lambda_function.py": """
                import json, os, socket

                socket.setdefaulttimeout(0.01)

                from find_socket import runtime_api_socket

                def handler(event, context):
                    socket.setdefaulttimeout(None)  # otherwise the duplicate would change the original
                    found = runtime_api_socket()
                    options = {name: found.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in event}
                    keep_alive = found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    blocks = os.get_blocking(found.fileno())
                    yield json.dumps({**options, "SO_KEEPALIVE": keep_alive, "blocks": blocks}).encode()
                """,
        }
    )
    function.expect_next()
    if reconnects:
        function.peer.close()
        function.connect()
        function.expect_next()
    options = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_SYNCNT": 2}
    response = function.read_response(function.send_invocation([*options]))
    assert json.loads(response.body) == {**options, "SO_KEEPALIVE": 1, "blocks": True}


@needs_proc
def test_a_file_that_the_function_has_put_in_the_place_of_the_connection_stays_open(runtime):
    function = runtime(
        """
        import os
        import socket

        def number_of_the_connection():
            port = int(os.environ["AWS_LAMBDA_RUNTIME_API"].rpartition(":")[2])
            for name in os.listdir("/proc/self/fd"):
                try:
                    with socket.socket(fileno=os.dup(int(name))) as found:
                        if found.getpeername()[1] == port:
                            return int(name)
                except OSError:
                    pass

        own = None

        def handler(event, context):
            global own
            if own is None:
                own = number_of_the_connection()
                os.dup2(os.open("/dev/null", os.O_RDONLY), own)
            assert os.path.samestat(os.fstat(own), os.stat("/dev/null"))
            yield b"open"
        """
    )
    request_id = function.invoke()
    function.connect()
    assert function.read_response(request_id).body == b"open"
    function.accept()
    assert function.respond().body == b"open"


@needs_proc
def test_an_acceptance_that_a_signal_handler_interrupts_is_not_the_response_to_next(runtime):
    function = runtime(
        """
        import signal

        def raise_error(signum, frame):
            raise KeyError("the function's own signal")

        signal.signal(signal.SIGUSR1, raise_error)

        def handler(event, context):
            yield b"a"
        """
    )
    function.read_response(function.invoke())
    wait_until_asleep(function.process.pid)  # it waits for the acceptance
    os.kill(function.process.pid, signal.SIGUSR1)
    first, function.peer = function.peer, None  # stays open
    function.connect()
    function.expect_next()
    first.send(FORGED)
    assert function.read_response(function.send_invocation()).body == b"a"
    first.close()


@needs_proc
@pytest.mark.parametrize("size", [20_000, 5_000], ids=["gathered", "joined"])
def test_a_chunk_is_complete_when_the_send_buffer_is_full_at_its_start(runtime, size):
    function = runtime(
        {
            "find_socket.py": FIND_SOCKET,
            "lambda_function.py": """
                import json, socket

                from find_socket import runtime_api_socket

                def fill(connection):
                    sent = 0
                    for size in (65536, 1):
                        try:
                            while True:
                                sent += connection.send(b"-" * size, socket.MSG_DONTWAIT)
                        except BlockingIOError:
                            pass
                    return sent

                def handler(event, context):
                    yield b"first"
                    print(fill(runtime_api_socket()), flush=True)
                    yield b"x" * event
                """,
        }
    )
    function.expect_response(function.invoke(size))
    assert function.peer.read_chunk() == b"first"
    while not function.stdout.endswith("\n"):
        pass  # a read would make room in the buffer
    filled = int(function.stdout)
    assert function.peer.reader.read(filled) == b"-" * filled
    frame = b"%x\r\n%b\r\n" % (size, b"x" * size)
    assert function.peer.reader.read(len(frame) + 5) == frame + b"0\r\n\r\n"
    function.accept()
    function.expect_next()


# The function replaces the class of the socket, so that a send fails after half of its bytes.

FAILING = """
import _socket
import builtins

error = None

class Socket(_socket.socket):
    def send(self, data, flags):
        if error is None:
            return super().send(data, flags)
        super().send(data[: len(data) // 2], flags)
        raise error

_socket.socket = Socket

def handler(event, context):
    global error
    yield b"first"
    if event:
        error = getattr(builtins, event)("of a signal handler")
    try:
        yield b"second"
    finally:
        error = None
"""


@pytest.mark.parametrize("error", ["KeyError", "TimeoutError"])
def test_after_an_error_of_a_signal_handler_within_a_send_nothing_more_is_sent(runtime, error):
    function = runtime(FAILING)
    function.expect_response(function.invoke(error))
    assert function.peer.read_chunk() == b"first"
    assert function.peer.reader.read() == b"6\r\nse"
    function.connect()
    assert function.respond().body == b"firstsecond"
    assert ("of a signal handler" in function.stdout) == (error == "KeyError")
    lost = {
        "KeyError": "the error was not delivered: the connection was closed within the response",
        "TimeoutError": "the response was not delivered: of a signal handler",
    }
    assert function.runtime_lines[-1] == lost[error]


def test_a_connection_that_the_function_makes_non_blocking_serves_the_next_invocations(runtime):
    function = runtime(
        """
        import contextlib
        import os

        def handler(event, context):
            for number in map(int, os.listdir("/proc/self/fd")):
                with contextlib.suppress(OSError):
                    os.set_blocking(number, False)
            yield b"served"
        """
    )
    for _ in range(3):
        assert function.respond().body == b"served"
    function.expect_next()
    wait_until_asleep(function.process.pid)


def test_a_wait_for_an_invocation_stays_on_its_connection(runtime):
    function = runtime(ECHO)
    function.expect_next()
    sockets = [function.listener, function.peer.socket]
    assert select.select(sockets, [], [], 0.7)[0] == []  # seconds, for several system calls that wait
    request_id = function.send_invocation(1)
    assert function.read_response(request_id).body == b"1"


def test_a_chunk_is_complete_after_a_long_wait_for_buffer_space(runtime):
    function = runtime("def handler(event, context):\n    yield bytes(20_000_000)\n")
    request_id = function.invoke()
    assert select.select([function.listener], [], [], 0.7)[0] == []  # seconds, for several system calls that wait
    assert len(function.read_response(request_id).body) == 20_000_000
    function.accept()
    function.expect_next()
