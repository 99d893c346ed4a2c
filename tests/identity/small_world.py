"""A fleet of a few agents in one place: an authority that signs what a test wants, keys in software, a clock that stands still.

Everything between them goes as bytes; a test may change any of them on the way.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

sys.path.insert(0, str(Path(__file__).parent.parent / "trust"))

from ready_rsa import rsa_key
from small_authority import DAY, HOUR, NOW, SmallAuthority, spki

from bus.identity.envelopes import granting, seal
from bus.identity.envelopes.believe import Believed, believe
from bus.identity.envelopes.granting import OwnKey, Reader
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.listening import Listening, Subscription
from bus.identity.envelopes.receive import Parked, Received, receive
from bus.identity.envelopes.seal import Outgoing
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host.host_keys import HostKeys
from bus.policy import Policy, load
from bus.protocol import audience as audiences
from bus.protocol import papers as paper
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import AEADS, CLASSES, PRIORITIES, SIGNERS, Params, SealingEpoch
from bus.protocol.kem import BY_WORD, X25519
from bus.protocol.papers import Papers, SessionBody, SessionCertificate
from bus.protocol.proof import Proof, batch
from bus.protocol.records import Records
from bus.protocol.signatures import CRYPTOGRAPHY_HASHES
from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.trust.certificates import Certificate, Pinned, Profile
from bus.trust.certificates import read as read_certificate
from bus.trust.revocations import Revocation
from bus.trust.view import TrustView

MINUTE = 60_000

POLICY = """
version: 1
domain: tpmbus.test
agents: {DIRECTOR: command, DEPUTY: command, BUILDER: worker, TESTER: worker, MONITOR: monitor, GUEST: guest, SOFT: guest}
roles:
  command:
    key: rsa3072/sha3-384
    inbox: hybrid
    publish: ["control.>", "tasks.>", "work.>", "secret.>", "ask.>"]
    subscribe: ["results.>", "answers.>", "tasks.>"]
  worker:
    key: ecc384/sha3-256
    publish: ["results.>", "answers.>"]
    subscribe: ["control.>", "tasks.>", "work.>", "ask.>", "secret.>"]
  monitor:
    key: ecc256/sha256
    inbox: hybrid
    publish: ["results.>"]
    subscribe: [">"]
  guest:
    key: ecc256/sha256
    key_origin: software
    subscribe: ["tasks.>"]
topics:
  - {match: control.>, signed_by: identity, priority: critical}
  - {match: control.sealed.>, signed_by: identity, priority: critical, cosign: ml-dsa-65}
  - {match: secret.>, kem: hybrid, aead: xchacha20-poly1305}
  - {match: tasks.>, priority: normal, priorities: [normal, bulk]}
  - {match: work.>, class: durable, retention: 1d, dead_readers: [MONITOR]}
audit_readers: [MONITOR]
"""


def signature(key: Any, suite: Suite, tbs: bytes) -> bytes:
    """What a TPM would give: over H(tbs), fixed width."""
    algorithm = CRYPTOGRAPHY_HASHES[suite.hash]
    digest = suite.digest(tbs)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(digest, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), Prehashed(algorithm))
    r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(algorithm))))
    half = suite.signature_bytes // 2
    return r.to_bytes(half, "big") + s.to_bytes(half, "big")


_rsa_numbers = count()


def make_key(suite: Suite) -> Any:
    if suite.kind == "rsa3072":
        return rsa_key(3072, next(_rsa_numbers))
    return ec.generate_private_key(ec.SECP256R1() if suite.kind == "ecc256" else ec.SECP384R1())


_KEYS: dict[tuple[str, int], Any] = {}


def key_of(name: str, suite: Suite, number: int = 0) -> Any:
    """Made once for all tests: what is tested is not the key."""
    found = _KEYS.get((f"{name} {suite}", number))
    if found is None:
        found = _KEYS[f"{name} {suite}", number] = make_key(suite)
    return found


@dataclass(eq=False)
class Identity:
    name: str
    suite: Suite
    key: Any = field(repr=False)
    certificate: Certificate = field(repr=False)
    ml_dsa: Any = None

    def prove(self, purpose: Purpose, contents: Sequence[bytes], blinds: Sequence[bytes], **changes: Any) -> list[Proof]:
        tree = batch(self.suite, changes.get("signer", self.certificate.signer), [(purpose, content) for content in contents])
        signed = signature(self.key, self.suite, tree.tbs)
        cosigned = self.ml_dsa.sign(tree.tbs) if self.ml_dsa is not None and changes.get("cosign") else b""
        return [Proof.of(one, blind=blind, cosignature=cosigned) for one, blind in zip(tree.proofs(signed), blinds, strict=True)]


@dataclass(eq=False)
class Agent:
    """One agent in one process: its identity, its host's keys, its session."""

    identity: Identity
    host: HostKeys = field(repr=False)
    believed: Believed = field(repr=False)
    papers: bytes = field(repr=False)

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def session(self) -> bytes:
        return self.believed.id

    @property
    def own_key(self) -> dict[tuple[str, bytes], OwnKey]:
        return {(self.name, self.host.kem_key_id): OwnKey(self.name, self.host, frozenset({self.session}))}


