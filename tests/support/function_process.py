"""The built layer as a real process. The test is its Runtime API, and reads and writes that connection byte by byte.

Nothing here knows the layer's modules: it starts `bootstrap`, and sees the socket, standard output, standard error and
the exit status.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import IO, Any

from support.processes import wait_until_asleep

VERSION = json.loads((Path(__file__).resolve().parents[2] / "layer-manifest.json").read_bytes())["version"]
PYTHON_VERSION = sys.version.split()[0]
TIMEOUT = 30  # seconds until a test gives up; every wait is for an event
ARN = "arn:aws:lambda:eu-west-1:123456789012:function:f"

# The runtime interface client of AWS's own Python runtimes. It does not stream: its handlers return a value.
AWSLAMBDARIC = [sys.executable, "-m", "awslambdaric", "lambda_function.handler"]

# For functions, with the indentation of a test. getrusage(2) would begin with the peak of the parent, before exec.
PEAK_MEMORY = """
        def peak_memory():
            with open("/proc/self/status") as file:
                return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
"""


class Request:
    """A request: its head, and its body if that has a Content-Length."""

    def __init__(self, raw: bytes, body: bytes) -> None:
        self.raw = raw
        self.body = body
        self.line, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.fields = [line.split(": ", 1) for line in lines]
        self.headers = {name.lower(): value for name, value in self.fields}

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


class Response:
    """A streamed response, as received."""

    def __init__(self, head: Request, chunks: list[bytes], trailers: dict[str, str]) -> None:
        self.head = head
        self.chunks = chunks
        self.trailers = trailers

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def error(self) -> dict[str, Any]:
        """The error document in the trailers."""
        return json.loads(base64.b64decode(self.trailers["Lambda-Runtime-Function-Error-Body"], validate=True))


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(TIMEOUT)
        self.reader = sock.makefile("rb")

    def read_request(self) -> Request | None:
        """Return the next request, or None at the end of the connection."""
        raw = b""
        while not raw.endswith(b"\r\n\r\n"):
            line = self.reader.readline()
            if not line:
                assert not raw, f"the connection ended within a head: {raw!r}"
                return None
            raw += line
        request = Request(raw, b"")
        request.body = self.reader.read(int(request.headers.get("content-length", 0)))
        return request

    def read_chunk(self) -> bytes:
        """Return the data of the next chunk, b"" for the last one."""
        size = self.reader.readline()
        assert size.endswith(b"\r\n"), f"no chunk size: {size!r}"
        data = self.reader.read(int(size, 16))
        assert len(data) == int(size, 16)
        if data:
            assert self.reader.read(2) == b"\r\n"
        return data

    def read_trailers(self) -> dict[str, str]:
        trailers = {}
        while (line := self.reader.readline()) != b"\r\n":
            assert line.endswith(b"\r\n"), f"the connection ended within the trailers: {line!r}"
            name, value = line.decode("ascii").removesuffix("\r\n").split(": ", 1)
            trailers[name] = value
        return trailers

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """Close the connection with a reset (RST) instead of an end (FIN)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        self.reader.close()
        self.socket.close()


