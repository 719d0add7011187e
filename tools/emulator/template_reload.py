"""A change of the template changes the functions that are served.

Theory of operation. The mapping of the functions is replaced as a whole, so a request finds the old functions or the
new ones. A function whose settings are the same keeps its environments. The others get a new pool; the environments of
the old one end when they have ended their invocations. A template that cannot be used changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from tools.common.errors import ToolError
from tools.emulator.console import Console
from tools.emulator.deployment.settings import FunctionSettings
from tools.emulator.deployment.sources import CHECK_INTERVAL, state_of
from tools.emulator.endpoints.api_call import Functions
from tools.emulator.endpoints.function_url import FunctionUrl
from tools.emulator.options import Template


class TemplateReload:
    """Watches the template.

    Args:
        settings: of the functions that are served.
        make: makes a function. Raises ToolError.
    """

    def __init__(
        self,
        template: Template,
        settings: dict[str, FunctionSettings],
        functions: Functions,
        make: Callable[[str, FunctionSettings], FunctionUrl],
        console: Console,
    ) -> None:
        self._template = template
        self._settings = settings
        self._functions = functions
        self._make = make
        self._console = console
        self._state = state_of(str(template.path))

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(CHECK_INTERVAL)
            state = state_of(str(self._template.path))
            if state is not None and state != self._state:  # None: an editor is replacing the file
                self._state = state
                self._read()

    def _read(self) -> None:
        made: list[FunctionUrl] = []
        try:
            settings, notes = self._template.read()
            urls = {}
            for name, new in settings.items():
                if self._settings.get(name) == new:
                    urls[name] = self._functions.urls[name]
                else:
                    urls[name] = self._make(name, new)
                    made.append(urls[name])
        except ToolError as error:
            for url in made:
                url.pool.discard()
            return self._console.error(f"{error}; the previous functions stay in use")
        replaced = [url for name, url in self._functions.urls.items() if urls.get(name) is not url]
        changes = list(differences(self._settings, settings))
        self._functions.urls, self._settings = urls, settings
        for url in replaced:
            url.pool.discard()
        for note in [*notes, *changes]:
            self._console.note(note)


def differences(old: dict[str, FunctionSettings], new: dict[str, FunctionSettings]) -> Iterator[str]:
    """Yield a line for each function that the template has added, changed or removed."""
    for name in {**old, **new}:
        if name not in old:
            yield f"{name}: the template has added it"
        elif name not in new:
            yield f"{name}: the template has removed it"
        elif old[name] != new[name]:
            yield f"{name}: the template has changed it; the next request uses the change"
