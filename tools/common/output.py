"""What a person, or a program, sees of a command: tables and results on the standard output, progress beside it."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from tools.common.errors import ToolError

_BAR = 30


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they must be, under their headers."""
    cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def document(content: Any) -> str:
    """One line of JSON."""
    return json.dumps(content)


def count(number: int, thing: str) -> str:
    """Say how many there are of a thing."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def remark(text: str) -> None:
    """Tell a person something on the way, on the standard error."""
    print(text, file=sys.stderr, flush=True)


def confirm(question: str) -> bool:
    """Ask on the standard error, and read the answer; anything but y or yes is a no.

    Raises:
        ToolError: there is nobody to answer.
    """
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline() if sys.stdin else ""
    if not answer:
        remark("")
        raise ToolError("nobody answered, nothing was changed: give --yes to go without asking, --dry-run to look only")
    return answer.strip().lower() in ("y", "yes")


class Progress:
    """Tells what became of each function: as a bar on a terminal, as lines elsewhere, as JSON where asked for.

    Args:
        total: how many functions there are.
        as_json: one object a line.
    """

    def __init__(self, total: int, as_json: bool = False) -> None:
        self._total = total
        self._as_json = as_json
        self._is_bar = not as_json and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, name: str, what: str) -> None:
        """Take note that ``name`` has come to an end, and to ``what``."""
        with self._lock:
            self._done = min(self._done + 1, self._total)
            if self._as_json:
                remark(document({"function": name, "outcome": what, "done": self._done, "total": self._total}))
            elif self._is_bar:
                self._draw(name, what)
            else:
                remark(f"{self._done}/{self._total}  {name}  {what}")

    def _draw(self, name: str, what: str) -> None:
        if what not in ("done", "put back"):  # what went otherwise stays in sight
            print(f"\r\033[K{name}  {what}", file=sys.stderr)
        filled = _BAR * self._done // max(self._total, 1)
        bar = "█" * filled + "░" * (_BAR - filled)
        end = "\n" if self._done == self._total else ""
        print(f"\r\033[K{bar} {self._done}/{self._total}  {name}", end=end, file=sys.stderr, flush=True)
