"""The emulator without the calls that macOS does not have. It cannot be run there by these tests; they simulate it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support import simulated_macos
from support.emulator import (
    BARE_ENVIRONMENT,
    ECHO,
    Client,
    FunctionFolder,
    MakeFunction,
    MakeZip,
    Program,
    Server,
    event_of,
    run,
    until,
)

# A child in the process group of the function: it ends with the function on every system.
WITH_A_CHILD = """
def handler(event, context):
    hold_lifeline(in_a_child=True)
    yield b"one "
    wait()
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str | Path, ...]:
    folder = tmp_path / "interpreter"
    folder.mkdir()
    return simulated_macos.command(folder)


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The folder for temporary files: a link, as /tmp is on macOS."""
    (tmp_path / "private-tmp").mkdir()
    (tmp_path / "tmp").symlink_to("private-tmp")
    return tmp_path / "tmp"


@pytest.fixture
def options(command: tuple[str | Path, ...], temporary: Path) -> dict[str, Any]:
    return {"command": command, "env": {**BARE_ENVIRONMENT, "TMPDIR": str(temporary)}}


def test_the_simulation_reaches_the_supervisor(make_function: MakeFunction, options: dict[str, Any]) -> None:
    """A daemon outlives its environment there. Were it killed, the supervisor would run as on Linux."""
    function = make_function("""
        def handler(event, context):
            daemon = subprocess.Popen(["sleep", "3600"], start_new_session=True)
            yield str(daemon.pid).encode()
    """)
    result = run("--function", function.path, **options)
    daemon = int(result.out)
    os.kill(daemon, 0)
    os.kill(daemon, signal.SIGKILL)


def test_one_invocation(make_function: MakeFunction, options: dict[str, Any], temporary: Path) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"one "
            yield b"two"
    """)
    result = run("--function", function.path, **options)
    assert (result.code, result.out) == (0, b"one two")
    assert "Max Memory Used: " not in result.err  # the system provides it at the end of a process only
    assert list(temporary.iterdir()) == []


def test_requests_a_reload_and_the_end(tmp_path: Path, options: dict[str, Any], temporary: Path) -> None:
    with FunctionFolder(tmp_path / "echo", ECHO) as folder, Server(folder.path, **options) as server:
        with server.connect() as client:
            for path in ("/one", "/two"):
                client.send_request(f"GET {path} HTTP/1.1")
                assert event_of(client.read_response())["rawPath"] == path
        folder.write("def handler(event, context):\n    yield b'new'")
        assert server.get().body == b"new"
        for _ in range(50):
            Client.to(server.url).reset()
        assert server.get().body == b"new"
        server.interrupt()
        assert server.end().code == 130
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_of_the_group(
    make_function: MakeFunction, options: dict[str, Any], temporary: Path, signum: int
) -> None:
    function = make_function(WITH_A_CHILD)
    with Program("--function", function.path, **options) as program:
        assert program.read(4) == b"one "
        program.interrupt(signum)
        assert program.end().code == 130
    function.wait_until_gone()
    assert list(temporary.iterdir()) == []


def test_no_process_of_the_group_outlives_an_emulator_that_is_killed(
    make_function: MakeFunction, options: dict[str, Any], temporary: Path
) -> None:
    function = make_function(WITH_A_CHILD)
    with Program("--function", function.path, **options) as program:
        assert program.read(4) == b"one "
        program.process.kill()
        function.wait_until_gone()
    until(lambda: not list(temporary.iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the children of a process are not listed")
def test_no_process_of_the_group_outlives_a_supervisor_that_is_killed(
    make_function: MakeFunction, options: dict[str, Any], temporary: Path
) -> None:
    function = make_function(WITH_A_CHILD)
    with Program("--serve", "-p", "0", "--function", function.path, **options) as program:
        url = program.read_through(b"\n").split()[2].decode()
        with Client.to(url) as client:
            client.send_request("GET / HTTP/1.1")
            client.read_head()
            [supervisor] = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children").read_text().split()
            os.kill(int(supervisor), signal.SIGKILL)
            function.wait_until_gone()
        result = program.end()
    assert (result.code, "start main.py again" in result.err) == (1, True)
    assert list(temporary.iterdir()) == []


def test_isolate_is_refused_with_its_reason(options: dict[str, Any]) -> None:
    result = run("--isolate", **options)
    assert (result.code, result.out) == (1, b"")
    assert "--isolate is not possible here" in result.err and "it needs Linux" in result.err


def test_frames_of_a_zip_below_a_link_have_the_path_of_its_file(
    make_zip: MakeZip, options: dict[str, Any], temporary: Path
) -> None:
    package = make_zip(
        {"lambda_function.py": "def handler(event, context):\n    yield b''\n    raise ValueError('no')\n"}
    )
    result = run("--function", package, **options)
    assert result.code == 1
    assert f'File "{temporary.resolve()}/python-streaming-runtime-' in result.err
