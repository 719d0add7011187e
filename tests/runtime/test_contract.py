"""What a handler may give, and what becomes of it on the wire."""

from __future__ import annotations

import json
import os
import sys

import pytest
from support.function_process import VERSION, Gate

HEAD = (
    b"POST /2018-06-01/runtime/invocation/%(id)s/response HTTP/1.1\r\n"
    b"Host: %(host)s\r\n"
    b"User-Agent: %(agent)s\r\n"
    b"Lambda-Runtime-Function-Response-Mode: streaming\r\n"
    b"Content-Type: application/octet-stream\r\n"
    b"Transfer-Encoding: chunked\r\n"
    b"Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n"
    b"\r\n"
)

# Streams


def test_the_bytes_on_the_wire_are_those_of_the_contract(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield b"one "
            yield b"two "
        """
    )
    request_id = function.invoke()
    request = function.expect_response(request_id)
    agent = request.headers["user-agent"].encode()
    host = b"127.0.0.1:%d" % function.listener.getsockname()[1]
    assert request.raw == HEAD % {b"id": request_id.encode(), b"host": host, b"agent": agent}
    rest = function.peer.reader.read(len(b"4\r\none \r\n4\r\ntwo \r\n0\r\n\r\n"))
    assert rest == b"4\r\none \r\n4\r\ntwo \r\n0\r\n\r\n"
    function.accept()
    function.expect_next()


def test_a_chunk_has_arrived_before_the_next_one_is_made(runtime, tmp_path):
    function = runtime(
        """
        def handler(event, context):
            yield b"first"
            with open(event) as gate:
                gate.read()
            yield b"second"
        """
    )
    gate = Gate(tmp_path)
    function.expect_response(function.invoke(gate.path))
    assert function.peer.read_chunk() == b"first"
    gate.open()
    assert function.peer.read_chunk() == b"second"


def test_the_head_and_the_first_chunk_are_one_segment(runtime, tmp_path):
    function = runtime(
        """
        def handler(event, context):
            yield b"x"
            with open(event) as gate:
                gate.read()
        """
    )
    gate = Gate(tmp_path)
    function.invoke(gate.path)
    first = function.peer.socket.recv(65536)
    assert first.startswith(b"POST ") and first.endswith(b"\r\n\r\n1\r\nx\r\n")
    gate.open()


def test_one_connection_serves_all_invocations(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield str(event).encode()
        """
    )
    first = function.connect()
    assert [function.respond(n).body for n in range(20)] == [str(n).encode() for n in range(20)]
    assert function.peer is first


def test_empty_chunks_are_skipped_and_the_stream_goes_on(runtime):
    code = """
        def handler(event, context):
            yield from (b"", b"a", bytearray(), b"b", b"")
        """
    assert runtime(code).respond().chunks == [b"a", b"b"]


@pytest.mark.parametrize(
    "chunk",
    [
        "bytearray(b'abcd')",
        "memoryview(b'abcd')",
        "memoryview(b'aXbXcXdX')[::2]",
        "memoryview(array.array('H', b'abcd'))",
        "memoryview(b'abcd').cast('B', (2, 2))",
        "type('Liar', (bytes,), {'__len__': lambda self: 1, '__bytes__': lambda self: b'no'})(b'abcd')",
    ],
)
def test_every_bytes_like_chunk_is_sent_as_its_bytes(runtime, chunk):
    function = runtime(
        f"""
        import array

        def handler(event, context):
            yield {chunk}
            yield {chunk}
        """
    )
    assert function.respond().chunks == [b"abcd", b"abcd"]
    function.expect_next()


def test_a_large_chunk_is_one_http_chunk(runtime):
    code = """
        def handler(event, context):
            yield bytes(5_000_000)
            yield bytearray(b"x" * 70_000)
        """
    response = runtime(code).respond()
    assert [len(chunk) for chunk in response.chunks] == [5_000_000, 70_000]
    assert response.chunks == [bytes(5_000_000), b"x" * 70_000]


