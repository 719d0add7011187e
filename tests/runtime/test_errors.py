"""Error reports: hostile exceptions, and exceptions raised in unusual places. The framing stays intact."""

from __future__ import annotations

import json
import sys

import pytest

LARGEST_TRAILERS = 4096  # bytes; what the HTTP server of Go reads at most


# What the function raises, the error type on the wire, and the message if it arrives unchanged.
HOSTILE = {
    "CR LF in the name": (
        r"""
        def fail():
            raise type("Bad\r\nX-Forged: 1\r\n\r\n", (Exception,), {})("m")
        """,
        "Function.Bad__X_Forged__1____",
        "m",
    ),
    "a name of 10,000 letters": (
        """
        def fail():
            raise type("E" * 10_000, (Exception,), {})("m")
        """,
        "Function." + "E" * 128,
        "m",
    ),
    "a name that is not ASCII": (
        """
        class Ünfug(Exception):
            pass

        def fail():
            raise Ünfug("m")
        """,
        "Function.Exception__nfug",
        "m",
    ),
    "CR LF NUL in the message": (
        r"""
        def fail():
            raise ValueError("a\r\nX-Forged: 1\r\n\r\n\0b")
        """,
        "Function.ValueError",
        None,
    ),
    "a lone surrogate": (
        r"""
        def fail():
            raise ValueError("\udc80")
        """,
        "Function.ValueError",
        "\udc80",
    ),
    "10 MB": (
        """
        def fail():
            raise ValueError("x" * 10_000_000)
        """,
        "Function.ValueError",
        None,
    ),
    "10 MB that become 60 MB in JSON": (
        r"""
        def fail():
            raise ValueError("\0" * 10_000_000)
        """,
        "Function.ValueError",
        None,
    ),
    "a __str__ that raises": (
        """
        class E(Exception):
            def __str__(self):
                raise ZeroDivisionError

        def fail():
            raise E
        """,
        "Function.Exception_E",
        "<str() of a E failed>",
    ),
    "a __str__ that calls sys.exit": (
        """
        import sys

        class E(Exception):
            def __str__(self):
                sys.exit(5)

        def fail():
            raise E
        """,
        "Function.Exception_E",
        "<str() of a E failed>",
    ),
    "a __str__ that returns no str": (
        """
        class E(Exception):
            def __str__(self):
                return 5

        def fail():
            raise E
        """,
        "Function.Exception_E",
        "<str() of a E failed>",
    ),
    "a str with a wrong length": (
        """
        class Text(str):
            def __len__(self):
                return 0

        class E(Exception):
            def __str__(self):
                return Text("m")

        def fail():
            raise E
        """,
        "Function.Exception_E",
        "m",
    ),
    "an __eq__ and a metaclass that raise": (
        """
        class Meta(type):
            @property
            def __name__(self):
                raise ZeroDivisionError

        class E(Exception, metaclass=Meta):
            __hash__ = None

            def __eq__(self, other):
                raise ZeroDivisionError

        def fail():
            raise E("m") from E("n")
        """,
        "Function.Exception_E",
        "m",
    ),
    "a __cause__ and a __context__ that raise": (
        """
        class E(Exception):
            @property
            def __cause__(self):
                raise ZeroDivisionError

            @property
            def __context__(self):
                raise ZeroDivisionError

        def fail():
            raise E("m")
        """,
        "Function.Exception_E",
        "m",
    ),
    "a recursion": (
        """
        def fail():
            return fail()
        """,
        "Function.RecursionError",
        None,
    ),
    "a MemoryError": (
        """
        def fail():
            raise MemoryError("m")
        """,
        "Function.MemoryError",
        "m",
    ),
    "a real lack of memory": (
        """
        def fail():
            bytes(1 << 60)
        """,
        "Function.MemoryError",
        "",
    ),
    "GeneratorExit": (
        """
        def fail():
            raise GeneratorExit("m")
        """,
        "Function.GeneratorExit",
        "m",
    ),
    "a subclass of BaseException": (
        """
        class E(BaseException):
            pass

        def fail():
            raise E("m")
        """,
        "Function.Exception_E",
        "m",
    ),
    "StopIteration": (
        """
        def fail():
            raise StopIteration("m")
        """,
        "Function.RuntimeError",
        "generator raised StopIteration",
    ),
    "a group": (
        """
        def fail():
            raise ExceptionGroup("many", [ValueError("a"), KeyError("b")])
        """,
        "Function.ExceptionGroup",
        None,
    ),
}


