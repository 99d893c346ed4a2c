"""When the next message is due, and who wakes up its sender: an open loop, which no slow bus can slow down.

What has become due since the last look is sent together.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from bus.bench.order import Order
from bus.bench.ticking import ticks

TICK_SECONDS: Final = 0.001
"""More often than this nobody is woken up: half of it is what the generator adds to the average wait at high rates."""


class Pace:
    """Of one sender of several, who take turns."""

    def __init__(self, order: Order, *, sender: int = 0, senders: int = 1, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.total = order.messages(senders)
        self._begin_ns, self._now_ns = order.begin_ns, now_ns
        self._first, self._apart = sender * 1e9 / order.rate, senders * 1e9 / order.rate

    def due(self) -> int:
        """How many have been due so far."""
        passed = self._now_ns() - self._begin_ns - self._first
        return min(int(passed / self._apart) + 1, self.total) if passed >= 0 else 0

    def due_ns(self, number: int) -> int:
        return self._begin_ns + int(self._first + number * self._apart)

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """`await tick()` returns when something more may be due."""
        async with ticks(max(TICK_SECONDS, self._apart / 1e9), self.due_ns(0)) as tick:
            yield tick
