"""The process between the emulator and the execution environments: it starts them, and none of them outlives it.

It reads what to do from a socket. Where that ends, because the emulator has ended or was killed, it kills every process
that is left and removes the emulator's scratch folder. It is the parent of all environments, on one thread alone, so
that the kernel ends them with it (PR_SET_PDEATHSIG is about the thread that started a process), and it is where a
process goes whose own parent has ended (PR_SET_CHILD_SUBREAPER), so that it knows of all descendants.

A message is four bytes of length and a marshalled tuple: both sides are the same interpreter, and `json` would take as
long to import as all else here.

    to it:    ("start", number, command, environment, folder, isolation), with the descriptor of the log
              ("kill", pid)
    from it:  ("started", number, pid), ("failed", number, errno, what)
              ("ended", pid, status, peak): as `subprocess` has the status; memory in KiB
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the module around it makes enums, which takes long
import _socket
import errno
import marshal
import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # to import it takes longer than the rest of the start
    from typing import Any, NoReturn

LINUX = sys.platform == "linux"
CHANNEL = 3  # the descriptor that the emulator gives it
_ANCILLARY = 4096  # bytes; far more than a descriptor takes
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Supervisor:
    """Args: `scratch` is the folder that is removed at the end."""

    def __init__(self, channel: _socket.socket, scratch: str) -> None:
        self._channel = channel
        self._scratch = scratch
        self._received = b""
        self._descriptors: list[int] = []
        self._environments: set[int] = set()  # pids, each the leader of a session

    def run(self) -> None:
        """Serve until the emulator is gone; then nothing that it started is left."""
        ended, telling = os.pipe()
        for descriptor in (ended, telling):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        poller.register(ended, select.POLLIN)
        try:
            while True:
                ready = [descriptor for descriptor, _ in poller.poll()]
                if ended in ready:
                    os.read(ended, 4096)
                    self._reap()
                if self._channel.fileno() in ready and not self._receive():
                    return
        except ConnectionError:
            return
        finally:
            self._end()

    def _receive(self) -> bool:
        data, ancillary, _, _ = self._channel.recvmsg(65536, _ANCILLARY)
        for _, kind, descriptors in ancillary:
            if kind == _socket.SCM_RIGHTS:
                starts = range(0, len(descriptors) - 3, 4)
                self._descriptors += [int.from_bytes(descriptors[n : n + 4], sys.byteorder) for n in starts]
        self._received += data
        while len(self._received) >= 4 and len(self._received) >= (size := 4 + int.from_bytes(self._received[:4])):
            message, self._received = marshal.loads(self._received[4:size]), self._received[size:]
            if message[0] == "start":
                self._start(*message[1:])
            elif message[1] in self._environments:
                self._kill(message[1])
        return bool(data)

    def _tell(self, *message: Any) -> None:
        data = marshal.dumps(message)
        self._channel.sendall(len(data).to_bytes(4) + data)

    def _start(
        self,
        number: int,
        command: list[bytes],
        environment: dict[bytes, bytes],
        folder: bytes,
        isolation: dict[str, Any] | None,
    ) -> None:
        log = self._descriptors.pop(0)
        told, telling = os.pipe()
        pid = os.fork()
        if pid == 0:
            become(command, environment, folder, log, isolation, telling)
        os.close(telling)
        os.close(log)
        with open(told, "rb") as pipe:  # it ends when the program has been started
            problem = pipe.read()
        if problem:
            os.waitpid(pid, 0)
            self._tell("failed", number, *marshal.loads(problem))
        else:
            self._environments.add(pid)
            self._tell("started", number, pid)

    def _reap(self) -> None:
        """Take leave of all that have ended; orphans among them are nobody's business."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._environments:
                self._environments.discard(pid)
                kill_group(pid)  # what it started and left behind
                peak = usage.ru_maxrss if LINUX else usage.ru_maxrss // 1024
                self._tell("ended", pid, os.waitstatus_to_exitcode(status), peak)

    def _kill(self, pid: int) -> None:
        """End an environment with all that it started, also what has a session of its own."""
        family = descendants(pid)
        kill_group(pid)
        for each in family:
            kill(each)

    def _end(self) -> None:
        signal.set_wakeup_fd(-1)
        self._channel.close()
        for pid in self._environments:
            kill_group(pid)
        while True:
            for pid in descendants(os.getpid()):
                kill(pid)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        import shutil  # with its compression formats it would be half of a start

        shutil.rmtree(self._scratch, ignore_errors=True)


def become(
    command: list[bytes],
    environment: dict[bytes, bytes],
    folder: bytes,
    log: int,
    isolation: dict[str, Any] | None,
    telling: int,
) -> NoReturn:
    """Turn this process, a child of the supervisor, into an environment's; tells of what keeps it from that."""
    what = folder
    try:
        os.setsid()  # a Ctrl-C in the terminal is for the emulator, which then ends the process
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        if isolation is not None:
            from tools.emulator.sandbox.namespaces import enter

            what = b"a file system of its own"
            enter(**isolation)
        die_with_parent()  # last, for the kernel forgets it with a change of user namespace
        what = folder
        os.chdir(folder)
        what = command[0]
        os.execve(command[0], command, environment)
    except OSError as error:
        os.write(telling, marshal.dumps((error.errno or errno.EIO, what)))
    finally:
        os._exit(127)


def die_with_parent() -> None:
    """Let the kernel kill this process when the supervisor ends, however that comes (prctl(2))."""
    parent = os.getppid()
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def prctl(option: int, value: int) -> None:
    if LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(ancestor: int) -> list[int]:
    """The processes below one, where the system tells (proc(5))."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if LINUX else []:
        if name.isdigit():
            children.setdefault(parent_of(name), []).append(int(name))
    found = [ancestor]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def parent_of(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):  # it has ended meanwhile
        return 0


def kill_group(pid: int) -> None:
    kill(-pid)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def main() -> None:
    os.setsid()  # nor does a signal to the emulator's group reach it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel = _socket.socket(fileno=CHANNEL)
    os.set_inheritable(CHANNEL, False)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Supervisor(channel, sys.argv[1]).run()


if __name__ == "__main__":
    main()
