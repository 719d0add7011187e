"""The built layer as a real process, against a Runtime API that the test itself plays, byte by byte."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import IO

VERSION = json.loads((Path(__file__).resolve().parents[2] / "layer-manifest.json").read_bytes())["version"]
PYTHON_VERSION = sys.version.split()[0]
PATIENCE = 30  # seconds; only a safety net: every wait is for an event
ARN = "arn:aws:lambda:eu-west-1:123456789012:function:f"

# The client of AWS's own Python runtimes, which answers with what its handler returns.
AWSLAMBDARIC = [sys.executable, "-m", "awslambdaric", "lambda_function.handler"]


class Request:
    """A request head, and the body that came with it where it was counted."""

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
    """A streamed response as it was received."""

    def __init__(self, head: Request, chunks: list[bytes], trailers: dict[str, str]) -> None:
        self.head = head
        self.chunks = chunks
        self.trailers = trailers

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(PATIENCE)
        self.reader = sock.makefile("rb")

    def read_request(self) -> Request | None:
        """The next request, None at the end of the connection."""
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
        """The next chunk's data, b"" for the last chunk."""
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
        """Close with a reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        self.reader.close()
        self.socket.close()


class Runtime:
    """A function's process.

    Args:
        layer: an unpacked layer; its bootstrap is started.
        folder: for the function and the logs.
        code: of lambda_function.py, or of each file by its path.
        variables: of the environment, beside those that the service sets; None takes one away.
        arguments: for bootstrap; by default those of a managed runtime's call, with the interpreter of the tests.
        command: is started in the place of bootstrap and its arguments.
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
            path.write_text(text)
        self.listener = self.listen(host)
        self.listener.settimeout(PATIENCE)
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

    # Where it runs

    def listen(self, host: str) -> socket.socket:
        """The Runtime API's socket."""
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

    # The Runtime API's side of an invocation

    def connect(self) -> Peer:
        """Wait for a new connection, which is the one that the next calls are about."""
        if self.peer is not None:
            self.peer.close()
        self.peer = Peer(self.listener.accept()[0])
        return self.peer

    def request(self) -> Request:
        """The next request, on the connection that is there or on a new one."""
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
        """Wait until the runtime asks for an invocation and give it one. Returns its request id."""
        self.expect_next()
        return self.answer_next(event, headers, raw)

    def answer_next(self, event: object = None, headers: dict[str, str] | None = None, raw: bytes | None = None) -> str:
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
        """The head of a streamed response."""
        request = self.request()
        assert request.line.startswith("POST "), request.line
        assert request.path.endswith(f"/2018-06-01/runtime/invocation/{request_id}/response"), request.line
        return request

    def read_response(self, request_id: str) -> Response:
        """A whole streamed response, up to its end."""
        head = self.expect_response(request_id)
        assert self.peer is not None
        chunks = list(iter(self.peer.read_chunk, b""))
        return Response(head, chunks, self.peer.read_trailers())

    def accept(self) -> None:
        assert self.peer is not None
        self.peer.send(b'HTTP/1.1 202 Accepted\r\nContent-Length: 15\r\n\r\n{"status":"OK"}')

    def respond(self, event: object = None, headers: dict[str, str] | None = None) -> Response:
        """One whole invocation, accepted."""
        response = self.read_response(self.invoke(event, headers))
        self.accept()
        return response

    def read_error(self, request_id: str) -> tuple[Request, dict]:
        """A report to /error, and the document in it; accepted."""
        request = self.request()
        assert request.path.endswith(f"/2018-06-01/runtime/invocation/{request_id}/error"), request.line
        self.accept()
        return request, json.loads(request.body)

    def fail(self, event: object = None, headers: dict[str, str] | None = None) -> tuple[Request, dict]:
        """One whole invocation that fails before its first byte."""
        return self.read_error(self.invoke(event, headers))

    def read_init_error(self) -> tuple[Request, dict]:
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
    def told(self) -> list[str]:
        """The lines of ours on standard error, less what they begin with; the first must tell which layer this is."""
        lines = [line.split(": ", 1) for line in self.stderr.splitlines()]
        name = f"python-streaming-runtime {VERSION}"
        introduced = f"{name} (slim, CPython {PYTHON_VERSION} at {sys.executable})"
        assert [start for start, _ in lines] == [introduced, *[name] * (len(lines) - 1)][: len(lines)]
        return [re.sub("^RequestId: [^ ]+ ", "", text) for _, text in lines]

    def wait(self) -> int:
        """The exit status, once the process has ended by itself."""
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        if self.peer is not None:
            self.peer.close()
        self.listener.close()
