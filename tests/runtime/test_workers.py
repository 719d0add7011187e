"""Several invocations at once (AWS_LAMBDA_MAX_CONCURRENCY): a process for each slot, and a parent that supervises."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from support.emulator import until
from support.function_process import Gate
from support.http_events import function_url
from support.processes import is_running, wait_until_asleep

WAITS = """
import os

print("imported by", os.getpid())

def handler(event, context):
    yield b"%d" % os.getpid()
    if event:
        open(event["gate"]).close()
        yield b"after"
"""


def test_each_slot_is_a_process_of_the_same_group_that_imports_the_function_itself(concurrent, tmp_path):
    gate = Gate(tmp_path)
    function = concurrent(WAITS, 3)
    slots = function.waiting_slots(3)
    ids = [slot.send_invocation({"gate": gate.path}) for slot in slots]
    pids = []
    for slot, request_id in zip(slots, ids, strict=True):
        slot.expect_response(request_id)
        pids.append(int(slot.peer.read_chunk()))
    assert sorted(pids) == sorted(function.workers())
    assert {os.getpgid(pid) for pid in pids} == {function.process.pid}
    with open(gate.path, "w"):  # one open end lets all handlers continue, sooner or later
        for slot in slots:
            assert [slot.peer.read_chunk(), slot.peer.read_chunk()] == [b"after", b""]
            assert slot.peer.read_trailers() == {}
            slot.accept()
            slot.expect_next()
    imports = {int(record["message"].split()[-1]) for record in function.records if "imported" in record["message"]}
    assert imports == set(pids)


INNER_GENERATOR = """
import os

async def inner(event, context):
    yield b"%d" % os.getpid()

def handler(event, context):
    return inner(event, context)
"""
INNER_APPLICATION = """
import os

async def inner(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"%d" % os.getpid()})

def handler(event, context):
    return inner(event, context)
"""


@pytest.mark.parametrize("code", [INNER_GENERATOR, INNER_APPLICATION], ids=["async generator", "ASGI application"])
def test_a_tracing_agent_selects_processes(concurrent, code):
    variables = {"STREAMING_RUNTIME_INNER_HANDLER": "lambda_function.inner"}
    function = concurrent(code, 3, variables=variables)
    slots = function.waiting_slots(3)
    pids = {int(slot.read_response(slot.send_invocation(function_url())).chunks[-1]) for slot in slots}
    assert pids == set(function.workers()) and len(pids) == 3

    function = concurrent(code, 3, variables={**variables, "STREAMING_RUNTIME_CONCURRENCY": "async"})
    _, document = function.read_init_error()
    assert document["errorType"] == "Runtime.InvalidConcurrency"
    assert "a tracing agent calls the handler" in document["errorMessage"]
    assert function.wait() == 1


# The death of a worker


@pytest.mark.parametrize(
    "interim", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"], ids=["alone", "behind an interim response"]
)
def test_an_invocation_whose_process_dies_before_its_response_is_reported_by_the_parent(concurrent, interim):
    function = concurrent(
        """
        import os

        def handler(event, context):
            os._exit(7)
            yield
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    slot.peer.send(interim)
    request_id = slot.send_invocation(headers={"Lambda-Runtime-Invocation-Id": "attempt-1"})
    parent = function.slot()
    request, document = parent.read_error(request_id)
    assert document["errorType"] == "Runtime.ExitError"
    assert "exit status 7 before its response began" in document["errorMessage"]
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.ExitError"
    assert request.headers["lambda-runtime-invocation-id"] == "attempt-1"
    function.waiting_slots(1)
    restart = function.records_of(request_id)[-1]["message"]
    assert "worker 0" in restart and "ended with exit status 7; it is started again after" in restart


