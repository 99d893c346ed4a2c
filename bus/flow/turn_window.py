"""How many turns may be out: the far end sets the pace.

A turn is out until it is credited, and while as many are out as the window allows, the next one gathers. That alone makes batches:
an idle link sends a record at once and alone, a busy one sends what has gathered.

    start     8 turns
    grows     doubles when the window was used up, and a turn takes little longer to come back than it once did:
              then the way is long, and more of them fit on it
    shrinks   halves, never below the start, when turns take so long that they must be waiting for each other

A window that grew because turns leave full, and for no other reason, would only make the queue in front of a slow reader longer:
nothing would come back any sooner.
"""

from __future__ import annotations

from collections import deque
from typing import Final

START: Final = 8
LEAST: Final = 1
MOST: Final = 256
LONG_WAY_SECONDS: Final = 0.002
"""A way that is shorter is never too long for the first window."""
LATE: Final = 2.0
"""How many times the shortest way a turn may take before the way counts as full."""
FORGET_AFTER: Final = 1_024
"""Turns after which the shortest way is measured anew: the way may have changed."""


class TurnWindow:
    def __init__(self) -> None:
        self.size = START
        self._out: deque[float] = deque()
        self._shortest = self._shortest_lately = float("inf")
        self._measured = 0
        self._used_up = False
        self._grown_at = 0

    @property
    def out(self) -> int:
        return len(self._out)

    @property
    def is_open(self) -> bool:
        return len(self._out) < self.size

    def sent(self, now: float) -> None:
        """A turn left, at this moment of a clock that never runs backwards."""
        self._out.append(now)
        if len(self._out) >= self.size:
            self._used_up = True

    def credited(self, count: int, now: float) -> None:
        """The oldest came back."""
        for _ in range(min(count, len(self._out))):
            took = now - self._out.popleft()
            self._note(took)
            if self._used_up and took > LONG_WAY_SECONDS and took <= LATE * self._shortest:
                self._grow()
            elif took > 2 * LATE * self._shortest and self.size > START:
                self.size = max(self.size // 2, START)
        if len(self._out) * 2 < self.size:
            self._used_up = False

    def lost(self) -> int:
        """The link is gone, and all that was out with it; how many that were."""
        count = len(self._out)
        self._out.clear()
        self.size, self._used_up = START, False
        return count

    def _note(self, took: float) -> None:
        self._shortest = min(self._shortest, took)
        self._shortest_lately = min(self._shortest_lately, took)
        self._measured += 1
        if self._measured % FORGET_AFTER == 0:
            self._shortest, self._shortest_lately = self._shortest_lately, float("inf")

    def _grow(self) -> None:
        """Once for each window that went out and came back."""
        if self._measured - self._grown_at >= self.size:
            self._grown_at = self._measured
            self.size = min(2 * self.size, MOST)
