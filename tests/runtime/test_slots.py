"""Several invocations at once on one event loop: async handlers on Lambda Managed Instances."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from support.concurrent_function import break_response, one_process
from support.emulator import until
from support.function_process import Gate
from support.http_events import function_url
from support.http_responses import parse

ASYNC = {"STREAMING_RUNTIME_CONCURRENCY": "async"}

HANDLER = """
import asyncio
import logging
import os
import sys
import threading

logging.getLogger().setLevel("INFO")
events = {}

async def handler(event, context):
    yield b"%d " % os.getpid()
    action = event.get("action")
    if action == "fail":
        raise ValueError("boom")
    if action == "cancel":
        asyncio.current_task().cancel()
        await asyncio.sleep(0)
    if action == "exit":
        sys.exit(3)
    if action == "exit in a child task":
        await asyncio.create_task(end())
    if action == "exit in a callback":
        asyncio.get_running_loop().call_soon(sys.exit, 5)
        await asyncio.sleep(0.01)
    if action == "exit in a task of its own":
        events["task"] = asyncio.create_task(end())
        await asyncio.sleep(0.01)
    if action == "stop the loop":
        asyncio.get_running_loop().stop()
    if action == "large":
        yield bytes(20_000_000)
    if action == "wait":
        await asyncio.Event().wait()
    yield b"done"

async def end():
    sys.exit(4)
