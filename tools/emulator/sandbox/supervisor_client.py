"""The emulator's side of the supervisor, which starts and kills all other processes."""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tools.common.paths import ROOT

SCRATCH_PREFIX = "python-streaming-runtime-"
KILLED = -9  # the exit status of a process whose supervisor was killed
ENDING = "the emulator is ending"


class Process:
    """A process that the supervisor has started. It leads a session of its own.

    `pid` is for reading /proc only. Only the supervisor kills: it reaps the processes, so their numbers stay valid.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.pid = 0
        self.peak: int | None = None  # KiB of memory, known when it has ended
        self.status: int | None = None  # as in `subprocess`: negative numbers are signals
        self.problem: tuple[int, bytes] | None = None  # errno, and the file that it refers to
        self.started = threading.Event()
        self.ended = threading.Event()
        self._supervisor = supervisor

    def request_kill(self) -> None:
        """Have the process and all its descendants killed, without waiting for it."""
        self._supervisor.send("kill", self.pid)

    def suspend(self) -> None:
        """Have the process and all its descendants stopped until `resume`, without waiting for it."""
        self._supervisor.send("suspend", self.pid)

    def resume(self) -> None:
        self._supervisor.send("resume", self.pid)

    def kill(self) -> None:
        """Kill the process and all its descendants, and wait for its end."""
        self.request_kill()
        self.ended.wait()


class Supervisor:
    """Starts the supervisor process, and other processes through it.

    `gone` is set when the supervisor process has ended. Raises OSError if it cannot be started, or if the scratch
    folder cannot be made.
    """

    def __init__(self) -> None:
        temporary = os.environ.get("TMPDIR") or "/tmp"
        self.scratch = Path(temporary).absolute() / f"{SCRATCH_PREFIX}{os.urandom(8).hex()}"
        self.scratch.mkdir(mode=0o700)
        self._lock = threading.Lock()
        self._number = 0
        self._starting: dict[int, Process] = {}
        self._running: dict[int, Process] = {}
        self._closed = False
        self.gone = threading.Event()
        self._channel, theirs = socket.socketpair()
        with theirs:
            try:
                self._pid = self._spawn(theirs.fileno())
            except OSError:
                self.scratch.rmdir()
                raise
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

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
            if self._closed or self.gone.is_set():
                raise OSError(errno.ESRCH, ENDING, command[0])
            self._number += 1
            process = self._starting[self._number] = Process(self)
            self._write(("start", self._number, words, variables, os.fsencode(folder), isolation), [log])
        process.started.wait()
        if process.problem is not None:
            number, file = process.problem
            raise OSError(number, os.strerror(number), os.fsdecode(file))
        return process

    def send(self, *message: Any) -> None:
        with self._lock:
            self._write(message, [])

    def close(self) -> None:
        """Kill every process, end the supervisor and remove the scratch folder."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)
        self._reader.join()
        self._channel.close()
        os.waitpid(self._pid, 0)
        if self.scratch.exists():  # the supervisor was killed
            remove_folder(self.scratch)

    def make_folder(self, name: str) -> Path:
        """Make a folder that is removed at the end."""
        folder = self.scratch / name
        folder.mkdir()
        return folder

    def _spawn(self, channel: int) -> int:
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); "
            "from tools.emulator.sandbox.supervisor_process import main; main()"
        )
        command = [sys.executable, "-S", "-E", "-P", "-B", "-c", program, str(ROOT), str(self.scratch)]
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        # The channel is copied first: its own number can be one of those that are opened next.
        return os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, channel, 3), *null])

    def _write(self, message: tuple[Any, ...], descriptors: list[int]) -> None:
        data = marshal.dumps(message)
        frame = len(data).to_bytes(4) + data
        try:
            sent = socket.send_fds(self._channel, [frame], descriptors) if descriptors else 0
            self._channel.sendall(frame[sent:])
        except OSError:
            return  # the supervisor was killed; `_read` reports it to all that wait

    def _read(self) -> None:
        with self._channel.makefile("rb") as stream:
            while head := stream.read(4):
                self._handle(*marshal.loads(stream.read(int.from_bytes(head))))
        self.gone.set()
        with self._lock:
            remaining = [*self._starting.values(), *self._running.values()]
        for process in remaining:
            process.problem = process.problem or (errno.ESRCH, b"the supervisor")
            process.status = KILLED
            process.started.set()
            process.ended.set()

    def _handle(self, kind: str, *details: Any) -> None:
        with self._lock:
            process = self._running.pop(details[0]) if kind == "ended" else self._starting.pop(details[0])
            if kind == "started":
                process.pid = details[1]
                self._running[process.pid] = process
        if kind == "ended":
            _, process.status, process.peak = details
            process.ended.set()
        else:
            process.problem = (details[1], details[2]) if kind == "failed" else None
            process.started.set()


def remove_folder(folder: Path) -> None:
    """Remove a folder and its content; files that cannot be removed are left."""
    import shutil  # it imports all compression formats, and a start does not need it

    shutil.rmtree(folder, ignore_errors=True)
