"""What was said to the server of records of one consumer, until it has confirmed that it heard all of it.

It is sent at once and confirmed when somebody asks: the server hears what is said of one consumer in order, so one question after
all of it is enough. Where the connection was lost meanwhile, what was said since the last confirmation is said again, which does no
harm. What nobody asks about is remembered as far as there is room.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from bus.backbone.interface import MAX_OUTSTANDING
from bus.backbone.nats.connection import Connection, UnansweredError
from bus.backbone.nats.jetstream import PATIENCE_SECONDS, RETRY_SECONDS, unreachable
from bus.backbone.nats.layout import TOUCH, consumer_of, question
from bus.clock import Clock


class Said:
    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection, self._clock = connection, clock
        self._unconfirmed: deque[tuple[str, bytes]] = deque(maxlen=MAX_OUTSTANDING)
        self._count = 0
        """All that was ever said."""
        self._losses = connection.losses
        """How often the connection was lost when what is unconfirmed was sent."""

    def say(self, reply: str, verb: bytes) -> None:
        """`reply`: one that `parse_reply` took."""
        self._count += 1
        self._unconfirmed.append((reply, verb))
        self._connection.send(reply, verb)

    async def confirm(self) -> None:
        """Until the server has all of it. Raises BackboneError("disk"), ClosedError."""
        until = self._clock.monotonic() + PATIENCE_SECONDS
        while self._unconfirmed:
            count = self._count
            with suppress(UnansweredError):
                self._say_again()
                await self._connection.flush()
                if await self._is_heard():
                    self._forget(count)
                    return
            if self._clock.monotonic() > until:
                raise unreachable(self._connection)
            await self._clock.sleep(RETRY_SECONDS)

    def _say_again(self) -> None:
        """Where the connection was lost since."""
        if self._losses != self._connection.losses:
            self._losses = self._connection.losses
            for reply, verb in self._unconfirmed:
                self._connection.send(reply, verb)

    async def _is_heard(self) -> bool:
        """Whether the server answers, on a connection that was not lost since. Raises UnansweredError, ClosedError."""
        for reply in {consumer_of(reply): reply for reply, _ in self._unconfirmed}.values():
            await self._connection.ask(question(reply), TOUCH)
        return self._losses == self._connection.losses

    def _forget(self, count: int) -> None:
        """So many, of all that were ever said, are confirmed."""
        while len(self._unconfirmed) > self._count - count:
            self._unconfirmed.popleft()
