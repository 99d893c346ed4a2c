"""What an agent asks of the authority over the bus, and what comes back: bytes <-> values, and the signature.

    request = [body: bin, proof]
    body    = [1, domain, agent, made_ms, random(16), verb, [argument..]]
    content = H("tpmbus/1 authority request" ‖ blind ‖ body)      purpose 4, by the identity key that the agent's certificate names
    answer  = [1, id(16), code, statement]                        id = SHA-256(request)[:16]
              [1, id(16), "done", statement, certificate]      to `tls`

Whoever carries these is believed nothing: a request proves itself, and an answer is only a hint which trust statement to wait for.
What was done stands there, signed, and a certificate proves itself. So nothing secret is in either: a one-time token travels as its
hash.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from bus.errors import VerificationError
from bus.protocol import contexts, signatures
from bus.protocol.codec import array, ascii_text, malformed, pack, sized, unpack, unsigned
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import MAX_DOMAIN_BYTES
from bus.protocol.names import is_agent_name
from bus.protocol.proof import PROOF_FIELDS, Proof
from bus.protocol.suites import Suite
from bus.trust.revocations import Reason

MAX_PETITION_BYTES: Final = 4_096
"""All of it: a proof by the largest key has some 1,300."""
MAX_ANSWER_BYTES: Final = 4_096
"""With a certificate; the others have no more than a hundred."""
ID_BYTES: Final = 16
RANDOM_BYTES: Final = 16
DONE: Final = "done"

_VERSION: Final = 1
_MAX_CODE: Final = 64
_MAX_ROLE: Final = 64
_DIGEST_BYTES: Final = 32
_MAX_SPKI: Final = 256


class Verb(StrEnum):
    REVOKE = "revoke"
    END_SESSIONS = "end_sessions"
    CHIP = "chip"
    TOKEN = "token"
    REMOVE = "remove"
    RELOAD = "reload"
    JOIN = "join"
    TLS = "tls"


RIGHTS: Final = {
    Verb.REVOKE: "revoke", Verb.END_SESSIONS: "revoke",
    Verb.CHIP: "enroll", Verb.TOKEN: "enroll", Verb.REMOVE: "enroll",
    Verb.RELOAD: "policy", Verb.JOIN: "policy",
}  # fmt: skip
"""The word of a role's `may` that a verb needs. Everybody may ask for a TLS certificate of their own."""


class Petition(NamedTuple):
    """A body."""

    domain: str
    agent: str
    made_ms: int
    random: bytes
    verb: Verb
    arguments: tuple[str | bytes, ...]

    def encode(self) -> bytes:
        return pack((_VERSION, *self[:4], self.verb.value, self.arguments))

    @classmethod
    def parse(cls, data: bytes) -> Petition:
        """Raises RemoteProtocolError("malformed")."""
        version, domain, agent, made, random, verb, arguments = array(unpack(data, longest=8, arrays=2), 7)
        if unsigned(version) != _VERSION:
            raise malformed("a request of an unknown version")
        if not 0 < len(ascii_text(domain)) <= MAX_DOMAIN_BYTES or not is_agent_name(ascii_text(agent)):
            raise malformed("no domain, or no agent's name")
        known = {one.value: one for one in Verb}
        if ascii_text(verb) not in known:
            raise malformed("an authority knows no such verb")
        found = known[verb]
        return cls(domain, agent, unsigned(made), sized(random, RANDOM_BYTES), found, _arguments(found, arguments))


class Signed(NamedTuple):
    """A request as it travels."""

    body: bytes
    proof: Proof

    def encode(self) -> bytes:
        return pack((self.body, self.proof))

    @classmethod
    def parse(cls, data: bytes) -> Signed:
        """Raises RemoteProtocolError("malformed")."""
        if len(data) > MAX_PETITION_BYTES:
            raise malformed("a request of more than 4 KiB")
        body, proof = array(unpack(data, longest=PROOF_FIELDS, arrays=2), 2)
        return cls(sized(body), Proof.parse(proof))

    def check(self, identity_key: PublicKeyTypes, suite: Suite, signer: bytes) -> None:
        """Return if the identity whose certificate has the digest `signer` signed this. Raises VerificationError("bad_proof")."""
        if self.proof.suite != suite.number or self.proof.signer != signer or self.proof.cosignature:
            raise VerificationError("bad_proof", detail="the proof names another suite or signer than the identity's own")
        tbs = self.proof.tbs(Purpose.ENROLL, content(self.body, blind=self.proof.blind, suite=suite))
        signatures.verify(suite, identity_key, tbs, self.proof.signature)


class Answer(NamedTuple):
    id: bytes
    code: str
    """DONE, or why not."""
    statement: int
    """The number of a trust statement that was issued afterwards."""
    certificate: bytes = b""
    """DER, if one was asked for and issued."""

    def encode(self) -> bytes:
        return pack((_VERSION, *(self if self.certificate else self[:3])))

    @classmethod
    def parse(cls, data: bytes) -> Answer:
        """Raises RemoteProtocolError("malformed")."""
        if len(data) > MAX_ANSWER_BYTES:
            raise malformed("an answer of more than 4 KiB")
        found = unpack(data, longest=5, arrays=1)
        has_one = len(found) == 5
        version, id_, code, statement, *certificate = array(found, 5 if has_one else 4)
        if unsigned(version) != _VERSION or not 0 < len(ascii_text(code)) <= _MAX_CODE:
            raise malformed("an answer of an unknown version, or without a code")
        if has_one and (code != DONE or not sized(certificate[0])):
            raise malformed("an answer with no certificate where one stands")
        return cls(sized(id_, ID_BYTES), code, unsigned(statement), *certificate)


def content(body: bytes, *, blind: bytes, suite: Suite) -> bytes:
    """What the identity key signs."""
    return suite.digest(contexts.AUTHORITY_REQUEST + blind + body)


def petition_id(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:ID_BYTES]


def _arguments(verb: Verb, given: Any) -> tuple[str | bytes, ...]:
    if verb is Verb.RELOAD:
        return tuple(array(given, 0))
    if verb is Verb.TLS:
        (spki,) = array(given, 1)
        if not 0 < len(sized(spki)) <= _MAX_SPKI:
            raise malformed("no public key of this kind")
        return (spki,)
    if verb in (Verb.END_SESSIONS, Verb.REMOVE):
        (name,) = array(given, 1)
        return (_name(name),)
    name, other = array(given, 2)
    if verb in (Verb.CHIP, Verb.TOKEN):
        return _name(name), sized(other, _DIGEST_BYTES)
    word = ascii_text(other)
    if (verb is Verb.REVOKE and word not in {one.value for one in Reason}) or not 0 < len(word) <= _MAX_ROLE:
        raise malformed("no reason, or no role")
    return _name(name), word


def _name(name: Any) -> str:
    if not is_agent_name(ascii_text(name)):
        raise malformed("no agent's name")
    return str(name)