"""


def test_the_slots_share_as_many_processes_as_there_are_cpus(concurrent):
    function = concurrent(HANDLER, 5)
    slots = function.waiting_slots(5)
    ids = [slot.send_invocation({"action": "wait"}) for slot in slots]
    pids = []
    for slot, request_id in zip(slots, ids, strict=True):
        slot.expect_response(request_id)
        pids.append(int(slot.peer.read_chunk()))
    expected = min(len(os.sched_getaffinity(0)), 5)
    assert set(pids) == set(function.workers())
    counts = sorted(pids.count(pid) for pid in set(pids))
    assert len(counts) == expected and counts[-1] - counts[0] <= 1


def test_an_instance_with_an_inherited_call_is_an_async_handler(concurrent):
    function = one_process(
        concurrent,
        """
        class Base:
            async def __call__(self, event, context):
                yield b"done"

        class Handler(Base):
            pass

        handler = Handler()
        """,
        3,
    )
    slots = function.waiting_slots(3)
    assert len(function.workers()) == 1
    assert slots[0].read_response(slots[0].send_invocation()).body == b"done"


@pytest.mark.parametrize(
    "action",
    [
        "fail",
        "cancel",
        "exit",
        "exit in a child task",
        "exit in a callback",
        "exit in a task of its own",
        "stop the loop",
        "large",
    ],
)
def test_what_happens_in_one_slot_leaves_the_others_running(concurrent, action):
    function = one_process(concurrent, HANDLER, 2)
    first, second = function.waiting_slots(2)
    first_id = first.send_invocation({"action": action})
    first.expect_response(first_id)
    pid = first.peer.read_chunk()
    for _ in range(3):  # the first response is not read any further
        response = second.read_response(second.send_invocation())
        second.accept()
        second.expect_next()
        assert response.body == pid + b"done" and response.trailers == {}
    chunks = list(iter(first.peer.read_chunk, b""))
    error = first.peer.read_trailers().get("Lambda-Runtime-Function-Error-Type")
    first.accept()
    first.expect_next()
    types = {
        "fail": "Function.ValueError",
        "cancel": "Function.CancelledError",
        "exit": "Runtime.ExitError",
        "exit in a child task": "Runtime.ExitError",
    }
    assert error == types.get(action)
    assert chunks == ([] if error else [bytes(20_000_000), b"done"] if action == "large" else [b"done"])
    assert function.workers() == [int(pid)]


NO_INVOCATION = {
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "the end of the connection": b"",
}


@pytest.mark.parametrize("answer", NO_INVOCATION)
def test_a_slot_without_an_invocation_asks_again_and_the_others_serve(concurrent, answer):
    function = one_process(concurrent, HANDLER, 2)
    first, second = function.waiting_slots(2)
    start = time.monotonic()
    for _ in range(2):
        if NO_INVOCATION[answer]:
            first.peer.send(NO_INVOCATION[answer])
        else:
            first.peer.close()
            first = function.slot()
        first.expect_next()
    assert time.monotonic() - start < 5  # a pause of five seconds comes only after several refusals
    for slot in (first, second):
        assert slot.read_response(slot.send_invocation()).body.endswith(b"done")
        slot.accept()
        slot.expect_next()
    assert len(function.workers()) == 1 and function.messages() == []


def test_a_process_ends_when_all_of_its_slots_are_refused(concurrent):
    function = one_process(concurrent, HANDLER, 2)
    first, second = function.waiting_slots(2)
    pids = function.workers()
    refuse(first)
    for _ in range(2):  # the first one can still arrive before the process has noticed the last refusal
        assert second.read_response(second.send_invocation()).body == b"%d done" % pids[0]
        second.accept()
        second.expect_next()
    refuse(second)
    function.waiting_slots(2)
    assert "no next invocation" in function.messages()[0] and function.workers() != pids


@pytest.mark.long
def test_a_refused_slot_that_serves_again_keeps_the_process_alive(concurrent):
    function = one_process(concurrent, HANDLER, 2)
    first, second = function.waiting_slots(2)
    (pid,) = function.workers()
    refuse(first)
    first.expect_next()  # after five seconds
    assert first.read_response(first.send_invocation()).body == b"%d done" % pid
    first.accept()
    first.expect_next()
    refuse(second)
    second.expect_next()
    for slot in (first, second):
        assert slot.read_response(slot.send_invocation()).body == b"%d done" % pid
    assert function.messages() == []


def refuse(slot):
    """Refuse the request for an invocation that has arrived, and the five that follow."""
    for _ in range(5):
        slot.peer.send(NO_INVOCATION["403"])
        slot.expect_next()
    slot.peer.send(NO_INVOCATION["403"])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n", "not delivered: the Runtime API ended"),
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", "responded with status 500"),
        (b"", "not delivered: "),
    ],
    ids=["refused", "server error", "reset"],
)
def test_a_response_that_cannot_be_delivered_ends_its_invocation_alone(concurrent, answer, reason):
    function = one_process(
        concurrent,
        """
        import asyncio

        async def handler(event, context):
            try:
                while True:
                    yield bytes(100_000)
                    if not event:
                        break
                    await asyncio.sleep(0)
            finally:
                await asyncio.sleep(0)
                if event:
                    raise ValueError("cleaned up")
        """,
        2,
    )
    first, second = function.waiting_slots(2)
    pids = function.workers()
    request_id = first.send_invocation(True)
    first.expect_response(request_id)
    first.peer.read_chunk()
    if answer:
        first.peer.send(answer)
    else:
        first.peer.reset()
    again = function.slot()
    again.expect_next()
    for slot in (again, second):
        assert len(slot.read_response(slot.send_invocation(False)).body) == 100_000
        slot.accept()
        slot.expect_next()
    function.shut_down()
    clean_up, loss = [record for record in function.records_of(request_id) if record["level"] == "ERROR"]
    assert clean_up["errorMessage"] == "cleaned up" and reason in loss["message"]
    assert len(pids) == 1 and not any("worker" in message for message in function.messages())


def test_an_error_that_cannot_be_delivered_is_logged(concurrent):
    function = one_process(
        concurrent,
        """
        import asyncio

        waiting = asyncio.Event()

        async def handler(event, context):
            yield b"part"
            if event:
                await waiting.wait()
                raise ValueError("boom")
            waiting.set()
        """,
        2,
    )
    request_id = break_response(function)
    records = function.records_of(request_id)
    assert [record["errorMessage"] for record in records if "errorMessage" in record] == ["boom"]
    assert any("the error was not delivered: " in record.get("message", "") for record in records)


def test_the_head_of_an_invocation_can_arrive_in_parts(concurrent):
    function = one_process(concurrent, HANDLER, 2)
    first, second = function.waiting_slots(2)
    head = b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: in-parts\r\nContent-Length: 2\r\n\r\n"
    for part in (head[:10], head[10:30], head[30:-2]):
        first.peer.send(part)
        assert second.read_response(second.send_invocation()).body.endswith(b"done")
        second.accept()
        second.expect_next()
    first.peer.send(head[-2:] + b"{}")
    assert first.read_response("in-parts").body.endswith(b"done")


def test_a_function_that_cancels_all_tasks_does_not_end_the_process(concurrent):
    function = one_process(
        concurrent,
        """
        import asyncio
        import os

        async def handler(event, context):
            if event == "cancel all":
                for task in asyncio.all_tasks():
                    task.cancel()
            if event == "cancel later":
                context.after_response(lambda: asyncio.current_task().cancel())
            yield b"%d" % os.getpid()
            if event in ("wait", "cancel all"):
                await asyncio.Event().wait()
        """,
        3,
    )
    waiting, working, idle = function.waiting_slots(3)
    (pid,) = function.workers()
    waiting.expect_response(waiting.send_invocation("wait"))
    assert waiting.peer.read_chunk() == b"%d" % pid
    response = working.read_response(working.send_invocation("cancel all"))
    assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Function.CancelledError"
    assert waiting.peer.read_chunk() == b""
    assert waiting.peer.read_trailers()["Lambda-Runtime-Function-Error-Type"] == "Function.CancelledError"
    for slot in (waiting, working):
        slot.accept()
        slot.expect_next()
    for event in ("cancel later", None):
        for slot in (waiting, working, idle):
            assert slot.read_response(slot.send_invocation(event)).body == b"%d" % pid
            slot.accept()
            slot.expect_next()


def test_an_error_before_the_first_byte_is_posted(concurrent):
    function = one_process(
        concurrent,
        """
        async def handler(event, context):
            if event:
                raise ValueError("boom")
            yield b""
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    for _ in range(2):
        request_id = slot.send_invocation(True)
        assert slot.read_error(request_id)[1]["errorMessage"] == "boom"
        slot.expect_next()
        assert slot.read_response(slot.send_invocation(False)).body == b""
        slot.accept()
        slot.expect_next()
    event = slot.send_invocation(raw=b"{")
    assert slot.read_error(event)[1]["errorType"] == "Runtime.UnmarshalError"


