"""What was stored in the last ten minutes is not stored again: (sender, id), and the position that it has.

    pending     who is about to store something writes it here, so that who brings it meanwhile waits for the same outcome
    stored      it is
    forget      it could not be

Millions of keys are remembered, so not as objects. A *generation* is a hash table of byte strings: of each key 64 bits of its hash,
its position and when it was stored, 20 bytes. Python's hash has a secret of this process, so nobody can look for two keys that
meet; by chance one in 10^13 records is taken for another. A generation takes what comes in five minutes, and goes as a whole.

What is remembered is bounded by time and by number. Where a flood reaches the number first, the oldest are forgotten early, and
counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final

MAX_KEYS: Final = 1 << 21
"""Some 60 MB; at 3,400 records a second ten minutes."""

Key = tuple[str, bytes]

_BUCKETS: Final = 1 << 16
_ENTRY: Final = Struct("<qQI")
_MARK: Final = Struct("<q")
_REST: Final = Struct("<QI")


class _Generation:
    __slots__ = ("began_ms", "buckets", "count", "newest_ms")

    def __init__(self, now_ms: int) -> None:
        self.buckets = [b""] * _BUCKETS
        self.began_ms = self.newest_ms = now_ms
        self.count = 0


class Duplicates:
    __slots__ = ("_generations", "_keep_ms", "_most", "_span_ms", "count", "forgotten_early", "pending")

    def __init__(self, *, keep_ms: int, most: int = MAX_KEYS) -> None:
        self._keep_ms, self._span_ms, self._most = keep_ms, keep_ms // 2, most
        self.pending: dict[Key, int] = {}
        """Positions of what is not stored yet."""
        self._generations: deque[_Generation] = deque()
        """The newest first."""
        self.count = 0
        self.forgotten_early = 0

    def find(self, keys: Iterable[Key], *, now_ms: int) -> dict[Key, int]:
        """Those that were stored, with their positions."""
        found: dict[Key, int] = {}
        tables = [generation.buckets for generation in self._generations]
        mark_of, last = _MARK.pack, _BUCKETS - 1
        for key in keys:
            number = hash(key)
            mark = mark_of(number)
            for buckets in tables:
                if mark in buckets[number & last]:
                    position = self._position(buckets[number & last], mark, now_ms)
                    if position is not None:
                        found[key] = position
                        break
        return found

    def stored(self, keys: Sequence[Key], first: int, *, now_ms: int) -> None:
        """These are, at positions from `first` on. Also for what is read again after a start, the oldest first."""
        self._make_room(len(keys), now_ms)
        generation = self._generations[0]
        buckets, second = generation.buckets, -(-now_ms // 1000)
        entry, last = _ENTRY.pack, _BUCKETS - 1
        for position, key in enumerate(keys, first):
            number = hash(key)
            buckets[number & last] += entry(number, position, second)
        self.count += len(keys)
        generation.count += len(keys)
        generation.newest_ms = now_ms
        self.forget(keys)

    def forget(self, keys: Iterable[Key]) -> None:
        """They are pending no more."""
        for key in keys:
            self.pending.pop(key, None)

    def _position(self, bucket: bytes, mark: bytes, now_ms: int) -> int | None:
        place = bucket.find(mark)
        while place >= 0:
            if place % _ENTRY.size == 0:
                position, second = _REST.unpack_from(bucket, place + _MARK.size)
                if second * 1000 + self._keep_ms > now_ms:
                    return int(position)
            place = bucket.find(mark, place + 1)
        return None

    def _make_room(self, more: int, now_ms: int) -> None:
        newest = self._generations[0] if self._generations else None
        if newest is None or now_ms - newest.began_ms >= self._span_ms or newest.count >= self._most // 2:
            self._generations.appendleft(_Generation(now_ms))
        while len(self._generations) > 1:
            oldest = self._generations[-1]
            is_over = oldest.newest_ms + self._keep_ms <= now_ms
            if not is_over and self.count + more <= self._most:
                break
            self._generations.pop()
            self.count -= oldest.count
            self.forgotten_early += 0 if is_over else oldest.count
