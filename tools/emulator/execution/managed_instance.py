"""`--max-concurrency`: one environment serves several invocations at once, as on Lambda Managed Instances.

Theory of operation. The pool treats the environment as one that has N places: it is in the list of idle environments
once for each free place. Here, each invocation has its own deadline and its own end:

* An invocation ends when its exchange with the runtime ends. After its deadline its caller has the error, but its code
  runs on and keeps its place: the service does not stop it, so nothing is killed here.
* The log of all invocations is one stream of JSON records. The tail of the log that a caller can request has those
  records that have its request ID.
* The first process watches the others. Only its end is the end of the environment.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-execution-environment.html
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from tools.emulator.execution.concurrent_api import ConcurrentApiServer
from tools.emulator.execution.deadlines import Deadline
from tools.emulator.execution.environment import ExecutionEnvironment
from tools.emulator.execution.function_log import TAIL_BYTES
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.execution.log_provider import MAX_PATH_BYTES, VARIABLE, LogProvider
from tools.emulator.execution.runtime_api import RuntimeApiServer
from tools.emulator.report_line import Report, start_fields

SOCKET_NAME = "log.sock"


class ManagedInstance(ExecutionEnvironment):
    """An environment with several invocations at a time.

    Args:
        arguments: those of ExecutionEnvironment.
    """

    has_tenant = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._running: dict[Invocation, Deadline | None] = {}
        self._tails: dict[str, bytes] = {}
        self._provider: LogProvider | None = None
        super().__init__(*arguments, **options)  # last: it starts the process

    # Invocations

    @property
    def about_to_be_free(self) -> bool:
        with self._lock:
            return not self.usable or any(invocation.finished for invocation in self._running)

    def invoke(self, invocation: Invocation) -> None:
        with self._lock:
            self._running[invocation] = None
            self._tails[invocation.request_id] = b""
            ended = self._ended
        self._api.hand_over(invocation)
        if ended:
            self.on_done(invocation)

    def retire(self) -> None:
        """End the environment when its invocations have ended."""
        with self._lock:
            self._retired = True
            is_busy = bool(self._running)
        if not is_busy:
            super().retire()

    def on_start(self, invocation: Invocation) -> None:
        self._cancel_deadline()  # of the init phase
        self._report_extensions()
        self._write_start(invocation)
        deadline = self._deadlines.set(invocation.timeout, lambda: self._time_out(invocation))
        with self._lock:
            self._running[invocation] = deadline

    def on_idle(self) -> None:
        """A process has called `next`. The end of its previous invocation is known from the response."""
        self._cancel_deadline()

    def on_violation(self, message: str) -> None:
        self._console.error(message)

    def on_done(self, invocation: Invocation) -> None:
        """Report an invocation, and make its place available. Only the first call for it has an effect."""
        with self._lock:
            if invocation not in self._running:
                return
            deadline = self._running.pop(invocation)
            usable, is_last = self.usable, not self._running
        if deadline is not None:
            deadline.cancel()
        invocation.ended = time.monotonic()
        if invocation.started is None:
            self._write_start(invocation)
        self._drain()
        report = Report(self._function, invocation, self._take_init_duration(invocation.ended), self._peak_memory())
        self._console.report(report, self)
        if usable:
            self._on_idle(self)
        elif is_last:
            super().retire()
        invocation.close((self._tails.pop(invocation.request_id) + report.text().encode())[-TAIL_BYTES:])

    def _time_out(self, invocation: Invocation) -> None:
        message = f"Task timed out after {invocation.timeout:.2f} seconds"
        invocation.finish(InvocationFailed.of_type("Sandbox.Timedout", message).with_request_id(invocation.request_id))

    def _end_invocation(self) -> None:
        """The process has ended, or has reported an init error: end all invocations."""
        with self._lock:
            ended = [invocation for invocation in self._running if invocation.finished or not self.alive]
        for invocation in ended:
            self.on_done(invocation)

    def _init_timed_out(self) -> None:
        """The service does not repeat this init phase (limit: see `run`)."""
        if self._api.initialized is None:
            message = f"the init phase has reached its limit of {self._init_timeout:.2f} seconds"
            self._api.fail_environment(InvocationFailed.of_type("Sandbox.Timedout", message))
            self._begin_end("TIMEOUT")

    # The log

    def _write_start(self, invocation: Invocation) -> None:
        self._drain()
        fields = start_fields(invocation)
        self._tails[invocation.request_id] = f"{' '.join(fields)}\n".encode()
        self._console.start(fields, self, invocation.request_id)

    def _drain(self) -> None:
        self._log.drain()
        if self._provider is not None:
            self._provider.drain()

    def _pass_on(self, lines: bytes) -> None:
        """Write lines of the log, and add each to the tail of its invocation."""
        lines = self._function.with_source_paths(lines)
        for line in lines.splitlines(keepends=True):
            request_id = request_id_of(line)
            with self._lock:
                if request_id in self._tails:
                    self._tails[request_id] = (self._tails[request_id] + line)[-TAIL_BYTES:]
        self._console.output(lines, self)

    # Parts that differ from those of other environments

    def _variables(self, runtime_api: str, temporary: str) -> dict[str, str]:
        folder, visible = Path(temporary), temporary
        if self._function.isolated:
            visible = "/tmp"
        variables = super()._variables(runtime_api, temporary) | {
            "AWS_LAMBDA_INITIALIZATION_TYPE": "lambda-managed-instances",
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "AWS_LAMBDA_MAX_CONCURRENCY": str(self._function.max_concurrency),
        }
        path = f"{visible}/{SOCKET_NAME}"
        if len(path.encode()) <= MAX_PATH_BYTES:  # a process could not use a longer one
            self._provider = LogProvider(folder / SOCKET_NAME, self._pass_on)
            variables[VARIABLE] = path
        return variables

    def _make_api(self, listener: socket.socket) -> RuntimeApiServer:
        return ConcurrentApiServer(self._function, self, listener, self._function.max_concurrency)

    def _wait_for_end(self) -> None:
        super()._wait_for_end()
        if self._provider is not None:
            self._provider.close()


def request_id_of(line: bytes) -> str:
    """Return the request ID of a JSON record; empty if it has none."""
    try:
        record = json.loads(line)
    except ValueError:
        return ""
    found = record.get("requestId") if isinstance(record, dict) else None
    return found if isinstance(found, str) else ""
