"""A function that closes descriptors of the runtime: nothing of the runtime goes into a file of the function."""

from __future__ import annotations

import os
import struct
import sys

import pytest
from support.emulator import until
from support.function_process import Gate
from support.processes import wait_until_asleep

LOW, ALL = "os.closerange(3, 64)", "os.closerange(3, 4096)"


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_a_log_event_never_goes_into_the_response(runtime, log_format):
    function = runtime(
        f"""
        import logging
        import os
        import socket

        def handler(event, context):
            yield b"first"
            {LOW}
            mine = [socket.socketpair() for _ in range(40)]
            logging.error("an event")
            yield b"second"
            for ours, theirs in mine:
                ours.setblocking(False), theirs.setblocking(False)
                for end in (ours, theirs):
                    try:
                        raise AssertionError(end.recv(100))
                    except BlockingIOError:
                        pass
        """,
        variables={"AWS_LAMBDA_LOG_FORMAT": log_format},
    )
    response = function.respond()
    assert (response.chunks, response.trailers) == ([b"first", b"second"], {})
    assert function.stdout.count("an event") == 1
    assert function.respond().chunks == [b"first", b"second"]


def test_later_events_are_logged_after_all_descriptors_of_the_runtime_are_closed(runtime):
    function = runtime(
        f"""
        import logging
        import os

        def handler(event, context):
            yield b"a"
            yield b"b"
            if event == "close":
                {ALL}
            logging.error("event %s", event)
        """
    )
    request_id = function.invoke("close")
    function.expect_response(request_id)
    assert [function.peer.read_chunk() for _ in range(2)] == [b"a", b"b"]
    function.connect()  # the connection is among those that the function has closed
    assert function.respond("next").chunks == [b"a", b"b"]
    assert [line.split("\t")[-1] for line in function.stdout.splitlines()] == ["event close", "event next"]
    assert "the function closed the descriptor of the connection" in function.stderr


def test_an_event_waits_for_a_full_pipe_that_the_function_has_made_non_blocking(runtime, tmp_path):
    output, full = tmp_path / "function0" / "stdout", tmp_path / "full"
    output.parent.mkdir()
    os.mkfifo(output)
    reader = os.open(output, os.O_RDONLY | os.O_NONBLOCK)
    function = runtime(
        f"""
        import os
        import pathlib

        os.set_blocking(1, False)

        def handler(event, context):
            try:
                while True:
                    os.write(1, bytes(4096))
            except BlockingIOError:
                pathlib.Path({str(full)!r}).touch()
            raise ValueError("an event")
        """
    )
    request_id = function.invoke()
    until(full.exists)
    wait_until_asleep(function.process.pid)
    os.set_blocking(reader, True)
    written = b""
    while not written.endswith(b"\n"):
        written += os.read(reader, 1 << 20)
    os.close(reader)
    assert b"[ERROR] ValueError: an event" in written
    assert function.read_error(request_id)[1]["errorMessage"] == "an event"


def test_an_event_is_dropped_if_both_outputs_belong_to_other_files(runtime, tmp_path):
    mine = tmp_path / "mine"
    function = runtime(
        f"""
        import logging
        import os

        def handler(event, context):
            os.closerange(0, 4096)
            for _ in range(1002):
                os.open({str(mine)!r}, os.O_RDWR | os.O_CREAT)
            logging.error("an event")
            yield b"a"
        """
    )
    request_id = function.invoke()
    function.connect()
    assert function.read_response(request_id).chunks == [b"a"]
    assert mine.read_bytes() == b"" and function.stdout == ""


def test_the_connection_is_replaced_and_the_file_that_has_its_number_is_left_alone(runtime, tmp_path):
    mine = tmp_path / "mine"
    function = runtime(
        f"""
        import os

        def handler(event, context):
            if event == "close":
                {ALL}
                files = [os.open({str(mine)!r}, os.O_RDWR | os.O_CREAT)]
                for number in range(900, 1010):
                    os.dup2(files[0], number)
                handler.number = files[0]
            yield b"a"
            os.fstat(950)
        """
    )
    request_id = function.invoke("close")
    function.connect()
    assert function.read_response(request_id).chunks == [b"a"]
    function.accept()
    assert function.respond("again").chunks == [b"a"]
    assert mine.read_bytes() == b""


def test_a_file_that_has_the_number_of_the_reserve_is_left_alone(runtime):
    function = runtime(
        f"""
        import os

        numbers = []

        def handler(event, context):
            if event == "write":
                for number in numbers:
                    os.write(number, b"still the file that the function has opened")
                yield b"written"
            {LOW}
            numbers.extend(os.open("/dev/null", os.O_WRONLY) for _ in range(10))
            raise ValueError("the runtime frees what it has reserved")
        """
    )
    function.fail("close")
    assert function.respond("write").chunks == [b"written"]


