"""The keeper: the process above one environment. It ends whatever the environment has started.

Theory of operation. On the service an environment ends as a whole. Here its processes can leave their group and their
session, and when their parent has ended, nothing connects them with the environment any more. So each environment gets
a keeper, a fork of the supervisor. On Linux it is a child subreaper: every process of the environment remains its
descendant. When the main process ends, when the supervisor requests it, and when the supervisor itself has ended, the
keeper kills all of them.

macOS has no subreaper and no list of processes that needs no other program. There the keeper kills the process group of
the main process: a process that has left the group outlives its environment.

The keeper also keeps process numbers valid: it reaps the processes, so a number cannot be given to another process
between the decision to kill and the signal. It never waits for the exec of the main process in a way that would block
others, because it has one environment only.

Keeper and supervisor share a socket. Its end is the end of the other process.

    to it:    a byte for each request (see REQUESTS)
    from it:  the messages of the supervisor about this environment
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` builds enums, which takes long
import _socket
import errno
import marshal
import os
import select

from tools.common.operating_system import adopt_orphans, descendants, die_with_parent, peak_kib

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than the rest of the start
    from typing import Any, NoReturn

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REQUESTS = {"kill": b"k", "terminate": b"t", "suspend": b"s", "resume": b"r"}  # by message
_SIGNALS = {
    REQUESTS["kill"][0]: signal.SIGKILL,
    REQUESTS["terminate"][0]: signal.SIGTERM,
    REQUESTS["suspend"][0]: signal.SIGSTOP,
    REQUESTS["resume"][0]: signal.SIGCONT,
}


class Program:
    """What the main process executes.

    Args:
        folder: its working directory.
        log: the descriptor for its standard output and standard error.
        isolation: the arguments of `namespaces.enter`, or None.
    """

    def __init__(
        self,
        command: list[bytes],
        environment: dict[bytes, bytes],
        folder: bytes,
        isolation: dict[str, Any] | None,
        log: int,
    ) -> None:
        self.command = command
        self.environment = environment
        self.folder = folder
        self.isolation = isolation
        self.log = log

    def execute(self, problem: int) -> NoReturn:
        """In a new child: become the main process. A failure is written to the descriptor `problem`."""
        file = self.folder
        try:
            os.setsid()  # Ctrl-C in a terminal is for the emulator, which then ends this process
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, *END_SIGNALS):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            for descriptor in (1, 2):
                os.dup2(self.log, descriptor)
            if self.isolation is not None:
                from tools.emulator.sandbox.namespaces import enter  # most environments do not need it

                file = b"its own file system"
                enter(**self.isolation)
            parent = os.getppid()
            die_with_parent(signal.SIGKILL)  # last: a change of the user namespace clears the setting
            if os.getppid() != parent:  # it has ended in between
                os._exit(127)
            file = self.folder
            os.chdir(self.folder)
            file = self.command[0]
            os.execve(self.command[0], self.command, self.environment)
        except OSError as error:
            os.write(problem, marshal.dumps((error.errno or errno.EIO, file)))
        finally:
            os._exit(127)


class Keeper:
    """Args: `number` is that of the environment in messages."""

    def __init__(self, channel: _socket.socket, number: int) -> None:
        self._channel = channel
        self._number = number
        self._pid = 0
        # A signal interrupts poll() only if it arrives during poll(). The pipe also wakes it for one that came before.
        self._child_ended, wake_up = os.pipe()
        for descriptor in (self._child_ended, wake_up):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_up, warn_on_full_buffer=False)
        adopt_orphans()

    def run(self, program: Program) -> None:
        """Start the main process, and return when all processes of the environment have ended."""
        try:
            problem = self._start(program)
        except OSError as error:  # out of processes, for example
            problem = (error.errno or errno.EIO, program.command[0])
        if problem is not None:
            return self._send("failed", self._number, *problem)
        self._send("started", self._number, self._pid)
        self._serve()
        self._kill_all()

    def _start(self, program: Program) -> tuple[int, bytes] | None:
        reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            program.execute(writer)
        os.close(writer)
        os.close(program.log)
        # The pipe is closed on exec, so reading ends when the program has been started, or with the cause why not.
        with open(reader, "rb") as pipe:
            problem = pipe.read()
        if not problem:
            return None
        os.waitpid(self._pid, 0)
        number, file = marshal.loads(problem)
        return number, file

    def _serve(self) -> None:
        """Execute requests until the main process or the supervisor has ended."""
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        poller.register(self._child_ended, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poller.poll()]
            if self._child_ended in ready:
                os.read(self._child_ended, 4096)
                if self._reap():
                    return
            if self._channel.fileno() in ready:
                requests = self._channel.recv(4096)
                if not requests:
                    return
                for request in requests:
                    self._signal(_SIGNALS[request])

    def _signal(self, number: int) -> None:
        """Signal all processes of the environment; with SIGTERM, only the group of the main process."""
        if number != signal.SIGTERM:
            for pid in descendants(os.getpid()):
                kill(pid, number)
        if self._pid:
            kill_group(self._pid, number)

    def _reap(self) -> bool:
        """Reap processes that have ended. Returns whether the main process is one of them; its end is reported."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return False
            if pid == self._pid:
                self._signal(signal.SIGKILL)  # the processes that it leaves
                self._pid = 0  # from now on, the number can belong to another process
                self._send("ended", self._number, os.waitstatus_to_exitcode(status), peak_kib(usage.ru_maxrss))
                return True

    def _kill_all(self) -> None:
        while True:
            self._signal(signal.SIGKILL)
            try:
                pid, _ = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            if pid == self._pid:
                self._pid = 0

    def _send(self, *message: Any) -> None:
        data = marshal.dumps(message)
        try:
            self._channel.sendall(len(data).to_bytes(4) + data)
        except OSError:  # the supervisor has ended
            return


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal the process group of an environment's main process."""
    kill(-pid, number)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
