"""Until when things are kept, for state that may grow only as long as something needs it.

What refuses replays must never go early, so a time can be moved later, never earlier. Finding what has expired looks only at
that, not at everything: a heap holds one entry for each key, with the time that it had at first; a later time is noticed when
the entry comes up.
"""

from __future__ import annotations

from heapq import heappop, heappush


class Expiry:
    """Keys of bytes, each with the last moment at which it is still needed."""

    __slots__ = ("_due", "_until")

    def __init__(self) -> None:
        self._until: dict[bytes, int] = {}
        self._due: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._until)

    def keep(self, key: bytes, *, until_ms: int) -> None:
        """Keep it until then, or longer if it is kept longer already."""
        held = self._until.get(key)
        if held is None:
            heappush(self._due, (until_ms, key))
        if held is None or until_ms > held:
            self._until[key] = until_ms

    def until_ms(self, key: bytes) -> int:
        return self._until[key]

    def take_expired(self, now_ms: int) -> list[bytes]:
        """The keys that are needed no more; they are forgotten here."""
        expired = []
        while self._due and self._due[0][0] < now_ms:
            _, key = heappop(self._due)
            until_ms = self._until[key]
            if until_ms < now_ms:
                del self._until[key]
                expired.append(key)
            else:
                heappush(self._due, (until_ms, key))
        return expired
