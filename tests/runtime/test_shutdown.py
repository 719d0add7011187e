"""The end of an execution environment: SIGTERM at each point of an invocation, and `sys.exit`."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import pytest
from support.emulator import until
from support.function_process import Gate
from support.processes import wait_until_asleep

TERMINATED = 128 + signal.SIGTERM  # the exit status

WAITS = """
import asyncio, atexit

atexit.register(lambda: print("atexit"))

def wait_for(path):
    with open(path) as gate:
        gate.read()

{keyword} handler(event, context):
    try:
        yield b"part"
        {wait}
        yield b"never"
    finally:
        print("finally")
"""


def test_sigterm_between_invocations_runs_atexit_functions(runtime):
    function = runtime(
        """
        import atexit

        atexit.register(lambda: print("atexit"))

        def handler(event, context):
            yield b""
        """
    )
    function.respond()
    function.expect_next()
    function.process.terminate()
    assert function.wait() == TERMINATED
    assert (function.stdout, function.stderr) == ("atexit\n", "")


# The thread receives SIGTERM, so no system call of the main thread is interrupted. The same happens if a signal arrives
# just before such a call.
UNNOTICED = """
import asyncio, signal, threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
"""


def test_a_signal_that_the_wait_for_an_invocation_does_not_notice_ends_the_process(runtime):
    function = runtime(UNNOTICED + "def handler(event, context):\n    yield b''\n")
    function.respond()
    function.expect_next()
    wait_until_asleep(function.process.pid)
    function.process.terminate()
    assert function.wait() == TERMINATED


def test_a_signal_that_a_full_send_buffer_does_not_notice_ends_the_process(runtime):
    function = runtime(UNNOTICED + "def handler(event, context):\n    yield bytes(50_000_000)\n")
    function.expect_response(function.invoke())
    wait_until_asleep(function.process.pid)
    function.process.terminate()
    assert function.wait() == TERMINATED


def test_a_signal_that_the_event_loop_does_not_notice_ends_the_process(runtime):
    code = """
async def handler(event, context):
    yield b"part"
    await asyncio.sleep(1000)
