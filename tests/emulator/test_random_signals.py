"""Signals at random moments of the start, of serving, of a reload and of the end. Nothing may remain."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.emulator import BARE_ENVIRONMENT, NEW_INTERPRETER, Client, FunctionFolder, Program, until

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PHASES = ("start", "serving", "reload", "one invocation")
LONG_RUNS = 3000  # with 3.5 signals on average
# The first signal, before the emulator receives signals, ends the process; all others end it with 130.
STATUSES = {130, -signal.SIGINT, -signal.SIGTERM}
FUNCTION = """
def handler(event, context):
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
    yield b"one "
    time.sleep(3600 if event.get("rawPath") == "/slow" else 0)
    yield b"two"
"""


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """Block the signals in programs that are started meanwhile.

    `main.py` unblocks them when it can receive them. Otherwise SIGINT could arrive while the interpreter starts, where
    no code of `main.py` runs yet.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Traffic:
    """Requests, fast and slow ones, until the server is gone."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._threads = [threading.Thread(target=self._run, args=(path,)) for path in ("/fast", "/slow")]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self, path: str) -> None:
        with contextlib.suppress(OSError, AssertionError, ValueError, IndexError):  # the end of the server
            while True:
                with Client.to(self._url) as client:
                    client.send_request(f"GET {path} HTTP/1.1", "Connection: close")
                    client.read_rest()


def processes_that_mention(text: bytes) -> list[str]:
    """Processes with a text in their command line or in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for name in ("cmdline", "environ"):
                if text in Path(f"/proc/{pid}/{name}").read_bytes():
                    found.append(pid)
    return found


def send_signals(program: Program, choice: random.Random) -> None:
    """One signal, or several in a short time, to the process or to its group."""
    for _ in range(choice.choice((1, 2, 4, 7))):
        with contextlib.suppress(ProcessLookupError):
            send = program.interrupt if choice.random() < 0.5 else program.process.send_signal
            send(choice.choice(SIGNALS))
        time.sleep(choice.choice((0, choice.random() * 0.02)))


def interrupt_once(folder: FunctionFolder, temporary: Path, seed: int) -> None:
    """Run the emulator and interrupt it in one of the phases."""
    choice = random.Random(seed)
    phase = choice.choice(PHASES)
    temporary.mkdir()
    environment = {**BARE_ENVIRONMENT, "TMPDIR": str(temporary)}
    serve = [] if phase == "one invocation" else ["--serve", "-p", "0"]
    with blocked_signals():
        program = Program(*serve, "--function", folder.path, command=NEW_INTERPRETER, env=environment)
    with program:
        traffic = None
        if phase in ("serving", "reload"):
            url = program.read_through(b"\n").split()[2].decode()
            traffic = Traffic(url)
        time.sleep(choice.random() * 0.3)
        if phase == "reload":
            folder.write(f"{FUNCTION}\n# {seed}\n")
            time.sleep(choice.random() * 0.1)
        send_signals(program, choice)
        result = program.end()
        if traffic is not None:
            traffic.join()
    # A fast machine completes the one invocation before the first signal.
    complete = {0} if phase == "one invocation" and result.out == b"one two" else set()
    assert result.code in STATUSES | complete, (seed, phase, result)
    assert "Traceback" not in result.err and "Exception ignored" not in result.err, (seed, phase, result)
    assert "was killed" not in result.err, "an end that was requested is no failure"
    until(lambda: not processes_that_mention(os.fsencode(temporary)))
    until(lambda: not list(temporary.iterdir()))
    temporary.rmdir()


def interrupt_many_times(tmp_path: Path, seeds: range) -> None:
    with FunctionFolder(tmp_path / "a-function", FUNCTION) as folder, concurrent.futures.ThreadPoolExecutor(3) as pool:
        for _ in pool.map(lambda seed: interrupt_once(folder, tmp_path / f"temporary-{seed}", seed), seeds):
            pass


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no list of processes")
class TestSignals:
    def test_at_some_random_moments_leave_nothing(self, tmp_path: Path) -> None:
        interrupt_many_times(tmp_path, range(8))

    @pytest.mark.long
    @pytest.mark.parametrize("first", range(1000, 1000 + LONG_RUNS, 300))
    def test_at_thousands_of_random_moments_leave_nothing(self, tmp_path: Path, first: int) -> None:
        interrupt_many_times(tmp_path, range(first, first + 300))
