"""SnapStart: the hooks of `snapshot_restore_py`, the calls around the snapshot, and what is new after a restore."""

from __future__ import annotations

import json
import os
import signal

import pytest
from support.function_process import AWSLAMBDARIC, Gate

SNAPSTART = {
    "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
    "AWS_LAMBDA_LOG_GROUP_NAME": None,
    "AWS_LAMBDA_LOG_STREAM_NAME": None,
}
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
RESTORED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

HOOKS = """
    from snapshot_restore_py import register_after_restore, register_before_snapshot

    calls = []
    register_before_snapshot(calls.append, "before 1")
    register_after_restore(calls.append, "after 1")


    @register_before_snapshot
    def last_registered():
        calls.append("before 2")


    @register_after_restore
    def second():
        calls.append("after 2")


    def handler(event, context):
        yield ", ".join(calls).encode()
    """


def expect_restore_next(function):
    """Wait until the runtime waits for the restore. It must have no other connection to the Runtime API."""
    request = function.request()
    assert request.line == "GET /2018-06-01/runtime/restore/next HTTP/1.1"


def restore(function):
    """Let the runtime continue, and wait until it has closed the connection that existed during the snapshot."""
    function.peer.send(RESTORED)
    assert function.peer.read_request() is None
    function.peer.close()
    function.peer = None


def snapshot_and_restore(function):
    expect_restore_next(function)
    restore(function)


def hook(function: str, body: str) -> str:
    """Return a function with one hook; `body` has the indentation of a function's body in a test."""
    return f"""
        from snapshot_restore_py import {function}

        @{function}
        def hook():
            {body}

        def handler(event, context):
            yield b"served"
        """


# --- The sequence -----------------------------------------------------------------------------------------------------


def test_before_hooks_run_in_reverse_order_and_after_hooks_in_order(runtime):
    function = runtime(HOOKS, variables=SNAPSTART)
    snapshot_and_restore(function)
    assert function.respond().body == b"before 2, before 1, after 1, after 2"
    assert function.respond().body == b"before 2, before 1, after 1, after 2"
    function.expect_next()
    assert function.stderr == ""


def test_before_hooks_are_complete_when_the_runtime_waits_for_the_restore(runtime):
    body = 'print("before", end="")'
    function = runtime(hook("register_before_snapshot", body), variables=SNAPSTART)
    expect_restore_next(function)
    assert function.stdout == "before"


def test_a_hook_that_a_hook_registers_runs_too(runtime):
    code = """
        from snapshot_restore_py import register_after_restore, register_before_snapshot

        calls = []

        @register_before_snapshot
        def before():
            register_before_snapshot(calls.append, "nested before")

        @register_after_restore
        def after():
            register_after_restore(calls.append, "nested after")

        def handler(event, context):
            yield ", ".join(calls).encode()
        """
    function = runtime(code, variables=SNAPSTART)
    snapshot_and_restore(function)
    assert function.respond().body == b"nested before, nested after"


def test_a_function_without_hooks_waits_for_the_restore(runtime):
    code = """
        import sys

        def handler(event, context):
            yield str("snapshot_restore_py" in sys.modules).encode()
            yield str(context.log_group_name).encode()
        """
    function = runtime(code, variables=SNAPSTART)
    snapshot_and_restore(function)
    assert function.respond().chunks == [b"False", b"None"]


@pytest.mark.parametrize("value", [None, "on-demand", "provisioned-concurrency", "SNAP-START"])
def test_without_snapstart_no_hook_runs_and_the_module_is_not_loaded(runtime, value):
    code = """
        import sys
        from snapshot_restore_py import register_before_snapshot

        register_before_snapshot(sys.exit, "the hook ran")

        def handler(event, context):
            yield str([name for name in sys.modules if "snapstart" in name]).encode()
        """
    function = runtime(code, variables={"AWS_LAMBDA_INITIALIZATION_TYPE": value})
    assert function.respond().body == b"[]"


def test_async_hooks_run_on_the_loop_of_the_handler(runtime):
    code = """
        import asyncio
        from snapshot_restore_py import register_after_restore, register_before_snapshot

        loops = []

        @register_before_snapshot
        @register_after_restore
        async def hook():
            await asyncio.sleep(0)
            loops.append(asyncio.get_running_loop())

        async def handler(event, context):
            loops.append(asyncio.get_running_loop())
            await asyncio.sleep(0.001)
            yield f"{len(loops)} {len(set(loops))}".encode()
        """
    function = runtime(code, variables=SNAPSTART)
    snapshot_and_restore(function)
    assert function.respond().body == b"3 1"
    assert function.respond().body == b"4 1"


