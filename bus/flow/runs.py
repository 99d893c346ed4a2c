"""A set of numbers that mostly follow each other, as runs: sorted, apart, each [start, end).

Two arrays of 64-bit numbers, so that a run costs 16 bytes, looking is a bisection, and adding at the end moves nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Runs:
    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts, self._ends = array("Q"), array("Q")

    def __len__(self) -> int:
        """How many runs, not how many numbers."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def end_of(self, start: int) -> int | None:
        """Where the run that begins exactly here ends; None if none does."""
        place = bisect_left(self._starts, start)
        return self._ends[place] if place < len(self._starts) and self._starts[place] == start else None

    def ends_by(self, start: int) -> bool:
        """Whether nothing of it is at or behind this number."""
        return not self._ends or start >= self._ends[-1]

    def follow(self, start: int, end: int) -> int | None:
        """Add [start, end) if the last run ends where it begins; where that run begins, or None."""
        ends = self._ends
        if not ends or ends[-1] != start:
            return None
        ends[-1] = end
        return self._starts[-1]

    def add(self, start: int, end: int) -> tuple[int, ...]:
        """Add [start, end), merging what it touches. Gives the starts of runs that changed, were swallowed or are new."""
        last_start = self.follow(start, end)  # what mostly happens
        if last_start is not None:
            return (last_start,)
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first == last:
            self._starts.insert(first, start)
            self._ends.insert(first, end)
            return (start,)
        touched = self._starts[first:last].tolist()
        start, end = min(start, touched[0]), max(end, self._ends[last - 1])
        self._starts[first:last] = array("Q", (start,))
        self._ends[first:last] = array("Q", (end,))
        return (start, *touched)

    def missing(self, start: int, end: int) -> list[int]:
        """The numbers of [start, end) that are not in it."""
        if not self._ends or start >= self._ends[-1]:
            return [*range(start, end)]
        found: list[int] = []
        place = bisect_right(self._ends, start)
        while start < end:
            if place == len(self._starts) or self._starts[place] >= end:
                return [*found, *range(start, end)]
            found += range(start, self._starts[place])
            start = self._ends[place]
            place += 1
        return found
