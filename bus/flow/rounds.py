"""Which lane comes next: urgent ones first, then the others in turn, each with as many bytes as its share.

    urgent      control and critical: before all others, in the order in which they became ready
    the others  deficit round robin: each visit gives a lane its quantum, and what it does not use stays while it has something
    alone       a lane that nobody competes with takes all it may

Only lanes that have something are listed, so nothing here grows with those that are idle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

URGENT: Final = 1
"""Priorities up to this one do not wait for their share."""
QUANTUM_BYTES: Final = {2: 64 << 10, 3: 32 << 10, 4: 16 << 10}
"""By priority: high, normal, bulk."""
MAX_ENVELOPE_BYTES: Final = 128 << 10
MAX_DEFICIT_BYTES: Final = 2 << 20
"""More than the largest record, so that each has its turn."""


class Lane(Protocol):
    """What is asked of whoever wants a place."""

    priority: int
    deficit: int
    ready: bool
    """Whether it is listed here."""

    def first_bytes(self) -> int:
        """The size of the record that comes next."""


L = TypeVar("L", bound=Lane)


class Rounds(Generic[L]):
    def __init__(self) -> None:
        self._urgent: deque[L] = deque()
        self._others: deque[L] = deque()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    @property
    def has_urgent(self) -> bool:
        return bool(self._urgent)

    def any_other(self, is_it: Callable[[L], bool]) -> bool:
        """Whether this is true of one that is not urgent."""
        return any(map(is_it, self._others))

    def add(self, lane: L) -> None:
        """It has something now. One that is listed already stays where it is."""
        if not lane.ready:
            lane.ready = True
            (self._urgent if lane.priority <= URGENT else self._others).append(lane)

    def discard(self, lane: L) -> None:
        """It has nothing any more, or may not go on."""
        if lane.ready:
            lane.ready, lane.deficit = False, 0
            (self._urgent if lane.priority <= URGENT else self._others).remove(lane)

    def next(self) -> tuple[L, int] | None:
        """The next lane, and how many bytes it may send; None if there is none. It is not listed any more."""
        if self._urgent:
            lane = self._urgent.popleft()
            lane.ready = False
            return lane, MAX_ENVELOPE_BYTES
        while self._others:
            lane = self._others.popleft()
            if not self._others:
                lane.ready, lane.deficit = False, 0
                return lane, MAX_ENVELOPE_BYTES
            lane.deficit = min(lane.deficit + QUANTUM_BYTES[lane.priority], MAX_DEFICIT_BYTES)
            if lane.first_bytes() <= lane.deficit:
                lane.ready = False
                return lane, min(lane.deficit, MAX_ENVELOPE_BYTES)
            self._others.append(lane)
        return None

    def sent(self, lane: L, size: int, *, more: bool) -> None:
        """It sent so many bytes. With `more` it is listed again, at the end."""
        if more:
            lane.deficit = max(lane.deficit - size, 0)
            self.add(lane)
        else:
            lane.deficit = 0
