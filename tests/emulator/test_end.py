"""The end of the emulator: signals, and processes that must not outlive it."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from support.emulator import (
    BARE_ENVIRONMENT,
    ECHO,
    NEW_INTERPRETER,
    ROOT,
    WAIT,
    Client,
    FunctionFolder,
    MakeFunction,
    Program,
    Server,
    Serving,
    run,
    until,
    with_tmpdir,
)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_response_ends_all_processes(make_function: MakeFunction, signum: int) -> None:
    function = make_function("""
        def handler(event, context):
            hold_lifeline(in_a_child=True)
            yield b"one "
            wait()
    """)
    with Program("--function", function.path, command=NEW_INTERPRETER) as program:
        assert program.read(4) == b"one "
        program.interrupt(signum)
        result = program.end()
    assert (result.code, result.out) == (130, b"")
    assert "Traceback" not in result.err
    function.wait_until_gone()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_init_phase_ends_all_processes(make_function: MakeFunction, signum: int) -> None:
    function = make_function("""
        hold_lifeline(in_a_child=True)
        notify("loading")
        wait()
    """)
    with Program("--function", function.path, command=NEW_INTERPRETER) as program:
        assert function.receive() == "loading"
        program.interrupt(signum)
        result = program.end()
    assert (result.code, result.out) == (130, b"")
    assert "Traceback" not in result.err
    function.wait_until_gone()


def test_a_signal_ends_a_run_whose_output_nobody_reads(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            hold_lifeline()
            while True:
                yield b"x" * 100_000
    """)
    with Program("--function", function.path, command=NEW_INTERPRETER) as program:
        assert program.read(1) == b"x"
        program.interrupt()
        assert program.process.wait(60) == 130
    function.wait_until_gone()


def test_a_signal_ends_a_run_whose_log_nobody_reads(make_function: MakeFunction) -> None:
    function = make_function("""
        hold_lifeline()
        def handler(event, context):
            notify("running")
            while True:
                print("x" * 100_000)
                yield b""
    """)
    reader, writer = os.pipe()
    try:
        command = [sys.executable, ROOT / "main.py", "--function", function.path]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=writer, start_new_session=True)
        assert function.receive() == "running"
        until(lambda: unread(reader) > 50_000)  # the pipe is full
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 130
        function.wait_until_gone()
    finally:
        os.close(reader)
        os.close(writer)


def test_ctrl_c_works_in_a_background_job_of_a_shell(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"one "
            wait()
    """)
    ignoring = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, ROOT / "main.py")
    with Program("--function", function.path, command=ignoring) as program:
        assert program.read(4) == b"one "
        program.interrupt()
        assert program.end().code == 130


def unread(pipe: int) -> int:
    """How many bytes a pipe holds."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_standard_input_is_read_ends_the_run_silently(signum: int) -> None:
    reader, writer = os.pipe()
    try:
        with Program("-e", "-", stdin=reader, command=NEW_INTERPRETER) as program:
            os.write(writer, b"[" * 100)
            until(lambda: not unread(reader))
            program.interrupt(signum)
            result = program.end()
    finally:
        os.close(reader)
        os.close(writer)
    assert (result.code, result.out, result.err) == (130, b"", "")


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("raise ValueError", 1), ("sys.exit(3)", 1), ("os._exit(3)", 1), ("os.abort()", 1)]
)
def test_a_child_of_the_function_does_not_outlive_the_run(make_function: MakeFunction, end: str, code: int) -> None:
    function = make_function(f"""
        def handler(event, context):
            hold_lifeline(in_a_child=True)
            yield b"one "
            {end}
    """)
    assert run("--function", function.path)[:2] == (code, b"one ")
    function.wait_until_gone()


# Holds the lifeline in the process, in a child, and in a grandchild in a session of its own.
STUBBORN = """
def handler(event, context):
    hold_lifeline(in_a_child=True)
    subprocess.Popen(["setsid", "--fork", "sleep", "3600"], close_fds=False)
    yield b"one "
    wait()
"""


