"""Progress of a roll-out: a bar on a terminal, lines elsewhere, JSON lines with `--json`; all on stderr."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress

from tools.common.output import Output

_BAR_CELLS = 30
SHIFTED = "% of the requests"  # the end of an outcome
QUIET = frozenset({"done", "rolled back"})  # on a terminal, other outcomes stay visible above the bar


class Progress:
    """Shows the outcome of each function; threads may share it.

    Args:
        total: the number of functions.
        environment: the variables of the process, for `TERM`.
    """

    def __init__(self, total: int, output: Output, environment: Mapping[str, str] = os.environ) -> None:
        self._total = total
        self._output = output
        self._is_bar = not output.as_json and output.err.isatty() and environment.get("TERM") != "dumb"
        self._done = 0
        self._lock = threading.Lock()

    def restart(self, total: int) -> None:
        """Count from zero again, as for the rollback after a failure."""
        with self._lock:
            self._total = total
            self._done = 0

    def __call__(self, name: str, outcome: str) -> None:
        """Show that the function `name` is complete, with `outcome`."""
        with self._lock:
            self._done = min(self._done + 1, self._total)
            if self._output.as_json:
                line = {"function": name, "outcome": outcome, "done": self._done, "total": self._total}
                self._output.note(json.dumps(line))
            elif self._is_bar:
                self._draw(name, outcome)
            else:
                self._output.note(f"{self._done}/{self._total}  {name}  {outcome}")

    def note(self, text: str) -> None:
        """Show a line, on a terminal above the bar."""
        with self._lock:
            if self._output.as_json:
                self._output.note(json.dumps({"note": text}))
            else:
                self._output.note(f"\r\033[K{text}" if self._is_bar else text)

    def _draw(self, name: str, outcome: str) -> None:
        err = self._output.err
        if outcome not in QUIET and not outcome.endswith(SHIFTED):
            self._output.note(f"\r\033[K{name}  {outcome}")
        filled = _BAR_CELLS * self._done // max(self._total, 1)
        bar = "█" * filled + "░" * (_BAR_CELLS - filled)
        end = "\n" if self._done == self._total else ""
        with suppress(OSError):  # a closed terminal does not end a roll-out
            print(f"\r\033[K{bar} {self._done}/{self._total}  {name}", end=end, file=err, flush=True)
