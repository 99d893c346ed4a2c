"""Plots as SVG text, without a library and without scripts: lines over two axes, and bars. Points say what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, NamedTuple

from bus.bench.report.table import number

WIDTH: Final = 1080
NARROW: Final = 340
"""For a window as narrow as a telephone, where the letters of a wide plot would be too small to read."""
HEIGHT: Final = 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 18, 26, 42
COLOURS: Final = 7


class Point(NamedTuple):
    x: float
    y: float
    least: float | None = None
    """Where several runs differ: from here .."""
    most: float | None = None
    """.. to here."""


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: Sequence[Point]
    colour: int
    is_thin: bool = False
    """Without marks: for many points."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to places. A logarithm shows what lies decades apart; it begins at the decade below the least value."""

    least: float
    most: float
    start: float
    end: float
    is_log: bool

    def place(self, value: float) -> float:
        if self.is_log:
            value, least, most = (math.log10(max(number, self.least)) for number in (value, self.least, self.most))
        else:
            least, most = self.least, self.most
        return self.start + (self.end - self.start) * (value - least) / ((most - least) or 1.0)

    def ticks(self) -> Iterator[float]:
        if self.is_log:
            decades = range(round(math.log10(self.least)), round(math.log10(self.most)) + 1)
            few = len(decades) <= 3
            yield from (
                10.0**decade * step
                for decade in decades
                for step in ((1, 2, 5) if few else (1,))
                if 10.0**decade * step <= self.most
            )
            return
        step = _round_step((self.most - self.least) / 5)
        yield from (self.least + step * place for place in range(int((self.most - self.least) / step + 1e-9) + 1))


def axis(values: Iterable[float], start: float, end: float, *, is_log: bool) -> Axis:
    found = [value for value in values if value > 0 or not is_log]
    if not is_log:
        most = max(found, default=1.0) or 1.0
        step = _round_step(most / 5)
        return Axis(0.0, math.ceil(most / step - 1e-9) * step, start, end, is_log=False)
    least, most = min(found, default=1.0), max(found, default=10.0)
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    return Axis(10.0**low, 10.0 ** max(high, low + 1), start, end, is_log=True)


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten: what people count in."""
    power = 10.0 ** math.floor(math.log10(rough or 1.0))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= rough - 1e-12)


def lines(
    drawn: Sequence[Line], *, x: str, y: str, log_x: bool = False, log_y: bool = True, height: int = HEIGHT, width: int = WIDTH
) -> str:
    """Lines over two axes; `x` and `y` say what stands there, with the unit."""
    points = [point for line in drawn for point in line.points]
    across = axis([point.x for point in points], _LEFT, width - _RIGHT, is_log=log_x)
    values = [value for point in points for value in (point.y, point.least, point.most) if value is not None]
    up = axis(values, height - _BOTTOM, _TOP, is_log=log_y)
    parts = [
        *_frame(across, up, x=x, y=y, width=width, height=height),
        *(part for line in drawn for part in _line(line, across, up)),
    ]
    return _svg(parts, width, height, f"{y} over {x}")


def _frame(across: Axis, up: Axis, *, x: str, y: str, width: int, height: int) -> Iterator[str]:
    for value in up.ticks():
        place = up.place(value)
        yield f'<path class="axis" d="M{_LEFT} {place:.1f}H{width - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{_short(value)}</text>'
    for value in across.ticks():
        yield f'<text x="{across.place(value):.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">{_short(value)}</text>'
    yield f'<text x="{width - _RIGHT}" y="{height - 6}" text-anchor="end">{escape(x)}</text>'
    yield f'<text x="0" y="12">{escape(y)}</text>'


def _line(line: Line, across: Axis, up: Axis) -> Iterator[str]:
    colour = line.colour % COLOURS
    places = [(across.place(point.x), up.place(point.y)) for point in line.points]
    if len(places) > 1:
        path = "L".join(f"{left:.1f} {top:.1f}" for left, top in places)
        yield f'<path class="curve s{colour}{" thin" if line.is_thin else ""}" d="M{path}"/>'
    for point, (left, top) in zip(line.points, places, strict=True):
        if point.least is not None and point.most is not None and point.most > point.least:
            yield f'<path class="whisker s{colour}" d="M{left:.1f} {up.place(point.least):.1f}V{up.place(point.most):.1f}"/>'
        if not line.is_thin or len(places) == 1:
            told = f"{escape(line.name)}: {number(point.y)} at {number(point.x)}"
            yield f'<circle class="f{colour}" cx="{left:.1f}" cy="{top:.1f}" r="3.5"><title>{told}</title></circle>'


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], kinds: Sequence[str], *, unit: str, width: int = WIDTH) -> str:
    """A bar a row, put together of its kinds, with the sum at its end."""
    label, tall, gap = 96 if width == WIDTH else 70, 22, 12
    most = max((sum(parts.values()) for _, parts in rows), default=0.0) or 1.0
    room = width - label - (110 if width == WIDTH else 76)
    drawn = []
    for place, (name, parts) in enumerate(rows):
        top, left = place * (tall + gap) + 4, float(label)
        drawn.append(f'<text x="{label - 10}" y="{top + 15}" text-anchor="end">{escape(name)}</text>')
        for kind in kinds:
            wide = room * parts.get(kind, 0.0) / most
            told = f"{escape(kind)}: {number(parts.get(kind, 0.0))} {unit}"
            colour = kinds.index(kind) % COLOURS
            drawn.append(
                f'<rect class="f{colour}" x="{left:.1f}" y="{top}" width="{wide:.1f}" height="{tall}"><title>{told}</title></rect>'
            )
            left += wide
        drawn.append(f'<text x="{left + 8:.1f}" y="{top + 15}">{number(sum(parts.values()))} {unit}</text>')
    return _svg(drawn, width, len(rows) * (tall + gap) + 4, f"{unit} by process")


def in_both_widths(draw: Callable[[int], str]) -> str:
    """Drawn twice, and the page shows the one that fits: letters keep their size, which those of one that shrinks do not."""
    return f'<div class="broad">{draw(WIDTH)}</div><div class="narrow">{draw(NARROW)}</div>'


def key(names: Sequence[str], colours: Sequence[int] | None = None) -> str:
    """What the colours mean."""
    numbers = colours or range(len(names))
    marks = (f'<span><i class="k{colour % COLOURS}"></i>{escape(name)}</span>' for name, colour in zip(names, numbers, strict=True))
    return f'<div class="key">{"".join(marks)}</div>'


def _svg(parts: Iterable[str], width: int, height: int, title: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _short(value: float) -> str:
    """For an axis: 10k, 2M, 0.5."""
    for least, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= least:
            return f"{value / least:g}{letter}"
    return f"{value:g}"
