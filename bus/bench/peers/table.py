"""The table: figures, ratios and what each bus secures in one place, because a figure without that is no comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bus.bench.peers.catalogue import CONTENDERS, OURS
from bus.bench.peers.comparison import Comparison, Row
from bus.bench.result import Spread

SECURED = ("signed by the sender", "encrypted end to end", "keys in a TPM", "policy", "loss is seen")


def columns(comparison: Comparison) -> list[str]:
    return [
        "bus",
        what_is_counted(comparison.settings),
        "processor, us each",
        *(f"{CONTENDERS[name].title} / it" for name in _ours(comparison)),
        "processor, tpmbus / it",
        "lost, doubled",
        *SECURED,
    ]


def what_is_counted(settings: Any) -> str:
    if settings["workload"] == "reqrep":
        return "round trip, ms: p50, p99"
    return "latency, ms: p50, p99" if settings["rate"] is not None else "deliveries a second"


def lines(comparison: Comparison) -> Iterator[Sequence[str]]:
    """A line for each bus that was asked for, also for those that have no figures."""
    width = len(_ours(comparison)) + 1
    for row in comparison.rows:
        yield (CONTENDERS[row.bus].title, *_figures(row, comparison), *_ratios(row, width), _counts(row), *_secured(row.bus))
    for absent in comparison.absent:
        yield (
            CONTENDERS[absent.bus].title,
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


def _figures(row: Row, comparison: Comparison) -> tuple[str, str]:
    is_time = comparison.settings["rate"] is not None or comparison.settings["workload"] == "reqrep"
    shown = f"{_spread(row.figure)}, p99 {_short(row.p99_ms.median)}" if is_time else _spread(row.figure)
    return shown, _spread(row.cpu_us)


def _ratios(row: Row, width: int) -> list[str]:
    if not row.ratios:
        return ["" for _ in range(width)]
    return [*(_spread(ratio.figure) for ratio in row.ratios), _spread(row.ratios[0].cpu)]


def _counts(row: Row) -> str:
    return f"{row.lost}, {row.duplicated}"


def _secured(bus: str) -> tuple[str, ...]:
    secured = CONTENDERS[bus].secured
    return secured.signed, secured.encrypted, secured.tpm, secured.policy, secured.loss


def _spread(found: Spread) -> str:
    return f"{_short(found.median)} ({_short(found.least)} to {_short(found.most)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
