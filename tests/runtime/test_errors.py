"""Exceptions that are hostile, or raised where nobody expects one: named to the caller, never on the wire."""

from __future__ import annotations

import base64
import json

import pytest

LARGEST_TRAILERS = 4096  # bytes; what the HTTP server of Go reads at most


def error_of(response):
    return json.loads(base64.b64decode(response.trailers["Lambda-Runtime-Function-Error-Body"], validate=True))


HOSTILE = {
    "CR LF in the name": (
        r"raise type('Bad\r\nX-Forged: 1\r\n\r\n', (Exception,), {})('m')",
        "Function.Bad__X_Forged__1____",
        "m",
    ),
    "a name of 10,000 letters": ("raise type('E' * 10_000, (Exception,), {})('m')", "Function." + "E" * 128, "m"),
    "a name that is not ASCII": ("raise type('Ünfug', (Exception,), {})('m')", "Function._nfug", "m"),
    "CR LF NUL in the message": (r"raise ValueError('a\r\nX-Forged: 1\r\n\r\n\0b')", "Function.ValueError", None),
    "a lone surrogate": (r"raise ValueError('\udc80')", "Function.ValueError", "\udc80"),
    "10 MB": ("raise ValueError('x' * 10_000_000)", "Function.ValueError", None),
    "10 MB that grow six-fold in JSON": (r"raise ValueError('\0' * 10_000_000)", "Function.ValueError", None),
    "a __str__ that raises": (
        "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
        "Function.E",
        "<str() of a E failed>",
    ),
    "a __str__ that gives no str": (
        "raise type('E', (Exception,), {'__str__': lambda self: 5})()",
        "Function.E",
        "<str() of a E failed>",
    ),
    "a str that lies": (
        "raise type('E', (Exception,), {'__str__': lambda self: type('S', (str,), {'__len__': lambda s: 0})('m')})()",
        "Function.E",
        "m",
    ),
    "an __eq__ and a metaclass that raise": (
        "M = type('M', (type,), {'__name__': property(lambda self: 1 / 0)})\n"
        "    E = M('E', (Exception,), {'__eq__': lambda self, other: 1 / 0, '__hash__': None})\n"
        "    raise E('m') from E('n')",
        "Function.E",
        "m",
    ),
    "a __cause__ and a __context__ that raise": (
        "raise type('E', (Exception,), dict.fromkeys(('__cause__', '__context__'), property(lambda self: 1 / 0)))('m')",
        "Function.E",
        "m",
    ),
    "a recursion": ("return recurse()", "Function.RecursionError", None),
    "out of memory": ("raise MemoryError('m')", "Function.MemoryError", "m"),
    "a real lack of memory": ("bytes(1 << 60)", "Function.MemoryError", ""),
    "GeneratorExit": ("raise GeneratorExit('m')", "Function.GeneratorExit", "m"),
    "a BaseException of its own": ("raise type('E', (BaseException,), {})('m')", "Function.E", "m"),
    "StopIteration": ("raise StopIteration('m')", "Function.RuntimeError", "generator raised StopIteration"),
    "a group": ("raise ExceptionGroup('many', [ValueError('a'), KeyError('b')])", "Function.ExceptionGroup", None),
}


