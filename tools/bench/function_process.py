"""One process of a program, connected to a Runtime API of its own, as the service starts it."""

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
from typing import IO

from tools.common.errors import ToolError

_POLL_INTERVAL = 1.0  # seconds between two checks whether the process is alive
_CPUCLOCK_SCHED = 2  # Linux, include/linux/posix-timers.h: the clock of the time that the scheduler gave to a process


@dataclass(frozen=True)
class Program:
    """A program that is measured, and the folder of its function."""

    name: str
    command: tuple[str | Path, ...]
    task_root: Path
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timestamps:
    """The moments of one invocation, in nanoseconds of CLOCK_MONOTONIC; `server.c` describes them."""

    asked: int
    sent: int
    first_byte: int
    last_byte: int
    ready: int


@dataclass(frozen=True)
class Reply:
    """What the Runtime API measured; `delays` are in nanoseconds."""

    invocations: list[Timestamps]
    delays: list[int]


@dataclass(frozen=True)
class Memory:
    """Resident memory of the process, now and at its peak, in KiB."""

    resident: int
    peak: int


class FunctionProcess:
    """The process of a program and its Runtime API; both run until `stop`.

    Raises:
        ToolError: the program or the Runtime API cannot be started.
    """

    def __init__(self, server: tuple[str | Path, ...], program: Program, cpu_group: Path | None, log: Path) -> None:
        self._log = log
        self._name = program.name
        self._process: subprocess.Popen[bytes] | None = None
        self._server = subprocess.Popen(
            server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            self._start(program, cpu_group)
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise ToolError(f"cannot start {self._name}: {error}") from error
            raise

    def _start(self, program: Program, cpu_group: Path | None) -> None:
        environment = environment_of(program, int(self._line()))
        with self._log.open("wb") as output, _start_clock(cpu_group) as (read_clock, join_group):
            self._process = subprocess.Popen(
                program.command,
                env=environment,
                cwd=program.task_root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=join_group,
            )
            self.started = read_clock()

    def invoke(self, count: int = 1, **event: int) -> Reply:
        """As `send`, with the fields of the event as arguments."""
        return self.send(event, count)

    def send(self, event: Mapping[str, object], count: int = 1) -> Reply:
        """Send `count` invocations with the same event; return when the process asks for one more.

        Raises:
            ToolError: the process ends, or violates the protocol.
        """
        assert self._server.stdin is not None
        self._server.stdin.write(f"{count} {json.dumps(event)}\n".encode())
        self._server.stdin.flush()
        invocations, delays = map(int, self._line().split())
        lines = [self._next_line() for _ in range(invocations)]
        return Reply(
            [Timestamps(*map(int, line.split())) for line in lines], [int(self._next_line()) for _ in range(delays)]
        )

    def cpu_ns(self) -> int:
        """Return the processor time of the process so far, in nanoseconds, user and system, of all its threads."""
        assert self._process is not None
        # Linux, clock_getcpuclockid(3): the clock id of another process; Python has no function for it.
        return time.clock_gettime_ns((~self._process.pid << 3) | _CPUCLOCK_SCHED)

    def memory(self) -> Memory:
        """Return the resident memory of the process."""
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return Memory(int(fields["VmRSS"].split()[0]), int(fields["VmHWM"].split()[0]))

    def reset_peak(self) -> bool:
        """Set the peak to the memory that is resident now; False where the system does not support it."""
        assert self._process is not None
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # proc_pid_clear_refs(5)
            return True
        return False

    def stop(self) -> None:
        """Kill the process and its Runtime API."""
        for process in (self._process, self._server):
            if process is not None and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            if process is not None:
                process.wait()
        streams: tuple[IO[bytes] | None, ...] = (self._server.stdin, self._server.stdout, self._server.stderr)
        for stream in streams:
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _line(self) -> str:
        """Wait for a line of the Runtime API, as long as the process is alive."""
        assert self._server.stdout is not None
        while not select.select([self._server.stdout], [], [], _POLL_INTERVAL)[0]:
            if self._process is not None and self._process.poll() is not None:
                raise ToolError(
                    f"{self._name} ended with status {self._process.returncode}; its log: {self._last_log()}"
                )
        return self._next_line()

    def _next_line(self) -> str:
        assert self._server.stdout is not None and self._server.stderr is not None
        line = self._server.stdout.readline()
        if not line:
            reason = self._server.stderr.read().decode("utf-8", "replace").strip()
            raise ToolError(f"the exchange with {self._name} failed ({reason}); its log: {self._last_log()}")
        return line.decode()

    def _last_log(self) -> str:
        text = self._log.read_text("utf-8", "replace") if self._log.exists() else ""
        return (text.strip().splitlines() or ["empty"])[-1]


def environment_of(program: Program, port: int) -> dict[str, str]:
    return {
        "_HANDLER": "lambda_function.handler",
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
        "AWS_LAMBDA_FUNCTION_NAME": "f",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/f",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/23/[$LATEST]0",
        "LAMBDA_TASK_ROOT": str(program.task_root),
        "LANG": "en_US.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",  # on Lambda, /opt and /var/task are read-only
        "TZ": ":UTC",
        **program.variables,
    }


@contextlib.contextmanager
def _start_clock(cpu_group: Path | None) -> Iterator[tuple[Callable[[], int], Callable[[], None] | None]]:
    """Yield a callable that returns the start time of the process, and what the process calls before its `exec`.

    To move a process to a control group takes the kernel many milliseconds, which are not part of a cold start. So the
    process joins the group first, and then writes the start time into a pipe.
    """
    if cpu_group is None:
        now = time.monotonic_ns()
        yield lambda: now, None
        return
    read_end, write_end = os.pipe()

    def join() -> None:
        cpu_group.write_text("0")
        os.write(write_end, b"%020d" % time.monotonic_ns())

    try:
        yield lambda: int(os.read(read_end, 20)), join
    finally:
        os.close(read_end)
        os.close(write_end)


@dataclass(frozen=True)
class Launcher:
    """Starts processes.

    Args:
        server: the command of the Runtime API.
        log: the file that receives the output of the process.
    """

    server: tuple[str | Path, ...]
    log: Path

    @contextlib.contextmanager
    def start(self, program: Program, cpu_group: Path | None = None) -> Iterator[FunctionProcess]:
        """Run a program until the end of the block.

        Args:
            cpu_group: the `cgroup.procs` of a control group that the process joins.
        """
        process = FunctionProcess(self.server, program, cpu_group, self.log)
        try:
            yield process
        finally:
            process.stop()
