"""What every body begins with: when it was due, which one it is, whose, and of which step. So no two bodies are the same.

    u64 due, in nanoseconds of the machine's monotonic clock, or 0 (not stamped) ‖ u32 number ‖ u16 source ‖ u16 step ‖ noise

A source is one agent on one topic: that is where the bus promises order. Above `STAMP_ALL_BELOW` messages a second one in
`STAMP_EVERY` is stamped, because reading the clock for every one would then be a good part of what is measured.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Final

HEADER: Final = struct.Struct(">QIHH")
HEADER_BYTES: Final = HEADER.size
MIN_BODY_BYTES: Final = 64
MAX_BODY_BYTES: Final = 64 << 10
STAMP_ALL_BELOW: Final = 100_000
STAMP_EVERY: Final = 64
_NOISE_BYTES: Final = 1 << 20


def stamp_every(rate: float) -> int:
    """Which of so many a second are stamped: every one, or one in 64."""
    return STAMP_EVERY if rate > STAMP_ALL_BELOW else 1


@cache
def _noise(seed: int) -> bytes:
    return Random(seed).randbytes(_NOISE_BYTES)  # noqa: S311  bodies that differ, and hide nothing


class Bodies:
    """Makes the bodies of one source. The noise is the same each time for the same seed, and cannot be compressed."""

    def __init__(self, source: int, *, seed: int = 1) -> None:
        self._source, self._noise = source, _noise(seed)

    def make(self, number: int, due_ns: int, *, step: int, size: int) -> bytes:
        rest = size - HEADER_BYTES
        start = number * 61 % (_NOISE_BYTES - rest)
        return HEADER.pack(due_ns, number, self._source, step) + self._noise[start : start + rest]

    def maker(self, *, step: int, size: int) -> Callable[[int, int], bytes]:
        """The same for one step, as quick as it gets: (number, due_ns) -> body."""
        pack, noise, source = HEADER.pack, self._noise, self._source
        rest = size - HEADER_BYTES
        room = _NOISE_BYTES - rest

        def make(number: int, due_ns: int) -> bytes:
            start = number * 61 % room
            return pack(due_ns, number, source, step) + noise[start : start + rest]

        return make
