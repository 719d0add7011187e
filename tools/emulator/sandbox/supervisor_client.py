"""The emulator's side of the supervisor, which starts and kills all other processes."""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tools.common.paths import ROOT

SCRATCH_PREFIX = "python-streaming-runtime-"
KILLED = -9  # the exit status of a process whose supervisor was killed
ENDING = "the emulator is ending"
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Process:
    """A process that the supervisor has started. It leads a session of its own.

    `pid` is for reading /proc only. Only its keeper kills it: it reaps the process, so its number stays valid.

    Args:
        number: in the messages of the supervisor; 0: no process.
    """

    def __init__(self, supervisor: Supervisor, number: int = 0) -> None:
        self.pid = 0
        self.peak: int | None = None  # KiB of memory, when it has ended and the system provides it
        self.status: int | None = None  # as in `subprocess`: negative numbers are signals
        self.problem: tuple[int, bytes] | None = None  # errno, and the file that it refers to
        self.started = threading.Event()
        self.ended = threading.Event()
        self._supervisor = supervisor
        self._number = number

    def request_kill(self) -> None:
        """Have the process and all its descendants killed, without waiting for it."""
        self._supervisor.send("kill", self._number)

    def request_termination(self) -> None:
        """Send SIGTERM to the process and its process group, without waiting for it."""
        self._supervisor.send("terminate", self._number)

    def suspend(self) -> None:
        """Have the process and all its descendants stopped until `resume`, without waiting for it."""
        self._supervisor.send("suspend", self._number)

    def resume(self) -> None:
        self._supervisor.send("resume", self._number)


class Supervisor:
    """Starts the supervisor process, and other processes through it.

    Theory of operation. The supervisor writes while it reads, and so does this side. If both waited in a write, each
    for the other one to read, they would wait forever. So the thread that reads never waits for one that writes: a
    write has a lock of its own, and `_lock` protects the tables only, never during a write.

    The supervisor process makes the scratch folder and removes it. If the emulator made it, an emulator that is killed
    before the supervisor runs would leave it.

    `gone` is set when the supervisor process has ended. Raises OSError if it cannot be started.
    """

    def __init__(self) -> None:
        temporary = os.environ.get("TMPDIR") or "/tmp"
        # Without symbolic links (macOS has one at /tmp), so that paths in the log are those that the function sees.
        self.scratch = Path(os.path.realpath(temporary)) / f"{SCRATCH_PREFIX}{os.urandom(8).hex()}"
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._number = 0
        self._processes: dict[int, Process] = {}  # by number
        self._closed = False
        self._end_requested = False
        self._problem: OSError | None = None  # why there is no scratch folder
        self._ready = threading.Event()
        self.gone = threading.Event()
        self._channel, theirs = self._make_channel()
        with theirs:
            self._pid = self._spawn(theirs.fileno())
        threading.Thread(target=self._read, daemon=True).start()

    def wait_until_ready(self) -> None:
        """Wait for the scratch folder. Raises OSError if it cannot be made."""
        self._ready.wait()
        if self._problem is not None:
            raise self._problem

    def start(
        self,
        command: list[str],
        environment: dict[str, str],
        folder: str,
        log: int,
        isolation: dict[str, str | None] | None = None,
    ) -> Process:
        """Start a program in a session of its own.

        Args:
            folder: its working directory.
            log: the descriptor for its standard output and standard error.
            isolation: the arguments of `namespaces.enter`; None: it sees the machine's file system.

        Raises OSError, with the name of the file that is the cause, if it cannot be started.
        """
        words = [os.fsencode(word) for word in command]
        variables = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
        with self._lock:
            if self._closed:
                raise OSError(errno.ESRCH, ENDING, command[0])
            self._number += 1
            number = self._number
            process = self._processes[number] = Process(self, number)
        self._write(("start", number, words, variables, os.fsencode(folder), isolation), [log])
        process.started.wait()
        if process.problem is not None:
            code, file = process.problem
            raise OSError(code, os.strerror(code), os.fsdecode(file))
        return process

    def send(self, *message: Any) -> None:
        self._write(message, [])

    def close(self) -> None:
        """Kill every process, end the supervisor and remove the scratch folder. It waits for a close on any thread."""
        with self._lock:
            self._closed = True
        self._request_end()
        self.gone.wait()
        with contextlib.suppress(ChildProcessError):  # another thread was faster
            os.waitpid(self._pid, 0)
        if self.scratch.exists():  # the supervisor was killed
            remove_folder(self.scratch)

    def kill(self, timeout: float) -> None:
        """Like `close`, for a number of seconds at most. It takes no lock: a blocked thread may have any of them."""
        self._closed = True
        self._request_end()
        if self.gone.wait(timeout) and self.scratch.exists():
            remove_folder(self.scratch)

    def wait_until_lost(self) -> None:
        """Wait until somebody else ends the supervisor. After `close` or `kill` this waits for the exit of main.py."""
        self.gone.wait()
        if self._end_requested:
            threading.Event().wait()

    def make_folder(self, name: str) -> Path:
        """Make a folder that is removed at the end. Raises OSError."""
        self.wait_until_ready()
        folder = self.scratch / name
        folder.mkdir()
        return folder

    def _make_channel(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair()

    def _request_end(self) -> None:
        self._end_requested = True
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)

    def _spawn(self, channel: int) -> int:
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); "
            "from tools.emulator.sandbox.supervisor_process import main; main()"
        )
        command = [sys.executable, "-S", "-E", "-P", "-B", "-c", program, str(ROOT), str(self.scratch)]
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        # The channel is copied first: its own number can be one of those that are opened next.
        actions = [(os.POSIX_SPAWN_DUP2, channel, 3), *null]
        # Ctrl-C in the terminal must not reach it before it can ignore it.
        return os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsigmask=END_SIGNALS)

    def _write(self, message: tuple[Any, ...], descriptors: list[int]) -> None:
        data = marshal.dumps(message)
        frame = len(data).to_bytes(4) + data
        try:
            with self._write_lock:
                sent = socket.send_fds(self._channel, [frame], descriptors) if descriptors else 0
                self._channel.sendall(frame[sent:])
        except OSError:
            return  # the supervisor has ended; `_read` reports it to all that wait

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._channel.makefile("rb") as stream:
            while (head := stream.read(4)) and len(data := stream.read(int.from_bytes(head))) == int.from_bytes(head):
                self._handle(*marshal.loads(data))
        with self._write_lock:
            self._channel.close()
        with self._lock:
            self._closed = True
            remaining = list(self._processes.values())
        for process in remaining:
            process.problem = process.problem or (errno.ESRCH, b"the supervisor")
            process.status = KILLED
            process.started.set()
            process.ended.set()
        self._problem = self._problem or OSError(errno.ESRCH, ENDING)
        self._ready.set()
        self.gone.set()

    def _handle(self, kind: str, *details: Any) -> None:
        """Execute a message of the supervisor."""
        if kind == "ready":
            self._ready.set()
            return
        if kind == "unusable":
            code, file = details
            self._problem = OSError(code, os.strerror(code), os.fsdecode(file))
            return
        number, *rest = details
        with self._lock:
            process = self._processes[number] if kind == "started" else self._processes.pop(number)
        if kind == "ended":
            process.status, process.peak = rest
            process.ended.set()
            return
        if kind == "started":
            [process.pid] = rest
        else:
            code, file = rest
            process.problem = (code, file)
        process.started.set()


def remove_folder(folder: Path) -> None:
    """Remove a folder and its content; files that cannot be removed are left."""
    import shutil  # it imports all compression formats, and a start does not need it

    shutil.rmtree(folder, ignore_errors=True)
