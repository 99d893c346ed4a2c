"""Two results of the same scenario: what is different beyond the noise, and whether that is better or worse.

The noise is what the runs of each result are apart. A figure has changed when the medians differ by more than both spreads
together, and by more than `LEAST`, both as ratios: a latency that is a hundred times as long is as much further scattered.
Two or three runs lie close together by chance: then it takes several times as much (`TIMES`). Of a single run nobody knows how
far another would have been: nothing counts as changed, and the comparison says so.

What is lost, comes twice or out of order is no noise, unless the broker is killed on purpose. There the worst runs are compared:
more than before, and than the runs before were apart, is worse, also where the median says nothing of it or there was one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from bus.bench.result import Result, Row, Spread, spread
from bus.bench.step import Step

LEAST: Final = 0.03
TIMES: Final = {2: 4.0, 3: 1.5}
"""Both spreads, by the number of runs: one in a hundred comparisons of equals then looks like a change (Lord's test of ranges)."""
Verdict = Literal["same", "better", "worse", "unknown"]

_SAME_WORDS: Final = (
    "kind",
    "transport",
    "delivery",
    "senders",
    "readers",
    "processes",
    "size",
    "call",
    "kill_broker",
    "tpm_delay",
)
"""Of a scenario: where these differ, two results are of two things."""
_NOTED_WORDS: Final = ("name", "tpm", "in_flight", "seconds", "warm_seconds")
"""Where these differ, it is said: it may be what is compared."""

_FIGURES: Final[tuple[tuple[str, str, Callable[[Step], float], bool], ...]] = (
    ("delivered", "/s", lambda step: step.delivered_a_second, True),
    ("p50", "ms", lambda step: step.latency.p50, False),
    ("p99", "ms", lambda step: step.latency.p99, False),
    ("p99.9", "ms", lambda step: step.latency.p999, False),
    ("CPU a message", "us", lambda step: step.cpu_of_message, False),
    ("TPM operations a million", "", lambda step: step.tpm.get("per_million", 0.0), False),
    ("memory", "MiB", lambda step: sum(process.memory_mib for process in step.processes), False),
)


@dataclass(frozen=True, slots=True)
class Change:
    rate: float | None
    """None for the highest rate itself."""
    what: str
    unit: str
    before: Spread
    after: Spread
    verdict: Verdict

    @property
    def percent(self) -> float | None:
        return (self.after.median / self.before.median - 1) * 100 if self.before.median else None


@dataclass(frozen=True, slots=True)
class Comparison:
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def is_worse(self) -> bool:
        return any(change.verdict == "worse" for change in self.changes)


def compare(before: Result, after: Result) -> Comparison:
    """Raises ValueError for results of two different things."""
    for word in _SAME_WORDS:
        if before.scenario.get(word) != after.scenario.get(word):
            raise ValueError(f"{word} is {before.scenario.get(word)} in one and {after.scenario.get(word)} in the other")
    if before.is_search != after.is_search:
        raise ValueError("one is a search for the highest rate, the other was run at stated rates")
    pairs = list(_pairs(before, after))
    changes = [*_of_searches(before, after)] if before.is_search and before.runs and after.runs else []
    if not pairs and not changes:
        raise ValueError("they have no rate in common")
    for rate, old, new in pairs:
        changes += [*_of_rate(rate, old, new), *_of_damage(rate, old, new, is_expected=bool(before.scenario.get("kill_broker")))]
    return Comparison(tuple(changes), tuple(_notes(before, after)))


def _of_searches(before: Result, after: Result) -> Iterator[Change]:
    """Of every run: one that found nothing counts as 0, and is not left out."""
    old, new = (spread(0.0 if run.best is None else run.best.rate for run in result.runs) for result in (before, after))
    yield Change(None, "highest rate that was kept", "/s", old, new, verdict(old, new, more_is_better=True))


def _pairs(before: Result, after: Result) -> Iterator[tuple[float | None, Row, Row]]:
    old, new = before.rows(), after.rows()
    if before.is_search:
        yield from ((None, one, other) for one, other in zip(old, new, strict=False))
        return
    later = {row.rate: row for row in new}
    yield from ((row.rate, row, later[row.rate]) for row in old if row.rate in later)


def _of_rate(rate: float | None, old: Row, new: Row) -> Iterator[Change]:
    for what, unit, figure, more_is_better in _FIGURES:
        change = _change(rate, what, unit, figure, more_is_better=more_is_better, old=old, new=new)
        if change.before.most or change.after.most:
            yield change


def _of_damage(rate: float | None, old: Row, new: Row, *, is_expected: bool) -> Iterator[Change]:
    before, after = (row.spread(lambda step: float(step.lost + step.duplicated + step.reordered)) for row in (old, new))
    if not before.most and not after.most:
        return
    found = verdict(before, after, more_is_better=False)
    if not is_expected and after.most > before.most + before.width:
        found = "worse"
    yield Change(rate, "lost, twice or reordered", "", before, after, found)


def _change(
    rate: float | None, what: str, unit: str, figure: Callable[[Step], float], *, more_is_better: bool, old: Row, new: Row
) -> Change:
    before, after = old.spread(figure), new.spread(figure)
    return Change(rate, what, unit, before, after, verdict(before, after, more_is_better=more_is_better))


def verdict(before: Spread, after: Spread, *, more_is_better: bool) -> Verdict:
    if min(before.runs, after.runs) < 2:
        return "unknown"
    difference = after.median - before.median
    times = TIMES.get(min(before.runs, after.runs), 1.0)
    if abs(difference) <= LEAST * abs(before.median) or _is_noise(before, after, times=times):
        return "same"
    return "better" if (difference > 0) == more_is_better else "worse"


def _is_noise(before: Spread, after: Spread, *, times: float) -> bool:
    """By ratios; where a figure is 0 there are none, and it is by differences."""
    if min(before.least, after.least) <= 0:
        return abs(after.median - before.median) <= times * (before.width + after.width)
    widths = math.log(before.most / before.least) + math.log(after.most / after.least)
    return abs(math.log(after.median / before.median)) <= times * widths


def _notes(before: Result, after: Result) -> Iterator[str]:
    runs = min(len(before.runs), len(after.runs))
    if runs < 2:
        yield "one run says nothing of the noise, so nothing counts as changed: measure with --runs 3 or more"
    for word in _NOTED_WORDS:
        if before.scenario.get(word) != after.scenario.get(word):
            yield f"{word} was {before.scenario.get(word)} and is {after.scenario.get(word)}"
    if before.is_search and not (before.rows() and after.rows()):
        yield "in one of them no rate was kept, so that there are no figures at one to compare"
    for word in ("processor", "cores", "python", "loop"):
        if before.machine.get(word) != after.machine.get(word):
            yield f"{word} was {before.machine.get(word)} and is {after.machine.get(word)}: this is not only the bus"
    if before.scenario.get("rates") != after.scenario.get("rates") and not before.is_search:
        yield "only the rates that both have are compared"
