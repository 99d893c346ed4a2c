"""Requests to the authority (AUTHORITY frames): passed on unread to whoever takes them, and the answers back to who asked.

The broker judges nothing of them: the authority looks at signature, right and freshness itself. What it does is to keep the way
short and narrow: one request a link at a time, so many in all, and none longer than a request can be. Where nobody takes any, or
there are too many, the host hears `busy` with the request's id, which is a hash of its bytes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncGenerator
from typing import Any, Final, Protocol

import anyio

from bus.broker.host_link import HostLink
from bus.broker.moment import Moment
from bus.protocol.frames import Frame
from bus.trust.petition import MAX_ANSWER_BYTES, MAX_PETITION_BYTES, petition_id

MOST: Final = 64
"""That wait for an answer."""


class Asker(Protocol):
    """Who waits for an answer: a host, or somebody far away for whom another broker asks."""

    def answer(self, frame: Frame, *fields: Any) -> None: ...

    def refuse(self, code: str, ref: bytes) -> None: ...


class Petitions:
    def __init__(self) -> None:
        self._asked: dict[int, tuple[Asker, bytes]] = {}
        """By number: who waits, and for what."""
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._numbers = 0
        self._taker: object | None = None
        self._wake = anyio.Event()
        self._counts: Counter[str] = Counter()

    def ask(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        self.take(host, fields[1])

    def take(self, host: Asker, request: bytes) -> None:
        if len(request) > MAX_PETITION_BYTES:
            self._refuse(host, "malformed", petition_id(request))
        elif self._taker is None or len(self._asked) >= MOST or any(asker is host for asker, _ in self._asked.values()):
            self._refuse(host, "busy", petition_id(request))
        else:
            self._numbers += 1
            self._counts["asked"] += 1
            self._asked[self._numbers] = host, petition_id(request)
            self._waiting.append((self._numbers, request))
            self._wake.set()

    async def taken(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Requests with their numbers, one after the other. A later taker takes over; what nobody answers any more is `busy`."""
        me = self._taker = object()
        self._drop()
        try:
            while self._taker is me:
                while self._waiting and self._taker is me:
                    yield self._waiting.popleft()
                if self._taker is me:
                    self._wake = anyio.Event()
                    await self._wake.wait()
        finally:
            if self._taker is me:
                self._taker = None
                self._drop()

    def answer(self, number: int, answer: bytes) -> None:
        """Of a request that nobody waits for any more, nothing."""
        host, _ = self._asked.pop(number, (None, b""))
        if host is not None and len(answer) <= MAX_ANSWER_BYTES:
            self._counts["answered"] += 1
            host.answer(Frame.AUTHORITY, answer)

    def lost(self, host: HostLink) -> None:
        """Its link is gone. What it asked is done all the same, if it was taken."""
        for number in [number for number, (asker, _) in self._asked.items() if asker is host]:
            del self._asked[number]
            self._waiting = deque(one for one in self._waiting if one[0] != number)

    def _drop(self) -> None:
        asked, self._asked = self._asked, {}
        self._waiting.clear()
        self._wake.set()
        for host, id_ in asked.values():
            self._refuse(host, "busy", id_)

    def _refuse(self, host: Asker, code: str, id_: bytes) -> None:
        self._counts[code] += 1
        host.refuse(code, id_)

    def statistics(self) -> dict[str, int]:
        return {"waiting": len(self._asked), **self._counts}
