"""Functions that change the process they share with the runtime. The loop continues, and responds once."""

from __future__ import annotations

import os
import signal
import sys

import pytest

ALARM = """import signal

        def ring(signum, frame):
            raise TimeoutError("the function's own alarm")

        signal.signal(signal.SIGALRM, ring)"""


@pytest.mark.parametrize("kind", ["", "a"])
def test_iter_is_called_once_on_an_iterator_that_it_resets(runtime, kind):
    keyword, stop = ("async def", "StopAsyncIteration") if kind else ("def", "StopIteration")
    function = runtime(
        f"""
        class handler:
            def __init__(self, event, context):
                pass

            def __{kind}iter__(self):
                self.n = 0
                return self

            {keyword} __{kind}next__(self):
                self.n += 1
                if self.n > 3:
                    raise {stop}
                return b"%d" % self.n
        """
    )
    assert function.respond().chunks == [b"1", b"2", b"3"]


def test_an_alarm_within_a_chunk_cuts_the_stream_without_a_last_chunk(runtime):
    function = runtime(
        f"""
        {ALARM}

        def handler(event, context):
            signal.setitimer(signal.ITIMER_REAL, event)
            yield bytes(20_000_000)
        """
    )
    function.expect_response(function.invoke(0.2))
    rest = function.peer.reader.read(100)  # and no more, until the alarm has rung
    second = function.listener.accept()[0]
    rest += function.peer.reader.read()
    assert len(rest) < 20_000_000 and not rest.endswith(b"0\r\n\r\n")
    second.close()


def test_an_alarm_during_the_wait_for_the_acceptance_closes_the_connection(runtime):
    function = runtime(
        f"""
        {ALARM}

        def handler(event, context):
            signal.setitimer(signal.ITIMER_REAL, event)
            yield b"a"
        """
    )
    function.read_response(function.invoke(0.05))
    function.connect()  # the runtime gave the connection up
    assert function.respond(0).chunks == [b"a"]


def test_an_error_raised_between_invocations_is_logged_and_ends_the_process(runtime):
    function = runtime(
        """
        import signal

        def ring(signum, frame):
            raise RuntimeError("the function's own alarm")

        signal.signal(signal.SIGALRM, ring)

        def handler(event, context):
            yield b""
        """
    )
    function.expect_next()
    os.kill(function.process.pid, signal.SIGALRM)
    assert function.wait() == 1
    assert "RuntimeError" in function.stdout and len(function.runtime_lines) == 1


@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        *(
            ("def", name)
            for name in ("json", "binascii", "asyncio", "traceback", "select", "logging", "socket", "signal")
        ),
        *(
            ("async def", name)
            for name in (
                "json",
                "asyncio",
                "ast",
                "inspect",
                "dataclasses",
                "annotationlib",
                "queue",
                "token",
                "threading",
                "warnings",
                "msvcrt",
            )
        ),
    ],
)
@pytest.mark.parametrize("place", ["at the top", "in the handler"])
def test_a_function_can_have_a_module_named_like_one_of_the_standard_library(runtime, keyword, name, place):
    if name in sys.builtin_module_names:
        pytest.skip(f"{name} is built into this Python, which finds no other")
    imported = f"import {name}"
    function = runtime(
        {
            "lambda_function.py": f"""
                {imported if place == "at the top" else ""}

                {keyword} handler(event, context):
                    {imported if place == "in the handler" else ""}
                    yield {name}.mine
                    raise ValueError("after")
                """,
            f"{name}.py": "mine = b'my own'\n",
        }
    )
    for _ in range(2):
        response = function.respond()
        assert response.chunks == [b"my own"]
        assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Function.ValueError"
        assert response.error["stackTrace"] == [
            f'  File "{function.task}/lambda_function.py", line 6, in handler\n    raise ValueError("after")\n'
        ]


