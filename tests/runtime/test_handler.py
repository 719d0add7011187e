"""What a handler can return and yield, and how it is found."""

from __future__ import annotations

import json
import os
import sys

import pytest
from support.function_process import PEAK_MEMORY, Gate


def test_a_chunk_arrives_before_the_handler_makes_the_next_one(runtime, tmp_path):
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


def test_empty_chunks_are_skipped(runtime):
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
    function.expect_next()
    assert function.stdout == ""


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_stream_without_a_chunk_is_an_empty_response(runtime, keyword):
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
def test_a_returned_value_is_an_error_that_suggests_yield(runtime, result, shown):
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


@pytest.mark.parametrize(
    ("result", "body"),
    [
        (
            {"statusCode": 201, "headers": {"x-a": "1"}, "body": "t\u00e4xt", "isBase64Encoded": False},
            "t\u00e4xt".encode(),
        ),
        ({"statusCode": 201, "headers": {"x-a": "1"}, "body": "/wA=", "isBase64Encoded": True}, b"\xff\0"),
        ({"statusCode": 201, "headers": {"x-a": "1"}, "body": None, "cookies": [], "multiValueHeaders": {}}, b""),
        ({"statusCode": 201, "headers": {"x-a": "1"}}, b""),
    ],
)
def test_the_error_about_a_response_dict_shows_two_lines_that_stream_it(runtime, result, body):
    _, document = runtime(f"""
        def handler(event, context):
            return {result!r}
        """).fail()
    message, *lines = document["errorMessage"].splitlines()
    assert "use yield" in message and "json.dumps" not in message and len(lines) == 2
    code = [
        "import base64",
        "def handler(event, context):",
        f"    result = {result!r}",
        *(f"    {line}" for line in lines),
    ]
    response = runtime("\n".join(code)).respond()
    head, _, *chunks = response.chunks
    assert json.loads(head) == {"statusCode": 201, "headers": {"x-a": "1"}, "cookies": []}
    assert b"".join(chunks) == body


@pytest.mark.parametrize("keyword", ["async def", "def"])
def test_a_coroutine_is_an_error_without_a_warning_of_python(runtime, keyword):
    function = runtime(
        f"""
        import gc

        async def work(): pass

        {keyword} handler(event, context):
            gc.collect()  # Python warns about the coroutine of the last invocation when it is collected
            return work()
        """
    )
    for _ in range(2):
        assert function.fail()[1]["errorType"] == "Runtime.InvalidHandler"
    function.expect_next()
    assert "never awaited" not in function.stderr


@pytest.mark.parametrize("method", ["close", "__await__", "__iter__", "__next__", "__aiter__", "__anext__"])
def test_an_object_with_half_of_an_interface_is_an_error_and_is_not_used(runtime, method):
    function = runtime(
        f"""
        class Result:
            def {method}(self):
                print("called")

        def handler(event, context):
            return Result()
        """
    )
    assert function.fail()[1]["errorType"] == "Runtime.InvalidHandler"
    function.expect_next()
    assert "called" not in function.stdout


@pytest.mark.parametrize("chunk", ["'text'", "5", "None", "[b'a']", "{'statusCode': 200}"])
@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_later_item_of_another_type_is_an_error_in_the_trailers(runtime, keyword, chunk):
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


def test_a_first_item_of_another_type_is_an_error_before_the_first_byte(runtime):
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


def test_a_generator_that_is_closed_early_runs_its_finally(runtime):
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


def test_a_function_can_have_modules_named_like_those_of_the_layer(runtime):
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


def test_the_handler_module_can_be_named_runtime(runtime):
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
def test_slash_and_dot_both_separate_packages(runtime, name):
    code = """
        def handler(event, context):
            yield __name__.encode()
        """
    function = runtime({"pkg/__init__.py": "", "pkg/mod.py": code}, variables={"_HANDLER": name})
    assert function.respond().body == b"pkg.mod"


def test_the_import_path_is_in_the_order_of_the_managed_runtime(runtime, layer):
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
    ("files", "handler", "error_type", "message"),
    [
        ({"x.py": ""}, "lambda_function.handler", "Runtime.ImportModuleError", "must contain lambda_function.py"),
        ({"m.py": "import nonesuch"}, "m.handler", "Runtime.ImportModuleError", "add it to the function's zip"),
        ({"m.py": "from os import nonesuch"}, "m.handler", "Runtime.ImportModuleError", "cannot import name"),
        ({"m.py": "def handler(:"}, "m.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'm'"),
        ({"m.py": "x = 1"}, "m.handler", "Runtime.HandlerNotFound", "missing on module 'm'"),
        ({"m.py": "handler = 1"}, "m.handler", "Runtime.HandlerNotFound", "not a function"),
        ({"m.py": ""}, "handler", "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, "", "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, None, "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, "m.", "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, ".handler", "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, "../m.handler", "Runtime.MalformedHandlerName", "module.function"),
        ({"m.py": ""}, "sys.exit", "Runtime.BuiltInModuleConflict", "built-in"),
        ({"m.py": "raise ValueError('no')"}, "m.handler", "ValueError", "no"),
        ({"m.py": "import sys; sys.exit(0)"}, "m.handler", "Runtime.ExitError", "sys.exit(0)"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_an_init_error(runtime, files, handler, error_type, message):
    function = runtime(files, variables={"_HANDLER": handler})
    request, document = function.read_init_error()
    assert document["errorType"] == error_type
    assert message in document["errorMessage"]
    expected = error_type if error_type.startswith("Runtime.") else f"Function.{error_type}"
    assert request.headers["lambda-runtime-function-error-type"] == expected
    assert function.wait() == 1
    assert f"[ERROR] {error_type}: " in function.stdout


def test_the_trace_of_a_syntax_error_names_its_place(runtime):
    function = runtime({"m.py": "import other", "other.py": "x = 1\ny = (\n"}, variables={"_HANDLER": "m.handler"})
    _, document = function.read_init_error()
    assert document["stackTrace"] == [f'  File "{function.task}/other.py" Line 2\n    y = (\n']


@pytest.mark.parametrize("module", ["os", "m"])
def test_a_missing_name_in_a_module_that_exists_is_not_looked_for_in_the_zip(runtime, module):
    function = runtime({"m.py": f"from {module} import nonesuch"}, variables={"_HANDLER": "m.handler"})
    _, document = function.read_init_error()
    assert "cannot import name 'nonesuch' from" in document["errorMessage"]
    assert "zip" not in document["errorMessage"]


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_one_large_chunk_exists_at_a_time(runtime, definition):
    size = 16 << 20
    function = runtime(
        f"""
        {PEAK_MEMORY}

        {definition} handler(event, context):
            before = peak_memory()
            for _ in range(4):
                yield bytes([1]) * {size}
            yield str(peak_memory() - before).encode()
        """
    )
    assert int(function.respond().chunks[-1]) < 1.3 * size
