"""One `publish_many`: as many bodies at a time as there is room for, and no more are asked for.

Plain bytes go into their lane by the chunk. Everything else goes one by one, as `publish` would put it there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from bus.agent.lane import Lane, Note
from bus.agent.publishing import ACCEPTED, STORED, Publishing
from bus.agent.receipts import Receipt
from bus.flow.waiting import MAX_BYTES, MAX_RECORDS

MOST_WAITING: Final = 1_024
"""Receipts that are waited for at a time."""
_ONLY_BYTES: Final = {bytes}


class Many:
    """As far as it has come: `accepted` bodies were taken."""

    def __init__(self, publishing: Publishing, lane: Lane, headers: Mapping[str, str] | None, until: str) -> None:
        self._publishing, self._lane, self._headers, self._until = publishing, lane, headers, until
        self._receipts: deque[Receipt] = deque()
        self.accepted = 0

    async def all(self, bodies: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Return when they are where they are waited for."""
        if isinstance(bodies, AsyncIterable):
            async for body in bodies:
                await self._one(body)
        elif self._until != ACCEPTED or self._headers:
            for body in bodies:
                await self._one(body)
        else:
            await self._chunks(iter(bodies))
        await self._finished(0)

    async def _chunks(self, bodies: Iterator[Any]) -> None:
        lane = self._lane
        while True:
            await lane.wait_for_room()
            waiting = lane.waiting
            chunk = list(islice(bodies, MAX_RECORDS - len(waiting.payloads)))
            if not chunk:
                return
            if {*map(type, chunk)} == _ONLY_BYTES and max(map(len, chunk)) * len(chunk) <= MAX_BYTES and self._fit(chunk):
                waiting.payloads += chunk
                waiting.size_bytes += sum(map(len, chunk))
                self.accepted += len(chunk)
                if not lane.ready:
                    self._publishing.outbox.put(lane)
            else:
                for body in chunk:
                    await self._one(body)

    async def _one(self, body: Any) -> None:
        await self._lane.wait_for_room()
        receipt = None if self._until == ACCEPTED else Receipt(durable=self._lane.rule.is_durable)
        note = None if receipt is None else Note(b"", b"", receipt)
        self._publishing.add(self._lane, body, self._headers, note)
        self.accepted += 1
        if receipt is not None:
            self._receipts.append(receipt)
            await self._finished(MOST_WAITING)

    async def _finished(self, most: int) -> None:
        """Return when at most so many are still waited for."""
        while len(self._receipts) > most:
            receipt = self._receipts.popleft()
            await (receipt.stored() if self._until == STORED else receipt.sent())

    def _fit(self, chunk: list[bytes]) -> bool:
        return max(map(len, chunk)) <= self._lane.rule.max_bytes and self._lane.trouble is None
