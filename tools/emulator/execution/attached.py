"""An environment whose process a developer starts, under a debugger for example (`--api-only`)."""

from __future__ import annotations

from collections.abc import Callable

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.base_environment import Environment
from tools.emulator.execution.runtime_api import RuntimeApiServer


class AttachedEnvironment(Environment):
    """It has no time limits, because the process can stop at a breakpoint, and it is never killed.

    The process can exit and start again at any time. An invocation waits until there is one.
    """

    has_tenant = False

    def __init__(
        self, function: FunctionConfiguration, console: Console, on_idle: Callable[[Environment], None]
    ) -> None:
        super().__init__(function, console, on_idle)
        self.api = self._api = RuntimeApiServer(function, self, attached=True)