"""
    function = runtime(UNNOTICED + code)
    function.expect_response(function.invoke())
    assert function.peer.read_chunk() == b"part"
    wait_until_asleep(function.process.pid)
    function.process.terminate()
    assert function.peer.read_chunk() == b""
    assert function.peer.read_trailers()["Lambda-Runtime-Function-Error-Type"] == "Runtime.ExitError"
    function.accept()
    assert function.wait() == TERMINATED


def test_what_waits_for_a_thread_of_the_event_loop_is_cancelled(runtime):
    function = runtime(
        """
        import asyncio
        import atexit
        import threading
        from concurrent.futures import ThreadPoolExecutor

        release = threading.Event()
        executor = ThreadPoolExecutor(1)

        async def handler(event, context):
            asyncio.get_running_loop().set_default_executor(executor)
            executor.submit(release.wait)
            executor.submit(print, "called")
            atexit.register(end)
            yield b""

        def end():
            release.set()
            executor.shutdown()  # waits for what it still calls
            print("ended")
        """
    )
    function.respond()
    function.expect_next()
    function.process.terminate()
    assert function.wait() == TERMINATED
    assert function.stdout == "ended\n"


@pytest.mark.parametrize(
    ("keyword", "wait"),
    [("def", "wait_for(event)"), ("async def", "await asyncio.sleep(1000)"), ("async def", "wait_for(event)")],
)
def test_sigterm_in_the_handler_runs_its_finally_and_reports_an_exit_error(runtime, tmp_path, keyword, wait):
    function = runtime(WAITS.format(keyword=keyword, wait=wait))
    gate = Gate(tmp_path)
    function.expect_response(function.invoke(gate.path))
    assert function.peer.read_chunk() == b"part"
    pipe = gate.hold(function.process.pid) if "wait_for" in wait else None
    function.process.terminate()
    assert function.peer.read_chunk() == b""
    trailers = function.peer.read_trailers()
    assert trailers["Lambda-Runtime-Function-Error-Type"] == "Runtime.ExitError"
    assert b"selectors.py" not in base64.b64decode(trailers["Lambda-Runtime-Function-Error-Body"])
    function.accept()
    assert function.wait() == TERMINATED
    assert function.stdout.splitlines()[0] == "finally" and function.stdout.splitlines()[-1] == "atexit"
    if pipe is not None:
        os.close(pipe)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_sigterm_during_a_send_cuts_the_stream_without_a_last_chunk(runtime, keyword):
    function = runtime(
        f"""
        import atexit

        atexit.register(lambda: print("atexit"))

        {keyword} handler(event, context):
            try:
                while True:
                    yield bytes(1_000_000)
            finally:
                print("finally")
        """
    )
    function.expect_response(function.invoke())
    function.peer.read_chunk()
    function.peer.reader.read(500_000)  # from here on, nothing reads
    wait_until_asleep(function.process.pid)
    function.process.terminate()
    assert function.wait() == TERMINATED
    rest = function.peer.reader.read()
    assert not rest.endswith(b"0\r\n\r\n") and b"Lambda-Runtime" not in rest
    assert "finally" in function.stdout and "atexit" in function.stdout


@pytest.mark.parametrize(
    ("moment", "chunks"),
    [(b"statusCode", 2), (b"one", 3), (b"two", 4), (b"0\r\n\r\n", 4)],
    ids=["prelude", "small chunk", "large chunk", "end"],
)
def test_sigterm_within_a_send_ends_the_process_after_this_send(runtime, moment, chunks):
    function = runtime(
        f"""
        import _socket
        import signal

        class Socket(_socket.socket):
            def send(self, data, flags):
                signal_within(data)
                return super().send(data, flags)

            def sendmsg(self, buffers, *arguments):
                signal_within(b"".join(buffers))
                return super().sendmsg(buffers, *arguments)

        def signal_within(data):
            if {moment!r} in data:
                signal.raise_signal(signal.SIGTERM)

        _socket.socket = Socket

        def handler(event, context):
            yield {{"statusCode": 201}}
            yield b"one"
            yield b"two" * 10_000
        """
    )
    response = function.read_response(function.invoke())
    assert len(response.chunks) == chunks
    assert bool(response.trailers) == (moment != b"0\r\n\r\n")
    if response.trailers:
        function.accept()  # the end of a response is not accepted here
    assert function.wait() == TERMINATED


def test_sigterm_during_the_import_of_the_function_is_an_init_error(runtime, tmp_path):
    gate = Gate(tmp_path)
    function = runtime(
        f"""
        open({gate.path!r}).read()

        def handler(event, context):
            yield b""
        """
    )
    pipe = gate.hold(function.process.pid)
    function.process.terminate()
    _, document = function.read_init_error()
    assert document["errorType"] == "Runtime.ExitError"
    assert function.wait() == TERMINATED
    os.close(pipe)


def test_a_function_can_handle_sigterm_itself(runtime):
    function = runtime(
        """
        import os, signal

        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))

        def handler(event, context):
            yield b""
        """
    )
    function.expect_next()
    function.process.terminate()
    assert function.wait() == 7


# An exception is code of the function. SIGTERM arrives while the runtime inspects it.


@pytest.mark.parametrize("catches", ["Exception", "BaseException"])
@pytest.mark.parametrize("after_a_chunk", [False, True], ids=["before the first byte", "after the first byte"])
def test_sigterm_ends_a_process_whose_error_message_blocks(runtime, tmp_path, after_a_chunk, catches):
    gate = Gate(tmp_path)
    function = runtime(
        f"""
        class Blocking(Exception):
            def __str__(self):
                try:
                    open({gate.path!r}).read()
                except {catches}:
                    pass
                return "interrupted"

        def handler(event, context):
            if {after_a_chunk}:
                yield b"part"
            raise Blocking
        """
    )
    request_id = function.invoke()
    if after_a_chunk:
        function.expect_response(request_id)
        assert function.peer.read_chunk() == b"part"
    pipe = gate.hold(function.process.pid)
    function.process.terminate()
    if after_a_chunk:
        assert function.peer.read_chunk() == b""
        assert "Lambda-Runtime-Function-Error-Type" in function.peer.read_trailers()
        function.accept()
    else:
        function.read_error(request_id)
    assert function.wait() == TERMINATED
    os.close(pipe)


def test_sigterm_ends_a_process_whose_error_message_never_ends(runtime, tmp_path):
    # The loop writes to memory, and the test waits for that. A signal between a system call and the loop can get lost:
    # Python discards an exception that is raised while it finalizes an object, such as a file.
    shared = tmp_path / "shared"
    shared.write_bytes(b"0")
    function = runtime(
        f"""
        import mmap

        with open({str(shared)!r}, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 1)

        class Endless(Exception):
            def __str__(self):
                while True:
                    memory[:] = b"1"

        def handler(event, context):
            raise Endless
            yield
        """
    )
    request_id = function.invoke()
    until(lambda: shared.read_bytes() == b"1")
    function.process.terminate()
    function.read_error(request_id)
    assert function.wait() == TERMINATED


def test_sigterm_that_the_handler_swallows_ends_the_process_after_the_invocation(runtime, tmp_path):
    gate = Gate(tmp_path)
    function = runtime(
        """
        def handler(event, context):
            try:
                open(event).read()
            except BaseException:
                pass
            yield b"swallowed"
        """
    )
    request_id = function.invoke(gate.path)
    pipe = gate.hold(function.process.pid)
    function.process.terminate()
    head = function.expect_response(request_id)
    assert head.headers["transfer-encoding"] == "chunked"
    assert function.peer.read_chunk() == b"swallowed"
    assert function.peer.read_chunk() == b""
    function.peer.read_trailers()
    function.accept()
    assert function.wait() == TERMINATED
    os.close(pipe)


# The event loop


def test_the_end_of_the_process_cancels_the_tasks_of_the_event_loop(runtime):
    function = runtime(
        """
        import asyncio

        tasks = []

        async def forever():
            try:
                await asyncio.sleep(1000)
            finally:
                print("task ended")

        async def handler(event, context):
            tasks.append(asyncio.create_task(forever()))
            await asyncio.sleep(0)
            yield b"a"
        """
    )
    function.respond()
    function.expect_next()
    function.process.terminate()
    assert function.wait() == TERMINATED
    assert function.stdout == "task ended\n"


ENDLESS_THREAD = """
import asyncio, atexit, sys, threading