@pytest.mark.parametrize("after_a_chunk", [False, True], ids=["before the first byte", "after the first byte"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_exception_is_reported_and_never_breaks_the_framing(runtime, kind, after_a_chunk):
    code, wire_type, message = HOSTILE[kind]
    handler = f"""
        from hostile import fail

        def handler(event, context):
            if event:
                yield b"fine"
                return
            if {after_a_chunk}:
                yield b"part"
            fail()
            yield b"never"
        """
    function = runtime({"hostile.py": code, "lambda_function.py": handler})
    if after_a_chunk:
        response = function.respond()
        assert response.chunks == [b"part"]
        assert set(response.trailers) == {
            "Lambda-Runtime-Function-Error-Type",
            "Lambda-Runtime-Function-Error-Body",
        }
        assert sum(len(name) + len(value) + 4 for name, value in response.trailers.items()) < LARGEST_TRAILERS
        reported, document = response.trailers["Lambda-Runtime-Function-Error-Type"], response.error
    else:
        request, document = function.fail()
        reported = request.headers["lambda-runtime-function-error-type"]
        names = [name.lower() for name, _ in request.fields]
        assert "x-forged" not in names and len(names) == len(set(names))
        assert len(request.headers["lambda-runtime-function-xray-error-cause"]) <= 64 * 1024
        assert json.loads(request.headers["lambda-runtime-function-xray-error-cause"])["exceptions"]
        assert len(request.body) <= 256 * 1024
    assert reported == wire_type
    assert message is None or document["errorMessage"] == message
    assert function.respond("fine").body == b"fine"
    assert function.stdout.count("[ERROR]") == function.stdout.count("\n") == 1
    assert function.runtime_lines == ["an error of the function is in the log"]


def test_the_first_error_alone_is_preceded_by_a_line_of_the_runtime(runtime):
    function = runtime("def handler(event, context): raise ValueError")
    for _ in range(2):
        function.fail()
    function.expect_next()
    assert function.runtime_lines == ["an error of the function is in the log"]


def test_the_service_gets_a_type_that_it_keeps(runtime):
    """It keeps what contains `(Runtime|Function)\\.[A-Z][a-zA-Z]+`."""
    function = runtime(
        """
        def handler(event, context):
            raise type(event, (Exception,), {})("m")
        """
    )
    expected = {
        "Ab1": "Function.Ab1",
        "A1b": "Function.Exception_A1b",
        "lower": "Function.Exception_lower",
        "Two_Words": "Function.Two_Words",
        "Runtime.Reason": "Runtime.Reason",
        "Runtime.reason": "Function.Runtime_reason",
        "Runtime.Two.Reasons": "Function.Runtime_Two_Reasons",
        "Runtime.\u00dcnicode": "Function.Runtime__nicode",
        "Function.Timeout": "Function.Timeout",
        "Function.Other": "Function.Function_Other",
    }
    sent = {name: function.fail(name)[0].headers["lambda-runtime-function-error-type"] for name in expected}
    assert sent == expected


@pytest.mark.parametrize(
    ("statement", "status"),
    [("sys.exit()", 0), ("sys.exit(4)", 4), ("sys.exit('a text')", 1), ("raise KeyboardInterrupt", 130)],
)
def test_an_exception_that_ends_a_process_ends_it_after_the_report(runtime, statement, status):
    function = runtime(
        f"""
        import sys

        def handler(event, context):
            {statement}
            yield
        """
    )
    assert function.fail()[1]["errorType"] in ("Runtime.ExitError", "KeyboardInterrupt")
    assert function.wait() == status


def test_the_trace_of_a_long_recursion_is_short(runtime):
    function = runtime(
        """
        def f(n):
            return f(n + 1)

        def handler(event, context):
            yield f(0)
        """
    )
    _, document = function.fail()
    assert len(document["stackTrace"]) < 20
    assert "Previous line repeated" in "".join(document["stackTrace"])


def test_causes_contexts_and_group_members_are_in_the_log_and_in_the_xray_cause(runtime):
    function = runtime(
        """
        def handler(event, context):
            try:
                open("/nonesuch")
            except OSError as error:
                raise ExceptionGroup("many", [ValueError("one"), KeyError("two")]) from error
            yield b""
        """
    )
    request, _ = function.fail()
    function.expect_next()
    cause = json.loads(request.headers["lambda-runtime-function-xray-error-cause"])
    types = [each["type"] for each in cause["exceptions"]]
    assert types == ["ExceptionGroup", "FileNotFoundError", "ValueError", "KeyError"]
    assert function.stdout.count("\n") == 1
    for line in ("Related: FileNotFoundError", "Related: ValueError: one", "Related: KeyError: 'two'"):
        assert line in function.stdout


def test_errors_that_cause_each_other_are_reported_once(runtime):
    function = runtime(
        """
        def handler(event, context):
            a, b = ValueError("a"), ValueError("b")
            a.__cause__, b.__cause__ = b, a
            raise a
            yield b""
        """
    )
    request, document = function.fail()
    assert document["errorMessage"] == "a"
    assert messages_in_cause(request) == ["a", "b"]
    function.expect_next()


def test_the_nearest_errors_of_a_long_chain_are_reported(runtime):
    function = runtime(
        """
        def handler(event, context):
            error = None
            for number in range(20):
                try:
                    raise ValueError(number) from error
                except ValueError as raised:
                    error = raised
            raise error
            yield b""
        """
    )
    request, _ = function.fail()
    assert messages_in_cause(request) == [str(number) for number in range(19, 10, -1)]


def test_a_context_is_reported_unless_the_function_has_suppressed_it(runtime):
    function = runtime(
        """
        def handler(event, context):
            try:
                open("/nonesuch")
            except OSError as error:
                if event == "context":
                    raise KeyError("a")
                raise KeyError("a") from (error if event == "cause" else None)
            yield b""
        """
    )
    assert messages_in_cause(function.fail("suppressed")[0]) == ["'a'"]
    for event in ("cause", "context"):
        assert len(messages_in_cause(function.fail(event)[0])) == 2


def test_a_cause_that_is_false_is_reported(runtime):
    function = runtime(
        """
        class Errors(Exception):
            def __len__(self):
                return 0

        def handler(event, context):
            raise KeyError("a") from Errors("no errors")
            yield b""
        """
    )
    assert messages_in_cause(function.fail()[0]) == ["'a'", "no errors"]


def test_a_long_message_is_cut_and_says_so(runtime):
    function = runtime(
        """
        def handler(event, context):
            raise ValueError("x" * event)
            yield b""
        """
    )
    limit = 64 * 1024
    assert function.fail(limit)[1]["errorMessage"] == "x" * limit
    assert function.fail(limit + 1)[1]["errorMessage"] == "x" * limit + " [cut]"


def messages_in_cause(request):
    """Return the messages in the cause for X-Ray: of the error, and of those that are related to it."""
    cause = json.loads(request.headers["lambda-runtime-function-xray-error-cause"])
    return [each["message"] for each in cause["exceptions"]]


LATE = """
{keyword} handler(event, context):
    try:
        yield {chunk}
    finally:
        raise ValueError("late")
"""


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_an_error_in_finally_at_the_end_of_a_stream_is_in_the_trailers(runtime, keyword):
    response = runtime(LATE.format(keyword=keyword, chunk="b'a'")).respond()
    assert response.chunks == [b"a"]
    assert response.error["errorMessage"] == "late"


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_an_error_in_finally_does_not_hide_why_the_generator_was_closed(runtime, keyword):
    function = runtime(LATE.format(keyword=keyword, chunk="'text'"))
    assert function.fail()[1]["errorType"] == "Runtime.InvalidChunk"
    function.expect_next()
    assert "ValueError: late" in function.stdout


def test_a_generator_that_ignores_generatorexit_is_logged(runtime):
    function = runtime(
        """
        def handler(event, context):
            while True:
                try:
                    yield 5
                except GeneratorExit:
                    pass
        """
    )
    assert function.fail()[1]["errorType"] == "Runtime.InvalidChunk"
    function.expect_next()
    assert "generator ignored GeneratorExit" in function.stdout


@pytest.mark.parametrize(
    "code",
    [
        """
        def handler(event, context, one_too_many):
            yield b""
        """,
        """
        def handler():
            yield b""
        """,
        """
        class Handler:
            def __init__(self, event, context):
                raise TypeError("no")

        handler = Handler
        """,
    ],
)
def test_an_error_when_the_handler_is_called_is_posted_to_error(runtime, code):
    function = runtime(code)
    assert function.fail()[1]["errorType"] == "TypeError"
    function.expect_next()


def test_an_error_in_an_iterator_is_posted_to_error_or_in_the_trailers(runtime):
    function = runtime(
        """
        class Stream:
            def __init__(self, event, context):
                self.left = event

            def __iter__(self):
                return self

            def __next__(self):
                if not self.left:
                    raise KeyError("end")
                self.left -= 1
                return b"x"

        handler = Stream
        """
    )
    assert function.fail(0)[1]["errorType"] == "KeyError"
    assert function.respond(2).error["errorMessage"] == "'end'"


def test_the_frames_of_the_runtime_are_not_in_the_trace(runtime):
    function = runtime(
        {
            "lambda_function.py": """
                import other

                def handler(event, context):
                    other.work()
                    yield b""
                """,
            "other.py": """
                def work():
                    raise ValueError("deep")
                """,
        }
    )
    _, document = function.fail()
    assert [line.split(", ")[1:] for line in (entry.splitlines()[0] for entry in document["stackTrace"])] == [
        ["line 4", "in handler"],
        ["line 2", "in work"],
    ]


def test_the_trace_of_an_import_error_has_the_frames_of_the_function(runtime):
    function = runtime({"lambda_function.py": "import other\n", "other.py": "raise ValueError('at import')\n"})
    _, document = function.read_init_error()
    assert [entry.splitlines()[0].rsplit("/", 1)[1] for entry in document["stackTrace"]] == [
        'lambda_function.py", line 1, in <module>',
        'other.py", line 1, in <module>',
    ]


def test_an_invalid_client_context_is_an_error_of_the_invocation_only(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield b"fine"
        """
    )
    for bad in ("{", "[]", "5", '"text"'):
        _, document = function.fail(headers={"Lambda-Runtime-Client-Context": bad})
        assert document["errorType"] == "Runtime.LambdaContextUnmarshalError"
    assert function.respond().body == b"fine"


def test_the_error_document_is_ascii(runtime):
    function = runtime(
        r"""
        def handler(event, context):
            raise ValueError("é \udc80 \0 \u2028")
            yield b""
        """
    )
    request, document = function.fail()
    assert request.body.isascii()
    assert document["errorMessage"] == "é \udc80 \0 \u2028"
    assert json.loads(request.headers["lambda-runtime-function-xray-error-cause"])["exceptions"][0]["message"]


def test_an_error_before_the_first_byte_is_posted_to_error(runtime):
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


def test_an_error_after_the_first_byte_is_in_the_trailers(runtime):
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


def test_the_trailers_have_as_many_of_the_inner_frames_as_fit(runtime):
    function = runtime(
        """
        def odd(depth):
            even(depth - 1)

        def even(depth):
            if depth < 0:
                innermost()
            odd(depth - 1)

        def innermost():
            raise ValueError("boom")

        def handler(event, context):
            yield b"part"
            even(100)
        """
    )
    error = function.respond().error
    assert error["errorMessage"] == "boom"
    assert "in innermost" in error["stackTrace"][-1] and 2 < len(error["stackTrace"]) < 100


def test_the_xray_cause_has_at_most_64_kb_including_related_errors(runtime):
    function = runtime(
        """
        NAME = "a" * 1000
        SOURCE = f'''
        def {NAME}(depth):
            if depth:
                {NAME}(depth - 1)
            raise ValueError(chr(0) * 1000)
        '''
        functions = {}
        exec(SOURCE, functions)

        def handler(event, context):
            cause = None
            for number in range(event):
                try:
                    functions[NAME](10)
                except ValueError as error:
                    error.__cause__ = cause
                    cause = error
            raise cause
            yield
        """
    )
    for errors in (1, 2, 4, 9):
        request, document = function.fail(errors)
        cause = request.headers["lambda-runtime-function-xray-error-cause"]
        assert len(cause) <= 64 * 1024
        assert json.loads(cause)["exceptions"][0]["type"] == "ValueError"
        assert document["errorType"] == "ValueError"


FAILING = {
    "init": """
        raise ValueError("no")
        """,
    "before the first byte": """
        def handler(event, context):
            raise ValueError("no")
            yield b""
        """,
    "within the stream": """
        def handler(event, context):
            yield b"a"
            raise ValueError("no")
        """,
    "within an async stream": """
        async def handler(event, context):
            yield b"a"
            raise ValueError("no")
        """,
}


@pytest.mark.parametrize("phase", FAILING)
def test_an_error_is_reported_if_the_log_is_on_a_full_file_system(runtime, layer, phase):
    start = f"exec {layer}/bootstrap {sys.executable} /var/runtime/bootstrap.py >/dev/full 2>/dev/full"
    function = runtime(FAILING[phase], command=["/bin/sh", "-c", start])
    if phase == "init":
        assert function.read_init_error()[1]["errorType"] == "ValueError"
        assert function.wait() == 1
        return
    for _ in range(2):
        if phase == "before the first byte":
            assert function.fail()[1]["errorType"] == "ValueError"
        else:
            assert function.respond().error["errorType"] == "ValueError"


def test_the_trailers_are_within_their_limit_together(runtime):
    """Servers in Go read trailers into a buffer of 4,096 bytes; the limit of the runtime is 3,500."""
    function = runtime(
        """
        Long = type("E" * 128, (Exception,), {})

        def handler(event, context):
            yield b"a"
            raise Long("x" * event)
        """
    )
    for length in range(1_900, 2_700, 7):  # each step of the message is near the limit once
        trailers = function.respond(length).trailers
        assert sum(map(len, trailers.values())) <= 3_500


def test_the_report_of_each_error_has_a_descriptor_even_if_the_function_has_used_up_all(runtime):
    function = runtime(
        {
            "lambda_function.py": """
                import trouble

                def handler(event, context):
                    if event == "use up":
                        trouble.fail()
                    raise ValueError("first")
                    yield
                """,
            "trouble.py": """
                import os

                files = []

                def fail():
                    while True:
                        files.append(os.open("/dev/null", os.O_RDONLY))
                """,
        }
    )
    _, document = function.fail()
    assert document["errorMessage"] == "first"
    _, document = function.fail("use up")
    assert document["errorType"] == "OSError"
    assert "files.append(os.open" in document["stackTrace"][-1]  # the line was read when no descriptor was free
