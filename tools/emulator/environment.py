"""Execution environments: a process with Lambda's variables and a Runtime API of its own, and a function's pool.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.emulator.console import Console
from tools.emulator.invocation import Invocation, InvocationFailed
from tools.emulator.runtime_api import RuntimeApi

REGION = "us-east-1"
ACCOUNT = "123456789012"
VERSION = "$LATEST"
INIT_LIMIT = 10  # seconds from the start of the process to its first `next`


@dataclass(frozen=True)
class FunctionConfiguration:
    """What `CreateFunction` would be told of a function.

    Args:
        layer: the folder that stands for /opt; its `bootstrap` is started.
        task_root: the folder that stands for /var/task.
        handler: `module.function`.
        timeout: seconds for an invocation.
        memory: in MB. The function is told of it; it is not enforced.
    """

    layer: Path
    task_root: Path
    handler: str
    timeout: float
    memory: int

    @property
    def name(self) -> str:
        return self.task_root.name

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}"

    @property
    def bootstrap(self) -> Path:
        return self.layer / "bootstrap"

    def variables(self, runtime_api: str) -> dict[str, str]:
        """The environment as the service makes it on a managed Python runtime, from nothing.

        AWS Lambda Developer Guide, configuration-envvars. There are no credentials: nothing here reaches AWS.
        """
        root = str(self.task_root)
        return {
            "_HANDLER": self.handler,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
            "AWS_LAMBDA_EXEC_WRAPPER": str(self.bootstrap),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory),
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": VERSION,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_FORMAT": "Text",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": time.strftime("%Y/%m/%d/[$LATEST]") + os.urandom(16).hex(),
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "AWS_REGION": REGION,
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            "LAMBDA_TASK_ROOT": root,
            "LANG": "en_US.UTF-8",
            # Without the service's folders of system libraries: they could take the place of the interpreter's own.
            "LD_LIBRARY_PATH": f"{root}:{root}/lib:/opt/lib",
            "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
            "TZ": ":UTC",
        }


class FunctionLog:
    """What a process prints, standard output and standard error in one, handed to the console as it comes."""

    def __init__(self, console: Console) -> None:
        self._console = console
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
                    self._console.output(data)
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

    Raises InvocationFailed (`Runtime.InvalidEntrypoint`) where the process cannot be started.
    """

    def __init__(self, function: FunctionConfiguration, console: Console) -> None:
        self._function = function
        self._console = console
        self._invocation: Invocation | None = None
        self._deadline: threading.Timer | None = None
        self._log = FunctionLog(console)
        self._api = RuntimeApi(function.arn, self._on_start, self._on_breach)
        self._started = time.monotonic()
        self._init_reported = False
        self._process = self._start_process()
        self._set_deadline(INIT_LIMIT)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def invoke(self, invocation: Invocation) -> None:
        """Give the process an invocation; the answer comes through the invocation."""
        self._invocation = invocation
        self._api.hand_over(invocation)

    def settle(self, invocation: Invocation) -> bool:
        """Wait until the process is done with the invocation. Returns whether it can serve another one.

        It is done when it asks for the next one: a handler may go on working after the last chunk.
        """
        alive = self._api.wait_until_idle()
        if self._deadline is not None:
            self._deadline.cancel()
        invocation.ended = time.monotonic()
        self._log.drain()
        self._console.report(invocation, self._function.memory, self._take_init_duration(invocation.ended))
        return alive

    def kill(self) -> None:
        """End the process and all that it started, as the service does: without a warning."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._watcher.join()

    def _start_process(self) -> subprocess.Popen[bytes]:
        # The wrapper's call of a managed runtime: it names the interpreter, so the local run has this one, and not
        # whichever `python3` is found first.
        command = [str(self._function.bootstrap), sys.executable, "/var/runtime/bootstrap.py"]
        try:
            process = subprocess.Popen(
                command,
                env=self._function.variables(self._api.address),
                cwd=self._function.task_root,
                stdin=subprocess.DEVNULL,
                stdout=self._log.writer,
                stderr=self._log.writer,
                start_new_session=True,  # a Ctrl-C in the terminal is for the emulator, which then ends the process
            )
        except OSError as error:
            self._api.end(InvocationFailed.because("Runtime.InvalidEntrypoint", str(error)))
            hint = f"; try: chmod +x {command[0]}" if isinstance(error, PermissionError) else ""
            message = f"{command[0]} cannot be started: {error.strerror}{hint}"
            raise InvocationFailed.because("Runtime.InvalidEntrypoint", message) from None
        finally:
            self._log.start()
        return process

    def _watch(self) -> None:
        status = self._process.wait()
        how = f"exit status {status}" if status >= 0 else f"signal: {signal.Signals(-status).name}"
        self._api.end(InvocationFailed.because("Runtime.ExitError", f"Runtime exited with error: {how}"))

    def _on_start(self, invocation: Invocation) -> None:
        self._console.start(invocation, VERSION)
        self._set_deadline(invocation.timeout)

    def _on_breach(self, message: str) -> None:
        self._console.error(message)
        threading.Thread(target=self.kill, daemon=True).start()  # the caller is one of those that kill() waits for

    def _set_deadline(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = threading.Timer(seconds, self._time_out, [seconds])
        self._deadline.daemon = True
        self._deadline.start()

    def _time_out(self, seconds: float) -> None:
        invocation = self._invocation
        if invocation is None:
            return
        what = "Task" if invocation.started is not None else "Init"
        message = f"RequestId: {invocation.request_id} Error: {what} timed out after {seconds:.2f} seconds"
        invocation.finish(InvocationFailed.because("Sandbox.Timedout", message))
        self.kill()

    def _take_init_duration(self, now: float) -> float | None:
        """Seconds from the start of the process to its first `next`, or to its end; None where it was told before."""
        if self._init_reported:
            return None
        self._init_reported = True
        return (self._api.initialized or now) - self._started


class Function:
    """A function and its execution environments: warm ones are used again, and others started, up to a limit."""

    def __init__(self, configuration: FunctionConfiguration, console: Console, concurrency: int = 10) -> None:
        self.configuration = configuration
        self._console = console
        self._free = threading.BoundedSemaphore(concurrency)
        self._lock = threading.Lock()
        self._warm: list[ExecutionEnvironment] = []
        self._all: set[ExecutionEnvironment] = set()
        self._closed = False

    @contextlib.contextmanager
    def invoke(self, event: bytes) -> Iterator[Invocation]:
        """One invocation, its response to be read within the block, which ends when the environment is done with it.

        Args:
            event: the payload.

        Raises InvocationFailed where no environment can be started.
        """
        with self._free:
            environment = self._acquire()
            invocation = Invocation(event, self.configuration.timeout)
            try:
                environment.invoke(invocation)
                yield invocation
            except InvocationFailed:
                self._put_back(environment, invocation)
                raise
            except BaseException:
                invocation.finish()  # nobody takes the rest of its response
                self._drop(environment)
                raise
            else:
                self._put_back(environment, invocation)

    def close(self) -> None:
        """End every environment."""
        with self._lock:
            self._closed = True
            environments = list(self._all)
        for environment in environments:
            environment.kill()

    def _acquire(self) -> ExecutionEnvironment:
        with self._lock:
            while self._warm:
                environment = self._warm.pop()
                if environment.alive:
                    return environment
                self._all.discard(environment)
            if self._closed:
                raise InvocationFailed.because("Runtime.Unavailable", "the emulator is ending")
            environment = ExecutionEnvironment(self.configuration, self._console)
            self._all.add(environment)
            return environment

    def _put_back(self, environment: ExecutionEnvironment, invocation: Invocation) -> None:
        if environment.settle(invocation):
            with self._lock:
                self._warm.append(environment)
        else:
            self._drop(environment)

    def _drop(self, environment: ExecutionEnvironment) -> None:
        environment.kill()
        with self._lock:
            self._all.discard(environment)