# Identity

IDENTITY = """
import asyncio
import logging
import os
import threading

logging.getLogger().setLevel("INFO")
NAME = "_X_AMZN_TRACE_ID"
gathering = []
gathered = asyncio.Event()

async def handler(event, context):
    gathering.append(event)
    if len(gathering) == 3:
        gathered.set()
    await gathered.wait()  # now all three are in this process
    for n in range(20):
        print(f"print {event} ", end="")
        logging.info("log %s", event)
        await asyncio.create_task(child(event))
        await asyncio.to_thread(logging.info, "thread %s", event)
        print(f"{event}")
        context.log(f"context {event}\\n")
    assert os.getenv(NAME) == os.environ[NAME] == f"Root={event}", os.environ.get(NAME)
    thread = threading.Thread(target=logging.info, args=["unknown %s", event])
    thread.start()
    thread.join()
    yield event.encode()

async def child(event):
    await asyncio.sleep(0)
    logging.info("child %s", event)
"""


def test_each_record_has_the_id_of_its_own_invocation_or_none(concurrent):
    function = one_process(concurrent, IDENTITY, 3)
    slots = function.waiting_slots(3)
    names = {}
    for slot, name in zip(slots, "abc", strict=True):
        headers = {"Lambda-Runtime-Trace-Id": f"Root={name}", "Lambda-Runtime-Aws-Tenant-Id": f"tenant-{name}"}
        names[slot.send_invocation(name, headers)] = name, slot
    for request_id, (name, slot) in names.items():
        assert slot.read_response(request_id).body == name.encode()
        slot.accept()
    for slot in slots:
        slot.expect_next()
    function.shut_down()
    for request_id, (name, _) in names.items():
        records = function.records_of(request_id)
        texts = [record["message"] for record in records]
        expected = [f"print {name} {name}", f"log {name}", f"child {name}", f"thread {name}", f"context {name}"]
        assert sorted(texts) == sorted(expected * 20)
        assert {record["tenantId"] for record in records} == {f"tenant-{name}"}
    unknown = [record for record in function.records if "requestId" not in record]
    assert sorted(record["message"] for record in unknown) == ["unknown a", "unknown b", "unknown c"]


