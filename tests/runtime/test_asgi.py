"""ASGI applications as handlers: the HTTP part of the specification, from the event to the bytes of the response."""

from __future__ import annotations

import json
import os
import signal
import textwrap

import pytest
from support.emulator import until
from support.function_process import Gate, Response, source
from support.http_events import DOMAIN, REST_DOMAIN, function_url, rest_api
from support.http_responses import parse

VARIABLES = {"_HANDLER": "main.app"}

# Functions that the applications of the tests share.
COMMON = """
async def start(send, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def body(send, data=b"", more=False):
    await send({"type": "http.response.body", "body": data, "more_body": more})


def reject_lifespan(scope):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
"""


@pytest.fixture
def start(runtime):
    def start(code, **options):
        variables = VARIABLES | options.pop("variables", {})
        return runtime({"main.py": source(COMMON) + source(code)}, variables=variables, **options)

    return start


def respond(function, *arguments, event=function_url, **options):
    return parse(function.respond(event(*arguments, **options)))


def lines(function):
    """The lines of the runtime, without the one about an application that has no lifespan."""
    return [line for line in function.stderr.splitlines() if "has no lifespan" not in line]


# --- The scope --------------------------------------------------------------------------------------------------------

ECHO = """
import json


async def app(scope, receive, send):
    reject_lifespan(scope)
    message = await receive()
    shown = {name: value for name, value in scope.items() if isinstance(value, (str, dict))}
    shown["bytes"] = {name: scope[name].decode("latin-1") for name in ("raw_path", "query_string")}
    shown["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    shown["client"], shown["server"] = scope["client"], scope["server"]
    shown["message"] = {**message, "body": message["body"].decode("latin-1")}
    shown["request id"] = scope["aws.context"].aws_request_id
    await start(send, headers=[(b"content-type", b"application/json")])
    await body(send, json.dumps(shown).encode())
"""


def test_the_scope_of_a_function_url(start):
    event = function_url(
        "POST", "/a%20b/%C3%A9?x=1&x=%20", {"accept": "a,b", "cookie": "ignored"}, "text", ["one=1", "two=2"]
    )
    function = start(ECHO)
    request_id = function.invoke(event)
    shown = json.loads(parse(function.read_response(request_id)).body)
    assert shown["type"] == "http"
    assert shown["asgi"] == {"version": "3.0", "spec_version": "2.3"}
    assert (shown["method"], shown["scheme"], shown["http_version"]) == ("POST", "https", "1.1")
    assert (shown["path"], shown["root_path"]) == ("/a b/é", "")
    assert shown["bytes"] == {"raw_path": "/a%20b/%C3%A9", "query_string": "x=1&x=%20"}
    assert ["accept", "a,b"] in shown["headers"]
    assert [value for name, value in shown["headers"] if name == "cookie"] == ["one=1; two=2"]
    assert (shown["client"], shown["server"]) == (["203.0.113.7", 0], [DOMAIN, 443])
    assert shown["message"] == {"type": "http.request", "body": "text", "more_body": False}
    assert shown["aws.event"] == event
    assert shown["request id"] == request_id
    assert shown["state"] == {}
    assert "extensions" not in shown


def test_the_scope_of_a_rest_api(start):
    headers = {"X-Many": ["1", "2"], "Cookie": ["one=1", "two=2"]}
    shown = json.loads(respond(start(ECHO), "PUT", "/a b?x=1&x=2&y=%26", headers, b"\xff\x00", event=rest_api).body)
    assert shown["method"] == "PUT"
    assert (shown["path"], shown["root_path"]) == ("/prod/a b", "/prod")
    assert shown["bytes"] == {"raw_path": "/prod/a%20b", "query_string": "x=1&x=2&y=%26"}
    assert [value for name, value in shown["headers"] if name == "x-many"] == ["1", "2"]
    assert [value for name, value in shown["headers"] if name == "cookie"] == ["one=1; two=2"]
    assert shown["server"] == [REST_DOMAIN, 443]
    assert shown["message"]["body"] == "\xff\x00"


# --- The response -----------------------------------------------------------------------------------------------------


