"""A broker on a stage: its clock stands still, and the hosts that talk to it are played, frame by frame, with real papers.

A played host says by itself that it has seen who listens and that it is there, unless a test wants it not to. All else a test
says for it, and looks at what came.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from small_world import MINUTE, Agent, World

from bus.broker.broker import Broker
from bus.errors import BusError
from bus.identity.envelopes.seal import Outgoing
from bus.identity.host.host_keys import HostKeys
from bus.identity.host.session import Holder, Session
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.policy import load
from bus.protocol import frames
from bus.protocol.epochs import SealingEpoch
from bus.protocol.frames import Frame, column, encode, numbers, parse
from bus.protocol.handshake import HelloA, HelloB, agent_tbs, broker_tbs, transcript
from bus.protocol.kem import HYBRID
from bus.protocol.papers import Papers, SessionCertificate
from bus.protocol.signatures import verify_host
from bus.testing import ManualClock
from bus.transport.memory import MemoryLink, memory_pair
from bus.trust.certificates import Profile

POLICY = """
version: 1
domain: tpmbus.test
agents: {DIRECTOR: command, DEPUTY: command, BUILDER: worker, TESTER: worker, PACKER: worker, MONITOR: monitor, GUEST: guest}
roles:
  command:
    key: ecc384/sha3-384
    publish: ["tasks.>", "work.>", "ask.>", "records.>", "short.>", "long.>"]
    subscribe: ["results.>", "tasks.>"]
  worker:
    key: ecc256/sha256
    publish: ["results.>"]
    subscribe: ["tasks.>", "work.>", "ask.>", "records.>", "short.>"]
    groups: [builders, 24h, {group: testers, topics: ["tasks.>"]}]
  monitor:
    key: ecc256/sha256
    publish: ["results.>"]
    subscribe: [">"]
    deny: {subscribe: ["tasks.hidden"]}
  guest:
    key: ecc256/sha256
topics:
  - {match: tasks.>, priority: normal, priorities: [critical, normal, bulk]}
  - {match: work.>, class: durable, retention: 1d, dead_readers: [MONITOR]}
  - {match: records.>, unit: record}
  - {match: short.>, ttl: 1s, max_bytes: 1KiB}
  - {match: long.>, ttl: 1h}
