"""The supervisor: the process between the emulator and the execution environments.

Theory of operation. No process may outlive the emulator, not even after `kill -9`, and not even a process that has left
its process group or its session. The emulator itself cannot ensure that: nothing runs in it any more once it is killed.
So this process starts all others, and three mechanisms end them:

* It reads commands from a socket. When the emulator ends, however it ends, the kernel closes the socket. Then this
  process kills all descendants and removes the emulator's scratch folder.
* It is a child subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)): a process whose parent has exited becomes its child. So it
  is an ancestor of all processes of the environments, and finds them in /proc.
* If it is itself killed, the kernel kills the environments (PR_SET_PDEATHSIG). That signal is sent when the *thread*
  that started a process ends. For this reason the emulator, which has many threads, does not start processes itself,
  and this process has one thread.

It also keeps process numbers valid: it reaps the children, so a number cannot be given to another process between the
decision to kill and the signal.

A message is four bytes of length and a marshalled tuple. `marshal` is safe here because both sides are the same
interpreter; importing `json` would take as long as all the rest of the start.

    to it:    ("start", number, command, environment, folder, isolation), with the descriptor of the log
              ("kill", pid), ("terminate", pid), ("suspend", pid), ("resume", pid)
    from it:  ("ready",), or ("unusable", errno, file) if the scratch folder cannot be made
              ("started", number, pid), ("failed", number, errno, file)
              ("ended", pid, status, peak): status as in `subprocess`; memory in KiB
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` builds enums, which takes long
import _socket
import errno
import marshal
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than the rest of the start
    from typing import Any, NoReturn

LINUX = sys.platform == "linux"
SIGNALS = {"kill": signal.SIGKILL, "suspend": signal.SIGSTOP, "resume": signal.SIGCONT}  # by message
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CHANNEL = 3  # the descriptor of the socket
END_TIMEOUT = 0.4  # seconds that killed processes have to end; the kernel can delay that, for example in a slow write
POLL_INTERVAL = 0.002  # seconds
_ANCILLARY_BYTES = 4096  # far more than one descriptor needs
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Supervisor:
    """Args: `scratch` is the folder that is made at the start, and removed at the end."""

    def __init__(self, channel: _socket.socket, scratch: str) -> None:
        self._channel = channel
        self._scratch = scratch
        self._received = b""
        self._descriptors: list[int] = []
        self._environments: set[int] = set()  # process numbers; each process leads a session

    def run(self) -> None:
        """Serve until the emulator is gone, then end all processes."""
        try:
            os.mkdir(self._scratch, 0o700)
        except OSError as error:
            self._send("unusable", error.errno or errno.EIO, self._scratch.encode("utf-8", "surrogateescape"))
            return
        self._send("ready")
        # A signal interrupts poll() only if it arrives during poll(). The pipe also wakes it for one that came before.
        child_ended, wake_up = os.pipe()
        for descriptor in (child_ended, wake_up):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_up, warn_on_full_buffer=False)
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        poller.register(child_ended, select.POLLIN)
        try:
            while True:
                ready = [descriptor for descriptor, _ in poller.poll()]
                if child_ended in ready:
                    os.read(child_ended, 4096)
                    self._reap()
                if self._channel.fileno() in ready and not self._receive():
                    return
        except ConnectionError:
            return
        finally:
            self._end()

    def _receive(self) -> bool:
        """Read and execute messages. Returns False at the end of the socket."""
        data, ancillary, _, _ = self._channel.recvmsg(65536, _ANCILLARY_BYTES)
        for _, kind, descriptors in ancillary:
            if kind == _socket.SCM_RIGHTS:
                starts = range(0, len(descriptors) - 3, 4)
                self._descriptors += [int.from_bytes(descriptors[n : n + 4], sys.byteorder) for n in starts]
        self._received += data
        while len(self._received) >= 4 and len(self._received) >= (size := 4 + int.from_bytes(self._received[:4])):
            message, self._received = marshal.loads(self._received[4:size]), self._received[size:]
            if message[0] == "start":
                self._start(*message[1:])
            elif message[0] == "terminate" and message[1] in self._environments:
                kill_group(message[1], signal.SIGTERM)
            elif message[1] in self._environments:
                signal_family(message[1], SIGNALS[message[0]])
        return bool(data)

    def _send(self, *message: Any) -> None:
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
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            execute(command, environment, folder, log, isolation, writer)
        os.close(writer)
        os.close(log)
        # The pipe is closed on exec, so reading ends when the program has been started, or with the cause why not.
        with open(reader, "rb") as pipe:
            problem = pipe.read()
        if problem:
            os.waitpid(pid, 0)
            self._send("failed", number, *marshal.loads(problem))
        else:
            self._environments.add(pid)
            self._send("started", number, pid)

    def _reap(self) -> None:
        """Reap exited children; report only the environments among them. The others are orphans of environments."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._environments:
                self._environments.discard(pid)
                kill_group(pid)  # the processes that it leaves in its group
                peak = usage.ru_maxrss if LINUX else usage.ru_maxrss // 1024
                self._send("ended", pid, os.waitstatus_to_exitcode(status), peak)

    def _end(self) -> None:
        """Kill all descendants and remove the scratch folder. The end of the process closes the channel.

        The emulator's threads may still make files in the folder. They cannot find it under its new name.
        """
        signal.set_wakeup_fd(-1)
        for pid in self._environments:
            kill_group(pid)
        all_ended = kill_descendants(END_TIMEOUT)
        import shutil  # it imports all compression formats, which would take half of the start

        removed = f"{self._scratch}-removed"
        os.rename(self._scratch, removed)
        shutil.rmtree(removed, ignore_errors=True)
        if not all_ended:
            kill_descendants(None)
            shutil.rmtree(removed, ignore_errors=True)


