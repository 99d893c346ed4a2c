"""A result as a table: a row a rate, medians of the runs, and how far the runs were apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Final

from bus.bench.result import Result, Row, Spread
from bus.bench.step import Step

_FIGURES: Final[tuple[tuple[str, Callable[[Step], float]], ...]] = (
    ("sent/s", lambda step: step.sent_a_second),
    ("delivered/s", lambda step: step.delivered_a_second),
    ("p50 ms", lambda step: step.latency.p50),
    ("p90 ms", lambda step: step.latency.p90),
    ("p99 ms", lambda step: step.latency.p99),
    ("p99.9 ms", lambda step: step.latency.p999),
    ("max ms", lambda step: step.latency.max),
    ("CPU us/message", lambda step: step.cpu_of_message),
)
COLUMNS: Final = ("rate", *(name for name, _ in _FIGURES), "in time", "lost", "twice", "reordered", "TPM ops/M")


def rows(result: Result) -> list[tuple[str, ...]]:
    return [_row(row) for row in result.rows()]


def _row(row: Row) -> tuple[str, ...]:
    figures = [_shown(row.spread(figure)) for _, figure in _FIGURES]
    lost, twice, reordered = (
        sum(counts) for counts in zip(*((step.lost, step.duplicated, step.reordered) for step in row.steps), strict=True)
    )
    share = min(step.share for step in row.steps)
    chip = row.spread(lambda step: step.tpm.get("per_million", 0.0)).median
    counted = (f"{lost:,}", f"{twice:,}", f"{reordered:,}")
    return (number(row.rate), *figures, f"{share:.2%}", *counted, number(chip))


BRIEF: Final = ("rate", "delivered/s", "p50 ms", "p99 ms", "p99.9", "CPU us", "in time", "damaged")
"""What fits a terminal of 80 columns; all there is is in the report, in CSV and in JSON."""


def brief(result: Result) -> list[tuple[str, ...]]:
    """The same rows for a terminal. Damaged: how many were lost, came twice, or after a later one."""
    shown: list[tuple[str, ...]] = []
    for row in result.rows():
        damaged = sum(step.lost + step.duplicated + step.reordered for step in row.steps)
        delivered, p50, p99, p999, cpu = (_shown(row.spread(figure)) for figure in _BRIEFLY)
        share = min(step.share for step in row.steps)
        shown.append((number(row.rate), delivered, p50, p99, p999.split()[0], cpu.split()[0], f"{share:.2%}", f"{damaged:,}"))
    return shown


_BRIEFLY: Final[tuple[Callable[[Step], float], ...]] = (
    lambda step: step.delivered_a_second,
    lambda step: step.latency.p50,
    lambda step: step.latency.p99,
    lambda step: step.latency.p999,
    lambda step: step.cpu_of_message,
)


def _shown(spread: Spread) -> str:
    return number(spread.median) + (f" ±{number(spread.width / 2)}" if spread.runs > 1 else "")


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if value else "0"


CSV_COLUMNS: Final = (
    "scenario", "run", "rate", "kept", "size", "seconds", "sent", "not_sent", "due", "delivered", "in_time", "lost", "duplicated",
    "reordered", "sent_a_second", "delivered_a_second", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "mean_ms",
    "generator_late_p99_ms", "cpu_us_per_message", "generator_us_per_message", "memory_mib", "tpm_operations",
    "tpm_operations_per_million", "tpm_busy", "signature_hit_rate", "chain_hit_rate", "signatures", "processes",
    "signatures_verified", "envelopes_opened", "messages_handed_over", "refused", "policy_refuses", "bodies_distinct",
)  # fmt: skip


def as_csv(result: Result) -> str:
    """A line for each step of each run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for number_of_run, run in enumerate(result.runs, start=1):
        for step in run.steps:
            latency = step.latency
            writer.writerow(
                (
                    result.name, number_of_run, step.rate, int(step.kept), step.size, step.seconds, step.sent,
                    sum(step.not_sent.values()), step.due, step.delivered, step.in_time, step.lost, step.duplicated, step.reordered,
                    round(step.sent_a_second, 1), round(step.delivered_a_second, 1), latency.p50, latency.p90, latency.p99,
                    latency.p999, latency.max, latency.mean, step.generator_late.p99, round(step.cpu_of_message, 3),
                    round(step.costs.get("generator", 0.0), 3), round(sum(process.memory_mib for process in step.processes), 1),
                    step.tpm.get("operations", 0), round(step.tpm.get("per_million", 0.0), 1), round(step.tpm.get("busy", 0.0), 4),
                    _rate(step.caches.get("signatures")), _rate(step.caches.get("chains")),
                    _listed(step.algorithms),
                    _listed({one.name: f"{one.cpu_percent:.1f}%/{one.memory_mib:.0f}MiB" for one in step.processes}),
                    *(_number(step.proof.get(name)) for name in CSV_COLUMNS[CSV_COLUMNS.index("signatures_verified") :]),
                )
            )  # fmt: skip
    return text.getvalue()


def _rate(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)


def _number(value: float | None) -> float | str:
    """Of what was not looked at (a start has no statistics), an empty cell."""
    return "" if value is None else int(value)


def _listed(values: Mapping[str, object]) -> str:
    """Several in one cell: `name=value; name=value`."""
    return "; ".join(f"{name}={value}" for name, value in values.items())
