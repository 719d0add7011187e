"""Async handlers and their event loop."""

from __future__ import annotations

import pytest
from support import examples, interpreters


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_that_ends_within_a_stream_closes_the_async_generator(runtime, how):
    function = runtime(
        """
        import asyncio

        async def handler(event, context):
            try:
                while True:
                    yield b"x" * event
            finally:
                await asyncio.sleep(0)
                print("left", flush=True)
        """
    )
    function.expect_response(function.invoke(100))
    function.peer.read_chunk()
    getattr(function.peer, how)()
    function.connect()
    function.expect_next()
    assert function.stdout == "left\n"


def test_one_event_loop_serves_all_invocations_even_after_a_failure(runtime):
    function = runtime(
        """
        import asyncio

        loops = []

        async def handler(event, context):
            loops.append(asyncio.get_running_loop())
            await asyncio.sleep(0)
            if event == "fail":
                raise ValueError("no")
            yield str(len(set(map(id, loops)))).encode() + b" of " + str(len(loops)).encode()
        """
    )
    assert function.respond().body == b"1 of 1"
    assert function.fail("fail")[1]["errorType"] == "ValueError"
    assert function.respond().body == b"1 of 3"


def test_the_trace_of_an_async_error_has_only_the_users_frames(runtime):
    function = runtime(
        """
        async def handler(event, context):
            yield b"a"
            raise KeyError("x")
        """
    )
    error = function.respond().error
    assert error["errorType"] == "KeyError"
    assert len(error["stackTrace"]) == 1 and "line 3, in handler" in error["stackTrace"][0]


def test_asyncio_is_imported_only_for_an_async_handler(runtime):
    code = """
        import sys

        def handler(event, context):
            yield str(sorted(sys.modules)).encode()
        """
    modules = runtime(code).respond().body.decode()
    for name in ("asyncio", "logging", "traceback", "http.client", "ssl", "typing"):
        assert f"'{name}'" not in modules


PROXY = """
    import asyncio

    log = []

    async def upstream():
        try:
            for number in range(1000):
                yield b"%d" % number * 10_000
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            print("upstream closed", flush=True)

    async def through():
        async for item in upstream():
            yield item

    async def handler(event, context):
        async for item in through():
            yield item
            if event == "fail":
                raise ValueError("no")
"""


def test_a_generator_that_the_handler_reads_is_closed_when_the_caller_leaves(runtime):
    function = runtime(PROXY)
    function.expect_response(function.invoke("stream"))
    function.peer.read_chunk()
    function.peer.reset()
    function.connect()
    function.expect_next()
    assert function.stdout == "upstream closed\n"


def test_a_generator_that_the_handler_reads_is_closed_after_an_error(runtime):
    function = runtime(PROXY)
    assert function.respond("fail").error["errorType"] == "ValueError"
    function.expect_next()
    assert function.stdout.count("upstream closed\n") == 1


@pytest.mark.parametrize("version", examples.sample(interpreters.VERSIONS, 3))
def test_a_generator_in_a_variable_of_the_handler_is_closed_after_an_error(runtime, version):
    function = runtime(
        """
        import asyncio
        import gc

        gc.disable()

        async def upstream():
            try:
                yield b"item"
            finally:
                await asyncio.sleep(0)
                print("upstream closed", flush=True)

        async def handler(event, context):
            items = upstream()
            async for item in items:
                yield item
                raise ValueError("no")
        """,
        arguments=[interpreters.require(version).program, "/var/runtime/bootstrap.py"],
    )
    assert function.respond().error["errorType"] == "ValueError"
    function.expect_next()
    assert function.stdout.count("upstream closed\n") == 1


def test_an_abandoned_generator_that_never_closes_does_not_keep_the_environment(runtime):
    function = runtime(
        """
        import asyncio

        async def upstream():
            try:
                yield b"a"
                yield b"b"
            finally:
                await asyncio.Event().wait()

        async def handler(event, context):
            async for item in upstream():
                yield item
                break
        """
    )
    assert function.respond().chunks == [b"a"]
    assert function.respond().chunks == [b"a"]


def test_a_loop_that_the_module_has_set_as_current_is_adopted(runtime):
    function = runtime(
        """
        import asyncio

        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        client = loop.create_future()

        async def handler(event, context):
            yield str(asyncio.get_running_loop() is loop).encode()
            loop.call_soon(client.done() or client.set_result, None)
            await client
        """
    )
    assert function.respond().chunks == [b"True"]


def test_a_loop_that_the_function_has_stopped_serves_on_if_its_task_ends(runtime):
    function = runtime(
        """
        import asyncio

        loops = []

        async def handler(event, context):
            loops.append(asyncio.get_running_loop())
            if event == "stop":
                loops[-1].stop()
                try:
                    await asyncio.sleep(3600)
                finally:
                    print("cleaned up", flush=True)
            yield str(len(set(map(id, loops)))).encode() + b" of " + str(len(loops)).encode()
        """
    )
    assert function.respond().body == b"1 of 1"
    assert function.fail("stop")[1]["errorType"] == "RuntimeError"
    assert "cleaned up" in function.stdout.splitlines()
    assert function.respond().body == b"1 of 3"


@pytest.mark.parametrize(
    "damage",
    [
        "loop._selector.close()",
        "await loop.shutdown_default_executor()",
        "loop._default_executor.shutdown(wait=False)",
        "loop.call_soon(loop.call_soon, loop.stop)",
        "loop.call_soon(loop.stop)",
        "loop._ssock.close()",
        "loop._csock.close()",
    ],
)
def test_a_loop_that_the_function_has_broken_is_replaced(runtime, damage):
    function = runtime(
        f"""
        import asyncio

        async def handler(event, context):
            loop = asyncio.get_running_loop()
            yield await loop.run_in_executor(None, str.encode, "thread")
            if event == "break":
                {damage}
        """
    )
    request_id = function.invoke("break")
    response = function.read_response(request_id)
    function.accept()
    assert response.chunks == [b"thread"]
    for _ in range(2):
        assert function.respond().chunks == [b"thread"]


def test_signals_still_wake_an_adopted_loop(runtime):
    function = runtime(
        """
        import asyncio
        import os
        import signal

        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        received = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, received.set)

        async def handler(event, context):
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.wait_for(received.wait(), 5)
            received.clear()
            yield b"received"
        """
    )
    for _ in range(2):
        assert function.respond().chunks == [b"received"]
    assert function.stderr == ""


def test_a_task_that_the_function_left_does_not_stop_the_next_invocation(runtime):
    function = runtime(
        """
        import asyncio

        async def background():
            await asyncio.sleep(3600)

        tasks = []

        async def handler(event, context):
            tasks.append(asyncio.create_task(background()))
            yield b"a"
        """
    )
    assert [function.respond().chunks for _ in range(3)] == [[b"a"]] * 3
