"""The lifespan of ASGI applications: startup and shutdown, once for each execution environment."""

from __future__ import annotations

import os
import signal
import time

import pytest
from support import documents
from support.emulator import until
from support.function_process import source
from support.http_events import function_url
from support.http_responses import parse

VARIABLES = {"_HANDLER": "main.app"}
EXTENSION = {"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": "1"}

RESPOND = """
import asyncio
import contextlib
import time


async def respond(send, data=b"body"):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": data})
"""

APPLICATION = """
    async def app(scope, receive, send):
        if scope["type"] == "http":
            return await respond(send, scope["state"]["loop"])
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        assert await receive() == {"type": "lifespan.startup"}
        print("startup", flush=True)
        loop = asyncio.get_running_loop()
        scope["state"]["loop"] = b"same" if loop is asyncio.get_running_loop() else b"other"
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        print("shutdown", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    """


@pytest.fixture
def start(runtime):
    def start(code, **options):
        variables = VARIABLES | options.pop("variables", {})
        return runtime({"main.py": source(RESPOND) + source(code)}, variables=variables, **options)

    return start


def body(function):
    return parse(function.respond(function_url())).body


def test_the_startup_comes_once_and_before_the_first_next(start):
    function = start(APPLICATION)
    function.expect_next()
    assert function.stdout == "startup\n"
    function.send_invocation(function_url())
    assert function.peer is not None
    request = function.request()
    list(iter(function.peer.read_chunk, b""))
    function.peer.read_trailers()
    function.accept()
    assert request.path.endswith("/response")
    assert [body(function) for _ in range(2)] == [b"same", b"same"]
    assert function.stdout == "startup\n"


def test_sigterm_between_two_invocations_runs_the_shutdown(start):
    function = start(APPLICATION)
    body(function)
    function.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    assert function.stdout == "startup\nshutdown\n"


def test_a_task_that_the_application_has_left_is_cancelled_after_the_shutdown(start):
    function = start(
        """
        async def work():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                print("cancelled", flush=True)

        async def app(scope, receive, send):
            await receive()
            task = asyncio.create_task(work())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            print("shutdown", flush=True)
            await send({"type": "lifespan.shutdown.complete"})
            await task
        """
    )
    function.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    function.wait()
    assert function.stdout == "shutdown\ncancelled\n"


def test_the_shutdown_comes_before_atexit(start):
    function = start(
        'import atexit\n\natexit.register(print, "atexit", flush=True)\n' + source(APPLICATION),
    )
    function.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    function.wait()
    assert function.stdout == "startup\nshutdown\natexit\n"


def test_a_shutdown_that_stops_the_event_loop_is_logged_and_the_environment_ends(start):
    function = start(
        """
        import atexit

        atexit.register(print, "atexit", flush=True)

        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            asyncio.get_running_loop().stop()
            await asyncio.Event().wait()
        """
    )
    function.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    assert "[ERROR] RuntimeError: Event loop stopped" in function.stdout
    assert function.stdout.endswith("atexit\n")


@pytest.mark.parametrize("message", ["no database", ""])
def test_a_failed_startup_is_an_init_error_with_its_message(start, message):
    function = start(
        f"""
        async def app(scope, receive, send):
            await receive()
            await send({{"type": "lifespan.startup.failed", "message": {message!r}}})
            raise ConnectionError("again")
        """
    )
    request, document = function.read_init_error()
    assert document["errorType"] == "Runtime.StartupFailed"
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.StartupFailed"
    assert document["errorMessage"] == (message or "the application sent lifespan.startup.failed without a message")
    assert function.wait() == 1
    assert function.stdout.count("[ERROR]") == 1


NO_LIFESPAN = {
    "raises about the scope": 'raise ValueError("only HTTP")',
    "returns": "return",
    "raises after the event": 'await receive()\nraise ValueError("broken")',
    "sends nonsense": 'await receive()\nawait send({"type": "nonsense"})',
    "is complete twice": 'await receive()\nfor _ in "12":\n    await send({"type": "lifespan.startup.complete"})',
    "sends before it receives": 'await send({"type": "lifespan.startup.complete"})',
}

LOGGED = {
    "raises about the scope": "has no lifespan, and is served without (ValueError: only HTTP)",
    "returns": "",
    "raises after the event": "[ERROR] ValueError: broken",
    "sends nonsense": "[ERROR] RuntimeError: the application sent 'nonsense' in its lifespan",
    "is complete twice": "[ERROR] RuntimeError: the application sent 'lifespan.startup.complete' in its lifespan",
    "sends before it receives": "in its lifespan after it received 'nothing'",
}


@pytest.mark.parametrize("name", NO_LIFESPAN)
def test_an_application_is_served_without_a_lifespan_that_is_missing_or_broken(start, name):
    statements = NO_LIFESPAN[name].replace("\n", "\n        ")
    function = start(
        f"""
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        {statements}
    else:
        await respond(send)
"""
    )
    assert [body(function) for _ in range(2)] == [b"body", b"body"]
    output = function.stdout + function.stderr
    assert LOGGED[name] in output
    assert output.count("ValueError") + output.count("RuntimeError") <= 2
    if not LOGGED[name]:
        assert output == ""


def test_an_error_of_the_lifespan_between_two_requests_is_logged(start):
    function = start(
        """
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await asyncio.sleep(0)
                raise KeyError("background")
            await asyncio.sleep(0.001)
            await respond(send)
        """
    )
    assert [body(function) for _ in range(2)] == [b"body", b"body"]
    assert function.stdout.count("[ERROR] KeyError: 'background'") == 1