@pytest.mark.parametrize(
    "code",
    [
        """
        def handler(event, context):
            return iter([b"a", b"b"])
        """,
        "handler = lambda event, context: map(str.encode, 'ab')\n",
        """
        class Stream:
            def __init__(self, event, context):
                self.left = [b"b", b"a"]

            def __iter__(self):
                return self

            def __next__(self):
                if not self.left:
                    raise StopIteration
                return self.left.pop()

        handler = Stream
        """,
        """
        import functools

        def decorate(f):
            @functools.wraps(f)
            def wrapper(*args):
                return f(*args)

            return wrapper

        @decorate
        def handler(event, context):
            yield b"a"
            yield b"b"
        """,
        """
        async def handler(event, context):
            yield b"a"
            yield b"b"
        """,
        """
        def decorate(f):
            return lambda *args: f(*args)

        @decorate
        async def handler(event, context):
            yield b"a"
            yield b"b"
        """,
    ],
    ids=["iterator", "map", "class", "decorated", "async", "decorated async"],
)
def test_any_iterator_of_bytes_is_streamed(runtime, code):
    function = runtime(code)
    assert function.respond().chunks == [b"a", b"b"]
    assert function.respond().chunks == [b"a", b"b"]


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_stream_without_a_chunk_is_begun_and_ended(runtime, keyword):
    function = runtime(
        f"""
        {keyword} handler(event, context):
            if event:
                yield b"never"
        """
    )
    response = function.respond()
    assert (response.chunks, response.trailers) == ([], {})
    function.expect_next()


# What is not a stream


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ("{'statusCode': 200}", "type dict"),
        ("None", "None"),
        ("'text'", "type str"),
        ("b'bytes'", "type bytes"),
        ("[b'a']", "type list"),
        ("42", "type int"),
    ],
)
def test_a_handler_that_returns_a_value_is_told_to_yield(runtime, result, shown):
    function = runtime(
        f"""
        def handler(event, context):
            return {result}
        """
    )
    for _ in range(2):
        request, document = function.fail()
        assert request.headers["lambda-runtime-function-error-type"] == "Runtime.InvalidHandler"
        assert document["errorType"] == "Runtime.InvalidHandler"
        assert shown in document["errorMessage"] and "use yield" in document["errorMessage"]


def test_a_coroutine_is_told_to_yield_and_python_does_not_warn_of_it(runtime):
    function = runtime(
        """
        async def handler(event, context):
            return 1
        """
    )
    _, document = function.fail()
    function.expect_next()
    assert document["errorType"] == "Runtime.InvalidHandler"
    assert "never awaited" not in function.stderr


@pytest.mark.parametrize("chunk", ["'text'", "5", "None", "[b'a']", "{'statusCode': 200}"])
@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_later_chunk_of_another_type_is_refused_in_the_trailers(runtime, keyword, chunk):
    function = runtime(
        f"""
        {keyword} handler(event, context):
            yield b"good"
            yield {chunk}
            yield b"never"
        """
    )
    response = function.respond()
    assert response.chunks == [b"good"]
    assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Runtime.InvalidChunk"
    error = response.error
    assert error["errorType"] == "Runtime.InvalidChunk"
    assert '.encode("utf-8")' in error["errorMessage"]
    function.expect_next()


def test_a_first_chunk_of_another_type_is_refused_before_any_byte(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield "text"
        """
    )
    request, document = function.fail()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.InvalidChunk"
    assert "type str" in document["errorMessage"]
    function.expect_next()


def test_a_generator_left_early_runs_its_finally(runtime):
    code = """
        def handler(event, context):
            try:
                yield 5
            finally:
                print("cleaned up")
        """
    function = runtime(code)
    function.fail()
    function.expect_next()
    assert "cleaned up" in function.stdout


# The prelude


def test_a_first_dict_is_the_prelude_in_two_chunks_of_its_own(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield {
                "statusCode": 201,
                "headers": {"X-A": "b, c", "X-Ü": "é"},
                "cookies": ["a=1", "b=2; E=Wed, 1"],
            }
            yield b"body"
        """
    )
    response = function.respond()
    assert response.head.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    prelude, end, *body = response.chunks
    assert json.loads(prelude) == {
        "statusCode": 201,
        "headers": {"X-A": "b, c", "X-Ü": "é"},
        "cookies": ["a=1", "b=2; E=Wed, 1"],
    }
    assert end == bytes(8)
    assert body == [b"body"]