def test_each_body_event_leaves_at_once(start, tmp_path):
    gate = Gate(tmp_path)
    function = start(
        f"""
        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            for data in (b"one", b"", bytearray(b"two"), memoryview(b"three")):
                await body(send, data, more=True)
                if data == b"one":
                    open({gate.path!r}).close()
            await body(send, b"end")
        """
    )
    function.expect_response(function.invoke(function_url()))
    assert [function.peer.read_chunk() for _ in range(3)][2] == b"one"
    gate.open()
    assert list(iter(function.peer.read_chunk, b"")) == [b"two", b"three", b"end"]


def test_the_head_leaves_with_the_first_body_event_even_if_that_is_empty(start, tmp_path):
    gate = Gate(tmp_path)
    function = start(
        f"""
        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send, 201)
            await body(send, more=True)
            open({gate.path!r}).close()
            await body(send, b"end")
        """
    )
    function.expect_response(function.invoke(function_url()))
    assert json.loads(function.peer.read_chunk())["statusCode"] == 201
    gate.open()


def test_headers_and_cookies_are_in_the_prelude_of_a_response_without_a_body(start):
    code = """
        async def app(scope, receive, send):
            reject_lifespan(scope)
            headers = [(b"x-a", b"1"), (b"x-a", b"\\xe9"), (b"transfer-encoding", b"chunked")]
            cookies = [(b"set-cookie", b"a=1; Expires=Thu, 01 Jan"), (b"Set-Cookie", b"b")]
            await start(send, 302, headers + cookies)
            await body(send)
        """
    response = respond(start(code))
    assert (response.status, response.chunks) == (302, [])
    assert response.headers == {"x-a": "1, \xe9"}
    assert response.cookies == ["a=1; Expires=Thu, 01 Jan", "b"]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_response_that_has_no_body_drops_what_the_application_sends(start, method, status):
    code = f"""
        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send, {status}, [(b"content-length", b"4")])
            await body(send, b"body")
        """
    response = respond(start(code), method)
    assert (response.status, response.chunks) == (status, [])
    assert response.headers == {"content-length": "4"}


# --- receive ----------------------------------------------------------------------------------------------------------


def test_receive_waits_until_the_response_has_ended(start):
    function = start(
        """
        import asyncio

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await receive()
            waiting = asyncio.ensure_future(receive())
            await start(send)
            for _ in range(5):
                await body(send, b"x", more=True)
                await asyncio.sleep(0.001)
                assert not waiting.done()
            await body(send)
            print(await waiting, await receive(), flush=True)
        """
    )
    assert respond(function).body == b"xxxxx"
    function.expect_next()
    assert function.stdout == "{'type': 'http.disconnect'} {'type': 'http.disconnect'}\n"


WAIT_FOR_DISCONNECT = """
    async def app(scope, receive, send):
        reject_lifespan(scope)
        await receive()
        if scope["path"] != "/wait":
            await start(send)
            await body(send, b"next")
            return
        await start(send)
        await body(send, b"first", more=True)
        print((await receive())["type"], flush=True)
        await body(send, b"ignored", more=True)
        await body(send)
    """


