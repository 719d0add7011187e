"""The supervisor: the process between the emulator and the execution environments.

Theory of operation. No process may outlive the emulator, not even after `kill -9`. The emulator itself cannot ensure
that: nothing runs in it any more once it is killed. So this process starts all others, each below a keeper (`keeper`),
and three mechanisms end them:

* It reads commands from a socket. When the emulator ends, however it ends, the kernel closes the socket. Then this
  process kills all descendants and removes the emulator's scratch folder.
* Each keeper reads from a socket too. If this process is killed, the keepers kill their environments.
* If a keeper is killed, the kernel kills the main process of its environment (PR_SET_PDEATHSIG, prctl(2)), and the
  other processes become children of this one, which kills them (PR_SET_CHILD_SUBREAPER). PR_SET_PDEATHSIG is sent when
  the *thread* that started a process ends. For this reason the emulator, which has many threads, does not start
  processes itself, and this process and the keepers have one thread.

On macOS the third mechanism reaches the process group of the main process only (`tools.common.operating_system`).

A message is four bytes of length and a marshalled tuple. `marshal` is safe here because both sides are the same
interpreter; importing `json` would take as long as all the rest of the start. `number` is the number of a start.

    to it:    ("start", number, command, environment, folder, isolation), with the descriptor of the log
              ("kill", number), ("terminate", number), ("suspend", number), ("resume", number)
    from it:  ("ready",), or ("unusable", errno, file) if the scratch folder cannot be made
              ("started", number, pid), ("failed", number, errno, file)
              ("ended", number, status, peak): status as in `subprocess`; memory in KiB, None: not known
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

from tools.common.operating_system import adopt_orphans, descendants
from tools.emulator.sandbox.keeper import END_SIGNALS, REQUESTS, Keeper, Program, kill, kill_group

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than the rest of the start
    from typing import Any

CHANNEL = 3  # the descriptor of the socket
END_TIMEOUT = 0.4  # seconds that killed processes have to end; the kernel can delay that, for example in a slow write
POLL_INTERVAL = 0.002  # seconds
_ANCILLARY_BYTES = 4096  # far more than one descriptor needs


class Environment:
    """An environment, as the supervisor knows it.

    Args:
        number: in messages.
        keeper: the process number of the keeper.
        channel: a socket to it.
    """

    def __init__(self, number: int, keeper: int, channel: _socket.socket) -> None:
        self.number = number
        self.keeper = keeper
        self.channel = channel
        self.received = b""
        self.polled = True
        self.pid = 0  # of the main process, when it has been started
        self.over = False  # its end, or the failure to start it, has been reported


class Supervisor:
    """Args: `scratch` is the folder that is made at the start, and removed at the end."""

    def __init__(self, channel: _socket.socket, scratch: str) -> None:
        self._channel = channel
        self._scratch = scratch
        self._received = b""
        self._descriptors: list[int] = []
        self._environments: dict[int, Environment] = {}  # by number
        self._poller = select.poll()

    def run(self) -> None:
        """Serve until the emulator is gone, then end all processes."""
        try:
            os.mkdir(self._scratch, 0o700)
        except OSError as error:
            self._send("unusable", error.errno or errno.EIO, self._scratch.encode("utf-8", "surrogateescape"))
            return
        try:
            self._send("ready")
            self._serve()
        except ConnectionError:
            return
        finally:
            self._end()

    def _serve(self) -> None:
        # A signal interrupts poll() only if it arrives during poll(). The pipe also wakes it for one that came before.
        self._child_ended, self._wake_up = os.pipe()
        for descriptor in (self._child_ended, self._wake_up):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_up, warn_on_full_buffer=False)
        self._poller.register(self._channel.fileno(), select.POLLIN)
        self._poller.register(self._child_ended, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in self._poller.poll()}
            for environment in list(self._environments.values()):
                if environment.channel.fileno() in ready:
                    self._relay(environment)
            if self._child_ended in ready:
                os.read(self._child_ended, 4096)
                self._reap()
            if self._channel.fileno() in ready and not self._receive():
                return

    def _receive(self) -> bool:
        """Read and execute messages. Returns False at the end of the socket."""
        data, ancillary, _, _ = self._channel.recvmsg(65536, _ANCILLARY_BYTES)
        for _, kind, descriptors in ancillary:
            if kind == _socket.SCM_RIGHTS:
                for start in range(0, len(descriptors) - 3, 4):
                    self._descriptors.append(int.from_bytes(descriptors[start : start + 4], sys.byteorder))
                    os.set_inheritable(self._descriptors[-1], False)  # it is inheritable when it is received
        self._received += data
        messages, self._received = split(self._received)
        for kind, number, *details in messages:
            if kind == "start":
                self._start(number, *details)
            elif number in self._environments:
                send_request(self._environments[number].channel, REQUESTS[kind])
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
        try:
            keeper, channel = fork_with_socket()
        except OSError as error:  # out of descriptors or processes
            os.close(log)
            return self._send("failed", number, error.errno or errno.EIO, command[0])
        if keeper == 0:
            try:
                self._close_descriptors()
                Keeper(channel, number).run(Program(command, environment, folder, isolation, log))
            finally:
                os._exit(0)
        os.close(log)
        channel.setblocking(False)
        self._environments[number] = Environment(number, keeper, channel)
        self._poller.register(channel.fileno(), select.POLLIN)

    def _close_descriptors(self) -> None:
        """In a new keeper: close what belongs to this process. Its sockets could never end otherwise."""
        for descriptor in (self._child_ended, self._wake_up, *self._descriptors):
            os.close(descriptor)
        for channel in (self._channel, *(each.channel for each in self._environments.values())):
            channel.close()

    def _relay(self, environment: Environment) -> None:
        """Pass on what a keeper has sent until now."""
        while True:
            try:
                data = environment.channel.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:  # its end; `_reap` does the rest
                return self._stop_polling(environment)
            messages, environment.received = split(environment.received + data)
            for message in messages:
                if message[0] == "started":
                    environment.pid = message[2]
                else:
                    environment.over = True
                self._send(*message)

    def _stop_polling(self, environment: Environment) -> None:
        if environment.polled:
            environment.polled = False
            self._poller.unregister(environment.channel.fileno())

    def _reap(self) -> None:
        """Reap children that have ended: keepers, and orphans of keepers that were killed."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for environment in list(self._environments.values()):
                if environment.keeper == pid:
                    self._forget(environment)

    def _forget(self, environment: Environment) -> None:
        """Remove an environment whose keeper has ended. If somebody has killed the keeper, kill the environment."""
        self._relay(environment)
        self._stop_polling(environment)
        del self._environments[environment.number]
        environment.channel.close()
        if environment.over:
            return
        if environment.pid:
            kill_group(environment.pid)
        kept = set()
        for other in self._environments.values():
            kept |= {other.keeper, *descendants(other.keeper)}
        for pid in {*descendants(os.getpid())} - kept:
            kill(pid)
        if environment.pid:
            self._send("ended", environment.number, -signal.SIGKILL, None)
        else:
            self._send("failed", environment.number, errno.ESRCH, b"the keeper")

    def _end(self) -> None:
        """Kill all descendants and remove the scratch folder. The end of the process closes the channel.

        The emulator's threads may still make files in the folder. They cannot find it under its new name.
        """
        signal.set_wakeup_fd(-1)
        for environment in self._environments.values():
            environment.channel.close()  # the keeper kills the environment, where this process finds no descendants
        all_ended = kill_descendants(END_TIMEOUT)
        import shutil  # it imports all compression formats, which would take half of the start

        removed = f"{self._scratch}-removed"
        os.rename(self._scratch, removed)
        shutil.rmtree(removed, ignore_errors=True)
        if not all_ended:
            kill_descendants(None)
            shutil.rmtree(removed, ignore_errors=True)


def fork_with_socket() -> tuple[int, _socket.socket]:
    """Fork. Returns what `os.fork` returns, and a socket to the other process. Raises OSError."""
    ours, theirs = _socket.socketpair()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    (theirs if pid else ours).close()
    return pid, ours if pid else theirs


def split(data: bytes) -> tuple[list[Any], bytes]:
    """Split what was received into messages and the rest."""
    messages = []
    while len(data) >= 4 and len(data) >= (size := 4 + int.from_bytes(data[:4])):
        messages.append(marshal.loads(data[4:size]))
        data = data[size:]
    return messages, data


def send_request(channel: _socket.socket, request: bytes) -> None:
    try:
        channel.send(request)
    except OSError:  # the keeper has ended
        return


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


def main() -> None:
    os.setsid()  # signals to the emulator's process group do not reach it
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)  # the emulator has blocked them until now
    channel = _socket.socket(fileno=CHANNEL)
    os.set_inheritable(CHANNEL, False)
    adopt_orphans()
    Supervisor(channel, sys.argv[1]).run()


if __name__ == "__main__":
    main()
