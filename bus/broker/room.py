"""How much may wait in a broker for all slow readers together. Each has its own bound too; this one is for the sum."""

from __future__ import annotations

from typing import Final

MAX_BYTES: Final = 128 << 20


class Room:
    __slots__ = ("_most", "used")

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._most, self.used = most, 0

    def has(self, size: int) -> bool:
        return self.used + size <= self._most

    def take(self, size: int) -> None:
        """Give it back with a negative size."""
        self.used += size