APPLICATIONS = {
    "wsgi": """
        {imported}

        def handler(environ, start_response):
            start_response("200 OK", [])
            yield {name}.mine + environ["wsgi.input"].read()
        """,
    "asgi": """
        {imported}

        async def handler(scope, receive, send):
            if scope["type"] == "lifespan":
                return
            body = {name}.mine + (await receive())["body"]
            await send({{"type": "http.response.start", "status": 200, "headers": []}})
            await send({{"type": "http.response.body", "body": body}})
        """,
}
HTTP_EVENT = {
    "version": "2.0",
    "rawPath": "/caf%C3%A9 ü",
    "headers": {"host": "localhost"},
    "body": "IGJvZHk=",
    "isBase64Encoded": True,
    "requestContext": {"http": {"method": "POST"}},
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("wsgi", name) for name in ("binascii", "urllib")),
        *(("asgi", name) for name in ("binascii", "weakref", "ast")),
    ],
)
def test_a_web_application_can_have_a_module_named_like_one_of_the_standard_library(runtime, kind, name):
    if name in sys.builtin_module_names:
        pytest.skip(f"{name} is built into this Python, which finds no other")
    code = APPLICATIONS[kind].format(imported=f"import {name}", name=name)
    function = runtime({"lambda_function.py": code, f"{name}.py": "mine = b'my own'\n"})
    for _ in range(2):
        assert function.respond(HTTP_EVENT).chunks[2:] == [b"my own body"]


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize("name", ["threading", "queue", "inspect"])
def test_a_function_with_several_slots_can_have_such_a_module(concurrent, keyword, name):
    function = concurrent(
        {
            "lambda_function.py": f"""
                import _thread
                import {name}

                {keyword} handler(event, context):
                    left = _thread.allocate_lock()
                    left.acquire()
                    _thread.start_new_thread(lambda: (print("a thread"), left.release()), ())
                    left.acquire()
                    yield {name}.mine
                    print("the handler")
                """,
            f"{name}.py": "mine = b'my own'\n",
        }
    )
    slot = function.slot()
    request_id = slot.invoke()
    assert slot.read_response(request_id).chunks == [b"my own"]
    slot.accept()
    slot.expect_next()
    function.shut_down()
    lines = {record["message"]: record.get("requestId") for record in function.records}
    assert lines == {"a thread": None, "the handler": request_id}


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_module_of_the_standard_library_is_loaded_once_beside_one_of_the_function(runtime, keyword):
    function = runtime(
        {
            "lambda_function.py": f"""
                import threading

                {keyword} handler(event, context):
                    import streaming_runtime
                    standard = streaming_runtime.import_standard("threading")
                    same = standard is streaming_runtime.import_standard("asyncio").events.threading
                    later = standard is streaming_runtime.import_standard("sched").threading
                    yield b"%r %r %r" % (same, later, standard is not threading)
                """,
            "threading.py": "mine = b'my own'\n",
        }
    )
    assert function.respond().body == b"True True True"


@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)", "raise ValueError('child')", "pass"])
def test_a_process_that_the_handler_forks_sends_nothing(runtime, end):
    function = runtime(
        f"""
        import os, sys

        def handler(event, context):
            yield b"a"
            child = os.fork()
            if not child:
                {end}
            else:
                os.waitpid(child, 0)
            yield b"b"
        """
    )
    first = function.connect()
    for _ in range(2):
        assert function.respond().chunks == [b"a", b"b"]
    assert function.peer is first


def test_an_error_in_a_process_that_the_handler_forks_is_logged_and_reported_nowhere_else(runtime):
    function = runtime(
        """
        import os

        def handler(event, context):
            yield b"a"
            child = os.fork()
            if not child:
                raise ValueError("child")
            os.waitpid(child, 0)
        """
    )
    response = function.respond()
    assert (response.chunks, response.trailers) == ([b"a"], {})
    assert function.stdout.count("[ERROR] ValueError: child") == 1
    assert function.runtime_lines == ["an error of the function is in the log"]


def test_the_import_of_the_function_may_fork(runtime):
    function = runtime(
        """
        import os

        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

        def handler(event, context):
            yield b"a"
        """
    )
    assert function.respond().body == b"a"
    assert function.stderr == ""


