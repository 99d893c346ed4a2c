"""One stream's way in: messages are sent one behind the other without waiting, and each is acknowledged when it is stored.

healing     what has no answer in time, or was refused because there is no leader, is sent again with the same id: JetStream stores
            nothing twice. Meanwhile nothing new is sent, and of several that heal the one that began first goes first, so that what
            was sent together keeps its order as far as JetStream lets it
in vain     after `PATIENCE_SECONDS`, or when there is no room: BackboneError. Some may be stored; sending all again does no harm
its time    where the servers of this stream take one for each message (`kept_ms`), what expires sooner than the stream's retention
            says when it may go. A server that does not take it after all says so, and has it without
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import anyio

from bus.backbone.nats.connection import ANSWER_SECONDS, NO_RESPONDERS, Arrived, Connection, UnansweredError
from bus.backbone.nats.jetstream import (
    FULL,
    NO_TTL,
    PATIENCE_SECONDS,
    RETRY_SECONDS,
    ApiError,
    check_position,
    full,
    parse_answer,
    unreachable,
)
from bus.backbone.nats.layout import TTL, ttl
from bus.clock import Clock
from bus.errors import BackboneError


class Outgoing(NamedTuple):
    subject: str
    headers: dict[str, str]
    data: bytes
    expires_ms: int = 0
    """From then on nobody is handed it; 0: as long as its stream keeps it."""


class Stored(NamedTuple):
    seq: int
    is_duplicate: bool


class _Turn:
    """Messages that were given together."""

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self.messages = messages
        self.stored: list[Stored | None] = [None] * len(messages)
        self.left = len(messages)
        self.tokens: list[str] = []
        self.error: BackboneError | None = None
        self.has_no_ttl = False
        """A server said that messages of this stream have no time of their own."""
        self.event = anyio.Event()

    def heard(self, place: int, arrived: Arrived | None) -> None:
        if self.stored[place] is not None:
            return
        try:
            stored = parse_stored(arrived)
        except UnansweredError:
            self.event.set()
        except ApiError as error:
            if error.number in FULL:
                self.error = full()
            self.has_no_ttl = error.number == NO_TTL
            self.event.set()
        except BackboneError as error:
            self.error = error
            self.event.set()
        else:
            self.stored[place] = stored
            self.left -= 1
            if not self.left:
                self.event.set()

    def missing(self) -> Iterable[int]:
        return [place for place, stored in enumerate(self.stored) if stored is None]


class Appender:
    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection, self._clock = connection, clock
        self._turns: dict[_Turn, None] = {}
        """The oldest first."""
        self.kept_ms = 0
        """How long the stream keeps what has no time of its own; 0 where its servers take none."""
        self._healing = 0
        self._changed = anyio.Event()

    async def append(self, messages: Sequence[Outgoing]) -> list[Stored]:
        """Raises BackboneError("disk", "disk_full"), ClosedError."""
        while self._healing:
            await self._changed.wait()
        turn = _Turn(messages)
        self._turns[turn] = None
        try:
            await self._send(turn)
            await self._answers(turn)
            if turn.left and turn.error is None:
                await self._heal(turn)
            if turn.error is not None:
                raise turn.error
            return [stored for stored in turn.stored if stored is not None]
        finally:
            del self._turns[turn]
            self._forget(turn)
            self._tell()

    async def _heal(self, turn: _Turn) -> None:
        until = self._clock.monotonic() + PATIENCE_SECONDS
        self._healing += 1
        try:
            while next(iter(self._turns)) is not turn:
                await self._changed.wait()
            while turn.left and turn.error is None:
                if self._clock.monotonic() > until:
                    raise unreachable(self._connection)
                await self._clock.sleep(RETRY_SECONDS)  # what is on its way yet may come
                self._forget(turn)
                turn.event = anyio.Event()
                if turn.has_no_ttl:
                    self.kept_ms = 0
                if turn.left:
                    await self._send(turn)
                    await self._answers(turn)
        finally:
            self._healing -= 1

    async def _send(self, turn: _Turn) -> None:
        expect, publish = self._connection.expect, self._connection.publish
        for place in turn.missing():
            message = turn.messages[place]
            token = expect(partial(turn.heard, place))
            turn.tokens.append(token)
            try:
                await publish(message.subject, message.data, token, self._headers(message))
            except UnansweredError:
                turn.event.set()
                return

    async def _answers(self, turn: _Turn) -> None:
        """Until all are there, or one says that they do not come, or none comes any more."""
        left = 0
        while turn.left != left and not turn.event.is_set():
            left = turn.left
            with suppress(TimeoutError), self._clock.fail_after(ANSWER_SECONDS):
                await turn.event.wait()

    def _headers(self, message: Outgoing) -> dict[str, str]:
        if not (self.kept_ms and message.expires_ms):
            return message.headers
        found = ttl(message.expires_ms, self._clock.now_ms(), self.kept_ms)
        return {**message.headers, TTL: found} if found else message.headers

    def _forget(self, turn: _Turn) -> None:
        for token in turn.tokens:
            self._connection.forget(token)
        turn.tokens.clear()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


def parse_stored(arrived: Arrived | None) -> Stored:
    """Raises UnansweredError, ApiError, BackboneError("version")."""
    if arrived is None or arrived.status == NO_RESPONDERS:
        raise UnansweredError("an append")
    answer = parse_answer(arrived.data)
    seq = answer.get("seq")
    if type(seq) is not int or not 0 < seq < 1 << 63:
        raise UnansweredError("an append without a position")
    return Stored(check_position(seq), answer.get("duplicate") is True)
