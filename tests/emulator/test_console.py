"""The terminal: START, END and REPORT lines, JSON, colours, and the lines of the function."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.emulator import BARE_ENVIRONMENT, ROOT, WAIT, FunctionFolder, MakeFunction, Program, Serving, run, until


def test_a_terminal_receives_a_line_end_after_the_response(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"words"
    """)
    ours, theirs = pty.openpty()
    try:
        assert run("--function", function.path, stdout=theirs).code == 0
        assert os.read(ours, 100) == b"words\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_standard_error_has_start_end_and_report(make_function: MakeFunction) -> None:
    function = make_function("""
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


def test_an_empty_response_has_no_time_to_first_byte(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield from ()
    """)
    assert "Time To First Byte" not in run("--function", function.path).err


def test_a_print_is_written_while_the_handler_runs(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            print("at work")
            wait()
            yield b"done"
    """)
    with Program("--function", function.path, merged=True) as program:
        assert program.read_through(b"at work\n").startswith(b"START ")
        function.release()
        assert program.read_rest().startswith(b"done\nEND ")


def test_lines_of_the_log_begin_a_line_after_an_unfinished_response_on_the_same_output(
    make_function: MakeFunction,
) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"one"
            wait()
            print("two")
            wait()
            yield b"three"
    """)
    with Program("--function", function.path, merged=True) as program:
        program.read_through(b"one")
        function.release()
        assert program.read_through(b"two\n") == b"\ntwo\n"
        function.release()
        assert program.read_through(b"END ") == b"three\nEND "


def test_an_init_error_is_logged_between_start_and_end(make_function: MakeFunction) -> None:
    function = make_function("import nothing_of_this_name")
    lines = run("--function", function.path).err.splitlines()
    positions = [
        next(number for number, line in enumerate(lines) if line.startswith(start))
        for start in ("START RequestId: ", "END RequestId: ", "REPORT RequestId: ")
    ]
    assert positions == sorted(positions) and "Runtime.ImportModuleError" in lines[positions[-1]]


def test_end_begins_a_line_after_a_print_without_a_line_end(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            print("unfinished", end="")
            yield b"x"
    """)
    assert "\nunfinished\nEND RequestId: " in run("--function", function.path).err


def test_everything_that_was_printed_precedes_the_report(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"x"
            sys.stdout.write("line\\n" * 100_000)
    """)
    before, end, _ = run("--function", function.path).err.partition("END RequestId: ")
    assert before.count("line\n") == 100_000 and end


def invocations(errors: str) -> list[dict[str, Any]]:
    """The objects of --json among the function's own lines."""
    return [json.loads(line) for line in errors.splitlines() if line.startswith('{"time"')]


def test_json_writes_one_object_per_invocation(serving: Serving) -> None:
    server, _ = serving(
        """
        def handler(event, context):
            print("unfinished", end="")
            yield context.aws_request_id.encode()
            if event["rawPath"] == "/fail":
                raise ValueError("ä")
        """,
        *("--json", "--memory", "256"),
    )
    first, second = server.get(), server.request("GET /fail HTTP/1.0")
    until(lambda: len(invocations(server.errors())) == 2)
    ok, failed = invocations(server.errors())
    assert "START" not in server.errors() and "REPORT" not in server.errors()
    assert ok.pop("time").endswith("Z")
    for name in ("durationMs", "billedDurationMs", "initDurationMs", "timeToFirstByteMs"):
        assert ok.pop(name) > 0
    assert ok.pop("maxMemoryUsedMB") is None or sys.platform == "linux"
    assert ok == {
        "function": "a-function",
        "requestId": first.body.decode(),
        "version": "$LATEST",
        "status": "success",
        "responseBytes": 36,
        "memorySizeMB": 256,
    }
    assert (failed["status"], failed["errorType"], failed["initDurationMs"]) == ("error", "ValueError", None)
    assert failed["error"]["errorMessage"] == "ä" and second.status == 200


def test_json_does_not_change_the_response(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"words"
    """)
    result = run("--json", "--function", function.path)
    assert result[:2] == (0, b"words")
    assert json.loads(result.err)["status"] == "success"
    result = run("--json", "--function", function.path, "--handler", "other.handler")
    assert result.code == 1
    [report] = invocations(result.err)
    assert (report["status"], report["errorType"]) == ("error", "Runtime.ImportModuleError")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the memory of a running process")
def test_the_report_has_the_peak_memory_of_the_process(tmp_path: Path) -> None:
    source = """
        def handler(event, context):
            x = bytearray(100_000_000)
            x[::4096] = x[::4096]
            del x
            yield b''
    """
    with FunctionFolder(tmp_path / "a-function", source) as root:
        used = re.search(r"Max Memory Used: (\d+) MB", run("--function", root.path).err)
    assert used is not None and 95 < int(used[1]) < 200


ESCAPE = b"\x1b["


def on_a_terminal(*arguments: str | Path, **variables: str) -> bytes:
    """What a program writes to standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    try:
        environment = {"TERM": "xterm", **BARE_ENVIRONMENT, **variables}
        command = [sys.executable, ROOT / "main.py", *arguments]
        subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, cwd="/", timeout=WAIT)
    finally:
        os.close(theirs)
    seen = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other side is closed, and all was read
            break
        if not data:
            break
        seen += data
    os.close(ours)
    return seen


def test_a_terminal_has_colours_unless_they_are_switched_off(tmp_path: Path) -> None:
    with FunctionFolder(
        tmp_path / "a-function",
        """
        def handler(event, context):
            print('plain')
            yield b''
    """,
    ) as root:
        seen = on_a_terminal("--function", root.path)
        assert ESCAPE in seen and b"\nplain\r\n" in seen
        for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            assert ESCAPE not in on_a_terminal("--function", root.path, **variables)
        assert ESCAPE in on_a_terminal("--function", root.path, NO_COLOR="")
        assert "\x1b" not in run("--function", root.path, env={**BARE_ENVIRONMENT, "FORCE_COLOR": "1"}).err
