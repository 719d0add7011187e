"""Summaries in Markdown, for the pages of a CI system."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.common.errors import ToolError
from tools.common.paths import shown
from tools.fleet.rollout import rendering
from tools.fleet.rollout.history import History


def checked_summary(path: Path | None) -> Path | None:
    """Return `path`; raises `ToolError` if no file can be there. A roll-out checks it before it changes anything."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        reason = "it is a folder" if path.is_dir() else f"the folder {shown(path.parent)} does not exist"
        raise ToolError(f"the summary {shown(path)} cannot be written: {reason}")
    return path


def append_summary(path: Path, title: str, headers: Sequence[str], rows: Iterable[Sequence[str]], closing: str) -> None:
    """Append a heading, a table and a closing line to the file at `path`; raises `ToolError` if it cannot be written.

    It is appended, because several commands of one CI job write to the same file.
    """
    table = [headers, ["---"] * len(headers), *rows]
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in table]
    text = "\n".join([f"### {title}", "", *(lines if len(lines) > 2 else ()), "", closing, "", ""])
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ToolError(f"the summary {shown(path)} cannot be written: {error.strerror}") from None


def append_results(path: Path, history: History) -> None:
    """Append the outcome of each function to a summary."""
    rows = [
        (history.label(record), rendering.outcome(history, record), record.reason)
        for record in history.records.values()
    ]
    *_, closing = rendering.result_lines(history)
    title = f"Roll-out: {history.outcome or 'unfinished'}"
    append_summary(path, title, ("function", "outcome", "reason"), rows, closing)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
