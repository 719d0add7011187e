"""`--api-only`: a runtime that the developer starts, under a debugger for example."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from support.emulator import BARE_ENVIRONMENT, ROOT, WAIT, Client, FunctionFolder, Program


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


def test_a_process_of_the_developer_serves_invocations(tmp_path: Path) -> None:
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


def test_the_invocation_of_a_process_that_ended_fails_when_the_next_one_starts(tmp_path: Path) -> None:
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


def test_a_request_after_the_end_of_an_idle_process_waits_for_the_next_one(tmp_path: Path) -> None:
    source = """
        def handler(event, context):
            yield str(os.getpid()).encode()
    """
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


def test_an_attached_runtime_has_no_time_limit(tmp_path: Path) -> None:
    source = """
        def handler(event, context):
            wait()
            yield str(context.get_remaining_time_in_millis() < 0).encode()
    """
    with FunctionFolder(tmp_path / "a-function", source) as root, Attached(root.path) as attached:
        attached.start()
        with Client.to(attached.url) as client:
            ask(client)
            root.release()
            assert client.read_response().status == 200


def test_the_printed_command_starts_a_runtime(tmp_path: Path) -> None:
    folder = tmp_path / "a function"
    with (
        FunctionFolder(
            folder,
            """
        def handler(event, context):
            yield b'attached'
    """,
        ),
        Attached(folder) as attached,
    ):
        [line] = [line for line in attached.program.errors().splitlines() if "start it with: " in line]
        command = line.partition("start it with: ")[2]
        attached.processes.append(subprocess.Popen(["/bin/sh", "-c", command], env=BARE_ENVIRONMENT))
        with Client.to(attached.url) as client:
            ask(client)
            assert client.read_response().body == b"attached"
