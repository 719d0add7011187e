"""What a handler may give, and what becomes of it on the wire."""

from __future__ import annotations

import base64
import json
import os
import sys

import pytest

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

# Waits for the test where a real handler would wait for a model or a database.
GATE = """
def gate(path):
    with open(path) as pipe:
        pipe.read()
"""


def gate(tmp_path):
    path = tmp_path / "gate"
    os.mkfifo(path)
    return str(path)


def open_gate(path):
    open(path, "w").close()


def trailer_error(response):
    return json.loads(base64.b64decode(response.trailers["Lambda-Runtime-Function-Error-Body"], validate=True))


# Streams


def test_the_bytes_on_the_wire_are_those_of_the_contract(runtime):
    function = runtime("def handler(event, context):\n    yield b'one '\n    yield b'two '\n")
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
    code = GATE + "def handler(event, context):\n    yield b'first'\n    gate(event['gate'])\n    yield b'second'\n"
    function = runtime(code)
    path = gate(tmp_path)
    function.expect_response(function.invoke({"gate": path}))
    assert function.peer.read_chunk() == b"first"
    open_gate(path)
    assert function.peer.read_chunk() == b"second"


def test_the_head_and_the_first_chunk_are_one_segment(runtime, tmp_path):
    function = runtime(GATE + "def handler(event, context):\n    yield b'x'\n    gate(event['gate'])\n")
    path = gate(tmp_path)
    function.invoke({"gate": path})
    first = function.peer.socket.recv(65536)
    assert first.startswith(b"POST ") and first.endswith(b"\r\n\r\n1\r\nx\r\n")
    open_gate(path)


def test_one_connection_serves_all_invocations(runtime):
    function = runtime("def handler(event, context):\n    yield str(event).encode()\n")
    first = function.connect()
    assert [function.respond(n).body for n in range(20)] == [str(n).encode() for n in range(20)]
    assert function.peer is first


def test_empty_chunks_are_skipped_and_the_stream_goes_on(runtime):
    code = "def handler(event, context):\n    yield from (b'', b'a', bytearray(), b'b', b'')\n"
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
    function = runtime(f"import array\ndef handler(event, context):\n    yield {chunk}\n    yield {chunk}\n")
    assert function.respond().chunks == [b"abcd", b"abcd"]
    function.expect_next()


def test_a_large_chunk_is_one_http_chunk(runtime):
    code = "def handler(event, context):\n    yield bytes(5_000_000)\n    yield bytearray(b'x' * 70_000)\n"
    response = runtime(code).respond()
    assert [len(chunk) for chunk in response.chunks] == [5_000_000, 70_000]
    assert response.chunks == [bytes(5_000_000), b"x" * 70_000]


@pytest.mark.parametrize(
    "code",
    [
        "def handler(event, context):\n    return iter([b'a', b'b'])\n",
        "handler = lambda event, context: map(str.encode, 'ab')\n",
        "class Stream:\n    def __init__(self, event, context):\n        self.left = [b'b', b'a']\n"
        "    def __iter__(self):\n        return self\n"
        "    def __next__(self):\n        if not self.left:\n            raise StopIteration\n"
        "        return self.left.pop()\nhandler = Stream\n",
        "import functools\ndef decorate(f):\n    @functools.wraps(f)\n    def wrapper(*args):\n"
        "        return f(*args)\n    return wrapper\n"
        "@decorate\ndef handler(event, context):\n    yield b'a'\n    yield b'b'\n",
        "async def handler(event, context):\n    yield b'a'\n    yield b'b'\n",
        "def decorate(f):\n    return lambda *args: f(*args)\n"
        "@decorate\nasync def handler(event, context):\n    yield b'a'\n    yield b'b'\n",
    ],
    ids=["iterator", "map", "class", "decorated", "async", "decorated async"],
)
def test_any_iterator_of_bytes_is_streamed(runtime, code):
    function = runtime(code)
    assert function.respond().chunks == [b"a", b"b"]
    assert function.respond().chunks == [b"a", b"b"]


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_stream_without_a_chunk_is_begun_and_ended(runtime, keyword):
    function = runtime(f"{keyword} handler(event, context):\n    if event:\n        yield b'never'\n")
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
    function = runtime(f"def handler(event, context):\n    return {result}\n")
    for _ in range(2):
        request, document = function.fail()
        assert request.headers["lambda-runtime-function-error-type"] == "Runtime.InvalidHandler"
        assert document["errorType"] == "Runtime.InvalidHandler"
        assert shown in document["errorMessage"] and "use yield" in document["errorMessage"]


