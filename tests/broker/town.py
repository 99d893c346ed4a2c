"""Several brokers of one domain in one process, each with hosts of its own, joined by links in memory. Time stands still."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

from bus.backbone.local import LocalBackbone
from bus.backbone.memory import memory_backbone
from bus.broker.broker import Broker
from bus.errors import BusError
from bus.identity.host import renewal
from bus.testing.clock import ManualClock
from bus.testing.memory_hub import MemoryHub
from bus.testing.policy_texts import texts_of
from bus.testing.world import World
from bus.transport.link import Link
from bus.transport.listening_links import listening
from bus.transport.memory import MemoryLink, memory_pair

POLICY = """
version: 1
rollout: {sample_rate: 0}
agents: {DIRECTOR: command, DEPUTY: command, BUILDER: worker, TESTER: worker, PACKER: worker, MONITOR: monitor}
roles:
  command:
    key: ecc384/sha3-384
    publish: ["tasks.>", "work.>", "ask.>", "signed.>", "urgent.>"]
    subscribe: ["results.>", "tasks.>"]
  worker:
    key: ecc256/sha256
    publish: ["results.>"]
    subscribe: ["tasks.>", "work.>", "ask.>", "signed.>", "urgent.>"]
    groups: [builders, testers]
  monitor:
    key: ecc256/sha256
    publish: ["results.>"]
    subscribe: ["tasks.>", "results.>"]
topics:
  - {match: work.>, class: durable, retention: 1d}
  - {match: signed.>, signed_by: identity}
  - {match: urgent.>, priority: critical}
"""
_numbers = itertools.count(1)
_NAMES = ("BROKER", "WEST", "EAST")


class Town:
    """`town[0]` is a hub, as `bus.testing.open` gives it, and so are the others."""

    def __init__(self, world: World, hubs: list[MemoryHub]) -> None:
        self.world, self.hubs = world, hubs
        self.links: dict[tuple[int, int], MemoryLink] = {}

    def __getitem__(self, place: int) -> MemoryHub:
        return self.hubs[place]

    def __iter__(self) -> Iterator[MemoryHub]:
        return iter(self.hubs)

    async def join(self, one: int = 0, other: int = 1) -> None:
        """A new link between these two."""
        near, far = memory_pair(f"memory:neighbours-{next(_numbers)}")
        self.links[one, other], self.links[other, one] = near, far
        self[one].broker.attach_neighbour(near)
        self[other].broker.attach_neighbour(far)
        await self.settle()

    async def join_all(self) -> None:
        for one, other in itertools.combinations(range(len(self.hubs)), 2):
            await self.join(one, other)

    async def part(self, one: int = 0, other: int = 1) -> None:
        """The link between them is lost, with what is under way."""
        self.links[one, other].close(flush=False)
        await self.settle()

    def attach(self, place: int) -> Link:
        """The other end of a new link to this broker."""
        near, far = memory_pair("memory:stranger")
        self[place].broker.attach_neighbour(far)
        return near

    def open_at(self, place: int) -> int:
        found: int = self.counted(place)["neighbours"]["open"]
        return found

    def counted(self, place: int) -> dict[str, Any]:
        """The statistics of a broker, after their sums were checked."""
        broker = self[place].broker
        found: dict[str, Any] = broker.statistics()
        assert found["received"] == found["admitted"] + sum(found["refused"].values())
        assert found["admitted"] == found["routed"] + found["unheard"] + found["kept"]
        assert found["held"] == broker.waiting >= 0
        return found

    def follow(self, place: int) -> None:
        """Only this broker has heard of what the authority says now."""
        self[place].broker.follow(self.world.snapshot(), self.world.documents)

    def follow_all(self) -> None:
        for place in range(len(self.hubs)):
            self.follow(place)

    async def later(self, seconds: float, *, step: float = 0.25) -> None:
        await self.settle()
        while seconds > 0:
            self.world.clock.advance(min(seconds, step))  # type: ignore[attr-defined]  # the town's clock is a ManualClock
            await self.settle()
            seconds -= step

    async def settle(self) -> None:
        """Until nothing moves at any of them."""
        before: list[Any] = []
        for number in range(1_000):
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            now = [await hub.statistics() for hub in self.hubs]
            if number >= 3 and now == before:
                return
            before = now


@asynccontextmanager
async def town(count: int = 2, *, policy: str = POLICY, shared: bool = False, joined: bool = True) -> AsyncIterator[Town]:
    """So many brokers. `shared`: they keep what is durable in one place; else each does for itself."""
    clock = ManualClock()
    world = World(await texts_of(policy, {}), clock)
    place = memory_backbone(clock) if shared else None
    async with anyio.create_task_group() as tasks:
        if place is not None:
            tasks.start_soon(place.run)
        found = Town(world, [await _hub(world, clock, place, policy, tasks, name=name) for name in _NAMES[:count]])
        for hub in found:
            await tasks.start(_listen, hub)
        if joined:
            await found.join_all()
        else:
            await found.settle()
        yield found
        tasks.cancel_scope.cancel()


async def _hub(world: World, clock: ManualClock, place: LocalBackbone | None, policy: str, tasks: Any, *, name: str) -> MemoryHub:
    made = world.broker_materials(name)
    backbone = place or memory_backbone(clock)
    if place is None:
        tasks.start_soon(backbone.run)
    broker = Broker(
        snapshot=made.snapshot, trust=made.trust, verifier=made.verifier, memory=made.memory, clock=clock, backbone=backbone
    )
    made.sessions.on_change.append(lambda: [broker.take_session(session) for session in made.sessions.held.values()])
    await made.sessions.open(made.holder)
    tasks.start_soon(broker.run)
    tasks.start_soon(partial(renewal.run, made.sessions))
    return MemoryHub(f"memory:town-{next(_numbers)}", world, broker, tasks, policy=policy, agents={})


async def _listen(hub: MemoryHub, *, task_status: Any) -> None:
    async with listening(hub.url, hub.broker.attach):
        task_status.started()
        await anyio.sleep_forever()


async def fails(work: Any) -> BusError | None:
    """What it raises, if it does."""
    try:
        await work
    except BusError as error:
        return error
    return None
