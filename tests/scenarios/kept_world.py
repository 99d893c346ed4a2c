"""A world with durable topics whose broker can be stopped, started again over the same journal, or lie.

Everything is real: broker, hosts, journal (or a backbone in memory), by the system's clock or one that is turned. Between each host
and the broker is a wire that can be listened to, cut, and spoken on: what a dishonest broker would say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from bus.agent.agent import Agent
from bus.agent.host import Host
from bus.agent.ledger_file import LedgerFiles
from bus.backbone.interface import Backbone
from bus.backbone.journal import open_journal
from bus.backbone.memory import memory_backbone
from bus.broker.broker import Broker
from bus.clock import Clock, SystemClock
from bus.errors import ConnectError
from bus.protocol.frames import ALL_DELIVERIES, Frame, encode, parse
from bus.testing.policy_texts import texts_given
from bus.testing.world import World
from bus.transport.link import Link
from bus.transport.memory import memory_pair

POLICY = """
version: 1
agents: {LEAD: lead, SECOND: lead, PAINTER: worker, CARPENTER: worker, MONITOR: monitor}
roles:
  lead: {key: ecc384/sha3-384, publish: [work.>, logs.>, tasks.>], subscribe: [results.>]}
  worker: {key: ecc256/sha256, publish: [results.>], subscribe: [work.>, logs.>, tasks.>], groups: [builders]}
  monitor: {key: ecc256/sha256, subscribe: [">"]}
topics:
  - {match: work.>, class: durable, retention: 1d, dead_readers: [MONITOR], ack_wait: 30s, max_deliver: 5}
  - {match: logs.>, class: durable, retention: 7d, unit: envelope}
