"""`context.after_response`: work that runs when the caller has the response, before the environment can be frozen."""

from __future__ import annotations

import signal

import pytest
from support.function_process import Gate
from support.http_events import function_url
from support.processes import wait_until_asleep

SYNC_AND_ASYNC = pytest.mark.parametrize("definition", ["def", "async def"])


def lines(function):
    """Return the lines of standard output when the function asks for its next invocation."""
    function.expect_next()
    return output(function)


def output(function):
    """Return the lines of standard output; an event is one line, with carriage returns in it."""
    return function.stdout.split("\n")[:-1]


@SYNC_AND_ASYNC
def test_the_caller_does_not_wait_for_the_work_and_the_next_invocation_does(runtime, tmp_path, definition):
    gate = Gate(tmp_path)
    function = runtime(
        f"""
        def save(path, *, name):
            with open(path) as gate:
                gate.read()
            print("saved", name, flush=True)

        {definition} handler(event, context):
            context.after_response(save, event, name="conversation")
            yield b"one"
            print("last line", flush=True)
        """
    )
    assert function.respond(gate.path).chunks == [b"one"]
    assert function.stdout == "last line\n"
    gate.open()
    assert lines(function) == ["last line", "saved conversation"]


@SYNC_AND_ASYNC
def test_functions_are_called_in_order_and_coroutine_functions_on_the_loop(runtime, definition):
    function = runtime(
        f"""
        import asyncio
        import functools

        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)

        async def wait(name):
            await asyncio.sleep(0.01)
            print(name, asyncio.get_running_loop() is loop)

        class Telemetry:
            async def __call__(self):
                await wait("object")

        {definition} handler(event, context):
            yield b"one"
            context.after_response(print, "first")
            context.after_response(wait, "second")
            context.after_response(functools.partial(wait, "third"))
            context.after_response(Telemetry())
            context.after_response(lambda: wait("lambda"))
            context.after_response(print, "last", sep="")
        """
    )
    for _ in range(2):
        function.respond()
    assert lines(function) == 2 * ["first", "second True", "third True", "object True", "lambda True", "last"]


@SYNC_AND_ASYNC
def test_errors_are_logged_and_the_caller_gets_none(runtime, definition):
    function = runtime(
        f"""
        import asyncio

        def fail():
            raise ValueError("not saved")

        async def fail_on_the_loop():
            await asyncio.sleep(0)
            raise asyncio.CancelledError("not sent")

        {definition} handler(event, context):
            context.after_response(fail)
            context.after_response(fail_on_the_loop)
            context.after_response(print, "third")
            yield b"one"
        """
    )
    for _ in range(2):
        response = function.respond()
        assert (response.chunks, response.trailers) == ([b"one"], {})
    function.expect_next()
    assert function.stdout.count("[ERROR] ValueError: not saved") == 2
    assert function.stdout.count("[ERROR] CancelledError: not sent") == 2
    assert function.stdout.count("third\n") == 2
    assert "streaming_runtime" not in function.stdout  # the user's frames only


FAILING = """
def save():
    print("saved", flush=True)

{definition} handler(event, context):
    context.after_response(save)
    if event == "after":
        yield b"one"
    if event == "exit":
        raise SystemExit(3)
    if event == "chunk":
        yield 1
    raise KeyError("broken")
"""


@SYNC_AND_ASYNC
def test_it_runs_after_an_error_which_the_caller_gets_first(runtime, definition):
    function = runtime(FAILING.format(definition=definition))
    for count, event in enumerate(["before", "chunk"]):
        request_id = function.invoke(event)
        request = function.request()
        assert request.path.endswith(f"{request_id}/error")
        assert function.stdout.count("saved\n") == count
        function.accept()
    assert function.respond("after").error["errorType"] == "KeyError"
    function.fail("exit")
    assert function.wait() == 3
    assert function.stdout.count("saved\n") == 4


def test_it_runs_when_the_handler_returns_something_that_cannot_be_streamed(runtime):
    function = runtime(
        """
        def handler(event, context):
            context.after_response(print, "saved")
            return {"statusCode": 200}
        """
    )
    assert function.fail()[1]["errorType"] == "Runtime.InvalidHandler"
    assert lines(function)[-1] == "saved"