def test_a_generator_that_an_async_hook_abandons_is_closed_before_the_snapshot(runtime):
    function = runtime(
        """
        from snapshot_restore_py import register_before_snapshot

        async def connect():
            try:
                yield "a connection"
            finally:
                print("closed")

        @register_before_snapshot
        async def use():
            async for _ in connect():
                break

        async def handler(event, context):
            yield b"served"
        """,
        variables=SNAPSTART,
    )
    expect_restore_next(function)
    assert "closed" in function.stdout
    restore(function)
    assert function.respond().body == b"served"


def test_a_task_of_the_loop_continues_after_the_restore(runtime):
    code = """
        import asyncio
        from snapshot_restore_py import register_before_snapshot

        tasks = []

        async def work():
            await asyncio.sleep(0.01)
            return b"done"

        @register_before_snapshot
        async def start():
            tasks.append(asyncio.create_task(work()))

        async def handler(event, context):
            yield await tasks[0]
        """
    function = runtime(code, variables=SNAPSTART)
    snapshot_and_restore(function)
    assert function.respond().body == b"done"


# --- What is new after a restore --------------------------------------------------------------------------------------


def test_random_numbers_differ_between_restored_environments(runtime):
    code = """
        import random
        random.seed(1)

        def handler(event, context):
            yield str(random.getrandbits(64)).encode()
        """
    numbers = set()
    for _ in range(2):
        function = runtime(code, variables=SNAPSTART)
        snapshot_and_restore(function)
        numbers.add(function.respond().body)
    assert len(numbers) == 2


def test_an_after_hook_can_seed_random_again(runtime):
    code = """
        import random
        from snapshot_restore_py import register_after_restore

        register_after_restore(random.seed, 1)

        def handler(event, context):
            yield str(random.getrandbits(64) == random.Random(1).getrandbits(64)).encode()
        """
    function = runtime(code, variables=SNAPSTART)
    snapshot_and_restore(function)
    assert function.respond().body == b"True"


def test_trace_id_of_init_is_cleared_before_the_after_hooks(runtime):
    code = """
        import os
        from snapshot_restore_py import register_after_restore

        found = []
        register_after_restore(lambda: found.append(os.environ.get("_X_AMZN_TRACE_ID")))

        def handler(event, context):
            yield str(found).encode()
        """
    function = runtime(code, variables={**SNAPSTART, "_X_AMZN_TRACE_ID": "Root=1-0-0"})
    snapshot_and_restore(function)
    assert function.respond().body == b"[None]"


def test_context_shows_the_environment_variables_of_an_after_hook(runtime):
    code = """
        import contextvars
        import os
        from snapshot_restore_py import register_after_restore

        state = contextvars.ContextVar("state", default="init")

        @register_after_restore
        def hook():
            os.environ["AWS_LAMBDA_LOG_STREAM_NAME"] = "restored"
            state.set("restored")

        def handler(event, context):
            yield f"{context.log_stream_name} {state.get()}".encode()
        """
    function = runtime(code, variables=SNAPSTART)
    snapshot_and_restore(function)
    assert function.respond().body == b"restored restored"


def test_text_in_the_buffer_of_standard_output_is_written_before_the_snapshot(runtime):
    code = """
        import sys
        sys.stdout = open(1, "w", buffering=4096, closefd=False)
        print("init")

        def handler(event, context):
            yield b"x"
        """
    function = runtime(code, variables=SNAPSTART)
    expect_restore_next(function)
    assert function.stdout == "init\n"


def test_a_closed_standard_output_does_not_stop_the_snapshot(runtime):
    code = """
        import sys
        sys.stdout.close()
        sys.stderr = None

        def handler(event, context):
            yield b"x"
        """
    function = runtime(code, variables=SNAPSTART)
    snapshot_and_restore(function)
    assert function.respond().body == b"x"


# --- Errors -----------------------------------------------------------------------------------------------------------

BAD_HOOKS = [
    pytest.param('raise KeyError("x")', "KeyError", id="raises"),
    pytest.param("raise SystemExit(3)", "Runtime.ExitError", id="exits"),
    pytest.param("raise KeyboardInterrupt", "KeyboardInterrupt", id="interrupts"),
    pytest.param('return __import__("asyncio").sleep("x")', "TypeError", id="returns an awaitable that raises"),
]


@pytest.mark.parametrize(("body", "error_type"), BAD_HOOKS)
def test_a_bad_before_hook_fails_init_with_status_64(runtime, body, error_type):
    function = runtime(hook("register_before_snapshot", body), variables=SNAPSTART)
    request, document = function.read_init_error()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.BeforeSnapshotError"
    assert document["errorType"] == error_type
    assert function.wait() == 64
    assert function.stdout.count("[ERROR]") == 1
    if error_type == "Runtime.ExitError":
        assert document["errorMessage"] == "a before-snapshot hook called sys.exit(3)"