@pytest.mark.parametrize("after_a_chunk", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_exception_is_told_and_never_breaks_the_framing(runtime, kind, after_a_chunk):
    code, wire_type, message = HOSTILE[kind]
    function = runtime(
        "def recurse():\n    return recurse()\n"
        f"def fail():\n    {code}\n"
        f"def handler(event, context):\n    if event:\n        yield b'fine'\n        return\n"
        f"    if {after_a_chunk}:\n        yield b'part'\n    fail()\n    yield b'never'\n"
    )
    if after_a_chunk:
        response = function.respond()
        assert response.chunks == [b"part"]
        assert set(response.trailers) == {
            "Lambda-Runtime-Function-Error-Type",
            "Lambda-Runtime-Function-Error-Body",
        }
        assert sum(len(name) + len(value) + 4 for name, value in response.trailers.items()) < LARGEST_TRAILERS
        told, document = response.trailers["Lambda-Runtime-Function-Error-Type"], error_of(response)
    else:
        request, document = function.fail()
        told = request.headers["lambda-runtime-function-error-type"]
        names = [name.lower() for name, _ in request.fields]
        assert "x-forged" not in names and len(names) == len(set(names))
        assert len(request.headers["lambda-runtime-function-xray-error-cause"]) <= 64 * 1024
        assert json.loads(request.headers["lambda-runtime-function-xray-error-cause"])["exceptions"]
        assert len(request.body) <= 256 * 1024
    assert told == wire_type
    assert message is None or document["errorMessage"] == message
    assert function.respond("fine").body == b"fine"
    assert function.stdout.count("[ERROR]") == function.stdout.count("\n") == 1
    assert function.told == ["an error of the function is in the log"]


def test_a_long_recursion_is_told_in_a_few_lines(runtime):
    function = runtime("def f(n):\n    return f(n + 1)\ndef handler(event, context):\n    yield f(0)\n")
    _, document = function.fail()
    assert len(document["stackTrace"]) < 20
    assert "Previous line repeated" in "".join(document["stackTrace"])


def test_causes_contexts_and_members_are_told_to_the_log_and_to_xray(runtime):
    function = runtime(
        "def handler(event, context):\n"
        "    try:\n        open('/nonesuch')\n"
        "    except OSError as error:\n"
        "        raise ExceptionGroup('many', [ValueError('one'), KeyError('two')]) from error\n"
        "    yield b''\n"
    )
    request, _ = function.fail()
    function.expect_next()
    cause = json.loads(request.headers["lambda-runtime-function-xray-error-cause"])
    types = [each["type"] for each in cause["exceptions"]]
    assert types == ["ExceptionGroup", "FileNotFoundError", "ValueError", "KeyError"]
    assert function.stdout.count("\n") == 1
    for said in ("Related: FileNotFoundError", "Related: ValueError: one", "Related: KeyError: 'two'"):
        assert said in function.stdout


def test_errors_that_cause_each_other_in_a_circle_come_to_an_end(runtime):
    function = runtime(
        "def handler(event, context):\n"
        "    a, b = ValueError('a'), ValueError('b')\n    a.__cause__, b.__cause__ = b, a\n    raise a\n    yield b''\n"
    )
    assert function.fail()[1]["errorMessage"] == "a"
    function.expect_next()


LATE = """
{keyword} handler(event, context):
    try:
        yield {chunk}
    finally:
        raise ValueError("late")
"""


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_an_error_in_finally_is_told_in_place_of_the_end(runtime, keyword):
    response = runtime(LATE.format(keyword=keyword, chunk="b'a'")).respond()
    assert response.chunks == [b"a"]
    assert error_of(response)["errorMessage"] == "late"


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_an_error_in_finally_does_not_hide_why_the_generator_was_left(runtime, keyword):
    function = runtime(LATE.format(keyword=keyword, chunk="'text'"))
    assert function.fail()[1]["errorType"] == "Runtime.InvalidChunk"
    function.expect_next()
    assert "ValueError: late" in function.stdout


def test_a_generator_that_refuses_to_end_is_logged_and_left(runtime):
    code = "def handler(event, context):\n    while True:\n        try:\n            yield 5\n"
    function = runtime(code + "        except GeneratorExit:\n            pass\n")
    assert function.fail()[1]["errorType"] == "Runtime.InvalidChunk"
    function.expect_next()
    assert "generator ignored GeneratorExit" in function.stdout


@pytest.mark.parametrize(
    "code",
    [
        "def handler(event, context, one_too_many):\n    yield b''\n",
        "def handler():\n    yield b''\n",
        "class Handler:\n    def __init__(self, event, context):\n        raise TypeError('no')\nhandler = Handler\n",
    ],
)
def test_an_error_when_the_generator_is_made_goes_to_error(runtime, code):
    function = runtime(code)
    assert function.fail()[1]["errorType"] == "TypeError"
    function.expect_next()


def test_an_error_in_the_iterator_itself_goes_where_it_belongs(runtime):
    function = runtime(
        "class Stream:\n    def __init__(self, event, context):\n        self.left = event\n"
        "    def __iter__(self):\n        return self\n"
        "    def __next__(self):\n        if not self.left:\n            raise KeyError('end')\n"
        "        self.left -= 1\n        return b'x'\n"
        "handler = Stream\n"
    )
    assert function.fail(0)[1]["errorType"] == "KeyError"
    assert error_of(function.respond(2))["errorMessage"] == "'end'"


def test_the_frames_of_the_runtime_are_not_in_the_trace(runtime):
    function = runtime(
        {
            "lambda_function.py": "import other\ndef handler(event, context):\n    other.work()\n    yield b''\n",
            "other.py": "def work():\n    raise ValueError('deep')\n",
        }
    )
    _, document = function.fail()
    assert [line.split(", ")[1:] for line in (entry.splitlines()[0] for entry in document["stackTrace"])] == [
        ["line 3", "in handler"],
        ["line 2", "in work"],
    ]


def test_an_error_at_import_shows_the_frames_of_the_function(runtime):
    function = runtime({"lambda_function.py": "import other\n", "other.py": "raise ValueError('at import')\n"})
    _, document = function.read_init_error()
    assert [entry.splitlines()[0].rsplit("/", 1)[1] for entry in document["stackTrace"]] == [
        'lambda_function.py", line 1, in <module>',
        'other.py", line 1, in <module>',
    ]


def test_bad_client_context_is_an_error_of_the_invocation_and_not_of_the_environment(runtime):
    function = runtime("def handler(event, context):\n    yield b'fine'\n")
    for bad in ("{", "[]", "5", '"text"'):
        _, document = function.fail(headers={"Lambda-Runtime-Client-Context": bad})
        assert document["errorType"] == "Runtime.LambdaContextUnmarshalError"
    assert function.respond().body == b"fine"
