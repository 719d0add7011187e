"""Execution environments: a process with Lambda's variables, and a Runtime API of its own.

Theory of operation. Five threads can act on one environment: the caller that assigns an invocation, the connection that
the runtime calls on, the thread that waits for the end of the process, the deadlines, and the pool. The rules are:

* `_lock` protects which invocation the environment has and whether it can serve more. It is held for a few statements,
  never while a thread waits, writes to the console, or calls the pool. Locks are taken in one order: those of the pool
  and of the code before this one, this one before that of the Runtime API server.
* Exactly one thread ends an invocation: the one that takes it out of `_invocation` in `_end_invocation`. Any of them
  can try; the others find nothing.
* The process is never trusted to end. Whatever goes wrong, a deadline or a kill request is pending.
* An invocation is handed over after the process was started, so the process can fail, and its deadline can pass, before
  that. Neither may get lost: `RuntimeApiServer` stores the failure, `_init_overdue` the deadline.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import VERSION, FunctionConfiguration
from tools.emulator.execution.deadlines import Deadline, Deadlines
from tools.emulator.execution.function_log import FunctionLog
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.report_line import Report, start_line
from tools.emulator.sandbox.supervisor_client import Process, Supervisor, remove_folder

if TYPE_CHECKING:
    from tools.emulator.execution.runtime_api import RuntimeApiServer

INIT_TIMEOUT = 10.0  # seconds from the start of the process to its first `next`
RESTORE_TIMEOUT = 10.0  # seconds from a restore to `next` (snapstart-runtime-hooks)
EXIT_TIMEOUT = 1.0  # seconds for a runtime to exit after it has reported an init error


class Environment:
    """What all environments have in common: one invocation at a time, with START, END and REPORT lines.

    Args:
        on_idle: called when the environment can serve another invocation.
    """

    _api: RuntimeApiServer  # made by the subclasses

    def __init__(
        self, function: FunctionConfiguration, console: Console, on_idle: Callable[[Environment], None]
    ) -> None:
        self._function = function
        self._console = console
        self._on_idle = on_idle
        self._log = FunctionLog(console.output)
        self._lock = threading.Lock()
        self._invocation: Invocation | None = None
        self._retired = False  # it serves no further invocation
        self._between = False  # it has ended an invocation, and was assigned no other one yet

    @property
    def alive(self) -> bool:
        return True

    @property
    def usable(self) -> bool:
        """Whether it can serve another invocation."""
        return self.alive and not self._retired

    @property
    def about_to_be_free(self) -> bool:
        """Whether its response is complete, or its process is at its end: its place in the pool is free soon."""
        invocation = self._invocation
        return self._between or not self.usable or (invocation is not None and invocation.finished)

    def invoke(self, invocation: Invocation) -> None:
        """Assign an invocation; the response comes through it."""
        with self._lock:
            self._invocation = invocation
            self._between = False
        self._api.hand_over(invocation)

    def retire(self) -> None:
        """End the environment without waiting for it."""

    def kill(self) -> None:
        """End the environment, and wait for it."""

    # Events of the runtime

    def on_start(self, invocation: Invocation) -> None:
        self._write_start(invocation)

    def on_idle(self) -> None:
        self._end_invocation()

    def on_init_error(self) -> None:
        self._end_invocation()

    def on_violation(self, message: str) -> None:
        self._console.error(message)

    def _write_start(self, invocation: Invocation) -> None:
        self._log.drain()
        line = start_line(invocation, VERSION)
        self._log.add_to_tail(f"{line}\n")
        self._console.platform_line(line)

    def _end_invocation(self) -> None:
        """Report the invocation and become available, if the runtime is done with it.

        The end of the response is not enough: the handler can work after its last chunk. It is done when the runtime
        calls `next`, when its process has ended, or when the invocation failed before the runtime received it.
        """
        with self._lock:
            invocation = self._invocation
            if invocation is None or not (invocation.started is not None or invocation.finished or not self.alive):
                return
            self._between, self._invocation = True, None
            usable = self.usable
        self._cancel_deadline()
        invocation.ended = time.monotonic()
        if invocation.started is None:
            self._write_start(invocation)
        self._log.drain()
        init, restore = self._take_init_duration(invocation.ended), self._take_restore_duration()
        report = Report(self._function, invocation, init, self._peak_memory(), restore)
        tail = self._log.add_to_tail(report.text())
        self._console.report(report)
        self._log.clear_tail()
        if usable:
            self._on_idle(self)
        invocation.close(tail)

    def _cancel_deadline(self) -> None:
        """Nothing to cancel here."""

    def _take_init_duration(self, now: float) -> float | None:
        """Seconds from the start of the process to its first `next`, or to its end; None if it was reported before."""
        return None

    def _take_restore_duration(self) -> float | None:
        """Seconds from a restore to `next`; None without SnapStart, or if it was reported before."""
        return None

    def _peak_memory(self) -> int | None:
        """The most memory that the process had, in KiB; None if the system does not provide it."""
        return None


class ExecutionEnvironment(Environment):
    """An environment with a process that the emulator starts.

    Args:
        folder: an empty folder for this environment, which is removed at its end.
        on_end: called when the process has ended.
        on_init_timeout: called with the invocation when the init phase reaches its limit, to repeat the init phase in
            another environment; None: this is the other environment, where the timeout of the function applies.
        init_timeout: seconds.

    Raises InvocationFailed (`Runtime.InvalidEntrypoint`), OSError or RuntimeError (no more threads are allowed) if
    the process cannot be started.
    """

    def __init__(
        self,
        function: FunctionConfiguration,
        console: Console,
        supervisor: Supervisor,
        deadlines: Deadlines,
        folder: Path,
        on_idle: Callable[[Environment], None],
        on_end: Callable[[Environment], None],
        on_init_timeout: Callable[[Invocation], None] | None,
        init_timeout: float = INIT_TIMEOUT,
    ) -> None:
        super().__init__(function, console, on_idle)
        self._deadlines = deadlines
        self._folder = folder
        self._on_end = on_end
        self._on_init_timeout = on_init_timeout
        self._init_timeout = init_timeout
        self._ended = False
        self._deadline: Deadline | None = None
        self._init_overdue = False
        self._init_reported = False
        self._started = time.monotonic()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        try:
            self._process = self._start_process(supervisor, "{}:{}".format(*listener.getsockname()))
        except (InvocationFailed, OSError, RuntimeError):
            listener.close()
            raise
        try:
            self._serve_runtime_api(listener)
            threading.Thread(target=self._wait_for_end, daemon=True).start()
        except (OSError, RuntimeError):
            self._process.kill()
            listener.close()
            remove_folder(folder)
            raise

    @property
    def alive(self) -> bool:
        return self._process.status is None

    def invoke(self, invocation: Invocation) -> None:
        super().invoke(invocation)
        with self._lock:
            ended, overdue = self._ended, self._init_overdue
        if ended:
            self._end_invocation()
        elif overdue:
            self._init_timed_out()

    def retire(self) -> None:
        with self._lock:
            self._retired = True
        self._process.request_kill()

    def kill(self) -> None:
        self._process.kill()

    def on_start(self, invocation: Invocation) -> None:
        super().on_start(invocation)
        self._set_deadline(invocation.timeout, lambda: self._invocation_timed_out(invocation))

    def on_init_error(self) -> None:
        """Leave the runtime time to write its log and exit, then kill it."""
        with self._lock:
            self._retired = True
        self._set_deadline(EXIT_TIMEOUT, self.retire)

    def on_violation(self, message: str) -> None:
        super().on_violation(message)
        self.retire()

    def _variables(self, runtime_api: str, temporary: str) -> dict[str, str]:
        return self._function.environment(runtime_api, temporary)

    def _start_process(self, supervisor: Supervisor, runtime_api: str) -> Process:
        root, temporary = self._folder / "root", self._folder / "tmp"
        for folder in (root, temporary):
            folder.mkdir()
        function = self._function
        command = function.command
        log = self._log.open()
        try:
            self._log.follow()
            return supervisor.start(
                command,
                self._variables(runtime_api, str(temporary)),
                function.visible_folders[1],
                log,
                function.isolation(root, temporary),
            )
        except OSError as error:
            remove_folder(self._folder)
            denied = error.errno == errno.EACCES and error.filename == command[0]
            hint = f"; run: chmod +x {function.layer / 'bootstrap'}" if denied else ""
            message = f"{error.filename or command[0]} cannot be started: {error.strerror}{hint}"
            raise InvocationFailed.of_type("Runtime.InvalidEntrypoint", message) from None
        finally:
            os.close(log)

    def _make_api(self, listener: socket.socket) -> RuntimeApiServer:
        # Imported here, while the process starts: at the top it would delay the first byte of `main.py` by 10 ms.
        from tools.emulator.execution.runtime_api import RuntimeApiServer

        return RuntimeApiServer(self._function.arn, self, listener)

    def _serve_runtime_api(self, listener: socket.socket) -> None:
        self._api = self._make_api(listener)
        self._api.start()
        seconds = self._function.timeout if self._on_init_timeout is None else self._init_timeout
        with self._lock:
            if self._deadline is None:  # otherwise the runtime has failed already, which has set another one
                self._deadline = self._deadlines.set(seconds, self._init_timed_out)

    def _wait_for_end(self) -> None:
        self._process.ended.wait()
        self._api.process_ended(InvocationFailed.of_type("Runtime.ExitError", exit_message(self._process.status or 0)))
        with self._lock:
            self._ended = True
        self._end_invocation()
        self._cancel_deadline()
        remove_folder(self._folder)
        self._on_end(self)

    def _set_deadline(self, seconds: float, callback: Callable[[], None]) -> None:
        with self._lock:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self._deadlines.set(seconds, callback)

    def _cancel_deadline(self) -> None:
        with self._lock:
            if self._deadline is not None:
                self._deadline.cancel()

    def _init_timed_out(self) -> None:
        """Called by the deadlines, which it must not block, or at the hand-over."""
        with self._lock:
            invocation = self._invocation
            self._init_overdue = invocation is None
        if invocation is None or self._api.initialized is not None:
            return
        if self._on_init_timeout is None:
            self._invocation_timed_out(invocation)
        else:
            threading.Thread(target=self._repeat_init, args=(self._on_init_timeout,), daemon=True).start()

    def _repeat_init(self, repeat: Callable[[Invocation], None]) -> None:
        """The service repeats an init phase that has reached its limit as a part of the invocation."""
        with self._lock:
            invocation = self._api.take_back()
            if invocation is None:
                return
            self._invocation = None
            self._retired = True
        self.kill()
        self._log.drain()
        duration_ms = self._init_timeout * 1000
        self._console.platform_line(f"INIT_REPORT Init Duration: {duration_ms:.2f} ms\tPhase: init\tStatus: timeout")
        repeat(invocation)

    def _invocation_timed_out(self, invocation: Invocation) -> None:
        with self._lock:
            if self._invocation is not invocation:
                return
            self._retired = True
        message = f"Task timed out after {invocation.timeout:.2f} seconds"
        invocation.finish(InvocationFailed.of_type("Sandbox.Timedout", message).with_request_id(invocation.request_id))
        self._process.request_kill()

    def _take_init_duration(self, now: float) -> float | None:
        if self._init_reported:
            return None
        self._init_reported = True
        return (self._api.initialized or now) - self._started

    def _peak_memory(self) -> int | None:
        if self._process.peak is not None:
            return self._process.peak
        try:
            with open(f"/proc/{self._process.pid}/status", "rb") as file:  # proc(5), VmHWM
                return next((int(line.split()[1]) for line in file if line.startswith(b"VmHWM:")), None)
        except OSError:
            return None


def exit_message(status: int) -> str:
    """The platform's message for a process that has ended by itself; negative numbers are signals."""
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    if status == 0:
        return "Runtime exited without providing a reason"
    return f"Runtime exited with error: signal: {(signal.strsignal(-status) or str(-status)).lower()}"
