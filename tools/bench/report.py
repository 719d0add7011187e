"""The table of a benchmark, and its JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from tools.bench.machine import Machine
from tools.bench.samples import AWSLAMBDARIC, C_CLIENT, LAYER, Measurement, Summary

_NOTES = """\
Median of all rounds, in brackets the quartiles; contestants take turns, each round in a process of its own.
The ratio is the layer's to the other's, pair by pair. The C client is the floor: what process, sockets and the
Runtime API of the benchmark cost by themselves."""


@dataclass(frozen=True)
class Part:
    """What was measured with one interpreter."""

    python: str
    version: str
    measurements: list[Measurement]


@dataclass(frozen=True)
class Report:
    machine: Machine
    version: str
    server: str
    awslambdaric: str
    parts: list[Part]
    left_out: list[str]

    def text(self) -> str:
        machine = self.machine
        load = " ".join(f"{number:g}" for number in (*machine.load_before[:1], *machine.load_after[:1]))
        lines = [
            f"python-streaming-runtime {self.version}, {self.awslambdaric}, Runtime API in {self.server}",
            f"{machine}; load before and after: {load}",
        ]
        for part in self.parts:
            lines += ["", f"Python {part.version}  {part.python}", "", *_table(part.measurements)]
        lines += ["", _NOTES, *(f"Left out: {what}" for what in self.left_out)]
        return "\n".join(lines)

    def json(self) -> str:
        document = {
            "format": 1,
            "version": self.version,
            "server": self.server,
            "awslambdaric": self.awslambdaric,
            "machine": asdict(self.machine),
            "interpreters": [_part(part) for part in self.parts],
            "left_out": self.left_out,
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _part(part: Part) -> dict[str, Any]:
    measurements = [_measurement(each) for each in part.measurements]
    return {"python": part.python, "version": part.version, "measurements": measurements}


def _measurement(each: Measurement) -> dict[str, Any]:
    ratio = None
    if each.ratios:
        ratio = {"against": each.against, **asdict(Summary.of(each.ratios)), "samples": each.ratios}
    target = None
    if each.target is not None:
        bound = "at_least" if each.target.at_least else "at_most"
        target = {bound: each.target.limit, "value": each.judged, "met": each.is_met}
    return {
        "name": each.name,
        "what": each.what,
        "unit": each.unit,
        "contestants": {
            name: {**asdict(summary), "samples": each.samples[name]} for name, summary in each.summaries.items()
        },
        "ratio": ratio,
        "target": target,
    }


def _table(measurements: list[Measurement]) -> list[str]:
    rows = [["", LAYER, AWSLAMBDARIC, C_CLIENT, "ratio", "target", ""]]
    rows += [_row(each) for each in measurements]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(each: Measurement) -> list[str]:
    cells = [f"{each.what} ({each.unit})"]
    for contestant in (LAYER, AWSLAMBDARIC, C_CLIENT):
        summary = each.summaries.get(contestant)
        cells.append("-" if summary is None else _shown(summary))
    ratio = f"{each.judged:.2f} to {each.against}" if each.ratios and each.judged is not None else "-"
    verdict = {None: "", True: "met", False: "MISSED"}[each.is_met]
    return [*cells, ratio, str(each.target or ""), verdict]


def _shown(summary: Summary) -> str:
    if summary.count == 1:
        return _number(summary.median)
    return f"{_number(summary.median)} [{_number(summary.lower_quartile)} {_number(summary.upper_quartile)}]"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
