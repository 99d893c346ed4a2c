"""A whole bus for a unit test: broker, agents, TPM and authority in memory, by a clock that the test turns.

    async with bus.testing.open(policy="policies/") as hub:
        async with hub.agent("DIRECTOR") as director, hub.agent("MONITOR") as monitor: ...

It is the bus: everything is signed, sealed, verified and judged by policy as anywhere else. Missing is only what makes a test slow
or leaves something behind: no disk, no subprocess, no thread (but to read policy files, once), no key that has to be made. The
keys are everybody's, so the domain is always `testing.invalid`, which nothing real believes.

Time stands still unless the test turns it: `await hub.advance(seconds)`. Then the bus does what is due: sessions are renewed, trust
is stated anew every five minutes, links that say nothing are lost. `await hub.settle()` lets it do what it can without any time.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from bus.agent.agent import Agent
from bus.agent.host import Host
from bus.backbone.memory import memory_backbone
from bus.broker.broker import Broker
from bus.clock import Clock
from bus.errors import BusError
from bus.hub.household import Household, Leaving
from bus.hub.hub import Opening
from bus.identity.authority.statements import INTERVAL_SECONDS
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.host import renewal
from bus.policy import Policy
from bus.testing.clock import ManualClock
from bus.testing.inline_engine import InlineEngine
from bus.testing.policy_texts import PolicyGiven, texts_of
from bus.testing.world import World
from bus.transport.dialing import dial
from bus.transport.link import Link
from bus.transport.listening_links import listening

STEP_SECONDS: Final = 5.0
"""Shorter than the silence after which a link is asked whether it lives."""
ROUNDS: Final = 3
"""At least; and after that until one in which no number moved."""
MOST_ROUNDS: Final = 1_000
TURNS: Final = 10
"""Of the event loop, in which no task runs while links hand over frames: `wait_all_tasks_blocked` does not see that."""
_numbers: Final = itertools.count(1)


def open(  # noqa: A001  as `bus.open`
    *,
    policy: PolicyGiven = None,
    agents: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    tpm_seconds: float = 0.0,
) -> AbstractAsyncContextManager[MemoryHub]:
    """`policy` as for `bus.open`, or its text itself, or texts by file name. Without a clock, a `ManualClock`.

    `tpm_seconds` is how long the TPM takes for an operation, by that clock. Entering raises PolicyError.
    """
    time = clock or ManualClock()
    return Household(partial(_inside, policy, agents or {}, time, tpm_seconds), clock=time)


@asynccontextmanager
async def _inside(
    policy: PolicyGiven, agents: Mapping[str, str], clock: Clock, tpm_seconds: float, leaving: Leaving
) -> AsyncIterator[MemoryHub]:
    world = World(await texts_of(policy, agents), clock, seconds=tpm_seconds)
    made = world.broker_materials()
    backbone = memory_backbone(clock)
    broker = Broker(
        snapshot=made.snapshot, trust=made.trust, verifier=made.verifier, memory=made.memory, clock=clock, backbone=backbone
    )
    made.sessions.on_change.append(lambda: _introduce(broker, made.sessions.held))
    await made.sessions.open(made.holder)
    url = f"memory:testing-{next(_numbers)}"
    async with listening(url, broker.attach), anyio.create_task_group() as tasks:
        hub = MemoryHub(url, world, broker, tasks, policy=policy, agents=agents)
        for part in (broker.run, backbone.run, partial(renewal.run, made.sessions), hub.keep_stating):
            tasks.start_soon(part)
        try:
            yield hub
            await leaving.within(hub.drain)
        finally:
            with anyio.CancelScope(shield=True):
                hub.close()
                await broker.aclose()
                await backbone.aclose()
            tasks.cancel_scope.cancel()


def _introduce(broker: Broker, held: Mapping[str, Any]) -> None:
    for session in held.values():
        broker.take_session(session)


class MemoryHub:
    """What `bus.testing.open` gives: the API of a hub, and what a test may do to its world."""

    def __init__(
        self, url: str, world: World, broker: Broker, tasks: TaskGroup, *, policy: PolicyGiven, agents: Mapping[str, str]
    ) -> None:
        self.url, self.urls, self.broker = url, (url,), broker
        self._policy, self._agents = policy, agents
        self._world, self._tasks = world, tasks
        self._hosts: list[MemoryHost] = []
        self._here = self._another(is_apart=False)

    @property
    def clock(self) -> Any:
        """The one that it was opened with."""
        return self._world.clock

    @property
    def tpm(self) -> InlineEngine:
        """Of all agents: `hub.tpm.seconds`, `hub.tpm.fail_next(error)`."""
        return self._world.engine

    @property
    def policy(self) -> Policy:
        return self._world.policy

    def agent(self, name: str) -> Opening:
        """An agent of this process, as `bus.open` gives it."""
        return self._here.agent(name)

    async def reload(self) -> bool:
        """Sign the policy's files as they are now; whether they say something new. Raises PolicyError: then the old one stays."""
        texts = await texts_of(self._policy, self._agents)
        if texts == self._world.texts:
            return False
        self._follow(self._world.change(texts))
        return True

    def host(self) -> MemoryHost:
        """As another process: with host keys, caches and a link of its own. What it fails with ends its agents alone."""
        return self._another(is_apart=True)

    def _another(self, *, is_apart: bool) -> MemoryHost:
        made = MemoryHost(self.url, self._world, self._tasks, is_apart=is_apart)
        self._hosts.append(made)
        return made

    # ---- time ----------------------------------------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Turn the clock on, a few seconds at a time, with all that is due at each: to whom it jumps, links seem to be dead.

        Raises TypeError unless the bus was opened with a ManualClock.
        """
        clock = self.clock
        if not isinstance(clock, ManualClock):
            raise TypeError("this bus goes by a clock that nobody turns: open it with clock=ManualClock()")
        await self.settle()  # who is about to sleep shall do it before
        while seconds > 0:
            clock.advance(min(seconds, STEP_SECONDS))
            seconds -= STEP_SECONDS
            await self.settle()

    async def settle(self) -> None:
        """Return when everybody waits for something to happen: what was published has arrived."""
        before: dict[str, Any] = {}
        for number in range(MOST_ROUNDS):
            for _ in range(TURNS):
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            if number + 1 >= ROUNDS:
                now = await self.statistics()
                if now == before:
                    return
                before = now

    # ---- what a test may do --------------------------------------------------------------------------------------------------

    async def change_policy(self, policy: PolicyGiven, agents: Mapping[str, str] | None = None) -> None:
        """Sign another policy; broker and hosts follow. Without `agents`, who joined before stays. Raises PolicyError."""
        self._policy, self._agents = policy, self._agents if agents is None else agents
        await self.reload()

    def revoke(self, *names: str) -> None:
        """Cut agents off, as `tpmbus trust revoke` does. Who opens such a name again is somebody else."""
        self._follow(self._world.revoke(*names))

    def state_trust(self) -> None:
        """The next trust statement: it comes by itself every five minutes."""
        self._follow(self._world.restate())

    async def keep_stating(self) -> None:
        while True:
            await self.clock.sleep(INTERVAL_SECONDS)
            self.state_trust()

    def _follow(self, snapshot: Snapshot) -> None:
        self.broker.follow(snapshot, self._world.documents)

    # ---- life ----------------------------------------------------------------------------------------------------------------

    async def statistics(self) -> dict[str, Any]:
        """Of the broker, and of each host; `waiting` is what somebody has accepted and not handed on."""
        hosts = {str(number): host.statistics() for number, host in enumerate(self._hosts)}
        return {"broker": {**self.broker.statistics(), "waiting": self.broker.waiting}, "hosts": hosts}

    async def drain(self) -> None:
        """What was accepted is sent and taken in."""
        for host in self._hosts:
            await host.drain()

    def close(self) -> None:
        for host in self._hosts:
            host.close()


class MemoryHost:
    """The agents of one process of a test."""

    def __init__(self, url: str, world: World, tasks: TaskGroup, *, is_apart: bool) -> None:
        self._url, self._world, self._tasks, self._is_apart = url, world, tasks, is_apart
        self._links: list[Link] = []
        self._made: Host | None = None

    def agent(self, name: str) -> Opening:
        async def open_it() -> Agent:
            holder = self._world.holder(name)
            return await self._host().open(holder, inbox=self._world.inbox(holder))

        return Opening(open_it, clock=self._world.clock)

    def disconnect(self) -> None:
        """The link is lost, as when a cable is pulled: the host dials again by itself, when the clock lets it."""
        for link in self._links:
            link.close(flush=False)

    def statistics(self) -> dict[str, Any]:
        made = self._made
        return {} if made is None else {**made.statistics(), "waiting": 0 if made.outbox.is_idle else 1}

    async def drain(self) -> None:
        if self._made is not None and self._made.is_connected:
            await self._made.outbox.drained()

    def close(self) -> None:
        if self._made is not None:
            for agent in list(self._made.agents.values()):
                agent.end(None)

    def _host(self) -> Host:
        """It begins when its first agent opens."""
        if self._made is None:
            made = self._world.materials()
            self._made = Host(
                keyring=made.keyring,
                sessions=made.sessions,
                signer=made.signer,
                memory=made.memory,
                verifier=made.verifier,
                trust=made.trust,
                brokers=made.brokers,
                clock=made.clock,
                dial=self._dial,
                ledgers=self._world.ledgers,
            )
            self._tasks.start_soon(self._run, self._made)
        return self._made

    async def _run(self, host: Host) -> None:
        try:
            await host.run()
        except BusError:
            if not self._is_apart:
                raise

    async def _dial(self) -> Link:
        link = await dial(self._url)
        self._links = [link]
        return link
