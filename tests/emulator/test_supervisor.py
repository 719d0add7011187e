"""The supervisor and the keepers: what they start, and what ends with it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.emulator import WAIT, until, wait_for_data
from support.processes import state_of

from tools.emulator.sandbox.supervisor_client import KILLED, Process, Supervisor

TRUE = shutil.which("true") or "/bin/true"
LINUX = sys.platform == "linux"
only_linux = pytest.mark.skipif(not LINUX, reason="only Linux finds the processes that have left their group")


class Log:
    """The output of processes, and their end: the pipe ends when no process has it."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()

    def line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            wait_for_data(self._reader, "no output")
            byte = os.read(self._reader, 1)
            assert byte, line
            line += byte
        return line.decode().strip()

    def wait_until_gone(self) -> None:
        """Wait until every process that has the pipe has ended."""
        self._close_writer()
        while wait_for_data(self._reader, "a process is left") or os.read(self._reader, 4096):
            pass

    def is_in_use(self) -> bool:
        """Whether a process has the pipe, and has written nothing that was not read: a read would block."""
        self._close_writer()
        os.set_blocking(self._reader, False)
        try:
            os.read(self._reader, 1)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._close_writer()
        os.close(self._reader)

    def _close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
        self.writer = -1


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    supervisor = Supervisor()
    yield supervisor
    supervisor.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.close()


def start(supervisor: Supervisor, log: Log, program: str, *arguments: str) -> Process:
    """Start a program in Python."""
    command = [sys.executable, "-S", "-E", "-c", program, *arguments]
    return supervisor.start(command, {"PATH": "/usr/bin:/bin"}, "/", log.writer)


def kill(process: Process) -> None:
    process.request_kill()
    assert process.ended.wait(WAIT)


SLEEP = """
import os, sys, time
print("up", flush=True)
time.sleep(3600)
"""
# A daemon: a grandchild in a session of its own, whose parent has ended.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        os.environ.clear()
        print("daemon", flush=True)
        time.sleep(3600)
    os._exit(0)
os.wait()
time.sleep(float(sys.argv[1]))
"""


def keeper_of(process: Process) -> int:
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])


def inheritable_descriptors() -> Iterator[int]:
    """Those of the tests, which every program inherits."""
    for descriptor in range(3, 100):
        with contextlib.suppress(OSError):
            if os.get_inheritable(descriptor):
                yield descriptor


def test_a_process_ends_with_its_status_and_its_peak_memory(supervisor: Supervisor, log: Log) -> None:
    process = start(supervisor, log, "import sys; sys.exit(3)")
    assert process.ended.wait(WAIT)
    assert process.status == 3
    assert process.peak is not None and 1000 < process.peak < 1_000_000


def test_a_program_that_does_not_exist_is_an_error_with_its_name(supervisor: Supervisor, log: Log) -> None:
    with pytest.raises(OSError) as caught:
        supervisor.start(["/nonexistent"], {}, "/", log.writer)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/nonexistent")
    with pytest.raises(OSError) as caught:
        supervisor.start(["/bin/true"], {}, "/nonexistent-folder", log.writer)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/nonexistent-folder")


def test_terminate_sends_sigterm_to_the_main_process(supervisor: Supervisor, log: Log) -> None:
    process = start(supervisor, log, SLEEP)
    assert log.line() == "up"
    process.request_termination()
    assert process.ended.wait(WAIT)
    assert process.status == -signal.SIGTERM


def test_a_process_has_the_default_signal_handlers_and_no_descriptors_of_others(
    supervisor: Supervisor, log: Log
) -> None:
    other = start(supervisor, log, SLEEP)
    assert log.line() == "up"
    start(
        supervisor,
        log,
        """
