"""What was done besides carrying messages, and by whom: signatures by suite, the TPM's work, caches, processes.

The page and the terminal say it with these lines. They are of the first run: the others differ by what the figures' spread says.
But that policy refused and that bodies were distinct is said if it was so in every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bus.bench.report.table import number
from bus.bench.result import Row
from bus.bench.step import Latency, Process, Step

DONE: Final = ("rate", "TPM operations", "for a million", "signature in cache", "chain in cache", "signatures by suite")
PROVED: Final = ("rate", "handed over", "envelopes opened", "signatures verified", "refused", "policy", "bodies distinct")
APART: Final = ("rate", "waits for", "messages", "mean ms", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms")
_WAITS_FOR: Final = {"session": "nothing: signed by the session", "identity": "the TPM, which signs it", "durable": "the disk"}


def done(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """For rows in which the bus told of itself; others (a start, another bus) have nothing to say."""
    for row in rows:
        step = row.steps[0]
        if step.proof:
            counted = (number(step.tpm.get("operations", 0.0)), number(step.tpm.get("per_million", 0.0)))
            yield (number(row.rate), *counted, _share(step, "signatures"), _share(step, "chains"), algorithms(step))


def proved(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        proof = row.steps[0].proof
        if proof:
            names = ("messages_handed_over", "envelopes_opened", "signatures_verified", "refused")
            policy = "refused what it forbids" if _in_each(row, "policy_refuses") else "not tried"
            distinct = "yes" if _in_each(row, "bodies_distinct") else "no"
            yield (number(row.rate), *(f"{proof.get(name, 0):,}" for name in names), policy, distinct)


def _in_each(row: Row, name: str) -> bool:
    return all(step.proof.get(name) for step in row.steps)


def apart(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """Of the mix: what waits for the chip or the disk, beside what waits for nobody."""
    for row in rows:
        for kind, latency in row.steps[0].apart.items():
            yield (number(row.rate), _WAITS_FOR.get(kind, kind), f"{latency.count:,}", *map(number, _figures(latency)))


def processes(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns, and a line for each process; the harness's own is among them."""
    names = list(dict.fromkeys(process.name for row in rows for process in row.steps[0].processes))
    shown = [{process.name: process for process in row.steps[0].processes} for row in rows]
    lines = [(name, *(used(own[name]) if name in own else "" for own in shown)) for name in names]
    return ("process", *(f"{number(row.rate)} a second" for row in rows)), lines


def used(process: Process) -> str:
    return f"{process.cpu_percent:.0f} %, {process.memory_mib:.0f} MiB"


def algorithms(step: Step) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in step.algorithms.items())


def _share(step: Step, name: str) -> str:
    return f"{step.caches[name]:.2%}" if name in step.caches else ""


def _figures(latency: Latency) -> tuple[float, ...]:
    return latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
