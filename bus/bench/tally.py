"""Which numbers of one source have come: how many twice, and how many after a later one.

What was expected next costs one comparison. Anything else is looked up among the gaps, which are few where all is well.
"""

from __future__ import annotations

from bisect import bisect_right


class Tally:
    __slots__ = ("_ends", "_starts", "came", "duplicated", "next", "reordered")

    def __init__(self) -> None:
        self.next = 0
        """The one after the largest that came."""
        self.came = 0
        """Different ones."""
        self.duplicated = 0
        self.reordered = 0
        self._starts: list[int] = []
        self._ends: list[int] = []
        """What has not come below `next`: from start to before end, in order, none touching another."""

    def add(self, number: int) -> None:
        if number >= self.next:
            if number > self.next:
                self._starts.append(self.next)
                self._ends.append(number)
            self.next = number + 1
            self.came += 1
        elif self._fill(number):
            self.came += 1
            self.reordered += 1
        else:
            self.duplicated += 1

    @property
    def missing(self) -> int:
        """Of those before the largest that came."""
        return self.next - self.came

    def _fill(self, number: int) -> bool:
        """Whether this was missing; then it is no more."""
        place = bisect_right(self._starts, number) - 1
        if place < 0 or number >= self._ends[place]:
            return False
        start, end = self._starts[place], self._ends[place]
        left = [(start, number)] if start < number else []
        right = [(number + 1, end)] if number + 1 < end else []
        self._starts[place : place + 1] = [begin for begin, _ in left + right]
        self._ends[place : place + 1] = [stop for _, stop in left + right]
        return True
