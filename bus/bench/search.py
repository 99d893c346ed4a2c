"""The highest rate that is kept up, found in steps: which rate comes next, from those that were tried. Others run the steps.

First doubled until one fails, then halved in between until both ends are near each other. A rate has failed when it failed
twice: one hiccup of a busy machine must not end the search a factor of two too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

KEPT_SHARE: Final = 0.999
"""Of what was due, delivered in time."""
NEAR: Final = 1.06
"""How far apart the highest that was kept and the lowest that failed may stay: less than the runs' own spread finds nothing."""
TRIES: Final = 2
MOST_STEPS: Final = 40


@dataclass(frozen=True, slots=True)
class Tried:
    rate: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Search:
    start: float
    least: float = 1.0
    """Below this nothing is looked for."""
    most: float = 10_000_000.0

    def next_rate(self, tried: Sequence[Tried]) -> float | None:
        """None when the answer is known, or is not going to be."""
        if len(tried) >= MOST_STEPS:
            return None
        if not tried:
            return self.start
        last = tried[-1]
        if not last.kept and sum(step.rate == last.rate for step in tried) < TRIES:
            return last.rate
        best, worst = self.best(tried), self._lowest_failed(tried)
        if worst is None:
            return None if last.rate >= self.most else min(last.rate * 2, self.most)
        if best is None:
            return None if worst <= self.least else max(worst / 4, self.least)
        return None if worst / best <= NEAR else (worst * best) ** 0.5

    @staticmethod
    def best(tried: Sequence[Tried]) -> float | None:
        """The highest that was kept."""
        return max((step.rate for step in tried if step.kept), default=None)

    @staticmethod
    def _lowest_failed(tried: Sequence[Tried]) -> float | None:
        kept = {step.rate for step in tried if step.kept}
        return min((step.rate for step in tried if not step.kept and step.rate not in kept), default=None)