def test_a_prelude_leaves_at_once_with_all_three_keys(runtime, tmp_path):
    function = runtime(
        """
        def handler(event, context):
            yield {}
            with open(event) as gate:
                gate.read()
            yield b"body"
        """
    )
    gate = Gate(tmp_path)
    function.expect_response(function.invoke(gate.path))
    assert json.loads(function.peer.read_chunk()) == {"statusCode": 200, "headers": {}, "cookies": []}
    assert function.peer.read_chunk() == bytes(8)
    gate.open()
    assert function.peer.read_chunk() == b"body"


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_prelude_without_a_body_still_ends(runtime, keyword):
    code = f"""
        import http

        {keyword} handler(event, context):
            yield {{"statusCode": http.HTTPStatus.NO_CONTENT}}
        """
    response = runtime(code).respond()
    assert json.loads(response.chunks[0])["statusCode"] == 204
    assert (response.chunks[1:], response.trailers) == ([bytes(8)], {})


@pytest.mark.parametrize(
    "head",
    [
        "{'statusCode': 200, 'body': 'x'}",
        "{5: 6}",
        "{'statusCode': '200'}",
        "{'statusCode': True}",
        "{'statusCode': 99}",
        "{'statusCode': 600}",
        "{'headers': []}",
        "{'headers': {'a': 5}}",
        "{'headers': {5: 'a'}}",
        "{'headers': {'': 'a'}}",
        "{'headers': {'a': 'b\\r\\nX: y'}}",
        "{'headers': {'a\\nb': 'c'}}",
        "{'headers': {'a': 'b\\0'}}",
        "{'cookies': 'a=1'}",
        "{'cookies': [5]}",
        "{'cookies': ['a=1\\r\\nX: y']}",
        "{'headers': {'a': 'x' * 16384}}",
    ],
)
def test_a_bad_prelude_is_refused_before_any_byte(runtime, head):
    function = runtime(
        f"""
        def handler(event, context):
            yield {head}
            yield b"never"
        """
    )
    request, document = function.fail()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.InvalidResponseHead"
    assert document["errorType"] == "Runtime.InvalidResponseHead"
    function.expect_next()


def test_a_prelude_of_16_kb_with_its_end_is_sent_and_one_byte_more_is_not(runtime):
    empty = len(json.dumps({"statusCode": 200, "headers": {"a": ""}, "cookies": []}))
    function = runtime(
        """
        def handler(event, context):
            yield {"headers": {"a": "x" * event}}
        """
    )
    room = 16 * 1024 - 8 - empty
    assert sum(map(len, function.respond(room).chunks)) == 16 * 1024
    assert function.fail(room + 1)[1]["errorType"] == "Runtime.InvalidResponseHead"


# Async


def test_one_event_loop_lives_across_invocations_and_a_failure(runtime):
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


def test_an_async_error_shows_the_users_frames_alone(runtime):
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


# Errors, and the invocation after them


def test_an_error_before_the_first_byte_goes_to_error(runtime):
    function = runtime(
        """
        def handler(event, context):
            raise ValueError("boom")
            yield b""
        """
    )
    request, document = function.fail()
    path = function.task / "lambda_function.py"
    assert document == {
        "errorMessage": "boom",
        "errorType": "ValueError",
        "requestId": request.path.split("/")[-2],
        "stackTrace": [f'  File "{path}", line 2, in handler\n    raise ValueError("boom")\n'],
    }
    assert request.headers["lambda-runtime-function-error-type"] == "Function.ValueError"
    assert json.loads(request.headers["lambda-runtime-function-xray-error-cause"]) == {
        "working_directory": str(function.task),
        "exceptions": [
            {
                "message": "boom",
                "type": "ValueError",
                "stack": [{"label": "handler", "path": str(path), "line": 2}],
            }
        ],
        "paths": [str(path)],
    }
    function.fail()


