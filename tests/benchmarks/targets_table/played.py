"""Rows that are scenarios of `tpmbus bench run`: messages leave by the clock, latencies count from when they were due."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from bus.bench.crowd import Delay, Look
from bus.bench.running import Wanted, measure
from bus.bench.scenario import Scenario, changed, find, load
from bus.bench.step import Step
from targets_table.figure import Figure
from targets_table.running import Run

HOOKED = Path(__file__).parent / "mix_with_hooks.py"
MIX_RATE = 8_000.0
MIX_PROCESSES = 2
"""Beside the hub's: as many as there are processors."""
HOOKS_RATE = 1_000.0
"""That the mix keeps up in one process: what is compared is processor time, with nothing waiting for it."""


class _Watcher:
    """Says where a run is."""

    def __init__(self, run: Run, what: str) -> None:
        self._run, self._what = run, what

    def run_begins(self, run: int, runs: int) -> None:
        self._run.told(f"{self._what}: starting")

    def looked(self, look: Look) -> None: ...

    def step_ended(self, step: Step) -> None:
        told = (
            f"{step.delivered_a_second:,.0f} delivered a second, p50 {step.latency.p50:.1f} ms, CPU {step.cpu_of_message:,.0f} us"
        )
        self._run.told(f"{self._what}: {told}")


async def _played(run: Run, scenario: Scenario, folder: str, what: str, delay: Delay | None = None) -> Step:
    """One run of one rate."""
    wanted = Wanted(state=run.place / folder, delay=delay)
    result = await measure(changed(scenario, runs=1), wanted, _Watcher(run, what))
    return result.runs[0].steps[0]


async def _runs(run: Run, scenario: Scenario, folder: str, delay: Delay) -> AsyncIterator[list[Step]]:
    """The steps so far, after each run."""
    steps, turns = list[Step](), run.turns(3)
    for turn in range(turns):
        steps.append(await _played(run, scenario, folder, f"{scenario.rates[0]:,.0f} a second, run {turn + 1} of {turns}", delay))
        yield steps


async def identity(run: Run) -> None:
    rate = 8_000.0
    scenario = changed(load(find("identity")), rates=(rate,), seconds=run.seconds(4.0), warm_seconds=run.seconds(2.0))
    async for steps in _runs(run, scenario, "identity", Delay(0.04, 0.04)):
        run.outcome.figures = [
            Figure(f"delivered of {rate:,.0f} a second", "%", 99.9, _delivered(steps)),
            Figure("p50", "ms", 100, tuple(step.latency.p50 for step in steps), more_is_better=False),
        ]
        together = statistics.median(step.tpm.get("contents", 0.0) for step in steps)
        run.outcome.notes = [f"one operation of the TPM signs {together:,.0f} contents", _damage(steps)]


async def mix(run: Run) -> None:
    """Every message counts from when it was due; what the TPM signs, or the disk keeps, is told apart."""
    words = {"rates": (MIX_RATE,), "seconds": run.seconds(6.0), "warm_seconds": run.seconds(4.0)}
    scenario = changed(load(find("mix")), processes=MIX_PROCESSES, **words)
    async for steps in _runs(run, scenario, "mix", Delay(0.04, 0.12)):
        means = tuple(_mean_besides_identity(step) for step in steps)
        run.outcome.figures = [
            Figure("what the TPM does not sign by itself, on average", "ms", 50, means, more_is_better=False),
            Figure(f"delivered of {MIX_RATE:,.0f} a second", "%", 99.9, _delivered(steps)),
            Figure("handed over without verifying", "%", 95, _hits(steps)),
        ]
        whole = f"everything together: mean {statistics.median(step.latency.mean for step in steps):,.1f} ms"
        run.outcome.notes = [*_apart(steps), whole, _damage(steps)]


def _apart(steps: Sequence[Step]) -> Iterator[str]:
    for kind in sorted({kind for step in steps for kind in step.apart}):
        found = [step.apart[kind] for step in steps if kind in step.apart]
        mean, half = (statistics.median(getattr(one, name) for one in found) for name in ("mean", "p50"))
        yield f"{kind}: mean {mean:,.1f} ms, p50 {half:,.1f} ms"


def _mean_besides_identity(step: Step) -> float:
    kept = [latency for kind, latency in step.apart.items() if kind != "identity"]
    count = sum(latency.count for latency in kept)
    return sum(latency.mean * latency.count for latency in kept) / count if count else step.latency.mean


async def hooks(run: Run) -> None:
    """Processor time for a message at one rate, with and without a hook on each side of each agent, in turns."""
    words = {"rates": (HOOKS_RATE,), "seconds": run.seconds(4.0), "warm_seconds": run.seconds(3.0)}
    plain, hooked = changed(load(find("mix")), **words), changed(load(HOOKED), **words)
    without, with_hooks, turns = list[Step](), list[Step](), run.turns(3)
    for turn in range(turns):
        for scenario in (plain, hooked) if turn % 2 == 0 else (hooked, plain):
            step = await _played(run, scenario, "mix", f"{scenario.name}, pair {turn + 1} of {turns}")
            (without if scenario is plain else with_hooks).append(step)
        pairs = [(one.cpu_of_message, other.cpu_of_message) for one, other in zip(without, with_hooks, strict=True)]
        ratios = tuple(one / other for one, other in pairs if other)  # a window in which nothing was sent is no half of a pair
        run.outcome.figures = [Figure("the mix without hooks / with, by processor time", "x", 0.8, ratios, by_processor=ratios)]
        hits = f"handed over without verifying, at {HOOKS_RATE:,.0f} a second: {statistics.median(_hits(without)):.1f} %"
        chains = statistics.median(100 * step.caches.get("chains", 0.0) for step in without)
        told = f"chains of certificates that had been verified before: {chains:.1f} %"
        run.outcome.notes = [hits, told, _damage([*without, *with_hooks])]


def _delivered(steps: Sequence[Step]) -> tuple[float, ...]:
    """Of the copies that were due, whether they were sent or not: a bus that falls behind by more than a moment takes no more."""
    return tuple(100 * step.delivered / step.due for step in steps)


def _hits(steps: Sequence[Step]) -> tuple[float, ...]:
    return tuple(100 * step.caches.get("signatures", 0.0) for step in steps)


def _damage(steps: Sequence[Step]) -> str:
    lost, twice, reordered = (sum(getattr(step, name) for step in steps) for name in ("lost", "duplicated", "reordered"))
    return f"lost {lost}, twice {twice}, out of order {reordered}, of {sum(step.delivered for step in steps):,}"
