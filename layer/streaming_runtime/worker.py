"""A worker: a forked process that serves one invocation after the other, besides other workers (see `workers`).

It does what the process of an on-demand function does, and records each step in memory that its parent reads when it
has ended (see `worker_state`). What is different from an on-demand process:

- The parent has a duplicate of the worker's connection. With it, it finds an invocation that arrived when the worker
  was already dead, and whether a response had begun. So the connection is shut down before it is closed: closing one
  of two descriptors would not end it.
- A received invocation is recorded before it is taken out of the socket (MSG_PEEK). A worker that is killed in between
  leaves it there, and the parent reports it.
- The service signals the process group, and the parent forwards signals. So the same SIGTERM can arrive twice.
- When the parent is killed, the worker has to end too. So the kernel sends it SIGTERM when the parent's end of the
  channel closes.
"""

import contextlib
import fcntl
import os
import sys

from streaming_runtime import WAIT_MILLISECONDS, ContractError, NotDelivered, load
from streaming_runtime.api import (
    FRESH,
    INIT_ERROR_PATH,
    INVOCATION_ID,
    NEXT_PATH,
    OPEN,
    REQUEST_ID,
    ResponseStream,
    RuntimeApi,
    is_path_segment,
)
from streaming_runtime.connection import Connection, timeval
from streaming_runtime.http1 import HEAD_READ_BYTES, ResponseHead
from streaming_runtime.invocation import Invocation
from streaming_runtime.log import Descriptor, describe, duplicate_high

try:
    import _signal as signal  # type: ignore[import-not-found]
except ImportError:  # an interpreter that is built differently
    import signal
try:
    import _socket as socket
except ImportError:  # an interpreter that is built differently
    import socket  # type: ignore[no-redef]

# Loaded with this module: after the fork, another layer could not be noticed any more.
timeouts = load("timeouts")
worker_state = load("worker_state")
slot_kinds = load("slot_kinds")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, ModuleType
    from typing import Any, NoReturn

    from streaming_runtime.concurrent_log import ConcurrentLog
    from streaming_runtime.handler import Handler
    from streaming_runtime.worker_state import SharedState, Slot
    from streaming_runtime.workers import Parent, Worker

VERSION = "0.1.0"

F_SETSIG = 10  # asm-generic/fcntl.h; `fcntl` has no name for it before Python 3.12
HINT = (
    "the handler is async, and each process serves one invocation at a time; with STREAMING_RUNTIME_CONCURRENCY=async, "
    "one event loop serves several, in less memory"
)


class WorkerConnection(Connection):
    """The connection of a worker's slot.

    Args:
        on_open: called with the descriptor of a new connection.
    """

    # No limit, because `record_invocation` would take its end for that of the connection. `_ask_for_invocation` waits.
    receive_timeout = timeval(0)

    def __init__(self, host: str, port: int, slot: "Slot", on_open: "Any") -> None:
        super().__init__(host, port)
        self._slot = slot
        self._on_open = on_open
        self._peeked = 0  # bytes of an incomplete head

    def _open(self) -> None:
        super()._open()
        self._peeked = 0
        self._on_open(self.sock.fileno())

    def close(self) -> None:
        if not self.disowned and self.is_ours():
            with contextlib.suppress(OSError):  # the other side has closed it
                self.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        super().close()

    def disown(self) -> None:
        """In a forked process: the worker still uses the connection, so it is not shut down."""
        self.disowned = True
        super().disown()

    def record_invocation(self) -> bool:
        """Record the invocation in the response to `next`. Call it when the socket is readable.

        Return whether the response can be read now. If not, its head is incomplete: what is read and not recorded
        would be lost with the process. SO_RCVLOWAT lets the kernel wait for more bytes than there are.
        """
        try:
            received = self.sock.recv(HEAD_READ_BYTES, socket.MSG_PEEK)
            head = head_of(received)
            is_complete = head is not None or len(received) in (self._peeked, HEAD_READ_BYTES)
            if self._peeked or not is_complete:
                self._peeked = 0 if is_complete else len(received)
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._peeked + 1)  # type: ignore[union-attr]
        except OSError:
            return True  # reading will fail too
        if head is not None and 200 <= head.status < 300 and head.status != 204:
            self._slot.invoked(head.get(REQUEST_ID, ""), head.get(INVOCATION_ID, ""))
        return is_complete

    def record_sending(self) -> None:
        """Record that the next byte that is sent ends the invocation."""
        written = worker_state.bytes_written(self.sock)
        self._slot.sending(written + 1 if written is not None else 0)


def head_of(received: bytes) -> "ResponseHead | None":
    stop = received.find(b"\r\n\r\n") + 4
    return ResponseHead(received[:stop]) if stop >= 4 else None