ENDLESS = """
def save():
    print("saved", flush=True)

{definition} handler(event, context):
    context.after_response(save)
    while True:
        yield b"x" * 100_000
"""


@SYNC_AND_ASYNC
def test_it_runs_when_the_caller_has_left(runtime, definition):
    function = runtime(ENDLESS.format(definition=definition))
    function.expect_response(function.invoke())
    function.peer.read_chunk()
    function.peer.reset()
    function.connect()
    assert lines(function) == ["saved"]


def test_it_runs_when_the_runtime_api_refuses_the_response(runtime):
    function = runtime(FAILING.format(definition="def"))
    function.read_response(function.invoke("after"))
    function.peer.send(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
    assert lines(function)[-1] == "saved"


def test_it_runs_before_the_environment_ends_because_the_runtime_api_failed(runtime):
    function = runtime(FAILING.format(definition="def"))
    function.read_response(function.invoke("after"))
    function.peer.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    assert function.wait() == 1
    assert output(function)[-1] == "saved"


def test_a_callback_may_register_another_until_the_last_one_has_returned(runtime):
    function = runtime(
        """
        kept = []

        def count(context, number):
            print(number)
            if number:
                context.after_response(count, context, number - 1)

        def handler(event, context):
            kept.append(context)
            try:
                kept[0].after_response(count, context, 2)
            except RuntimeError as error:
                print("RuntimeError:", error)
            yield b"one"
        """
    )
    function.respond()
    function.respond()
    assert lines(function) == [
        "2",
        "1",
        "0",
        "RuntimeError: the invocation has ended: context.after_response registers no more work",
    ]


def test_a_registration_fails_after_an_invocation_that_has_registered_nothing(runtime):
    function = runtime(
        """
        kept = []

        def handler(event, context):
            kept.append(context)
            if len(kept) == 1:
                return iter([b"first"])
            try:
                kept[0].after_response(print, "lost")
            except RuntimeError as error:
                return iter([type(error).__name__.encode()])
        """
    )
    assert [function.respond().body for _ in range(2)] == [b"first", b"RuntimeError"]


def test_each_registration_of_a_thread_is_called_or_fails(runtime):
    function = runtime(
        """
        import threading

        def register(context, called, count):
            try:
                while True:
                    called.clear()
                    context.after_response(called.set)
                    count[0] += 1
                    if not called.wait(5):
                        print("lost", flush=True)
            except RuntimeError:
                count.append("failed")

        def handler(event, context):
            count = [0]
            thread = threading.Thread(target=register, args=(context, threading.Event(), count))
            thread.start()
            while not count[0]:
                pass
            yield b"one"
        """
    )
    for _ in range(20):
        assert function.respond().body == b"one"
    assert lines(function) == []


@pytest.mark.parametrize(
    "copy", ["pickle.loads(pickle.dumps(context))", "copy.copy(context)", "copy.deepcopy(context)"]
)
def test_a_copy_of_the_context_registers_nothing(runtime, copy):
    function = runtime(
        f"""
        import copy
        import pickle

        def handler(event, context):
            context.after_response(print, "original")
            try:
                {copy}.after_response(print, "copy")
            except RuntimeError as error:
                yield str(error).encode()
        """
    )
    message = b"this context is a copy: register work with context.after_response of the original"
    assert function.respond().body == message
    assert lines(function) == ["original"]


@pytest.mark.parametrize("first", ["context.after_response(print, 'parent')", "pass"])
def test_a_forked_child_registers_nothing_and_calls_nothing(runtime, first):
    function = runtime(
        f"""
        import os

        def handler(event, context):
            {first}
            child = os.fork()
            if child == 0:
                try:
                    context.after_response(print, "child")
                except RuntimeError:
                    return
            yield str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode()
        """
    )
    assert function.respond().body == b"1"  # a child that returns from the handler exits with 1
    assert lines(function) == (["parent"] if "parent" in first else [])


def test_what_cannot_be_called_is_refused_at_once(runtime):
    function = runtime(
        """
        def handler(event, context):
            try:
                context.after_response(print("too early"))
            except TypeError as error:
                yield str(error).encode()
        """
    )
    assert function.respond().body == (
        b"context.after_response needs a function and its arguments, not None: "
        b"context.after_response(save, item), not context.after_response(save(item))"
    )
    assert lines(function) == ["too early"]


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_sys_exit_ends_the_environment_after_the_rest(runtime, definition):
    function = runtime(
        f"""
        import sys

        {definition} leave(status):
            sys.exit(status)

        {definition} handler(event, context):
            context.after_response(leave, 7)
            context.after_response(leave, 8)
            context.after_response(print, "the rest")
            yield b"one"
        """
    )
    response = function.respond()
    assert (response.chunks, response.trailers) == ([b"one"], {})
    assert function.wait() == 7
    assert output(function)[-1] == "the rest"
    assert "[ERROR] Runtime.ExitError: a callback of context.after_response called sys.exit(7)" in function.stdout


def test_the_exit_of_a_callback_does_not_hide_why_the_environment_ends(runtime):
    function = runtime(
        """
        import sys

        def handler(event, context):
            context.after_response(sys.exit, 7)
            yield b"one"
        """
    )
    function.read_response(function.invoke())
    function.peer.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    assert function.wait() == 1
    assert function.runtime_lines[-1].endswith("the environment ends")


@SYNC_AND_ASYNC
def test_sigterm_interrupts_a_callback_and_the_rest_still_runs(runtime, tmp_path, definition):
    gate = Gate(tmp_path)
    wait = "await asyncio.sleep(60)" if definition == "async def" else "time.sleep(60)"
    function = runtime(
        f"""
        import asyncio
        import time

        {definition} block(path):
            try:
                with open(path):
                    pass
                {wait}
            finally:
                print("interrupted")

        {definition} handler(event, context):
            context.after_response(block, event)
            context.after_response(print, "the rest")
            yield b"one"
        """
    )
    function.respond(gate.path)
    gate.open()
    wait_until_asleep(function.process.pid)
    function.process.send_signal(signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    assert output(function)[0] == "interrupted"
    assert output(function)[-1] == "the rest"


@SYNC_AND_ASYNC
def test_a_callback_runs_in_the_context_of_its_invocation(runtime, definition):
    function = runtime(
        f"""
        import contextvars

        user = contextvars.ContextVar("user", default="nobody")

        def show(name):
            print(name, user.get())

        def change(value):
            user.set(value)

        async def change_on_the_loop(value):
            show("on the loop")
            user.set(value)

        {definition} handler(event, context):
            yield user.get().encode()
            context.after_response(show, "first")
            context.after_response(change, "changed")
            context.after_response(change_on_the_loop, "changed again")
            context.after_response(show, "last")
            user.set(event)
        """
    )
    for name in ("one", "two"):
        assert function.respond(name).body == b"nobody"
    assert lines(function) == [
        *("first one", "on the loop changed", "last changed again"),
        *("first two", "on the loop changed", "last changed again"),
    ]


def test_records_and_the_trace_are_those_of_the_invocation(runtime):
    function = runtime(
        """
        import logging
        import os

        def save():
            logging.getLogger().error("saved %s", os.environ["_X_AMZN_TRACE_ID"])

        def handler(event, context):
            context.after_response(save)
            yield b"one"
        """
    )
    request_id = function.invoke(headers={"Lambda-Runtime-Trace-Id": "Root=1-2-3"})
    function.read_response(request_id)
    function.accept()
    (line,) = lines(function)
    assert request_id in line and line.endswith("saved Root=1-2-3")


def test_nothing_keeps_the_work_of_an_invocation_alive(runtime):
    function = runtime(
        """
        import gc
        import weakref

        gc.disable()
        alive = weakref.WeakSet()

        class Item:
            def save(self):
                raise ValueError

            async def send(self):
                raise ValueError

        async def handler(event, context):
            yield str(len(alive)).encode()
            item = Item()
            alive.add(item)
            context.after_response(item.save)
            context.after_response(item.send)
        """
    )
    assert [function.respond().body for _ in range(3)] == [b"0"] * 3


def test_a_function_without_such_work_does_not_load_the_module(runtime):
    function = runtime(
        """
        import sys

        def handler(event, context):
            yield ",".join(name for name in sys.modules if "after_response" in name).encode()
        """
    )
    assert [function.respond().body for _ in range(2)] == [b"", b""]


# --- Web applications -------------------------------------------------------------------------------------------------

APPLICATION = """
import contextvars

user = contextvars.ContextVar("user", default="nobody")

def save(name):
    print("saved", name, user.get(), flush=True)

async def flush():
    print("flushed", user.get(), flush=True)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("not supported")
    path = scope["path"]
    scope["aws.context"].after_response(save, path)
    scope["aws.context"].after_response(flush)
    user.set(f"user of {path}")
    if path == "/early":
        raise KeyError("early")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    if path == "/late":
        raise KeyError("late")
    while path == "/endless":
        await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
    await send({"type": "http.response.body", "body": b"two"})
    print("background task", flush=True)
"""


def test_in_an_asgi_application_it_runs_after_the_application_whatever_the_outcome(runtime):
    function = runtime({"app.py": APPLICATION}, variables={"_HANDLER": "app.app"})
    assert function.respond(function_url("GET", "/well")).chunks[2:] == [b"one", b"two"]
    assert function.fail(function_url("GET", "/early"))[1]["errorType"] == "KeyError"
    assert function.respond(function_url("GET", "/late")).error["errorType"] == "KeyError"
    function.expect_response(function.invoke(function_url("GET", "/endless")))
    function.peer.read_chunk()
    function.peer.reset()
    function.connect()
    printed = [line for line in lines(function) if "ERROR" not in line]
    assert printed[0] == "background task"
    assert printed[1:] == [
        f"{done} user of {path}"
        for path in ("/well", "/early", "/late", "/endless")
        for done in (f"saved {path}", "flushed")
    ]


# --- Within the call of a tracing agent -------------------------------------------------------------------------------

AGENT = {
    "agent.py": """
        import app

        def handler(event, context):
            print("begin", flush=True)
            try:
                return app.handler(event, context)
            except BaseException as error:
                print("failed", type(error).__name__)
                raise
            finally:
                print("flush", flush=True)
        """
}
INNER = {"STREAMING_RUNTIME_INNER_HANDLER": "app.handler", "_HANDLER": "agent.handler"}


@SYNC_AND_ASYNC
def test_within_the_call_of_an_agent_it_runs_before_the_agent_flushes(runtime, tmp_path, definition):
    gate = Gate(tmp_path)
    app = f"""
        def save(path):
            with open(path) as gate:
                gate.read()
            print("saved", flush=True)

        {definition} handler(event, context):
            context.after_response(save, event["gate"])
            if event["fails"] == "after":
                yield b"one"
            if event["fails"]:
                raise ValueError("broken")
            yield b"all"
        """
    function = runtime({"app.py": app, **AGENT}, variables=INNER)
    event = {"gate": gate.path, "fails": ""}
    assert function.respond(event).chunks == [b"all"]
    assert output(function) == ["begin"]
    gate.open()

    response = function.respond(event | {"fails": "after"})
    assert response.chunks == [b"one"] and response.error["errorType"] == "ValueError"
    assert output(function)[:3] == ["begin", "saved", "flush"]
    gate.open()

    assert function.fail(event | {"fails": "before"})[1]["errorType"] == "ValueError"
    assert function.stdout.count("saved") == 2
    gate.open()
    printed = [line for line in lines(function) if "ERROR" not in line]
    assert printed == ["begin", "saved", "flush", *2 * ["begin", "saved", "failed ValueError", "flush"]]


def test_an_exit_after_the_response_is_not_an_error_for_the_agent(runtime):
    app = """
        import sys

        def handler(event, context):
            context.after_response(sys.exit, 7)
            context.after_response(print, "the rest")
            yield b"one"
        """
    function = runtime({"app.py": app, **AGENT}, variables=INNER)
    assert function.respond().trailers == {}
    assert function.wait() == 7
    assert [line for line in output(function) if "ERROR" not in line] == ["begin", "the rest", "flush"]