def test_an_error_after_the_first_byte_goes_to_the_trailers(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield b"part"
            raise ValueError("boom")
        """
    )
    response = function.respond()
    assert response.chunks == [b"part"]
    assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Function.ValueError"
    assert response.error["errorMessage"] == "boom"
    assert function.respond().chunks == [b"part"]


@pytest.mark.parametrize(("call", "status"), [("3", 3), ("", 0), ("'text'", 1), ("None", 0)])
def test_sys_exit_is_reported_and_then_done(runtime, call, status):
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


def test_sys_exit_after_the_first_byte_ends_the_stream_first(runtime):
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


def test_print_without_a_newline_is_seen_while_the_handler_runs(runtime, tmp_path):
    function = runtime(
        """
        import sys

        def handler(event, context):
            print("out", end="")
            print("err", end="", file=sys.stderr)
            yield b"x"
            with open(event) as gate:
                gate.read()
        """
    )
    gate = Gate(tmp_path)
    function.expect_response(function.invoke(gate.path))
    function.peer.read_chunk()
    assert (function.stdout, function.stderr) == ("out", "err")
    gate.open()


# Loading


def test_a_function_may_have_modules_named_like_ours(runtime):
    function = runtime(
        {
            "lambda_function.py": """
                import runtime, bootstrap, traceback

                def handler(event, context):
                    if event:
                        raise ValueError(runtime.name + bootstrap.name + traceback.name)
                    yield (runtime.name + bootstrap.name).encode()
                """,
            "runtime.py": "name = 'mine'\n",
            "bootstrap.py": "name = ' too'\n",
            "traceback.py": "name = ' and mine'\n",
        }
    )
    assert function.respond().body == b"mine too"
    assert function.fail("x")[1]["errorMessage"] == "mine too and mine"


def test_the_handler_module_may_be_called_runtime(runtime):
    function = runtime(
        {
            "runtime.py": """
            def handler(event, context):
                yield b"mine"
            """
        },
        variables={"_HANDLER": "runtime.handler"},
    )
    assert function.respond().body == b"mine"


@pytest.mark.parametrize("name", ["pkg/mod.handler", "pkg.mod.handler"])
def test_slash_and_dot_both_make_packages(runtime, name):
    code = """
        def handler(event, context):
            yield __name__.encode()
        """
    function = runtime({"pkg/__init__.py": "", "pkg/mod.py": code}, variables={"_HANDLER": name})
    assert function.respond().body == b"pkg.mod"


def test_the_import_path_is_that_of_the_managed_runtime(runtime, layer):
    function = runtime(
        """
        import json, sys

        def handler(event, context):
            yield json.dumps(sys.path).encode()
        """
    )
    path = json.loads(function.respond().body)
    version = ".".join(sys.version.split(".")[:2])
    assert path[:3] == [str(function.task), f"/opt/python/lib/python{version}/site-packages", "/opt/python"]
    assert os.path.dirname(os.__file__) in path[3:]
    assert str(layer) not in path and "" not in path


@pytest.mark.parametrize(
    ("files", "handler", "error_type", "said"),
    [
        ({"x.py": ""}, "lambda_function.handler", "Runtime.ImportModuleError", "must contain lambda_function.py"),
        ({"m.py": "import nonesuch"}, "m.handler", "Runtime.ImportModuleError", "add it to the function's zip"),
        ({"m.py": "from os import nonesuch"}, "m.handler", "Runtime.ImportModuleError", "cannot import name"),
        ({"m.py": "def handler(:"}, "m.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'm'"),
        ({"m.py": "x = 1"}, "m.handler", "Runtime.HandlerNotFound", "missing on module 'm'"),
        ({"m.py": "handler = 1"}, "m.handler", "Runtime.HandlerNotFound", "not a function"),
        ({"m.py": ""}, "handler", "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, "", "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, ".handler", "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, "../m.handler", "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, "sys.exit", "Runtime.BuiltInModuleConflict", "built-in"),
        ({"m.py": "raise ValueError('no')"}, "m.handler", "ValueError", "no"),
        ({"m.py": "import sys; sys.exit(0)"}, "m.handler", "Runtime.ExitError", "sys.exit(0)"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_an_init_error(runtime, files, handler, error_type, said):
    function = runtime(files, variables={"_HANDLER": handler})
    request, document = function.read_init_error()
    assert document["errorType"] == error_type
    assert said in document["errorMessage"]
    expected = error_type if error_type.startswith("Runtime.") else f"Function.{error_type}"
    assert request.headers["lambda-runtime-function-error-type"] == expected
    assert function.wait() == 1
    assert f"[ERROR] {error_type}: " in function.stdout


def test_the_version_is_told_to_the_runtime_api(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield b""
        """
    )
    agent = function.expect_next().headers["user-agent"]
    assert agent.startswith(f"python-streaming-runtime/{VERSION} CPython/")
