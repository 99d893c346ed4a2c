"""Gateways for tests: the table of links on a connection of its own, and an ear at each link that it makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from bus.backbone.nats.connection import Connection, connect
from bus.backbone.nats.layout import Names
from bus.backbone.nats.login import NO_LOGIN, Login
from bus.backbone.nats.neighbours import Neighbours
from bus.clock import Clock, SystemClock
from bus.testing.link_ear import Ear
from bus.transport.link import Link

PATIENCE_SECONDS = 20.0


class Gateway:
    """`ears`: of all links that it ever had, the newest last."""

    def __init__(self, connection: Connection, space: str, clock: Clock, *, is_started: bool) -> None:
        self.connection = connection
        self.neighbours = Neighbours(connection, Names(space), clock, self._attach)
        self.links: list[Link] = []
        self.ears: list[Ear] = []
        self.scope = anyio.CancelScope()
        """Of `neighbours.run`."""
        self._is_started = is_started
        self.shuns = False
        """Ends each link as soon as it has it."""

    @property
    def alive(self) -> list[Ear]:
        return [ear for ear in self.ears if not ear.lost]

    async def run(self) -> None:
        with self.scope:
            await self.neighbours.run()

    def _attach(self, link: Link) -> None:
        self.links.append(link)
        if self._is_started:
            self.ears.append(Ear(link))
            self.ears[-1].start()
        if self.shuns:
            link.close()


@asynccontextmanager
async def gateway(
    url: str | Sequence[str], space: str, *, is_started: bool = True, login: Login = NO_LOGIN, clock: Clock | None = None
) -> AsyncIterator[Gateway]:
    clock = clock or SystemClock()
    connection = await connect([url] if isinstance(url, str) else url, clock, tls=None, wait_seconds=10, login=login)
    one = Gateway(connection, space, clock, is_started=is_started)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            tasks.start_soon(one.run)
            yield one
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await connection.aclose()


@asynccontextmanager
async def gateways(count: int, url: str | Sequence[str], space: str) -> AsyncIterator[list[Gateway]]:
    """All with a link to each other."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(gateway(url, space)) for _ in range(count)]
        await until(lambda: all(len(one.alive) == count - 1 for one in found))
        yield found


async def until(condition: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """What comes over real sockets is waited for by looking."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  a condition on the far side of a server tells nobody when it changes
            await anyio.sleep(0.01)
