"""Progress on stderr: a bar on a terminal, lines elsewhere, JSON lines with `--json`."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from tools.common.output import Output, count, duration_text, printable

_BAR_CELLS = 30
SHIFTED = "% of the requests"  # the end of an outcome
QUIET = frozenset({"done", "rolled back"})  # on a terminal, other outcomes stay visible above the bar
BETWEEN_ESTIMATES = 5.0  # seconds, of lines that are not a bar
_MIN_DONE = 5  # functions, before the time that is left can be estimated


class Estimate:
    """The rate of something, and the time that is left.

    Args:
        clock: returns seconds.
    """

    def __init__(self, total: int, clock: Callable[[], float]) -> None:
        self.total = total
        self.done = 0
        self._clock = clock
        self._start = clock()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all are done; None while that is unknown."""
        elapsed = self._clock() - self._start
        if self.done < _MIN_DONE:
            return None
        return elapsed / self.done * (self.total - self.done)

    def __str__(self) -> str:
        """Return the rate and the time that is left, such as `8.0 per second, 35 s left`; empty while unknown."""
        elapsed = self._clock() - self._start
        left = self.seconds_left
        if left is None or elapsed <= 0:
            return ""
        return f"{_rate_text(self.done / elapsed)}, {duration_text(left)} left"


def _rate_text(per_second: float) -> str:
    """Return a rate with a digit above 0: with pauses between waves, it can be a few per hour."""
    for unit, seconds in (("second", 1), ("minute", 60)):
        if per_second * seconds >= 0.1:
            return f"{per_second * seconds:.1f} per {unit}"
    return f"{per_second * 3600:.1f} per hour"


class Progress:
    """Shows the outcome of each function; threads may share it.

    Args:
        total: the number of functions.
        environment: the variables of the process, for `TERM`.
        clock: returns seconds.
    """

    def __init__(
        self,
        total: int,
        output: Output,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output = output
        self._clock = clock
        self._is_bar = not output.as_json and output.err.isatty() and environment.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._estimate = Estimate(total, clock)
        self._next_estimate = clock() + BETWEEN_ESTIMATES

    def restart(self, total: int) -> None:
        """Count from zero again, as for the rollback after a failure."""
        with self._lock:
            self._estimate = Estimate(total, self._clock)

    def __call__(self, name: str, outcome: str) -> None:
        """Show that the function `name` is complete, with `outcome`."""
        with self._lock:
            estimate = self._estimate
            estimate.done = min(estimate.done + 1, estimate.total)
            if self._output.as_json:
                self._note_json(name, outcome)
            elif self._is_bar:
                self._draw(name, outcome)
            else:
                self._note(name, outcome)

    def note(self, text: str) -> None:
        """Show a line, on a terminal above the bar."""
        with self._lock:
            if self._output.as_json:
                self._output.note(json.dumps({"note": text}))
            else:
                self._output.note(f"\r\033[K{text}" if self._is_bar else text)

    def _note_json(self, name: str, outcome: str) -> None:
        estimate = self._estimate
        line = {"function": name, "outcome": outcome, "done": estimate.done, "total": estimate.total}
        left = estimate.seconds_left
        self._output.note(json.dumps(line if left is None else line | {"secondsLeft": round(left)}))

    def _note(self, name: str, outcome: str) -> None:
        self._output.note(f"{self._estimate.done}/{self._estimate.total}  {name}  {outcome}")
        if self._clock() >= self._next_estimate and self._estimate.done < self._estimate.total:
            self._next_estimate = self._clock() + BETWEEN_ESTIMATES
            if text := str(self._estimate):
                self._output.note(text)

    def _draw(self, name: str, outcome: str) -> None:
        estimate = self._estimate
        if outcome not in QUIET and not outcome.endswith(SHIFTED):
            self._output.note(f"\r\033[K{name}  {outcome}")
        filled = _BAR_CELLS * estimate.done // max(estimate.total, 1)
        bar = "█" * filled + "░" * (_BAR_CELLS - filled)
        text = "  ".join(filter(None, [f"{bar} {estimate.done}/{estimate.total}", str(estimate), name]))
        width = shutil.get_terminal_size().columns - 1  # a longer line would scroll
        end = "\n" if estimate.done == estimate.total else ""
        with suppress(OSError):  # a closed terminal does not end a roll-out
            err = self._output.err
            print(f"\r\033[K{printable(text[:width], err)}", end=end, file=err, flush=True)


class Reading:
    """Shows how many functions or aliases are read; threads may share it.

    Args:
        total: their number; up to `NOTE_ABOVE`, nothing is shown.
        thing: one of them, as a noun.
        note: shows a line.
    """

    NOTE_ABOVE = 30

    def __init__(self, total: int, thing: str, note: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._estimate = Estimate(total, clock)
        self._things = count(total, thing, f"{thing}es" if thing.endswith("s") else "")
        self._is_shown = total > self.NOTE_ABOVE
        self._note = note
        self._clock = clock
        self._next = clock() + BETWEEN_ESTIMATES
        self._lock = threading.Lock()
        if self._is_shown:
            note(f"reading {self._things}")

    def __call__(self) -> None:
        """Note that one more is read."""
        with self._lock:
            self._estimate.done += 1
            if not self._is_shown or self._clock() < self._next:
                return
            self._next = self._clock() + BETWEEN_ESTIMATES
            text = f"read {self._estimate.done:,} of {self._things}"
            estimate = str(self._estimate)
        self._note(f"{text}, {estimate}" if estimate else text)
