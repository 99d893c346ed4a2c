"""What agents of one gateway ask of the authority, whose hub is behind another: carried there and back, unread.

    SPACE.authority        [asker(16), request]        whoever has the authority listens
    SPACE.answers.ASKER    an answer, which names its request by a hash

At most once, and no proof: a request proves itself to the authority, which counts each once, and an answer is only a hint which
trust statement to wait for. Where nobody answers in ANSWER_SECONDS the authority is away, as far as anybody here can tell.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import anyio

from bus.backbone.nats.connection import Arrived, Connection, UnansweredError
from bus.backbone.nats.layout import Names
from bus.clock import Clock
from bus.errors import RemoteProtocolError
from bus.protocol.codec import pack, unpack

ASKER_BYTES: Final = 16
ANSWER_SECONDS: Final = 8.0
RETRY_SECONDS: Final = 1.0
MAX_WAITING: Final = 64
MAX_BYTES: Final = 8_192

Reply = Callable[[bytes], None]


class AuthorityLine:
    """`key`: what tells, of an answer, which request it belongs to; None for what is no answer."""

    def __init__(self, connection: Connection, names: Names, clock: Clock, *, key: Callable[[bytes], bytes | None]) -> None:
        self._connection, self._names, self._clock, self._key = connection, names, clock, key
        self._me = secrets.token_bytes(ASKER_BYTES)
        self._waiting: dict[bytes, tuple[anyio.Event, list[bytes]]] = {}

    async def listen(self) -> None:
        """To answers. Returns when it does."""
        await self._subscribe(self._names.answers(self._me.hex()), self._answered)

    async def serve(self, take: Callable[[bytes, Reply], None]) -> None:
        """As the authority's: `take` each request, with what sends its answer. Returns when it listens."""

        def heard(arrived: Arrived) -> None:
            found = _parse(arrived.data)
            if found is not None:
                asker, request = found
                take(request, lambda answer: self._connection.send(self._names.answers(asker.hex()), answer))

        await self._subscribe(self._names.authority, heard)

    async def ask(self, request: bytes, id_: bytes) -> bytes | None:
        """The answer that `key` says is this one's; None if there is none, and for one too many at a time."""
        if len(self._waiting) >= MAX_WAITING or id_ in self._waiting:
            return None
        came, answers = self._waiting[id_] = anyio.Event(), []
        try:
            self._connection.send(self._names.authority, pack([self._me, request]))
            with suppress(TimeoutError), self._clock.fail_after(ANSWER_SECONDS):
                await came.wait()
        finally:
            del self._waiting[id_]
        return answers[0] if answers else None

    async def _subscribe(self, subject: str, heard: Callable[[Arrived], None]) -> None:
        while True:
            try:
                await self._connection.subscribe(subject, heard)
            except UnansweredError:
                await self._clock.sleep(RETRY_SECONDS)
            else:
                return

    def _answered(self, arrived: Arrived) -> None:
        id_ = self._key(arrived.data) if len(arrived.data) <= MAX_BYTES else None
        found = None if id_ is None else self._waiting.get(id_)
        if found is not None and not found[1]:
            found[1].append(arrived.data)
            found[0].set()


def _parse(data: bytes) -> tuple[bytes, bytes] | None:
    """Who asks, and what; None for what is no request."""
    if len(data) > MAX_BYTES:
        return None
    try:
        fields: list[Any] = unpack(data, longest=2, arrays=1)
    except RemoteProtocolError:
        return None
    if [*map(type, fields)] != [bytes, bytes] or len(fields[0]) != ASKER_BYTES:
        return None
    return fields[0], fields[1]
