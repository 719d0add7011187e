"""Web applications as users run them: behind a local Function URL, and behind the web server of their framework."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import package_environments
from support.emulator import ROOT, WAIT, FunctionFolder, Server

ENVIRONMENT = package_environments.FRAMEWORKS
needs_frameworks = pytest.mark.skipif(not ENVIRONMENT.is_prepared, reason=ENVIRONMENT.reason_to_skip)

# What the local Function URL or a web server adds to the application's headers.
OF_THE_SERVER = {"connection", "date", "keep-alive", "server", "transfer-encoding"}
OF_THE_FUNCTION_URL = {"x-amzn-requestid", "x-amzn-trace-id"}


def serve(function: FunctionFolder, *arguments: str, **options: Any) -> Server:
    """Serve `main.app` with the Python that has the frameworks."""
    command = (ENVIRONMENT.python, ROOT / "main.py")
    return Server(function.path, "--handler", "main.app", *arguments, command=command, **options)


@contextlib.contextmanager
def web_server(folder: Path, *module: str) -> Iterator[str]:
    """Run a web server, such as `uvicorn main:app --fd {descriptor}`, and yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        command = [ENVIRONMENT.python, "-m", *(word.format(descriptor=listener.fileno()) for word in module)]
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={"PATH": os.defpath},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            process.kill()
            process.wait()


class Exchange(NamedTuple):
    """A response: status, the headers that the application sent, and the body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def exchange(
    url: str, method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> Exchange:
    """Send one request on a connection of its own."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=WAIT)
    with contextlib.closing(connection):
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        fields = [(name.lower(), value) for name, value in response.getheaders()]
        ignored = OF_THE_SERVER | OF_THE_FUNCTION_URL
        return Exchange(response.status, sorted(field for field in fields if field[0] not in ignored), response.read())
