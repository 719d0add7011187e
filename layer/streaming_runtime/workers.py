"""Several invocations at once, on Lambda Managed Instances: a parent process supervises workers.

The service sets AWS_LAMBDA_MAX_CONCURRENCY=N there, and sends up to N invocations to one environment at a time. The
runtime has N slots for them. Each slot has a connection of its own, on which it asks for an invocation:

    processes    N workers with one slot each, for handlers that block: generators, WSGI applications
    one loop     min(CPUs, N) workers that share the N slots, for async handlers; each runs them on one event loop

The first worker imports the function and reports its kind; then the parent starts the others. Each one imports the
function itself, as with AWS's own client, unless STREAMING_RUNTIME_PRELOAD requests one import before the fork.

The parent runs no code of the function. What can go wrong, and what it does:

- A worker dies (a crash in C code, the kernel's memory killer, `os._exit`). It is started again, with a pause that
  doubles. Its invocation must be accounted for: if no response has begun, the parent posts `/error`; otherwise the
  socket, which closes, ends the response. The parent has duplicates of the sockets, so it closes them too.
- No worker stays alive. After MAX_FAILED_STARTS in a row of each, the parent exits with status 1: the service watches
  the exit of the first process only, and replaces the environment.
- SIGTERM. The service signals the whole process group, other servers only the parent. So the parent forwards it, and
  workers act on the first one.
- The parent is killed. See `worker.end_with_parent`.

Sources: AWS Lambda Developer Guide, lambda-managed-instances-execution-environment and runtimes-custom.
"""

import gc
import os
import select
import time

from streaming_runtime import (
    ContractError,
    MinimalReport,
    NotDelivered,
    RuntimeApiError,
    Terminated,
    import_standard,
    load,
)
from streaming_runtime.api import RuntimeApi
from streaming_runtime.connection import Connection
from streaming_runtime.invocation import Invocation
from streaming_runtime.log import describe

try:
    import _signal as signal  # type: ignore[import-not-found]
except ImportError:  # an interpreter that is built differently
    import signal
try:
    import _socket as socket
except ImportError:  # an interpreter that is built differently
    import socket  # type: ignore[no-redef]

slot_kinds = load("slot_kinds")
worker_state = load("worker_state")
worker_module = load("worker")
lost_invocations = load("lost_invocations")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, ModuleType
    from typing import Any, NoReturn

    from streaming_runtime.concurrent_log import ConcurrentLog
    from streaming_runtime.handler import Handler
    from streaming_runtime.worker_state import SharedState

VERSION = "0.1.0"

PRELOAD = "STREAMING_RUNTIME_PRELOAD"  # 1 or true: import the function once, before the fork

FIRST_PAUSE, MAX_PAUSE = 0.1, 10.0  # seconds before a worker is started again
STABLE_LIFETIME = 10.0  # seconds after which a death is not part of a series
MAX_FAILED_STARTS = 5  # of a worker, in a row, without an invocation
SHUTDOWN_TIMEOUT = 2.0  # seconds; the service allows no more
API_TIMEOUT = 5.0  # seconds for the parent's own requests


class Worker:
    """A worker as its parent sees it. It outlives its process.

    Attributes:
        slots: their numbers.
        kind: `process` or `async`; empty until the first worker has reported it.
        process: its id; 0 while there is none.
        connections: duplicates of the connections of the slots, by slot.
        child_channel: in the process, the other end of `channel`.
    """

    def __init__(self, number: int, slots: "range") -> None:
        self.number = number
        self.slots = slots
        self.kind = ""
        self.process = 0
        self.connections: dict[int, socket.socket] = {}
        self.channel: Any = None
        self.child_channel: Any = None
        self.started = 0.0  # time.monotonic()
        self.due: float | None = 0.0  # when to start it
        self.invocations = 0  # of its slots, at its start
        self.deaths = 0  # in a row, each after a short life without a second invocation
        self.failed_starts = 0  # in a row

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()
        self.connections = {}
        if self.channel is not None:
            self.channel.close()
            self.channel = None


