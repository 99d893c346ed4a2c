"""A fleet's world in memory, for tests: one authority, one TPM, one clock, and what broker and hosts need of them.

    World(texts, clock)                         a policy, signed; a revocation list; a statement
        .materials("DIRECTOR", "MONITOR")       what a `Host` is made of that these agents will open in: its own memory and caches
        .broker_materials()                     what a `Broker` is made of
        .change(texts)  .revoke(name)  .restate()      the next documents, for `Broker.follow`

Nothing is on disk, nothing runs by itself, and nobody waits. Keys are those that everybody has, under a domain that is refused
everywhere else (`bus.trust.testing_domain`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from bus.clock import Clock
from bus.errors import PolicyError, Problem
from bus.identity import trust_documents
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.epochs.keyring import Keyring
from bus.identity.host.session import Holder
from bus.identity.host.sessions import Sessions
from bus.identity.ml_dsa import CosigningKey
from bus.identity.signer import Signer
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.policy import Policy
from bus.protocol import cosign, kem
from bus.protocol.papers import MAX_SESSION_MS
from bus.protocol.sampling import AuditRecord
from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.protocol.topics import overlaps
from bus.testing.authority import MadeUpAuthority, serial_of
from bus.testing.inboxes import MemoryInbox, MemoryLedgers
from bus.testing.inline_engine import InlineEngine
from bus.testing.inline_keys import InlineKeys, ready
from bus.testing.policy_texts import Texts
from bus.tpm.interface import SOFTWARE_TPM
from bus.trust.bundle import Bundle
from bus.trust.certificates import Certificate, Pinned, Profile
from bus.trust.revocations import Reason, Revocation, RevocationList
from bus.trust.statement import Standing, Statement
from bus.trust.testing_domain import DOMAIN
from bus.trust.view import TrustView

BROKER: Final = "BROKER"
BROKER_SUITE: Final = IDENTITY_SUITES["ecc256/sha3-256"]
BROKER_SERIAL: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Materials:
    """Of one host. `sessions` are not open yet: `await sessions.open(holders[name])`, or `Host.open` does it."""

    engine: InlineEngine
    sessions: Sessions
    signer: Signer
    memory: TrustMemory
    verifier: Verifier
    keyring: Keyring
    snapshot: Snapshot
    trust: TrustDocuments
    brokers: tuple[str, ...]
    """The pinned names."""
    clock: Clock
    holders: Mapping[str, Holder]


@dataclass(frozen=True, slots=True, eq=False)
class BrokerMaterials:
    """`await sessions.open(holder)`, then `sessions.current(holder.name)` is for `Broker.take_session`."""

    snapshot: Snapshot
    trust: TrustDocuments
    verifier: Verifier
    memory: TrustMemory
    clock: Clock
    sessions: Sessions
    holder: Holder


@dataclass(slots=True, eq=False)
class _Trust:
    """What the authority says now."""

    bundle: Bundle
    crl: RevocationList
    statement: Statement
    revoked: dict[int, Revocation] = field(default_factory=dict)
    agents: dict[str, Standing] = field(default_factory=dict)


class World:
    """`texts` as `policy_texts` gives them. Raises PolicyError. `seconds` is how long the TPM takes for an operation."""

    def __init__(self, texts: Texts, clock: Clock, *, seconds: float = 0.0) -> None:
        self.clock = clock
        self.authority = MadeUpAuthority(clock.now_ms())
        self._keys = InlineKeys(clock, ready)
        self.engine = InlineEngine(clock, self._keys, seconds=seconds)
        self.ledgers = MemoryLedgers()
        """Of all agents, as in one state folder."""
        self._inboxes: dict[str, MemoryInbox] = {}
        self._cosigners: dict[str, CosigningKey] = {}
        self._brokers: dict[str, None] = {BROKER: None}
        bundle = self._bundle(1, texts)
        crl = self.authority.revocations(1, {}, now_ms=clock.now_ms())
        self._trust = _Trust(bundle, crl, self._statement(1, bundle, crl, {}))

    # ---- what is so ----------------------------------------------------------------------------------------------------------

    @property
    def documents(self) -> TrustDocuments:
        trust = self._trust
        return TrustDocuments(crl=trust.crl.der, bundle=trust.bundle.raw, statement=trust.statement.raw)

    def snapshot(self) -> Snapshot:
        """What the documents say now."""
        trust = self._trust
        view = TrustView(self.authority.root, DOMAIN, trust.statement, trust.crl)
        return Snapshot(trust_documents.policy_of(trust.bundle), view)

    @property
    def policy(self) -> Policy:
        return trust_documents.policy_of(self._trust.bundle)

    @property
    def texts(self) -> Texts:
        """The files of the policy in force."""
        return dict(self._trust.bundle.files)

    def restate(self) -> Snapshot:
        """The next trust statement: due every few minutes, and after each change."""
        trust = self._trust
        trust.statement = self._statement(trust.statement.number + 1, trust.bundle, trust.crl, trust.agents)
        return self.snapshot()

    def change(self, texts: Texts) -> Snapshot:
        """Another policy. Raises PolicyError, and leaves all as it was."""
        self._trust.bundle = self._bundle(self._trust.bundle.version + 1, texts)
        return self.restate()

    def revoke(self, *names: str) -> Snapshot:
        """Cut these agents off; who gets the name next has another certificate."""
        trust, now_ms = self._trust, self.clock.now_ms()
        for name in names:
            generation, _ = trust.agents.get(name, (0, 0))
            trust.revoked[serial_of(name, generation)] = Revocation(now_ms, Reason.COMPROMISED)
            trust.agents[name] = generation + 1, now_ms
        trust.crl = self.authority.revocations(trust.crl.number + 1, trust.revoked, now_ms=now_ms)
        return self.restate()

    # ---- what hosts and brokers are made of ----------------------------------------------------------------------------------

    def materials(self, *names: str, on_audit: Callable[[str, AuditRecord], None] | None = None) -> Materials:
        """For a host in which these agents will be open. Raises NotPermittedError for a name that policy does not know."""
        snapshot, verifier, memory = self.snapshot(), self._verifier(), self._memory()
        keyring = Keyring(Held(verifier), memory, snapshot, self.clock)
        sessions = Sessions(self.engine, lambda: keyring.snapshot.trust.statement, self.clock)
        sessions.on_change.append(lambda: keyring.renewed(sessions.held))
        return Materials(
            engine=self.engine,
            sessions=sessions,
            signer=Signer(
                self.engine,
                sessions,
                self.clock,
                snapshot.policy,
                on_audit=on_audit or _unheard,
                environ={},
                cosigners=self._cosigners,
            ),
            memory=memory,
            verifier=verifier,
            keyring=keyring,
            snapshot=snapshot,
            trust=self.documents,
            brokers=tuple(self._brokers),
            clock=self.clock,
            holders={name: self.holder(name, snapshot.policy) for name in names},
        )

    def broker_materials(self, name: str = BROKER) -> BrokerMaterials:
        """Each of several brokers has a name of its own."""
        serial = BROKER_SERIAL if name == BROKER else serial_of(name, 0)
        certificate, key = self._identity(Profile.BROKER, name, BROKER_SUITE, SOFTWARE_TPM, serial=serial)
        self._brokers[name] = None
        sessions = Sessions(self.engine, lambda: self._trust.statement, self.clock)
        return BrokerMaterials(
            snapshot=self.snapshot(),
            trust=self.documents,
            verifier=self._verifier(),
            memory=self._memory(),
            clock=self.clock,
            sessions=sessions,
            holder=Holder(certificate, key, MAX_SESSION_MS, kem.X25519),
        )

    def holder(self, name: str, policy: Policy | None = None) -> Holder:
        """An agent with a key and a certificate. Raises NotPermittedError for a name that policy does not know."""
        role = (policy or self.policy).role_of(name)
        generation, _ = self._trust.agents.get(name, (0, 0))
        serial = serial_of(name, generation)
        certificate, key = self._identity(Profile.AGENT, name, role.suite, role.key_origin, serial=serial)
        cosigner = self._cosigners.get(name)
        return Holder.of(certificate, key, role, ml_dsa=cosigner.public if cosigner is not None else b"")

    def inbox(self, holder: Holder) -> MemoryInbox | None:
        """Where durable messages are sealed to; None where policy has no durable topics."""
        if not any(rule.is_durable for rule in self.policy.topics):
            return None
        inbox = self._inboxes.setdefault(holder.name, MemoryInbox(self.engine))
        inbox.renew(holder, self._keys, now_ms=self.clock.now_ms())
        return inbox

    # ---- parts ---------------------------------------------------------------------------------------------------------------

    def _identity(self, profile: Profile, name: str, suite: Suite, origin: str, *, serial: int) -> tuple[Certificate, str]:
        """A certificate, and what the engine calls its key."""
        key, pinned, now_ms = self._keys.create(name, suite, origin), Pinned(suite, origin, 0), self.clock.now_ms()
        return self.authority.certificate(profile, name, key.spki, pinned, serial=serial, now_ms=now_ms), key.id

    def _verifier(self) -> Verifier:
        return Verifier(self.authority.root, DOMAIN, unsafe_for_tests=True)

    def _memory(self) -> TrustMemory:
        memory = TrustMemory(None, self.clock)
        memory.accept_policy(self._trust.bundle)
        memory.accept(self._trust.statement)
        return memory

    def _bundle(self, version: int, texts: Texts) -> Bundle:
        try:
            bundle = self.authority.bundle(version, texts, now_ms=self.clock.now_ms())
        except ValueError as error:
            raise PolicyError([Problem(min(texts, default="policy"), 1, 1, str(error))]) from error
        for name in _cosigning(trust_documents.policy_of(bundle)):
            self._cosigners.setdefault(name, CosigningKey.from_seed(hashlib.sha256(f"{DOMAIN} {name}".encode()).digest()))
        return bundle

    def _statement(self, number: int, bundle: Bundle, crl: RevocationList, agents: Mapping[str, Standing]) -> Statement:
        return self.authority.statement(
            number,
            issued_ms=self.clock.now_ms(),
            lasts_ms=trust_documents.policy_of(bundle).trust_max_age_ms,
            bundle=bundle,
            crl=crl,
            agents=agents,
            ml_dsa={name: cosign.key_hash(key.public) for name, key in self._cosigners.items()},
        )


def _cosigning(policy: Policy) -> Iterator[str]:
    """Who may publish where a second signature is demanded."""
    demanding = [rule.match.text for rule in policy.topics if rule.cosign]
    for role in policy.roles.values():
        if any(overlaps(pattern.text, match) for pattern in role.publish for match in demanding):
            yield from policy.members(role.name)


def _unheard(agent: str, record: AuditRecord) -> None:
    """Until somebody listens to audit records."""
