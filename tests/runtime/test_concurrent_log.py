"""The log of an environment with several slots: JSON records, and the socket that provides log descriptors."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import threading

import pytest
from support.concurrent_function import one_process

HANDLER = """
import logging
import os
import subprocess
import sys

def handler(event, context):
    print("one", "two", end="")
    print(" three\\nfour")
    print("to stderr", file=sys.stderr)
    print('{"level": "ERROR", "own": [1]}')
    print('{"requestId": "mine"}')
    print('{"ends": "with a blank"} ')
    sys.stdout.buffer.write(b"bytes \\xff\\n")
    logging.error("logged %s", "ä")
    os.write(1, b"past Python\\n")
    subprocess.run(["echo", "from a child"])
    context.log("context log\\n")
    print("without an end", end="")
    yield b""
"""
LINES = ["one two three", "four", "to stderr", "bytes \\xff", "logged ä", "context log", "without an end"]
LINES += ['{"ends": "with a blank"} ']


def serve_one(function):
    (slot,) = function.waiting_slots(1)
    request_id = slot.send_invocation()
    assert slot.read_response(request_id).body == b""
    slot.accept()
    slot.expect_next()
    return slot, request_id


def check(log, request_id):
    """Check the records of `HANDLER`, in any order."""
    lines = log.splitlines()
    assert "past Python" in lines and "from a child" in lines
    records = [json.loads(line) for line in lines if line.startswith("{")]
    own = [record for record in records if record.get("requestId") == request_id]
    assert sorted(record["message"] for record in own if "message" in record) == sorted(LINES)
    assert {"level": "ERROR", "own": [1], "requestId": request_id} in records
    assert {"requestId": "mine"} in records
    assert len(lines) == len(records) + 2


THREADS = """
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

logging.getLogger().setLevel("INFO")
pool = ThreadPoolExecutor(1)
first_invocation_is_over = threading.Event()
leftovers = []

def leave():
    logging.info("before the end")
    first_invocation_is_over.wait()
    logging.info("left over")
    print("left over")
    other = threading.Thread(target=logging.info, args=["started by what is left over"])
    other.start()
    other.join()

def handler(event, context):
    thread = threading.Thread(target=logging.info, args=["thread of %s", event])
    thread.start()
    thread.join()
    pool.submit(logging.info, "pool in %s", event).result()
    if event == "first":
        leftovers.append(threading.Thread(target=leave))
        leftovers[0].start()
    else:
        first_invocation_is_over.set()
        leftovers[0].join()
    yield b""