import os, signal
print([signal.getsignal(each).name for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)])
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
print(sorted(each for each in range(100) if os.path.exists(f"/proc/self/fd/{each}")))
""",
    )
    assert log.line() == "['SIG_DFL', 'SIG_DFL', 'SIG_DFL']"
    assert log.line() == "set()"
    if LINUX:
        assert set(json.loads(log.line())) <= {0, 1, 2, *inheritable_descriptors()}
    kill(other)


@only_linux
def test_a_daemon_ends_with_the_main_process_of_its_environment(supervisor: Supervisor, log: Log) -> None:
    process = start(supervisor, log, DAEMON, "0")
    assert log.line() == "daemon"
    assert process.ended.wait(WAIT)
    log.wait_until_gone()


@only_linux
def test_a_daemon_ends_when_its_environment_is_killed(supervisor: Supervisor, log: Log) -> None:
    process = start(supervisor, log, DAEMON, "3600")
    assert log.line() == "daemon"
    kill(process)
    assert process.status == -signal.SIGKILL
    log.wait_until_gone()


@only_linux
def test_a_daemon_of_another_environment_continues(supervisor: Supervisor, log: Log) -> None:
    other = Log()
    start(supervisor, other, DAEMON, "3600")
    assert other.line() == "daemon"
    kill(start(supervisor, log, SLEEP))
    log.wait_until_gone()
    assert other.is_in_use()
    supervisor.close()
    other.wait_until_gone()
    other.close()


@only_linux
def test_daemons_do_not_outlive_a_supervisor_that_is_killed(supervisor: Supervisor, log: Log) -> None:
    process = start(supervisor, log, DAEMON, "3600")
    assert log.line() == "daemon"
    os.kill(supervisor._pid, signal.SIGKILL)
    assert process.ended.wait(WAIT)
    assert process.status == KILLED
    log.wait_until_gone()


@only_linux
def test_an_environment_does_not_outlive_its_keeper(supervisor: Supervisor, log: Log) -> None:
    kept = Log()
    other = start(supervisor, kept, SLEEP)
    assert kept.line() == "up"
    process = start(supervisor, log, DAEMON, "3600")
    assert log.line() == "daemon"
    os.kill(keeper_of(process), signal.SIGKILL)
    assert process.ended.wait(WAIT)
    assert (process.status, process.peak) == (-signal.SIGKILL, None)
    log.wait_until_gone()
    assert not other.ended.is_set()
    kill(other)
    kept.close()


@only_linux
def test_suspend_stops_daemons_too(supervisor: Supervisor, log: Log) -> None:
    program = DAEMON.replace('print("daemon"', "print(os.getpid()")
    process = start(supervisor, log, program, "3600")
    daemon = int(log.line())
    process.suspend()
    until(lambda: state_of(daemon) == state_of(process.pid) == "T")
    process.resume()
    until(lambda: state_of(daemon) != "T" and state_of(process.pid) != "T")
    kill(process)
    log.wait_until_gone()


class SmallBuffers(Supervisor):
    """A supervisor whose channel takes a few messages only, as under load."""

    def _make_channel(self) -> tuple[socket.socket, socket.socket]:
        ends = socket.socketpair()
        for end in ends:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 1)
        return ends


@pytest.mark.parametrize("count", [60])
def test_many_starts_at_once_do_not_block_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Both sides write at the same time. Neither may wait for the other one to read."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    supervisor, log = SmallBuffers(), Log()
    ended = threading.Semaphore(0)

    def run() -> None:
        variables = {f"VARIABLE_{n}": "x" * 1000 for n in range(20)}
        process = supervisor.start([TRUE], variables, "/", log.writer)
        process.ended.wait()
        ended.release()

    for _ in range(count):
        threading.Thread(target=run, daemon=True).start()
    for _ in range(count):
        assert ended.acquire(timeout=WAIT)
    supervisor.close()
    log.close()


def test_a_start_after_the_end_is_refused(supervisor: Supervisor, log: Log) -> None:
    supervisor.close()
    with pytest.raises(OSError, match="the emulator is ending"):
        start(supervisor, log, SLEEP)
    with pytest.raises(OSError, match="the emulator is ending"):
        supervisor.make_folder("late")


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    supervisor = Supervisor()
    with pytest.raises(FileNotFoundError) as caught:
        supervisor.wait_until_ready()
    assert caught.value.filename == str(supervisor.scratch)
    supervisor.close()


def test_files_that_are_made_during_the_end_do_not_remain(supervisor: Supervisor) -> None:
    stop = threading.Event()
    folder = supervisor.make_folder("busy")

    def make_files() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with contextlib.suppress(OSError):
                (folder / str(number)).mkdir()
                (folder / str(number) / "file").write_text("x")

    threads = [threading.Thread(target=make_files) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: (folder / "100").exists())
    supervisor.close()
    stop.set()
    for thread in threads:
        thread.join()