@pytest.mark.parametrize(("body", "error_type"), BAD_HOOKS)
def test_a_bad_after_hook_fails_the_restore_with_status_65(runtime, body, error_type):
    function = runtime(hook("register_after_restore", body), variables=SNAPSTART)
    snapshot_and_restore(function)
    request = function.request()
    assert request.line == "POST /2018-06-01/runtime/restore/error HTTP/1.1"
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.AfterRestoreError"
    document = json.loads(request.body)
    assert document["errorType"] == error_type
    function.accept()
    assert function.wait() == 65
    assert function.stdout.count("[ERROR]") == 1
    if error_type == "Runtime.ExitError":
        assert document["errorMessage"] == "an after-restore hook called sys.exit(3)"


def test_a_hook_that_ends_the_process_leaves_its_own_status(runtime):
    function = runtime(hook("register_before_snapshot", '__import__("os")._exit(7)'), variables=SNAPSTART)
    assert function.wait() == 7


def test_the_report_shows_the_frames_of_the_hook_alone(runtime):
    function = runtime(hook("register_before_snapshot", "missing"), variables=SNAPSTART)
    _, document = function.read_init_error()
    assert len(document["stackTrace"]) == 1 and "in hook" in document["stackTrace"][0]


@pytest.mark.parametrize("status", [b"403 Forbidden", b"404 Not Found", b"500 Error", b"204 No Content"])
def test_a_refused_wait_for_the_restore_fails_init(runtime, status):
    function = runtime(HOOKS, variables=SNAPSTART)
    expect_restore_next(function)
    function.peer.send(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)
    request, document = function.read_init_error()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.BeforeSnapshotError"
    assert status.decode().split()[0] in document["errorMessage"]
    assert function.wait() == 64


def test_a_connection_that_breaks_during_the_wait_fails_init(runtime):
    function = runtime(HOOKS, variables=SNAPSTART)
    expect_restore_next(function)
    function.peer.close()
    function.peer = None
    request, _ = function.read_init_error()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.BeforeSnapshotError"
    assert function.wait() == 64


