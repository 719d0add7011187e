"""`--snapstart`: environments that stop at the end of their init phase, and continue with the first request.

Theory of operation. The service takes a snapshot of the virtual machine while the runtime waits in `/restore/next`, or
in the first `next` if the runtime has no hooks to call. It restores the snapshot when a request needs an environment.
There is no virtual machine here, so the process itself is held:

* Every other connection to the Runtime API is closed. A runtime that would use one again after a restore fails here as
  it would on the service.
* SIGSTOP stops the process with all its threads and children. SIGCONT continues it when an invocation is handed over.
* The process has no credentials in its environment. It gets them from a URL, with a token, and gets other ones after
  the restore, so a function that has kept those of the init phase can be recognized.

The memory is not copied and the clocks do not stop, so one held process becomes one environment.

    init phase          up to `/restore/next`: the handler's module and the before-snapshot hooks
    held                until an invocation is handed over
    restore             up to `next`: the after-restore hooks
    serving             as any other environment

https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-custom.html
"""

from __future__ import annotations

import enum
import os
import socket
import time
from typing import Any, Protocol

from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.api_responses import send_accepted, send_error, send_json
from tools.emulator.execution.environment import ExecutionEnvironment
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.execution.runtime_api import (
    ERROR_TYPE,
    PREFIX,
    RuntimeApiServer,
    RuntimeEvents,
)
from tools.emulator.http1.connection import Connection, Request

CREDENTIALS_PATH = "/2021-04-23/credentials"  # as in the service
CREDENTIAL_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CREDENTIALS_LIFETIME = 3600  # seconds


class Phase(enum.Enum):
    """The phase of an environment; it only moves down this list."""

    INIT = "init"
    HELD = "held"
    RESTORE = "restore"
    SERVING = "serving"


class Credentials:
    """Credentials that a process fetches from the Runtime API's address.

    Args:
        given: the values of AWS_ACCESS_KEY_ID and so on in the function's configuration; without them, placeholders
            that AWS refuses.
    """

    def __init__(self, given: dict[str, str]) -> None:
        self.token = os.urandom(16).hex()
        self._given = given

    def document(self, restored: bool) -> dict[str, str]:
        """The response of the service. Placeholders have another session token after the restore."""
        given = self._given
        expiration = time.gmtime(time.time() + CREDENTIALS_LIFETIME)
        if "AWS_ACCESS_KEY_ID" not in given:
            session = "after-restore" if restored else "before-snapshot"
            given = dict(zip(CREDENTIAL_VARIABLES, ("local", "local", session), strict=True))
        return {
            "AccessKeyId": given["AWS_ACCESS_KEY_ID"],
            "SecretAccessKey": given.get("AWS_SECRET_ACCESS_KEY", ""),
            "Token": given.get("AWS_SESSION_TOKEN", ""),
            "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", expiration),
        }


class SnapStartEvents(RuntimeEvents, Protocol):
    """What an environment has to do around the snapshot. The server holds no lock while it calls these methods."""

    def on_snapshot(self) -> None:
        """The runtime waits for its restore: stop the process."""

    def on_restore(self) -> None:
        """An invocation was handed over: continue the process."""


class SnapStartApiServer(RuntimeApiServer):
    """The Runtime API with the calls around the snapshot, and with credentials."""

    def __init__(
        self,
        function: FunctionConfiguration,
        events: SnapStartEvents,
        listener: socket.socket,
        credentials: Credentials,
    ) -> None:
        super().__init__(function, events, listener)
        self._snapstart_events = events
        self._credentials = credentials
        self._restored = False

    def _dispatch(self, connection: Connection, request: Request) -> None:
        call = request.method, request.target
        if call == ("GET", f"{PREFIX}/restore/next"):
            self._restore_next(connection)
        elif call == ("POST", f"{PREFIX}/restore/error"):
            self._restore_error(connection, request)
        elif call == ("GET", CREDENTIALS_PATH):
            self._send_credentials(connection, request)
        else:
            super()._dispatch(connection, request)

    def _restore_next(self, connection: Connection) -> None:
        self._transition("restore/next")
        if self._hold(connection):
            self._transition("restore")
            connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def _restore_error(self, connection: Connection, request: Request) -> None:
        document = self._read_error_report(connection, request)
        self._transition("restore/error")
        self.fail_environment(InvocationFailed(document, request.headers.get(ERROR_TYPE)))
        self._events.on_init_error()
        send_accepted(connection)

    def _send_credentials(self, connection: Connection, request: Request) -> None:
        if request.headers.get("Authorization") == self._credentials.token:
            send_json(connection, 200, self._credentials.document(self._restored))
        else:
            message = "the Authorization header is not AWS_CONTAINER_AUTHORIZATION_TOKEN"
            send_error(connection, 404, "InvalidToken", message)

    def _wait_for_invocation(self, connection: Connection) -> Invocation | None:
        if not self._restored and not self._hold(connection):
            return None
        return super()._wait_for_invocation(connection)

    def _hold(self, connection: Connection) -> bool:
        """Stop the process until an invocation is handed over. Returns False if the process has ended instead."""
        if self._server is not None:
            self._server.close_connections(besides=connection)
        self._snapstart_events.on_snapshot()
        with self._change:
            poll = self._poll  # it changes at the end of the process
            while self._pending() is None and self._poll == poll:
                self._change.wait()
            if self._poll != poll:
                return False
            self._restored = True
        self._snapstart_events.on_restore()
        return True