class ParentConnection(Connection):
    """The connection for error reports. A Runtime API that does not respond must not stop the supervision."""

    def _open(self) -> None:
        super()._open()
        self.sock.settimeout(API_TIMEOUT)  # type: ignore[union-attr]


def serve(runtime: "ModuleType", log: "ConcurrentLog") -> "NoReturn":
    """Start the workers, and supervise them until the environment ends. In a worker, serve invocations.

    Raises what `runtime.main` handles.

    Args:
        runtime: the module of the loop.
    """
    log.replace_streams()
    api = RuntimeApi(runtime.variable("AWS_LAMBDA_RUNTIME_API") or "", log)
    api.connection = ParentConnection(*api.address)
    try:
        concurrency = runtime.variable(slot_kinds.MAX_CONCURRENCY) or ""
        slots = slot_kinds.check_settings(concurrency, runtime.variable(slot_kinds.CONCURRENCY))
    except ContractError as error:
        report = describe(error, "the configuration")
        log.error(report)
        api.post_init_error(report)
        runtime.leave(1)
    if runtime.is_requested(runtime.GRACEFUL_SHUTDOWN):  # one registration for the environment
        api.extension = load("extension").Extension(api, log)
        api.extension.register()
    runtime.exit_on_sigterm(api.connection)  # during the import; `Parent` replaces it
    log.is_before_fork = True
    loaded = runtime.initialize(api, log) if runtime.is_requested(PRELOAD) else None
    log.is_before_fork = False
    log.end_lines()
    api.connection.close()
    Parent(runtime, log, api, slots, loaded).run()


