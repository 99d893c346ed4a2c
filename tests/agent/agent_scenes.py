"""A bus in memory for tests of agents: one policy for all of them, and the words in which they tell what happens.

Time stands still unless a test turns it (`hub.advance`). What the host, not the agent, knows is looked up in `inside`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import anyio

import bus.testing
from bus.agent.host import Host

POLICY = """
version: 1
rollout: {sample_rate: 0}  # what tests count would be one more with one message in a hundred
agents: {LEAD: lead, SECOND: lead, PAINTER: worker, CARPENTER: worker, MASON: worker, GUEST: guest}
roles:
  lead: {key: ecc384/sha3-384, publish: ['>'], subscribe: ['>'], inbox: hybrid}
  worker:
    key: ecc256/sha256
    publish: [results.>]
    subscribe: [tasks.>, control.>, lists.>, short.>, small.>, work.>, alone.>]
    inbox: x25519
    groups: [{group: crew}]
  guest: {key: ecc256/sha256, subscribe: [open.>]}
topics:
  - {match: control.>, signed_by: identity, priority: critical}
  - {match: lists.>, priority: bulk, priorities: [bulk, normal, critical]}
  - {match: short.>, ttl: 1s}
  - {match: small.>, max_bytes: 256B}
  - {match: alone.>, unit: record}
  - {match: work.>, class: durable, retention: 1d}
"""


@asynccontextmanager
async def scene(*names: str, policy: str = POLICY, **options: Any) -> AsyncIterator[Any]:
    """The hub, and these agents of one process."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(bus.testing.open(policy=policy, **options))
        agents = [await stack.enter_async_context(hub.agent(name)) for name in names]
        yield hub, *agents


def apart(hub: Any, name: str) -> AbstractAsyncContextManager[Any]:
    """This agent in a process of its own."""
    return hub.host().agent(name)


def inside(agent: Any) -> Host:
    """The host of an agent, for what an agent is not asked."""
    host: Host = agent._host
    return host


async def soon(waited: Any) -> Any:
    """What has to come without any time passing."""
    with anyio.fail_after(60):
        return await waited


async def take(subscription: Any, count: int) -> list[Any]:
    """So many bodies."""
    with anyio.fail_after(60):
        return [(await anext(subscription)).body for _ in range(count)]


async def rest(hub: Any, subscription: Any) -> list[Any]:
    """The bodies that have come, once everything has settled."""
    await hub.settle()
    return [(await anext(subscription)).body for _ in range(subscription.pending)]


class Later:
    """A call in a task of its own, and what became of it."""

    def __init__(self, tasks: Any, call: Callable[[], Any]) -> None:
        self._call, self._done = call, anyio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.scope = anyio.CancelScope()
        tasks.start_soon(self._run)

    async def _run(self) -> None:
        try:
            with self.scope:
                self.value = await self._call()
        except Exception as error:  # noqa: BLE001  it is raised where the result is asked for
            self.error = error
        finally:
            self._done.set()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    async def result(self) -> Any:
        with anyio.fail_after(60):
            await self._done.wait()
        if self.error is not None:
            raise self.error
        return self.value


def numbered(count: int, size: int = 64) -> list[bytes]:
    """Bodies that differ."""
    return [number.to_bytes(8, "big").ljust(size, b".") for number in range(count)]


def numbers(bodies: Iterable[bytes]) -> list[int]:
    return [int.from_bytes(body[:8], "big") for body in bodies]
