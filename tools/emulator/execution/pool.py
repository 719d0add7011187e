"""The execution environments of one function: they are reused, and new ones are started up to a limit.

Theory of operation. `_change` protects the lists of environments. It is held for lookups only; starting and killing
processes happens outside of it, so that a slow start does not stop the other callers. Four situations need care:

* *An environment is almost free.* A client that has read the last byte of a response can send its next request before
  the runtime has called `next`. A new environment for it would be a cold start that the service would not make. So a
  caller waits a moment for an environment that is about to be free, and longer at the concurrency limit, where the
  alternative is a refusal.
* *An environment belongs to another tenant.* Tenants do not share environments. At the concurrency limit, an idle
  environment of another tenant is replaced: on the service, idle environments do not count.
* *A place is reserved before the process exists.* `_starting` counts these places, so that concurrent callers cannot
  exceed the limit together.
* *The code changes while an environment starts.* It is not in the list yet when `retire_environments` marks those that
  have old code, but it can have read old files. So each new environment is compared with the current layout once it is
  in the list: whichever of the two comes second sees the other.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html and tenant-isolation.html
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.deployment.sources import FunctionCode, Layout
from tools.emulator.execution.base_environment import Environment
from tools.emulator.execution.deadlines import Deadlines
from tools.emulator.execution.environment import INIT_TIMEOUT, RESTORE_TIMEOUT, ExecutionEnvironment
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.sandbox.supervisor_client import ENDING, Supervisor

if TYPE_CHECKING:
    from tools.emulator.execution.runtime_api import RuntimeApiServer

# Seconds to wait for an environment that is about to be free.
FREE_TIMEOUT, FREE_TIMEOUT_AT_LIMIT = 0.05, 1.0

numbers = itertools.count(1)  # of the folders of environments, in all pools


class Throttled(Exception):
    """The function has reached its concurrency limit."""


class EnvironmentPool:
    """Invokes a function.

    Args:
        configuration: its `layer` and `task_root` apply only without `code`.
        concurrency: the largest number of concurrent invocations.
        code: the layers and the function's code, which can change; None: they never change.
        init_timeout: seconds for an init phase.
        restore_timeout: seconds from a restore to the first invocation, with SnapStart.
    """

    def __init__(
        self,
        configuration: FunctionConfiguration,
        console: Console,
        supervisor: Supervisor,
        concurrency: int = 10,
        code: FunctionCode | None = None,
        init_timeout: float = INIT_TIMEOUT,
        restore_timeout: float = RESTORE_TIMEOUT,
    ) -> None:
        self.configuration = configuration
        self._console = console
        self._supervisor = supervisor
        self._concurrency = concurrency
        self._code = code
        self._init_timeout = init_timeout
        self._restore_timeout = restore_timeout
        self._deadlines = Deadlines(lambda error: console.error(f"a time limit cannot be enforced: {error!r}"))
        self._change = threading.Condition()
        self._all: dict[Environment, Layout | None] = {}
        self._stale: set[Environment] = set()  # they have code from before a change
        self._idle: list[Environment] = []
        self._starting = 0
        self._preparing = False  # an environment is being started that no caller waits for
        self._closed = False
        self._discarded = False

    @property
    def sources(self) -> tuple[Sequence[Path], Path]:
        """The layers in their order, and the function; folders or zips."""
        if self._code is None:
            return [self.configuration.layer], self.configuration.task_root
        return self._code.sources

    def start_invocation(self, event: bytes, *, wait: bool = False, **details: Any) -> Invocation:
        """Assign an event to an environment. The response comes through the invocation that is returned.

        Args:
            event: the payload.
            wait: whether to wait for a free environment at the concurrency limit.
            details: keyword arguments of `Invocation`.

        Raises Throttled; InvocationFailed if no environment can be started, or all slots of a managed instance are
        busy.
        """
        if self._code is not None:
            self._code.check_for_changes()
        invocation = Invocation(event, self.configuration.timeout, **details)
        environment = self._take_idle(invocation.tenant_id, wait) or self._start()
        environment.invoke(invocation)
        return invocation

    @contextlib.contextmanager
    def invoke(self, event: bytes, **details: Any) -> Iterator[Invocation]:
        """An invocation whose response is read in the block. The exit waits until the environment is done with it."""
        invocation = self.start_invocation(event, **details)
        over = True
        try:
            yield invocation
        except BaseException as error:
            over = isinstance(error, InvocationFailed)  # otherwise the function may run on for a long time
            raise
        finally:
            invocation.discard()
            if over:
                invocation.wait_until_closed()

    def attach(self) -> RuntimeApiServer:
        """Use a single environment, whose process a developer starts. Returns its Runtime API."""
        from tools.emulator.execution.attached import AttachedEnvironment  # only --api-only needs it

        environment = AttachedEnvironment(self.configuration, self._console, self._return)
        with self._change:
            self._concurrency = 1
            self._all[environment] = None
            self._idle.append(environment)
        return environment.api

    def prepare(self) -> None:
        """Start an environment before the first request. An error is logged; the first request will get it too."""
        with self._change:
            self._starting += 1
            self._preparing = True  # a request at the concurrency limit waits for it
        try:
            environment = self._start()
        except InvocationFailed as failure:
            self._console.failure(failure.document)
        else:
            self._return(environment)
        finally:
            with self._change:
                self._preparing = False
                self._change.notify_all()

    def retire_environments(self) -> None:
        """Retire all environments: none of them serves another invocation."""
        with self._change:
            idle, self._idle = self._idle, []
            self._stale |= set(self._all)
        for environment in idle:
            environment.retire()

    def discard(self) -> None:
        """Another pool serves the function now, or none does: each environment ends after its invocation."""
        with self._change:
            self._discarded = True
        if self._code is not None:
            self._code.stop_watching()
        self.retire_environments()

    def begin_shutdown(self) -> list[Environment]:
        """Start no further environment, and begin the end of those with extensions. Returns these.

        The end of the others takes no time: they are killed with the supervisor.
        """
        with self._change:
            self._closed = True
            ending = [environment for environment in self._all if environment.has_extensions]
            self._change.notify_all()
        for environment in ending:
            environment.retire()
        return ending

    def close(self) -> None:
        """End every environment."""
        with self._change:
            self._closed = True
            environments = list(self._all)
            self._change.notify_all()
        for environment in environments:
            environment.kill()

    def _take_idle(self, tenant_id: str | None, wait: bool) -> Environment | None:
        """Return an idle environment, or None after reserving the place of a new one. Raises Throttled."""
        arrived = time.monotonic()
        with self._change:
            while True:
                if self._closed:
                    raise InvocationFailed.of_type("Runtime.Unavailable", ENDING)
                self._idle = [environment for environment in self._idle if environment.usable]
                environment = self._pop_idle(tenant_id)
                if environment is not None:
                    return environment
                below_limit = self._is_below_limit()
                if self._idle and not below_limit:
                    self._starting += 1
                    other = self._idle.pop(0)
                    break
                remaining = self._time_to_wait(arrived, FREE_TIMEOUT if below_limit else FREE_TIMEOUT_AT_LIMIT)
                if remaining <= 0 and below_limit:
                    self._starting += 1
                    return None
                if remaining <= 0 and not wait:
                    self._refuse()
                self._change.wait(remaining if remaining > 0 else FREE_TIMEOUT_AT_LIMIT)
        other.kill()
        return None

    def _pop_idle(self, tenant_id: str | None) -> Environment | None:
        """Take the environment that was used last from the idle ones that serve the tenant."""
        for index in reversed(range(len(self._idle))):
            if self._idle[index].serves(tenant_id):
                return self._idle.pop(index)
        return None

    def _time_to_wait(self, arrived: float, timeout: float) -> float:
        """Seconds to wait for an environment that is about to be free; none is if they are not positive."""
        soon = self._preparing or any(environment.about_to_be_free for environment in self._all)
        soon = soon or bool(self._starting and self.configuration.max_concurrency)
        return arrived + timeout - time.monotonic() if soon else 0

    def _is_below_limit(self) -> bool:
        """Whether another environment may be started. Instead of a managed instance that is retired, one may."""
        if self.configuration.max_concurrency:
            return len(self._all) - len(self._stale) + self._starting < 1
        return len(self._all) + self._starting < self._concurrency

    def _refuse(self) -> NoReturn:
        slots = self.configuration.max_concurrency
        if slots:
            raise InvocationFailed.of_type("Runtime.Unavailable", f"all {slots} slots of the environment are busy")
        raise Throttled

    def _start(self, repeats_init: bool = False) -> Environment:
        """Start an environment in the place that was reserved."""
        layout = self._code.use() if self._code is not None else None
        environment: Environment | None = None
        try:
            environment = self._make_environment(layout, repeats_init)
        except (OSError, RuntimeError) as error:  # out of descriptors, disk space or threads, for example
            message = f"cannot create an execution environment: {getattr(error, 'strerror', None) or error}"
            raise InvocationFailed.of_type("Sandbox.Failure", message) from None
        finally:
            self._use_reserved_place(environment, layout)
        return environment

    def _make_environment(self, layout: Layout | None, repeats_init: bool) -> Environment:
        configuration = self.configuration
        if layout is not None:
            configuration = configuration._replace(
                layer=layout.layer, task_root=layout.task_root, source_root=layout.source_root
            )
        make: Callable[..., Environment] = ExecutionEnvironment
        if configuration.snapstart:
            from tools.emulator.execution.snapstart import SnapStartEnvironment  # only --snapstart needs it

            make = functools.partial(SnapStartEnvironment, restore_timeout=self._restore_timeout)
        elif configuration.max_concurrency:
            from tools.emulator.execution.managed_instance import ManagedInstance  # only --max-concurrency needs it

            make = ManagedInstance
        return make(
            configuration,
            self._console,
            self._supervisor,
            self._deadlines,
            self._supervisor.make_folder(f"environment-{configuration.name}-{next(numbers)}"),
            self._return,
            self._remove,
            None if repeats_init else self._repeat_init,
            self._init_timeout,
        )

    def _use_reserved_place(self, environment: Environment | None, layout: Layout | None) -> None:
        with self._change:
            self._starting -= 1
            alive = environment is not None and environment.alive
            if environment is not None and alive:
                self._all[environment] = layout
                if self._discarded or (self._code is not None and layout is not self._code.layout):
                    self._stale.add(environment)
                else:  # one place is for the caller
                    self._idle += [environment] * (self.configuration.max_concurrency - 1)
            self._change.notify_all()
        if layout is not None and not alive:
            layout.release()

    def _repeat_init(self, invocation: Invocation) -> None:
        """Give an invocation whose environment has reached the limit of the init phase to another environment."""
        with self._change:
            self._starting += 1
        try:
            self._start(repeats_init=True).invoke(invocation)
        except InvocationFailed as failure:
            invocation.finish(failure)
            invocation.close(b"")

    def _return(self, environment: Environment) -> None:
        with self._change:
            retire = environment in self._stale or self._closed
            if not retire:
                self._idle.append(environment)
            self._change.notify_all()
        if retire:
            environment.retire()

    def _remove(self, environment: Environment) -> None:
        with self._change:
            layout = self._all.pop(environment, None)
            self._stale.discard(environment)
            self._idle = [other for other in self._idle if other is not environment]
            self._change.notify_all()
        if layout is not None:
            layout.release()
