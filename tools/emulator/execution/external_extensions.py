"""The external extensions of one execution environment: programs in /opt/extensions, each in a process of its own.

They are started before the runtime, which is started when all of them have registered. They have a Runtime API address
of their own, because the runtime's one is closed when the runtime ends, and they are shut down after that.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.extensions_api import MAX_EXTENSIONS, ExtensionsApi, ShutdownReason
from tools.emulator.execution.invocation import InvocationFailed
from tools.emulator.http1.connection import Connection
from tools.emulator.http1.server import Server
from tools.emulator.sandbox.supervisor_client import Process, Supervisor

# The variables that extensions do not have (runtimes-extensions-api).
OF_THE_RUNTIME = (
    "_HANDLER",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
)


def extension_names(layer: Path) -> list[str]:
    """The files in the folder `extensions` of the layer, whether they can be started or not."""
    try:
        return sorted(entry.name for entry in os.scandir(layer / "extensions") if not entry.is_dir())
    except OSError:
        return []


class ExternalExtensions:
    """Starts the extensions, and shuts them down.

    Args:
        serve: serves a connection to the Runtime API or the Extensions API.
        on_exit: called with the name and the exit status of an extension that ends before `shut_down`.
    """

    def __init__(
        self,
        function: FunctionConfiguration,
        supervisor: Supervisor,
        api: ExtensionsApi,
        serve: Callable[[Connection], None],
        on_exit: Callable[[str, int], None],
    ) -> None:
        self._function = function
        self._supervisor = supervisor
        self._api = api
        self._on_exit = on_exit
        self._serve = serve
        self._server: Server | None = None
        self._processes: dict[str, Process] = {}
        self._shutting_down = False
        self._suspended = False
        self.ended = threading.Event()

    def start(self, names: list[str], root: Path, temporary: Path, log: int, timeout: float) -> None:
        """Start the extensions and wait until they have registered.

        Args:
            root: see `FunctionConfiguration.isolation`.
            temporary: the folder for TMPDIR.
            log: the descriptor for their output.
            timeout: seconds to register.

        Raises InvocationFailed, OSError or RuntimeError; then the caller calls `kill`.
        """
        deadline = time.monotonic() + timeout
        if len(names) > MAX_EXTENSIONS:
            message = f"{len(names)} extensions; at most {MAX_EXTENSIONS} can run in an environment"
            raise InvocationFailed.of_type("Extension.TooManyExtensions", message)
        self._server = Server(self._serve)
        self._server.start()
        for name in names:
            self._processes[name] = self._start(name, root, temporary, log, self._server.authority)
        for name, process in self._processes.items():
            remaining = max(0.0, deadline - time.monotonic())
            if not self._api.wait_until_registered(name, remaining, process.ended.is_set):
                raise InvocationFailed.of_type("Extension.InitError", not_registered(name, process, timeout))

    def shut_down(self, reason: ShutdownReason, begun: float, timeout: float) -> None:
        """Send SHUTDOWN events and wait for the end of the processes; kill those that remain.

        Suspended processes are killed at once.

        Args:
            begun: time.monotonic() of the begin of the end of the environment.
            timeout: seconds from then.
        """
        self._shutting_down = True
        if self._suspended:
            return self.kill()
        remaining = max(0.0, begun + timeout - time.monotonic())
        subscribed = self._api.shut_down(reason, int((time.time() + remaining) * 1000))
        for name, process in self._processes.items():
            if name not in subscribed:
                process.request_kill()
        for process in self._processes.values():
            process.ended.wait(max(0.0, begun + timeout - time.monotonic()))
        self.kill()

    def suspend(self) -> None:
        """Stop the processes: they are a part of a snapshot."""
        self._suspended = True
        for process in self._processes.values():
            process.suspend()

    def resume(self) -> None:
        self._suspended = False
        for process in self._processes.values():
            process.resume()

    def kill(self) -> None:
        """Kill the processes and wait for their end."""
        self._shutting_down = True
        for process in self._processes.values():
            process.request_kill()
        for process in self._processes.values():
            process.ended.wait()
        self._api.close(external=True)
        if self._server is not None:
            self._server.close()
        self.ended.set()

    def _start(self, name: str, root: Path, temporary: Path, log: int, runtime_api: str) -> Process:
        function = self._function
        command = f"{function.visible_folders[0]}/extensions/{name}"
        variables = function.environment(runtime_api, str(temporary))
        variables = {key: value for key, value in variables.items() if key not in OF_THE_RUNTIME}
        try:
            process = self._supervisor.start([command], variables, "/", log, function.isolation(root, temporary))
        except OSError as error:
            denied = error.errno == errno.EACCES and error.filename == command
            hint = f"; run: chmod +x {function.layer / 'extensions' / name}" if denied else ""
            message = f"{error.filename or command} cannot be started: {error.strerror}{hint}"
            raise InvocationFailed.of_type("Extension.LaunchError", message) from None
        threading.Thread(target=self._watch, args=(name, process), daemon=True).start()
        return process

    def _watch(self, name: str, process: Process) -> None:
        process.ended.wait()
        self._api.wake()
        if not self._shutting_down:
            self._on_exit(name, process.status or 0)


def not_registered(name: str, process: Process, timeout: float) -> str:
    if process.status is not None:
        return f"the extension {name} ended with status {process.status} before it registered"
    return f"the extension {name} has not registered within {timeout:.2f} seconds"
