"""What `main.py` tells the person, or the program, in front of it; and a runtime that somebody else starts."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.emulator import BARE_ENVIRONMENT, ROOT, WAIT, Client, FunctionFolder, Program, Serving, run, until

ESCAPE = b"\x1b["


def invocations(errors: str) -> list[dict[str, Any]]:
    """The objects of --json among the function's own lines."""
    return [json.loads(line) for line in errors.splitlines() if line.startswith('{"time"')]


# JSON


def test_json_is_one_object_for_each_invocation(serving: Serving) -> None:
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


def test_json_of_one_invocation_leaves_the_answer_alone(tmp_path: Path) -> None:
    with FunctionFolder(tmp_path / "a-function", "def handler(event, context): yield b'words'") as root:
        result = run("--json", "--function", root.path)
        assert result[:2] == (0, b"words")
        assert json.loads(result.err)["status"] == "success"
        result = run("--json", "--function", root.path, "--handler", "other.handler")
        assert result.code == 1
        [told] = invocations(result.err)
        assert (told["status"], told["errorType"]) == ("error", "Runtime.ImportModuleError")


# Memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory of a process that runs")
def test_the_report_tells_the_most_memory_that_the_process_had(tmp_path: Path) -> None:
    source = "def handler(event, context): x = bytearray(100_000_000); x[::4096] = x[::4096]; del x; yield b''"
    with FunctionFolder(tmp_path / "a-function", source) as root:
        used = re.search(r"Max Memory Used: (\d+) MB", run("--function", root.path).err)
    assert used is not None and 95 < int(used[1]) < 200


# Colour


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


def test_a_terminal_has_colour_unless_it_is_not_wanted(tmp_path: Path) -> None:
    with FunctionFolder(tmp_path / "a-function", "def handler(event, context): print('plain'); yield b''") as root:
        seen = on_a_terminal("--function", root.path)
        assert ESCAPE in seen and b"\nplain\r\n" in seen
        for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            assert ESCAPE not in on_a_terminal("--function", root.path, **variables)
        assert ESCAPE in on_a_terminal("--function", root.path, NO_COLOR="")
        assert "\x1b" not in run("--function", root.path, env={**BARE_ENVIRONMENT, "FORCE_COLOR": "1"}).err


# A runtime that somebody else starts


class Attached:
    """`--api-only`, and processes of the layer's runtime that are started by hand."""

    def __init__(self, root: Path) -> None:
        self.program = Program("--api-only", "-p", "0", "--function", root)
        self.url = self.program.read_through(b"\n").split()[2].decode()
        self.line = self.program.read_through(b"\n").decode().strip()
        name, _, address = self.line.partition("=")
        self._environment = {**BARE_ENVIRONMENT, name: address, "_HANDLER": "lambda_function.handler"}
        self._root = root
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, ROOT / "layer" / "runtime.py"]
        environment = {**self._environment, "LAMBDA_TASK_ROOT": str(self._root)}
        self.processes.append(subprocess.Popen(command, env=environment, cwd=self._root, stderr=subprocess.DEVNULL))
        return self.processes[-1]

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.program.__exit__()


def ask(client: Client, path: str = "/") -> None:
    client.send_request(f"GET {path} HTTP/1.1")


def test_a_runtime_can_be_somebody_elses_process(tmp_path: Path) -> None:
    source = """
    def handler(event, context):
        yield str(os.getpid()).encode()
        if event["rawPath"] == "/wait":
            wait()
    """
    with FunctionFolder(tmp_path / "a-function", source) as root, Attached(root.path) as attached:
        assert attached.line == f"AWS_LAMBDA_RUNTIME_API={attached.url.removeprefix('http://').strip('/')}"
        with Client.to(attached.url) as client:
            ask(client)  # waits for a runtime
            first = attached.start()
            for _ in range(2):
                assert client.read_response().body == str(first.pid).encode()
                ask(client)
            client.read_response()
            ask(client, "/wait")
            client.read_head()
            assert client.read_line() and client.read_line() == str(first.pid)
            with Client.to(attached.url) as other:
                ask(other)
                assert other.read_response().status == 429
            first.kill()
            second = attached.start()
            assert client.read_rest() == b""
        with Client.to(attached.url) as client:
            ask(client)
            assert client.read_response().body == str(second.pid).encode()
        attached.program.interrupt(signal.SIGTERM)
        assert attached.program.end().code == 130
        assert second.wait(WAIT) is not None


def test_an_attached_runtime_that_ends_before_it_answers_fails_the_invocation_when_it_is_back(tmp_path: Path) -> None:
    source = """
    def handler(event, context):
        if event["rawPath"] == "/wait":
            notify("at work")
            wait()
        yield b"here"
    """
    with FunctionFolder(tmp_path / "a-function", source) as root, Attached(root.path) as attached:
        first = attached.start()
        with Client.to(attached.url) as client:
            ask(client, "/wait")
            assert root.receive() == "at work"
            first.kill()
            attached.start()
            assert client.read_response().status == 502
        with Client.to(attached.url) as client:
            ask(client)
            assert client.read_response().body == b"here"


def test_a_request_after_the_end_of_an_idle_runtime_is_for_the_next_one(tmp_path: Path) -> None:
    source = "def handler(event, context): yield str(os.getpid()).encode()"
    with FunctionFolder(tmp_path / "a-function", source) as root, Attached(root.path) as attached:
        first = attached.start()
        with Client.to(attached.url) as client:
            ask(client)
            client.read_response()
            first.kill()
            first.wait()
            ask(client)
            second = attached.start()
            assert client.read_response().body == str(second.pid).encode()


def test_an_attached_runtime_is_not_timed_out(tmp_path: Path) -> None:
    source = "def handler(event, context): wait(); yield str(context.get_remaining_time_in_millis() < 0).encode()"
    with FunctionFolder(tmp_path / "a-function", source) as root, Attached(root.path) as attached:
        attached.start()
        with Client.to(attached.url) as client:
            ask(client)
            root.release()
            assert client.read_response().status == 200


def test_the_command_for_a_debugger_works_as_it_stands(tmp_path: Path) -> None:
    folder = tmp_path / "a function"
    with FunctionFolder(folder, "def handler(event, context): yield b'attached'"), Attached(folder) as attached:
        [line] = [line for line in attached.program.errors().splitlines() if "start it with: " in line]
        command = line.partition("start it with: ")[2].replace("python3", f"exec {sys.executable}")
        attached.processes.append(subprocess.Popen(["/bin/sh", "-c", command], env=BARE_ENVIRONMENT))
        with Client.to(attached.url) as client:
            ask(client)
            assert client.read_response().body == b"attached"
