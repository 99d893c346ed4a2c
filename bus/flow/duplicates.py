"""What was stored in the last ten minutes is not stored again: (sender, id), and the position that it has.

    known       whoever is about to store something writes it here, so that who brings it meanwhile waits for the same outcome
    stored      it is
    forget      it could not be

What is remembered is bounded twice, by time and by number. Where a flood reaches the number first, the oldest are forgotten
early, and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

MAX_KEYS: Final = 1 << 18
"""Some 50 MB; at 2,500 records a second nearly two minutes."""

Key = tuple[str, bytes]


class Duplicates:
    __slots__ = ("_keep_ms", "_lots", "_most", "forgotten_early", "known")

    def __init__(self, *, keep_ms: int, most: int = MAX_KEYS) -> None:
        self._keep_ms, self._most = keep_ms, most
        self.known: dict[Key, int] = {}
        """The position of each; a plain dictionary, because every record is looked up in it and written to it."""
        self._lots: deque[tuple[int, Sequence[Key]]] = deque()
        self.forgotten_early = 0

    def stored(self, keys: Sequence[Key], *, now_ms: int) -> None:
        """Also what is read again after a start, oldest first."""
        self._lots.append((now_ms + self._keep_ms, keys))
        while self._lots and (self._lots[0][0] <= now_ms or len(self.known) > self._most):
            until_ms, oldest = self._lots.popleft()
            self.forgotten_early += len(oldest) if until_ms > now_ms else 0
            self.forget(oldest)

    def forget(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.known.pop(key, None)