def kill_descendants(timeout: float | None) -> bool:
    """Kill and reap all descendants. Returns False if one has not ended after that many seconds."""
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        for pid in descendants(os.getpid()):
            kill(pid)
        try:
            pid, _ = os.waitpid(-1, 0 if end is None else os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0 and end is not None:
            if time.monotonic() > end:
                return False
            time.sleep(POLL_INTERVAL)


def execute(
    command: list[bytes],
    environment: dict[bytes, bytes],
    folder: bytes,
    log: int,
    isolation: dict[str, Any] | None,
    problem: int,
) -> NoReturn:
    """In a new child: become an environment's process. A failure is written to the descriptor `problem`."""
    file = folder
    try:
        os.setsid()  # Ctrl-C in a terminal is for the emulator, which then ends this process
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, *END_SIGNALS):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        if isolation is not None:
            from tools.emulator.sandbox.namespaces import enter  # most environments do not need it

            file = b"its own file system"
            enter(**isolation)
        die_with_parent()  # last: a change of the user namespace clears the setting
        file = folder
        os.chdir(folder)
        file = command[0]
        os.execve(command[0], command, environment)
    except OSError as error:
        os.write(problem, marshal.dumps((error.errno or errno.EIO, file)))
    finally:
        os._exit(127)


def die_with_parent() -> None:
    """Have the kernel kill this process when the supervisor ends (PR_SET_PDEATHSIG, prctl(2))."""
    parent = os.getppid()
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended in between
        os._exit(127)


def prctl(option: int, value: int) -> None:
    if LINUX:
        import ctypes  # not needed on other systems

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(ancestor: int) -> list[int]:
    """The descendants of a process (proc(5)); none on systems without /proc."""
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


def signal_family(pid: int, number: int) -> None:
    """Signal an environment and all its descendants, also those that have left its session."""
    family = descendants(pid)
    kill_group(pid, number)
    for each in family:
        kill(each, number)


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    kill(-pid, number)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def main() -> None:
    os.setsid()  # signals to the emulator's process group do not reach it
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)  # the emulator has blocked them until now
    channel = _socket.socket(fileno=CHANNEL)
    os.set_inheritable(CHANNEL, False)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Supervisor(channel, sys.argv[1]).run()


if __name__ == "__main__":
    main()
