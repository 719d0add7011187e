"""Async handlers and their event loop."""

from __future__ import annotations

import pytest


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
