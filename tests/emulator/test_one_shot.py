"""One invocation: `python3 main.py`."""

from __future__ import annotations

import sys

import pytest
from support.emulator import ECHO, ROOT, MakeFunction, Program, error_of, run


def test_the_first_chunk_is_written_before_the_second_is_made(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"one "
            wait()
            yield b"two "
            wait()
            notify("the last word is made")
            yield b"three"
    """)
    with Program("--function", function.path) as program:
        assert program.read(4) == b"one "
        function.release()
        assert program.read(4) == b"two "
        function.release()
        assert function.receive() == "the last word is made"
        assert program.end()[:2] == (0, b"three")


def test_standard_output_is_exactly_the_response(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            print("a log line")
            yield bytes(range(256))
            yield b""
            yield b"0\\r\\n\\r\\n"
            yield b"x" * 3_000_001
            print("another", file=sys.stderr)
    """)
    result = run("--function", function.path)
    assert result.code == 0
    assert result.out == bytes(range(256)) + b"0\r\n\r\n" + b"x" * 3_000_001


def test_an_empty_stream_is_an_empty_response(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield from ()
    """)
    assert run("--function", function.path)[:2] == (0, b"")


def test_an_error_of_the_function_is_printed_as_its_caller_receives_it(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            raise ValueError("no such word: ä")
            yield
    """)
    result = run("--function", function.path)
    assert (result.code, result.out) == (1, b"")
    error = error_of(result)
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no such word: ä")
    assert f'File "{function.path}/lambda_function.py"' in error["stackTrace"][0]
    assert "Status: error\tError Type: ValueError" in result.err


def test_an_error_after_the_first_byte_leaves_the_partial_response(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"one "
            raise KeyError("two")
    """)
    result = run("--function", function.path)
    assert (result.code, result.out) == (1, b"one ")
    assert error_of(result)["errorType"] == "KeyError"


@pytest.mark.parametrize(
    ("body", "error_type"),
    [("return {'statusCode': 200}", "Runtime.InvalidHandler"), ("yield 'text'", "Runtime.InvalidChunk")],
)
def test_a_handler_that_violates_the_contract_fails(make_function: MakeFunction, body: str, error_type: str) -> None:
    function = make_function(f"""
        def handler(event, context):
            {body}
    """)
    result = run("--function", function.path)
    assert (result.code, result.out) == (1, b"")
    assert error_of(result)["errorType"] == error_type


@pytest.mark.parametrize("end", ["sys.exit(3)", "os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_the_end_of_the_process_before_the_first_byte_is_an_exit_error(make_function: MakeFunction, end: str) -> None:
    function = make_function(f"""
        def handler(event, context):
            yield b""
            {end}
    """)
    result = run("--function", function.path)
    assert (result.code, result.out) == (1, b"")
    assert error_of(result)["errorType"] == "Runtime.ExitError"


@pytest.mark.parametrize("end", ["sys.exit(3)", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_the_end_of_the_process_in_the_middle_of_a_response_leaves_the_partial_response(
    make_function: MakeFunction, end: str
) -> None:
    function = make_function(f"""
        def handler(event, context):
            yield b"one "
            {end}
            yield b"two "
    """)
    result = run("--function", function.path)
    assert (result.code, result.out) == (1, b"one ")
    assert error_of(result)["errorType"] == "Runtime.ExitError"


@pytest.mark.parametrize(
    ("source", "error_type"),
    [
        ("import nothing_of_this_name", "Runtime.ImportModuleError"),
        ("def handler(event, context) yield", "Runtime.UserCodeSyntaxError"),
        ("handlers = 1", "Runtime.HandlerNotFound"),
        ("raise RuntimeError('at import')", "RuntimeError"),
        ("sys.exit(3)", "Runtime.ExitError"),
        ("os._exit(3)", "Runtime.ExitError"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_reported(
    make_function: MakeFunction, source: str, error_type: str
) -> None:
    result = run("--function", make_function(source).path)
    assert (result.code, result.out) == (1, b"")
    assert error_of(result)["errorType"] == error_type


@pytest.mark.parametrize("name", ["other.handler", "lambda_function.other", "handler", "", "."])
def test_a_wrong_handler_name_is_reported(make_function: MakeFunction, name: str) -> None:
    function = make_function(ECHO)
    result = run("--function", function.path, "--handler", name)
    assert (result.code, result.out) == (1, b"")
    assert error_of(result)["errorType"].startswith("Runtime.")


def test_another_module_can_contain_the_handler(make_function: MakeFunction) -> None:
    function = make_function(
        """
        def respond(event, context):
            yield b'here'
    """,
        module="app",
    )
    assert run("--function", function.path, "--handler", "app.respond")[:2] == (0, b"here")


@pytest.mark.parametrize("first", [b"", b"one "])
def test_a_function_that_takes_too_long_is_killed(make_function: MakeFunction, first: bytes) -> None:
    function = make_function(f"""
        def handler(event, context):
            hold_lifeline(in_a_child=True)
            yield {first!r}
            wait()
    """)
    result = run("--function", function.path, "--timeout", "0.5")
    assert (result.code, result.out) == (1, first)
    assert error_of(result)["errorType"] == "Sandbox.Timedout"
    assert "timed out after 0.50 seconds" in error_of(result)["errorMessage"]
    function.wait_until_gone()


def test_a_handler_that_ignores_signals_is_killed(make_function: MakeFunction) -> None:
    function = make_function("""
        import signal
        def handler(event, context):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            hold_lifeline()
            while True:
                yield b""
    """)
    assert error_of(run("--function", function.path, "--timeout", "0.5"))["errorType"] == "Sandbox.Timedout"
    function.wait_until_gone()


def test_a_reader_that_closes_the_pipe_ends_the_run(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            hold_lifeline()
            yield b"one "
            wait()
            while True:
                yield b"more "
    """)
    with Program("--function", function.path) as program:
        assert program.read(4) == b"one "
        program.close_stdout()
        function.release()
        result = program.end()
    assert result.code == 1
    assert result.err.splitlines()[-1] == "error: cannot write the response to standard output: Broken pipe"
    assert "Traceback" not in result.err
    function.wait_until_gone()


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "<&- >&-", "<&- >&- 2>&-"])
def test_a_response_that_cannot_be_written_is_an_error_of_one_line(
    make_function: MakeFunction, redirection: str
) -> None:
    function = make_function("""
        def handler(event, context):
            hold_lifeline()
            yield b"word"
    """)
    shell = ("/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, ROOT / "main.py")
    result = run("--function", function.path, command=shell)
    assert (result.code, result.out) == (1, b"")
    assert "Traceback" not in result.err
    if "2>" not in redirection:
        assert result.err.splitlines()[-1].startswith("error: ")
    function.wait_until_gone()


def test_the_response_is_complete_if_the_log_cannot_be_written(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            print("unheard")
            yield b"word"
    """)
    shell = ("/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, ROOT / "main.py")
    assert run("--function", function.path, command=shell)[:2] == (0, b"word")
