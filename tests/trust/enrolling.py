"""A whole enrolment in one process: agents in a made chip, an authority that knows a policy, and what a test wants to go wrong."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from made_chip import IDENTITY_ATTRIBUTES, NOW, MadeChip, Maker, public_area, spki_of

from bus.policy import Policy, load
from bus.protocol.contexts import Purpose
from bus.protocol.kem import KEY_BYTES, X25519
from bus.protocol.proof import Proof, batch, key_signer
from bus.protocol.suites import IDENTITY_SUITES
from bus.trust.endorsement import Roots
from bus.trust.enrolment_agent import AgentHalf
from bus.trust.enrolment_authority import AuthorityHalf, Verdict
from bus.trust.enrolment_list import EnrolmentList
from bus.trust.enrolment_messages import LISTED, LOCAL, Applicant, Chip, Evidence
from bus.trust.enrolment_rules import Held, Known

P256 = IDENTITY_SUITES["ecc256/sha256"]
MAKER = Maker()
ROOTS = Roots.of(software=[MAKER.root], intermediates=[MAKER.ca])
INBOX = bytes([9]) + bytes(KEY_BYTES[X25519] - 1)
UID = 1000
POLICY = """
version: 1
agents: {LEAD: lead, HARD: hard, FREE: free, BOUND: bound, POST: post}
roles:
  lead: {key: ecc256/sha256, inbox: x25519}
  hard: {key: ecc256/sha256, inbox: x25519, key_origin: hardware}
  free: {key: ecc256/sha256, inbox: x25519, key_origin: software, environment: allow}
  bound: {key: ecc256/sha256, inbox: x25519, key_origin: software}
  post: {key: ecc256/sha256, inbox: hybrid}
"""


def policy(more: str = "") -> Policy:
    return load({"policy.yaml": POLICY + more})


def signed(key, content: bytes, *, suite=P256, signer=None, blind=bytes(16), cosignature=b"") -> Proof:
    """A proof by a bare key, as an engine makes it."""
    made = batch(suite, signer or key_signer(spki_of(key)), [(Purpose.ENROLL, content)])
    r, s = decode_dss_signature(key.sign(hashlib.sha256(made.tbs).digest(), ec.ECDSA(Prehashed(hashes.SHA256()))))
    (proof,) = made.proofs(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    return Proof.of(proof, blind=blind, cosignature=cosignature)


@dataclass
class Enrolling:
    """Set what is to be otherwise, then `begin` and `finish`; `run` does both."""

    names: tuple[str, ...] = ("LEAD",)
    chip: MadeChip | None = field(default_factory=lambda: MadeChip(MAKER))
    way: int = LISTED
    token: bytes = b""
    uid: int | None = None
    now_ms: int = NOW
    known: Known | None = None
    held: dict[str, Held] = field(default_factory=dict)
    old_key: ec.EllipticCurvePrivateKey | None = None
    inbox: tuple[int, bytes] = (X25519, INBOX)

    def __post_init__(self) -> None:
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in self.names}
        self.publics = {name: public_area(key, IDENTITY_ATTRIBUTES) for name, key in self.keys.items()}
        listed = EnrolmentList()
        if self.chip is not None:
            for name in self.names:
                listed = listed.with_chip(name, self.chip.ek_hash)
        self.known = self.known or Known(policy(), ROOTS, listed, self.held.get)
        self.agent, self.authority = AgentHalf(), AuthorityHalf()

    def change(self, **what) -> None:
        self.known = replace(self.known, **what)

    @property
    def shown(self) -> Chip | None:
        chip = self.chip
        return None if chip is None else Chip(chip.certificate, (), chip.ek_public, chip.ak_public)

    @property
    def applicants(self) -> list[Applicant]:
        return [
            Applicant(
                name, self.publics[name] if self.chip else b"", spki_of(self.keys[name]), P256, *self.inbox, self.way, self.token
            )
            for name in self.names
        ]

    def ask(self) -> bytes:
        return self.agent.request(self.shown, self.applicants)

    def begin(self) -> bytes:
        """Gives the challenge."""
        self.authority.request(self.ask())
        return self.challenged()

    def challenged(self, *, nonce=bytes(range(32))) -> bytes:
        randomness = hashlib.sha512(nonce).digest() + bytes(32)
        return self.authority.challenge(
            self.known, uid=self.uid, now_ms=self.now_ms, nonce=nonce, secret=b"s" * 32, randomness=randomness
        )

    def prove(self, challenge: bytes, **changes) -> bytes:
        """The proof; `changes` are fields of the first agent's evidence."""
        opening = self.agent.challenge(challenge)
        secret = b"" if self.chip is None else self.chip.activate(opening.id_object, opening.encrypted_secret)
        evidence = [self.evidence(task) for task in opening.tasks]
        return self.agent.proof(secret, [evidence[0]._replace(**changes), *evidence[1:]])

    def evidence(self, task) -> Evidence:
        succession = None
        if task.needs_succession and self.old_key is not None:
            succession = signed(self.old_key, task.binding.content(P256, blind=bytes(16)))
        name = task.applicant.name
        if self.chip is None:
            return Evidence(own=signed(self.keys[name], task.binding.content(P256, blind=bytes(16))), succession=succession)
        return Evidence(*self.chip.certify(self.publics[name], task.binding.qualifying), succession=succession)

    def finish(self, proof: bytes) -> tuple[Verdict, ...]:
        return self.authority.proof(proof, self.known, uid=self.uid, now_ms=self.now_ms)

    def run(self, **changes) -> tuple[Verdict, ...]:
        return self.finish(self.prove(self.begin(), **changes))


def in_software(name="FREE", **options) -> Enrolling:
    run = Enrolling(names=(name,), chip=None, way=LOCAL, uid=UID, **options)
    run.change(listed=EnrolmentList().with_uid("*", UID))
    return run


def held_by(key, *, ek_hash=b"") -> Held:
    return Held(ek_hash, spki_of(key), P256)
