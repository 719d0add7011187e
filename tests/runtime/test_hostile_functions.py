"""What a function can do to the process that it shares with the runtime: the loop goes on, and answers once."""

from __future__ import annotations

import os
import signal
import sys

import pytest

ALARM = """
import signal
def ring(signum, frame):
    raise TimeoutError("the function's own alarm")
signal.signal(signal.SIGALRM, ring)
"""


@pytest.mark.parametrize("kind", ["", "a"])
def test_an_iterator_that_starts_over_is_begun_once(runtime, kind):
    keyword, stop = ("async def", "StopAsyncIteration") if kind else ("def", "StopIteration")
    function = runtime(
        f"class handler:\n    def __init__(self, event, context):\n        pass\n"
        f"    def __{kind}iter__(self):\n        self.n = 0\n        return self\n"
        f"    {keyword} __{kind}next__(self):\n        self.n += 1\n"
        f"        if self.n > 3:\n            raise {stop}\n        return b'%d' % self.n\n"
    )
    assert function.respond().chunks == [b"1", b"2", b"3"]


def test_an_alarm_within_a_chunk_cuts_the_stream_and_forges_nothing(runtime):
    function = runtime(
        ALARM
        + "def handler(event, context):\n    signal.setitimer(signal.ITIMER_REAL, event)\n    yield bytes(20_000_000)\n"
    )
    function.expect_response(function.invoke(0.2))
    rest = function.peer.reader.read(100)  # and no more, until the alarm has rung
    second = function.listener.accept()[0]
    rest += function.peer.reader.read()
    assert len(rest) < 20_000_000 and not rest.endswith(b"0\r\n\r\n")
    second.close()


def test_an_alarm_while_the_acceptance_is_awaited_leaves_nothing_for_the_next_answer(runtime):
    function = runtime(
        ALARM + "def handler(event, context):\n    signal.setitimer(signal.ITIMER_REAL, event)\n    yield b'a'\n"
    )
    function.read_response(function.invoke(0.05))
    function.connect()  # the runtime gave the connection up
    assert function.respond(0).chunks == [b"a"]


def test_an_alarm_while_nothing_is_to_be_done_is_logged_and_ends_the_process(runtime):
    function = runtime(ALARM.replace("TimeoutError", "RuntimeError") + "def handler(event, context):\n    yield b''\n")
    function.expect_next()
    os.kill(function.process.pid, signal.SIGALRM)
    assert function.wait() == 1
    assert "RuntimeError" in function.stdout and len(function.told) == 1


@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        *(
            ("def", name)
            for name in ("json", "binascii", "asyncio", "traceback", "select", "logging", "socket", "signal")
        ),
        *(("async def", name) for name in ("json", "binascii")),  # asyncio itself imports most of the others
    ],
)
def test_a_function_may_hold_and_import_a_file_named_like_a_standard_module(runtime, keyword, name):
    if name in sys.builtin_module_names:
        pytest.skip(f"{name} is built into this Python, which finds no other")
    function = runtime(
        {
            "lambda_function.py": f"import {name}\n{keyword} handler(event, context):\n"
            f"    yield {name}.mine\n    raise ValueError('after')\n",
            f"{name}.py": "mine = b'my own'\n",
        }
    )
    for _ in range(2):
        response = function.respond()
        assert response.chunks == [b"my own"]
        assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Function.ValueError"


@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)", "raise ValueError('child')", "pass"])
def test_a_process_that_the_handler_forks_does_not_answer(runtime, end):
    function = runtime(
        "import os, sys\ndef handler(event, context):\n    yield b'a'\n    child = os.fork()\n"
        f"    if not child:\n        {end}\n"
        "    else:\n        os.waitpid(child, 0)\n    yield b'b'\n"
    )
    first = function.connect()
    for _ in range(2):
        assert function.respond().chunks == [b"a", b"b"]
    assert function.peer is first


@pytest.mark.parametrize("end", ["sys.exit(3)", "500"])
def test_threads_of_the_function_do_not_keep_a_process_that_has_to_end(runtime, end):
    function = runtime(
        "import atexit, sys, threading, time\natexit.register(print, 'atexit')\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        f"def handler(event, context):\n    {end}\n    yield b''\n"
    )
    if end == "500":
        function.read_response(function.invoke())
        function.peer.send(b"HTTP/1.1 500 Container error\r\nContent-Length: 0\r\n\r\n")
    else:
        function.fail()
    assert function.wait() == (1 if end == "500" else 3)
    assert function.stdout.endswith("atexit\n")


def test_an_exception_whose_class_raises_when_it_is_asked_for_is_told(runtime):
    function = runtime(
        "class E(Exception):\n    __class__ = property(lambda self: 1 / 0)\n"
        "def handler(event, context):\n    raise E('m')\n    yield b''\n"
    )
    assert function.fail()[1]["errorType"] == "E"
    function.expect_next()


def test_the_log_event_of_an_error_has_a_limit(runtime):
    function = runtime(
        "import sys\nsys.setrecursionlimit(20_000)\ndef a(n):\n    b(n + 1)\ndef b(n):\n    a(n + 1)\n"
        "def handler(event, context):\n    a(0)\n    yield b''\n"
    )
    assert function.fail()[1]["errorType"] == "RecursionError"
    function.expect_next()
    assert len(function.stdout) < 256 * 1024 and function.stdout.count("\n") == 1


def test_an_event_loop_that_the_function_closed_is_made_anew(runtime):
    function = runtime(
        "import asyncio\nasync def handler(event, context):\n    loop = asyncio.get_running_loop()\n"
        "    yield b'a'\n    loop.call_soon(loop.stop)\n"
    )
    assert function.respond().chunks == [b"a"]
    assert function.respond().chunks == [b"a"]


def test_a_handler_that_outlives_its_cancellation_answers_no_second_time(runtime):
    function = runtime(
        "import asyncio\nasync def handler(event, context):\n    yield b'first'\n    if event:\n        return\n"
        "    asyncio.get_running_loop().stop()\n    while True:\n        try:\n            await asyncio.sleep(1000)\n"
        "        except BaseException:\n            pass\n"
    )
    assert function.respond().chunks == [b"first"]
    for _ in range(2):
        assert function.respond(1).chunks == [b"first"]


def test_logging_that_is_only_looked_for_is_set_up_when_it_is_imported(runtime):
    function = runtime(
        "import importlib.util\nimportlib.util.find_spec('logging')\nimport logging\n"
        "def handler(event, context):\n    logging.error('hi')\n    yield b''\n"
    )
    function.respond()
    function.expect_next()
    assert function.stdout.startswith("[ERROR]\t") and function.stderr == ""


def test_an_early_acceptance_that_is_cut_is_no_error_of_the_function(runtime):
    function = runtime("def handler(event, context):\n    while True:\n        yield bytes(1_000_000)\n")
    function.expect_response(function.invoke())
    function.peer.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 15\r\n\r\n{")
    function.peer.socket.shutdown(1)
    first, function.peer = function.peer, None
    function.expect_next()
    assert "was not delivered" in function.stderr and function.stdout == ""
    first.close()