def test_child_processes_get_no_trace_id_and_neither_do_other_contexts(concurrent):
    function = one_process(
        concurrent,
        """
        import os
        import subprocess
        import threading

        NAME = "_X_AMZN_TRACE_ID"
        found = []

        async def handler(event, context):
            thread = threading.Thread(target=lambda: found.extend([os.environ.get(NAME), NAME in os.environ]))
            thread.start()
            thread.join()
            os.environ["OTHER"] = "other"
            yield repr([found, NAME in os.environ, os.environ.pop(NAME), os.environ.pop("OTHER")]).encode()
            yield subprocess.run(["env"], capture_output=True).stdout
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    body = slot.read_response(slot.send_invocation(headers={"Lambda-Runtime-Trace-Id": "Root=a"})).body
    assert body.startswith(b"[[None, False], True, 'Root=a', 'other']")
    assert b"_X_AMZN_TRACE_ID" not in body and b"OTHER" not in body


# Deadlines


@pytest.mark.parametrize("ignores", [False, True], ids=["cancelled", "ignores the cancellation"])
@pytest.mark.parametrize("is_late", [False, True], ids=["before the first byte", "after the first byte"])
def test_the_deadline_ends_a_handler_that_waits(concurrent, tmp_path, is_late, ignores):
    gate = Gate(tmp_path)
    function = one_process(
        concurrent,
        """
        import asyncio

        async def handler(event, context):
            if event["is_late"]:
                yield b"part"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if event["ignores"]:
                    await asyncio.to_thread(lambda: open(event["gate"]).close())
                raise
            yield b""
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    event = {"is_late": is_late, "ignores": ignores, "gate": gate.path}
    request_id = slot.send_invocation(event, {"Lambda-Runtime-Deadline-Ms": str(int((time.time() + 1) * 1000))})
    if is_late:
        response = slot.read_response(request_id)
        assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Function.Timeout"
        document = response.error
    else:
        request = slot.request()
        assert request.path.endswith(f"/{request_id}/error")
        assert request.headers["lambda-runtime-function-error-type"] == "Function.Timeout"
        document = json.loads(request.body)
    assert document["errorMessage"] == "Task timed out after 1.00 seconds"
    slot.peer.send(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
    if ignores:
        gate.open()
    slot.expect_next()
    assert not any("410" in message for message in function.messages())


@pytest.mark.parametrize("interruption", ["the deadline", "a cancellation"])
def test_the_acceptance_of_a_sent_response_is_not_taken_for_the_next_invocation(concurrent, interruption):
    function = one_process(
        concurrent,
        """
        import asyncio

        tasks = []

        async def handler(event, context):
            if event == "cancel":
                tasks[0].cancel()
                await asyncio.sleep(0)
            tasks.append(asyncio.current_task())
            yield b"done"
        """,
        2,
    )
    slot, other = function.waiting_slots(2)
    deadline = time.time() + (0.3 if interruption == "the deadline" else 60)
    first = slot.send_invocation(headers={"Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000))})
    assert slot.read_response(first).body == b"done"
    if interruption == "the deadline":
        time.sleep(max(0.0, deadline - time.time()) + 0.2)
        assert function.records == []
    else:
        assert other.read_response(other.send_invocation("cancel")).body == b"done"
        other.accept()
        other.expect_next()
    slot.accept()
    slot.expect_next()
    for _ in range(2):
        assert slot.read_response(slot.send_invocation()).body == b"done"
        slot.accept()
        slot.expect_next()


@pytest.mark.long
def test_a_reader_that_is_slow_until_after_the_deadline_loses_the_connection(concurrent):
    function = one_process(concurrent, HANDLER, 2)
    slow, other = function.waiting_slots(2)
    headers = {"Lambda-Runtime-Deadline-Ms": str(int((time.time() + 1) * 1000))}
    request_id = slow.send_invocation({"action": "large"}, headers)
    slow.expect_response(request_id)
    slow.peer.read_chunk()
    again = function.slot()  # five seconds after the deadline
    again.expect_next()
    for slot in (again, other):
        assert slot.read_response(slot.send_invocation()).body.endswith(b"done")
        slot.accept()
        slot.expect_next()
    rest = slow.peer.reader.read()
    assert len(rest) < 20_000_000 and not rest.endswith(b"\r\n\r\n")
    function.shut_down()
    messages = [record["message"] for record in function.records_of(request_id) if "logger" in record]
    assert "the error was not delivered: nobody reads the response" in messages[-1]


# Blocking


def test_a_handler_that_blocks_the_loop_is_named_once(concurrent):
    function = one_process(
        concurrent,
        """
        import time

        async def handler(event, context):
            wait_for_something()
            yield b"done"

        def wait_for_something():
            time.sleep(2.5)
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    ids = []
    for _ in range(2):
        ids.append(slot.send_invocation())
        assert slot.read_response(ids[-1]).body == b"done"
        slot.accept()
        slot.expect_next()
    (warning,) = [record for record in function.records if record["level"] == "WARN"]
    assert "blocks the event loop" in warning["message"] and "in wait_for_something" in warning["message"]
    assert warning["requestId"] == ids[0]


# The end


def test_sigterm_runs_clean_up_and_reports_each_invocation(concurrent):
    function = one_process(
        concurrent,
        """
        import asyncio
        import atexit

        atexit.register(print, "at exit")

        async def handler(event, context):
            try:
                yield b"part"
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                print("cleaned up")
        """,
        3,
    )
    slots = function.waiting_slots(3)
    for slot in slots[:2]:
        slot.expect_response(slot.send_invocation())
        slot.peer.read_chunk()
    os.killpg(function.process.pid, signal.SIGTERM)
    for slot in slots[:2]:
        assert slot.peer.read_chunk() == b""
        assert slot.peer.read_trailers()["Lambda-Runtime-Function-Error-Type"] == "Runtime.ExitError"
        slot.accept()
    assert function.wait() == 128 + signal.SIGTERM
    assert [r["message"] for r in function.records if "logger" in r and r["logger"] == "sys.stdout"] == [
        "cleaned up",
        "cleaned up",
        "at exit",
    ]


def test_sigterm_ends_a_handler_that_blocks_the_loop_and_each_other_invocation(concurrent, tmp_path):
    gate = Gate(tmp_path)
    function = one_process(
        concurrent,
        """
        import asyncio

        async def handler(event, context):
            try:
                yield b"part"
                if event:
                    open(event["gate"]).close()  # nobody opens it
                await asyncio.Event().wait()
            finally:
                print("cleaned up")
        """,
        2,
    )
    slots = function.waiting_slots(2)
    for slot, event in zip(slots, [{}, {"gate": gate.path}], strict=True):
        slot.expect_response(slot.send_invocation(event))
        slot.peer.read_chunk()
    os.killpg(function.process.pid, signal.SIGTERM)
    for slot in slots:
        assert slot.peer.read_chunk() == b""
        assert slot.peer.read_trailers()["Lambda-Runtime-Function-Error-Type"] == "Runtime.ExitError"
        slot.accept()
    assert function.wait() == 128 + signal.SIGTERM
    assert [record.get("message") for record in function.records].count("cleaned up") == 2


def test_each_invocation_of_a_killed_process_is_accounted_for(concurrent):
    function = one_process(
        concurrent,
        """
        import asyncio

        async def handler(event, context):
            print("begun")
            if event:
                yield b"part"
            await asyncio.Event().wait()
            yield b""
        """,
        3,
    )
    begun, fresh, idle = function.waiting_slots(3)
    begun.expect_response(begun.send_invocation(True))
    assert begun.peer.read_chunk() == b"part"
    request_id = fresh.send_invocation(False)
    until(lambda: function.records_of(request_id))
    (pid,) = function.workers()
    os.kill(pid, signal.SIGKILL)
    for slot in (begun, fresh, idle):
        assert slot.peer.reader.read() == b""
        slot.peer.close()
    parent = function.slot()
    assert parent.read_error(request_id)[1]["errorType"] == "Runtime.ExitError"
    function.waiting_slots(3)


def test_an_invocation_that_arrives_while_another_is_reported_is_reported_too(concurrent):
    function = one_process(
        concurrent,
        """
        import asyncio

        async def handler(event, context):
            print("begun")
            await asyncio.Event().wait()
            yield b""
        """,
        2,
    )
    serving, idle = function.waiting_slots(2)
    first = serving.send_invocation()
    until(lambda: function.records_of(first))
    (pid,) = function.workers()
    os.kill(pid, signal.SIGKILL)
    report = function.slot()
    assert report.request().path.endswith(f"/{first}/error")
    second = idle.send_invocation()
    time.sleep(1.2)  # longer than the parent keeps the connections of a dead process
    report.accept()
    assert function.slot().read_error(second)[1]["errorType"] == "Runtime.ExitError"
    function.waiting_slots(2)


def test_an_invocation_is_accounted_for_while_its_event_arrives(concurrent):
    function = one_process(
        concurrent,
        """
        import os

        async def handler(event, context):
            os._exit(9)
            yield
        """,
        2,
    )
    slots = function.waiting_slots(2)
    ids = [slots[0].send_invocation(headers={"Content-Length": "1000"}), slots[1].send_invocation()]
    assert read_errors(function, 2) == dict.fromkeys(ids, "Runtime.ExitError")


def read_errors(function, count):
    """Read and accept the reports to /error on new connections. Return the types by request id."""
    types = {}
    while len(types) < count:
        slot = function.slot()
        request = slot.request()
        if request.path.endswith("/error"):
            types[request.path.split("/")[-2]] = json.loads(request.body)["errorType"]
            slot.accept()
    return types


def test_a_killed_process_is_replaced_while_its_connections_stay_open(concurrent):
    function = one_process(concurrent, HANDLER, 12)
    slots = function.waiting_slots(12)
    (pid,) = function.workers()
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    function.waiting_slots(12)  # the Runtime API notices the end of a connection, and does not close its own end
    assert time.monotonic() - killed < 10  # not a second for each connection
    for slot in slots:
        assert slot.peer.reader.read() == b""


def test_each_invocation_begins_with_the_context_variables_of_the_module(concurrent):
    function = one_process(
        concurrent,
        """
        from contextvars import ContextVar

        variable = ContextVar("variable")
        variable.set("of the module")

        async def handler(event, context):
            yield variable.get().encode()
            variable.set("of an invocation")
        """,
        2,
    )
    for slot in function.waiting_slots(2):
        request_id = slot.send_invocation()
        assert slot.read_response(request_id).body == b"of the module"


def test_an_async_handler_that_was_imported_before_the_fork_needs_no_import_of_asyncio(concurrent):
    function = concurrent(
        """
        async def handler(event, context):
            yield b"done"
        """,
        2,
        variables={"STREAMING_RUNTIME_PRELOAD": "1"},
    )
    for slot in function.waiting_slots(2):
        assert slot.read_response(slot.send_invocation()).body == b"done"


def test_work_after_the_response_is_awaited_on_the_loop(concurrent):
    function = one_process(
        concurrent,
        """
        import asyncio
        import contextvars

        variable = contextvars.ContextVar("variable")

        async def handler(event, context):
            context.after_response(work, event)
            variable.set(event)
            yield b"x"

        async def work(event):
            await asyncio.sleep(0.01)
            print("after", event, variable.get())
        """,
        2,
    )
    slots = function.waiting_slots(2)
    ids = [slot.send_invocation(number) for number, slot in enumerate(slots)]
    for slot, request_id in zip(slots, ids, strict=True):
        assert slot.read_response(request_id).body == b"x"
        slot.accept()
        slot.expect_next()
    function.shut_down()
    for number, request_id in enumerate(ids):
        assert [record["message"] for record in function.records_of(request_id)] == [f"after {number} {number}"]


def test_work_after_the_response_that_fails_is_logged_and_none_is_taken_later(concurrent):
    function = one_process(
        concurrent,
        """
        contexts = []

        async def handler(event, context):
            contexts.append(context)
            if event:
                context.after_response(fail)
                context.after_response(print, "next")
                try:
                    contexts[0].after_response(print, "late")
                except RuntimeError as error:
                    print(error)
            yield b""

        def fail():
            raise ValueError("boom")
        """,
        1,
    )
    (slot,) = function.waiting_slots(1)
    for event in (False, True):
        request_id = slot.send_invocation(event)
        assert slot.read_response(request_id).body == b""
        slot.accept()
        slot.expect_next()
    function.shut_down()
    records = function.records_of(request_id)
    assert [record["message"] for record in records if record.get("logger") == "sys.stdout"] == [
        "the invocation has ended: context.after_response registers no more work",
        "next",
    ]
    assert [record["errorMessage"] for record in records if "errorMessage" in record] == ["boom"]


ASGI_APPLICATION = """
import asyncio

async def handler(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["together"] = asyncio.Barrier(2)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200})
    await scope["state"]["together"].wait()
    await send({"type": "http.response.body", "body": scope["path"].encode()})
"""


def test_an_asgi_application_serves_several_requests_on_one_loop_after_one_startup(concurrent):
    function = one_process(concurrent, ASGI_APPLICATION, 2, variables={"_HANDLER": "lambda_function.handler"})
    slots = function.waiting_slots(2)
    ids = [slot.send_invocation(function_url(target=f"/{number}")) for number, slot in enumerate(slots)]
    for number, (slot, request_id) in enumerate(zip(slots, ids, strict=True)):
        assert parse(slot.read_response(request_id)).body == b"/%d" % number
    for slot in slots:
        slot.accept()
        slot.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    function.wait()
    assert "shutdown" in [record["message"] for record in function.records]


def test_a_task_that_waits_for_the_caller_ends_when_the_application_fails(concurrent):
    function = one_process(
        concurrent,
        """
        import asyncio

        tasks = []

        async def handler(scope, receive, send):
            if scope["type"] != "http":
                raise NotImplementedError
            if scope["path"] == "/fail":
                tasks.append(asyncio.create_task(wait_for_disconnect(receive)))
                await asyncio.sleep(0)
                raise ValueError("boom")
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": repr([task.done() for task in tasks]).encode()})

        async def wait_for_disconnect(receive):
            while (await receive())["type"] != "http.disconnect":
                pass
        """,
        1,
        variables={"_HANDLER": "lambda_function.handler"},
    )
    (slot,) = function.waiting_slots(1)
    request_id = slot.send_invocation(function_url(target="/fail"))
    assert slot.read_error(request_id)[1]["errorMessage"] == "boom"
    slot.expect_next()
    assert parse(slot.read_response(slot.send_invocation(function_url()))).body == b"[True]"


# ASGI applications

APPLICATION = """
import asyncio
import os

print("imported by", os.getpid())

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("startup in", os.getpid())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown in", os.getpid())
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % os.getpid(), "more_body": True})
    if scope["path"] == "/wait":
        await receive()
        await receive()  # until the caller has left
    await send({"type": "http.response.body", "body": b""})
"""

REQUEST = {
    "version": "2.0",
    "rawPath": "/",
    "rawQueryString": "",
    "headers": {},
    "requestContext": {"http": {"method": "GET", "path": "/", "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"}},
    "isBase64Encoded": False,
}


@pytest.mark.parametrize("preload", ["0", "1"], ids=["imported in each process", "imported before the fork"])
def test_an_asgi_application_has_a_lifespan_in_each_process(concurrent, preload):
    count = min(len(os.sched_getaffinity(0)), 3)
    variables = {"_HANDLER": "lambda_function.app", "STREAMING_RUNTIME_PRELOAD": preload}
    function = concurrent(APPLICATION, 3, variables=variables)
    slots = function.waiting_slots(3)
    waiting = [slot.send_invocation({**REQUEST, "rawPath": "/wait"}) for slot in slots]
    pids = set()
    for slot, request_id in zip(slots, waiting, strict=True):
        slot.expect_response(request_id)
        prelude, delimiter, body = [slot.peer.read_chunk() for _ in range(3)]
        assert json.loads(prelude)["statusCode"] == 201 and delimiter == bytes(8)
        pids.add(int(body))
    assert pids == set(function.workers()) and len(pids) == count
    os.killpg(function.process.pid, signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    texts = [record["message"] for record in function.records if record.get("logger") == "sys.stdout"]
    importers = {function.process.pid} if preload == "1" else pids
    expected = [f"imported by {pid}" for pid in importers]
    expected += [f"{event} in {pid}" for event in ("startup", "shutdown") for pid in pids]
    assert sorted(texts) == sorted(expected)


def test_the_x_ray_sdk_keeps_the_subsegments_of_each_invocation_apart(concurrent):
    sdk = pytest.importorskip("aws_xray_sdk")
    packages = os.path.dirname(os.path.dirname(sdk.__file__))
    function = one_process(
        concurrent,
        f"""
        import asyncio
        import sys

        sys.path.append({packages!r})
        from aws_xray_sdk.core import xray_recorder

        running = []
        both = asyncio.Event()

        async def handler(event, context):
            running.append(event)
            if len(running) == 2:
                both.set()
            await both.wait()
            with xray_recorder.in_subsegment(f"outer {{event}}") as outer:
                await asyncio.sleep(0.05)
                with xray_recorder.in_subsegment(f"inner {{event}}") as inner:
                    await asyncio.sleep(0.05)
                    found = [inner.parent_id == outer.id, inner.trace_id, outer.name]
            yield repr(found).encode()
        """,
        2,
    )
    slots = function.waiting_slots(2)
    ids = {}
    for slot, name in zip(slots, "ab", strict=True):
        root = f"1-5759e988-bd862e3fe1be46a99427279{name}"
        headers = {"Lambda-Runtime-Trace-Id": f"Root={root};Parent=53995c3f42cd8ad8;Sampled=1"}
        ids[slot.send_invocation(name, headers)] = slot, name, root
    for request_id, (slot, name, root) in ids.items():
        assert slot.read_response(request_id).body == repr([True, root, f"outer {name}"]).encode()