def end_connection(function, how):
    """Let the Runtime API end the response of WAIT_FOR_DISCONNECT after its first part."""
    function.expect_response(function.invoke(function_url(target="/wait")))
    assert [function.peer.read_chunk() for _ in range(3)][2] == b"first"
    if how == "refuse":
        function.peer.send(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
    else:
        getattr(function.peer, how)()
    function.connect()


@pytest.mark.parametrize("how", ["close", "reset", "refuse"])
def test_receive_returns_when_the_runtime_api_ends_the_response(start, how):
    function = start(WAIT_FOR_DISCONNECT)
    end_connection(function, how)
    assert respond(function).body == b"next"
    assert function.stdout == "http.disconnect\n"
    assert "the response was not delivered: " in lines(function)[-1]


@pytest.mark.parametrize("how", ["close", "reset", "refuse"])
def test_a_response_whose_caller_has_left_has_one_record(start, how):
    function = start(WAIT_FOR_DISCONNECT, variables={"STREAMING_RUNTIME_LOG_STREAMS": "1"})
    end_connection(function, how)
    function.expect_next()
    (record,) = [line for line in function.stderr.splitlines() if line.startswith("STREAM ")]
    assert "Chunks: 1\tStatus: not delivered" in record


def test_receive_waits_before_the_response_has_begun_even_if_the_idle_connection_is_closed(start):
    function = start(
        """
        import asyncio

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await receive()
            waiting = asyncio.ensure_future(receive())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            await start(send)
            await body(send, b"body")
            await waiting
        """
    )
    request_id = function.invoke(function_url(), {"Connection": "close"})
    function.peer.close()
    function.connect()
    assert parse(function.read_response(request_id)).body == b"body"
    function.accept()
    function.expect_next()


def test_an_application_that_sends_without_end_is_ended_when_the_caller_has_left(start):
    function = start(
        """
        import asyncio

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            while True:
                await body(send, b"x" * 10_000, more=True)
                await asyncio.sleep(0)
        """
    )
    function.expect_response(function.invoke(function_url()))
    function.peer.read_chunk()
    function.peer.reset()
    function.connect()
    function.expect_next()
    assert "OSError: the caller has left" in function.stdout


# --- send -------------------------------------------------------------------------------------------------------------


def test_several_tasks_may_send_and_their_chunks_are_not_mixed(start):
    function = start(
        """
        import asyncio

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            sizes = [1, 5_000_000, 3, 20_000, 2_000_000]
            await asyncio.gather(*(body(send, b"%d" % number * size, more=True) for number, size in enumerate(sizes)))
            await body(send)
        """
    )
    response = respond(function)
    assert [len(chunk) for chunk in response.chunks] == [1, 5_000_000, 3, 20_000, 2_000_000]
    assert [set(chunk) for chunk in response.chunks] == [{48 + number} for number in range(5)]


def test_a_cancelled_send_completes_its_chunk(start):
    function = start(
        """
        import asyncio

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            try:
                await asyncio.wait_for(body(send, b"x" * 50_000_000, more=True), 0.05)
            except asyncio.TimeoutError:
                print("cancelled", flush=True)
            await body(send, b"next", more=True)
            if scope["path"] == "/fail":
                raise KeyError("later")
            await body(send)
        """
    )
    for number, path in enumerate(("/", "/fail"), 1):
        function.expect_response(function.invoke(function_url(target=path)))
        until(lambda expected=number: function.stdout.count("cancelled") == expected)
        chunks = list(iter(function.peer.read_chunk, b""))
        trailers = function.peer.read_trailers()
        function.accept()
        assert [len(chunk) for chunk in chunks[2:]] == [50_000_000, 4]
        assert bool(trailers) == (path == "/fail")


def test_a_final_send_that_is_cancelled_waits_for_the_acceptance_all_the_same(start, tmp_path):
    gate = Gate(tmp_path)
    function = start(
        f"""
        import asyncio

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            final = asyncio.create_task(body(send, b"all"))
            await asyncio.to_thread(lambda: open({gate.path!r}).close())
            final.cancel()
            await asyncio.wait([final])
            print(final.cancelled(), flush=True)
        """
    )
    response = function.read_response(function.invoke(function_url()))
    gate.open()
    until(lambda: function.stdout)
    function.accept()
    function.expect_next()
    assert parse(response).body == b"all"
    assert function.stdout == "True\n" and lines(function) == []


def test_a_slow_reader_does_not_stop_another_task(start, tmp_path):
    path = str(tmp_path / "signals")
    os.mkfifo(path)
    function = start(
        f"""
        import asyncio
        import os

        async def other_task():
            descriptor = os.open({path!r}, os.O_WRONLY)
            for number in range(3):
                os.write(descriptor, b"%d " % number)
                await asyncio.sleep(0.001)
            os.close(descriptor)

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            task = asyncio.create_task(other_task())
            await body(send, b"x" * 50_000_000)
            await task
        """
    )
    request_id = function.invoke(function_url())
    with open(path) as pipe:
        assert pipe.read() == "0 1 2 "
    assert len(parse(function.read_response(request_id)).body) == 50_000_000


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["pass", "await start(send)"])
def test_an_exception_before_the_first_body_event_is_an_error_of_the_invocation(start, statement):
    function = start(
        f"""
        async def app(scope, receive, send):
            reject_lifespan(scope)
            {statement}
            raise KeyError("early")
        """
    )
    _, document = function.fail(function_url())
    assert (document["errorType"], document["errorMessage"]) == ("KeyError", "'early'")
    assert len(document["stackTrace"]) == 1
    function.expect_next()
    assert function.stdout.count("[ERROR] KeyError") == 1