"""


@pytest.mark.parametrize("preload", ["0", "1"])  # with 1, `threading` is imported before the fork
def test_a_thread_that_is_left_over_logs_without_the_id_of_the_current_invocation(concurrent, preload):
    function = concurrent(THREADS, 1, variables={"STREAMING_RUNTIME_PRELOAD": preload})
    (slot,) = function.waiting_slots(1)
    ids = []
    for name in ("first", "second"):
        ids.append(slot.send_invocation(name))
        assert slot.read_response(ids[-1]).body == b""
        slot.accept()
        slot.expect_next()
    found = {(record["message"], record.get("requestId")) for record in function.records}
    assert found == {
        ("thread of first", ids[0]),
        ("pool in first", ids[0]),
        ("before the end", ids[0]),
        ("thread of second", ids[1]),
        ("pool in second", None),
        ("left over", None),
        ("started by what is left over", None),
    }


def test_a_task_that_is_left_over_logs_with_the_id_of_its_own_invocation(concurrent):
    code = """
        import asyncio
        import logging

        logging.getLogger().setLevel("INFO")
        tasks = []
        second = asyncio.Event()

        async def leave(event):
            await second.wait()
            await asyncio.to_thread(logging.info, "thread of %s", event)
            logging.info("task of %s", event)

        async def handler(event, context):
            tasks.append(asyncio.create_task(leave(event)))
            if event == "second":
                second.set()
                await asyncio.gather(*tasks)
            yield b""
        """
    function = concurrent(code, 1, variables={"STREAMING_RUNTIME_CONCURRENCY": "process"})
    (slot,) = function.waiting_slots(1)
    ids = {}
    for name in ("first", "second"):
        ids[name] = slot.send_invocation(name)
        assert slot.read_response(ids[name]).body == b""
        slot.accept()
        slot.expect_next()
    records = [record for record in function.records if " of " in record["message"]]
    expected = {(f"{kind} of {name}", request_id) for kind in ("thread", "task") for name, request_id in ids.items()}
    assert {(record["message"], record.get("requestId")) for record in records} == expected


def test_a_record_that_is_passed_on_later_has_the_id_of_the_invocation_that_made_it(concurrent):
    function = one_process(
        concurrent,
        """
        import logging
        import logging.handlers
        import queue

        (runtime_handler,) = logging.getLogger().handlers
        queued, kept = logging.getLogger("queued"), logging.getLogger("kept")
        queued.propagate = kept.propagate = False
        records = queue.SimpleQueue()
        queued.addHandler(logging.handlers.QueueHandler(records))
        memory = logging.handlers.MemoryHandler(100, target=runtime_handler)
        kept.addHandler(memory)

        async def handler(event, context):
            queued.error("queued by %s", event)
            kept.warning("kept by %s", event)
            yield b""
            if event == "second":
                listener = logging.handlers.QueueListener(records, runtime_handler)
                listener.start()
                listener.stop()
                memory.flush()
            yield b""
        """,
        2,
    )
    ids = {}
    for name, slot in zip(("first", "second"), function.waiting_slots(2), strict=True):
        ids[name] = slot.send_invocation(name)
        assert slot.read_response(ids[name]).body == b""
        slot.accept()
        slot.expect_next()
    function.shut_down()
    expected = {(f"{kind} by {name}", request_id) for kind in ("queued", "kept") for name, request_id in ids.items()}
    assert {(record["message"], record.get("requestId")) for record in function.records} == expected


@pytest.mark.parametrize("preload", ["", "1"], ids=["import in the worker", "import before the fork"])
def test_lines_without_an_end_are_written_when_the_process_ends(concurrent, preload):
    function = one_process(
        concurrent,
        """
        import asyncio
        import atexit
        import sys

        print("import", end="")
        atexit.register(sys.stdout.write, "atexit")
        tasks = []

        async def leave():
            print("left over", end="")

        async def handler(event, context):
            tasks.append(asyncio.create_task(leave()))
            context.after_response(asyncio.wait, tasks)
            yield b""
        """,
        1,
        variables={"STREAMING_RUNTIME_PRELOAD": preload},
    )
    (slot,) = function.waiting_slots(1)
    request_id = slot.send_invocation()
    assert slot.read_response(request_id).body == b""
    slot.accept()
    slot.expect_next()
    os.killpg(function.process.pid, signal.SIGTERM)
    function.wait()
    found = [(record["message"], record.get("requestId")) for record in function.records]
    assert sorted(found) == sorted(
        [("import", None), ("left over", request_id), *[("atexit", None)] * (2 if preload else 1)]
    )


def test_a_long_line_has_no_empty_record_after_it(concurrent):
    function = concurrent(
        """
        import sys

        def handler(event, context):
            print("a" * 300_000)
            for part in ("b", "c", "d"):
                sys.stdout.write(part * 200_000)
            print()
            print()
            yield b""
        """
    )
    _, request_id = serve_one(function)
    messages = [record["message"] for record in function.records_of(request_id)]
    assert messages == ["a" * 300_000, "b" * 200_000 + "c" * 200_000, "d" * 200_000, ""]


def test_what_a_formatter_of_the_function_makes_is_a_json_record(concurrent):
    function = concurrent(
        """
        import logging

        (runtime_handler,) = logging.getLogger().handlers

        def handler(event, context):
            runtime_handler.setFormatter(logging.Formatter("%(levelname)s %(aws_request_id)s %(message)s"))
            logging.getLogger("app").error("first\\nsecond")
            runtime_handler.setFormatter(logging.Formatter('{"own": "%(message)s"}'))
            logging.error("third")
            yield b""
        """
    )
    _, request_id = serve_one(function)
    first, second = function.records_of(request_id)
    assert (first["message"], first["level"], first["logger"]) == (f"ERROR {request_id} first\nsecond", "ERROR", "app")
    assert second == {"own": "third", "requestId": request_id}


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_lines_and_records_are_json_and_the_rest_is_unchanged(concurrent, log_format):
    function = concurrent(HANDLER, 1, variables={"AWS_LAMBDA_LOG_FORMAT": log_format})
    _, request_id = serve_one(function)
    check(function.stdout + function.stderr, request_id)


# The socket


class Provider:
    """The socket of the service. It collects what each connection receives."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.connections = []
        self.received = b""
        self.has_data = threading.Condition()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)  # closed with the fixture
            threading.Thread(target=self.read, args=[connection], daemon=True).start()

    def read(self, connection):
        with contextlib.suppress(OSError):  # the test has closed it
            while data := connection.recv(65536):
                with self.has_data:
                    self.received += data
                    self.has_data.notify_all()

    def wait_for(self, text):
        with self.has_data:
            assert self.has_data.wait_for(lambda: text in self.received, 30), self.received
        return self.received.decode()

    def wait_for_output_of(self, request_id):
        """Wait for the last record of `HANDLER` on each output; the two have connections of their own."""
        self.wait_for(f'"to stderr", "logger": "sys.stderr", "requestId": "{request_id}"'.encode())
        return self.wait_for(f'"without an end", "logger": "sys.stdout", "requestId": "{request_id}"'.encode())

    def close_connections(self):
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def provider(tmp_path):
    provider = Provider(str(tmp_path / "provider"))
    yield provider
    provider.listener.close()
    for connection in provider.connections:
        connection.close()