@pytest.mark.parametrize("to_group", [False, True])
def test_no_process_outlives_an_emulator_that_is_killed(tmp_path: Path, to_group: bool) -> None:
    with FunctionFolder(tmp_path / "a-function", STUBBORN) as function:
        with Program("--serve", "-p", "0", "--function", function.path, env=with_tmpdir(tmp_path)) as program:
            url = program.read_through(b"\n").split()[2].decode()
            with Client.to(url) as client:
                client.send_request("GET / HTTP/1.1")
                client.read_head()
                assert client.read(9) == b"4\r\none \r\n"
                if to_group:
                    os.killpg(program.process.pid, signal.SIGKILL)
                else:
                    program.process.kill()
                function.wait_until_gone()
        until(lambda: not list((tmp_path / "temporary").iterdir()))


def test_a_function_that_never_calls_next_does_not_outlive_an_emulator_that_is_killed(tmp_path: Path) -> None:
    source = "hold_lifeline(in_a_child=True)\nnotify('loading')\nwait()"
    folder = tmp_path / "a-function"
    with FunctionFolder(folder, source) as function, Program("--function", folder) as program:
        assert function.receive() == "loading"
        program.process.kill()
        function.wait_until_gone()


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.exists():
        pytest.skip("the system does not list the children of a process")
    return [int(child) for child in listed.read_text().split()]


def test_environments_do_not_outlive_the_supervisor(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            hold_lifeline()
            yield b'one '
            wait()
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        [supervisor] = children(server.process.pid)
        os.kill(supervisor, signal.SIGKILL)
        function.wait_until_gone()
    result = server.end()
    assert result.code == 1
    # The lines of the invocation that has failed can come before or after it.
    assert "\nerror: the process that starts the execution environments was killed" in f"\n{result.err}"


def test_the_second_signal_ends_an_emulator_whose_orderly_end_is_blocked(tmp_path: Path) -> None:
    with (
        FunctionFolder(tmp_path / "a-function", STUBBORN) as function,
        Server(function.path, env=with_tmpdir(tmp_path)) as server,
        server.connect() as client,
    ):
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        [supervisor] = children(server.process.pid)
        os.kill(supervisor, signal.SIGSTOP)
        try:
            server.interrupt()
            server.interrupt()
            assert server.process.wait(WAIT) == 130
        finally:
            os.kill(supervisor, signal.SIGCONT)
        function.wait_until_gone()
        until(lambda: not list((tmp_path / "temporary").iterdir()))


def test_no_folder_is_left_by_an_emulator_that_is_killed_before_its_supervisor_runs(tmp_path: Path) -> None:
    with Program(env=with_tmpdir(tmp_path)) as program:
        until(lambda: children(program.process.pid))
        program.process.kill()
    until(lambda: not list((tmp_path / "temporary").iterdir()))


def test_further_signals_have_no_effect(serving: Serving) -> None:
    server, function = serving(STUBBORN)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        assert client.read(9) == b"4\r\none \r\n"
        for _ in range(100):
            for signum in (signal.SIGTERM, signal.SIGINT):
                with contextlib.suppress(ProcessLookupError):
                    server.process.send_signal(signum)
        result = server.end()
    assert (result.code, result.out) == (130, b"")
    assert "Traceback" not in result.err
    function.wait_until_gone()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_and_its_environments(serving: Serving, signum: int) -> None:
    server, function = serving("""
        def handler(event, context):
            hold_lifeline(in_a_child=True)
            yield b"one "
            wait()
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        assert client.read(9) == b"4\r\none \r\n"
        server.interrupt(signum)
        assert client.read_rest() == b""
    result = server.end()
    assert (result.code, result.out) == (130, b"")
    assert "Traceback" not in result.err
    function.wait_until_gone()


def test_a_signal_ends_the_server_while_its_environments_are_idle(serving: Serving) -> None:
    server, function = serving("""
        hold_lifeline(in_a_child=True)
        def handler(event, context):
            yield b"x"
    """)
    assert server.get().status == 200
    server.interrupt()
    assert server.end().code == 130
    function.wait_until_gone()


def test_a_signal_ends_the_server_before_any_request(serving: Serving) -> None:
    server, _ = serving(ECHO, env=BARE_ENVIRONMENT)
    server.interrupt(signal.SIGTERM)
    assert server.end() == (130, b"", "")
