"""`python3 main.py` in processes of its own: what a stranger sees of it, and what an enemy tries on it."""

from __future__ import annotations

import array
import base64
import fcntl
import json
import os
import pty
import re
import runpy
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.emulator import BARE_ENVIRONMENT, ROOT, FunctionFolder, Program, Result, run, until

Made = Callable[..., FunctionFolder]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """Makes the folder of a function out of its source."""
    roots: list[FunctionFolder] = []

    def make(source: str, name: str = "a-function", module: str = "lambda_function") -> FunctionFolder:
        roots.append(FunctionFolder(tmp_path / name, source, module))
        return roots[-1]

    yield make
    for root in roots:
        root.__exit__()


def error_of(result: Result) -> dict[str, Any]:
    """The error that the caller of the function gets, from the last line of the standard error."""
    return json.loads(result.err.splitlines()[-1])


def assert_refused(result: Result, *words: str) -> None:
    assert result.err.count("\n") == 1 and result.err.startswith("main.py: error: "), result.err
    assert (result.code, result.out) == (2, b"")
    for word in words:
        assert word in result.err


# Streaming


def test_the_first_word_arrives_before_the_second_is_made(made: Made) -> None:
    function = made("""
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


def test_the_standard_output_holds_the_answer_to_the_byte_and_nothing_else(made: Made) -> None:
    function = made("""
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


def test_an_empty_stream_is_an_empty_answer(made: Made) -> None:
    function = made("def handler(event, context): yield from ()")
    assert run("--function", function.path)[:2] == (0, b"")


def test_a_terminal_gets_a_line_end_after_the_answer(made: Made) -> None:
    function = made("""def handler(event, context): yield b"words" """)
    ours, theirs = pty.openpty()
    try:
        assert run("--function", function.path, stdout=theirs).code == 0
        assert os.read(ours, 100) == b"words\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


# The log


def test_the_standard_error_tells_start_end_and_report(made: Made) -> None:
    function = made("""
        print("loaded")
        def handler(event, context):
            print("id", context.aws_request_id)
            yield b"x"
    """)
    result = run("--function", function.path, "--memory", "512")
    log = re.fullmatch(
        r"loaded\n"
        r"START RequestId: (\S+) Version: \$LATEST\n"
        r"id \1\n"
        r"END RequestId: \1\n"
        r"REPORT RequestId: \1\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\tMemory Size: 512 MB"
        r"(\tMax Memory Used: \d+ MB)?\tInit Duration: \d+\.\d\d ms\tTime To First Byte: \d+\.\d\d ms\n",
        result.err,
    )
    assert log, result.err


def test_an_answer_without_a_byte_has_no_time_to_the_first(made: Made) -> None:
    function = made("def handler(event, context): yield from ()")
    assert "Time To First Byte" not in run("--function", function.path).err


def test_a_print_is_seen_while_the_handler_is_at_work(made: Made) -> None:
    function = made("""
        def handler(event, context):
            print("at work")
            wait()
            yield b"done"
    """)
    with Program("--function", function.path, merged=True) as program:
        assert program.read_through(b"at work\n").startswith(b"START ")
        function.release()
        assert program.read_rest().startswith(b"done\nEND ")


def test_the_report_begins_a_line_after_a_print_without_a_line_end(made: Made) -> None:
    function = made("""
        def handler(event, context):
            print("unfinished", end="")
            yield b"x"
    """)
    assert "\nunfinished\nEND RequestId: " in run("--function", function.path).err


def test_all_that_was_printed_stands_before_the_report(made: Made) -> None:
    function = made("""
        def handler(event, context):
            yield b"x"
            sys.stdout.write("line\\n" * 100_000)
    """)
    before, end, _ = run("--function", function.path).err.partition("END RequestId: ")
    assert before.count("line\n") == 100_000 and end


# Events

ECHO = "def handler(event, context): yield json.dumps(event).encode()"
EVENT = {"sentence": "Grüße, 世界", "nested": [1, 2.5, None, True, {"a": "\u2028\n"}]}


@pytest.mark.parametrize("text", [json.dumps(EVENT), json.dumps(EVENT, ensure_ascii=False, indent=2), " [1, {}]", "{}"])
def test_an_event_is_given_as_an_argument_in_a_file_or_on_standard_input(made: Made, tmp_path: Path, text: str) -> None:
    function = made(ECHO)
    file = tmp_path / "event.json"
    file.write_text(text, encoding="utf-8")
    for argument, stdin in ((text, os.devnull), (str(file), os.devnull), ("-", str(file))):
        with open(stdin, "rb") as opened:
            result = run("-e", argument, "--function", function.path, stdin=opened)
        assert (result.code, json.loads(result.out)) == (0, json.loads(text))


def test_a_relative_event_file_is_looked_for_where_the_command_runs(made: Made, tmp_path: Path) -> None:
    function = made(ECHO)
    (tmp_path / "event.json").write_text("[7]")
    assert run("--event", "event.json", "--function", function.path.name, cwd=tmp_path)[:2] == (0, b"[7]")


def test_an_event_beyond_the_size_of_a_pipe_arrives_whole(made: Made, tmp_path: Path) -> None:
    function = made(ECHO)
    event = json.dumps({"long": "x" * 1_000_000}).encode()
    (tmp_path / "event.json").write_bytes(event)
    assert run("-e", tmp_path / "event.json", "--function", function.path)[:2] == (0, event)


@pytest.mark.parametrize("text", ['{"sentence": ', "{}{}", "[1,]", "{'a': 1}", "[" * 200_000])
def test_an_event_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "event.json"
    file.write_text(text)
    assert_refused(run("-e", file), "not JSON", str(file))
    if len(text) < 100:
        assert_refused(run("-e", text), "not JSON")
    with open(file, "rb") as stdin:
        assert_refused(run("-e", "-", stdin=stdin), "not JSON", "standard input")


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xfe\xfd", b'{"a": "\xff"}'])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "event.json"
    file.write_bytes(data)
    assert_refused(run("-e", file), "not JSON", str(file))


@pytest.mark.parametrize("name", ["missing.json", "", ".", "/proc/self/mem"])
def test_an_event_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    assert_refused(run("-e", name, cwd=tmp_path), "cannot read")


def test_an_argument_that_is_not_utf8_is_refused() -> None:
    assert_refused(run("-e", os.fsdecode(b'{"a": "\xff"}')))


def test_a_standard_input_that_stays_open_does_not_hold_it_up(made: Made) -> None:
    function = made(ECHO)
    reader, writer = os.pipe()
    try:
        assert run("-e", "[1]", "--function", function.path, stdin=reader)[:2] == (0, b"[1]")
    finally:
        os.close(reader)
        os.close(writer)


def test_the_function_has_no_standard_input(made: Made) -> None:
    function = made("def handler(event, context): yield sys.stdin.buffer.read()")
    reader, writer = os.pipe()
    try:
        assert run("--function", function.path, stdin=reader)[:2] == (0, b"")
    finally:
        os.close(reader)
        os.close(writer)


# Failures


def test_an_error_of_the_function_is_told_as_the_caller_gets_it(made: Made) -> None:
    function = made("""
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


def test_an_error_after_the_first_byte_leaves_the_partial_answer(made: Made) -> None:
    function = made("""
        def handler(event, context):
            yield b"one "
            raise KeyError("two")
    """)
    result = run("--function", function.path)
    assert (result.code, result.out) == (1, b"one ")
    assert error_of(result)["errorType"] == "KeyError"


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ("return {'statusCode': 200}", "Runtime.InvalidHandler"),
        ("yield 'text'", "Runtime.InvalidChunk"),
        ("yield b''; sys.exit(3)", "Runtime.ExitError"),
        ("yield b''; os._exit(0)", "Runtime.ExitError"),
        ("yield b''; os.kill(os.getpid(), 9)", "Runtime.ExitError"),
        ("yield b''; os.abort()", "Runtime.ExitError"),
    ],
)
def test_a_handler_that_breaks_the_rules_fails(made: Made, body: str, error_type: str) -> None:
    function = made(f"def handler(event, context): {body}")
    result = run("--function", function.path)
    assert (result.code, result.out) == (1, b"")
    assert error_of(result)["errorType"] == error_type


@pytest.mark.parametrize("end", ["sys.exit(3)", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_process_that_ends_within_its_answer_leaves_the_partial_answer(made: Made, end: str) -> None:
    function = made(f"""
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
def test_a_function_that_cannot_be_loaded_is_told_of(made: Made, source: str, error_type: str) -> None:
    result = run("--function", made(source).path)
    assert (result.code, result.out) == (1, b"")
    assert error_of(result)["errorType"] == error_type


@pytest.mark.parametrize("name", ["other.handler", "lambda_function.other", "handler", "", "."])
def test_a_handler_name_that_leads_nowhere_is_told_of(made: Made, name: str) -> None:
    function = made(ECHO)
    result = run("--function", function.path, "--handler", name)
    assert (result.code, result.out) == (1, b"")
    assert error_of(result)["errorType"].startswith("Runtime.")


def test_another_module_can_hold_the_handler(made: Made) -> None:
    function = made("def answer(event, context): yield b'here'", module="app")
    assert run("--function", function.path, "--handler", "app.answer")[:2] == (0, b"here")


@pytest.mark.parametrize("first", [b"", b"one "])
def test_a_function_that_takes_too_long_is_killed(made: Made, first: bytes) -> None:
    function = made(f"""
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


def test_a_handler_that_ignores_signals_is_killed_too(made: Made) -> None:
    function = made("""
        import signal
        def handler(event, context):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            hold_lifeline()
            while True:
                yield b""
    """)
    assert error_of(run("--function", function.path, "--timeout", "0.5"))["errorType"] == "Sandbox.Timedout"
    function.wait_until_gone()


# Usage


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["extra"], "extra"),
        (["--fun", "function"], "--fun"),
        (["--unknown"], "--unknown"),
        (["-e"], "--event"),
        (["--function", "nowhere"], "nowhere"),
        (["--function", "main.py"], "main.py"),
        (["--timeout", "0"], "--timeout"),
        (["--timeout", "-1"], "--timeout"),
        (["--timeout", "901"], "--timeout"),
        (["--timeout", "nan"], "--timeout"),
        (["--timeout", "soon"], "--timeout"),
        (["--memory", "127"], "--memory"),
        (["--memory", "10241"], "--memory"),
        (["--memory", "128.5"], "--memory"),
        (["--memory", "1" * 5000], "--memory"),
        (["--serve", "--port", "65536"], "--port"),
        (["--serve", "--port", "-1"], "--port"),
        (["--serve", "--port", "http"], "--port"),
        (["--serve", "-p", "\N{ARABIC-INDIC DIGIT THREE}"], "--port"),
        (["--serve", "-e", "{}"], "--event"),
        (["--port", "0"], "--serve"),
        (["--host", "127.0.0.1"], "--serve"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], word: str) -> None:
    assert_refused(run(*arguments, cwd=ROOT), word)


def test_help_tells_the_flags_and_the_exit_codes() -> None:
    result = run("--help")
    assert (result.code, result.err) == (0, "")
    for word in ("--event", "--serve", "--port", "--host", "--function", "--handler", "--timeout", "--memory", "130"):
        assert word.encode() in result.out


# The environment of the function

SHELLS_AND_PYTHONS_OWN = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
MANAGED_RUNTIMES = {
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_EXEC_WRAPPER",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_FORMAT",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "LANG",
    "LD_LIBRARY_PATH",
    "PATH",
    "TMPDIR",
    "TZ",
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
}


def test_the_function_sees_lambdas_variables_and_none_of_the_shells(made: Made) -> None:
    function = made("def handler(event, context): yield json.dumps(dict(os.environ)).encode()")
    shell = {
        "AWS_PROFILE": "production",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "PYTHONPATH": str(function.path.parent),
        "PYTHONWARNINGS": "ignore",
        "SECRET": "1",
    }
    result = run("--function", function.path, "--memory", "1024", env=BARE_ENVIRONMENT | shell)
    seen = json.loads(result.out)
    assert seen.keys() - SHELLS_AND_PYTHONS_OWN == MANAGED_RUNTIMES
    assert {name: seen[name] for name in ("AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "TZ")} == {
        "AWS_LAMBDA_FUNCTION_NAME": "a-function",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "TZ": ":UTC",
    }
    assert seen["_HANDLER"] == "lambda_function.handler"
    assert seen["LAMBDA_TASK_ROOT"] == str(function.path)
    assert seen["AWS_LAMBDA_LOG_GROUP_NAME"] == "/aws/lambda/a-function"
    assert seen["AWS_LAMBDA_EXEC_WRAPPER"] == str(ROOT / "layer/bootstrap")
    assert seen["PATH"] == "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin"
    assert all(folder.startswith((str(function.path), "/opt")) for folder in seen["LD_LIBRARY_PATH"].split(":"))


def test_the_context_says_what_the_variables_say(made: Made) -> None:
    function = made("""
        def handler(event, context):
            yield f"{context.function_name} {context.memory_limit_in_mb} {context.invoked_function_arn}".encode()
            yield b" in time" if 20_000 < context.get_remaining_time_in_millis() <= 25_000 else b" too late"
    """)
    result = run("--function", function.path, "--timeout", "25")
    arn = b"arn:aws:lambda:us-east-1:123456789012:function:a-function"
    assert result.out == b"a-function 128 " + arn + b" in time"


def test_the_working_directory_is_the_task_root(made: Made) -> None:
    function = made("def handler(event, context): yield os.getcwd().encode()")
    assert run("--function", function.path)[:2] == (0, bytes(function.path))


def test_the_function_runs_on_the_interpreter_that_runs_the_emulator(made: Made) -> None:
    function = made("def handler(event, context): yield sys.executable.encode()")
    assert run("--function", function.path)[:2] == (0, os.fsencode(sys.executable))


@pytest.mark.parametrize("environment", [{}, BARE_ENVIRONMENT, {"LANG": "C", "LC_ALL": "POSIX", "PATH": "/nowhere"}])
def test_it_works_in_a_bare_environment(made: Made, environment: dict[str, str]) -> None:
    function = made(ECHO)
    argument = json.dumps(EVENT, ensure_ascii=False)
    result = run("-e", argument, "--function", function.path, env=environment)
    assert (result.code, json.loads(result.out)) == (0, EVENT)


def test_a_function_can_have_modules_named_like_the_runtimes(made: Made) -> None:
    function = made("""
        import bootstrap, runtime, tools
        def handler(event, context): yield (runtime.NAME + bootstrap.NAME + tools.NAME).encode()
    """)
    for name in ("runtime", "bootstrap", "tools"):
        (function.path / f"{name}.py").write_text(f"NAME = 'own {name} '")
    assert run("--function", function.path)[:2] == (0, b"own runtime own bootstrap own tools ")


@pytest.mark.parametrize("name", ["plain", "with a space", "gr\u00fc\u00dfe", "it's", "-e", "$HOME"])
def test_a_run_leaves_nothing_in_a_checkout_whatever_its_name(tmp_path: Path, made: Made, name: str) -> None:
    checkout = tmp_path / "checkouts" / name
    for folder in ("layer", "function", "tools/common", "tools/emulator"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "main.py", checkout)
    (checkout / "function" / "words.py").write_text("WORD = b'word'")
    (checkout / "function" / "lambda_function.py").write_text(
        "from words import WORD\ndef handler(event, context): yield WORD"
    )
    before = sorted(checkout.rglob("*"))
    assert run(command=(sys.executable, checkout / "main.py"))[:2] == (0, b"word")
    assert sorted(checkout.rglob("*")) == before


# The end


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_the_stream_ends_it_and_all_its_processes(made: Made, signum: int) -> None:
    function = made("""
        def handler(event, context):
            hold_lifeline(in_a_child=True)
            yield b"one "
            wait()
    """)
    with Program("--function", function.path) as program:
        assert program.read(4) == b"one "
        program.interrupt(signum)
        result = program.end()
    assert (result.code, result.out) == (130, b"")
    assert "Traceback" not in result.err
    function.wait_until_gone()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_function_is_loaded_ends_it(made: Made, signum: int) -> None:
    function = made("""
        hold_lifeline(in_a_child=True)
        notify("loading")
        wait()
    """)
    with Program("--function", function.path) as program:
        assert function.receive() == "loading"
        program.interrupt(signum)
        result = program.end()
    assert (result.code, result.out) == (130, b"")
    assert "Traceback" not in result.err
    function.wait_until_gone()


def test_a_signal_ends_it_while_nobody_reads_its_output(made: Made) -> None:
    function = made("""
        def handler(event, context):
            hold_lifeline()
            while True:
                yield b"x" * 100_000
    """)
    with Program("--function", function.path) as program:
        assert program.read(1) == b"x"
        program.interrupt()
        assert program.process.wait(60) == 130
    function.wait_until_gone()


def test_ctrl_c_works_in_a_job_that_a_shell_started_in_the_background(made: Made) -> None:
    function = made("""
        def handler(event, context):
            yield b"one "
            wait()
    """)
    ignoring = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, ROOT / "main.py")
    with Program("--function", function.path, command=ignoring) as program:
        assert program.read(4) == b"one "
        program.interrupt()
        assert program.end().code == 130


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_event_is_awaited_ends_it_quietly(signum: int) -> None:
    reader, writer = os.pipe()
    try:
        with Program("-e", "-", stdin=reader) as program:
            os.write(writer, b"[" * 100)
            until(lambda: not unread(reader))
            program.interrupt(signum)
            result = program.end()
    finally:
        os.close(reader)
        os.close(writer)
    assert (result.code, result.out, result.err) == (130, b"", "")


def unread(pipe: int) -> int:
    """How many bytes a pipe holds."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_a_reader_that_leaves_early_ends_it(made: Made) -> None:
    function = made("""
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
def test_an_answer_that_cannot_be_written_is_a_failure_of_one_line(made: Made, redirection: str) -> None:
    function = made("""
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


def test_an_event_from_a_closed_standard_input_is_refused() -> None:
    shell = ("/bin/sh", "-c", 'exec "$@" <&-', "sh", sys.executable, ROOT / "main.py")
    assert_refused(run("-e", "-", command=shell))


def test_the_answer_is_whole_where_nobody_can_read_the_log(made: Made) -> None:
    function = made("""
        def handler(event, context):
            print("unheard")
            yield b"word"
    """)
    shell = ("/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, ROOT / "main.py")
    assert run("--function", function.path, command=shell)[:2] == (0, b"word")


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("raise ValueError", 1), ("sys.exit(3)", 1), ("os._exit(3)", 1), ("os.abort()", 1)]
)
def test_a_child_of_the_function_does_not_stay_behind(made: Made, end: str, code: int) -> None:
    function = made(f"""
        def handler(event, context):
            hold_lifeline(in_a_child=True)
            yield b"one "
            {end}
    """)
    assert run("--function", function.path)[:2] == (code, b"one ")
    function.wait_until_gone()


# The sample


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the sample function's module; its pauses are left out."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return runpy.run_path(str(ROOT / "function" / "lambda_function.py"))


def url_event(body: str | None, encoded: bool = False) -> dict[str, Any]:
    return {"version": "2.0", "requestContext": {}, "body": body, "isBase64Encoded": encoded}


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_the_sample_streams_its_event_without_any_argument() -> None:
    result = run()
    assert result.out == b"Streaming a response word by word from AWS Lambda "
    assert result.code == 0 and "REPORT " in result.err


@pytest.mark.parametrize(
    ("event", "answer"),
    [('{"sentence": "Hello world"}', b"Hello world "), ('{"sentence": ""}', b""), ('{"sentence": " \\t "}', b"")],
)
def test_the_sample_streams_a_sentence(event: str, answer: bytes) -> None:
    assert run("-e", event)[:2] == (0, answer)


@pytest.mark.parametrize("event", ['{"sentence": 5}', "[]", '["sentence"]'])
def test_the_sample_says_what_it_expects(event: str) -> None:
    result = run("-e", event)
    assert (result.code, result.out) == (1, b"")
    assert error_of(result)["errorType"] == "ValueError"
    assert "expected" in error_of(result)["errorMessage"]


@pytest.mark.parametrize(
    ("event", "chunks"),
    [
        ({"sentence": "Test streaming response"}, [b"Test ", b"streaming ", b"response "]),
        ({"sentence": " two\t\n\r words\u00a0\u2003"}, [b"two ", b"words "]),
        ({"sentence": "Grüße 世界 \U0001f600"}, ["Grüße ".encode(), "世界 ".encode(), "\U0001f600 ".encode()]),
        ({"sentence": ""}, []),
        (url_event('{"sentence": "a b"}'), [b"a ", b"b "]),
        (url_event(in_base64('{"sentence": "ä b"}'), encoded=True), ["ä ".encode(), b"b "]),
    ],
)
def test_the_sample_yields_a_chunk_for_each_word(sample: dict[str, Any], event: Any, chunks: list[bytes]) -> None:
    assert list(sample["handler"](event, None)) == chunks


@pytest.mark.parametrize("event", [{}, {"other": 1}, url_event(None), url_event(""), url_event("{}")])
def test_the_sample_has_a_sentence_of_its_own(sample: dict[str, Any], event: Any) -> None:
    own = sample["DEFAULT_SENTENCE"]
    assert list(sample["handler"](event, None)) == [f"{word} ".encode() for word in own.split()]


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "text",
        {"sentence": None},
        {"sentence": ["a"]},
        url_event("no JSON"),
        url_event("[]"),
        url_event("null"),
        url_event("%%%", encoded=True),
        url_event(base64.b64encode(b"\xff\xfe").decode(), encoded=True),
    ],
)
def test_the_sample_refuses_what_is_no_sentence(sample: dict[str, Any], event: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        list(sample["handler"](event, None))


def test_the_sample_pauses_after_a_word_and_not_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = runpy.run_path(str(ROOT / "function" / "lambda_function.py"))
    told: list[object] = []
    monkeypatch.setattr(time, "sleep", told.append)
    for word in sample["handler"]({"sentence": "a b"}, None):
        told.append(word)
    assert told == [b"a ", sample["SECONDS_PER_WORD"], b"b ", sample["SECONDS_PER_WORD"]]


def test_python_that_is_too_old_is_told_so(tmp_path: Path) -> None:
    # Only the version is another; the check must come before anything that an old Python cannot run.
    pretend = (
        "import sys, collections\n"
        "sys.version_info = (3, 10, 13); sys.version = '3.10.13 (main)'\n"
        f"sys.argv = ['main.py']; exec(compile(open({str(ROOT / 'main.py')!r}).read(), 'main.py', 'exec'))"
    )
    result = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "main.py: error: needs Python 3.11 or newer; this is Python 3.10.13\n"
