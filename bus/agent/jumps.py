"""Whether somebody has set the clock: its date has moved, and the hand that nobody sets has not."""

from __future__ import annotations

from typing import Final

from bus.clock import Clock

JUMP_MS: Final = 1_000
"""By which a clock is not slewed but set."""


class Jumps:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._apart_ms = self._apart()

    def happened(self) -> bool:
        """Since this was asked last."""
        before, now = self._apart_ms, self._apart()
        if abs(now - before) <= JUMP_MS:
            return False
        self._apart_ms = now
        return True

    def _apart(self) -> int:
        """How far the two hands are from each other."""
        return self._clock.now_ms() - int(self._clock.monotonic() * 1000)