"""


class Wire:
    """A link as its host sees it, with somebody in between."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._on_frames: Callable[[list[bytes]], None]
        self.heard: list[list[Any]] = []
        """What the broker said."""
        self.said: list[list[Any]] = []
        """What the host said."""
        self.withholds: Callable[[list[Any]], bool] = lambda _frame: False
        """Frames of the broker that never arrive."""
        self._made_up = 0
        """Deliveries that the broker never made, and shall not hear of."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def start(self, on_frames: Any, on_lost: Any, on_writable: Any) -> None:
        self._on_frames = on_frames
        self._link.start(self._frames, on_lost, on_writable)

    def send(self, frame: bytes) -> None:
        parsed = parse(frame)
        self.said.append(parsed)
        if self._made_up and parsed[0] == Frame.CREDIT and parsed[1] == ALL_DELIVERIES:
            self._made_up -= (known := min(self._made_up, parsed[2]))
            frame = encode(Frame.CREDIT, ALL_DELIVERIES, parsed[2] - known)
        self._link.send(frame)

    def _frames(self, frames: list[bytes]) -> None:
        kept = []
        for data in frames:
            parsed = parse(data)
            if not self.withholds(parsed):
                self.heard.append(parsed)
                kept.append(data)
        if kept:
            self._on_frames(kept)

    def tell(self, frame: Frame, *fields: Any) -> None:
        """As if the broker said so."""
        self._made_up += frame == Frame.DELIVER
        self._on_frames([encode(frame, *fields)])

    def delivered(self) -> list[list[Any]]:
        """The deliveries of kept messages."""
        return [frame for frame in self.heard if frame[0] == Frame.DELIVER and frame[4]]

    def settled(self, verb: int) -> list[int]:
        """The positions of which the host said this."""
        spans = [span for frame in self.said if frame[0] == Frame.SETTLE and frame[2] == verb for span in frame[3]]
        return [position for first, last in spans for position in range(first, last + 1)]


class KeptWorld:
    """Use it within `kept_world`."""

    def __init__(self, tasks: TaskGroup, *, folder: Path | None, clock: Clock, policy: str) -> None:
        self.clock, self.folder = clock, folder
        self.world = World(texts_given(policy), clock)
        self._tasks = tasks
        self._running: anyio.CancelScope | None = None
        self.broker: Broker | None = None
        self.backbone: Backbone | None = None
        self.wires: list[Wire] = []

    # ---- the broker ------------------------------------------------------------------------------------------------------------

    async def start(self, backbone: Backbone | None = None) -> None:
        """A broker over the journal that is there, or over this backbone."""
        made = self.world.broker_materials()
        if backbone is None:
            backbone = (
                memory_backbone(self.clock) if self.folder is None else await open_journal(self.folder / "journal", self.clock)
            )
        broker = Broker(
            snapshot=made.snapshot,
            trust=made.trust,
            verifier=made.verifier,
            memory=made.memory,
            clock=self.clock,
            backbone=backbone,
        )
        await made.sessions.open(made.holder)
        broker.take_session(made.sessions.current(made.holder.name))
        self.broker, self.backbone = broker, backbone
        self._running = await self._tasks.start(self._run, broker, backbone)

    async def _run(self, broker: Broker, backbone: Backbone, *, task_status: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(backbone.run)
            tasks.start_soon(broker.run)
            task_status.started(tasks.cancel_scope)

    async def stop(self) -> Backbone:
        """As if it were killed: nobody hears a word, and what was not written is not there. Its backbone is what is left."""
        broker, backbone, running = self.broker, self.backbone, self._running
        assert broker is not None
        assert backbone is not None
        assert running is not None
        self.broker = None
        for wire in self.wires:
            wire.close(flush=False)
        self.wires.clear()
        running.cancel()
        await anyio.lowlevel.checkpoint()
        if self.folder is not None:
            with anyio.CancelScope(shield=True):
                await backbone.aclose()
        return backbone

    async def restart(self) -> None:
        backbone = await self.stop()
        await self.start(backbone if self.folder is None else None)

    @property
    def counted(self) -> dict[str, Any]:
        """What the broker counted, after its sums were checked."""
        assert self.broker is not None
        found: dict[str, Any] = self.broker.statistics()
        assert found["received"] == found["admitted"] + sum(found["refused"].values())
        assert found["admitted"] == found["routed"] + found["unheard"] + found["kept"]
        assert found["kept"] == found["stored"] + sum(found["not_stored"].values()) + found["storing"]
        assert found["copies"] == found["delivered"] + sum(found["dropped"].values()) + found["held"]
        return found

    # ---- hosts -----------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def agent(self, name: str, host: Host | None = None) -> AsyncIterator[Agent]:
        """An agent, in a process of its own unless there is a host for it."""
        async with AsyncExitStack() as stack:
            host = host or await stack.enter_async_context(self.host())
            holder = self.world.holder(name)
            agent = await host.open(holder, inbox=self.world.inbox(holder))
            try:
                yield agent
            finally:
                with anyio.CancelScope(shield=True):
                    await agent.aclose()

    @asynccontextmanager
    async def host(self) -> AsyncIterator[Host]:
        made = self.world.materials()
        ledgers = self.world.ledgers if self.folder is None else LedgerFiles(self.folder / "ledger", company_seconds=0)
        host = Host(
            keyring=made.keyring, sessions=made.sessions, signer=made.signer, memory=made.memory, verifier=made.verifier,
            trust=made.trust, brokers=made.brokers, clock=self.clock, dial=self._dial, ledgers=ledgers,
        )  # fmt: skip
        async with anyio.create_task_group() as tasks:
            await tasks.start(host.run)
            yield host
            tasks.cancel_scope.cancel()
        if isinstance(ledgers, LedgerFiles):
            with anyio.CancelScope(shield=True):
                await ledgers.aclose()

    async def _dial(self) -> Link:
        if self.broker is None:
            raise ConnectError("there is no broker")
        near, far = memory_pair()
        wire = Wire(near)
        self.wires.append(wire)
        self.broker.attach(far)
        return wire  # type: ignore[return-value]  # it is one, by what it passes on

    def wire_of(self, host_or_agent: Any) -> Wire:
        """The last link of this host."""
        host = getattr(host_or_agent, "_host", host_or_agent)
        link = host.connection._conversation.link
        assert isinstance(link, Wire)
        return link


@asynccontextmanager
async def kept_world(*, folder: Path | None = None, clock: Clock | None = None, policy: str = POLICY) -> AsyncIterator[KeptWorld]:
    """With a folder, its journal and its ledgers are on disk."""
    async with anyio.create_task_group() as tasks:
        world = KeptWorld(tasks, folder=folder, clock=clock or SystemClock(), policy=policy)
        await world.start()
        try:
            yield world
        finally:
            if world.broker is not None:
                with anyio.CancelScope(shield=True):
                    await world.stop()
            tasks.cancel_scope.cancel()


async def until(condition: Callable[[], Any], *, seconds: float = 10) -> None:
    """Let everybody work until this is so: disks and threads are waited for by what they do, not by a clock."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  of what a thread does, and a broker counts, nobody tells
            await anyio.sleep(0.002)


__all__ = ["POLICY", "KeptWorld", "Wire", "kept_world", "partial", "until"]