def test_exit_status_stays_when_the_runtime_api_fails_on_the_report(runtime):
    function = runtime(hook("register_before_snapshot", "missing"), variables=SNAPSTART)
    function.request()
    function.peer.send(b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n")
    assert function.wait() == 64


def test_a_module_of_the_function_with_the_name_of_the_package_fails_init_with_the_reason(runtime):
    code = {
        "snapshot_restore_py.py": "",
        "lambda_function.py": """
            import snapshot_restore_py

            def handler(event, context):
                yield b"x"
            """,
    }
    function = runtime(code, variables=SNAPSTART)
    _, document = function.read_init_error()
    assert "get_before_snapshot" in document["errorMessage"]
    assert function.wait() == 64


def test_sigterm_ends_the_wait_for_the_restore_without_a_report(runtime):
    code = """
        import atexit
        atexit.register(print, "atexit")

        def handler(event, context):
            yield b"x"
        """
    function = runtime(code, variables=SNAPSTART)
    expect_restore_next(function)
    function.process.send_signal(signal.SIGTERM)
    assert function.peer.read_request() is None
    assert function.wait() == 128 + signal.SIGTERM
    assert function.stdout == "atexit\n"


@pytest.mark.parametrize("end", ["SIGTERM", "a hook that fails"])
def test_a_web_application_is_shut_down_if_the_environment_ends_before_the_restore_is_complete(runtime, end):
    code = """
        from snapshot_restore_py import register_after_restore

        async def handler(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            print("shutdown")
            await send({"type": "lifespan.shutdown.complete"})

        @register_after_restore
        def hook():
            raise ValueError
        """
    function = runtime(code, variables=SNAPSTART)
    expect_restore_next(function)
    if end == "SIGTERM":
        function.process.send_signal(signal.SIGTERM)
        assert function.wait() == 128 + signal.SIGTERM
    else:
        restore(function)
        assert function.request().path.endswith("/restore/error")
        function.peer.send(ACCEPTED)
        assert function.wait() == 65
    assert "shutdown" in function.stdout.splitlines()


@pytest.mark.parametrize("hook_name", ["register_before_snapshot", "register_after_restore"])
def test_sigterm_ends_the_process_also_if_a_hook_swallows_the_exception(runtime, tmp_path, hook_name):
    gate = Gate(tmp_path)
    code = f"""
        from snapshot_restore_py import {hook_name}

        @{hook_name}
        def hook():
            try:
                with open({gate.path!r}) as gate:
                    gate.read()
            except BaseException:
                print("swallowed")

        def handler(event, context):
            yield b"x"
        """
    function = runtime(code, variables=SNAPSTART)
    if hook_name == "register_after_restore":
        snapshot_and_restore(function)
    pipe = gate.hold(function.process.pid)
    function.process.send_signal(signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    os.close(pipe)
    assert function.stdout == "swallowed\n"


def test_a_process_that_a_hook_forks_makes_no_call(runtime):
    code = """
        import os
        from snapshot_restore_py import register_before_snapshot

        @register_before_snapshot
        def fork():
            child = os.fork()
            if child:
                os.waitpid(child, 0)

        def handler(event, context):
            yield b"served"
        """
    function = runtime(code, variables=SNAPSTART)
    snapshot_and_restore(function)
    (line,) = function.runtime_lines
    assert line.startswith("a process that the function forked")
    assert function.stdout == ""
    assert function.respond().body == b"served"


# --- The same as the managed runtime ----------------------------------------------------------------------------------


def calls_and_status(function):
    """Return the calls of a runtime up to its end, with the types of the error that it reports, and its exit status."""
    made = []
    while not made or "error" not in made[-1][0]:
        request = function.request()
        error_type = request.headers.get("lambda-runtime-function-error-type")
        document = json.loads(request.body) if request.body else {}
        made.append((request.line, error_type, document.get("errorType"), document.get("errorMessage")))
        function.peer.send(RESTORED if request.line.startswith("GET ") else ACCEPTED)
    return made, function.wait()


@pytest.mark.parametrize("hook_name", ["register_before_snapshot", "register_after_restore"])
def test_calls_error_types_and_exit_status_are_those_of_the_managed_client(runtime, hook_name):
    code = f"""
        from snapshot_restore_py import {hook_name}

        @{hook_name}
        def hook(text="x"):
            raise ValueError(text)

        def handler(event, context):
            pass
        """
    ours = runtime(code, variables=SNAPSTART)
    theirs = runtime(code, variables=SNAPSTART, command=AWSLAMBDARIC)
    assert calls_and_status(ours) == calls_and_status(theirs)


@pytest.mark.parametrize("status", [b"403 Forbidden", b"500 Error"])
def test_a_refused_restore_is_reported_as_by_the_managed_client(runtime, status):
    found = []
    for options in ({}, {"command": AWSLAMBDARIC}):
        function = runtime(HOOKS, variables=SNAPSTART, **options)
        expect_restore_next(function)
        waiting, function.peer = function.peer, None
        waiting.send(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)
        request, _ = function.read_init_error()  # on another connection
        waiting.close()
        found.append((request.headers["lambda-runtime-function-error-type"], function.wait()))
    assert found == [("Runtime.BeforeSnapshotError", 64)] * 2


# --- Connections ------------------------------------------------------------------------------------------------------

GRACEFUL = {**SNAPSTART, "STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": "1"}
REGISTERED = b"HTTP/1.1 200 OK\r\nLambda-Extension-Identifier: id-1\r\nContent-Length: 0\r\n\r\n"


def register(function):
    """Serve the registration of the extension. Return the connection that waits for its next event."""
    assert function.request().path == "/2020-01-01/extension/register"
    function.peer.send(REGISTERED)
    assert function.request().path == "/2020-01-01/extension/event/next"
    extension, function.peer = function.peer, None
    return extension


def test_the_connection_of_the_extension_stays_open(runtime):
    function = runtime(HOOKS, variables=GRACEFUL)
    extension = register(function)
    snapshot_and_restore(function)
    function.respond()
    function.expect_next()
    extension.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        extension.socket.recv(1)
    function.process.send_signal(signal.SIGTERM)
    assert function.wait() == 128 + signal.SIGTERM
    extension.close()


def test_an_extension_whose_connection_is_dead_asks_again_with_its_identifier(runtime):
    function = runtime(HOOKS, variables=GRACEFUL)
    extension = register(function)
    expect_restore_next(function)
    extension.reset()  # as if it had not survived the snapshot
    restore(function)
    request = function.request()
    assert request.path == "/2020-01-01/extension/event/next"
    assert request.headers["lambda-extension-identifier"] == "id-1"
    renewed, function.peer = function.peer, None
    assert function.respond().body == b"before 2, before 1, after 1, after 2"
    renewed.close()


def test_an_extension_that_was_not_registered_does_not_ask_after_the_restore(runtime):
    function = runtime(HOOKS, variables=GRACEFUL)
    assert function.request().path == "/2020-01-01/extension/register"
    function.peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    function.peer.close()
    function.peer = None
    snapshot_and_restore(function)
    assert function.respond().body == b"before 2, before 1, after 1, after 2"
