"""Parts 6 and 7: session and inbox certificates, papers, and "Receiving papers"."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from . import digests, ed25519, kem_keys, pack, shape, statement
from .identity import Certificate, read_certificate
from .proof import Proof
from .refusal import demand
from .root import Root

MAX_CERTIFICATE, MAX_PAPERS = 8_192, 8_192 + 8_192 + 1_048_576 + 1_952 + 64
SESSION_MS, INBOX_MS, SKEW_MS = 900_000, 2_592_000_000, 60_000


@dataclass(frozen=True)
class SessionBody:
    domain: str
    name: str
    identity: bytes
    host_key: bytes
    kem: int
    kem_key: bytes
    not_before: int
    not_after: int
    trust_number: int
    trust_digest: bytes
    id: bytes


def read_session_body(data: bytes) -> SessionBody:
    fields: list[Any] = shape.array(pack.parse(data, MAX_CERTIFICATE), 12)
    version, domain, name, identity, host_key, kem, kem_key, begins, ends, number, digest, random = fields
    shape.one_of(version, [1])
    demand(ed25519.public_point(shape.binary(host_key, [32])), "malformed", "no Ed25519 key")
    _life(begins, ends, SESSION_MS)
    shape.binary(random, [16])
    return SessionBody(
        shape.domain(domain),
        shape.agent(name),
        shape.binary(identity, [32]),
        host_key,
        shape.one_of(kem, [1, 2]),
        kem_keys.check_public(kem, kem_key),
        begins,
        ends,
        shape.number(number),
        shape.binary(digest, [32]),
        digests.session_id(data),
    )


@dataclass(frozen=True)
class InboxBody:
    domain: str
    name: str
    identity: bytes
    counter: int
    kem: int
    kem_key: bytes
    not_before: int
    not_after: int


def read_inbox_body(data: bytes) -> InboxBody:
    version, domain, name, identity, counter, kem, kem_key, begins, ends = shape.array(pack.parse(data, MAX_CERTIFICATE), 9)
    shape.one_of(version, [1])
    _life(begins, ends, INBOX_MS)
    return InboxBody(
        shape.domain(domain),
        shape.agent(name),
        shape.binary(identity, [32]),
        shape.number(counter, 0, shape.U32),
        shape.one_of(kem, [1, 2]),
        kem_keys.check_public(kem, kem_key),
        begins,
        ends,
    )


def _life(begins: Any, ends: Any, longest: int) -> None:
    shape.number(begins)
    shape.number(ends)
    demand(begins < ends <= begins + longest, "malformed", "validity")


def read_signed(data: bytes) -> tuple[bytes, Proof]:
    """(body, proof) of a session or inbox certificate."""
    body, proof = shape.array(pack.parse(data, MAX_CERTIFICATE), 2)
    shape.binary(body)
    read = Proof.of(proof)
    demand(read.suite in digests.HASHES and not read.cosignature, "malformed", "an unknown suite, or a cosignature")
    return body, read


def read_papers(data: bytes) -> list[bytes]:
    """[session, identity, statement, ml_dsa]."""
    session, identity, trust, ml_dsa = shape.array(pack.parse(data, MAX_PAPERS), 4)
    shape.binary(session, range(1, 8_193))
    shape.binary(identity, range(1, 8_193))
    shape.binary(trust, range(1, 1_048_577))
    shape.binary(ml_dsa, [0, 1_952])
    return [session, identity, trust, ml_dsa]


@dataclass(frozen=True)
class Papers:
    session: SessionBody
    identity: Certificate
    statement: statement.Statement
    ml_dsa: bytes


def _own(body: SessionBody | InboxBody, identity: Certificate, domain: str) -> None:
    named = (body.domain, body.name, body.identity)
    demand(named == (domain, identity.name, identity.signer), "untrusted", "not of this identity")


def _signed(purpose: int, data: bytes, proof: Proof, identity: Certificate) -> None:
    """Step 4."""
    demand((proof.suite, proof.signer) == (identity.suite, identity.signer), "bad_proof", "another signer")
    content = digests.other_content(proof.suite, purpose, proof.blind, data)
    proof.verify(identity.spki, proof.signed(purpose, content).tbs)


@functools.lru_cache(1024)
def believed(data: bytes, root: Root, domain: str, profile: str = "agent") -> Papers:
    session, identity_der, trust, ml_dsa = read_papers(data)
    body, proof = read_signed(session)
    read = read_session_body(body)
    identity = read_certificate(identity_der, profile, root, domain)
    _own(read, identity, domain)
    _signed(2, body, proof, identity)
    within = identity.not_before_ms - SKEW_MS <= read.not_before and read.not_after <= identity.not_after_ms
    demand(within, "untrusted", "not in its identity's time")
    said = statement.verified(trust, root, domain, None)
    demand((said.body.number, said.digest) == (read.trust_number, read.trust_digest), "untrusted", "another statement")
    current = said.body.issued_ms - SKEW_MS <= read.not_before <= said.body.next_update_ms
    demand(current, "untrusted", "not in its statement's time")
    return Papers(read, identity, said, ml_dsa)


@dataclass(frozen=True)
class Inbox:
    body: InboxBody
    identity: Certificate


def believed_inbox(data: bytes, identity_der: bytes, root: Root, domain: str) -> Inbox:
    body, proof = read_signed(data)
    read = read_inbox_body(body)
    identity = read_certificate(identity_der, "agent", root, domain)
    _own(read, identity, domain)
    _signed(3, body, proof, identity)
    return Inbox(read, identity)
