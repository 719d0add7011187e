"""Execution environments: a process with Lambda's variables, and a Runtime API of its own.

Theory of operation. Five threads can act on one environment: the caller that assigns an invocation, the connection that
the runtime calls on, the thread that waits for the end of the process, the deadlines, and the pool. The rules are:

* `_lock` protects which invocation the environment has and whether it can serve more. It is held for a few statements,
  never while a thread waits, writes to the console, or calls the pool. Locks are taken in one order: those of the pool
  and of the code before this one, this one before that of the Runtime API server.
* Exactly one thread ends an invocation: the one that takes it out of `_invocation` in `_end_invocation`. Any of them
  can try; the others find nothing.
* The process is never trusted to end. Whatever goes wrong, a deadline or a kill request is pending.
* An environment ends once, as on the service. Without extensions, its process is killed at once. With extensions, the
  process receives SIGTERM and has a limited time; external extensions receive SHUTDOWN after its end.
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

from tools.common.operating_system import peak_memory
from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.base_environment import Environment
from tools.emulator.execution.deadlines import Deadline, Deadlines
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.sandbox.supervisor_client import Process, Supervisor, remove_folder

if TYPE_CHECKING:
    from tools.emulator.execution.extensions_api import ShutdownReason
    from tools.emulator.execution.external_extensions import ExternalExtensions
    from tools.emulator.execution.runtime_api import RuntimeApiServer

INIT_TIMEOUT = 10.0  # seconds from the start of the process to its first `next`
RESTORE_TIMEOUT = 10.0  # seconds from a restore to `next` (snapstart-runtime-hooks)
EXIT_TIMEOUT = 1.0  # seconds for a runtime to exit after it has reported an init error
# Seconds for the end of an environment (lambda-runtime-environment, "Shutdown phase"). With external extensions, the
# runtime has the shorter part of the time.
INTERNAL_END_TIMEOUT, EXTERNAL_END_TIMEOUT, RUNTIME_END_TIMEOUT = 0.5, 2.0, 0.3


class ExecutionEnvironment(Environment):
    """An environment with a process that the emulator starts.

    Args:
        folder: an empty folder for this environment, which is removed at its end.
        on_end: called when the process has ended.
        on_init_timeout: called with the invocation when the init phase reaches its limit, to repeat the init phase in
            another environment; None: this is the other environment, where the timeout of the function applies.
        init_timeout: seconds.

    Raises InvocationFailed (`Runtime.InvalidEntrypoint`, `Extension.LaunchError` and similar), OSError or RuntimeError
    (no more threads are allowed) if a process cannot be started.
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
        self._end: tuple[ShutdownReason, float] | None = None  # why, and time.monotonic() of its begin
        self._kill: Deadline | None = None
        self._external: ExternalExtensions | None = None
        self._extensions_reported = False
        self._gone = threading.Event()
        self._deadline: Deadline | None = None
        self._init_overdue = False
        self._init_reported = False
        self._started = time.monotonic()
        self._process = Process(supervisor)  # until there is one
        self._start(supervisor)

    def _start(self, supervisor: Supervisor) -> None:
        """Start the processes, and serve them. Leave nothing behind if that fails."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        try:
            self._process = self._start_processes(supervisor, listener)
        except (InvocationFailed, OSError, RuntimeError):
            listener.close()
            raise
        with self._lock:
            ending = self._end is not None
        if ending:  # an extension has crashed before the process of the runtime existed
            self._process.request_kill()
        try:
            self._serve_runtime_api(listener)
            threading.Thread(target=self._wait_for_end, daemon=True).start()
        except (OSError, RuntimeError):
            self._process.request_kill()
            self._process.ended.wait()
            self._abandon_extensions()
            listener.close()
            remove_folder(self._folder)
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
        self._begin_end("SPINDOWN")

    def kill(self) -> None:
        self._begin_end("SPINDOWN")
        self._process.ended.wait()

    def wait_until_gone(self, timeout: float) -> None:
        self._gone.wait(timeout)

    def on_start(self, invocation: Invocation) -> None:
        self._report_extensions()
        super().on_start(invocation)
        if self._function.debug_port is None:  # the process can stop at a breakpoint
            self._set_deadline(invocation.timeout, lambda: self._invocation_timed_out(invocation))

    def on_init_error(self) -> None:
        """Leave the runtime time to write its log and exit, then kill it."""
        with self._lock:
            self._retired = True
        self._set_deadline(EXIT_TIMEOUT, lambda: self._begin_end("FAILURE"))

    def on_violation(self, message: str) -> None:
        super().on_violation(message)
        self._begin_end("FAILURE")

    def _variables(self, runtime_api: str, temporary: str) -> dict[str, str]:
        return self._function.environment(runtime_api, temporary)

    def _start_processes(self, supervisor: Supervisor, listener: socket.socket) -> Process:
        """Start the external extensions, then the runtime. Returns the process of the runtime."""
        root, temporary = self._folder / "root", self._folder / "tmp"
        for folder in (root, temporary):
            folder.mkdir()
        log = self._log.open()
        try:
            self._log.follow()
            if os.path.isdir(self._function.layer / "extensions"):
                self._start_extensions(supervisor, listener, log)
            runtime_api = "{}:{}".format(*listener.getsockname())
            return self._start_runtime(supervisor, self._variables(runtime_api, str(temporary)), log)
        except (InvocationFailed, OSError, RuntimeError):
            self._abandon_extensions()
            remove_folder(self._folder)
            raise
        finally:
            os.close(log)

    def _abandon_extensions(self) -> None:
        """Kill the extensions of an environment that cannot be started."""
        if self._external is not None:
            self._external.kill()
            self._api.process_ended(InvocationFailed.of_type("Runtime.ExitError", "it has not been started"))

    def _start_extensions(self, supervisor: Supervisor, listener: socket.socket, log: int) -> None:
        # Imported here: only few functions have external extensions.
        from tools.emulator.execution.external_extensions import ExternalExtensions, extension_names

        names = extension_names(self._function.layer)
        if not names:
            return
        self._api = self._make_api(listener)
        self._api.start()
        api = self._api.expect_extensions(names)
        self._external = ExternalExtensions(self._function, supervisor, api, self._api.serve, self._extension_exited)
        self._external.start(names, self._folder / "root", self._folder / "tmp", log, self._init_timeout)

    def _start_runtime(self, supervisor: Supervisor, variables: dict[str, str], log: int) -> Process:
        function = self._function
        command = function.command
        isolation = function.isolation(self._folder / "root", self._folder / "tmp")
        try:
            return supervisor.start(command, variables, function.visible_folders[1], log, isolation)
        except OSError as error:
            denied = error.errno == errno.EACCES and error.filename == command[0]
            hint = f"; run: chmod +x {function.layer / 'bootstrap'}" if denied else ""
            message = f"{error.filename or command[0]} cannot be started: {error.strerror}{hint}"
            raise InvocationFailed.of_type("Runtime.InvalidEntrypoint", message) from None

    def _make_api(self, listener: socket.socket) -> RuntimeApiServer:
        # Imported here, while the process starts: at the top it would delay the first byte of `main.py` by 10 ms.
        from tools.emulator.execution.runtime_api import RuntimeApiServer

        return RuntimeApiServer(self._function, self, listener)

    def _serve_runtime_api(self, listener: socket.socket) -> None:
        seconds = self._function.timeout if self._on_init_timeout is None else self._init_timeout
        if self._external is None:
            self._api = self._make_api(listener)
            self._api.start()
        else:  # the extensions have used it already, and a part of the time
            seconds = max(0.0, seconds - (time.monotonic() - self._started))
        if self._function.debug_port is not None:
            return
        with self._lock:
            if self._deadline is None:  # otherwise the runtime has failed already, which has set another one
                self._deadline = self._deadlines.set(seconds, self._init_timed_out)

    def _wait_for_end(self) -> None:
        self._process.ended.wait()
        self._shut_down_extensions()
        self._api.process_ended(InvocationFailed.of_type("Runtime.ExitError", exit_message(self._process.status or 0)))
        with self._lock:
            self._ended = True
        self._end_invocation()
        self._cancel_deadline()
        self._log.drain()
        if self._external is not None:
            self._external.ended.wait()
        remove_folder(self._folder)
        self._on_end(self)
        self._gone.set()

    def _begin_end(self, reason: ShutdownReason) -> None:
        """Begin the end of the process, without waiting for it."""
        with self._lock:
            self._retired = True
            if self._end is not None:
                return
            self._end = reason, time.monotonic()
        seconds = self._time_to_end()
        if not seconds:
            self._process.request_kill()
            return
        self._process.request_termination()
        with self._lock:  # not `_deadline`: a runtime that calls `next` cancels that one
            self._kill = self._deadlines.set(seconds, self._process.request_kill)

    def _time_to_end(self) -> float:
        """Seconds for the runtime between SIGTERM and SIGKILL; 0: no SIGTERM."""
        if not self.has_extensions:
            return 0
        return INTERNAL_END_TIMEOUT if self._external is None else RUNTIME_END_TIMEOUT

    def _shut_down_extensions(self) -> None:
        """Begin to shut down the external extensions. The caller of the function does not wait for them."""
        with self._lock:
            reason, begun = self._end = self._end or ("FAILURE", time.monotonic())
            if self._kill is not None:
                self._kill.cancel()
        if self._external is not None:
            arguments = reason, begun, EXTERNAL_END_TIMEOUT
            threading.Thread(target=self._external.shut_down, args=arguments, daemon=True).start()

    def _extension_exited(self, name: str, status: int) -> None:
        message = f"the extension {name} exited with status {status}"
        self._api.fail_environment(InvocationFailed.of_type("Extension.Crash", message))
        self._begin_end("FAILURE")

    def _report_extensions(self) -> None:
        """Write a line for each extension, before the first START."""
        if self._api.extensions is None or self._extensions_reported:
            return
        self._extensions_reported = True
        self._log.drain()
        for extension in self._api.extensions.registered:
            events = ",".join(extension.subscriptions)
            self._console.platform_line(f"EXTENSION\tName: {extension.name}\tState: Ready\tEvents: [{events}]", self)

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
        self._begin_end("TIMEOUT")
        self._process.ended.wait()
        self._log.drain()
        duration_ms = self._init_timeout * 1000
        line = f"INIT_REPORT Init Duration: {duration_ms:.2f} ms\tPhase: init\tStatus: timeout"
        self._console.platform_line(line, self)
        repeat(invocation)

    def _invocation_timed_out(self, invocation: Invocation) -> None:
        with self._lock:
            if self._invocation is not invocation:
                return
        message = f"Task timed out after {invocation.timeout:.2f} seconds"
        invocation.finish(InvocationFailed.of_type("Sandbox.Timedout", message).with_request_id(invocation.request_id))
        self._begin_end("TIMEOUT")

    def _take_init_duration(self, now: float) -> float | None:
        if self._init_reported:
            return None
        self._init_reported = True
        return (self._api.initialized or now) - self._started

    def _peak_memory(self) -> int | None:
        if self._process.peak is not None:
            return self._process.peak
        return peak_memory(self._process.pid)


def exit_message(status: int) -> str:
    """The platform's message for a process that has ended by itself; negative numbers are signals."""
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    if status == 0:
        return "Runtime exited without providing a reason"
    return f"Runtime exited with error: signal: {(signal.strsignal(-status) or str(-status)).lower()}"