@pytest.mark.parametrize(
    ("statement", "logged"),
    [
        ('raise KeyError("late")', "[ERROR] KeyError: 'late'"),
        (
            'await send({"type": "lifespan.shutdown.failed", "message": "busy"})',
            "the shutdown of the application failed: busy",
        ),
    ],
)
def test_an_error_of_the_shutdown_is_logged(start, statement, logged):
    function = start(
        f"""
        async def app(scope, receive, send):
            await receive()
            await send({{"type": "lifespan.startup.complete"}})
            await receive()
            {statement}
        """
    )
    function.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    assert logged in function.stdout + function.stderr


def test_sys_exit_in_the_startup_is_an_init_error(start):
    function = start(
        """
        import sys

        async def app(scope, receive, send):
            await receive()
            sys.exit(3)
        """
    )
    assert function.read_init_error()[1]["errorType"] == "Runtime.ExitError"
    assert function.wait() == 3


@pytest.mark.parametrize("statement", ["await asyncio.sleep(600)", "time.sleep(600)"], ids=["awaits", "blocks"])
def test_a_startup_that_hangs_is_logged_once(start, statement):
    function = start(
        f"""
        async def app(scope, receive, send):
            await receive()
            {statement}
        """
    )
    began = time.monotonic()
    until(lambda: function.stderr)
    assert time.monotonic() - began >= 4.5
    (line,) = function.runtime_lines
    assert line.startswith("the lifespan startup of main.app is not complete after 5 seconds")


def test_a_shutdown_that_hangs_is_ended_by_a_second_sigterm(start):
    function = start(
        """
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            print("hangs", flush=True)
            await asyncio.sleep(600)
        """
    )
    function.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    until(lambda: function.stdout)
    os.kill(function.process.pid, signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM


def test_there_is_no_event_after_the_shutdown(start):
    function = start(
        """
        async def app(scope, receive, send):
            while True:
                message = await receive()
                print(message["type"], flush=True)
                await send({"type": f"{message['type']}.complete"})
        """
    )
    function.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    assert function.stdout == "lifespan.startup\nlifespan.shutdown\n" and function.stderr == ""


def test_there_is_no_shutdown_after_the_function_has_broken_the_loop(start):
    function = start(
        """
        async def app(scope, receive, send):
            if scope["type"] == "http":
                await respond(send)
                if scope["path"] == "/break":
                    asyncio.get_running_loop()._ssock.close()
                return
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            print("shutdown", flush=True)
        """
    )
    function.respond(function_url(target="/break"))
    assert body(function) == b"body"
    function.expect_next()
    os.kill(function.process.pid, signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    assert function.stdout == ""


SNAPSHOT_RESTORE_PY = """
_before, _after = [], []

def register_before_snapshot(function, *args, **kwargs):
    _before.append((function, args, kwargs))

def register_after_restore(function, *args, **kwargs):
    _after.append((function, args, kwargs))

def get_before_snapshot():
    return _before

def get_after_restore():
    return _after
"""


def test_the_startup_comes_before_the_snapshot_and_is_not_repeated_after_a_restore(runtime):
    application = source(RESPOND) + source(
        """
        import snapshot_restore_py

        state = {}
        print("import", flush=True)


        async def before():
            print("before", state["loop"] is asyncio.get_running_loop(), flush=True)


        async def after():
            print("after", state["loop"] is asyncio.get_running_loop(), flush=True)


        snapshot_restore_py.register_before_snapshot(before)
        snapshot_restore_py.register_after_restore(after)


        async def app(scope, receive, send):
            if scope["type"] == "http":
                return await respond(send)
            await receive()
            print("startup", flush=True)
            state["loop"] = asyncio.get_running_loop()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        """
    )
    function = runtime(
        {"main.py": application, "snapshot_restore_py.py": SNAPSHOT_RESTORE_PY},
        variables=VARIABLES | {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"},
    )
    assert function.request().path.endswith("/runtime/restore/next")
    assert function.stdout.splitlines() == ["import", "startup", "before True"]
    function.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert body(function) == b"body"
    assert function.stdout.splitlines() == ["import", "startup", "before True", "after True"]


@pytest.mark.parametrize("phase", ["before_snapshot", "after_restore"])
def test_the_shutdown_comes_after_the_error_of_a_hook(runtime, phase):
    application = f"import snapshot_restore_py\n\nsnapshot_restore_py.register_{phase}(int, 'x')\n"
    function = runtime(
        {
            "main.py": source(RESPOND) + application + source(APPLICATION),
            "snapshot_restore_py.py": SNAPSHOT_RESTORE_PY,
        },
        variables=VARIABLES | {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"},
    )
    if phase == "after_restore":
        assert function.request().path.endswith("/runtime/restore/next")
        function.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert function.request().path.endswith("/error")
    function.accept()
    assert function.wait() == {"before_snapshot": 64, "after_restore": 65}[phase]
    assert function.stdout.splitlines()[-1] == "shutdown"


def test_the_documented_application_opens_its_pool_again_after_a_restore(runtime):
    (block,) = documents.blocks("python", ["docs/web-applications.md"])
    function = runtime(
        {"main.py": block.text, "snapshot_restore_py.py": SNAPSHOT_RESTORE_PY},
        variables=VARIABLES | {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"},
    )
    assert function.request().path.endswith("/runtime/restore/next")
    assert function.stdout.splitlines() == ["open", "close"]
    function.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert body(function) == b"Hello\n"
    assert function.stdout.splitlines() == ["open", "close", "open"]
