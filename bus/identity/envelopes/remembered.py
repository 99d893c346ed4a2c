"""A bounded table that forgets: for what took work to find out and stays true for a while.

What is remembered is an equation ("this signature fits these bytes"), never a verdict: chains, revocation, time and policy are
judged anew for every envelope. Even so the tables are emptied whenever trust changes, and what was found out under an older
trust is not put in any more: a verification that began before a revocation cannot bring its result in afterwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Entries live equally long, so the oldest is always the first to go."""

    def __init__(self, *, entries: int, lifetime_ms: int) -> None:
        self.entries, self.lifetime_ms = entries, lifetime_ms
        self.generation = 0
        self.hits = 0
        self.misses = 0
        self._table: OrderedDict[K, tuple[V, int]] = OrderedDict()
        """A dict would look for its first entry at each place that was freed before it: 2 us a signature, once it is full."""

    def __len__(self) -> int:
        return len(self._table)

    def get(self, key: K, *, now_ms: int) -> V | None:
        found = self._table.get(key)
        if found is None or found[1] < now_ms:
            self.misses += 1
            return None
        self.hits += 1
        return found[0]

    def holds(self, key: K, value: V, *, now_ms: int) -> bool:
        """Whether it is this very value that is remembered."""
        found = self._table.get(key)
        if found is not None and found[0] == value and found[1] >= now_ms:
            self.hits += 1
            return True
        self.misses += 1
        return False

    def put(self, key: K, value: V, *, now_ms: int, generation: int) -> None:
        """`generation` is that of the moment when finding out began."""
        if generation != self.generation:
            return
        self._table.pop(key, None)  # so that it goes to the end
        if len(self._table) >= self.entries:
            self._table.popitem(last=False)
        self._table[key] = (value, now_ms + self.lifetime_ms)

    def clear(self) -> None:
        """Forget everything, and what is being found out at this moment."""
        self.generation += 1
        self._table.clear()
