"""One `publish_many`: as many bodies at a time as there is room for, and no more are asked for.

Plain bytes go into their lane by the chunk. Everything else goes one by one, as `publish` would put it there; hooks that take a
batch get a chunk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from bus.agent import tracing
from bus.agent.hooks import Chain
from bus.agent.lane import Note
from bus.agent.publishing import PAUSE_SECONDS, SENT, STORED, Publishing, until_of
from bus.agent.receipts import Receipt, Together
from bus.agent.record import NO_HEADERS, Record, new_record
from bus.errors import Drop
from bus.flow.waiting import MAX_BYTES, MAX_RECORDS

MOST_WAITING: Final = 8_192
"""Receipts that are waited for at a time."""
FIRST_CHUNK: Final = 64
"""Before anything is known of how large they are."""
_ONLY_BYTES: Final = {bytes}


class Many:
    """As far as it has come: `accepted` bodies were taken."""

    def __init__(
        self,
        publishing: Publishing,
        topic: str,
        *,
        headers: Mapping[str, str] | None,
        ttl: float | None,
        priority: str | None,
        wait: str | None,
    ) -> None:
        """Raises NotPermittedError, ValueError."""
        self._publishing, self._topic, self._ttl, self._priority = publishing, topic, ttl, priority
        self._lane = publishing.lanes.get(topic, ttl=ttl, priority=priority)
        self._snapshot = publishing.lanes.snapshot
        self._until = until_of(self._lane, wait)
        self._headers = tracing.with_trace(headers) if tracing.is_on() else headers
        self._receipts: deque[Receipt] = deque()
        """Of those that are waited for until they are stored: a broker may say so of each twice."""
        self._together = Together()
        """Of all that are waited for until they are sent. How many are on their way at a time is what their lane lets go."""
        self._chunk = FIRST_CHUNK
        self._largest: int | None = None
        """Of the last chunk."""
        self.accepted = 0

    async def all(self, bodies: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Return when they are where they are waited for."""
        if isinstance(bodies, str | bytes | bytearray | memoryview):
            raise TypeError(
                f"these {type(bodies).__name__} are one body, and publish_many takes many: publish it, or put it in a list"
            )
        hooks = self._publishing.hooks.publishing
        if isinstance(bodies, AsyncIterable):
            async for body in bodies:
                await self._one(body)
        elif hooks is not None and hooks.is_batch:
            await self._batches(iter(bodies), hooks)
        elif hooks is not None or self._until == STORED or self._headers:
            for body in bodies:
                await self._one(body)
        else:
            await self._chunks(iter(bodies))
        await self._stored(0)
        await self._together.sent()

    async def _chunks(self, bodies: Iterator[Any]) -> None:
        while chunk := await self._next(bodies):
            if self._fit(chunk, self._largest):
                self._put(chunk)
            else:
                for body in chunk:
                    await self._accept(body, self._headers)
            self._together.check()

    async def _batches(self, bodies: Iterator[Any], hooks: Chain[Record]) -> None:
        topic, headers = self._topic, self._headers or NO_HEADERS
        while chunk := await self._next(bodies):
            records = [new_record(Record, (topic, body, headers)) for body in chunk]
            kept = await hooks.many(self._publishing.context, records, self._lost)
            for record in kept:
                self._publishing.check_topic(topic, record)
            plain = [record.body for record in kept if not record.headers]
            await self._wait_for_room()
            if self._until != STORED and len(plain) == len(kept) and self._fit(plain, largest_of(plain)):
                self._put(plain)
            else:
                for record in kept:
                    await self._accept(record.body, record.headers)
            self._together.check()

    async def _one(self, body: Any) -> None:
        headers = self._headers
        if self._publishing.hooks.publishing is not None:
            try:
                _, body, headers = await self._publishing.hooked(self._topic, body, headers)
            except Drop:
                return
        await self._accept(body, headers)

    async def _accept(self, body: Any, headers: Mapping[str, str] | None) -> None:
        await self._wait_for_room()
        receipt = Receipt(durable=self._lane.rule.is_durable) if self._until == STORED else None
        self._publishing.add(self._lane, body, headers, None if receipt is None else Note(b"", b"", receipt))
        self._accepted(1)
        if receipt is not None:
            self._receipts.append(receipt)
            await self._stored(MOST_WAITING)
        self._together.check()

    def _accepted(self, records: int) -> None:
        """The lane's newest."""
        self.accepted += records
        if self._until == SENT:
            self._lane.waiting.note_newest(records, self._together)
            self._together.pending += records

    async def _wait_for_room(self) -> None:
        """In the lane of the moment: under another policy it may be another one."""
        lanes, lane = self._publishing.lanes, self._lane
        if len(lane.waiting) >= lane.look and not lane.waiting.is_full:
            await self._publishing.paused(lane)
        if lane.waiting.is_full or lanes.snapshot is not self._snapshot:
            self._lane = await lanes.with_room(self._topic, ttl=self._ttl, priority=self._priority)
            self._snapshot = lanes.snapshot

    # ---- chunks --------------------------------------------------------------------------------------------------------------

    async def _next(self, bodies: Iterator[Any]) -> list[Any]:
        """As many as there is room for, going by how large the last ones were."""
        await self._wait_for_room()
        now = self._publishing.outbox.now
        began = now()
        chunk = list(islice(bodies, min(self._chunk, MAX_RECORDS - len(self._lane.waiting))))
        took = now() - began
        self._largest = largest = largest_of(chunk)
        if largest is None:
            largest = max((len(body) for body in chunk if type(body) is bytes), default=0)
        self._chunk = min(max(MAX_BYTES // max(largest, 1), 1), MAX_RECORDS)
        if took > 0:  # nor do they come from a slow source at the cost of everybody else's turn
            self._chunk = min(self._chunk, max(int(len(chunk) * PAUSE_SECONDS / took), 1))
        return chunk

    def _fit(self, chunk: list[Any], largest: int | None) -> bool:
        """Whether they can go into the lane as they are."""
        if largest is None or largest > self._lane.most_bytes or self._lane.trouble is not None:
            return False
        return len(chunk) <= MAX_RECORDS - len(self._lane.waiting)

    def _put(self, chunk: list[bytes]) -> None:
        lane, waiting = self._lane, self._lane.waiting
        waiting.payloads += chunk
        waiting.size_bytes += sum(map(len, chunk))
        self._accepted(len(chunk))
        if not lane.ready:
            self._publishing.outbox.put(lane)

    async def _lost(self, records: Sequence[Record], error: Exception) -> None:
        """A hook took them out, or refuses them: then all that came with them are not published."""
        if not isinstance(error, Drop):
            raise error
        self._publishing.dropped(len(records))

    async def _stored(self, most: int) -> None:
        """Return when at most so many are still waited for."""
        while len(self._receipts) > most:
            await self._receipts.popleft().stored()


def largest_of(chunk: list[Any]) -> int | None:
    """The size of the largest body; None if they are not all plain bytes."""
    return max(map(len, chunk)) if {*map(type, chunk)} == _ONLY_BYTES else None
