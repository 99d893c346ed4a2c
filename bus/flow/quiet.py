"""Which lines of a log are worth their room: one of a kind a minute, so that nobody who causes them can fill the disk.

A kind is who did what, in words of ours: what others choose freely (an id, a name that nobody certified) would make each a new one.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

LINE_SECONDS: Final = 60.0
MOST: Final = 1_024
"""Kinds that are remembered; a full table starts anew."""


class Quiet:
    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: dict[Hashable, float] = {}

    def may_say(self, *kind: Hashable, now: float) -> bool:
        """Whether none of this kind was said within a minute; then it counts as said. `now` is of a clock that nobody sets."""
        if self._until.get(kind, now) > now:
            return False
        if len(self._until) >= MOST:
            self._until.clear()
        self._until[kind] = now + LINE_SECONDS
        return True
