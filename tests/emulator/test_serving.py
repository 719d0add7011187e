"""`--serve`: its address, and the first lines."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys

import pytest
from support.emulator import ECHO, NEW_INTERPRETER, ROOT, WAIT, Server, Serving, event_of, run


def test_the_first_lines_have_the_url_and_a_curl_command_and_fit_a_narrow_terminal(echo: Server) -> None:
    assert re.fullmatch(r"Function URL http://127\.0\.0\.1:\d+/ \(Ctrl-C to stop\)\n", echo.first_line)
    assert echo.curl_command.startswith(f"curl -N {echo.url} -d ")
    assert max(len(echo.first_line), len(echo.curl_command)) <= 61  # with the line end


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on PATH")
def test_the_printed_curl_command_works() -> None:
    with Server(ROOT / "function", command=NEW_INTERPRETER) as server:
        command = shlex.split(server.curl_command)
        result = subprocess.run(command, capture_output=True, timeout=WAIT, env={**os.environ, "no_proxy": "127.0.0.1"})
    assert (result.returncode, result.stdout) == (0, b"Hello ")


def test_host_sets_the_address(serving: Serving) -> None:
    server, _ = serving(ECHO, "--host", "127.0.0.2")
    assert server.url.startswith("http://127.0.0.2:")
    assert server.get().status == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(server.url.split(":")[2].strip("/"))))


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="there is no IPv6")
def test_host_can_be_an_ipv6_address(serving: Serving) -> None:
    server, _ = serving(ECHO, "--host", "::1")
    assert server.url.startswith("http://[::1]:")
    assert event_of(server.get())["requestContext"]["http"]["sourceIp"] == "::1"


def test_a_busy_port_is_an_error_of_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("--serve", "--port", str(port))
    assert (result.code, result.out) == (1, b"")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert f"127.0.0.1 port {port}" in result.err and "--port" in result.err


@pytest.mark.parametrize("host", ["192.0.2.1", "not an address", "..", "a" * 64, ""])
def test_an_invalid_address_is_an_error_of_one_line(host: str) -> None:
    result = run("--serve", "-p", "0", "--host", host)
    assert result.code in (1, 2) and result.out == b""
    assert "error: " in result.err and result.err.count("\n") == 1, result.err


def test_a_first_line_that_cannot_be_written_is_an_error_of_one_line() -> None:
    shell = ("/bin/sh", "-c", 'exec "$@" >/dev/full', "sh", sys.executable, ROOT / "main.py")
    result = run("--serve", "-p", "0", command=shell)
    assert result.code == 1
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
