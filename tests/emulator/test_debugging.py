"""`--debug`, the variables that `--api-only` prints, and the configuration for editors in docs/."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.emulator import (
    BARE_ENVIRONMENT,
    ECHO,
    ROOT,
    WAIT,
    Client,
    MakeFunction,
    MakeZip,
    Program,
    Server,
    assert_usage_error,
    run,
    until,
)

from tools.emulator.debugging import env_file_lines

VARIABLES = """
def handler(event, context):
    yield json.dumps(dict(os.environ)).encode()
"""
ATTACH, START = json.loads((ROOT / "docs" / "launch.json").read_text())["configurations"]
OF_A_PROCESS = {"AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "TMPDIR", "_X_AMZN_TRACE_ID"}
OF_A_SHELL = {"PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"}


def free_port() -> int:
    """A port below those that the system gives to clients: a client that tries one of these can connect to itself."""
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_server(("127.0.0.1", random.randrange(20_000, 32_000))) as server,
        ):
            return int(server.getsockname()[1])


@contextlib.contextmanager
def attached(*options: str | Path, port: int = 0) -> Iterator[tuple[Program, str]]:
    """`--api-only`: the program, and its URL."""
    with Program("--api-only", "-p", str(port), *options) as program:
        url = program.read_through(b"\n").split()[2].decode()
        until(lambda: "start it with: " in program.errors())
        yield program, url


def command_of(program: Program) -> str:
    [line] = [line for line in program.errors().splitlines() if "start it with: " in line]
    return line.partition("start it with: ")[2]


def get(url: str) -> Any:
    with Client.to(url) as client:
        client.send_request("GET / HTTP/1.1")
        response = client.read_response()
        assert response.status == 200, response
        return json.loads(response.body)


def test_the_printed_command_sets_every_variable_that_serve_sets(make_function: MakeFunction) -> None:
    function = make_function(VARIABLES)
    options = (
        *("--function", f"named={function.path}", "--memory", "512", "--env", "AWS_REGION=eu-west-1"),
        *("--env", 'TEXT=two words, "quotes" and $HOME', "--env", "EMPTY="),
    )
    with Program("--serve", "-p", "0", *options) as program:
        served = get(program.read_through(b"\n").split()[2].decode())
    with attached(*options) as (program, url):
        command = ["/bin/sh", "-c", command_of(program)]
        process = subprocess.Popen(command, env=BARE_ENVIRONMENT, start_new_session=True, stderr=subprocess.DEVNULL)
        try:
            seen = get(url)
        finally:
            os.killpg(process.pid, 9)
            process.wait()
    assert served["AWS_REGION"] == "eu-west-1" and served["TEXT"] == 'two words, "quotes" and $HOME'
    left_out = OF_A_PROCESS | OF_A_SHELL | {"HOME"}
    assert {name: value for name, value in seen.items() if name not in left_out} == {
        name: value for name, value in served.items() if name not in left_out
    }
    assert seen.keys() >= OF_A_PROCESS


def test_the_printed_env_file_has_the_variables_of_the_command(make_function: MakeFunction) -> None:
    with attached("--function", make_function(ECHO).path, "--env", "TEXT=two words") as (program, _):
        command = command_of(program)
        assignments = dict(word.split("=", 1) for word in shlex.split(command.strip("()")) if re.match(r"\w+=", word))
        program.interrupt()
        lines = program.end().out.decode().splitlines()
    assert lines[0].startswith("AWS_LAMBDA_RUNTIME_API=127.0.0.1:")
    assert {line.partition("=")[0]: line.partition("=")[2].strip('"') for line in lines} == assignments


@pytest.mark.parametrize(
    "value", ["plain", "two words", "a#b", 'a "quoted" b', "back\\slash", "two\nlines", "", "$LATEST"]
)
def test_a_line_of_the_env_file_keeps_its_value(value: str) -> None:
    [line] = env_file_lines({"NAME": value})
    name, _, text = line.partition("=")
    decoded = json.loads(text) if text.startswith('"') else text
    assert (name, decoded) == ("NAME", value)
    assert "\n" not in line


def test_layers_are_unpacked_to_the_same_place_in_each_run(make_zip: MakeZip, make_function: MakeFunction) -> None:
    layer, function = make_zip({"python/dependency.py": "NAME = 'here'"}), make_function(ECHO)
    port = free_port()
    paths = []
    for _ in range(2):
        with attached("--function", function.path, "--layer", layer, port=port) as (program, _):
            runtime = Path(shlex.split(command_of(program).strip("()"))[-1])
            paths.append(runtime)
            assert (runtime.parent / "python" / "dependency.py").exists()
            with Program("--api-only", "-p", str(port), "--function", function.path) as second:
                assert "another main.py --api-only uses" in second.end().err
        assert not runtime.exists()
    assert paths[0] == paths[1]


# --debug


class Debugger:
    """An editor: the part of the Debug Adapter Protocol that lets a process continue."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._number = 0

    def attach(self, breakpoint: tuple[Path, int] | None = None) -> None:
        """Connect, set no breakpoints, and let the process run."""
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=WAIT)
        self._reader = self._socket.makefile("rb")
        self._send("initialize", {"adapterID": "test"})
        self._send("attach", ATTACH)  # an editor sends the whole configuration
        self._wait_for("initialized")
        if breakpoint is not None:
            path, line = breakpoint
            self._send("setBreakpoints", {"source": {"path": str(path)}, "breakpoints": [{"line": line}]})
        self._send("configurationDone", {})

    def wait_until_stopped(self) -> int:
        """Return the number of the thread that is at a breakpoint."""
        return int(self._wait_for("stopped")["threadId"])

    def resume(self, thread: int) -> None:
        self._send("continue", {"threadId": thread})

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        self._number += 1
        message = {"seq": self._number, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def _wait_for(self, event: str) -> dict[str, Any]:
        while True:
            length = 0
            while line := self._reader.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            assert length, "the debugger has closed the connection"
            message = json.loads(self._reader.read(length))
            if message.get("event") == event:
                return message.get("body", {})


def waits_for_debugger(port: int, log: str) -> bool:
    return f"a-function waits for a debugger on 127.0.0.1:{port}\n" in log


@pytest.fixture
def debugpy() -> None:
    pytest.importorskip("debugpy")


@pytest.mark.usefixtures("debugpy")
def test_a_function_waits_for_the_debugger_and_has_no_time_limit(make_function: MakeFunction) -> None:
    function = make_function("""
        notify("loaded")

        def handler(event, context):
            while context.get_remaining_time_in_millis() > 0:
                time.sleep(0.01)
            wait()
            yield str("debugpy" in sys.modules).encode()
    """)
    port = free_port()
    with Server(function.path, "--debug", str(port), "--timeout", "0.1") as server, server.connect() as client:
        until(lambda: waits_for_debugger(port, server.errors()))
        client.send_request("GET / HTTP/1.1")
        debugger = Debugger(port)
        debugger.attach()
        assert function.receive() == "loaded"
        function.release()
        assert client.read_response().body == b"True"
        debugger.close()
        assert "Sandbox.Timedout" not in server.errors()


@pytest.mark.usefixtures("debugpy")
def test_one_invocation_can_be_debugged(make_function: MakeFunction) -> None:
    port = free_port()
    function = make_function(ECHO)
    with Program("-e", "[1]", "--debug", str(port), "--function", function.path) as program:
        until(lambda: waits_for_debugger(port, program.errors()))
        debugger = Debugger(port)
        debugger.attach()
        assert program.read(3) == b"[1]"
        assert program.end().code == 0
        debugger.close()


@pytest.mark.usefixtures("debugpy")
def test_a_breakpoint_works_where_the_function_runs_from_a_view_of_its_folder(make_function: MakeFunction) -> None:
    port = free_port()
    function = make_function(ECHO)
    (function.path / ".env").write_text("")
    module = function.path / "lambda_function.py"
    [line] = [number for number, text in enumerate(module.read_text().splitlines(), 1) if "yield json" in text]
    with Program("-e", "[1]", "--debug", str(port), "--function", function.path) as program:
        until(lambda: waits_for_debugger(port, program.errors()))
        debugger = Debugger(port)
        debugger.attach((module, line))
        debugger.resume(debugger.wait_until_stopped())
        assert program.read(3) == b"[1]"
        debugger.close()


@pytest.mark.usefixtures("debugpy")
def test_a_port_that_is_used_is_reported(make_function: MakeFunction) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("-e", "[1]", "--debug", str(port), "--function", make_function(ECHO).path)
    assert result.code == 1
    assert f"error: debugpy cannot listen on 127.0.0.1:{port} (" in result.err
    assert "Traceback" not in result.err


def test_without_debugpy_the_message_names_the_command_to_install_it(
    tmp_path: Path, make_function: MakeFunction
) -> None:
    without_packages = (sys.executable, "-I", "-S", ROOT / "main.py")
    (tmp_path / "debugpy.py").write_text("raise ImportError")
    result = run("--debug", "5678", "--function", make_function(ECHO).path, command=without_packages, cwd=tmp_path)
    assert result.code == 1
    assert "error: --debug needs debugpy; install it with: " in result.err and "pip install debugpy" in result.err


@pytest.mark.parametrize("option", ["--isolate", "--snapstart", "--api-only"])
def test_debug_excludes_options_for_other_processes(option: str) -> None:
    assert_usage_error(run("--debug", "5678", option), "--debug", option)


# docs/launch.json


def test_the_page_shows_the_file() -> None:
    page = (ROOT / "docs" / "local-development.md").read_text()
    assert (ROOT / "docs" / "launch.json").read_text() in page
    [command] = re.findall(r"^python3 main.py (.*--debug \d+)$", page, re.MULTILINE)
    assert ATTACH["connect"] == {"host": "127.0.0.1", "port": int(command.split()[-1])}


def test_the_configuration_for_api_only_starts_the_runtime(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "local-development.md").read_text()
    assert "python3 main.py --api-only | tee lambda.env\n" in page

    def path_of(key: str) -> str:
        return str(START[key]).replace("${workspaceFolder}", str(ROOT))

    assert Path(path_of("envFile")) == ROOT / "lambda.env"
    with attached() as (program, url):
        seen = program.read_through(b"TMPDIR=") + program.read_through(b"\n")
        variables = dict(line.split("=", 1) for line in seen.decode().split())
        command = [sys.executable, path_of("program")]
        process = subprocess.Popen(command, cwd=path_of("cwd"), env=variables, stderr=subprocess.DEVNULL)
        try:
            with Client.to(url) as client:
                client.send_request("GET / HTTP/1.1")
                assert client.read_response().status == 200
        finally:
            process.kill()
            process.wait()


def test_the_env_file_is_not_committed() -> None:
    assert "lambda.env" in (ROOT / ".gitignore").read_text().splitlines()