@pytest.mark.parametrize("end", ["sys.exit(3)", "500"])
def test_threads_of_the_function_do_not_delay_the_end_of_the_process(runtime, end):
    function = runtime(
        f"""
        import atexit, sys, threading, time

        atexit.register(print, "atexit")
        threading.Thread(target=time.sleep, args=(1000,)).start()

        def handler(event, context):
            {end}
            yield b""
        """
    )
    if end == "500":
        function.read_response(function.invoke())
        function.peer.send(b"HTTP/1.1 500 Container error\r\nContent-Length: 0\r\n\r\n")
    else:
        function.fail()
    assert function.wait() == (1 if end == "500" else 3)
    assert function.stdout.endswith("atexit\n")


def test_an_exception_whose_class_attribute_raises_is_reported(runtime):
    function = runtime(
        """
        class E(Exception):
            __class__ = property(lambda self: 1 / 0)

        def handler(event, context):
            raise E("m")
            yield b""
        """
    )
    assert function.fail()[1]["errorType"] == "E"
    function.expect_next()


def test_the_log_event_of_an_error_has_a_limit(runtime):
    function = runtime(
        """
        import sys

        sys.setrecursionlimit(20_000)

        def a(n):
            b(n + 1)

        def b(n):
            a(n + 1)

        def handler(event, context):
            a(0)
            yield b""
        """
    )
    assert function.fail()[1]["errorType"] == "RecursionError"
    function.expect_next()
    assert len(function.stdout) < 256 * 1024 and function.stdout.count("\n") == 1


def test_an_event_loop_that_the_function_stopped_serves_the_next_invocation(runtime):
    function = runtime(
        """
        import asyncio

        async def handler(event, context):
            loop = asyncio.get_running_loop()
            yield b"a"
            loop.call_soon(loop.stop)
        """
    )
    assert function.respond().chunks == [b"a"]
    assert function.respond().chunks == [b"a"]


def test_a_handler_that_survives_its_cancellation_sends_nothing_later(runtime):
    function = runtime(
        """
        import asyncio

        async def handler(event, context):
            yield b"first"
            if event:
                return
            asyncio.get_running_loop().stop()
            while True:
                try:
                    await asyncio.sleep(1000)
                except BaseException:
                    pass
        """
    )
    assert function.respond().chunks == [b"first"]
    for _ in range(2):
        assert function.respond(1).chunks == [b"first"]


def test_logging_is_configured_when_it_is_imported_after_find_spec(runtime):
    function = runtime(
        """
        import importlib.util

        importlib.util.find_spec("logging")
        import logging

        def handler(event, context):
            logging.error("hi")
            yield b""
        """
    )
    function.respond()
    function.expect_next()
    assert function.stdout.startswith("[ERROR]\t") and function.stderr == ""


def test_an_incomplete_early_acceptance_is_not_an_error_of_the_function(runtime):
    function = runtime(
        """
        def handler(event, context):
            while True:
                yield bytes(1_000_000)
        """
    )
    function.expect_response(function.invoke())
    function.peer.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 15\r\n\r\n{")
    function.peer.socket.shutdown(1)
    first, function.peer = function.peer, None
    function.expect_next()
    assert "was not delivered" in function.stderr and function.stdout == ""
    first.close()


@pytest.mark.parametrize(
    "statement",
    [
        "socket.setdefaulttimeout(0.01)",
        "socket.socket = socket.create_connection = None",
        "json.loads = json.dumps = None",
        "sys.stdout = sys.stderr = None",
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
        "os.chdir('/')",
        "os.environ.clear()",
        "sys.path.clear()",
        "os.closerange(1, 3)",
    ],
)
def test_a_function_that_changes_the_process_does_not_break_the_loop(runtime, statement):
    function = runtime(
        f"""
        import json, os, signal, socket, sys

        {statement}

        def handler(event, context):
            if event == 2:
                raise ValueError("boom")
            yield b"x" * 100_000
        """
    )
    function.expect_next()
    function.peer.close()
    function.connect()
    assert len(function.respond(1).body) == 100_000
    assert function.fail(2)[1]["errorType"] == "ValueError"
    function.expect_response(function.invoke(3))
    function.peer.reset()
    function.connect()
    assert len(function.respond(1).body) == 100_000
