"""A function's process on a Runtime API of its own, as the service starts it: with an environment from scratch."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.bench import BenchError

_LOOK_EVERY = 1.0  # seconds; whether the process is still there


@dataclass(frozen=True)
class Contestant:
    """A program that is measured, and the folder of its function."""

    name: str
    command: tuple[str | Path, ...]
    task: Path
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Marks:
    """Moments of one invocation, in nanoseconds of CLOCK_MONOTONIC; `server.c` says which they are."""

    next: int
    answered: int
    first: int
    end: int
    ready: int


@dataclass(frozen=True)
class Reply:
    invocations: list[Marks]
    stamps: list[int]


@dataclass(frozen=True)
class Memory:
    """KiB that the process has now, and had at most."""

    resident: int
    peak: int


class Session:
    """One process, alive until `end`."""

    def __init__(self, server: tuple[str | Path, ...], contestant: Contestant, quota: Path | None, log: Path) -> None:
        self._log = log
        self._name = contestant.name
        self._process: subprocess.Popen[bytes] | None = None
        self._server = subprocess.Popen(
            server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            environment = self._environment(contestant, int(self._line()))
            with log.open("wb") as output, _starting(quota) as (moment, join):
                self._process = subprocess.Popen(
                    contestant.command,
                    env=environment,
                    cwd=contestant.task,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=join,
                )
                self.started = moment()
        except BaseException as error:
            self.end()
            if isinstance(error, OSError):
                raise BenchError(f"{self._name} could not be started: {error}") from error
            raise

    @staticmethod
    def _environment(contestant: Contestant, port: int) -> dict[str, str]:
        return {
            "_HANDLER": "lambda_function.handler",
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": "f",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/f",
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/23/[$LATEST]0",
            "LAMBDA_TASK_ROOT": str(contestant.task),
            "LANG": "en_US.UTF-8",
            "PATH": "/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",  # a function's folder is read-only
            "TZ": ":UTC",
            **contestant.variables,
        }

    def invoke(self, count: int = 1, **event: int) -> Reply:
        """Give the process the same event so many times; returns when it asks for one more.

        Raises BenchError where it ends instead.
        """
        assert self._server.stdin is not None
        self._server.stdin.write(f"{count} {json.dumps(event)}\n".encode())
        self._server.stdin.flush()
        invocations, stamps = map(int, self._line().split())
        lines = [self._line_at_hand() for _ in range(invocations)]
        return Reply(
            [Marks(*map(int, line.split())) for line in lines], [int(self._line_at_hand()) for _ in range(stamps)]
        )

    def memory(self) -> Memory:
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return Memory(int(fields["VmRSS"].split()[0]), int(fields["VmHWM"].split()[0]))

    def forget_peak(self) -> bool:
        """Let the peak be measured anew, from what is resident now; False where the system does not."""
        assert self._process is not None
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # proc_pid_clear_refs(5)
            return True
        return False

    def _line(self) -> str:
        assert self._server.stdout is not None
        while not select.select([self._server.stdout], [], [], _LOOK_EVERY)[0]:
            if self._process is not None and self._process.poll() is not None:
                raise BenchError(f"{self._name} ended with status {self._process.returncode}: {self._last_words()}")
        return self._line_at_hand()

    def _line_at_hand(self) -> str:
        assert self._server.stdout is not None and self._server.stderr is not None
        line = self._server.stdout.readline()
        if not line:
            reason = self._server.stderr.read().decode("utf-8", "replace").strip()
            raise BenchError(f"the exchange with {self._name} failed: {reason}; it wrote: {self._last_words()}")
        return line.decode()

    def _last_words(self) -> str:
        text = self._log.read_text("utf-8", "replace") if self._log.exists() else ""
        return (text.strip().splitlines() or ["nothing"])[-1]

    def end(self) -> None:
        for process in (self._process, self._server):
            if process is not None and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            if process is not None:
                process.wait()
        for stream in (self._server.stdin, self._server.stdout, self._server.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@contextlib.contextmanager
def _starting(group: Path | None) -> Iterator[tuple[Callable[[], int], Callable[[], None] | None]]:
    """What tells when a process was started, and what it has to do in its first moment.

    It joins its control group before it is counted as started: to change the group takes the kernel many milliseconds.
    """
    if group is None:
        now = time.monotonic_ns()
        yield lambda: now, None
        return
    joined, told = os.pipe()

    def join() -> None:
        group.write_text("0")
        os.write(told, b"%020d" % time.monotonic_ns())

    try:
        yield lambda: int(os.read(joined, 20)), join
    finally:
        os.close(joined)
        os.close(told)


@dataclass(frozen=True)
class Arena:
    """Starts sessions.

    Args:
        server: the command of the Runtime API.
        log: a file for what the function's process writes.
    """

    server: tuple[str | Path, ...]
    log: Path

    @contextlib.contextmanager
    def session(self, contestant: Contestant, quota: Path | None = None) -> Iterator[Session]:
        session = Session(self.server, contestant, quota, self.log)
        try:
            yield session
        finally:
            session.end()