atexit.register(lambda: print("atexit"))
started = threading.Event()

def block():
    started.set()
    threading.Event().wait()

async def handler(event, context):
    work = asyncio.get_running_loop().run_in_executor(None, block)
    started.wait()
    yield b"part"
    if event == "exit":
        sys.exit(3)
    if event == "wait":
        await work
"""


@pytest.mark.parametrize("event", ["exit", "wait", "return"])
def test_a_thread_of_the_executor_that_never_ends_does_not_keep_the_process(runtime, event):
    function = runtime(ENDLESS_THREAD)
    function.expect_response(function.invoke(event))
    assert function.peer.read_chunk() == b"part"
    if event == "wait":
        function.process.terminate()
    assert function.peer.read_chunk() == b""
    function.peer.read_trailers()
    function.accept()
    if event == "return":
        function.expect_next()
        function.process.terminate()
    assert function.process.wait(timeout=10) == (3 if event == "exit" else TERMINATED)
    assert function.stdout.endswith("atexit\n")


def test_a_task_that_refuses_to_be_cancelled_does_not_keep_the_process(runtime):
    function = runtime(
        """
        import asyncio

        tasks = []

        async def refuse():
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    pass

        async def handler(event, context):
            tasks.append(asyncio.create_task(refuse()))
            await asyncio.sleep(0)
            yield b"a"
        """
    )
    function.respond()
    function.expect_next()
    function.process.terminate()
    assert function.process.wait(timeout=10) == TERMINATED


def test_an_async_generator_that_is_still_open_is_closed_at_the_end(runtime):
    function = runtime(
        """
        opened = []

        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                print("closed")

        async def handler(event, context):
            opened.append(numbers())
            await anext(opened[0])
            yield b"a"
        """
    )
    function.respond()
    function.expect_next()
    function.process.terminate()
    assert function.wait() == TERMINATED
    assert function.stdout == "closed\n"


@pytest.mark.parametrize(("call", "status"), [("3", 3), ("", 0), ("'text'", 1), ("None", 0)])
def test_sys_exit_is_reported_before_the_process_ends_with_its_status(runtime, call, status):
    function = runtime(
        f"""
        import sys

        def handler(event, context):
            sys.exit({call})
            yield b""
        """
    )
    request, document = function.fail()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.ExitError"
    assert "sys.exit(" in document["errorMessage"]
    assert function.wait() == status


def test_sys_exit_after_the_first_byte_is_in_the_trailers(runtime):
    function = runtime(
        """
        import sys

        def handler(event, context):
            yield b"part"
            sys.exit(3)
        """
    )
    response = function.respond()
    assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Runtime.ExitError"
    assert function.wait() == 3