def variables(tmp_path):
    return {"_LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET": str(tmp_path / "provider")}


def test_each_process_has_connections_of_its_own_for_both_outputs(concurrent, tmp_path, provider):
    function = concurrent(HANDLER, 3, variables=variables(tmp_path))
    slots = function.waiting_slots(3)
    ids = [slot.send_invocation() for slot in slots]
    for slot, request_id in zip(slots, ids, strict=True):
        slot.read_response(request_id)
        slot.accept()
        slot.expect_next()
        provider.wait_for_output_of(request_id)
    assert len(provider.connections) == 6
    assert function.stdout + function.stderr == ""
    for request_id in ids:
        records = [line for line in provider.received.decode().splitlines() if request_id in line]
        assert len(records) == len(LINES) + 1


@pytest.mark.parametrize("kind", ["missing", "refusing"])
def test_without_the_socket_the_log_goes_to_the_inherited_descriptors(concurrent, tmp_path, kind):
    if kind == "refusing":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "provider"))
    function = concurrent(HANDLER, 1, variables=variables(tmp_path))
    _, request_id = serve_one(function)
    assert "past Python" in function.stdout
    assert {record["message"] for record in records_of(function, request_id)} >= set(LINES)
    assert sum("no connection to the log socket" in line for line in function.stderr.splitlines()) == 1


def records_of(function, request_id):
    lines = (function.stdout + function.stderr).splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    return [record for record in records if record.get("requestId") == request_id and "message" in record]


def test_a_connection_that_closes_is_opened_again(concurrent, tmp_path, provider):
    function = concurrent(HANDLER, 1, variables=variables(tmp_path))
    slot, _ = serve_one(function)
    provider.close_connections()
    request_id = slot.send_invocation()
    slot.read_response(request_id)
    slot.accept()
    slot.expect_next()
    log = provider.wait_for_output_of(request_id)
    records = [json.loads(line) for line in log.splitlines() if line.startswith("{") and request_id in line]
    assert {record["message"] for record in records if "message" in record} == set(LINES)


