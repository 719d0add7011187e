"""The lines about requests, REPORT on terminals, and the warning about memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from support.emulator import BARE_ENVIRONMENT, ECHO, ROOT, MakeFunction, Server, run, until

from tools.emulator.console import Console


def lines_about(server: Server, method: str) -> list[str]:
    return [line for line in server.errors().splitlines() if line.startswith(f"{method} ")]


def test_each_request_has_a_line(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            if event.get("rawPath") == "/missing":
                yield {"statusCode": 404}
                return
            yield b"12345"
            yield b"678"
    """)
    with Server(function.path) as server:
        with server.connect() as client:
            for request in (
                "GET /orders?token=secret HTTP/1.1",
                "PUT /missing HTTP/1.1",
                "POST /2015-03-31/functions/a-function/invocations HTTP/1.1",
                "DELETE /2015-03-31/functions/a-function HTTP/1.1",
                "PATCH /lambda-url/other/ HTTP/1.1",
            ):
                client.send_request(request)
                client.read_response()
        until(lambda: lines_about(server, "PATCH"))  # it is written after the response, which ends the connection
        number = r"\d+"
        for method, line in {
            "GET": rf"GET /orders  200  8 bytes  first byte {number} ms  {number} ms  a-function",
            "PUT": rf"PUT /missing  404  0 bytes  {number} ms  a-function",
            "POST": r"POST /2015-03-31/functions/a-function/invocations  200  8 bytes  .*  a-function",
            "DELETE": rf"DELETE /2015-03-31/functions/a-function  501  {number} bytes  .*",
            "PATCH": rf"PATCH /lambda-url/other/  404  0 bytes  {number} ms",
        }.items():
            [found] = lines_about(server, method)
            assert re.fullmatch(line, found), found


def on_terminal(columns: int, *arguments: str | Path) -> list[str]:
    """Run `main.py` with standard error on a terminal of that width, and return its lines."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, str(ROOT / "main.py"), *map(str, arguments)]
    subprocess.run(command, env=BARE_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # Linux: nobody has the other end open
        pass
    os.close(terminal)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_start_and_report_fit_the_terminal(make_function: MakeFunction, columns: int) -> None:
    lines = on_terminal(columns, "-e", "{}", "--function", make_function(ECHO).path)
    start = lines[: next(number for number, line in enumerate(lines) if line.startswith("END"))]
    assert "\n".join(start).endswith(" Version: $LATEST" if columns > 70 else "\n  Version: $LATEST")
    assert max(map(len, start)) <= columns
    report = lines[next(number for number, line in enumerate(lines) if line.startswith("REPORT")) :]
    assert max(map(len, report)) <= columns
    assert (len(report) == 1) == (columns == 200)
    for field in (
        "Duration: ",
        "Billed Duration: ",
        "Memory Size: 128 MB",
        "Max Memory Used: ",
        "Time To First Byte: ",
    ):
        assert field in " ".join(report)


def test_more_memory_than_the_memory_size_is_a_warning(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield str(len(bytearray(200_000_000))).encode()
    """)
    result = run("-e", "{}", "--function", function.path)
    assert re.search(r"^warning: a-function used \d+ MB, and its Memory Size is 128 MB; ", result.err, re.MULTILINE)
    assert "warning" not in run("-e", "{}", "--function", function.path, "--memory", "1024").err


def test_the_output_of_concurrent_invocations_is_separated(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            print(f"begin {context.aws_request_id}")
            notify("begun")
            wait()
            print(f"end {context.aws_request_id}")
            yield b"x"
    """)
    with Server(function.path) as server, server.connect() as one, server.connect() as two:
        for client in (one, two):
            client.send_request("GET / HTTP/1.1")
            assert function.receive() == "begun"
        for _ in range(2):
            function.release()
        one.read_response()
        two.read_response()
        until(lambda: server.errors().count("REPORT") == 2)
        lines = server.errors().splitlines()
    source = ""
    for line in lines:
        if found := re.match(r"(?:START|REPORT|==>) RequestId: (\S+)", line):
            source = found[1]
        elif line.startswith(("begin", "end")):
            assert line.endswith(source), lines
    assert any(line.startswith("==> ") for line in lines)


def test_a_print_with_several_arguments_is_one_line_among_concurrent_invocations(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            for number in range(200):
                print("line", number, context.aws_request_id, "end")
            yield b"x"
    """)
    with Server(function.path) as server, contextlib.ExitStack() as clients:
        crowd = [clients.enter_context(server.connect()) for _ in range(3)]
        for client in crowd:
            client.send_request("GET / HTTP/1.1")
        for client in crowd:
            client.read_response()
        until(lambda: server.errors().count("REPORT") == 3)
        lines = server.errors().splitlines()
    printed = [line for line in lines if re.search(r"line|\bend\b", line)]
    assert len(printed) == 600
    assert all(re.fullmatch(r"line \d+ [0-9a-f-]{36} end", line) for line in printed)


# The environments in turn


def test_others_wait_for_the_rest_of_a_line(make_console: Callable[..., Console], log: Path) -> None:
    console, one, two, three = make_console(line_timeout=3600), object(), object(), object()
    console.output(b"one ", one, "1")
    console.output(b"two ", two, "2")
    console.start(("START RequestId: 3", "Version: 1"), three, "3")
    console.output(b"two\n", two, "2")
    console.output(b"three", three, "3")
    console.output(b"one\none\n", one, "1")
    console.output(b" three\n", three, "3")
    assert log.read_text().splitlines() == [
        "==> RequestId: 1 <==",
        "one one",
        "one",
        "==> RequestId: 2 <==",
        "two two",
        "START RequestId: 3 Version: 1",
        "three three",
    ]


def test_what_waits_for_the_rest_of_a_line_is_written_at_the_end(
    make_console: Callable[..., Console], log: Path
) -> None:
    console, one, two = make_console(line_timeout=3600), object(), object()
    console.output(b"one", one)
    console.output(b"two", two)
    console.close()
    assert log.read_text() == "one\ntwo"


def test_others_do_not_wait_long_for_the_rest_of_a_line(make_console: Callable[..., Console], log: Path) -> None:
    console, one, two, three = make_console(line_timeout=0), object(), object(), object()
    for source, request_id in ((one, "1"), (two, "2"), (three, "3")):
        console.output(request_id.encode() * 3, source, request_id)
    until(lambda: all(text in log.read_text() for text in ("111", "222", "333")))
    lines = log.read_text().splitlines()
    assert lines[:2] == ["==> RequestId: 1 <==", "111"]  # those that wait come in any order
    assert sorted(zip(lines[::2], lines[1::2], strict=True)) == [
        (f"==> RequestId: {number} <==", str(number) * 3) for number in (1, 2, 3)
    ]


def test_the_output_of_one_invocation_after_another_is_not_separated(make_function: MakeFunction) -> None:
    function = make_function("""
        print("import")
        def handler(event, context):
            print("begin")
            yield b"x"
            print("end")
    """)
    with Server(function.path) as server:
        for _ in range(3):
            server.get("/")
        assert "==>" not in server.errors()
