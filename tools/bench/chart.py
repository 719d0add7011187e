"""The chart of a benchmark: SVG that follows the light or dark colour scheme of its page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tools.bench.measurement import AWSLAMBDARIC, BASELINE, LAYER, Measurement
from tools.bench.report import Part, Report

SHOWN = ("cold-start.next", "cold-start.first-byte", "warm.first-byte.p50")
WIDTH, LEFT, RIGHT = 760, 16, 200
BAR, GAP, TITLE = 18, 6, 34
_STYLE = """\
<style>
svg { color-scheme: light dark; font: 13px system-ui, sans-serif; }
text { fill: #1f2328; } .quiet { fill: #59636e; } .layer { fill: #0969da; } .other { fill: #8c959f; }
.spread { stroke: #1f2328; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .quiet { fill: #9198a1; } .layer { fill: #4493f8; } .other { fill: #656c76; }
  .spread { stroke: #e6edf3; }
}
</style>"""


def svg(report: Report) -> str:
    """Return bars of the medians, each with a line from the lower to the upper quartile."""
    body: list[str] = []
    height = 30
    for measurement, part in _charts(report):
        body += _chart(measurement, part, height)
        height += TITLE + len(_bars(measurement)) * (BAR + GAP) + 10
    other = f"baseline {report.baseline}" if report.baseline else report.awslambdaric
    title = f"python-streaming-runtime {report.version} and {other}, shorter is better"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height + 16}" '
        f'viewBox="0 0 {WIDTH} {height + 16}" role="img" aria-label="{escape(title)}">'
    )
    foot = _text(LEFT, height + 4, f"{report.machine}; medians, and quartiles as lines", "quiet")
    return "\n".join([head, _STYLE, _text(LEFT, 22, title), *body, foot, "</svg>"]) + "\n"


def _charts(report: Report) -> Iterator[tuple[Measurement, Part]]:
    for part in report.parts:
        for measurement in part.measurements:
            if measurement.name in SHOWN and measurement.samples:
                yield measurement, part


def _bars(measurement: Measurement) -> list[str]:
    return [name for name in (LAYER, BASELINE, AWSLAMBDARIC) if name in measurement.samples]


def _chart(measurement: Measurement, part: Part, top: int) -> Iterator[str]:
    yield _text(LEFT, top + 22, f"Python {part.version}, {measurement.title} ({measurement.unit})", "quiet")
    summaries = measurement.summaries
    room = WIDTH - LEFT - RIGHT
    scale = room / max(summaries[name].upper_quartile for name in _bars(measurement))
    for row, name in enumerate(_bars(measurement)):
        y = top + TITLE - 4 + row * (BAR + GAP)
        summary = summaries[name]
        kind = "layer" if name == LAYER else "other"
        width = summary.median * scale
        yield f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        start, end = (LEFT + quartile * scale for quartile in (summary.lower_quartile, summary.upper_quartile))
        middle = y + BAR / 2
        yield f'<line class="spread" x1="{start:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}"/>'
        yield _text(max(LEFT + width, end) + 8, y + BAR - 5, f"{name} {summary.median:.3g} {measurement.unit}")


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text{attribute} x="{x:.1f}" y="{y}">{escape(text)}</text>'