def test_a_record_of_which_a_connection_has_taken_a_part_is_written_whole_to_the_next_one(concurrent, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "provider"))
        listener.listen()
        function = one_process(
            concurrent,
            """
            async def handler(event, context):
                for number in range(6):
                    print(number, "a" * 150_000)
                yield b""
            """,
            1,
            variables=variables(tmp_path),
        )
        (slot,) = function.waiting_slots(1)
        full = [listener.accept()[0] for _ in ("stdout", "stderr")]  # nobody reads them
        assert slot.read_response(slot.send_invocation()).body == b""
        for connection in full:
            connection.close()
        connection, _ = listener.accept()
        with connection, connection.makefile() as lines:
            messages = [json.loads(lines.readline())["message"]]
            while not messages[-1].startswith("5 "):
                messages.append(json.loads(lines.readline())["message"])
    assert {len(message) for message in messages} == {len("0 ") + 150_000}


def test_after_the_end_of_the_socket_the_log_goes_to_the_inherited_descriptors(concurrent, tmp_path, provider):
    function = concurrent(HANDLER, 1, variables=variables(tmp_path))
    slot, _ = serve_one(function)
    os.unlink(tmp_path / "provider")
    provider.close_connections()
    request_id = slot.send_invocation()
    slot.read_response(request_id)
    slot.accept()
    slot.expect_next()
    assert {record["message"] for record in records_of(function, request_id)} == set(LINES)


# A log that nobody reads

WRITES = """
import pathlib
import sys
import threading
import time

def watch(thread, path):
    names = []
    while "wait put" not in " ".join(names):  # the log call waits in the method `put` of the queue
        time.sleep(0.001)
        names, frame = [], sys._current_frames()[thread]
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
    pathlib.Path(path).touch()

async def handler(event, context):
    if "path" in event:
        arguments = threading.get_ident(), event["path"]
        threading.Thread(target=watch, args=arguments, daemon=True).start()
    for n in range(event["lines"]):
        print(f"{n:05} " + 1000 * "x")
    yield b"done"
"""


def test_a_process_that_is_killed_loses_no_record_that_the_socket_takes(concurrent, tmp_path, provider):
    code = """
        import os
        import signal

        async def handler(event, context):
            for n in range(100):  # so few that the socket takes them, however slowly they are read
                print(f"record {n}")
            os.kill(os.getpid(), signal.SIGKILL)
            yield b""
        """
    function = concurrent(code, 1, variables=variables(tmp_path))
    (slot,) = function.waiting_slots(1)
    slot.send_invocation()
    function.slot().request()  # of the parent, which reports the death
    provider.wait_for(b'"record 99"')


def test_a_log_that_is_read_slowly_does_not_stop_the_loop_and_loses_nothing(concurrent, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "provider"))
    listener.listen()
    function = concurrent(WRITES, 1, variables=variables(tmp_path))
    outputs = [listener.accept()[0] for _ in range(2)]
    (slot,) = function.waiting_slots(1)
    # The socket takes less than this, and the queue the rest: nobody reads, and the response is complete.
    assert slot.read_response(slot.send_invocation({"lines": 700})).body == b"done"
    slot.accept()
    slot.expect_next()
    waits = tmp_path / "waits"
    slot.send_invocation({"lines": 3000, "path": str(waits)})  # more than 1 MiB: the log call waits
    while not waits.exists() and not select.select([slot.peer.socket], [], [], 0.01)[0]:
        pass
    assert waits.exists()
    received = b""
    numbers = [*range(700), *range(3000)]
    outputs[0].settimeout(30)
    while received.count(b"\n") < len(numbers):
        received += outputs[0].recv(65536)
    assert [int(json.loads(line)["message"].split()[0]) for line in received.splitlines()] == numbers
    slot.request()
    assert slot.peer.read_chunk() == b"done"
    for each in (listener, *outputs):
        each.close()


def test_records_that_wait_at_the_end_of_the_process_are_written(concurrent, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "provider"))
    listener.listen()
    function = concurrent(WRITES, 1, variables=variables(tmp_path))
    output, other = [listener.accept()[0] for _ in range(2)]
    (slot,) = function.waiting_slots(1)
    slot.read_response(slot.send_invocation({"lines": 700}))
    slot.accept()
    slot.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    output.settimeout(30)
    received = b"".join(iter(lambda: output.recv(65536), b""))
    assert received.count(b"\n") == 700
    for each in (listener, output, other):
        each.close()