def test_a_coroutine_is_told_to_yield_and_python_does_not_warn_of_it(runtime):
    function = runtime("async def handler(event, context):\n    return 1\n")
    _, document = function.fail()
    function.expect_next()
    assert document["errorType"] == "Runtime.InvalidHandler"
    assert "never awaited" not in function.stderr


@pytest.mark.parametrize("chunk", ["'text'", "5", "None", "[b'a']", "{'statusCode': 200}"])
@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_later_chunk_of_another_type_is_refused_in_the_trailers(runtime, keyword, chunk):
    function = runtime(
        f"{keyword} handler(event, context):\n    yield b'good'\n    yield {chunk}\n    yield b'never'\n"
    )
    response = function.respond()
    assert response.chunks == [b"good"]
    assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Runtime.InvalidChunk"
    error = trailer_error(response)
    assert error["errorType"] == "Runtime.InvalidChunk"
    assert '.encode("utf-8")' in error["errorMessage"]
    function.expect_next()


def test_a_first_chunk_of_another_type_is_refused_before_any_byte(runtime):
    function = runtime("def handler(event, context):\n    yield 'text'\n")
    request, document = function.fail()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.InvalidChunk"
    assert "type str" in document["errorMessage"]
    function.expect_next()


def test_a_generator_left_early_runs_its_finally(runtime):
    code = "def handler(event, context):\n    try:\n        yield 5\n    finally:\n        print('cleaned up')\n"
    function = runtime(code)
    function.fail()
    function.expect_next()
    assert "cleaned up" in function.stdout


# The prelude


def test_a_first_dict_is_the_prelude_in_two_chunks_of_its_own(runtime):
    function = runtime(
        "def handler(event, context):\n"
        "    yield {'statusCode': 201, 'headers': {'X-A': 'b, c', 'X-Ü': 'é'}, 'cookies': ['a=1', 'b=2; E=Wed, 1']}\n"
        "    yield b'body'\n"
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
        GATE + "def handler(event, context):\n    yield {}\n    gate(event['gate'])\n    yield b'body'\n"
    )
    path = gate(tmp_path)
    function.expect_response(function.invoke({"gate": path}))
    assert json.loads(function.peer.read_chunk()) == {"statusCode": 200, "headers": {}, "cookies": []}
    assert function.peer.read_chunk() == bytes(8)
    open_gate(path)
    assert function.peer.read_chunk() == b"body"


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_prelude_without_a_body_still_ends(runtime, keyword):
    code = f"import http\n{keyword} handler(event, context):\n    yield {{'statusCode': http.HTTPStatus.NO_CONTENT}}\n"
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
    function = runtime(f"def handler(event, context):\n    yield {head}\n    yield b'never'\n")
    request, document = function.fail()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.InvalidResponseHead"
    assert document["errorType"] == "Runtime.InvalidResponseHead"
    function.expect_next()


def test_a_prelude_of_16_kb_with_its_end_is_sent_and_one_byte_more_is_not(runtime):
    empty = len(json.dumps({"statusCode": 200, "headers": {"a": ""}, "cookies": []}))
    function = runtime("def handler(event, context):\n    yield {'headers': {'a': 'x' * event}}\n")
    room = 16 * 1024 - 8 - empty
    assert sum(map(len, function.respond(room).chunks)) == 16 * 1024
    assert function.fail(room + 1)[1]["errorType"] == "Runtime.InvalidResponseHead"


# Async


def test_one_event_loop_lives_across_invocations_and_a_failure(runtime):
    function = runtime(
        "import asyncio\nloops = []\n"
        "async def handler(event, context):\n"
        "    loops.append(asyncio.get_running_loop())\n"
        "    await asyncio.sleep(0)\n"
        "    if event == 'fail':\n        raise ValueError('no')\n"
        "    yield str(len(set(map(id, loops)))).encode() + b' of ' + str(len(loops)).encode()\n"
    )
    assert function.respond().body == b"1 of 1"
    assert function.fail("fail")[1]["errorType"] == "ValueError"
    assert function.respond().body == b"1 of 3"


def test_an_async_error_shows_the_users_frames_alone(runtime):
    function = runtime("async def handler(event, context):\n    yield b'a'\n    raise KeyError('x')\n")
    error = trailer_error(function.respond())
    assert error["errorType"] == "KeyError"
    assert len(error["stackTrace"]) == 1 and "line 3, in handler" in error["stackTrace"][0]


