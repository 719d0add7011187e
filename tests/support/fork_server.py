"""Starts a program in a process that is forked from one that has imported it.

An import takes three times as long as most commands of the tests. So a server imports the modules once, and forks for
each start. The forked process is in the state in which the interpreter starts a program: its own session, environment,
working directory, arguments and standard streams. What an interpreter takes from its variables when it starts is the
same for all: `can_start` is false for an environment that changes it, and for systems without pidfds.

Theory of operation. Each start has a socket of its own between the test and the server. The server receives the other
end together with the standard streams. It writes the number of the process to it, and its status when it has ended.
It reaps the process only when the test has closed its end: until then the number stays valid for signals, as with
`subprocess`. If the test run ends, the server reads the end of its requests, and ends too.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

BARE_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
MAX_REQUEST = 1_000_000  # bytes
OF_THE_INTERPRETER = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "MALLOC_", "GLIBC_")


def can_start(env: Mapping[str, str]) -> bool:
    """Return whether a forked process with this environment is the same as a new one."""
    return hasattr(os, "pidfd_open") and not any(name.startswith(OF_THE_INTERPRETER) for name in env)


class ForkServer:
    """The server of one test process, which it starts.

    Args:
        folder: what `sys.path` begins with.
        modules: what it imports.
    """

    def __init__(self, folder: Path, *modules: str) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), str(folder), *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=BARE_ENVIRONMENT,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the process of the tests
            )
        atexit.register(self._close)

    def start(
        self,
        program: Path,
        arguments: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        streams: Sequence[int | IO[bytes]],
    ) -> ForkedProcess:
        """Start a Python program in a session of its own.

        Args:
            streams: standard input, output and error, as descriptors or files.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"program": str(program), "arguments": arguments, "env": dict(env), "cwd": cwd}
        descriptors = [each if isinstance(each, int) else each.fileno() for each in (*streams, theirs)]
        with theirs:
            socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
        return ForkedProcess(ours)

    def _close(self) -> None:
        self._requests.close()
        self._process.wait()


class ForkedProcess:
    """A process that a server has started, with the interface of `subprocess.Popen`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.pid = int(channel.recv(64))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._status(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _status(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._channel, select.POLLIN)
            if poller.poll(None if timeout is None else timeout * 1000):
                self.returncode = int(self._channel.recv(64))
                self._channel.close()  # the server reaps the process
        return self.returncode


class Forking:
    """What the server does until it is asked for the last time, or is the process that was asked for."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._poller = select.poll()
        self._poller.register(requests, select.POLLIN)
        self._running: dict[int, tuple[int, socket.socket]] = {}  # by the pidfd, which can be read at the end
        self._ended: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor of the socket of the start

    def serve(self) -> dict[str, Any] | None:
        """Return None when the requests end, and in a forked process its request."""
        while True:
            for descriptor, _ in self._poller.poll():
                if descriptor in self._running:
                    self._report_end(descriptor)
                elif descriptor in self._ended:
                    self._reap(descriptor)
                else:
                    data, descriptors, _, _ = socket.recv_fds(self._requests, MAX_REQUEST, 4)
                    if not data:
                        return None
                    request = json.loads(data)
                    if not self._fork(descriptors):
                        return dict(request)

    def _fork(self, descriptors: list[int]) -> int:
        *streams, own = descriptors
        pid = os.fork()
        if not pid:
            for number, descriptor in enumerate(streams):
                os.dup2(descriptor, number)
            self._close_all()
            return 0
        for descriptor in streams:
            os.close(descriptor)
        channel = socket.socket(fileno=own)
        channel.send(b"%d" % pid)
        ending = os.pidfd_open(pid)
        self._running[ending] = pid, channel
        self._poller.register(ending, select.POLLIN)
        return pid

    def _close_all(self) -> None:
        for _, channel in [*self._running.values(), *self._ended.values()]:
            channel.detach()  # otherwise its end would close another file of this number
        self._requests.detach()
        os.closerange(3, 10_000)

    def _report_end(self, ending: int) -> None:
        pid, channel = self._running.pop(ending)
        self._poller.unregister(ending)
        os.close(ending)
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert result is not None
        status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        with contextlib.suppress(OSError):  # no test waits for it
            channel.send(b"%d" % status)
        self._ended[channel.fileno()] = pid, channel
        self._poller.register(channel, select.POLLIN)

    def _reap(self, descriptor: int) -> None:
        pid, channel = self._ended.pop(descriptor)
        self._poller.unregister(descriptor)
        channel.close()
        os.waitpid(pid, 0)


def become(request: dict[str, Any]) -> None:
    """Run the program of a request, with the state in which an interpreter starts one."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [request["program"], *request["arguments"]]
    sys.stdin = stream(0, "r", "surrogateescape")
    sys.stdout = stream(1, "w", "surrogateescape")
    sys.stderr = stream(2, "w", "backslashreplace", buffering=1)
    runpy.run_path(request["program"], run_name="__main__")


def stream(number: int, mode: str, errors: str, buffering: int = -1) -> Any:
    return open(number, mode, buffering, encoding="utf-8", errors=errors, closefd=False)


def main(descriptor: str, folder: str, *modules: str) -> None:
    sys.dont_write_bytecode = True
    sys.path[0] = folder
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # a collection in a forked process would copy the memory of these modules
    if request := Forking(socket.socket(fileno=int(descriptor))).serve():
        become(request)


if __name__ == "__main__":
    main(*sys.argv[1:])