class SnapStartEnvironment(ExecutionEnvironment):
    """An environment whose process is held between its init phase and its first invocation.

    Args:
        restore_timeout: seconds from the restore to `next`.
        function, arguments, options: those of ExecutionEnvironment.
    """

    def __init__(
        self, function: FunctionConfiguration, *arguments: Any, restore_timeout: float, **options: Any
    ) -> None:
        self._restore_timeout = restore_timeout
        self._phase = Phase.INIT
        self._phase_started = time.monotonic()
        self._init_duration: float | None = None
        self._restore_duration: float | None = None
        variables = function.environment("", "")
        self._credentials = Credentials({name: variables[name] for name in CREDENTIAL_VARIABLES if name in variables})
        super().__init__(function, *arguments, **options)  # last: it starts the process

    def on_snapshot(self) -> None:
        self._cancel_deadline()
        self._init_duration = self._end_phase(Phase.HELD)
        self._log.drain()
        self._write_phase("INIT_REPORT Init Duration", self._init_duration, "Phase: init\tStatus: success")
        self._process.suspend()
        if self._external is not None:
            self._external.suspend()

    def on_restore(self) -> None:
        self._end_phase(Phase.RESTORE)
        if self._external is not None:
            self._external.resume()
        self._process.resume()
        self._set_deadline(self._restore_timeout, self._restore_timed_out)

    def on_idle(self) -> None:
        if self._phase is Phase.RESTORE:
            self._cancel_deadline()
            self._report_restore("success")
        super().on_idle()

    def on_start(self, invocation: Invocation) -> None:
        if self._phase is Phase.RESTORE:  # the runtime was held in `next`, and does not call it again
            self._report_restore("success")
        super().on_start(invocation)

    def on_init_error(self) -> None:
        if self._phase is Phase.RESTORE:
            self._report_restore("error")
        super().on_init_error()

    def _report_restore(self, status: str) -> None:
        self._restore_duration = self._end_phase(Phase.SERVING)
        self._log.drain()
        self._write_phase("RESTORE_REPORT Restore Duration", self._restore_duration, f"Status: {status}")

    def _end_phase(self, following: Phase) -> float:
        """Begin the following phase. Returns the duration of the previous one in seconds."""
        now = time.monotonic()
        with self._lock:
            duration = now - self._phase_started
            self._phase, self._phase_started = following, now
        return duration

    def _write_phase(self, name: str, seconds: float, rest: str) -> None:
        self._console.platform_line(f"{name}: {seconds * 1000:.2f} ms\t{rest}", self)

    # Time limits

    def _init_timed_out(self) -> None:
        """The service does not repeat this init phase: the version cannot be published."""
        if self._phase is Phase.INIT:
            duration = self._end_phase(Phase.SERVING)
            self._write_phase("INIT_REPORT Init Duration", duration, "Phase: init\tStatus: timeout")
            self._fail("Sandbox.Timedout", f"the init phase has reached its limit of {self._init_timeout:.2f} seconds")

    def _restore_timed_out(self) -> None:
        if self._phase is Phase.RESTORE:
            self._report_restore("timeout")
            message = f"the restore has reached its limit of {self._restore_timeout:.2f} seconds"
            self._fail("Runtime.RestoreHookUserTimeout", message)

    def _fail(self, error_type: str, message: str) -> None:
        """Called by the deadlines, which it must not block."""
        self._api.fail_environment(InvocationFailed.of_type(error_type, message))
        self.retire()

    # Parts that differ from those of other environments

    def _time_to_end(self) -> float:
        return 0 if self._phase is Phase.HELD else super()._time_to_end()  # a stopped process cannot handle SIGTERM

    def _variables(self, runtime_api: str, temporary: str) -> dict[str, str]:
        variables = super()._variables(runtime_api, temporary)
        for name in CREDENTIAL_VARIABLES:
            variables.pop(name, None)
        for name in ("AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME"):  # configuration-envvars
            del variables[name]
        return variables | {
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": self._credentials.token,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{runtime_api}{CREDENTIALS_PATH}",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
        }

    def _make_api(self, listener: socket.socket) -> RuntimeApiServer:
        return SnapStartApiServer(self._function, self, listener, self._credentials)

    def _take_init_duration(self, now: float) -> float | None:
        """The time up to the snapshot, without that in which the process was held."""
        if self._init_duration is None or self._init_reported:
            return super()._take_init_duration(now)
        self._init_reported = True
        return self._init_duration

    def _take_restore_duration(self) -> float | None:
        duration, self._restore_duration = self._restore_duration, None
        return duration
