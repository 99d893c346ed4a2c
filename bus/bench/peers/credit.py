"""How a sender that gives its most is kept from drowning its reader: the same window for every bus, beside the bus.

Some buses hold a fast sender back, some drop, some fill their memory. Measured without a window the figures would be those of
queues. So the reader says through a named pipe how much it has got, one byte for each `chunk` messages, and the sender stays within
the window. A bus that lost messages gets their room back after a second: loss is counted, and does not end the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio

from bus.bench.peers.contender import Take

LOST_AFTER_SECONDS: Final = 1.0


class Credit:
    """The sender's end. `chunk` messages for each byte; `readers` bytes for each chunk, as every reader says it."""

    def __init__(self, pipe: Path, *, window: int, chunk: int, readers: int, lost_after: float = LOST_AFTER_SECONDS) -> None:
        self._descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        self._chunks, self._readers, self._lost_after = max(window // chunk, 2), readers, lost_after
        self._sent = self._said = 0

    async def room(self) -> None:
        """Return when one more chunk may be sent."""
        self._look()
        while self._sent - self._said // self._readers >= self._chunks:
            with anyio.move_on_after(self._lost_after) as patience:
                await anyio.wait_readable(self._descriptor)
            if patience.cancelled_caught:
                self._said = self._sent * self._readers
            self._look()
        self._sent += 1

    def _look(self) -> None:
        try:
            self._said += len(os.read(self._descriptor, 1 << 16))
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self._descriptor)


def crediting(take: Take, pipe: Path, *, chunk: int) -> tuple[Take, Callable[[], None]]:
    """The reader's end: `take`, and a word to the sender for each chunk; and how it is closed."""
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    left = chunk

    def take_and_tell(data: bytes) -> None:
        nonlocal left
        take(data)
        left -= 1
        if not left:
            left = chunk
            try:
                os.write(descriptor, b".")
            except BlockingIOError:  # the sender does not look: it has ended
                return

    return take_and_tell, lambda: os.close(descriptor)


def now_ns() -> int:
    """All processes of this machine share it."""
    return time.monotonic_ns()
