"""The report of a benchmark as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tools.bench.machine import Machine
from tools.bench.measurement import LAYER, Measurement, Result, Verdict
from tools.bench.statistics import Summary
from tools.common.output import table

FORMAT = 2  # of bench.json
_HEADERS = ("", LAYER, "compared with", "", "ratio", "95 % interval", "hold", "aim", "")
_NOTES = """\
Medians of all rounds, with quartiles in brackets. In each round all programs run one after the other, each in a new
process. The ratio is the median of the ratios of the pairs, with a distribution-free confidence interval. FAILED: the
whole interval lies beyond the limit. unclear: the ratio does, the interval includes the limit."""


@dataclass(frozen=True)
class Part:
    """The measurements with one interpreter."""

    python: str
    version: str
    measurements: list[Measurement]


@dataclass(frozen=True)
class Report:
    """The whole report.

    Args:
        baseline: the baseline as the user named it; empty without one.
        server: the language of the Runtime API.
        left_out: what could not be measured, and why.
    """

    machine: Machine
    version: str
    baseline: str
    server: str
    awslambdaric: str
    parts: list[Part]
    left_out: list[str]

    @property
    def failures(self) -> list[str]:
        """The titles of the figures whose whole confidence interval lies beyond the limit."""
        return [
            f"{measurement.title}, Python {part.version}"
            for part in self.parts
            for measurement in part.measurements
            if any(result.verdict is Verdict.FAILED for result in measurement.results)
        ]

    def text(self) -> str:
        """Return the table for people."""
        machine = self.machine
        load = " ".join(f"{number:g}" for number in (*machine.load_before[:1], *machine.load_after[:1]))
        other = f"baseline {self.baseline}" if self.baseline else self.awslambdaric
        lines = [
            f"python-streaming-runtime {self.version}, {other}, Runtime API in {self.server}",
            f"{machine}; load before and after: {load}",
        ]
        for part in self.parts:
            rows = [row for measurement in part.measurements for row in _rows(measurement)]
            lines += ["", f"Python {part.version}  {part.python}", "", table(_HEADERS, rows)]
        lines += ["", _NOTES, *(f"Left out: {text}" for text in self.left_out)]
        return "\n".join(lines)

    def json(self) -> str:
        """Return the document for programs, with all samples."""
        document = {
            "format": FORMAT,
            "version": self.version,
            "baseline": self.baseline or None,
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
    programs = {name: {**asdict(summary), "samples": each.samples[name]} for name, summary in each.summaries.items()}
    return {
        "name": each.name,
        "title": each.title,
        "unit": each.unit,
        "programs": programs,
        "comparisons": [_comparison(result) for result in each.results],
    }


def _comparison(result: Result) -> dict[str, Any]:
    limit = result.comparison.limit
    return {
        "with": result.comparison.other,
        "pairs": len(result.numbers),
        "value": result.value,
        "interval": result.interval,
        "hold": limit.hold if limit else None,
        "aim": limit.aim if limit else None,
        "bound": ("minimum" if limit.is_minimum else "maximum") if limit else None,
        "verdict": result.verdict.value if result.verdict else None,
    }


def _rows(measurement: Measurement) -> Iterator[tuple[str, ...]]:
    """Yield a row for each comparison, or one with the layer alone."""
    title, summaries = f"{measurement.title} ({measurement.unit})", measurement.summaries
    ours = _shown(summaries[LAYER])
    if not measurement.results:
        yield title, ours, "-", "", "", "", "", "", ""
    for result in measurement.results:
        other, limit = result.comparison.other, result.comparison.limit
        yield (
            title,
            ours,
            other or "-",
            _shown(summaries[other]) if other else "",
            f"{result.value:.3f}" if other else "",
            "{:.3f} to {:.3f}".format(*result.interval) if other and result.interval else "",
            str(limit or ""),
            f"{limit.aim:g}" if limit and limit.aim is not None else "",
            result.verdict.value if result.verdict else "",
        )
        title, ours = "", ""


def _shown(summary: Summary) -> str:
    if summary.count == 1:
        return _number(summary.median)
    return f"{_number(summary.median)} [{_number(summary.lower_quartile)} {_number(summary.upper_quartile)}]"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
