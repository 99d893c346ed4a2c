"""Hosts of a small world: each with its keyring, its agents' sessions, and a broker between them that carries bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from small_world import DAY, MINUTE, Agent, Identity, World

from bus.errors import BusError
from bus.flow.ledger import Ledger
from bus.identity.envelopes.believe import Believed, BelievedInbox
from bus.identity.envelopes.granting import Granted
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.listening import Listening, Subscription
from bus.identity.envelopes.receive import Received
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.epochs.admitting import Outcome
from bus.identity.epochs.giving import Answer, Made
from bus.identity.epochs.keyring import Keyring
from bus.identity.epochs.parking import LetGo
from bus.identity.epochs.sealing import Sealing, Use
from bus.identity.host.host_keys import HostKeys
from bus.identity.host.session import Holder, Session
from bus.identity.trust_memory import TrustMemory
from bus.protocol import kem
from bus.protocol import papers as paper
from bus.protocol.contexts import Purpose
from bus.protocol.kem import PRIVATE_BYTES, PrivateKey
from bus.protocol.papers import InboxBody, InboxCertificate
from bus.testing import ManualClock


def session_of(agent: Agent, world: World) -> Session:
    believed = agent.believed
    role = world.policy.role_of(agent.name)
    return Session(
        holder=Holder.of(agent.identity.certificate, f"{agent.name}.1", role),
        keys=agent.host,
        certificate=believed.session,
        id=believed.id,
        papers=agent.papers,
        not_before_ms=believed.not_before_ms,
        not_after_ms=believed.not_after_ms,
        ends=0.0,
        begun_ms=believed.begun_ms,
    )


class Host:
    """One process: agents that share host keys, and a keyring."""

    def __init__(self, world: World, folder: Path, *names: str, strongest: int = kem.HYBRID, **identities: Identity) -> None:
        self.world, self.names, self.strongest = world, names, strongest
        self.clock = ManualClock(world.now)
        self.memory = TrustMemory(folder, self.clock)
        verifier = Verifier(world.authority.root, world.authority.domain, ml_dsa_root=world.authority.ml_dsa.public)
        self.memory.accept(world.snapshot.trust.statement)
        self.keyring = Keyring(Held(verifier), self.memory, world.snapshot, self.clock)
        self.identities = {name: identities.get(name) or world.identity(name) for name in names}
        self.agents: dict[str, Agent] = {}
        self.inboxes: dict[str, PrivateKey] = {}
        self.outcomes: list[Outcome] = []
        self.before = 0
        self.renew()

    def follow(self, snapshot: Snapshot) -> None:
        """The next policy and trust."""
        self.memory.accept(snapshot.trust.statement)
        self.keyring.follow(snapshot)

    def renew(self) -> None:
        """A new pair for all agents of this host."""
        pair = HostKeys.make(self.strongest, os.urandom)
        for agent in self.agents.values():
            agent.host.retire_signing()
        self.agents = {name: self.world.agent(name, identity=self.identities[name], host=pair) for name in self.names}
        self.keyring.renewed({name: session_of(agent, self.world) for name, agent in self.agents.items()})

    # ---- listening -----------------------------------------------------------------------------------------------------------

    def listens(self, *patterns: str, durable: bool = False) -> None:
        began = self.world.now - 10 * MINUTE
        self.keyring.listening = Listening.to(
            Subscription(name, pattern, began, Ledger() if durable else None) for name in self.names for pattern in patterns
        )

    def inbox(self, name: str, *, counter: int = 1, key: PrivateKey | None = None) -> tuple[bytes, bytes]:
        """A new inbox certificate of this agent, whose key is open here; with its identity certificate."""
        identity = self.identities[name]
        strength = kem.BY_WORD[self.world.policy.role_of(name).inbox]
        key = key or PrivateKey.from_bytes(strength, os.urandom(PRIVATE_BYTES[strength]))
        self.inboxes[name] = key
        self.keyring.own_inbox(name, key)
        body = InboxBody(
            self.world.authority.domain, name, identity.certificate.signer, counter, key.kem, key.public,
            self.world.now - MINUTE, self.world.now + 20 * DAY,
        ).encode()  # fmt: skip
        blind = os.urandom(16)
        content = paper.content(Purpose.INBOX, body, blind=blind, suite=identity.suite)
        proof = identity.prove(Purpose.INBOX, [content], [blind])[0]
        return InboxCertificate(body, proof).encode(), identity.certificate.der

    def learn_inbox(self, certificate: tuple[bytes, bytes]) -> BelievedInbox:
        found = self.keyring.believe_inbox(*certificate)
        self.memory.accept_inboxes({found.name: self.keyring.inbox_mark(found)})
        self.keyring.take_inbox(found)
        return found

    def know(self, *others: Host) -> None:
        """The papers of their agents come."""
        for other in others:
            for agent in other.agents.values():
                self.learn(agent)

    def learn(self, agent: Agent) -> Believed:
        found, outcomes = self.keyring.papers(agent.papers)
        self.outcomes += outcomes
        return found

    # ---- what goes out and comes in ------------------------------------------------------------------------------------------

    def epoch(self, topic: str, **changes: Any) -> Sealing:
        return self.keyring.epoch(Use(self.names[0], topic, **changes))

    def seal(self, sealing: Sealing, topic: str, text: bytes) -> bytes:
        agent = self.agents[sealing.key.sender]
        assert sealing.still_good(self.clock.now_ms())
        return self.world.send(agent, sealing.epoch, self.world.outgoing(agent, topic, [text]))[0]

    def say(self, topic: str, text: bytes, *, to: Iterable[str] = (), durable: Iterable[str] = ()) -> tuple[bytes, Made]:
        sealing = self.epoch(topic)
        made = self.keyring.grants(sealing, listening=to, durable=durable)
        return self.seal(sealing, topic, text), made

    def gets(self, *envelopes: bytes, ticket: Any = None) -> list[Outcome]:
        return self._note([one for data in envelopes for one in self.keyring.arrive(data, ticket)])

    def granted(self, *grants: bytes) -> list[Outcome]:
        return self._note([one for data in grants for one in self.keyring.arrive(data, "grant", is_grant=True)])

    def asks(self, other: Host) -> Answer:
        """For the one thing that is due."""
        ((agent, wanted),) = self.keyring.asks()
        return other.keyring.answer(wanted.epoch, self.agents[agent].papers)

    def later(self, seconds: float, *, world: bool = True) -> list[Outcome]:
        self.clock.advance(seconds)
        if world:
            self.world.now = self.clock.now_ms()
        return self._note(self.keyring.expire())

    def _note(self, outcomes: list[Outcome]) -> list[Outcome]:
        self.outcomes += outcomes
        return outcomes

    @property
    def heard(self) -> list[bytes]:
        """The payloads of all that its agents got, in order."""
        received = [one.result for one in self.outcomes if isinstance(one.result, Received)]
        return [payload for one in received if one.records is not None for payload in one.records.payloads]

    @property
    def opened(self) -> list[Granted]:
        return [one.result for one in self.outcomes if isinstance(one.result, Granted)]

    @property
    def refused(self) -> list[str]:
        return [one.result.reason for one in self.outcomes if isinstance(one.result, BusError)]

    @property
    def let_go(self) -> list[str]:
        return [one.result.reason for one in self.outcomes if isinstance(one.result, LetGo)]