class FunctionProcess:
    """The process of a function.

    Args:
        layer: an unpacked layer; its bootstrap is started.
        folder: for the function and its output.
        code: the source of lambda_function.py, or of each file by its path; may be indented.
        variables: environment variables besides those that the service sets; None removes one.
        arguments: of bootstrap; by default those that a managed runtime passes, with the interpreter of the tests.
        command: is started instead of bootstrap and its arguments.
        pass_fds: descriptors that the process inherits.
    """

    def __init__(
        self,
        layer: Path,
        folder: Path,
        code: str | dict[str, str],
        variables: dict[str, str | None] | None = None,
        arguments: list[str] | None = None,
        host: str = "127.0.0.1",
        address: str = "{host}:{port}",
        command: list[str] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.task = folder / "task"
        for name, text in ({"lambda_function.py": code} if isinstance(code, str) else code).items():
            path = self.task / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source(text))
        self.listener = self.listen(host)
        self.listener.settimeout(TIMEOUT)
        self.peer: Peer | None = None
        self.stdout_path, self.stderr_path = folder / "stdout", folder / "stderr"
        environment = {
            "_HANDLER": "lambda_function.handler",
            "AWS_LAMBDA_RUNTIME_API": address.format(host=host, port=self.listener.getsockname()[1]),
            "AWS_LAMBDA_FUNCTION_NAME": "f",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/f",
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/23/[$LATEST]0",
            "LAMBDA_TASK_ROOT": str(self.task),
            "LANG": "en_US.UTF-8",
            "PATH": "/usr/bin:/bin",
            "TZ": ":UTC",
            **(variables or {}),
        }
        given = {name: value for name, value in environment.items() if value is not None}
        command = command or [str(layer / "bootstrap"), *(arguments or [sys.executable, "/var/runtime/bootstrap.py"])]
        with self.stdout_path.open("wb") as stdout, self.stderr_path.open("wb") as stderr:
            self.process = self.start(command, given, stdout, stderr, pass_fds)

    # Subclasses run the process elsewhere

    def listen(self, host: str) -> socket.socket:
        """Return the listening socket of the Runtime API."""
        return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)

    def start(
        self,
        command: list[str],
        environment: dict[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
        pass_fds: tuple[int, ...],
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=self.task,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    # The Runtime API

    def connect(self) -> Peer:
        """Wait for a new connection. It replaces the current one."""
        if self.peer is not None:
            self.peer.close()
        assert not self.is_gone(), "the process ended without a connection"
        self.peer = Peer(self.listener.accept()[0])
        return self.peer

    def is_gone(self) -> bool:
        """Wait for a connection, or until no process is left that could connect. Return whether that is so.

        Without this, each test of a function that does not start would wait for the whole timeout.
        """
        try:
            process = os.pidfd_open(self.process.pid)
        except (AttributeError, OSError):  # not on Linux, or a test has waited for the process
            return False
        with open(process, "rb"):
            poller = select.poll()
            poller.register(self.listener, select.POLLIN)
            poller.register(process, select.POLLIN)
            ready = dict(poller.poll(TIMEOUT * 1000))
        if process not in ready or self.process.poll() is None:
            return False
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:  # what it started, such as the watch over a wrapper, has ended too
            return not select.select([self.listener], [], [], 0)[0]
        return False

    def request(self) -> Request:
        """Return the next request, on the current connection or on a new one."""
        while True:
            request = (self.peer or self.connect()).read_request()
            if request is not None:
                return request
            self.connect()

    def expect_next(self) -> Request:
        request = self.request()
        assert request.line.endswith("/2018-06-01/runtime/invocation/next HTTP/1.1"), request.line
        assert request.line.startswith("GET "), request.line
        return request

    def invoke(self, event: object = None, headers: dict[str, str] | None = None, raw: bytes | None = None) -> str:
        """Wait for the request to `next` and send an invocation. Return its request id."""
        self.expect_next()
        return self.send_invocation(event, headers, raw)

    def send_invocation(
        self, event: object = None, headers: dict[str, str] | None = None, raw: bytes | None = None
    ) -> str:
        """Send an invocation: the event as JSON, or `raw` as it is. Return its request id."""
        request_id = str(uuid.uuid4())
        body = json.dumps({} if event is None else event).encode() if raw is None else raw
        fields = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": "4102444800000",
            "Lambda-Runtime-Invoked-Function-Arn": ARN,
            "Content-Length": str(len(body)),
            **(headers or {}),
        }
        head = "HTTP/1.1 200 OK\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        assert self.peer is not None
        self.peer.send(head.encode("utf-8") + body)
        return request_id

    def expect_response(self, request_id: str) -> Request:
        """Wait for the head of a streamed response."""
        request = self.request()
        assert request.line.startswith("POST "), request.line
        assert request.path.endswith(f"/2018-06-01/runtime/invocation/{request_id}/response"), request.line
        return request

    def read_response(self, request_id: str) -> Response:
        """Read a streamed response to its end."""
        head = self.expect_response(request_id)
        assert self.peer is not None
        chunks = list(iter(self.peer.read_chunk, b""))
        return Response(head, chunks, self.peer.read_trailers())

    def accept(self) -> None:
        assert self.peer is not None
        self.peer.send(b'HTTP/1.1 202 Accepted\r\nContent-Length: 15\r\n\r\n{"status":"OK"}')

    def respond(self, event: object = None, headers: dict[str, str] | None = None) -> Response:
        """Serve a whole invocation: send it, read the streamed response, accept that."""
        response = self.read_response(self.invoke(event, headers))
        self.accept()
        return response

    def read_error(self, request_id: str) -> tuple[Request, dict[str, Any]]:
        """Read and accept a report to /error. Return the request and its document."""
        request = self.request()
        assert request.path.endswith(f"/2018-06-01/runtime/invocation/{request_id}/error"), request.line
        self.accept()
        return request, json.loads(request.body)

    def fail(self, event: object = None, headers: dict[str, str] | None = None) -> tuple[Request, dict[str, Any]]:
        """Serve a whole invocation that fails before the first byte of its response."""
        return self.read_error(self.invoke(event, headers))

    def read_init_error(self) -> tuple[Request, dict[str, Any]]:
        request = self.request()
        assert request.path.endswith("/2018-06-01/runtime/init/error"), request.line
        self.accept()
        return request, json.loads(request.body)

    # The process

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_bytes().decode("utf-8", "surrogateescape")

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_bytes().decode("utf-8", "surrogateescape")

    @property
    def runtime_lines(self) -> list[str]:
        """Return the runtime's own lines on standard error without their prefix. The first prefix names the layer."""
        lines = [line.split(": ", 1) for line in self.stderr.splitlines()]
        name = f"python-streaming-runtime {VERSION}"
        introduced = f"{name} (slim, CPython {PYTHON_VERSION} at {sys.executable})"
        assert [start for start, _ in lines] == [introduced, *[name] * (len(lines) - 1)][: len(lines)]
        return [re.sub("^RequestId: [^ ]+ ", "", text) for _, text in lines]

    def wait(self) -> int:
        """Wait for the process to end by itself. Return its exit status."""
        return self.process.wait(TIMEOUT)

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        if self.peer is not None:
            self.peer.close()
        self.listener.close()


def invocation(request_id: bytes, body: bytes = b"{}", fields: bytes = b"") -> bytes:
    """Return the response to `next`, with the header fields that it needs and these, each of which ends in CRLF."""
    return b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
        request_id,
        fields,
        len(body),
        body,
    )


def source(text: str) -> str:
    """Return Python source without the indentation that it has in a test, and without the line break before it."""
    return textwrap.dedent(text).removeprefix("\n")


class Gate:
    """A named pipe. A handler that reads it waits until the test opens it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "gate")
        os.mkfifo(self.path)

    def open(self) -> None:
        """Wait for a reader, and let it continue."""
        open(self.path, "w").close()

    def hold(self, process: int) -> int:
        """Wait until the process sleeps in its read. Return the writing end: the read ends when it is closed.

        A signal that arrives between the opening and the read would not interrupt the read. Python runs a handler
        between two instructions, so it would run it after the read.
        """
        writer = os.open(self.path, os.O_WRONLY)
        wait_until_asleep(process)
        return writer
