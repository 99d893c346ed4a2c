"""The running fleet on a terminal, drawn anew twice a second. The only file of this room that knows rich."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from bus.fleet.figures import Figures


def drawn(figures: Figures) -> RenderableType:
    """Three tables: how it goes, how long it takes and what the TPM does, who talks to whom."""
    return Group(_whole(figures), _times(figures), _talk(figures))


def _whole(figures: Figures) -> Table:
    table = _table(
        f"{figures.agents} agents in {figures.processes} process{'es' * (figures.processes > 1)}, {figures.seconds:.0f} s"
    )
    for column in ("", "a second", "in all"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("published", f"{figures.published:,.0f}", f"{figures.published_in_all:,}")
    table.add_row("delivered", f"{figures.delivered:,.0f}", f"{figures.delivered_in_all:,}")
    for what, counts in (("dropped", figures.dropped), ("refused", figures.refused), ("agents lost", figures.lost)):
        if any(counts.values()):
            table.add_row(what, _words(counts), f"{sum(counts.values()):,}")
    return table


def _times(figures: Figures) -> Table:
    table = _table(None)
    for column in ("latency", "p50", "p99", "p99.9", "TPM", "", "verified", ""):
        table.add_column(column, justify="right" if column.startswith("p") else "left")
    rows = [
        (
            "one way",
            figures.latency,
            "signatures a second",
            f"{figures.tpm_signatures:,.1f}",
            "cached signatures",
            figures.signature_hits,
        ),
        ("there and back", figures.round_trip, "contents a signature", _batch(figures), "cached chains", figures.chain_hits),
    ]
    for name, times, about_tpm, value, about_cache, hits in rows:
        table.add_row(
            name, *map(_ms, (times["p50_ms"], times["p99_ms"], times["p99.9_ms"])), about_tpm, value, about_cache, f"{hits:.1%}"
        )
    table.add_row("", "", "", "", "busy", f"{figures.tpm_busy:.0%}", "", "")
    return table


def _talk(figures: Figures) -> Table:
    table = _table("who talks to whom (reference traffic)")
    for column in ("from", "to", "deliveries a second"):
        table.add_column(column, justify="right" if "second" in column else "left")
    for sender, reader, rate in figures.talk:
        table.add_row(sender, reader, f"{rate:,.0f}")
    return table


def _batch(figures: Figures) -> str:
    return f"{figures.tpm_contents:,.1f} (largest {figures.tpm_largest:,})"


def _ms(value: float) -> str:
    return f"{value:,.2f} ms"


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]) if count)


def _table(title: str | None) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
