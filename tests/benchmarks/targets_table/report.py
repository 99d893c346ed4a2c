"""The outcome of all rows as a table for a terminal, as JSON, and as a page of its own. Every text of it is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bus.bench.report import charts
from bus.bench.report.charts import Line, Point
from bus.bench.report.style import COLOURS, CSS
from targets_table.figure import Outcome

COLUMNS = ("row", "figure", "median (least to most)", "by processor", "target", "")
METHOD = (
    "Alternating runs on one machine, 256 B, every message signed, encrypted end to end and verified. A ratio is of one pair: a "
    "run of tpmbus and one of the other right after it, or before; the median of the pairs counts. “By processor” is the same "
    "ratio of processor time, which a busy machine changes least."
)


def lines(outcomes: Iterable[Outcome]) -> Iterator[tuple[str, ...]]:
    for outcome in outcomes:
        for figure in outcome.figures:
            yield outcome.name, figure.what, figure.shown, figure.shown_by_processor, figure.target_text, figure.verdict
        if outcome.failure is not None:
            yield outcome.name, outcome.failure, "", "", "", "FAILED"


def as_text(outcomes: Sequence[Outcome]) -> str:
    shown = [COLUMNS, *lines(outcomes)]
    widths = [min(max(len(line[place]) for line in shown), 64) for place in range(len(COLUMNS))]
    table = ("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in shown)
    met = sum(figure.verdict == "met" for outcome in outcomes for figure in outcome.figures)
    count = sum(len(outcome.figures) for outcome in outcomes)
    failed = ", ".join(outcome.name for outcome in outcomes if outcome.failure is not None)
    return "\n".join([*table, "", f"{met} of {count} met" + (f"; not whole: {failed}" if failed else "")])


def document(outcomes: Sequence[Outcome], machine: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    rows = [outcome.document() for outcome in outcomes]
    return {"format": "tpmbus targets", "version": 1, "machine": dict(machine), "settings": dict(settings), "rows": rows}


def as_html(outcomes: Sequence[Outcome], machine: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    facts = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in {**settings, **machine}.items())
    parts = [
        "<h1>What tpmbus must reach</h1>",
        f'<p class="soft">{escape(METHOD)}</p>',
        *(part for outcome in outcomes for part in _section(outcome)),
        f"<h2>Where it was measured</h2><dl>{facts}</dl>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>tpmbus: targets</title>'
        f"<style>{CSS}{COLOURS}</style>"
    )
    body = "".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{body}</main></body></html>\n'


def _section(outcome: Outcome) -> Iterator[str]:
    yield f'<h2>{escape(outcome.title)}</h2><p class="soft">{escape(outcome.name)}, {outcome.seconds:.0f} s: {outcome.verdict}</p>'
    if outcome.failure is not None:
        yield f"<p><b>{escape(outcome.failure)}</b></p>"
    if outcome.figures:
        head = "".join(f"<th>{escape(column)}</th>" for column in (*COLUMNS[1:], "each"))
        body = "".join(_row(outcome))
        yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    for curve in outcome.curves:
        drawn = [
            Line(name, [Point(point[0], point[place]) for point in curve.points], place - 1)
            for place, name in ((1, "p50"), (2, "p99"))
        ]
        plot = charts.lines(drawn, x="messages a second", y="latency, ms")
        yield f"<figure><figcaption><b>{escape(curve.title)}</b></figcaption>{plot}{charts.key(['p50', 'p99'])}</figure>"
    yield from (f'<p class="soft">{escape(note)}</p>' for note in outcome.notes)


def _row(outcome: Outcome) -> Iterator[str]:
    for cells, figure in zip(lines([outcome]), outcome.figures, strict=False):
        each = ", ".join(f"{value:,.3g}" for value in figure.values)
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:-1])
        bad = "" if figure.verdict == "met" else ' class="bad"'
        yield f"<tr>{shown}<td{bad}>{escape(figure.verdict)}</td><td>{escape(each)}</td></tr>"


def write(path: Path, text: str) -> None:
    """Whole, or not at all: whoever is interrupted keeps what there was."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text)
    beside.replace(path)


def as_json(outcomes: Sequence[Outcome], machine: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    return json.dumps(document(outcomes, machine, settings), indent=2) + "\n"
