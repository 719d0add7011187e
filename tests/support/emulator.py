"""The emulator as its users see it: a function's folder, `main.py` as a process, and HTTP down to the bytes.

A test and a handler wait for each other at named pipes, so no test measures time. `WAIT` only limits a wait that would
otherwise never end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.parse
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from support import fork_server
from support.fork_server import ForkedProcess, ForkServer

ROOT = Path(__file__).resolve().parents[2]
WAIT = 30.0  # seconds
BARE_ENVIRONMENT = {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}

# What every handler in these tests can call.
HANDLER_HELPERS = """\
import json, os, subprocess, sys, threading, time

def wait():
    with open("gate", "rb", 0) as pipe:
        pipe.read(1)

def notify(text):
    with open("messages", "w") as pipe:
        pipe.write(text)

def hold_lifeline(in_a_child=False):
    descriptor = os.open("lifeline", os.O_WRONLY)
    os.write(descriptor, b"alive")
    if in_a_child:
        subprocess.Popen(["sleep", "3600"], pass_fds=[descriptor])

"""


ECHO = """
def handler(event, context):
    yield json.dumps(event).encode()
"""
PID = """
def handler(event, context):
    yield str(os.getpid()).encode()
"""


class FunctionFolder:
    """The folder of a function, which is the working directory of its handler.

    In the handler, `wait()` returns after `release()` in the test; `notify(text)` is what `receive()` returns; and
    after `hold_lifeline()` the test can wait with `wait_until_gone()` for the end of the process, and of a child of it.
    """

    def __init__(self, folder: Path, source: str, module: str = "lambda_function") -> None:
        self.path = folder
        folder.mkdir(parents=True)
        (folder / f"{module}.py").write_text(HANDLER_HELPERS + textwrap.dedent(source))
        for name in ("gate", "messages", "lifeline"):
            os.mkfifo(folder / name)
        self._gate = os.open(folder / "gate", os.O_RDWR)
        self._messages = os.open(folder / "messages", os.O_RDWR)
        self._lifeline = os.open(folder / "lifeline", os.O_RDONLY | os.O_NONBLOCK)

    def write(self, source: str, module: str = "lambda_function") -> None:
        """Save another version of a module."""
        (self.path / f"{module}.py").write_text(HANDLER_HELPERS + textwrap.dedent(source))

    def release(self) -> None:
        os.write(self._gate, b"!")

    def receive(self) -> str:
        wait_for_data(self._messages, "the handler sends nothing")
        return os.read(self._messages, 4096).decode()

    def wait_until_gone(self) -> None:
        """Wait for the end of every process that holds the lifeline."""
        seen = b""
        while True:
            wait_for_data(self._lifeline, "a process is left")
            data = os.read(self._lifeline, 4096)
            if not data:
                break
            seen += data
        assert seen and not seen.replace(b"alive", b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (self._gate, self._messages, self._lifeline):
            os.close(descriptor)


MakeFunction = Callable[..., FunctionFolder]
MakeZip = Callable[..., Path]


class Result(NamedTuple):
    code: int
    out: bytes
    err: str


def with_tmpdir(tmp_path: Path) -> dict[str, str]:
    """An environment in which the emulator keeps its temporary files in a folder of the test."""
    (tmp_path / "temporary").mkdir()
    return {**BARE_ENVIRONMENT, "TMPDIR": str(tmp_path / "temporary")}


def error_of(result: Result) -> dict[str, Any]:
    """The error that the caller of the function receives, from the last line of standard error."""
    return json.loads(result.err.splitlines()[-1])


def assert_usage_error(result: Result, *words: str) -> None:
    """One line on standard error, and status 2."""
    assert result.err.count("\n") == 1 and result.err.startswith("main.py: error: "), result.err
    assert (result.code, result.out) == (2, b"")
    for word in words:
        assert word in result.err


MAIN = ROOT / "main.py"
NEW_INTERPRETER = (sys.executable, MAIN)
IMPORTED = ("shutil", "tools.emulator.cli", "tools.emulator.run", "tools.emulator.execution.runtime_api")


@cache
def _fork_server() -> ForkServer:
    return ForkServer(ROOT, *IMPORTED)


class Program:
    """A running `main.py`, in a process group of its own, as a terminal starts it.

    Args:
        command: starts a new interpreter, as `NEW_INTERPRETER` does. By default, the process is forked from one that
            has imported the emulator.
        merged: whether standard error is the same pipe as standard output.
    """

    process: subprocess.Popen[bytes] | ForkedProcess

    def __init__(
        self,
        *arguments: str | Path,
        command: tuple[str | Path, ...] = (),
        env: Mapping[str, str] = BARE_ENVIRONMENT,
        cwd: str | Path = "/",
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
        merged: bool = False,
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        with contextlib.ExitStack() as opened:
            if stdin == subprocess.DEVNULL:
                stdin = opened.enter_context(open(os.devnull, "rb"))
            self._stdout = -1
            if stdout == subprocess.PIPE:
                self._stdout, stdout = os.pipe()
                opened.callback(os.close, stdout)
            stderr = stdout if merged else self._log
            if command or not fork_server.can_start(env):
                self.process = subprocess.Popen(
                    [*(command or NEW_INTERPRETER), *arguments],
                    env=env,
                    cwd=cwd,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            else:
                words = list(map(os.fspath, arguments))
                self.process = _fork_server().start(MAIN, words, env, os.fspath(cwd), [stdin, stdout, stderr])

    def read(self, size: int) -> bytes:
        """Read exactly that many bytes of standard output."""
        data = b""
        while len(data) < size and (piece := self._read_some(size - len(data))):
            data += piece
        return data

    def read_through(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end) and (byte := self._read_some(1)):
            data += byte
        return data

    def read_rest(self) -> bytes:
        data = b""
        while piece := self._read_some(65536):
            data += piece
        return data

    def close_stdout(self) -> None:
        os.close(self._stdout)
        self._stdout = -1

    def interrupt(self, signum: int = signal.SIGINT) -> None:
        """Send a signal to the process group, as Ctrl-C in a terminal does."""
        os.killpg(self.process.pid, signum)

    def end(self) -> Result:
        out = b"" if self._stdout < 0 else self.read_rest()
        return Result(self.process.wait(WAIT), out, self.errors())

    def errors(self) -> str:
        return os.pread(self._log.fileno(), 10_000_000, 0).decode()

    def _read_some(self, most: int) -> bytes:
        wait_for_data(self._stdout, "main.py writes nothing")
        return os.read(self._stdout, most)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            if self._stdout >= 0:
                self.close_stdout()
            self._log.close()


def run(*arguments: str | Path, **options: Any) -> Result:
    """Run `main.py` to its end."""
    with Program(*arguments, **options) as program:
        return program.end()


class Server(Program):
    """A running `main.py --serve`. The emulator must print no traceback, whatever its clients do."""

    def __init__(self, task_root: Path, *arguments: str | Path, **options: Any) -> None:
        super().__init__("--serve", "-p", "0", "--function", task_root, *arguments, **options)
        self._read_first_lines()

    def _read_first_lines(self) -> None:
        self.first_line = self.read_through(b"\n").decode()
        self.url = self.first_line.split()[2] if self.first_line else ""
        self.curl_command = self.read_through(b"\n").decode() if self.first_line else ""

    def connect(self) -> Client:
        assert self.url, self.errors()
        return Client.to(self.url)

    def request(self, *lines: str, body: bytes = b"") -> Response:
        """Send one request on a connection of its own."""
        with self.connect() as client:
            client.send_request(*lines, body=body)
            return client.read_response()

    def get(self, path: str = "/") -> Response:
        return self.request(f"GET {path} HTTP/1.1")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        errors = self.errors()
        super().__exit__(kind, error, trace)
        if kind is None:
            assert "tools/emulator" not in errors, errors  # a traceback of the emulator


Serving = Callable[..., tuple[Server, FunctionFolder]]


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def event_of(response: Response) -> dict[str, Any]:
    """The event of a request to the `ECHO` function."""
    assert response.status == 200
    return json.loads(response.body)


class Client:
    """An HTTP connection that shows every byte."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=WAIT)
        self._reader = self.socket.makefile("rb")

    @classmethod
    def to(cls, url: str) -> Self:
        address = urllib.parse.urlsplit(url)
        assert address.hostname and address.port
        return cls(address.hostname, address.port)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_request(self, *lines: str, body: bytes = b"") -> None:
        """Send a request: its first line, headers beyond `Host` and `Content-Length`, and its body."""
        head = [lines[0], "Host: localhost", *lines[1:]]
        if body:
            head.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*head, "", ""]).encode("latin-1") + body)

    def read(self, size: int) -> bytes:
        return self._reader.read(size)

    def read_rest(self) -> bytes:
        return self._reader.read()

    def read_head(self) -> tuple[str, dict[str, str]]:
        """Read the status line, and the headers by name in lower case."""
        status_line = self.read_line()
        headers = {}
        while line := self.read_line():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status_line, headers

    def read_response(self) -> Response:
        """Read a whole response with a length or in chunks, and not a byte more."""
        status_line, headers = self.read_head()
        body = b""
        if "transfer-encoding" in headers:
            while size := int(self.read_line(), 16):
                body += self.read(size)
                assert self.read(2) == b"\r\n"
            assert self.read_line() == ""
        else:
            body = self.read(int(headers.get("content-length", "0")))
        return Response(int(status_line.split()[1]), headers, body)

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._reader.close()
        self.socket.close()

    def read_line(self) -> str:
        line = self._reader.readline()
        assert line.endswith(b"\r\n"), line
        return line.removesuffix(b"\r\n").decode("latin-1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for_data(descriptor: int, message: str) -> None:
    """Wait until a descriptor can be read, or is at its end."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    assert poller.poll(WAIT * 1000), message


def until(condition: Callable[[], object]) -> None:
    """Wait for a state that no event announces."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)  # a loop without it would take the processor from the processes that it waits for
