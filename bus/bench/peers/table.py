"""The table: figures, ratios and what each bus secures in one place, because a figure without that is no comparison.

It is shown as two, one under the other: figures, then what is secured, a line for each bus in both. Where there is no room for
more, a figure is its median alone, a bus has its short name (the one for `--only`), the ratio of processor time may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bus.bench.peers.catalogue import CONTENDERS, OURS
from bus.bench.peers.comparison import Comparison, Row
from bus.bench.result import Spread

WHOLE_COLUMNS = 190
"""Of a terminal that has room for everything."""
RATIO_COLUMNS = 90
"""And of one that has room for the ratio of processor time."""
CPU_RATIO = "processor, tpmbus / it"
SECURED = ("signed by the sender", "encrypted end to end", "keys in a TPM", "policy", "loss is seen")


def columns(comparison: Comparison) -> list[str]:
    return [
        "bus",
        what_is_counted(comparison.settings),
        "processor, us each",
        *(f"{CONTENDERS[name].title} / it" for name in _ours(comparison)),
        CPU_RATIO,
        "lost, doubled",
        *SECURED,
    ]


def tables(comparison: Comparison, *, width: int) -> Iterator[tuple[Sequence[str], list[Sequence[str]]]]:
    """Columns and lines of each table that is shown on a terminal of this width."""
    is_brief = width < WHOLE_COLUMNS
    heads, rows = columns(comparison), list(lines(comparison, is_brief=is_brief))
    if is_brief:
        heads = [head.removeprefix(f"{OURS[0]}, ").removeprefix("publish_") for head in heads]
    secured = len(heads) - len(SECURED)
    ratio = heads.index(CPU_RATIO)
    shown = [number for number in range(secured) if number != ratio or width >= RATIO_COLUMNS]
    yield [heads[number] for number in shown], [[row[number] for number in shown] for row in rows]
    yield [heads[0], *heads[secured:]], [[row[0], *row[secured:]] for row in rows]


def what_is_left_out(*, width: int) -> str | None:
    """Said under tables that are not whole."""
    return (
        None if width >= WHOLE_COLUMNS else "Medians alone have room here: a wider terminal shows their spread, --json every run."
    )


def what_is_counted(settings: Any) -> str:
    if settings["workload"] == "reqrep":
        return "round trip, ms: p50, p99"
    return "latency, ms: p50, p99" if settings["rate"] is not None else "deliveries a second"


def lines(comparison: Comparison, *, is_brief: bool = False) -> Iterator[Sequence[str]]:
    """A line for each bus that was asked for, also for those that have no figures. Brief: with short names, and without spreads."""
    width = len(_ours(comparison)) + 1
    shown = _median if is_brief else _spread
    for row in comparison.rows:
        figures = (*_figures(row, comparison, shown), *_ratios(row, width, shown))
        yield (_title(row.bus, is_brief=is_brief), *figures, _counts(row), *_secured(row.bus))
    for absent in comparison.absent:
        yield (
            _title(absent.bus, is_brief=is_brief),
            absent.reason.replace("_", " "),
            "",
            *("" for _ in range(width)),
            "",
            *_secured(absent.bus),
        )


def notes(comparison: Comparison) -> Iterator[str]:
    """What the figures are of, and who is not among them."""
    settings, machine = comparison.settings, comparison.machine
    most = "one at a time" if settings["workload"] == "reqrep" else "at its most"
    pace = most if settings["rate"] is None else f"at {settings['rate']:g} a second by the clock"
    yield (
        f"{settings['workload']}, {settings['size']} B, {pace}: {settings['pairs']} pairs of {settings['seconds']:g} s; "
        f"{machine['cores']} cores, Python {machine['python']}, load {machine['load']}; median (least to most)"
    )
    for name, version in comparison.versions.items():
        yield f"{name} {version}: {CONTENDERS[name].uses}"
    for absent in comparison.absent:
        yield f"{absent.bus}, {absent.reason.replace('_', ' ')}: {absent.detail}"


def _ours(comparison: Comparison) -> list[str]:
    return [row.bus for row in comparison.rows if row.bus in OURS]


def _title(bus: str, *, is_brief: bool) -> str:
    return bus if is_brief else CONTENDERS[bus].title


def _figures(row: Row, comparison: Comparison, shown: Callable[[Spread], str]) -> tuple[str, str]:
    is_time = comparison.settings["rate"] is not None or comparison.settings["workload"] == "reqrep"
    figure = f"{shown(row.figure)}, p99 {_short(row.p99_ms.median)}" if is_time else shown(row.figure)
    return figure, shown(row.cpu_us)


def _ratios(row: Row, width: int, shown: Callable[[Spread], str]) -> list[str]:
    if not row.ratios:
        return ["" for _ in range(width)]
    return [*(shown(ratio.figure) for ratio in row.ratios), shown(row.ratios[0].cpu)]


def _counts(row: Row) -> str:
    return f"{row.lost}, {row.duplicated}"


def _secured(bus: str) -> tuple[str, ...]:
    secured = CONTENDERS[bus].secured
    return secured.signed, secured.encrypted, secured.tpm, secured.policy, secured.loss


def _spread(found: Spread) -> str:
    return f"{_short(found.median)} ({_short(found.least)} to {_short(found.most)})"


def _median(found: Spread) -> str:
    return _short(found.median)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