def test_an_exception_after_the_first_body_event_is_in_the_trailers(start):
    function = start(
        """
        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            await body(send, b"part", more=True)
            raise KeyError("late")
        """
    )
    response = function.respond(function_url())
    assert parse(response).body == b"part"
    assert response.error["errorType"] == "KeyError"
    function.expect_next()


def test_an_exception_after_the_response_is_logged_and_changes_nothing_for_the_caller(start):
    function = start(
        """
        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send, 500)
            await body(send, b"error page")
            raise KeyError("again")
        """
    )
    for _ in range(2):
        response = function.respond(function_url())
        assert (parse(response).status, response.trailers) == (500, {})
    function.expect_next()
    assert function.stdout.count("[ERROR] KeyError: 'again'") == 2


# Statements of an application, and the message about them.
BROKEN = {
    "pass": "returned without a response",
    "await start(send)": "returned before the end of its response",
    "await body(send, b'x')": "sent 'http.response.body' before 'http.response.start'",
    "await start(send)\nawait start(send)": "sent 'http.response.start' twice",
    "await send({'type': 'websocket.accept'})": "sent 'websocket.accept'",
    "await start(send, headers=[('name', 'value')])": "a header with a value of type str",
    "await start(send, headers=[(b'name', 5)])": "a header with a value of type int",
    "await start(send, headers=[(b'a', b'b\\rc')])": "without CR, LF and NUL",
    "await start(send, headers=[(b'a%d' % n, b'b') for n in range(10_000)])": "bytes of JSON; the limit is",
    "await start(send, '200')": "needs a statusCode",
    "await start(send)\nawait body(send, 'text')": "a body that is a value of type str",
    "await start(send, headers=[(b'content-length', b'5')])\nawait body(send, b'x')": "4 bytes less than",
}


@pytest.mark.parametrize("is_caught", [False, True], ids=["raised", "caught"])
def test_an_application_that_breaks_the_protocol_gets_a_named_error_and_the_next_request_works(start, is_caught):
    cases = "".join(
        f"async def case_{number}(send):\n{textwrap.indent(statements, '    ')}\n\n"
        for number, statements in enumerate(BROKEN)
    )
    application = f"""
async def app(scope, receive, send):
    reject_lifespan(scope)
    if scope["path"] == "/works":
        await start(send)
        await body(send, b"works")
        return
    try:
        await globals()[scope["path"][1:]](send)
    except Exception:
        if not {is_caught}:
            raise
"""
    function = start(cases + application)
    for number, message in enumerate(BROKEN.values()):
        function.invoke(function_url(target=f"/case_{number}"))
        request = function.request()
        if request.path.endswith("/error"):
            error = json.loads(request.body)
        else:
            chunks = list(iter(function.peer.read_chunk, b""))
            error = Response(request, chunks, function.peer.read_trailers()).error
        function.accept()
        assert message in error["errorMessage"]
        assert error["errorType"] in ("Runtime.InvalidResponse", "Runtime.InvalidResponseHead", "Runtime.InvalidChunk")
        assert respond(function, target="/works").body == b"works"


def test_the_part_beyond_the_content_length_is_dropped(start):
    function = start(
        """
        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send, headers=[(b"content-length", b"3")])
            await body(send, b"12345")
        """
    )
    response = function.respond(function_url())
    assert parse(response).body == b"123"
    assert response.error["errorType"] == "Runtime.InvalidResponse"
    assert "2 bytes more" in response.error["errorMessage"]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, "it is empty"),
        ([1], "it is a value of type list"),
        ({"Records": []}, "it has the keys Records"),
        (function_url() | {"body": "a", "isBase64Encoded": True}, "body cannot be decoded"),
        (function_url() | {"body": 5}, "body is a value of type int"),
        (function_url() | {"headers": {"a": 1}}, "the header a is a value of type int"),
        (function_url() | {"rawPath": None}, "rawPath is None"),
    ],
)
def test_an_event_that_is_no_http_request_is_an_error(start, event, message):
    function = start(ECHO)
    _, document = function.fail(event)
    assert document["errorType"] == "Runtime.InvalidEvent"
    assert "the handler is a web application, and the event is not an HTTP request" in document["errorMessage"]
    assert message in document["errorMessage"]
    assert respond(function).status == 200


