"""What all execution environments have in common: one invocation at a time, with START, END and REPORT lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.function_log import FunctionLog
from tools.emulator.execution.invocation import Invocation
from tools.emulator.report_line import Report, start_fields

if TYPE_CHECKING:
    from tools.emulator.execution.runtime_api import RuntimeApiServer


class Environment:
    """An environment. `environment` has the theory of operation.

    Args:
        on_idle: called when the environment can serve another invocation.

    Attributes:
        has_tenant: from its first invocation on, it serves the tenant of that one only.
    """

    has_tenant = True
    _api: RuntimeApiServer  # made by the subclasses

    def __init__(
        self, function: FunctionConfiguration, console: Console, on_idle: Callable[[Environment], None]
    ) -> None:
        self._function = function
        self._console = console
        self._on_idle = on_idle
        self._log = FunctionLog(self._write_output, function.with_source_paths)
        self._log_source: str | None = None  # the request ID of the invocation that prints
        self._lock = threading.Lock()
        self._invocation: Invocation | None = None
        self._tenant_id: str | None = None  # of its first invocation
        self._has_served = False
        self._retired = False  # it serves no further invocation
        self._between = False  # it has ended an invocation, and was assigned no other one yet

    @property
    def alive(self) -> bool:
        return True

    @property
    def has_extensions(self) -> bool:
        """Whether its end takes time, because extensions are registered."""
        return self._api.extensions is not None and bool(self._api.extensions.registered)

    @property
    def usable(self) -> bool:
        """Whether it can serve another invocation."""
        return self.alive and not self._retired

    @property
    def about_to_be_free(self) -> bool:
        """Whether its response is complete, or its process is at its end: its place in the pool is free soon."""
        invocation = self._invocation
        return self._between or not self.usable or (invocation is not None and invocation.finished)

    def serves(self, tenant_id: str | None) -> bool:
        """Whether it may serve an invocation of the tenant; None: one without a tenant."""
        return not (self.has_tenant and self._has_served) or self._tenant_id == tenant_id

    def invoke(self, invocation: Invocation) -> None:
        """Assign an invocation; the response comes through it."""
        with self._lock:
            self._tenant_id, self._has_served = invocation.tenant_id, True
            self._invocation = invocation
            self._between = False
        self._api.hand_over(invocation)

    def retire(self) -> None:
        """End the environment without waiting for it."""

    def kill(self) -> None:
        """End the environment, and wait for it."""

    def wait_until_gone(self, timeout: float) -> None:
        """Wait a number of seconds for the end that `retire` has begun."""

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
        fields = start_fields(invocation)
        self._log.add_to_tail(f"{' '.join(fields)}\n")
        self._console.start(fields, self, invocation.request_id)
        self._log_source = invocation.request_id

    def _write_output(self, data: bytes) -> None:
        self._console.output(data, self, self._log_source)

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
        self._log_source = None
        self._console.report(report, self)
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
