"""What vouches for a key that signs or opens: session and inbox certificates, and the papers that make them believable.

    certificate = [body: bin, proof]         the proof by the identity key, which names the identity's own certificate as its signer
    session     = [1, domain, name, SHA-256(identity DER), host key(32), kem, session KEM key, not_before, not_after,
                   trust number, SHA-256(trust statement), random(16)]                                                    purpose 2
    inbox       = [1, domain, name, SHA-256(identity DER), counter, kem, KEM key, not_before, not_after]                  purpose 3
    papers      = [session: bin, identity DER: bin, trust statement: bin, ML-DSA key: bin]

Here they are parsed, and their signature is checked against a given identity key. Whether that identity is believed, and
whether now is within their time, is asked elsewhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from bus.errors import VerificationError
from bus.protocol import contexts, kem, signatures
from bus.protocol.codec import array, ascii_text, malformed, pack, sized, unpack, unsigned
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import MAX_DOMAIN_BYTES
from bus.protocol.header import SESSION_ID_BYTES
from bus.protocol.names import is_agent_name
from bus.protocol.proof import PROOF_FIELDS, Proof
from bus.protocol.suites import BY_NUMBER, Suite

MAX_SESSION_MS: Final = 15 * 60 * 1000
MAX_INBOX_MS: Final = 30 * 24 * 3600 * 1000
MAX_COUNTER: Final = (1 << 32) - 1
"""Of inbox certificates: as many as nobody makes."""
MAX_CERTIFICATE_BYTES: Final = 8 << 10
MAX_IDENTITY_BYTES: Final = 8 << 10
MAX_STATEMENT_BYTES: Final = 1 << 20
ML_DSA_KEY_BYTES: Final = 1_952

_VERSION: Final = 1
_OF_PURPOSE: Final = {
    Purpose.SESSION: contexts.SESSION,
    Purpose.INBOX: contexts.INBOX,
    Purpose.ENROLL: contexts.ENROLL_REQUEST,
    Purpose.HTTP: contexts.HTTP,
}


def content(purpose: Purpose, body: bytes, *, blind: bytes, suite: Suite) -> bytes:
    """What an identity key signs of a body: purposes 2, 3, 4 and 6 differ in their context alone."""
    return suite.digest(_OF_PURPOSE[purpose] + blind + body)


class SessionBody(NamedTuple):
    domain: str
    name: str
    identity: bytes
    """SHA-256 of the identity certificate."""
    host_key: bytes
    kem: int
    kem_key: bytes
    not_before_ms: int
    not_after_ms: int
    trust_number: int
    trust_digest: bytes
    random: bytes

    def encode(self) -> bytes:
        return pack((_VERSION, *self))

    @classmethod
    def parse(cls, data: bytes) -> SessionBody:
        """Raises RemoteProtocolError("malformed")."""
        (version, domain, name, identity, host, kem_number, key, before, after, number, digest, random) = array(_unpacked(data), 12)
        _check_start(version, domain, name)
        _check_key(kem_number, key)
        try:
            signatures.check_host_key(sized(host, signatures.HOST_KEY_BYTES))
        except VerificationError as error:
            raise malformed("a host key is a valid point") from error
        _check_times(before, after, longest=MAX_SESSION_MS)
        unsigned(number)
        return cls(
            domain, name, sized(identity, 32), host, kem_number, key, before, after, number, sized(digest, 32), sized(random, 16)
        )


class InboxBody(NamedTuple):
    domain: str
    name: str
    identity: bytes
    counter: int
    kem: int
    kem_key: bytes
    not_before_ms: int
    not_after_ms: int

    def encode(self) -> bytes:
        return pack((_VERSION, *self))

    @classmethod
    def parse(cls, data: bytes) -> InboxBody:
        """Raises RemoteProtocolError("malformed")."""
        version, domain, name, identity, counter, kem_number, key, before, after = array(_unpacked(data), 9)
        _check_start(version, domain, name)
        _check_key(kem_number, key)
        _check_times(before, after, longest=MAX_INBOX_MS)
        return cls(domain, name, sized(identity, 32), unsigned(counter, most=MAX_COUNTER), kem_number, key, before, after)

    @property
    def key_id(self) -> bytes:
        return kem.key_id(self.kem, self.kem_key)


def _unpacked(data: bytes) -> list[Any]:
    return unpack(data, longest=16, arrays=1)


def _check_start(version: Any, domain: Any, name: Any) -> None:
    if unsigned(version) != _VERSION:
        raise malformed("a certificate of an unknown version")
    if not 0 < len(ascii_text(domain)) <= MAX_DOMAIN_BYTES or not is_agent_name(ascii_text(name)):
        raise malformed("no domain, or no agent's name")


def _check_key(number: Any, key: Any) -> None:
    if unsigned(number) not in kem.KEY_BYTES:
        raise malformed("an unknown key agreement")
    kem.check_key(number, sized(key, kem.KEY_BYTES[number]))


def _check_times(before: Any, after: Any, *, longest: int) -> None:
    if not unsigned(before) < unsigned(after) or after - before > longest:
        raise malformed("a certificate ends after it begins, and within its longest time")


@dataclass(frozen=True)
class _Certificate:
    """A body and the proof over it, as they travel."""

    body_bytes: bytes
    proof: Proof

    purpose: ClassVar[Purpose]

    def encode(self) -> bytes:
        return pack((self.body_bytes, self.proof))

    def check(self, identity_key: PublicKeyTypes, suite: Suite, signer: bytes) -> None:
        """Return if the identity whose certificate has the digest `signer` signed this. Raises VerificationError("bad_proof")."""
        if self.proof.suite != suite.number or self.proof.signer != signer:
            raise VerificationError("bad_proof", detail="the proof names another suite or signer than the identity's own")
        signed = self.proof.tbs(self.purpose, content(self.purpose, self.body_bytes, blind=self.proof.blind, suite=suite))
        signatures.verify(suite, identity_key, signed, self.proof.signature)


def _split(data: bytes) -> tuple[bytes, Proof]:
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise malformed("a certificate of more than 8 KiB")
    body, proof = array(unpack(data, longest=PROOF_FIELDS, arrays=2), 2)
    parsed = Proof.parse(proof)
    if parsed.cosignature:
        raise malformed("a certificate has no second signature")
    if BY_NUMBER.get(parsed.suite) is None:
        raise malformed("a proof of an unknown suite")
    return sized(body), parsed


@dataclass(frozen=True)
class SessionCertificate(_Certificate):
    purpose: ClassVar[Purpose] = Purpose.SESSION

    @classmethod
    def parse(cls, data: bytes) -> SessionCertificate:
        """Raises RemoteProtocolError("malformed")."""
        certificate = cls(*_split(data))
        _ = certificate.body  # parsed now, so that whoever holds one holds a whole one
        return certificate

    @cached_property
    def body(self) -> SessionBody:
        return SessionBody.parse(self.body_bytes)

    @cached_property
    def id(self) -> bytes:
        return _session_id(self.body_bytes)


@dataclass(frozen=True)
class InboxCertificate(_Certificate):
    purpose: ClassVar[Purpose] = Purpose.INBOX

    @classmethod
    def parse(cls, data: bytes) -> InboxCertificate:
        """Raises RemoteProtocolError("malformed")."""
        certificate = cls(*_split(data))
        _ = certificate.body
        return certificate

    @cached_property
    def body(self) -> InboxBody:
        return InboxBody.parse(self.body_bytes)


class Papers(NamedTuple):
    """Everything that makes a session believable, in one piece: kept as long as the messages that need it."""

    session: bytes
    identity: bytes
    statement: bytes
    ml_dsa: bytes

    def encode(self) -> bytes:
        return pack(self)

    @classmethod
    def parse(cls, data: bytes) -> Papers:
        """Raises RemoteProtocolError("malformed")."""
        session, identity, statement, ml_dsa = array(unpack(data, longest=4, arrays=1), 4)
        limits = ((session, MAX_CERTIFICATE_BYTES), (identity, MAX_IDENTITY_BYTES), (statement, MAX_STATEMENT_BYTES))
        if any(not 0 < len(sized(part)) <= limit for part, limit in limits):
            raise malformed("a part of the papers is missing, or too long")
        return cls(session, identity, statement, sized(ml_dsa, 0, ML_DSA_KEY_BYTES))


class Claimed(NamedTuple):
    """What papers say of themselves."""

    name: str
    host_key: bytes
    session: bytes
    """Its id."""


def claimed(papers: bytes) -> Claimed:
    """Whose they say they are; nothing of it is believed, and no key is looked at, which alone costs twenty times as much.

    Raises RemoteProtocolError("malformed").
    """
    body = _split(Papers.parse(papers).session)[0]
    _, _, name, _, host_key, *_ = array(_unpacked(body), 12)
    if not is_agent_name(ascii_text(name)):
        raise malformed("no agent's name")
    return Claimed(name, sized(host_key, signatures.HOST_KEY_BYTES), _session_id(body))


def _session_id(body: bytes) -> bytes:
    return hashlib.sha256(contexts.SESSION_ID + body).digest()[:SESSION_ID_BYTES]


def host_signer(host_key: bytes) -> bytes:
    """Who signs session-signed envelopes, as proofs name it."""
    return hashlib.sha256(contexts.HOST + host_key).digest()