def test_asyncio_is_imported_only_for_an_async_handler(runtime):
    code = "import sys\ndef handler(event, context):\n    yield str(sorted(sys.modules)).encode()\n"
    modules = runtime(code).respond().body.decode()
    for name in ("asyncio", "logging", "traceback", "http.client", "ssl", "typing"):
        assert f"'{name}'" not in modules


# Errors, and the invocation after them


def test_an_error_before_the_first_byte_goes_to_error(runtime):
    function = runtime("def handler(event, context):\n    raise ValueError('boom')\n    yield b''\n")
    request, document = function.fail()
    path = function.task / "lambda_function.py"
    assert document == {
        "errorMessage": "boom",
        "errorType": "ValueError",
        "requestId": request.path.split("/")[-2],
        "stackTrace": [f"  File \"{path}\", line 2, in handler\n    raise ValueError('boom')\n"],
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
    function = runtime("def handler(event, context):\n    yield b'part'\n    raise ValueError('boom')\n")
    response = function.respond()
    assert response.chunks == [b"part"]
    assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Function.ValueError"
    assert trailer_error(response)["errorMessage"] == "boom"
    assert function.respond().chunks == [b"part"]


@pytest.mark.parametrize(("call", "status"), [("3", 3), ("", 0), ("'text'", 1), ("None", 0)])
def test_sys_exit_is_reported_and_then_done(runtime, call, status):
    function = runtime(f"import sys\ndef handler(event, context):\n    sys.exit({call})\n    yield b''\n")
    request, document = function.fail()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.ExitError"
    assert "sys.exit(" in document["errorMessage"]
    assert function.wait() == status


def test_sys_exit_after_the_first_byte_ends_the_stream_first(runtime):
    function = runtime("import sys\ndef handler(event, context):\n    yield b'part'\n    sys.exit(3)\n")
    response = function.respond()
    assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Runtime.ExitError"
    assert function.wait() == 3


def test_print_without_a_newline_is_seen_while_the_handler_runs(runtime, tmp_path):
    code = "import sys\n" + GATE
    code += "def handler(event, context):\n    print('out', end='')\n    print('err', end='', file=sys.stderr)\n"
    code += "    yield b'x'\n    gate(event['gate'])\n"
    function = runtime(code)
    path = gate(tmp_path)
    function.expect_response(function.invoke({"gate": path}))
    function.peer.read_chunk()
    assert (function.stdout, function.stderr) == ("out", "err")
    open_gate(path)


# Loading


def test_a_function_may_have_modules_named_like_ours(runtime):
    function = runtime(
        {
            "lambda_function.py": "import runtime, bootstrap, traceback\ndef handler(event, context):\n"
            "    if event:\n        raise ValueError(runtime.name + bootstrap.name + traceback.name)\n"
            "    yield (runtime.name + bootstrap.name).encode()\n",
            "runtime.py": "name = 'mine'\n",
            "bootstrap.py": "name = ' too'\n",
            "traceback.py": "name = ' and mine'\n",
        }
    )
    assert function.respond().body == b"mine too"
    assert function.fail("x")[1]["errorMessage"] == "mine too and mine"


def test_the_handler_module_may_be_called_runtime(runtime):
    function = runtime(
        {"runtime.py": "def handler(event, context):\n    yield b'mine'\n"}, variables={"_HANDLER": "runtime.handler"}
    )
    assert function.respond().body == b"mine"


@pytest.mark.parametrize("name", ["pkg/mod.handler", "pkg.mod.handler"])
def test_slash_and_dot_both_make_packages(runtime, name):
    code = "def handler(event, context):\n    yield __name__.encode()\n"
    function = runtime({"pkg/__init__.py": "", "pkg/mod.py": code}, variables={"_HANDLER": name})
    assert function.respond().body == b"pkg.mod"


def test_the_import_path_is_that_of_the_managed_runtime(runtime, layer):
    function = runtime("import sys\ndef handler(event, context):\n    yield repr(sys.path).encode()\n")
    path = eval(function.respond().body)
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
    function = runtime("def handler(event, context):\n    yield b''\n")
    agent = function.expect_next().headers["user-agent"]
    with open(os.path.join(os.path.dirname(__file__), "../..", "layer-manifest.json")) as manifest:
        assert agent.startswith(f"python-streaming-runtime/{json.load(manifest)['version']} CPython/")
