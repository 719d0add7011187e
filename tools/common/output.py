"""What a command prints: results on stdout, as text or as one JSON object; notes and questions on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TextIO

from tools.common.errors import ToolError
from tools.common.urls import redact


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return lines with `headers` above aligned columns."""
    cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def count(number: int, thing: str, things: str = "") -> str:
    """Return the number and the noun in singular or plural, such as `1 function` or `1,200 functions`.

    Args:
        things: the plural, if it is not the singular with an s.
    """
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def shortened(names: Sequence[str], limit: int) -> str:
    """Return the first `limit` names, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"


def escaped(text: str) -> str:
    """Return `text` without characters that move the cursor of a terminal or change the order of others."""
    return "".join(
        character if character.isprintable() or character == "\t" else character.encode("unicode_escape").decode()
        for character in text
    )


def duration_text(seconds: float) -> str:
    """Return a duration such as `1 h 30 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{value} {unit}" for value, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if value]
    return " ".join(parts) or "0 s"


TIMES = "\N{MULTIPLICATION SIGN}"  # not the letter

_ASCII = str.maketrans({"→": "->", TIMES: "x", "█": "#", "░": ".", "…": "..."})


def printable(text: str, stream: TextIO) -> str:
    """Return `text` for a terminal without Unicode, where the encoding of `stream` does not have a character."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
        return text
    except UnicodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)


def discard(stream: TextIO) -> None:
    """Write the rest of a stream nowhere: Python flushes it once more at exit, and would print an error then."""
    with suppress(OSError, ValueError):  # not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print(text: str, stream: TextIO) -> None:
    """Print a line. Nothing depends on it, so a reader that has gone, or a closed terminal, does not end the work."""
    try:
        print(printable(text, stream), file=stream, flush=True)
    except OSError:
        discard(stream)


class Output:
    """The streams of one command.

    Args:
        as_json: print the result as one JSON object, in one line.
        out, err, input: the streams (default: those of the process, at the time of each use).

    Attributes:
        outlives_reader: the work counts and not its output, so a reader of stdout that has gone is no error.
    """

    def __init__(
        self,
        as_json: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
        input: TextIO | None = None,
    ) -> None:
        self.as_json = as_json
        self._out = out
        self._err = err
        self._input = input
        self.outlives_reader = False
        self._has_result = False

    @property
    def err(self) -> TextIO:
        """The stream for notes and progress."""
        return self._err or sys.stderr

    def result(self, document: Callable[[], Any], lines: Callable[[], Iterable[str]]) -> None:
        """Print the result of the command: the JSON document, or the lines of text."""
        self._has_result = True
        text = json.dumps(document()) if self.as_json else "\n".join(lines())
        try:
            stream = self._out or sys.stdout
            print(printable(text, stream), file=stream, flush=True)
        except BrokenPipeError:
            if not self.outlives_reader:
                raise
            discard(self._out or sys.stdout)

    def error(self, command: str, text: str) -> None:
        """Print an error as the JSON document, unless there is one already; nothing without `--json`."""
        if self.as_json and not self._has_result:
            _print(json.dumps({"command": command, "error": text}), self._out or sys.stdout)

    def show(self, lines: Iterable[str]) -> None:
        """Print text before the result: on stdout, or on stderr if stdout is for JSON."""
        _print("\n".join(lines), self.err if self.as_json else self._out or sys.stdout)

    def note(self, text: str) -> None:
        """Print a line on stderr."""
        _print(redact(text), self.err)

    def confirm(self, question: str) -> bool:
        """Ask on stderr and read the reply; anything but y or yes means no.

        Raises:
            ToolError: stdin is at its end.
        """
        reply = self._ask(f"{question} [y/N]", "use --yes to skip the prompt or --dry-run to preview")
        return reply in ("y", "yes")

    def choose(self, question: str, choices: Sequence[str], hint: str) -> str:
        """Ask on stderr for one of `choices`, which a reply may abbreviate.

        Args:
            hint: the next step if there is no reply.

        Raises:
            ToolError: stdin is at its end, or the reply is another one.
        """
        reply = self._ask(f"{question} [{'/'.join(choices)}]", hint)
        found = [choice for choice in choices if reply and choice.startswith(reply)]
        if len(found) != 1:
            raise ToolError(f"the answer must be {' or '.join(choices)}, not {reply!r}; nothing changed; {hint}")
        return found[0]

    def _ask(self, question: str, hint: str) -> str:
        print(f"{question} ", end="", file=self.err, flush=True)
        stream = self._input or sys.stdin
        reply = stream.readline() if stream else ""
        if not reply:
            self.note("")
            raise ToolError(f"no answer on stdin, nothing changed; {hint}")
        return reply.strip().lower()
