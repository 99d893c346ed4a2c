"""A subscription: batches come in, messages are taken out one by one, and no task stands between.

    put        by the host, whole batches; what is too much is dropped or ends it, as its overflow says
    taking     the next message of a batch suspends nobody; between two batches is one checkpoint
    credit     whoever must not lose anything is sent no more than its limit; what was taken is given back by quarters
    end        an error of its own, or a quiet one; what came before is still handed out

Overflow: block (the publishers wait), drop_oldest, drop_newest, disconnect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, Self

import anyio
from anyio.lowlevel import checkpoint

from bus.agent.message import Batch, Message
from bus.errors import BusError, SlowReaderError, twin

BLOCK: Final = "block"
DROP_OLDEST: Final = "drop_oldest"
DROP_NEWEST: Final = "drop_newest"
DISCONNECT: Final = "disconnect"
OVERFLOWS: Final = (BLOCK, DROP_OLDEST, DROP_NEWEST, DISCONNECT)
MAX_SERIES: Final = 4_096
"""Senders' epochs and topics whose gaps are looked at."""

Deliver = Callable[[Message], Awaitable[Message | None]]
"""What hooks do with a message: it, another one, or None if it is dropped."""


class Subscription:
    """Made by `agent.subscribe`. An async context manager and an async iterator of messages."""

    def __init__(
        self,
        agent: str,
        pattern: str,
        *,
        number: int,
        group: str,
        durable: str,
        limit: int,
        overflow: str,
        credit: Callable[[int, int], None],
        leave: Callable[[Subscription], Awaitable[None]],
        enter: Callable[[Subscription], Awaitable[None]],
    ) -> None:
        self.agent, self.pattern, self.group, self.durable = agent, pattern, group, durable
        self.number, self.limit, self.overflow = number, limit, overflow
        self.hooks: Deliver | None = None
        self.dropped = 0
        """Messages that came and were not wanted, as the overflow says."""
        self.delivered = 0
        """Messages in batches that were begun."""
        self._credit, self._leave, self._enter = credit, leave, enter
        self._batches: deque[Batch] = deque()
        self._pending = 0
        self._it: Iterator[Message] = iter(())
        self._taken = 0
        """Of the current batch, and of those before it that no credit was given back for."""
        self._current = 0
        self._wake: anyio.Event | None = None
        self._end: BusError | None = None
        self._ended = False
        self._lost = 0
        self._next_of: dict[tuple[bytes, str], int] = {}

    # ---- for the host --------------------------------------------------------------------------------------------------------

    def put(self, batch: Batch) -> None:
        if self._ended:
            return
        count = len(batch.indexes)
        if self._pending + count > self.limit and self.overflow != BLOCK and not self._make_room(count):
            self.dropped += count
            self._lost += count
            return
        if self._lost:
            batch.missed += self._lost
            self._lost = 0
        self._batches.append(batch)
        self._pending += count
        if self._wake is not None:
            self._wake.set()
            self._wake = None

    def gap(self, epoch: bytes, topic: str, before: int, records: int) -> int:
        """How many records were lost before this envelope."""
        key = (epoch, topic)
        expected = self._next_of.get(key, before)
        if len(self._next_of) >= MAX_SERIES and key not in self._next_of:
            self._next_of.clear()
        self._next_of[key] = before + records
        return max(before - expected, 0)

    def end(self, error: BusError | None = None) -> None:
        """Nothing comes any more. What is here is handed out, then this is raised, or the iteration is over."""
        if not self._ended:
            self._ended, self._end = True, error
            if self._wake is not None:
                self._wake.set()
                self._wake = None

    @property
    def is_open(self) -> bool:
        return not self._ended

    @property
    def pending(self) -> int:
        """Messages that wait to be taken."""
        return self._pending

    def _make_room(self, count: int) -> bool:
        if self.overflow == DISCONNECT:
            self.end(SlowReaderError(self.pattern, pending=self._pending, limit=self.limit))
            return False
        if self.overflow == DROP_NEWEST:
            return False
        while self._batches and self._pending + count > self.limit:
            gone = len(self._batches.popleft().indexes)
            self._pending -= gone
            self.dropped += gone
            self._lost += gone
        return True

    # ---- for the agent -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._enter(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Nothing is delivered any more; what was not taken is forgotten."""
        self.end()
        self._batches.clear()
        self._pending, self._it = 0, iter(())
        await self._leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """The next message. No checkpoint, unless a new batch begins or has to be waited for."""
        while True:
            for message in self._it:
                if self.hooks is None:
                    return message
                kept = await self.hooks(message)
                if kept is not None:
                    return kept
            await self._begin_batch()

    async def batches(self) -> AsyncIterator[list[Message]]:
        """The same in bulk: whole envelopes, as they come."""
        while True:
            found = [*self._it]
            if self.hooks is not None:
                found = [kept for message in found if (kept := await self.hooks(message)) is not None]
            if found:
                yield found
            try:
                await self._begin_batch()
            except StopAsyncIteration:
                return

    async def _begin_batch(self) -> None:
        self._finish_batch()
        if self._batches:
            await checkpoint()
        while not self._batches:
            if self._ended:
                if self._end is not None:
                    raise twin(self._end)
                raise StopAsyncIteration
            if self._wake is None:
                self._wake = anyio.Event()
            await self._wake.wait()
        batch = self._batches.popleft()
        self._current = len(batch.indexes)
        self.delivered += self._current
        self._it = map(Message, (batch,) * self._current, batch.indexes)

    def _finish_batch(self) -> None:
        self._pending -= self._current
        self._taken += self._current
        self._current = 0
        if self._taken * 4 >= self.limit and not self._ended:
            self._credit(self.number, self._taken)
            self._taken = 0

    def __repr__(self) -> str:
        return f"<Subscription of {self.agent} to {self.pattern}, {self._pending} waiting>"


def check_options(overflow: str, limit: int) -> None:
    """Raises ValueError for what no subscription can have."""
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow={overflow!r}: one of {', '.join(OVERFLOWS)}")
    if not 0 < limit <= 0xFFFFFFFF:
        raise ValueError(f"limit={limit!r}: a number of messages from 1 on")