class World:
    """`now` may be moved. What trust says may be changed by `trust(...)`, which makes the next snapshot."""

    def __init__(self, authority: SmallAuthority, policy: str = POLICY) -> None:
        self.authority = authority
        self.policy: Policy = load({"policy.yaml": policy.encode()})
        self.now = NOW + MINUTE
        self._serial = 100
        self._statement = 5
        self._agents: dict[str, tuple[int, int]] = {}
        self._ml_dsa: dict[str, bytes] = {}
        self._revoked: dict[int, Revocation] = {}
        self.verifier = Verifier(authority.root, authority.domain, ml_dsa_root=authority.ml_dsa.public)
        self.statement_bytes = b""
        self.snapshot = self.trust()

    def trust(
        self,
        *,
        agents: Mapping[str, tuple[int, int]] | None = None,
        revoked: Mapping[int, Revocation] | None = None,
        ml_dsa: Mapping[str, bytes] | None = None,
        policy: Policy | None = None,
    ) -> Snapshot:
        """The next statement, and the snapshot that it makes; what is left out stays as it was."""
        self._agents.update(agents or {})
        self._revoked.update(revoked or {})
        self._ml_dsa.update(ml_dsa or {})
        self.policy = policy or self.policy
        self._statement += 1
        crl = self.authority.revocations(self._statement, self._revoked)
        self.statement_bytes = self.authority.statement_bytes(
            number=self._statement,
            issued_ms=self.now,
            next_update_ms=self.now + HOUR,
            crl=(crl.number, crl.digest),
            agents=self._agents,
            ml_dsa=self._ml_dsa,
        )
        self.snapshot = Snapshot(
            self.policy,
            TrustView(self.authority.root, self.authority.domain, self.authority.read(self.statement_bytes), crl),
        )
        return self.snapshot

    # ---- who there is ------------------------------------------------------------------------------------------------------

    def identity(
        self, name: str, *, number: int = 0, suite: str | None = None, origin: str = "software-tpm", **changes: Any
    ) -> Identity:
        chosen = IDENTITY_SUITES[suite] if suite else self.policy.role_of(name).suite
        key = key_of(name, chosen, number)
        self._serial += 1
        facts = {
            "name": name,
            "spki": spki(key),
            "pinned": Pinned(chosen, origin, 0),
            "serial": self._serial,
            "not_before_ms": NOW - DAY,
            "not_after_ms": NOW + 300 * DAY,
        }
        profile = changes.pop("profile", Profile.AGENT)
        der = self.authority.certificate(profile, **(facts | changes))
        return Identity(name, chosen, key, read_certificate(der, root=self.authority.root, domain=self.authority.domain))

    def agent(self, name: str, *, identity: Identity | None = None, host: HostKeys | None = None, **changes: Any) -> Agent:
        """It opens a session. `changes` are of the session's body."""
        identity = identity or self.identity(name)
        host = host or HostKeys.make(BY_WORD[self.policy.role_of(name).inbox], os.urandom)
        papers = self.papers(identity, host, **changes)
        return Agent(identity, host, believe(papers, self.verifier, now_ms=self.now), papers)

    def papers(self, who: Identity, host: HostKeys, *, proof: Mapping[str, Any] | None = None, **changes: Any) -> bytes:
        statement = self.snapshot.trust.statement
        facts = {
            "domain": self.authority.domain,
            "name": who.name,
            "identity": who.certificate.signer,
            "host_key": host.public,
            "kem": host.kem,
            "kem_key": host.kem_key,
            "not_before_ms": self.now,
            "not_after_ms": self.now + 15 * MINUTE,
            "trust_number": statement.number,
            "trust_digest": statement.digest,
            "random": os.urandom(16),
        }
        body = SessionBody(**(facts | changes)).encode()
        blind = os.urandom(16)
        content = paper.content(Purpose.SESSION, body, blind=blind, suite=who.suite)
        signed = who.prove(Purpose.SESSION, [content], [blind], **(proof or {}))[0]
        ml_dsa = who.ml_dsa.public if who.ml_dsa is not None else b""
        return Papers(SessionCertificate(body, signed).encode(), who.certificate.der, self.statement_bytes, ml_dsa).encode()

    # ---- sending -----------------------------------------------------------------------------------------------------------

    def epoch(self, who: Agent, topic: str, **changes: Any) -> SealingEpoch:
        rule = self.snapshot.rule(topic)
        facts = {
            "domain": self.authority.domain,
            "sender": who.name,
            "audience": audiences.digest(self.snapshot.audience(topic)),
            "class_": CLASSES[rule.class_],
            "priority": PRIORITIES[rule.priority],
            "signed_by": SIGNERS[rule.signed_by],
            "aead": AEADS[rule.aead],
            "kem": BY_WORD[rule.kem],
            "made_ms": self.now,
            "ends_ms": self.now + 15 * MINUTE,
        }
        return SealingEpoch.make(os.urandom(32), Params(**(facts | changes)))

    def outgoing(self, sender: Agent, topic: str, payloads: Iterable[bytes] = (b"hello",), **changes: Any) -> Outgoing:
        found = tuple(payloads)
        ttl = min(self.snapshot.rule(topic).ttl_ms, MINUTE)
        facts = {"sent_ms": self.now, "expires_ms": self.now + ttl, "session": sender.session, "before": 0}
        return Outgoing(topic, Records(bytes(len(found)), found, {}), **(facts | changes))

    def send(self, sender: Agent, epoch: SealingEpoch, *outgoing: Outgoing) -> list[bytes]:
        """One turn, signed as the epoch says."""
        random = os.urandom(seal.RANDOM_BYTES * len(outgoing))
        if not epoch.params.by_identity:
            return seal.seal_turn([epoch] * len(outgoing), outgoing, sender.host, random=random)
        return self.send_by_identity(sender, epoch, *outgoing)

    def send_by_identity(self, sender: Agent, epoch: SealingEpoch, *outgoing: Outgoing, **changes: Any) -> list[bytes]:
        identity = sender.identity
        drafts = [seal.draft(epoch, one, suite=identity.suite, random=os.urandom(seal.RANDOM_BYTES)) for one in outgoing]
        proofs = identity.prove(Purpose.ENVELOPE, [one.content for one in drafts], [one.blind for one in drafts], **changes)
        return [seal.seal(one, proof) for one, proof in zip(drafts, proofs, strict=True)]

    def say(self, sender: Agent, topic: str, payloads: Iterable[bytes] = (b"hello",), **changes: Any) -> tuple[SealingEpoch, bytes]:
        """One envelope under a new epoch."""
        epoch = self.epoch(sender, topic)
        return epoch, self.send(sender, epoch, self.outgoing(sender, topic, payloads, **changes))[0]

    # ---- receiving ---------------------------------------------------------------------------------------------------------

    def held(self, *agents: Agent, epochs: Iterable[SealingEpoch] = ()) -> Held:
        """What a host has that knows these agents' papers, and got these epochs."""
        held = Held(Verifier(self.authority.root, self.authority.domain, ml_dsa_root=self.authority.ml_dsa.public))
        for agent in agents:
            held.sessions[agent.session] = agent.believed
        for epoch in epochs:
            held.keep(epoch.opened)
        return held

    def listening(self, agent: str, *patterns: str, began_ms: int | None = None, **changes: Any) -> Listening:
        began = self.now - HOUR if began_ms is None else began_ms
        return Listening.to(Subscription(agent, pattern, began, **changes) for pattern in patterns or (">",))

    def receive(self, data: bytes, held: Held, listening: Listening, **changes: Any) -> Received:
        """Raises what refuses it; what is parked fails the test."""
        got = receive(data, held, snapshot=self.snapshot, listening=listening, now_ms=self.now, **changes)
        assert not isinstance(got, Parked), got.reason
        return got

    def grant(self, granter: Agent, epoch: SealingEpoch, *readers: Reader, **changes: Any) -> list[bytes]:
        facts = {"session": granter.session, "expires_ms": epoch.params.ends_ms, "key": granter.host, "now_ms": self.now}
        return granting.make_grants(epoch.secret, epoch, readers, random=os.urandom, **(facts | changes))


class Insider:
    """A reader of an epoch: it holds the key, and so can open and seal under it whatever it likes. Its cipher is its own."""

    def __init__(self, epoch: SealingEpoch) -> None:
        info = b"tpmbus/1 content key" + hashlib.sha256(epoch.params_bytes).digest()
        self.cipher = AESGCM(HKDFExpand(SHA256(), 32, info).derive(epoch.secret))

    def open(self, envelope: bytes) -> tuple[list[Any], list[Any], bytes]:
        """The fields of header and proof, and the body."""
        header, sealed = msgpack.unpackb(envelope)
        fields = msgpack.unpackb(header)
        proof, body = msgpack.unpackb(self.cipher.decrypt(sealed[:4] + fields[7].to_bytes(8, "big"), sealed[4:], header))
        return fields, proof, body

    def seal(self, header: list[Any], proof: list[Any], body: bytes) -> bytes:
        packed, guard = msgpack.packb(header), os.urandom(4)
        plaintext = msgpack.packb([proof, body])
        return msgpack.packb([packed, guard + self.cipher.encrypt(guard + header[7].to_bytes(8, "big"), plaintext, packed)])


__all__ = ["DAY", "HOUR", "MINUTE", "NOW", "X25519", "Agent", "Identity", "World"]
