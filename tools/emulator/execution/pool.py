"""A function and its execution environments: warm ones are used again, and others started, up to a limit.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.deployment.sources import Code, Layout
from tools.emulator.execution.environment import AttachedEnvironment, ExecutionEnvironment
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.sandbox.supervisor_client import Supervisor

if TYPE_CHECKING:
    from tools.emulator.execution.runtime_api import RuntimeApi

# Seconds for an environment whose response is complete to ask for its next invocation, or to end: a client that has
# seen the end of an answer may be back before that. It is worth a longer wait where no other one can be started.
PATIENCE, PATIENCE_AT_LIMIT = 0.05, 1.0


class Throttled(Exception):
    """As many invocations are under way as are allowed at once."""


class Function:
    """A function that can be invoked.

    Args:
        configuration: its `layer` and `task_root` are looked at where there is no `code`.
        concurrency: how many invocations there can be at once.
        supervisor: starts the processes; None: one of its own.
        code: where the layer and the task root come from, and come from anew when they change.
    """

    def __init__(
        self,
        configuration: FunctionConfiguration,
        console: Console,
        concurrency: int = 10,
        supervisor: Supervisor | None = None,
        code: Code | None = None,
    ) -> None:
        self.configuration = configuration
        self._console = console
        self._concurrency = concurrency
        self._supervisor = supervisor or Supervisor()
        self._owns_supervisor = supervisor is None
        self._code = code
        self._numbers = itertools.count(1)
        self._change = threading.Condition()
        self._all: dict[ExecutionEnvironment, Layout | None] = {}
        self._stale: set[ExecutionEnvironment] = set()
        self._warm: list[ExecutionEnvironment] = []
        self._starting = 0
        self._closed = False

    def begin(self, event: bytes, *, wait: bool = False, **details: Any) -> Invocation:
        """Give an invocation to an environment; its response comes through it.

        Args:
            event: the payload.
            wait: until an environment is free, instead of being throttled.
            details: those of `Invocation`.

        Raises Throttled; InvocationFailed where no environment can be started.
        """
        if self._code is not None:
            self._code.look_for_changes()
        invocation = Invocation(event, self.configuration.timeout, **details)
        environment = self._take(wait) or self._start()
        environment.invoke(invocation)
        return invocation

    @contextlib.contextmanager
    def invoke(self, event: bytes, **details: Any) -> Iterator[Invocation]:
        """One invocation, its response to be read within the block, which ends when the environment is done with it."""
        invocation = self.begin(event, **details)
        over = True
        try:
            yield invocation
        except BaseException as error:
            over = isinstance(error, InvocationFailed)  # else there is no use in waiting for the rest
            raise
        finally:
            invocation.discard()
            if over:
                invocation.wait_until_settled()

    def attach(self) -> RuntimeApi:
        """Have one environment alone, whose process somebody else starts; gives the Runtime API for it."""
        environment = AttachedEnvironment(self.configuration, self._console, self._put_back)
        with self._change:
            self._concurrency = 1
            self._all[environment] = None
            self._warm.append(environment)
        return environment.api

    def replace_environments(self) -> None:
        """Let none of the present environments serve another invocation."""
        with self._change:
            idle, self._warm = self._warm, []
            self._stale |= set(self._all)
        for environment in idle:
            environment.kill_soon()

    def close(self) -> None:
        """End every environment."""
        with self._change:
            self._closed = True
            environments = list(self._all)
            self._change.notify_all()
        if self._owns_supervisor:
            self._supervisor.close()
        for environment in environments:
            environment.kill()

    def _take(self, wait: bool) -> ExecutionEnvironment | None:
        """A warm environment; None: the place of a new one is reserved. Raises Throttled."""
        came = time.monotonic()
        with self._change:
            while True:
                if self._closed:
                    raise InvocationFailed.because("Runtime.Unavailable", "the emulator is ending")
                while self._warm:
                    environment = self._warm.pop()
                    if environment.alive:
                        return environment
                below_limit = len(self._all) + self._starting < self._concurrency
                soon = any(environment.about_to_be_free for environment in self._all)
                deadline = came + (PATIENCE if below_limit else PATIENCE_AT_LIMIT) if soon else 0.0
                patience = deadline - time.monotonic()
                if patience <= 0 and below_limit:
                    self._starting += 1
                    return None
                if patience <= 0 and not wait:
                    raise Throttled
                self._change.wait(patience if patience > 0 else PATIENCE_AT_LIMIT)

    def _start(self, again: bool = False) -> ExecutionEnvironment:
        layout = None if self._code is None else self._code.use()
        configuration = self.configuration
        environment = None
        try:
            if layout is not None:
                configuration = configuration._replace(layer=layout.layer, task_root=layout.task_root)
            folder = self._supervisor.make_folder(f"environment-{configuration.name}-{next(self._numbers)}")
            environment = ExecutionEnvironment(
                configuration,
                self._console,
                self._supervisor,
                folder,
                self._put_back,
                self._forget,
                None if again else self._start_again,
            )
        except OSError as error:  # out of descriptors or of disk, for example
            message = f"no execution environment can be made: {error.strerror}"
            raise InvocationFailed.because("Sandbox.Failure", message) from None
        finally:
            with self._change:
                self._starting -= 1
                kept = environment is not None and environment.alive
                if environment is not None and kept:
                    self._all[environment] = layout
                self._change.notify_all()
            if layout is not None and not kept:
                layout.release()
        return environment

    def _start_again(self, invocation: Invocation) -> None:
        """Give an invocation whose environment took too long for its init phase to another environment."""
        with self._change:
            self._starting += 1
        try:
            self._start(again=True).invoke(invocation)
        except InvocationFailed as failure:
            invocation.finish(failure)
            invocation.settle(b"")

    def _put_back(self, environment: ExecutionEnvironment) -> None:
        with self._change:
            stale = environment in self._stale or self._closed
            if not stale:
                self._warm.append(environment)
            self._change.notify_all()
        if stale:
            environment.kill_soon()

    def _forget(self, environment: ExecutionEnvironment) -> None:
        with self._change:
            layout = self._all.pop(environment, None)
            self._stale.discard(environment)
            if environment in self._warm:
                self._warm.remove(environment)
            self._change.notify_all()
        if layout is not None:
            layout.release()
