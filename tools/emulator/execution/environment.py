"""Execution environments: a process with Lambda's variables and a Runtime API of its own.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tools.emulator.console import Console, Report, start_line
from tools.emulator.deployment.configuration import VERSION, FunctionConfiguration
from tools.emulator.execution.deadlines import ALARMS, Alarm
from tools.emulator.execution.invocation import LOG_TAIL, Invocation, InvocationFailed
from tools.emulator.sandbox.supervisor_client import Process, Supervisor, remove

if TYPE_CHECKING:
    from tools.emulator.execution.runtime_api import RuntimeApi

INIT_LIMIT = 10  # seconds from the start of the process to its first `next`


class FunctionLog:
    """What a process prints, standard output and standard error in one, handed on as it comes."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._ended = False

    def start(self) -> None:
        """Follow what is printed; to be called when the process has the writer."""
        os.close(self.writer)
        threading.Thread(target=self._follow, daemon=True).start()

    def drain(self) -> None:
        """Hand on all that was printed until now, so that no later line overtakes it."""
        with self._lock:
            while not self._ended:
                try:
                    data = os.read(self._reader, 65536)
                except BlockingIOError:
                    return
                if data:
                    self._write(data)
                else:
                    self._ended = True
                    os.close(self._reader)

    def _follow(self) -> None:
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        while not self._ended:
            poller.poll()
            self.drain()