audit_readers: [MONITOR]
"""


class Stage:
    """One broker. `run` is what makes time count."""

    def __init__(self, world: World, **changes: Any) -> None:
        self.world = world
        self.clock: ManualClock = changes.get("clock") or ManualClock(world.now)
        self.documents = documents_of(world)
        memory = TrustMemory(None, self.clock)
        memory.accept(world.snapshot.trust.statement)
        facts: dict[str, Any] = {
            "snapshot": world.snapshot, "trust": self.documents, "verifier": world.verifier, "memory": memory, "clock": self.clock,
        }  # fmt: skip
        self.broker = Broker(**(facts | changes))
        self.broker.take_session(broker_session(world))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self.broker.run)
            await settle()
            yield
            group.cancel_scope.cancel()

    def connect(self, *names: str, **changes: Any) -> Played:
        """A host with these agents, on a new link; it has not said anything yet."""
        near, far = memory_pair()
        self.broker.attach(far)
        return Played(self, near, names, **changes)

    async def host(self, *names: str, **changes: Any) -> Played:
        """One that has shaken hands. What it was told of trust is left out."""
        host = self.connect(*names, **changes)
        await host.shake_hands()
        return host

    async def later(self, seconds: float, *, step: float = 0.1) -> None:
        """Time passes, in steps that no timer misses."""
        await settle()
        while seconds > 0:
            self.clock.advance(min(seconds, step))
            self.world.now = self.clock.now_ms()
            await settle()
            seconds -= step

    async def follow(self, **changes: Any) -> None:
        self.world.trust(**changes)
        self.documents = documents_of(self.world)
        self.broker.follow(self.world.snapshot, self.documents)
        await settle()

    @property
    def counted(self) -> dict[str, Any]:
        """The statistics, after their sums were checked."""
        found: dict[str, Any] = self.broker.statistics()
        assert found["received"] == found["admitted"] + sum(found["refused"].values())
        assert found["admitted"] == found["routed"] + found["unheard"] + found["kept"]
        assert found["kept"] == found["stored"] + sum(found["not_stored"].values()) + found.get("storing", 0)
        assert found["held"] == self.broker.waiting >= 0
        return found


class Played:
    """A host: agents that share a host key, and the frames that came."""

    def __init__(
        self, stage: Stage, link: MemoryLink, names: Iterable[str], *, keys: HostKeys | None = None, polite: bool = True
    ) -> None:
        self.stage, self.link, self.polite = stage, link, polite
        self.keys = keys or HostKeys.make(HYBRID, os.urandom)
        self.agents: dict[str, Agent] = {name: stage.world.agent(name, host=self.keys) for name in names}
        self.came: list[list[Any]] = []
        self.lost: list[BusError] = []
        self.t = b""
        self.server_leaf: bytes | None = None
        self.client_leaf: bytes | None = None
        """Where it is said to come over TLS."""
        self.turn = 0
        self.epochs: dict[tuple[str, str], SealingEpoch] = {}
        self.aliases: dict[str, int] = {}
        self.turns_out: set[int] = set()
        link.start(self._frames, self.lost.append, lambda: None)

    def _frames(self, came: list[bytes]) -> None:
        parsed = [parse(data) for data in came]
        self.came += parsed
        for one in parsed:
            if one[0] == Frame.INTEREST and self.polite:
                self.send(Frame.INTEREST_SEEN, one[1])
            elif one[0] == Frame.PING and self.polite:
                self.send(Frame.PONG, one[1])

    # ---- speaking --------------------------------------------------------------------------------------------------------------

    def send(self, frame: Frame, *fields: Any) -> None:
        self.link.send(encode(frame, *fields))

    async def say(self, frame: Frame, *fields: Any) -> list[list[Any]]:
        """Send, and give what comes."""
        self.send(frame, *fields)
        return await self.hears()

    async def hears(self, *kinds: Frame) -> list[list[Any]]:
        """What has come since the last time; of these kinds, if any are named, and the others stay for later."""
        await settle()
        taken = [one for one in self.came if not kinds or one[0] in kinds]
        self.came = [one for one in self.came if kinds and one[0] not in kinds]
        return taken

    async def shake_hands(self, *, proves: Callable[[bytes], bytes] | None = None) -> None:
        hello_a = HelloA((1,), os.urandom(32), tuple(agent.papers for agent in self.agents.values())).encode()
        (_, hello_b), (_, proof) = await self.say(Frame.HELLO_A, hello_a)
        self.t = transcript(hello_a, hello_b, server_leaf=self.server_leaf, client_leaf=self.client_leaf)
        hello = HelloB.parse(hello_b)
        body = SessionCertificate.parse(Papers.parse(hello.papers).session).body
        verify_host(body.host_key, broker_tbs(self.t), proof)
        self.send(Frame.PROVE, (proves or self.keys.sign)(agent_tbs(self.t)))
        await self.hears(Frame.TRUST)

    # ---- publishing ------------------------------------------------------------------------------------------------------------

    async def open(self, topic: str) -> list[list[Any]]:
        alias = self.aliases[topic] = frames.FIRST_ALIAS + len(self.aliases)
        return await self.say(Frame.OPEN, alias, topic)

    def seal(self, topic: str, *payloads: bytes, by: str | None = None, epoch: SealingEpoch | None = None, **changes: Any) -> bytes:
        """One envelope, in the epoch that this agent has for the topic."""
        world = self.stage.world
        agent = self.agents[by or next(iter(self.agents))]
        if epoch is None:
            epoch = self.epochs.get((agent.name, topic))
        if epoch is None:
            epoch = self.epochs[agent.name, topic] = world.epoch(agent, topic)
        outgoing: Outgoing = world.outgoing(agent, topic, payloads or (b"hello",), **changes)
        return world.send(agent, epoch, outgoing)[0]

    def publish(self, *envelopes: bytes, alias: int | None = None, topic: str = "") -> int:
        """One turn."""
        self.turn += 1
        chosen = self.aliases[topic] if alias is None else alias
        self.send(Frame.PUBLISH, self.turn, column([chosen] * len(envelopes)), [*envelopes])
        self.turns_out.add(self.turn)
        return self.turn

    async def credited(self) -> set[int]:
        """The turns that were credited since the last time."""
        found = {first + more for _, first, count in await self.hears(Frame.CREDIT) for more in range(count)}
        assert found <= self.turns_out, "credited once"
        self.turns_out -= found
        return found

    # ---- listening -------------------------------------------------------------------------------------------------------------

    async def subscribe(
        self, number: int, pattern: str, *, by: str | None = None, group: str = "", limit: int = 1_024, overflow: str = "block"
    ) -> list[list[Any]]:
        agent = by or next(iter(self.agents))
        return await self.say(Frame.SUBSCRIBE, number, agent, pattern, group, "", "new", limit, overflow)

    async def delivered(self, *, take_in: bool = True) -> list[tuple[tuple[int, ...], bytes]]:
        """(subscriptions, envelope) of what came; and it is said that it was taken in."""
        found = await self.hears(Frame.DELIVER)
        if take_in and found:
            self.send(Frame.CREDIT, frames.ALL_DELIVERIES, len(found))
            await settle()
        return [(numbers(one[2]), one[5]) for one in found]


def documents_of(world: World) -> TrustDocuments:
    return TrustDocuments(crl=world.snapshot.trust.revocations.der, bundle=b"a bundle", statement=world.statement_bytes)


def broker_session(world: World, name: str = "BROKER") -> Session:
    identity = world.identity(name, suite="ecc384/sha3-384", profile=Profile.BROKER)
    keys = HostKeys.make(HYBRID, os.urandom)
    papers = world.papers(identity, keys)
    certificate = SessionCertificate.parse(Papers.parse(papers).session)
    body = certificate.body
    return Session(
        holder=Holder(identity.certificate, f"{name}.1", 15 * MINUTE, HYBRID),
        keys=keys,
        certificate=certificate,
        id=certificate.id,
        papers=papers,
        not_before_ms=body.not_before_ms,
        not_after_ms=body.not_after_ms,
        ends=0.0,
        begun_ms=world.now,
    )


async def settle() -> None:
    """Until every link has delivered what it has: each hop takes a turn of the loop, and no conversation here has more."""
    for _ in range(30):
        await anyio.lowlevel.checkpoint()


def with_words(old: str, new: str):
    """The policy, a little different."""
    assert old in POLICY
    return load({"policy.yaml": POLICY.replace(old, new).encode()})


__all__ = ["POLICY", "Played", "Stage", "settle", "with_words"]