class Parent:
    """The process that the service has started.

    Attributes:
        runtime: the module of the loop.
        api: for error reports; also with the registration as an extension.
        slots: their number.
        loaded: the handler, if it was imported before the fork.
        state: what the parent and its workers share.
    """

    def __init__(
        self, runtime: "ModuleType", log: "ConcurrentLog", api: RuntimeApi, slots: int, loaded: "Handler | None"
    ) -> None:
        self.runtime = runtime
        self.log = log
        self.api = api
        self.slots = slots
        self.loaded = loaded
        self.state: SharedState = worker_state.SharedState(slots)
        self._kind = ""
        self._exit_signal = 0
        self._poller = select.poll()
        self._unread = lost_invocations.UnreadConnections(self._poller)
        self._channels: dict[int, Worker] = {}
        self._wake_up, self._signalled = os.pipe()
        self._workers = [Worker(0, range(1))]

    def run(self) -> "NoReturn":
        """Supervise the workers. Ends only with an exception, in the parent and in each worker."""
        self._follow_signals()
        gc.collect()
        gc.freeze()  # a collection in a worker would copy the pages of all these objects
        while True:
            self._start_due_workers()
            self._wait(self._milliseconds_until_due())
            if self._exit_signal:
                self._shut_down()
            if all(self._has_failed(worker) for worker in self._workers):
                self._read_unread()
                self._report_failed_init("no worker stays alive")
                raise RuntimeApiError("no worker stays alive")

    def _wait(self, milliseconds: "float | None") -> None:
        """Wait for messages of workers and for their end."""
        polled = time.monotonic()
        readable = [descriptor for descriptor, _ in self._poller.poll(milliseconds)]
        for descriptor in readable:
            if descriptor == self._wake_up:
                os.read(self._wake_up, 4096)
            elif descriptor in self._channels:
                self._receive(self._channels[descriptor])
            elif descriptor in self._unread:
                found = self._unread.receive(descriptor)
                if found is not None:
                    self._report_lost(*found)
        self._unread.close_overdue(polled, set(readable))
        for worker in self._workers:
            if worker.process:
                self._reap(worker)

    def _read_unread(self) -> None:
        """Before the end: wait for invocations that dead workers have not read."""
        while (due := self._unread.next_deadline()) is not None:
            self._wait(max(0.0, due - time.monotonic()) * 1000 + 1)

    # Signals

    def _follow_signals(self) -> None:
        """Wake the loop with each signal. A signal that arrives just before `poll` would otherwise go unnoticed."""
        os.set_blocking(self._signalled, False)
        signal.set_wakeup_fd(self._signalled)
        self._poller.register(self._wake_up, select.POLLIN)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        signal.signal(signal.SIGTERM, self._note_exit)

    def _note_exit(self, signum: int, _: "FrameType | None") -> None:
        self._exit_signal = signum

    def _shut_down(self) -> "NoReturn":
        """Forward the signal, and wait for the workers as long as the service waits for the environment."""
        for worker in self._workers:
            if worker.process:
                os.kill(worker.process, self._exit_signal)
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT
        while any(worker.process for worker in self._workers) and time.monotonic() < deadline:
            self._wait(max(0.0, deadline - time.monotonic()) * 1000)
        for worker in self._workers:
            if worker.process:
                os.kill(worker.process, signal.SIGKILL)
                self._reap(worker, 0)
        self._read_unread()
        raise Terminated(128 + self._exit_signal)

    # Starting

    def _start_due_workers(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.due is not None and worker.due <= now:
                self._start(worker)

    def _milliseconds_until_due(self) -> "float | None":
        due = [worker.due for worker in self._workers if worker.due is not None]
        unread = self._unread.next_deadline()
        due += [unread] if unread is not None else []
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _start(self, worker: Worker) -> None:
        """Fork. Signals wait meanwhile: the child would handle them like its parent."""
        worker.kind = self._kind
        worker.due = None
        worker.started = time.monotonic()
        worker.invocations = self._invocations_of(worker)
        for slot in worker.slots:
            self.state.slot(slot).idle()
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGCHLD))
        try:
            worker.channel, worker.child_channel = socket.socketpair(socket.AF_UNIX, worker_state.CHANNEL_TYPE)
            worker.process = os.fork()
            if not worker.process:
                self._become(worker)
            self._channels[worker.channel.fileno()] = worker
            self._poller.register(worker.channel, select.POLLIN)
        except OSError as error:
            worker.close()
            self._plan_restart(worker)
            self.log.line(f"worker {worker.number} cannot be started: {error}")
        finally:
            if worker.child_channel is not None:
                worker.child_channel.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _become(self, worker: Worker) -> "NoReturn":
        """In the child: close what belongs to the parent, and serve."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in self._workers:
            other.close()
        self._unread.close()
        for descriptor in (self._wake_up, self._signalled):
            os.close(descriptor)
        self.api.connection.disown()
        if self.api.extension is not None:
            self.api.extension.disown()
        try:
            worker_module.serve(self, worker)
        except RuntimeApiError as error:
            self.log.line(f"{error}; the worker ends")
            self.runtime.leave(1)
        except BaseException as error:
            self.runtime.end(error, self.log)
        raise AssertionError("a worker does not return")

    # Messages of workers

    def _receive(self, worker: Worker) -> None:
        while True:
            try:
                message, rights, _, _ = worker.channel.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_DONTWAIT)
            except OSError:  # there are no more
                return
            if not message:  # the worker has ended, or the function has closed the channel
                self._stop_listening(worker)
                return
            subject, _, value = message.decode().partition(" ")
            if subject == "kind":
                self._start_others(value)
            for _, _, data in rights:
                previous = worker.connections.pop(int(value), None)
                if previous is not None:
                    previous.close()
                worker.connections[int(value)] = socket.socket(fileno=int.from_bytes(data, worker_state.BYTE_ORDER))

    def _stop_listening(self, worker: Worker) -> None:
        if self._channels.pop(worker.channel.fileno(), None) is not None:
            self._poller.unregister(worker.channel)

    def _start_others(self, kind: str) -> None:
        """After the first worker has imported the function, plan the start of the others."""
        if not self._kind:
            self._kind = kind
            slots = slot_kinds.shares(kind, self.slots)
            self._workers[0].slots = slots[0]
            self._workers += [Worker(number, slots[number]) for number in range(1, len(slots))]

    # The end of a worker

    def _reap(self, worker: Worker, options: int = os.WNOHANG) -> None:
        try:
            process, status = os.waitpid(worker.process, options)
        except ChildProcessError:  # a module that was imported before the fork has waited for it
            process, status = worker.process, 0
        if not process:
            return
        self._receive(worker)
        end = describe_end(status)
        self._stop_listening(worker)
        request_id = self._account_for(worker, end)
        self._plan_restart(worker)
        worker.process = 0
        if not self._exit_signal:
            self._log_end(worker, f"worker {worker.number} (process {process}) {end}", request_id)
            if not self._kind and os.WIFEXITED(status):
                # The function's module has failed, and would fail in the other workers too.
                self._report_failed_init(f"the process {end} while it imported the function")
                self.runtime.leave(os.waitstatus_to_exitcode(status) or 1)

    def _log_end(self, worker: Worker, what: str, request_id: str) -> None:
        pause = max(0.0, (worker.due or 0.0) - time.monotonic())
        self.log.invocation = Invocation(request_id, {}, None) if request_id else None  # type: ignore[arg-type]
        self.log.line(f"{what}; it is started again after {pause:.1f} seconds")
        self.log.invocation = None

    def _plan_restart(self, worker: Worker) -> None:
        now = time.monotonic()
        if self._is_stable(worker, now):
            worker.failed_starts = 0
        else:
            worker.failed_starts += 1
        has_served = self._invocations_of(worker) > worker.invocations + 1  # not only the one that it died of
        if has_served or now - worker.started > STABLE_LIFETIME:
            worker.deaths = 0
        worker.due = now + min(MAX_PAUSE, FIRST_PAUSE * 2**worker.deaths)
        worker.deaths += 1

    def _is_stable(self, worker: Worker, now: float) -> bool:
        return now - worker.started > STABLE_LIFETIME or self._invocations_of(worker) > worker.invocations

    def _invocations_of(self, worker: Worker) -> int:
        return sum(self.state.slot(slot).invocations for slot in worker.slots)

    def _has_failed(self, worker: Worker) -> bool:
        is_stable = worker.process != 0 and self._is_stable(worker, time.monotonic())
        return worker.failed_starts >= MAX_FAILED_STARTS and not is_stable

    def _report_failed_init(self, reason: str) -> None:
        """Post an init error, unless a worker has done so, or the init phase is over."""
        if not self.state.is_set(worker_state.READY) and not self.state.is_set(worker_state.INIT_ERROR):
            self.api.post_init_error(MinimalReport("Runtime.ExitError", reason, None))

    # Accounting for invocations

    def _account_for(self, worker: Worker, end: str) -> str:
        """Report the invocations that a dead worker could not report. Return the request id of one of them."""
        reason = f"the process that served the invocation {end} before its response began"
        lost: list[Invocation] = []
        served = ""
        for connection in worker.connections.values():
            lost_invocations.end_sending(connection)
        for number in worker.slots:
            slot = self.state.slot(number)
            if slot.phase == worker_state.IDLE:
                if number in worker.connections:
                    self._unread.add(worker.connections.pop(number), reason)
                continue
            found = lost_invocations.of_slot(slot, worker.connections.get(number))
            lost += [found] if found is not None else []
            served = slot.request_id
        worker.close()
        for invocation in lost:
            self._report_lost(invocation, reason)
        return lost[0].request_id if lost else served

    def _report_lost(self, invocation: Invocation, reason: str) -> None:
        self.log.invocation = invocation
        report = MinimalReport("Runtime.ExitError", reason, None)
        self.log.error(report)
        try:
            self.api.send_error(invocation, report)
            self.api.read_acceptance("the error")
        except NotDelivered as problem:
            self.log.line(f"the error was not delivered: {problem}")
        self.api.connection.close()
        self.log.invocation = None


def describe_end(status: int) -> str:
    """Return a verb and an object for the status of `os.waitpid`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        name = f" ({import_standard('signal').Signals(-code).name})"
    except ValueError:
        name = ""
    return f"was killed by signal {-code}{name}"
