"""How many turns may be out: the far end sets the pace.

A turn is out until it is credited, and while as many are out as the window allows, the next one gathers. That alone makes batches:
an idle link sends a record at once and alone, a busy one sends what has gathered.

    start     8 turns
    grows     doubles when the turn that filled the window came back almost as soon as one that had the way for itself: then the way
              is long, and more of them fit on it
    shrinks   halves, never below the start, when that turn took so much longer that they must be waiting for each other

A window that grew because turns leave full, and for no other reason, would only make the queue in front of a slow reader longer:
nothing would come back any sooner. How long the way is, is measured by turns that were alone on it, and never by others. Within one
machine no way is long: what takes its time there waits for a processor, and a longer queue would make it wait longer.
"""

from __future__ import annotations

from collections import deque
from typing import Final

START: Final = 8
MOST: Final = 256
LONG_WAY_SECONDS: Final = 0.002
"""A way that is shorter is never too long for the first window."""
GROW: Final = 2.0
SHRINK: Final = 4.0
"""How many times as long as alone the turn that filled the window may take, before it no longer grows, or shrinks."""
REMEMBERED: Final = 16
"""Turns that were alone: the quickest of them says how long the way is."""


class TurnWindow:
    def __init__(self) -> None:
        self.size = START
        self._out: deque[tuple[float, bool, bool]] = deque()
        """When each left, whether it was alone, and whether it filled the window."""
        self._alone: deque[float] = deque(maxlen=REMEMBERED)
        self._changed = 0.0
        self.is_far = True
        """Whether the other end is on another machine: else the window stays as it begins."""

    @property
    def out(self) -> int:
        return len(self._out)

    @property
    def is_open(self) -> bool:
        return len(self._out) < self.size

    def sent(self, now: float) -> None:
        """A turn left, at this moment of a clock that never runs backwards."""
        self._out.append((now, not self._out, len(self._out) + 1 == self.size))

    def credited(self, count: int, now: float) -> None:
        """The oldest came back."""
        for _ in range(min(count, len(self._out))):
            left, alone, filled = self._out.popleft()
            if alone:
                self._alone.append(now - left)
            if filled and self.is_far and left >= self._changed:
                self._judge(now - left, now)

    def lost(self) -> int:
        """The link is gone, and all that was out with it; how many that were."""
        count = len(self._out)
        self._out.clear()
        self._alone.clear()
        self.size = START
        return count

    def _judge(self, took: float, now: float) -> None:
        """A turn that filled the window is back. Those that left before the last change say nothing about this size."""
        way, size = min(self._alone, default=took), self.size
        if LONG_WAY_SECONDS < took <= GROW * way:
            self.size = min(2 * size, MOST)
        elif took > SHRINK * way:
            self.size = max(size // 2, START)
        if self.size != size:
            self._changed = now
