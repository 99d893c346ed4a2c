"""One consumer of JetStream, and what is fetched from it.

Fetched is only when somebody takes: what lies here untaken would be handed out again by the server, to somebody else. A request
brings what there is, as soon as there is something, and says when that was all. It ends by itself after a few seconds, so one that
was lost with a leader or a connection is not waited for.

Its inbox is its own. When it is closed the server sees that nobody listens, and keeps what it has.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio

from bus.backbone.nats.connection import NO_RESPONDERS, Arrived, Connection, UnansweredError
from bus.backbone.nats.jetstream import RETRY_SECONDS, JetStream, count
from bus.clock import Clock

WAIT_SECONDS: Final = 5.0
"""Of one request."""
GRACE_SECONDS: Final = 1.0
_NS: Final = 1_000_000_000
CONFLICT: Final = 409
_HEARTBEAT: Final = 100
_NOTHING_THERE: Final = (404, 408)
_OTHERS_WAIT: Final = "Requests Pending"
_DELETED: Final = "Consumer Deleted"


class GoneError(Exception):
    """The consumer was removed."""


class Source:
    def __init__(self, stream: str, name: str, connection: Connection, jetstream: JetStream, clock: Clock) -> None:
        self.stream, self.name = stream, name
        self._connection, self._jetstream, self._clock = connection, jetstream, clock
        self._arrived: deque[Arrived] = deque()
        self._wanted = 0
        self._over: anyio.Event | None = None
        self._why: Arrived | None = None
        self._current = ""
        """The inbox of the request that is under way."""
        self._is_gone = False
        self._inbox = connection.new_inbox()
        self._end: Callable[[], Awaitable[None]] | None = None

    async def open(self) -> None:
        """Raises UnansweredError, ClosedError."""
        self._end = await self._connection.subscribe(f"{self._inbox}.*", self._heard)

    async def fetch(self, most: int, *, wait_seconds: float = WAIT_SECONDS) -> list[Arrived]:
        """What there is, up to so many; none, if nothing came in time. Raises GoneError, BackboneError, ClosedError."""
        if not self._arrived:
            await self._ask(most, wait_seconds)
        if self._is_gone and not self._arrived:
            raise GoneError
        return [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]

    def interrupt(self) -> None:
        """Whoever waits in `fetch` has what has come."""
        if self._over is not None:
            self._over.set()

    async def is_done(self) -> bool:
        """Whether nothing is left in it, handed out or not. Raises BackboneError, ClosedError."""
        facts = await self._jetstream.consumer(self.stream, self.name)
        return not (count(facts, "num_pending") or count(facts, "num_ack_pending"))

    async def aclose(self) -> list[Arrived]:
        """What was never taken."""
        if self._end is not None:
            end, self._end = self._end, None
            await end()
        left = [*self._arrived]
        self._arrived.clear()
        return left

    async def _ask(self, most: int, wait_seconds: float) -> None:
        self._wanted, self._why = most, None
        over = self._over = anyio.Event()
        token = self._connection.expect(lambda _: self.interrupt())  # hears when the connection is lost
        self._current = f"{self._inbox}.{token.rpartition('.')[2]}"
        request = {"batch": most, "no_wait": True}
        if wait_seconds:
            request["expires"] = int(wait_seconds * _NS)
        try:
            data = json.dumps(request, separators=(",", ":")).encode()
            await self._connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.name}", data, self._current)
            with suppress(TimeoutError), self._clock.fail_after(wait_seconds + GRACE_SECONDS):
                await over.wait()
        except UnansweredError:
            await self._clock.sleep(RETRY_SECONDS)
        finally:
            self._over = None
            self._connection.forget(token)
        if not self._arrived:
            await self._look_why(is_silent=not over.is_set())

    async def _look_why(self, *, is_silent: bool) -> None:
        """A request brought nothing. It should have said why; of a consumer that is not there it says nothing."""
        why = self._why
        is_strange = is_silent or (why is not None and why.status == NO_RESPONDERS)
        if is_strange and await self._jetstream.consumer(self.stream, self.name) is None:
            self._is_gone = True
        elif why is not None and (why.status not in _NOTHING_THERE or why.text == _OTHERS_WAIT):
            await self._clock.sleep(RETRY_SECONDS)

    def _heard(self, arrived: Arrived) -> None:
        if not arrived.status:
            self._arrived.append(arrived)
            if len(self._arrived) >= self._wanted:
                self.interrupt()
        elif arrived.status == CONFLICT and arrived.text == _DELETED:
            self._is_gone = True
            self.interrupt()
        elif arrived.subject == self._current and arrived.status != _HEARTBEAT:
            self._why = arrived
            self.interrupt()
