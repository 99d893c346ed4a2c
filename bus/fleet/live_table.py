"""The running fleet on a terminal, drawn anew twice a second. The only file of this room that knows rich.

A frame is never wider nor taller than its terminal: what is too tall cannot be drawn over, and stays behind as litter. So the rows
of who talks to whom are as many as there is room for, and on a very small one a part is left out. From 76 columns on, two parts
stand side by side. A line is never wrapped: what is too long for its place ends in an ellipsis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from bus.fleet.figures import Figures

WIDEST: Final = 110
"""Columns; numbers that are far from their names are hard to read."""
SIDE_BY_SIDE: Final = 76
_GAP: Final = 3
_HEAD_LINES: Final = 2
"""A part's names, and the line under them."""
_NAMES, _LINE, _ENDING = "bold", "dim", "bold yellow"
NOTHING = "-"

Cells = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A small table; its first column has names, the others have numbers."""

    head: Cells
    rows: Sequence[Cells]

    @property
    def height(self) -> int:
        return _HEAD_LINES + len(self.rows)

    def table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True, header_style=_NAMES, border_style=_LINE)
        for number, name in enumerate(self.head):
            is_number = number > 0
            table.add_column(name, justify="right" if is_number else "left", no_wrap=True, ratio=None if is_number else 1)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


@dataclass(frozen=True, slots=True)
class Frame:
    """What is drawn at one moment, as wide and as tall as its terminal lets it be."""

    figures: Figures
    ending: str = ""
    """What the fleet does now that it is to end."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDEST)
        is_wide = width >= SIDE_BY_SIDE
        title, troubles = _title(self.figures), _troubles(self.figures)
        room = options.max_height - 2 - len(troubles)  # the title, and where the cursor waits
        yield _line(Text.assemble(title, ("   " + self.ending, _ENDING)) if self.ending else title)
        yield from troubles
        for pair in ((_messages(self.figures), _latency(self.figures)), (_tpm(self.figures), _known(self.figures))):
            needed = 1 + _height(pair, is_wide=is_wide)
            if needed <= room:
                yield Text()
                yield _placed([part.table() for part in pair], width=width, is_wide=is_wide)
                room -= needed
        talk = _talk(self.figures, lines=room - 1, columns=1 + is_wide)
        if talk:
            yield Text()
            yield _placed(talk, width=width, is_wide=is_wide)
        yield Text()  # the cursor waits here: what is typed, and the ^C of who ends it, must move no line


def drawn(figures: Figures, *, ending: str = "") -> RenderableType:
    """How it goes, how long it takes, what the TPM does and need not do, and who talks to whom."""
    return Frame(figures, ending)


def _title(figures: Figures) -> Text:
    processes = f"{figures.processes} process{'es' * (figures.processes > 1)}"
    return Text(f"{figures.agents} agents in {processes}, {figures.seconds:,.0f} s", _NAMES)


def _messages(figures: Figures) -> Part:
    rows = (
        ("published", f"{figures.published:,.0f}", f"{figures.published_in_all:,}"),
        ("delivered", f"{figures.delivered:,.0f}", f"{figures.delivered_in_all:,}"),
    )
    return Part(("messages", "a second", "in all"), rows)


def _latency(figures: Figures) -> Part:
    names = ("p50_ms", "p99_ms", "p99.9_ms")
    rows = [
        (what, *(duration(times[name]) if times["count"] else NOTHING for name in names))
        for what, times in (("one way", figures.latency), ("request", figures.round_trip))
    ]
    return Part(("latency", "p50", "p99", "p99.9"), rows)


def _tpm(figures: Figures) -> Part:
    rows = (
        ("signatures a second", f"{figures.tpm_signatures:,.1f}"),
        ("contents a signature", f"{figures.tpm_contents:,.1f}"),
        ("most under one signature", f"{figures.tpm_largest:,}"),
        ("busy", f"{figures.tpm_busy:.0%}"),
    )
    return Part(("TPM", ""), rows)


def _known(figures: Figures) -> Part:
    rows = (("signatures of messages", _share(figures.signature_hits)), ("chains of certificates", _share(figures.chain_hits)))
    return Part(("verified before", ""), rows)


def _troubles(figures: Figures) -> list[Text]:
    """A line for each kind, where there are any."""
    found = []
    for what, counts in (("dropped", figures.dropped), ("refused", figures.refused), ("agents lost", figures.lost)):
        if any(counts.values()):
            found.append(_line(Text(f"{what} {sum(counts.values()):,}: {_words(counts)}", "red")))
    return found


def _talk(figures: Figures, *, lines: int, columns: int) -> list[Table]:
    """As many columns of it as are asked for, each read from its top to its end, then the next one."""
    rows = [(f"{sender} → {reader}", f"{rate:,.0f}") for sender, reader, rate in figures.talk]
    tall = min(-(-len(rows) // columns), lines - _HEAD_LINES)
    if not rows or tall < 1:
        return []
    heads = [("who talks to whom, a second", ""), ("(reference traffic)", "")]
    shares = [rows[number * tall : (number + 1) * tall] for number in range(columns)]
    return [Part(head, share).table() for head, share in zip(heads, shares, strict=False) if share]


def _height(pair: Sequence[Part], *, is_wide: bool) -> int:
    return max(part.height for part in pair) if is_wide else 1 + sum(part.height for part in pair)


def _placed(tables: Sequence[Table], *, width: int, is_wide: bool) -> Table:
    """Side by side, or one under the other with a line between."""
    grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    if not is_wide:
        grid.add_column(width=width)
        for number, table in enumerate(tables):
            if number:
                grid.add_row("")
            grid.add_row(table)
        return grid
    half = (width - _GAP) // 2
    for _ in tables:
        grid.add_column(width=half)
    grid.add_row(*tables)
    return grid


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1%}"


def duration(milliseconds: float) -> str:
    """With three digits that count."""
    value, unit = (milliseconds, "ms") if milliseconds < 1_000 else (milliseconds / 1_000, "s")
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} {unit}"


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]) if count)
