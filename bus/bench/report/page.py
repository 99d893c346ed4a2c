"""The report: one HTML file that needs nothing from elsewhere. What is in it comes from the result, and every text is escaped."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from bus.bench.report import charts
from bus.bench.report import done as told
from bus.bench.report.charts import Line, Point
from bus.bench.report.style import COLOURS, CSS
from bus.bench.report.table import COLUMNS, number, rows
from bus.bench.result import Result, Row

METHOD: Final = (
    "Messages leave by the clock and wait for nobody (an open loop), and a latency counts from when a message was due: a stall "
    "counts for all that were due in it. The warm-up is thrown away. A row is the median of its runs; whiskers and ± are how far "
    "the runs were apart. Lost, doubled and reordered messages are counted, always. “In time” is what had come when the window "
    "was over, and a moment for what was on its way. Above 100,000 a second one message in 64 is stamped."
)
_PERCENTILES: Final = (("p50", 0), ("p99", 1), ("p999", 2))
_SMALL_HEIGHT: Final = 200


def as_html(result: Result) -> str:
    found = result.rows()
    parts = [
        f"<h1>{escape(result.name)}</h1>",
        f'<p class="soft">{escape(str(result.scenario.get("about", "")))} · {escape(result.began)}</p>',
        *_tiles(result, found),
        *(f"<p>{escape(note)}</p>" for note in result.notes),
        *(_section("Throughput against latency", "", _throughput(result)) if found else ()),
        *_over_time(found),
        *_costs(sorted(result.by_rate(), key=lambda row: row.rate)),
        *_section("Figures", "", _table(COLUMNS, rows(result), bad=range(10, 13))),
        *_apart(found),
        *_proofs(found),
        *_processes(found),
        *_section("How it was measured", METHOD, _facts({**_words(result.scenario), **result.machine})),
    ]
    title = f"tpmbus bench: {escape(result.name)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{CSS}{COLOURS}</style></head>\n<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _section(title: str, text: str, *content: str) -> Iterator[str]:
    yield f"<h2>{escape(title)}</h2>"
    if text:
        yield f'<p class="soft">{escape(text)}</p>'
    yield from content


# ---- the first glance ------------------------------------------------------------------------------------------------------------


def _tiles(result: Result, found: Sequence[Row]) -> Iterator[str]:
    steps = [step for run in result.runs for step in run.steps]
    kept = [row for row in found if all(step.kept for step in row.steps)]
    best = max(kept, key=lambda row: row.rate, default=None)
    tiles: list[tuple[str, str, str]] = []
    if best is not None:
        word = "highest rate that was kept" if result.is_search else "a second, and in time"
        tiles += [
            (number(best.rate), word, ""),
            (f"{number(best.spread(lambda step: step.latency.p50).median)} ms", "p50 at that rate", ""),
            (f"{number(best.spread(lambda step: step.latency.p99).median)} ms", "p99 at that rate", ""),
            (f"{number(best.spread(lambda step: step.cpu_of_message).median)} us", "processor time a message", ""),
        ]
    damaged = sum(step.lost + step.duplicated + step.reordered for step in steps)
    copies = sum(step.delivered for step in steps)
    tiles.append((f"{damaged:,}", f"lost, doubled or reordered, of {copies:,}", "bad" if damaged else "good"))
    inner = "".join(
        f'<div class="tile {kind}"><b>{escape(figure)}</b><span>{escape(what)}</span></div>' for figure, what, kind in tiles
    )
    yield f'<div class="tiles">{inner}</div>'


# ---- plots -----------------------------------------------------------------------------------------------------------------------


def _throughput(result: Result) -> str:
    """Over what was asked for: at a rate that is not kept, less is delivered, and a curve over that would turn back."""
    tried = sorted(result.by_rate(), key=lambda row: row.rate)
    drawn = [Line(_shown(name), [_point(row, name) for row in tried], colour) for name, colour in _PERCENTILES]

    def plot(width: int) -> str:
        height = charts.HEIGHT if width == charts.WIDTH else 260
        return charts.lines(drawn, x="asked for, a second", y="latency, ms", width=width, height=height)

    return f"<figure>{charts.in_both_widths(plot)}{charts.key([line.name for line in drawn])}</figure>"


def _point(row: Row, name: str) -> Point:
    up = row.spread(lambda step: float(getattr(step.latency, name)))
    return Point(row.rate, up.median, up.least, up.most)


def _over_time(found: Sequence[Row]) -> Iterator[str]:
    figures = []
    for row in found:
        drawn = [
            Line(_shown(name), [Point(moment.at, getattr(moment, name)) for moment in step.over_time], colour, is_thin=True)
            for step in row.steps
            for name, colour in (("p50", 0), ("p99", 1), ("max", 6))
            if step.over_time
        ]
        if drawn:
            plot = charts.lines(drawn, x="seconds", y="ms", height=_SMALL_HEIGHT, width=charts.NARROW)
            figures.append(f"<figure><figcaption><b>{number(row.rate)}</b> a second</figcaption>{plot}</figure>")
    if figures:
        text = (
            "Each piece of the window by itself, by when its messages were due, a line a run: a stall is a peak that falls "
            "off with a slope."
        )
        yield from _section("Latency over time", text, f'<div class="grid">{"".join(figures)}</div>')
        yield charts.key(["p50", "p99", "max"], [0, 1, 6])


def _costs(found: Sequence[Row]) -> Iterator[str]:
    kinds = list(
        dict.fromkeys(kind for row in found for step in row.steps for kind in step.costs if kind not in ("generator", "bench"))
    )
    if not kinds:
        return
    drawn = []
    for row in found:
        parts = {kind: statistics.median(step.costs.get(kind, 0.0) for step in row.steps) for kind in kinds}
        drawn.append((f"{number(row.rate)}/s", parts))
    own = statistics.median(step.costs.get("generator", 0.0) for row in found for step in row.steps)
    text = f"Microseconds of processor time for a message, by process; making and checking its body is {number(own)} of them."
    plot = charts.in_both_widths(lambda width: charts.bars(drawn, kinds, unit="us", width=width))
    yield from _section("Cost of a message", text, f"<figure>{plot}{charts.key(kinds)}</figure>")


# ---- tables ----------------------------------------------------------------------------------------------------------------------


def _proofs(found: Sequence[Row]) -> Iterator[str]:
    proved, done = list(told.proved(found)), list(told.done(found))
    if proved:
        text = "What the bus's own statistics say of the first run's window: signed, sealed, verified and judged, in every row."
        yield from _section("What was really done", text, _table(told.PROVED, proved))
    if done:
        text = "Who signed how much, what the TPM had to do for it, and how often a signature or a chain had been verified before."
        yield from _section("Signatures, TPM and caches", text, _table(told.DONE, done))


def _apart(found: Sequence[Row]) -> Iterator[str]:
    lines = list(told.apart(found))
    if lines:
        text = "The same latencies, of the first run, by what a message has to wait for besides."
        yield from _section("What waits, by itself", text, _table(told.APART, lines))


def _processes(found: Sequence[Row]) -> Iterator[str]:
    """A row a process, a column a rate."""
    columns, lines = told.processes(found)
    if lines:
        text = "Of the first run: of one core, and the most memory at once. The generator's own is in the senders and in “bench”."
        yield from _section("Processes", text, _table(columns, lines))


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]], *, bad: range = range(0)) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(_cell(text, is_count=place in bad) for place, text in enumerate(line))}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str, *, is_count: bool) -> str:
    """A count of what must not be stands out where it is not nothing."""
    return f'<td class="bad">{escape(text)}</td>' if is_count and text != "0" else f"<td>{escape(text)}</td>"


def _words(scenario: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scenario.items() if name not in ("about", "name") and value is not None}


def _facts(facts: Mapping[str, Any]) -> str:
    shown = "".join(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_plain(value))}</dd>" for name, value in facts.items())
    return f"<dl>{shown}</dl>"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(name: str) -> str:
    return "p99.9" if name == "p999" else name