class ExecutionEnvironment:
    """One running process; it serves one invocation at a time.

    Args:
        folder: a new one, for what belongs to this environment alone; it is removed at its end.
        on_idle: called when it can serve an invocation again, after one.
        on_end: called when it has ended.
        on_slow_init: called with its invocation when the init phase is at its limit, for another environment to do it
            again; None: this is that other one, whose init phase may take as long as an invocation.

    Raises InvocationFailed (`Runtime.InvalidEntrypoint`) where the process cannot be started.
    """

    def __init__(
        self,
        function: FunctionConfiguration,
        console: Console,
        supervisor: Supervisor,
        folder: Path,
        on_idle: Callable[[ExecutionEnvironment], None],
        on_end: Callable[[ExecutionEnvironment], None],
        on_slow_init: Callable[[Invocation], None] | None = None,
    ) -> None:
        self._function = function
        self._console = console
        self._folder = folder
        self._on_idle = on_idle
        self._on_end = on_end
        self._lock = threading.Lock()
        self._invocation: Invocation | None = None
        self._end: InvocationFailed | None = None
        self._soon_free = False
        self._doomed = False
        self._tail = b""
        self._started = time.monotonic()
        self._init_reported = False
        # A start is over sooner where the process begins it while the emulator still imports what it needs.
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        try:
            self._log = FunctionLog(self._print)
            self._process = self._start_process(supervisor, "{}:{}".format(*listener.getsockname()))
        except (InvocationFailed, OSError):
            listener.close()
            raise
        from tools.emulator.execution.runtime_api import RuntimeApi

        self._api: RuntimeApi = RuntimeApi(function.arn, self._start, self._breach, self._settle, listener)
        if on_slow_init is None:
            self._alarm: Alarm = ALARMS.set(function.timeout, lambda: self._time_out(None))
        else:
            late = threading.Thread(target=self._give_up_init, args=(on_slow_init,), daemon=True)
            self._alarm = ALARMS.set(INIT_LIMIT, late.start)
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.status is None

    @property
    def about_to_be_free(self) -> bool:
        """Whether its response is complete, or its process at the end."""
        invocation = self._invocation
        return self._soon_free or not self.alive or (invocation is not None and invocation.finished)

    def invoke(self, invocation: Invocation) -> None:
        """Give the process an invocation; the answer comes through the invocation."""
        with self._lock:
            self._invocation = invocation
            self._soon_free = False
            ended = self._end
        if ended is not None:
            invocation.finish(ended.named(invocation.request_id))
        self._api.hand_over(invocation)
        if ended is not None:
            self._settle()

    def kill(self) -> None:
        """End the process and all that it started, as the service does: without a warning."""
        self._process.kill()

    def kill_soon(self) -> None:
        """End it without waiting for that."""
        with self._lock:
            self._soon_free = self._doomed = True
        threading.Thread(target=self.kill, daemon=True).start()

    def _start_process(self, supervisor: Supervisor, runtime_api: str) -> Process:
        root, temporary = self._folder / "root", self._folder / "tmp"
        for folder in (root, temporary):
            folder.mkdir()
        function = self._function
        command = function.command
        try:
            return supervisor.start(
                command,
                function.environment(runtime_api, str(temporary)),
                function.places[1],
                self._log.writer,
                function.isolation(root, temporary),
            )
        except OSError as error:
            remove(self._folder)
            denied = error.errno == errno.EACCES and error.filename == command[0]
            hint = f"; try: chmod +x {function.layer / 'bootstrap'}" if denied else ""
            message = f"{error.filename or command[0]} cannot be started: {error.strerror}{hint}"
            raise InvocationFailed.because("Runtime.InvalidEntrypoint", message) from None
        finally:
            self._log.start()

    def _watch(self) -> None:
        """Follow the process to its end."""
        self._process.ended.wait()
        failure = InvocationFailed.because("Runtime.ExitError", exit_message(self._process.status or 0))
        with self._lock:
            invocation, self._end = self._invocation, failure
        self._api.end(failure.named(invocation.request_id) if invocation else failure)
        self._settle()
        remove(self._folder)
        self._on_end(self)

    def _print(self, data: bytes) -> None:
        self._keep(data)
        self._console.output(data)

    def _keep(self, data: bytes) -> bytes:
        """Add to the end of the log that a caller may ask for."""
        with self._lock:
            self._tail = (self._tail + data)[-LOG_TAIL:]
            return self._tail

    def _start(self, invocation: Invocation) -> None:
        self._log.drain()
        line = start_line(invocation, VERSION)
        self._keep(f"{line}\n".encode())
        self._console.start(line)
        self._set_deadline(invocation)

    def _settle(self) -> None:
        """The process asks for its next invocation, or has ended: it is done with the one that it was given.

        A handler may go on working after its last chunk, so it is not done before.
        """
        with self._lock:
            invocation = self._invocation
            if invocation is None or (invocation.started is None and self.alive):
                return
            self._soon_free, self._invocation = True, None
            usable = self.alive and not self._doomed
        self._alarm.cancel()
        invocation.ended = time.monotonic()
        self._log.drain()
        report = Report(self._function, invocation, self._take_init_duration(invocation.ended), self._peak())
        tail = self._keep(report.text().encode())
        self._console.report(report)
        with self._lock:
            self._tail = b""
        if usable:
            self._on_idle(self)
        invocation.settle(tail)

    def _breach(self, message: str) -> None:
        self._console.error(message)
        self.kill_soon()

    def _set_deadline(self, invocation: Invocation) -> None:
        self._alarm.cancel()
        self._alarm = ALARMS.set(invocation.timeout, lambda: self._time_out(invocation))

    def _give_up_init(self, do_again: Callable[[Invocation], None]) -> None:
        """The init phase is at its limit: the service does it again, as a part of the invocation."""
        with self._lock:
            invocation = self._api.take_back()
            if invocation is None:
                return
            self._invocation = None
        self.kill()
        self._log.drain()
        self._console.start(f"INIT_REPORT Init Duration: {INIT_LIMIT * 1000:.2f} ms\tPhase: init\tStatus: timeout")
        do_again(invocation)

    def _time_out(self, late: Invocation | None) -> None:
        """The time of an invocation is over, or of an init phase in it (None), unless the process is beyond that."""
        with self._lock:
            invocation = self._invocation
            still_at_it = self._api.initialized is None if late is None else invocation is late
            if invocation is None or not still_at_it:
                return
            self._doomed = True
        failure = InvocationFailed.because("Sandbox.Timedout", f"Task timed out after {invocation.timeout:.2f} seconds")
        invocation.finish(failure.named(invocation.request_id))
        self.kill_soon()

    def _take_init_duration(self, now: float) -> float | None:
        """Seconds from the start of the process to its first `next`, or to its end; None where it was told before."""
        if self._init_reported:
            return None
        self._init_reported = True
        return (self._api.initialized or now) - self._started

    def _peak(self) -> int | None:
        """The most memory that the process had, in KiB; None where the system does not tell (proc(5), VmHWM)."""
        if self._process.peak is not None:
            return self._process.peak
        try:
            with open(f"/proc/{self._process.pid}/status", "rb") as file:
                return next((int(line.split()[1]) for line in file if line.startswith(b"VmHWM:")), None)
        except OSError:
            return None


class AttachedEnvironment(ExecutionEnvironment):
    """A process that somebody else starts, under a debugger for example: it is not timed out, and not ended."""

    def __init__(
        self, function: FunctionConfiguration, console: Console, on_idle: Callable[[ExecutionEnvironment], None]
    ) -> None:
        from tools.emulator.execution.runtime_api import RuntimeApi

        self._function = function
        self._console = console
        self._on_idle = on_idle
        self._lock = threading.Lock()
        self._invocation = None
        self._end = None
        self._soon_free = False
        self._doomed = False
        self._tail = b""
        self._log = FunctionLog(self._print)
        self._init_reported = True
        self._alarm = Alarm(lambda: None)
        self.api = self._api = RuntimeApi(function.arn, self._start, console.error, self._settle, attached=True)

    @property
    def alive(self) -> bool:
        return True

    def kill(self) -> None:
        """Leave the process to whoever started it."""

    def _set_deadline(self, invocation: Invocation) -> None:
        """Let it take its time, it may stand at a breakpoint."""

    def _peak(self) -> int | None:
        return None


def exit_message(status: int) -> str:
    """What the platform says of a process that ended by itself."""
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    if status == 0:
        return "Runtime exited without providing a reason"
    return f"Runtime exited with error: signal: {(signal.strsignal(-status) or str(-status)).lower()}"