def test_a_response_that_has_begun_ends_with_the_connection_of_its_process(concurrent):
    function = concurrent(
        """
        import os
        import signal

        def handler(event, context):
            yield b"part"
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    slot.expect_response(slot.send_invocation())
    assert slot.peer.read_chunk() == b"part"
    assert slot.peer.reader.read() == b""
    function.waiting_slots(1)  # the only new connection: no error was posted
    assert "was killed by signal 9 (SIGKILL)" in function.messages()[-1]


@pytest.mark.parametrize("step", ["yield b'part'", "raise ValueError", "return"])
def test_an_invocation_whose_process_dies_before_the_first_byte_of_its_response_is_reported(concurrent, step):
    function = concurrent(
        f"""
        import os
        import signal
        import sys

        def kill_before_send(frame, kind, called):
            if kind == "c_call" and called.__name__ in ("send", "sendmsg"):
                os.kill(os.getpid(), signal.SIGKILL)

        def handler(event, context):
            if event:
                sys.setprofile(kill_before_send)
            {step}
            yield b""
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    request_id = slot.send_invocation(True)
    assert slot.peer.reader.read() == b""
    slot.peer.close()
    parent = function.slot()
    document = parent.read_error(request_id)[1]
    assert document["errorType"] == "Runtime.ExitError"
    assert "was killed by signal 9 (SIGKILL) before its response began" in document["errorMessage"]
    function.waiting_slots(1)


@pytest.mark.long
def test_a_report_that_the_runtime_api_does_not_accept_in_time_does_not_stop_the_supervision(concurrent):
    function = concurrent("import os\ndef handler(event, context):\n    os._exit(7)\n    yield", 1)
    (slot,) = function.waiting_slots(1)
    request_id = slot.send_invocation()
    report = function.slot()
    assert report.request().path.endswith(f"/{request_id}/error")
    function.waiting_slots(1)  # after five seconds without a response to the report
    (message,) = [text for text in function.messages() if "not delivered" in text]
    assert "the error was not delivered: " in message


def test_an_invocation_that_a_dead_process_has_not_read_is_reported(concurrent):
    function = concurrent(WAITS, 2)
    slots = function.waiting_slots(2)
    for pid in function.workers():
        os.kill(pid, signal.SIGSTOP)
    request_id = slots[0].send_invocation()
    for pid in function.workers():
        os.kill(pid, signal.SIGKILL)
    for slot in slots:
        assert slot.peer.reader.read() == b""  # the parent ends the connection, then reads what is left
        slot.peer.close()
    posted = []
    while len(posted) < 3:
        slot = function.slot()
        posted.append(slot.request())
        if posted[-1].path.endswith("/error"):
            slot.accept()  # the parent waits for it before it starts the processes again
    errors = [request for request in posted if request.path.endswith(f"/{request_id}/error")]
    assert len(errors) == 1 and json.loads(errors[0].body)["errorType"] == "Runtime.ExitError"
    assert sum(request.path.endswith("/next") for request in posted) == 2


@pytest.mark.parametrize("definition", ["def", "async def"])
@pytest.mark.parametrize("child_ends", ["sys.exit(5)", "return"])
def test_a_process_that_the_handler_forks_leaves_everything_to_its_parent(concurrent, definition, child_ends):
    code = f"""
        import os
        import sys

        {definition} handler(event, context):
            yield b"one "
            print("begun by the parent,", end="")
            child = os.fork()
            if not child:
                print("written by the child")
                {child_ends}
            _, status = os.waitpid(child, 0)
            print(" ended by the parent")
            yield b"%d" % os.waitstatus_to_exitcode(status)
        """
    function = concurrent(code, 1)
    (slot,) = function.waiting_slots(1)
    for _ in range(2):
        request_id = slot.send_invocation()
        assert slot.read_response(request_id).body == (b"one 5" if "exit" in child_ends else b"one 1")
        slot.accept()
        slot.expect_next()
        count = 2 if "exit" in child_ends else 3
        records = function.wait_for_records(request_id, count)
        lines = [record["message"] for record in records if record.get("logger") == "sys.stdout"]
        assert lines == ["written by the child", "begun by the parent, ended by the parent"]
        assert len(records) == count, records


def test_sys_exit_in_a_handler_is_reported_once_and_ends_its_process_only(concurrent):
    function = concurrent(
        """
        import os
        import sys

        def handler(event, context):
            if event:
                sys.exit(3)
            yield b"%d" % os.getpid()
        """,
        2,
    )
    first, second = function.waiting_slots(2)
    request_id = first.send_invocation(True)
    assert first.read_error(request_id)[1]["errorType"] == "Runtime.ExitError"
    third = function.waiting_slots(1)[0]
    for slot in (second, third):
        response = slot.read_response(slot.send_invocation())
        slot.accept()
        assert int(response.body) in function.workers()


def test_a_server_error_ends_its_process_only(concurrent):
    function = concurrent(
        """
        import os

        def handler(event, context):
            yield b"%d" % os.getpid()
        """,
        2,
    )
    first, second = function.waiting_slots(2)
    request_id = first.send_invocation()
    pid = int(first.read_response(request_id).body)
    first.peer.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    (third,) = function.waiting_slots(1)
    for slot in (second, third):
        assert int(slot.read_response(slot.send_invocation()).body) in set(function.workers()) - {pid}
    reason, end = [record["message"] for record in function.records_of(request_id)]
    assert reason.endswith("status 500; the worker ends")
    assert f"(process {pid}) ended with exit status 1; it is started again" in end


@pytest.mark.parametrize("invocations", [0, 1, 2])
def test_the_pause_grows_unless_a_process_has_served_before_the_invocation_it_died_of(concurrent, invocations):
    function = concurrent(
        """
        import os

        def handler(event, context):
            if event:
                os._exit(3)
            yield b""
        """,
        1,
    )
    deaths = 3 if invocations < 2 else 6  # more than those without an invocation that end the environment
    for _ in range(deaths):
        (slot,) = function.waiting_slots(1)
        for _ in range(invocations - 1):
            assert slot.read_response(slot.send_invocation(False)).body == b""
            slot.accept()
            slot.expect_next()
        if invocations:
            request_id = slot.send_invocation(True)
            assert slot.peer.reader.read() == b""
            slot.peer.close()
            function.slot().read_error(request_id)
        else:
            os.kill(*function.workers(), signal.SIGKILL)
            assert slot.peer.reader.read() == b""
            slot.peer.close()
    function.waiting_slots(1)
    pauses = [float(message.split()[-2]) for message in function.messages() if "started again" in message]
    assert len(pauses) == deaths and (pauses[-1] > 0.2) == (invocations < 2)


def test_the_environment_ends_when_no_worker_stays_alive(concurrent):
    function = concurrent(
        """
        import os
        import threading

        def handler(event, context):
            yield b""

        threading.Timer(0.05, os._exit, [9]).start()
        """,
        1,
    )
    assert function.wait() == 1
    assert function.messages()[-1].endswith("no worker stays alive; the environment ends")


# The init phase


def test_one_worker_serves_on_while_the_others_have_no_memory(concurrent, tmp_path):
    code = """
        import os
        import signal

        try:
            os.mkdir(os.environ["PLACE"])
        except FileExistsError:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when the memory is exhausted

        def handler(event, context):
            yield b"served"
        """
    function = concurrent(code, 3, variables={"PLACE": str(tmp_path / "place")})
    (slot,) = function.waiting_slots(1)
    until(lambda: sum("killed by signal 9 (SIGKILL)" in message for message in function.messages()) >= 6)
    for _ in range(3):
        assert slot.read_response(slot.send_invocation()).body == b"served"
        slot.accept()
        slot.expect_next()
    pauses = [float(message.split()[-2]) for message in function.messages() if "worker 1 " in message]
    assert pauses == sorted(set(pauses)) and pauses[0] == 0.1
    assert function.process.poll() is None


def test_without_descriptors_for_more_workers_the_others_serve(concurrent):
    function = concurrent(
        """
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))

        def handler(event, context):
            yield b"done"
        """,
        40,
        variables={"STREAMING_RUNTIME_PRELOAD": "1"},
    )
    slots = function.waiting_slots(3)
    until(lambda: any("cannot be started: [Errno 24]" in message for message in function.messages()))
    for slot in slots:
        assert slot.read_response(slot.send_invocation()).body == b"done"
        slot.accept()
        slot.expect_next()


def test_an_init_error_is_reported_once_and_its_refusal_is_ignored(concurrent):
    function = concurrent("import nothing_of_this_name", 3)
    slot = function.slot()
    request = slot.request()
    assert request.path.endswith("/init/error")
    assert json.loads(request.body)["errorType"] == "Runtime.ImportModuleError"
    slot.peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    assert function.wait() == 1
    function.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        function.listener.accept()
    assert not any("refused" in message for message in function.messages())
    (record,) = [record for record in function.records if "errorType" in record]
    assert "requestId" not in record  # there is no invocation


FAILED_INIT = {
    "the import": ("import nothing_of_this_name", "Runtime.ImportModuleError", 1),
    "an exit": ("import sys\nsys.exit(3)", "Runtime.ExitError", 3),
    "the startup": (
        """
        async def handler(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
        """,
        "Runtime.StartupFailed",
        1,
    ),
    "the kind": ("def handler(event, context): yield", "Runtime.InvalidConcurrency", 1),
}


@pytest.mark.parametrize("preload", ["0", "1"])
@pytest.mark.parametrize("fault", FAILED_INIT)
def test_each_init_error_is_reported_once_and_ends_the_environment(concurrent, fault, preload):
    code, error_type, status = FAILED_INIT[fault]
    variables = {"STREAMING_RUNTIME_PRELOAD": preload, "STREAMING_RUNTIME_CONCURRENCY": "async"}
    function = concurrent(code, 2, variables=variables)
    assert function.read_init_error()[1]["errorType"] == error_type
    assert function.wait() == status
    assert [record["errorType"] for record in function.records if "errorType" in record] == [error_type]


def test_a_process_that_is_killed_while_it_imports_the_function_is_reported(concurrent):
    function = concurrent("import os; os._exit(5)", 2)
    _, document = function.read_init_error()
    assert document["errorType"] == "Runtime.ExitError"
    assert function.wait() == 5


def test_a_handler_that_is_written_in_c_is_called(concurrent):
    function = concurrent("handler = print", 1)
    (slot,) = function.waiting_slots(1)
    request_id = slot.send_invocation()
    assert slot.read_error(request_id)[1]["errorType"] == "Runtime.InvalidHandler"


@pytest.mark.parametrize("value", ["many", "0", "-1", "10000", "", "1.5", "²"])
def test_an_invalid_concurrency_is_an_init_error(concurrent, value):
    function = concurrent(WAITS, value)
    _, document = function.read_init_error()
    assert document["errorType"] == "Runtime.InvalidConcurrency"
    assert "AWS_LAMBDA_MAX_CONCURRENCY" in document["errorMessage"] and "1600" in document["errorMessage"]
    assert function.wait() == 1


@pytest.mark.parametrize("kind", ["async", "threads"])
def test_an_unsuitable_kind_is_an_init_error(concurrent, kind):
    function = concurrent(WAITS, 2, variables={"STREAMING_RUNTIME_CONCURRENCY": kind})
    _, document = function.read_init_error()
    assert document["errorType"] == "Runtime.InvalidConcurrency"
    assert "STREAMING_RUNTIME_CONCURRENCY" in document["errorMessage"]
    assert function.wait() == 1


def test_with_one_import_before_the_fork_each_process_has_random_numbers_of_its_own(concurrent):
    function = concurrent(
        """
        import os
        import random

        print("imported by", os.getpid())

        def handler(event, context):
            yield b"%d %.17f" % (os.getpid(), random.random())
        """,
        3,
        variables={"STREAMING_RUNTIME_PRELOAD": "1"},
    )
    slots = function.waiting_slots(3)
    bodies = [slot.read_response(slot.send_invocation()).body.split() for slot in slots]
    assert len({pid for pid, _ in bodies}) == len({number for _, number in bodies}) == 3
    assert [r["message"] for r in function.records] == [f"imported by {function.process.pid}"]


@pytest.mark.parametrize(
    ("concurrency", "definition", "loop"),
    [("async", "async def", "asyncio.get_running_loop()"), ("process", "def", "asyncio.get_event_loop()")],
)
def test_with_one_import_before_the_fork_each_process_has_an_event_loop_of_its_own(
    concurrent, concurrency, definition, loop
):
    function = concurrent(
        f"""
        import asyncio

        shared = asyncio.new_event_loop()
        asyncio.set_event_loop(shared)

        {definition} handler(event, context):
            yield repr({loop} is shared).encode()
        """,
        2,
        variables={"STREAMING_RUNTIME_PRELOAD": "1", "STREAMING_RUNTIME_CONCURRENCY": concurrency},
    )
    for slot in function.waiting_slots(2):
        assert slot.read_response(slot.send_invocation()).body == b"False"


# Signals

CLEANS_UP = """
import os

def handler(event, context):
    try:
        yield b"%d" % os.getpid()
        open(event["gate"]).close()
    finally:
        print("cleaned up")
"""


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_sigterm_to_the_parent_or_to_the_group_ends_each_stream_once(concurrent, tmp_path, send):
    gate = Gate(tmp_path)
    function = concurrent(CLEANS_UP, 2)
    slots = function.waiting_slots(2)
    for slot in slots:
        slot.expect_response(slot.send_invocation({"gate": gate.path}))
        slot.peer.read_chunk()
    send(function.process.pid, signal.SIGTERM)
    for slot in slots:
        assert slot.peer.read_chunk() == b""
        assert slot.peer.read_trailers()["Lambda-Runtime-Function-Error-Type"] == "Runtime.ExitError"
        slot.accept()
    assert function.wait() == 128 + signal.SIGTERM
    assert [record["message"] for record in function.records if "message" in record].count("cleaned up") == 2


def test_a_worker_that_does_not_notice_a_signal_ends_with_its_clean_up(concurrent):
    """A thread receives the signal, so no system call of the main thread is interrupted; see test_shutdown.py."""
    function = concurrent(
        """
        import atexit
        import signal
        import threading

        atexit.register(print, "at exit")

        def handler(event, context):
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            yield b""
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    slot.read_response(slot.send_invocation())
    slot.accept()
    slot.expect_next()
    (worker,) = function.workers()
    wait_until_asleep(worker)
    os.kill(function.process.pid, signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    assert "at exit" in [record.get("message") for record in function.records]


def test_a_worker_that_ignores_the_signal_is_killed(concurrent, tmp_path):
    gate = Gate(tmp_path)
    function = concurrent(
        """
        import signal

        def handler(event, context):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            yield b"part"
            open(event["gate"]).close()  # nobody opens it
        """,
        2,
    )
    slots = function.waiting_slots(2)
    slots[0].expect_response(slots[0].send_invocation({"gate": gate.path}))
    slots[0].peer.read_chunk()
    workers = function.workers()
    function.process.terminate()
    assert function.wait() == 128 + signal.SIGTERM
    assert not any(is_running(pid) for pid in workers)


def test_workers_end_when_their_parent_is_killed(concurrent):
    function = concurrent(WAITS, 2)
    slots = function.waiting_slots(2)
    workers = function.workers()
    os.kill(function.process.pid, signal.SIGKILL)
    for slot in slots:
        assert slot.peer.reader.read() == b""
    until(lambda: not any(is_running(pid) for pid in workers))


# Deadlines


@pytest.mark.parametrize(
    ("has_begun", "late"),
    [(False, "a chunk"), (False, "a prelude"), (False, "the end"), (True, "a chunk"), (True, "the end")],
)
def test_after_the_deadline_the_next_step_ends_the_invocation(concurrent, has_begun, late):
    function = concurrent(
        """
        import time

        def handler(event, context):
            if event["has_begun"]:
                yield b"part"
            while context.get_remaining_time_in_millis():
                time.sleep(0.01)
            if event["late"] != "the end":
                yield {"statusCode": 200} if event["late"] == "a prelude" else b"late"
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    seconds, remaining = (2, 1.6) if (has_begun, late) == (True, "a chunk") else (1, 0.5)
    deadline = {"Lambda-Runtime-Deadline-Ms": str(int((time.time() + remaining) * 1000))}
    request_id = slot.send_invocation({"has_begun": has_begun, "late": late}, deadline)
    if has_begun:
        response = slot.read_response(request_id)
        assert response.body == b"part"
        assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Function.Timeout"
        document = response.error
    else:
        request = slot.request()
        assert request.path.endswith(f"/{request_id}/error")
        assert request.headers["lambda-runtime-function-error-type"] == "Function.Timeout"
        document = json.loads(request.body)
    slot.peer.send(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
    slot.expect_next()
    assert document["errorMessage"] == f"Task timed out after {seconds}.00 seconds"
    records = function.records_of(request_id)
    assert f"Task timed out after {seconds}.00 seconds" in [text for record in records for text in record.values()]
    assert not any("410" in message for message in function.messages())


# Async generators


def test_a_process_streams_an_async_generator_with_one_hint(concurrent):
    function = concurrent(
        """
        async def handler(event, context):
            yield b"async"
        """,
        2,
        variables={"STREAMING_RUNTIME_CONCURRENCY": "process"},
    )
    for slot in function.waiting_slots(2):
        for _ in range(2):
            assert slot.read_response(slot.send_invocation()).body == b"async"
            slot.accept()
            slot.expect_next()
    assert len([m for m in function.messages() if "STREAMING_RUNTIME_CONCURRENCY=async" in m]) == 1


NOT_ASYNC = {  # handlers that use an event loop, and for which the value `async` is an error
    "called by an agent": INNER_GENERATOR,
    "with an async generator as its result": INNER_GENERATOR,
    "with an async callback": """
        async def callback():
            pass

        def handler(event, context):
            context.after_response(callback)
            yield b"done"
        """,
}


@pytest.mark.parametrize("kind", NOT_ASYNC)
def test_there_is_no_hint_for_a_handler_that_cannot_share_an_event_loop(concurrent, kind):
    variables = {"STREAMING_RUNTIME_INNER_HANDLER": "lambda_function.inner" if "agent" in kind else None}
    function = concurrent(NOT_ASYNC[kind], 1, variables=variables)
    (slot,) = function.waiting_slots(1)
    slot.read_response(slot.send_invocation())
    slot.accept()
    slot.expect_next()
    assert function.messages() == []