class WorkerApi(RuntimeApi):
    """The calls of one slot.

    Attributes:
        has_timed_out: the deadline of the current invocation has passed.
    """

    def __init__(self, address: str, log: "ConcurrentLog", state: "SharedState", slot: int, on_open: "Any") -> None:
        super().__init__(address, log)
        self._concurrent_log = log
        self._state = state
        self.slot = state.slot(slot)
        self.connection: WorkerConnection = WorkerConnection(*self.address, self.slot, on_open)
        self.has_timed_out = False

    def next_invocation(self) -> Invocation:
        self._concurrent_log.end_lines()
        self._concurrent_log.invocation = None
        return super().next_invocation()

    def _ask_for_invocation(self) -> "Invocation | None":
        self.ask()
        number = self.connection.sock.fileno()
        while not worker_state.is_readable(number, WAIT_MILLISECONDS) or not self.connection.record_invocation():
            pass
        return self.take_invocation()

    def ask(self) -> None:
        """Send the request for an invocation. Raises NotDelivered."""
        self.connection.reuse()
        self.slot.idle()
        self.connection.send(self._next_request)
        self._state.set(worker_state.READY)

    def take_invocation(self) -> "Invocation | None":
        """Read the response to the request; None if there is no invocation yet.

        Raises NotDelivered also for a refusal, which is final for an on-demand function: another worker may have to
        come first.
        """
        response = self.connection.read_response()
        if response.status == 204:
            return None
        request_id = response.headers.get(REQUEST_ID, "")
        if not response.is_success or not is_path_segment(request_id):
            found = f"status {response.status}, {REQUEST_ID} {request_id!r}"
            raise NotDelivered(f"the Runtime API responded to {NEXT_PATH} without an invocation: {found}")
        if self.slot.phase == worker_state.IDLE:  # behind an interim response, for example
            self.slot.invoked(request_id, response.headers.get(INVOCATION_ID, ""))
        return Invocation(request_id, response.headers, response.body)

    def disown(self) -> None:
        super().disown()
        self._concurrent_log.disown()

    def post_init_error(self, report: "Any") -> None:
        """Report an init error, unless the environment has initialized or another worker has reported one."""
        state = self._state
        if not state.is_set(worker_state.READY) and not state.is_set(worker_state.INIT_ERROR):
            state.set(worker_state.INIT_ERROR)
            super().post_init_error(report)

    def send_error(self, invocation: Invocation, report: "Any") -> None:
        self.connection.renew()
        self.connection.record_sending()
        super().send_error(invocation, report)

    def read_acceptance(self, request: str) -> bool:
        if request == INIT_ERROR_PATH or self.has_timed_out:
            # 403: another process was first. 410: the service has ended the invocation at the same deadline.
            return self.connection.read_response().is_success
        return super().read_acceptance(request)


def with_deadline(base: "type[ResponseStream]") -> "type[ResponseStream]":
    """Return a class of responses that also looks at the deadline before each chunk, and records where it begins."""

    class WorkerResponse(base):  # type: ignore[misc, valid-type]
        __slots__ = ("_limit", "_worker_api")

        def __init__(self, api: WorkerApi, invocation: Invocation, log: "Any") -> None:
            super().__init__(api, invocation, log)
            log.enter_context(invocation)  # a response is made in the context of its invocation
            api.has_timed_out = False
            self._worker_api = api
            self._limit = timeouts.TimeLimit(invocation)

        def write_first(self, item: object) -> None:
            self._check()
            super().write_first(item)

        def write(self, item: object) -> None:
            self._check()
            super().write(item)

        def end(self) -> None:
            if self.phase is FRESH or self.phase is OPEN:
                self._check()
            super().end()

        def _check(self) -> None:
            try:
                self._limit.check()
            except timeouts.TimedOut:
                self._worker_api.has_timed_out = True
                raise

        def _begin(self, content_type: str) -> bytes:
            head: bytes = super()._begin(content_type)
            self.connection.record_sending()
            return head

    return WorkerResponse


# --- The process ------------------------------------------------------------------------------------------------------