def test_telemetry_becomes_lines_when_its_descriptor_is_closed(runtime):
    reader, writer = os.pipe()
    function = runtime(
        f"""
        import logging
        import os

        def handler(event, context):
            logging.error("framed")
            {ALL}
            logging.error("a line")
            yield b""
        """,
        variables={"_LAMBDA_TELEMETRY_LOG_FD": str(writer)},
        pass_fds=(writer,),
    )
    os.close(writer)
    function.invoke()
    function.connect()
    frame = os.read(reader, 4096)
    os.close(reader)
    assert struct.unpack(">II", frame[:8]) == (0xA55A0003 | 0x14, len(frame) - 16)
    assert frame.endswith(b"framed")
    assert "a line" in function.stdout and "framed" not in function.stdout


@pytest.mark.parametrize("numbers", [LOW, ALL])
def test_an_event_loop_whose_descriptors_are_closed_is_replaced(runtime, numbers):
    function = runtime(
        f"""
        import asyncio
        import os
        import socket

        pairs = []

        async def handler(event, context):
            yield b"a"
            if event == "close":
                {numbers}
                pairs.extend(socket.socketpair() for _ in range(30))
        """
    )
    request_id = function.invoke("close")
    function.expect_response(request_id)
    assert function.peer.read_chunk() == b"a"
    if numbers == LOW:
        assert function.peer.read_chunk() == b"" and function.peer.read_trailers() == {}
        function.accept()
    else:
        function.connect()
    for _ in range(3):
        assert function.respond().chunks == [b"a"]
    assert (function.stderr == "") == (numbers == LOW)


def test_the_descriptors_of_the_runtime_have_high_numbers(runtime):
    function = runtime(
        """
        import os

        def handler(event, context):
            yield " ".join(sorted(os.listdir("/proc/self/fd"), key=int)).encode()
        """
    )
    numbers = [int(number) for number in function.respond().body.split()]
    assert [number for number in numbers if number > 64] == [998, 999, 1000]
    assert len([number for number in numbers if 3 <= number <= 64]) == 2  # the reserve, and that of listdir itself


@pytest.mark.parametrize("limit", [40, 256])
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_a_lower_limit_of_open_files_changes_where_the_descriptors_are_and_nothing_else(
    runtime, layer, limit, definition
):
    """macOS starts processes with a limit of 256."""
    limited = f'ulimit -n {limit}; exec "$0" "$@"'
    function = runtime(
        f"""
        import logging
        import os

        {definition} handler(event, context):
            yield b"one"
            numbers = [number for number in range(1024) if is_open(number)]
            logging.error("an event")
            yield repr(max(numbers)).encode()

        def is_open(number):
            try:
                os.fstat(number)
            except OSError:
                return False
            return True
        """,
        command=["sh", "-c", limited, str(layer / "bootstrap"), sys.executable, "/var/runtime/bootstrap.py"],
    )
    for _ in range(2):
        assert function.respond().chunks == [b"one", str(limit - 1).encode()]
    assert function.stdout.count("an event") == 2


REPLACES_SOCKETS = """
import os
import socket
import threading

ours, theirs = socket.socketpair()
theirs.setblocking(False)
replaced = []

def replace_sockets():
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            is_socket = os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        except FileNotFoundError:  # of the list itself
            continue
        if is_socket and number not in (ours.fileno(), theirs.fileno()):
            os.dup2(ours.fileno(), number)
            replaced.append(number)

def replace_later(gate):
    open(gate).close()
    replace_sockets()

def handler(event, context):
    if event == "before":
        replace_sockets()
    elif event == "after":
        context.after_response(replace_sockets)
    elif event:
        threading.Thread(target=replace_later, args=[event]).start()
    try:
        yield theirs.recv(10_000)
    except BlockingIOError:
        yield b"nothing"
    for number in replaced:
        assert os.path.sameopenfile(number, ours.fileno())
"""


@pytest.mark.parametrize(
    ("moment", "field"),
    [("before", ""), ("after", ""), ("after", "Connection: close\r\n")],
    ids=["before the response", "after it", "after the last one of the connection"],
)
def test_a_socket_that_takes_the_number_of_the_connection_receives_nothing_and_stays_open(runtime, moment, field):
    function = runtime(REPLACES_SOCKETS)
    request_id = function.invoke(moment)
    first = function.peer
    if moment == "before":
        function.peer = None
        function.connect()
    assert function.read_response(request_id).body == b"nothing"
    function.peer.send(f"HTTP/1.1 202 Accepted\r\n{field}Content-Length: 0\r\n\r\n".encode())
    if moment == "after":
        function.peer = None
        function.connect()
    response = function.respond()
    assert response.body == b"nothing" and response.trailers == {}
    first.close()


def test_the_wait_for_an_invocation_ends_when_a_socket_takes_the_number_of_the_connection(runtime, tmp_path):
    gate = Gate(tmp_path)
    function = runtime(REPLACES_SOCKETS)
    assert function.respond(gate.path).body == b"nothing"
    function.expect_next()
    first, function.peer = function.peer, None  # it stays open
    wait_until_asleep(function.process.pid)
    gate.open()
    function.connect()
    assert function.respond().body == b"nothing"
    first.close()
