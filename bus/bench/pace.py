"""When the next message is due, and who wakes up its sender: an open loop, which no slow bus can slow down.

What has become due since the last look is sent together. A thread keeps the time, because an event loop's timers are up to a
millisecond late, and a loop that looks at the clock all the time takes a processor from those who are measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio import from_thread, lowlevel, to_thread

from bus.bench.order import Order

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
        async with ticks(max(TICK_SECONDS, self._apart / 1e9), self.due_ns(0), self._now_ns) as tick:
            yield tick


@asynccontextmanager
async def ticks(seconds: float, first_ns: int, now_ns: Callable[[], int]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Whoever awaits it is woken so often, the first time at `first_ns`; who comes late is woken at once, and once."""
    token = lowlevel.current_token()
    ticked, over = [anyio.Event()], threading.Event()

    def ring() -> None:
        ticked[0].set()

    def keep() -> None:
        due_ns, step_ns = first_ns, int(seconds * 1e9)
        while not over.wait(max((due_ns - now_ns()) / 1e9, 0)):
            if not ticked[0].is_set():  # who has not come back since the last time needs no second call
                from_thread.run_sync(ring, token=token)
            due_ns += step_ns * max((now_ns() - due_ns) // step_ns + 1, 1)  # who was late is not late for ever

    async def tick() -> None:
        await ticked[0].wait()
        ticked[0] = anyio.Event()

    thread = threading.Thread(target=keep, name="bench pace")
    thread.start()
    try:
        yield tick
    finally:
        over.set()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(thread.join)
