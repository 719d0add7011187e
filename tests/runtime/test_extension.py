"""Registration as an internal extension, which a function requests with STREAMING_RUNTIME_GRACEFUL_SHUTDOWN."""

from __future__ import annotations

import signal

import pytest


@pytest.mark.parametrize("value", ["1", "true", "TRUE"])
def test_with_the_variable_the_runtime_registers_as_an_extension_before_the_first_next(runtime, value):
    variables = {"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": value}
    function = runtime(
        """
        def handler(event, context):
            yield b"a"
        """,
        variables=variables,
    )
    register = function.request()
    assert register.line == "POST /2020-01-01/extension/register HTTP/1.1"
    assert register.headers["lambda-extension-name"] == "python-streaming-runtime"
    assert register.body == b'{"events":[]}'
    function.peer.send(b"HTTP/1.1 200 OK\r\nLambda-Extension-Identifier: id-1\r\nContent-Length: 2\r\n\r\n{}")
    ask = function.request()
    assert ask.line == "GET /2020-01-01/extension/event/next HTTP/1.1"
    assert ask.headers["lambda-extension-identifier"] == "id-1"
    extension, function.peer = function.peer, None  # stays open, and is never responded to
    assert function.respond().body == b"a"
    function.expect_next()
    function.process.terminate()
    assert function.wait() == 128 + signal.SIGTERM
    assert extension.read_request() is None
    extension.close()


@pytest.mark.parametrize("preload", ["0", "1"])
def test_an_environment_with_several_slots_registers_once(concurrent, preload):
    function = concurrent(
        """
        import os

        def handler(event, context):
            if event:
                os._exit(3)
            yield b"a"
        """,
        2,
        variables={"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": "1", "STREAMING_RUNTIME_PRELOAD": preload},
    )
    assert function.request().path.endswith("/extension/register")
    function.peer.send(b"HTTP/1.1 200 OK\r\nLambda-Extension-Identifier: id-1\r\nContent-Length: 2\r\n\r\n{}")
    assert function.request().path.endswith("/extension/event/next")
    extension, function.peer = function.peer, None
    first, second = function.waiting_slots(2)
    request_id = first.send_invocation(True)
    assert function.slot().read_error(request_id)[1]["errorType"] == "Runtime.ExitError"
    (third,) = function.waiting_slots(1)
    for slot in (second, third):
        assert slot.read_response(slot.send_invocation(False)).body == b"a"
        slot.accept()
        slot.expect_next()
    function.shut_down()
    assert extension.read_request() is None
    extension.close()


@pytest.mark.parametrize("value", [None, "", "0", "false"])
def test_without_the_variable_the_runtime_does_not_register(runtime, value):
    variables = {"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": value}
    runtime(
        """
        def handler(event, context):
            yield b""
        """,
        variables=variables,
    ).expect_next()


@pytest.mark.parametrize("response", [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", b""])
def test_a_failed_registration_is_logged_and_the_function_runs(runtime, response):
    variables = {"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": "1"}
    function = runtime(
        """
        def handler(event, context):
            yield b"a"
        """,
        variables=variables,
    )
    function.request()
    function.peer.send(response)
    function.peer.close()
    function.peer = None
    assert function.respond().body == b"a"
    assert "the registration as an extension failed" in function.stderr and function.stderr.count("\n") == 1


def test_after_an_init_error_the_runtime_does_not_register(runtime):
    function = runtime("import nonesuch\n", variables={"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": "1"})
    function.read_init_error()
    assert function.wait() == 1