def test_an_http_api_is_warned_about_once(start):
    function = start(ECHO)
    event = function_url()
    event["requestContext"]["domainName"] = REST_DOMAIN
    for _ in range(2):
        function.respond(event)
    respond(function, event=rest_api)
    assert len([line for line in lines(function) if "HTTP API" in line]) == 1


def test_sys_exit_in_an_application_ends_the_environment_after_the_report(start):
    function = start(
        """
        import sys

        async def app(scope, receive, send):
            reject_lifespan(scope)
            sys.exit(5)
        """
    )
    _, document = function.fail(function_url())
    assert document["errorType"] == "Runtime.ExitError"
    assert function.wait() == 5


def test_sigterm_interrupts_an_application_and_the_caller_gets_the_trailers(start):
    function = start(
        """
        import asyncio

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            try:
                await body(send, b"part", more=True)
                await asyncio.sleep(60)
            finally:
                print("closed", flush=True)
        """
    )
    function.expect_response(function.invoke(function_url()))
    assert [function.peer.read_chunk() for _ in range(3)][2] == b"part"
    os.kill(function.process.pid, signal.SIGTERM)
    assert list(iter(function.peer.read_chunk, b"")) == []
    assert "Runtime.ExitError" in function.peer.read_trailers().values()
    function.accept()
    assert function.wait() == 128 + signal.SIGTERM
    assert function.stdout.startswith("closed\n")


# --- After the response -----------------------------------------------------------------------------------------------


def test_the_response_ends_before_the_background_work_and_the_next_invocation_comes_after_it(start, tmp_path):
    gate = Gate(tmp_path)
    function = start(
        f"""
        import asyncio

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            await body(send, b"body")
            await asyncio.get_running_loop().run_in_executor(None, lambda: open({gate.path!r}).close())
            print("done", flush=True)
        """
    )
    response = function.respond(function_url())
    assert parse(response).body == b"body"
    assert function.stdout == ""
    gate.open()
    function.expect_next()
    assert function.stdout == "done\n"


def test_work_after_the_response_runs_when_the_application_has_returned(start):
    function = start(
        """
        import contextvars

        variable = contextvars.ContextVar("variable", default="unset")

        async def work(name):
            print(name, variable.get(), flush=True)

        async def app(scope, receive, send):
            reject_lifespan(scope)
            variable.set("set")
            scope["aws.context"].after_response(work, "first")
            scope["aws.context"].after_response(print, "second", flush=True)
            await start(send)
            await body(send)
            print("returns", flush=True)
        """
    )
    respond(function)
    function.expect_next()
    assert function.stdout.splitlines() == ["returns", "first set", "second"]


def test_a_task_that_the_application_leaves_is_logged_once_and_cannot_reach_another_response(start):
    function = start(
        """
        import asyncio

        tasks = []

        async def straggler(send):
            await asyncio.sleep(0.001)
            while True:
                try:
                    await body(send, b"of another request", more=True)
                except Exception as error:
                    print(type(error).__name__, error, flush=True)
                    await asyncio.sleep(60)

        async def app(scope, receive, send):
            reject_lifespan(scope)
            await start(send)
            await body(send, b"first", more=True)
            if scope["path"] == "/leave":
                tasks.append(asyncio.create_task(straggler(send)))
                return
            await asyncio.sleep(0.01)
            await body(send, b"second")
        """
    )
    response = function.respond(function_url(target="/leave"))
    assert response.error["errorType"] == "Runtime.InvalidResponse"
    for _ in range(2):
        assert respond(function).body == b"firstsecond"
    function.expect_next()
    assert "sent 'http.response.body' after the end of its response" in function.stdout
    left = [line for line in lines(function) if "tasks still run" in line]
    assert len(left) == 1 and "straggler" in left[0]


def test_state_is_copied_for_each_request_and_the_log_has_one_record_for_each_response(start):
    function = start(
        """
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                scope["state"]["shared"] = []
                await send({"type": "lifespan.startup.complete"})
                await receive()
                return
            state = scope["state"]
            state["shared"].append(1)
            state["own"] = state.get("own", 0) + 1
            await start(send)
            await body(send, b"%d %d" % (len(state["shared"]), state["own"]))
        """,
        variables={"STREAMING_RUNTIME_LOG_STREAMS": "1"},
    )
    assert [respond(function).body for _ in range(3)] == [b"1 1", b"2 1", b"3 1"]
    function.expect_next()
    assert function.stderr.count("Status: success") == 3
