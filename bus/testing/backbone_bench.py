"""What the checks of a backbone work with: a fresh one, its clock, and short ways to say what they do all the time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio

from bus.backbone.interface import DEAD, Backbone, Consumer, ConsumerName, Delivery, Entry, RetentionClass
from bus.clock import Clock
from bus.errors import BackboneError
from bus.flow.start import ALL, Start
from bus.testing.clock import ManualClock

ACK_WAIT_SECONDS: Final = 2.0
WORK: Final = RetentionClass("work.>", 7 * 86_400_000, ack_wait_ms=2_000, max_deliver=3)
SHORT: Final = RetentionClass("short.>", 6_000, ack_wait_ms=2_000, max_deliver=3)
RECORDS: Final = RetentionClass("records.>", 30 * 86_400_000, ack_wait_ms=2_000, max_deliver=3)
HOUR_MS: Final = 3_600_000
PATIENCE_SECONDS = 30.0
"""For what should come: past that it is lost."""


class Bench:
    """A backbone that nobody has used yet."""

    def __init__(self, backbone: Backbone, clock: Clock) -> None:
        self.backbone, self.clock = backbone, clock
        self._ids = 0

    def entry(
        self, topic: str, body: bytes = b"", *, sender: str = "DIRECTOR", id_: bytes = b"", expires_in_ms: int = HOUR_MS
    ) -> Entry:
        self._ids += 1
        class_ = topic.split(".", maxsplit=1)[0] + ".>"
        return Entry(
            class_, topic, sender, id_ or self._ids.to_bytes(16), self.clock.now_ms() + expires_in_ms, body or b"e%d" % self._ids
        )

    async def append(self, *topics: str) -> list[int]:
        return await self.backbone.append([self.entry(topic) for topic in topics])

    async def consume(
        self, name: str, pattern: str = "work.>", start: Start = ALL, *, allowed: int = 1_000, **more: Any
    ) -> Consumer:
        class_ = pattern.removeprefix(DEAD).split(".", maxsplit=1)[0] + ".>"
        return await self.backbone.consume(ConsumerName("MONITOR", name), class_, pattern, start, allowed=allowed, **more)

    async def retain(self) -> None:
        """What time it is is known."""
        await self.backbone.retain([WORK, RECORDS], passed_ms=self.clock.now_ms())

    async def calm(self) -> None:
        """Let the others run until they wait. By a clock that runs by itself they never all do."""
        if isinstance(self.clock, ManualClock):
            await anyio.wait_all_tasks_blocked()
        else:
            await anyio.lowlevel.checkpoint()

    async def passes(self, seconds: float) -> None:
        if isinstance(self.clock, ManualClock):
            self.clock.advance(seconds)
        else:
            await self.clock.sleep(seconds + 0.5)


async def taken(consumer: Consumer, count: int) -> list[Delivery]:
    """The next so many; AssertionError where they do not come."""
    found: list[Delivery] = []
    with anyio.move_on_after(PATIENCE_SECONDS):
        while len(found) < count:
            found += await consumer.take()
    require(len(found) == count, f"{count} records should have come, and {len(found)} did")
    return found


def seen(deliveries: Sequence[Delivery]) -> list[tuple[int, int]]:
    return [(one.position, one.deliveries) for one in deliveries]


async def refuses(code: str, call: Callable[[], Awaitable[Any]]) -> None:
    try:
        await call()
    except BackboneError as error:
        require(error.code == code, f"refused with {error.code}, not {code}")
        return
    raise AssertionError(f"should have been refused with {code}")


async def raises(kind: type[Exception], call: Callable[[], Awaitable[Any]]) -> None:
    try:
        await call()
    except kind:
        return
    raise AssertionError(f"should have raised {kind.__name__}")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