class Channel:
    """The worker's end of the socket to its parent."""

    def __init__(self, sock: "socket.socket") -> None:
        number = duplicate_high(sock.fileno())
        if number != sock.fileno():
            sock.close()
            sock = socket.socket(socket.AF_UNIX, worker_state.CHANNEL_TYPE, 0, fileno=number)
        self.sock = sock
        self._descriptor = Descriptor(number)

    @property
    def number(self) -> int:
        return self._descriptor.number

    def send_connection(self, slot: int, descriptor: int) -> None:
        """Give the parent a duplicate of the connection of a slot."""
        rights = descriptor.to_bytes(4, worker_state.BYTE_ORDER)
        self._send(b"connection %d" % slot, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def send_kind(self, kind: str) -> None:
        self._send(b"kind %b" % kind.encode(), [])

    def _send(self, message: bytes, rights: "list[tuple[int, int, bytes]]") -> None:
        if self._descriptor.is_valid():  # otherwise the function has closed it
            with contextlib.suppress(OSError):  # the parent was killed; a signal follows
                self.sock.sendmsg([message], rights)


def serve(parent: "Parent", worker: "Worker") -> "NoReturn":
    """Serve invocations in a process that was just forked. Ends only with an exception."""
    runtime, log = parent.runtime, parent.log
    log.disown()
    log.connect()
    log.separate_contexts()
    channel = Channel(worker.child_channel)
    api = make_api(parent, worker.slots[0], channel)
    api.extension = parent.api.extension
    end_on_first_sigterm(runtime, api.connection)
    end_with_parent(channel.number)
    loaded = parent.loaded
    if loaded is None:
        loaded = runtime.initialize(api, log)
    else:
        api.response_class = parent.api.response_class
        replace_event_loop()
        start_application(runtime, api, loaded, log)
    api.response_class = with_deadline(api.response_class)
    kind = worker.kind or choose_kind(runtime, api, loaded, log)
    channel.send_kind(kind)
    if kind == slot_kinds.ASYNC:
        slots = slot_kinds.shares(kind, parent.slots)[worker.number]
        load("slots").serve(runtime, [api, *(make_api(parent, slot, channel) for slot in slots[1:])], loaded, log)
    serve_one_at_a_time(runtime, api, loaded, log, parent.state)


def make_api(parent: "Parent", slot: int, channel: Channel) -> WorkerApi:
    def on_open(descriptor: int) -> None:
        channel.send_connection(slot, descriptor)

    address = parent.runtime.variable("AWS_LAMBDA_RUNTIME_API") or ""
    api = WorkerApi(address, parent.log, parent.state, slot, on_open)
    os.register_at_fork(after_in_child=api.disown)
    return api


def replace_event_loop() -> None:
    """Replace a loop that the function made before the fork: all workers have its descriptors.

    From Python 3.12 on, asyncio forgets it in a forked process.
    """
    events: Any = sys.modules.get("asyncio.events")
    if sys.version_info < (3, 12) and events is not None:
        local = getattr(events.get_event_loop_policy(), "_local", None)
        if getattr(local, "_loop", None) is not None:
            events.set_event_loop(events.new_event_loop())


def start_application(runtime: "ModuleType", api: WorkerApi, loaded: "Handler", log: "ConcurrentLog") -> None:
    """Start an ASGI application that was imported before the fork. Report an init error and exit if that fails."""
    if loaded.is_asgi:
        try:
            loaded.start()  # type: ignore[attr-defined]
        except BaseException as error:
            fail_init(runtime, api, error, log)


def fail_init(runtime: "ModuleType", api: WorkerApi, error: BaseException, log: "ConcurrentLog") -> "NoReturn":
    report = describe(error, "the function's module")
    log.error(report)
    api.post_init_error(report)
    runtime.leave(report.exit_status or 1)
    raise AssertionError("the process has ended")


def choose_kind(runtime: "ModuleType", api: WorkerApi, loaded: "Handler", log: "ConcurrentLog") -> str:
    """Return the kind of the handler. Report an init error and exit if it is not the one that was requested."""
    try:
        kind: str = slot_kinds.choose(loaded, runtime.variable(slot_kinds.CONCURRENCY))
    except ContractError as error:
        fail_init(runtime, api, error, log)
    return kind


def serve_one_at_a_time(
    runtime: "ModuleType", api: WorkerApi, loaded: "Handler", log: "ConcurrentLog", state: "SharedState"
) -> "NoReturn":
    """Run the loop of an on-demand process, with a hint after the first invocation of an async handler."""
    next_invocation = api.next_invocation

    def next_with_hint() -> Invocation:
        if loaded.loop is not None and slot_kinds.is_async(loaded) and not state.is_set(worker_state.HINT):
            state.set(worker_state.HINT)
            log.note(HINT)
        return next_invocation()

    api.next_invocation = next_with_hint  # type: ignore[method-assign]
    runtime.run(api, loaded, log)
    raise AssertionError("the loop ends with an exception")


# --- Signals ----------------------------------------------------------------------------------------------------------


def end_on_first_sigterm(runtime: "ModuleType", connection: Connection) -> None:
    """On the first SIGTERM, end as an on-demand process does. Ignore the ones after it."""
    runtime.exit_on_sigterm(connection)
    terminate: Any = signal.getsignal(signal.SIGTERM)

    def terminate_once(signum: int, frame: "FrameType | None") -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        terminate(signum, frame)

    signal.signal(signal.SIGTERM, terminate_once)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def end_with_parent(channel: int) -> None:
    """Receive SIGTERM when the parent ends: the kernel then closes its end of the channel (fcntl(2), F_SETSIG)."""
    try:
        fcntl.fcntl(channel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(channel, F_SETSIG, signal.SIGTERM)
        fcntl.fcntl(channel, fcntl.F_SETFL, fcntl.fcntl(channel, fcntl.F_GETFL) | os.O_ASYNC)
    except (OSError, AttributeError):  # another system than Linux
        return
    if worker_state.is_readable(channel):  # it ended before O_ASYNC was set
        os.kill(os.getpid(), signal.SIGTERM)
