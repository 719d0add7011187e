"""How an execution environment ends: SIGTERM at each point, and the extension that makes the service send it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

PREAMBLE = "import atexit, asyncio\natexit.register(lambda: print('atexit'))\n"
STREAM = (
    PREAMBLE
    + """
def gate(path):
    with open(path) as pipe:
        pipe.read()

{keyword} handler(event, context):
    try:
        yield b"part"
        {wait}
        yield b"never"
    finally:
        print("finally")
"""
)


def terminate(function):
    os.kill(function.process.pid, signal.SIGTERM)


def test_sigterm_while_idle_ends_the_process_in_order(runtime):
    function = runtime(PREAMBLE + "def handler(event, context):\n    yield b''\n")
    function.respond()
    function.expect_next()
    terminate(function)
    assert function.wait() == 128 + signal.SIGTERM
    assert (function.stdout, function.stderr) == ("atexit\n", "")


@pytest.mark.parametrize(
    ("keyword", "wait"),
    [("def", "gate(event)"), ("async def", "await asyncio.sleep(1000)"), ("async def", "gate(event)")],
)
def test_sigterm_in_the_handler_runs_its_finally_and_tells_the_caller(runtime, tmp_path, keyword, wait):
    function = runtime(STREAM.format(keyword=keyword, wait=wait))
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    function.expect_response(function.invoke(path))
    assert function.peer.read_chunk() == b"part"
    pipe = os.open(path, os.O_WRONLY) if "gate" in wait else None  # returns once the handler waits
    terminate(function)
    assert function.peer.read_chunk() == b""
    assert function.peer.read_trailers()["Lambda-Runtime-Function-Error-Type"] == "Runtime.ExitError"
    function.accept()
    assert function.wait() == 128 + signal.SIGTERM
    assert function.stdout.splitlines()[0] == "finally" and function.stdout.splitlines()[-1] == "atexit"
    if pipe is not None:
        os.close(pipe)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_sigterm_while_a_chunk_is_being_sent_cuts_the_stream_and_never_forges_its_end(runtime, keyword):
    code = (
        PREAMBLE
        + f"{keyword} handler(event, context):\n    try:\n        while True:\n            yield bytes(1_000_000)\n"
    )
    function = runtime(code + "    finally:\n        print('finally')\n")
    function.expect_response(function.invoke())
    function.peer.read_chunk()
    function.peer.reader.read(500_000)  # and then nobody reads
    while not sleeps(function.process.pid):
        pass
    terminate(function)
    assert function.wait() == 128 + signal.SIGTERM
    rest = function.peer.reader.read()
    assert not rest.endswith(b"0\r\n\r\n") and b"Lambda-Runtime" not in rest
    assert "finally" in function.stdout and "atexit" in function.stdout


def sleeps(pid):
    """Whether a process waits for something: this handler, which only yields, for room in the connection."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("S")


def test_sigterm_while_the_function_is_imported_is_an_init_error(runtime, tmp_path):
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    function = runtime(PREAMBLE + f"open({path!r}).read()\ndef handler(event, context):\n    yield b''\n")
    pipe = os.open(path, os.O_WRONLY)
    terminate(function)
    _, document = function.read_init_error()
    assert document["errorType"] == "Runtime.ExitError"
    assert function.wait() == 128 + signal.SIGTERM
    os.close(pipe)


def test_a_function_may_handle_sigterm_itself(runtime):
    function = runtime(
        "import signal, os\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
        "def handler(event, context):\n    yield b''\n"
    )
    function.expect_next()
    terminate(function)
    assert function.wait() == 7


def test_the_end_of_the_event_loop_runs_what_handlers_left_in_it(runtime):
    function = runtime(
        "import asyncio\ntasks = []\n"
        "async def forever():\n    try:\n        await asyncio.sleep(1000)\n    finally:\n        print('task ended')\n"
        "async def handler(event, context):\n    tasks.append(asyncio.create_task(forever()))\n"
        "    await asyncio.sleep(0)\n    yield b'a'\n"
    )
    function.respond()
    function.expect_next()
    terminate(function)
    assert function.wait() == 128 + signal.SIGTERM
    assert function.stdout == "task ended\n"


# The extension


@pytest.mark.parametrize("value", ["1", "true", "TRUE"])
def test_a_function_that_asks_for_it_is_registered_as_an_extension_before_the_first_next(runtime, value):
    variables = {"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": value}
    function = runtime("def handler(event, context):\n    yield b'a'\n", variables=variables)
    register = function.request()
    assert register.line == "POST /2020-01-01/extension/register HTTP/1.1"
    assert register.headers["lambda-extension-name"] == "python-streaming-runtime"
    assert register.body == b'{"events":[]}'
    function.peer.send(b"HTTP/1.1 200 OK\r\nLambda-Extension-Identifier: id-1\r\nContent-Length: 2\r\n\r\n{}")
    ask = function.request()
    assert ask.line == "GET /2020-01-01/extension/event/next HTTP/1.1"
    assert ask.headers["lambda-extension-identifier"] == "id-1"
    extension, function.peer = function.peer, None  # stays open, and is never answered
    assert function.respond().body == b"a"
    function.expect_next()
    terminate(function)
    assert function.wait() == 128 + signal.SIGTERM
    assert extension.read_request() is None
    extension.close()


@pytest.mark.parametrize("value", [None, "", "0", "false"])
def test_a_function_that_does_not_ask_for_it_is_not_registered(runtime, value):
    variables = {"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": value}
    runtime("def handler(event, context):\n    yield b''\n", variables=variables).expect_next()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", b""])
def test_a_registration_that_fails_is_logged_and_the_function_runs(runtime, answer):
    variables = {"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": "1"}
    function = runtime("def handler(event, context):\n    yield b'a'\n", variables=variables)
    function.request()
    function.peer.send(answer)
    function.peer.close()
    function.peer = None
    assert function.respond().body == b"a"
    assert "the registration as an extension failed" in function.stderr and function.stderr.count("\n") == 1


def test_a_function_that_cannot_be_loaded_is_not_registered(runtime):
    function = runtime("import nonesuch\n", variables={"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": "1"})
    function.read_init_error()
    assert function.wait() == 1
