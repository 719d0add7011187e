"""The table of docs/performance.md, from one or several `bench.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tools.bench.report import FORMAT
from tools.common.errors import ToolError
from tools.common.paths import read, shown

_DASH = "\N{EN DASH}"
_KEYS = ("title", "unit", "with", "hold", "aim", "bound")


def markdown_table(paths: Iterable[Path]) -> str:
    """Return a Markdown table of all figures that are compared with something: a column for each interpreter.

    Raises:
        ToolError: a file cannot be read, or is not a `bench.json` of this version.
    """
    interpreters = [each for path in paths for each in _interpreters(path)]
    versions = list(dict.fromkeys(each["version"] for each in interpreters))
    cells: dict[tuple[Any, ...], dict[str, str]] = {}
    for interpreter in interpreters:
        for row, cell in _cells(interpreter):
            cells.setdefault(row, {})[interpreter["version"]] = cell
    lines = [["measured", "compared with", "hold", "aim", *versions], ["---"] * (4 + len(versions))]
    lines += [[*_heading(row), *(columns.get(each, _DASH) for each in versions)] for row, columns in cells.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interpreters(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(read(path))
        if document["format"] != FORMAT:
            raise ToolError(f"{shown(path)} has format {document['format']}: run the benchmark again")
        interpreters: list[dict[str, Any]] = document["interpreters"]
    except (ValueError, KeyError, TypeError) as error:
        raise ToolError(f"{shown(path)} is not a bench.json: run the benchmark again") from error
    return interpreters


def _cells(interpreter: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
    for measurement in interpreter["measurements"]:
        for comparison in measurement["comparisons"]:
            both = {**measurement, **comparison}
            yield tuple(both[key] for key in _KEYS), _cell(both)


def _cell(figure: dict[str, Any]) -> str:
    if figure["with"] is None:
        return f"{figure['value']:.2f} {figure['unit']}"
    interval = " ({:.3f} to {:.3f})".format(*figure["interval"]) if figure["interval"] else ""
    return f"{figure['value']:.3f}{interval}{' FAILED' if figure['verdict'] == 'FAILED' else ''}"


def _heading(row: tuple[Any, ...]) -> list[str]:
    title, _, other, hold, aim, bound = row
    sign = "≥" if bound == "minimum" else "≤"
    return [title, other or _DASH, f"{sign} {hold:g}" if hold else _DASH, f"{aim:g}" if aim else _DASH]
