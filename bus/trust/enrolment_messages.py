"""The five messages of an enrolment, as they travel. Each is an array that begins with the version and its kind.

    request    [1, 1, chip | nil, [[name, public: bin, spki: bin, suite, kem, inbox key: bin, way, token(0|16)]..]]
               chip = [EK certificate: bin, [intermediate: bin..], EK public: bin, AK public: bin]; nil: the software keystore's
               way: 0 the chip is listed, 1 a one-time token, 2 the local user, 3 renewal by the key that has the name
    challenge  [1, 2, nonce(32), id object: bin, encrypted secret: bin, [index..]]
               index: of the agents whose old key must sign for its successor
    proof      [1, 3, nonce(32), secret(0|32), [[attest: bin, signature: bin, own proof | nil, succession | nil]..]]
    granted    [1, 4, [certificate DER: bin..]]
    refused    [1, 5, reason, name], the name empty where it is nobody's fault in particular

One request may be for all agents of a host: they share the chip, one nonce and one credential, and each has its own
attestation. `public` is a TPM2B_PUBLIC, and empty for a software key, which proves itself instead (`own proof`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from bus.protocol import codec, kem
from bus.protocol.names import is_agent_name
from bus.protocol.proof import Proof
from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.protocol.tpm_structures import MAX_PUBLIC_BYTES
from bus.trust.endorsement import MAX_CERTIFICATE_BYTES, MAX_INTERMEDIATES

VERSION: Final = 1
REQUEST, CHALLENGE, PROOF, GRANTED, REFUSED = 1, 2, 3, 4, 5
LISTED, TOKEN, LOCAL, RENEWAL = 0, 1, 2, 3
NONCE_BYTES: Final = 32
SECRET_BYTES: Final = 32
TOKEN_BYTES: Final = 16
MAX_AGENTS: Final = 256
MAX_MESSAGE_BYTES: Final = 1 << 20

_MAX_ARRAYS: Final = 4 + 3 * MAX_AGENTS
"""In a proof each agent has a line with two proofs in it."""
_MAX_SPKI_BYTES: Final = 512
_MAX_ATTEST_BYTES: Final = 1_024
_MAX_SIGNATURE_BYTES: Final = 1_024
_MAX_BLOB_BYTES: Final = 1_024
_SUITES: Final = {suite.number: suite for suite in IDENTITY_SUITES.values()}


class Chip(NamedTuple):
    certificate: bytes
    intermediates: tuple[bytes, ...]
    endorsement: bytes
    attester: bytes


class Applicant(NamedTuple):
    """One agent: its name, its identity key, where durable messages are sealed to, and why it may have the name."""

    name: str
    public: bytes
    spki: bytes
    suite: Suite
    kem: int
    inbox_key: bytes
    way: int
    token: bytes = b""

    def __repr__(self) -> str:
        return f"Applicant({self.name}, {self.suite}, way {self.way})"


class Request(NamedTuple):
    chip: Chip | None
    applicants: tuple[Applicant, ...]

    @property
    def tokens(self) -> list[bytes]:
        return [applicant.token for applicant in self.applicants if applicant.token]

    def encode(self) -> bytes:
        chip = None if self.chip is None else [self.chip.certificate, list(self.chip.intermediates), *self.chip[2:]]
        lines = [[*each[:3], each.suite.number, *each[4:]] for each in self.applicants]
        return _encode(REQUEST, chip, lines)

    @classmethod
    def parse(cls, data: bytes) -> Request:
        chip, lines = _fields(data, REQUEST, 2)
        applicants = tuple(_applicant(line, in_chip=chip is not None) for line in _listed(lines, MAX_AGENTS))
        if not applicants or len({applicant.name for applicant in applicants}) != len(applicants):
            raise codec.malformed("a request is for at least one agent, and for each once")
        return cls(None if chip is None else _chip(chip), applicants)


class Challenge(NamedTuple):
    nonce: bytes
    id_object: bytes
    encrypted_secret: bytes
    successions: tuple[int, ...]

    def encode(self) -> bytes:
        return _encode(CHALLENGE, *self[:3], list(self.successions))

    @classmethod
    def parse(cls, data: bytes) -> Challenge:
        nonce, id_object, secret, successions = _fields(data, CHALLENGE, 4)
        places = [codec.unsigned(place, most=MAX_AGENTS - 1) for place in _listed(successions, MAX_AGENTS)]
        if places != sorted(set(places)):
            raise codec.malformed("the agents that must sign for a successor, each once and in order")
        first, second = _bounded(id_object, _MAX_BLOB_BYTES), _bounded(secret, _MAX_BLOB_BYTES)
        return cls(codec.sized(nonce, NONCE_BYTES), first, second, tuple(places))


class Evidence(NamedTuple):
    """What proves one agent's key: the chip's word, or the key's own; and where it takes over a name, the old key's."""

    attest: bytes = b""
    signature: bytes = b""
    own: Proof | None = None
    succession: Proof | None = None


class Answer(NamedTuple):
    """The proof: what the credential held, and evidence for each agent in the order of the request."""

    nonce: bytes
    secret: bytes
    evidence: tuple[Evidence, ...]

    def encode(self) -> bytes:
        lines = [[each.attest, each.signature, _proof_fields(each.own), _proof_fields(each.succession)] for each in self.evidence]
        return _encode(PROOF, self.nonce, self.secret, lines)

    @classmethod
    def parse(cls, data: bytes) -> Answer:
        nonce, secret, lines = _fields(data, PROOF, 3)
        evidence = tuple(_evidence(line) for line in _listed(lines, MAX_AGENTS))
        return cls(codec.sized(nonce, NONCE_BYTES), codec.sized(secret, 0, SECRET_BYTES), evidence)

    def __repr__(self) -> str:
        return f"Answer(nonce={self.nonce.hex()[:8]}.., {len(self.evidence)} agents)"


class Granted(NamedTuple):
    certificates: tuple[bytes, ...]

    def encode(self) -> bytes:
        return _encode(GRANTED, list(self.certificates))

    @classmethod
    def parse(cls, data: bytes) -> Granted:
        (certificates,) = _fields(data, GRANTED, 1)
        return cls(tuple(_bounded(der, MAX_CERTIFICATE_BYTES) for der in _listed(certificates, MAX_AGENTS)))


class Refused(NamedTuple):
    reason: str
    name: str

    def encode(self) -> bytes:
        return _encode(REFUSED, self.reason, self.name)

    @classmethod
    def parse(cls, data: bytes) -> Refused:
        reason, name = (codec.ascii_text(text) for text in _fields(data, REFUSED, 2))
        if not 0 < len(reason) <= 32 or not (name == "" or is_agent_name(name)):
            raise codec.malformed("a refusal names a reason, and an agent or nobody")
        return cls(reason, name)


def kind_of(data: bytes) -> int:
    """Which of the five messages these bytes are. Raises RemoteProtocolError("malformed")."""
    fields = _unpacked(data)
    if len(fields) < 2 or codec.unsigned(fields[0]) != VERSION or not REQUEST <= codec.unsigned(fields[1]) <= REFUSED:
        raise codec.malformed("no enrolment message of version 1")
    return int(fields[1])


def _encode(kind: int, *fields: object) -> bytes:
    data: bytes = codec.pack([VERSION, kind, *fields])
    return data


def _unpacked(data: bytes) -> list[Any]:
    if len(data) > MAX_MESSAGE_BYTES:
        raise codec.malformed(f"{len(data):,} bytes are no message of an enrolment")
    return codec.unpack(data, longest=MAX_AGENTS, arrays=_MAX_ARRAYS)


def _fields(data: bytes, kind: int, count: int) -> list[Any]:
    fields = codec.array(_unpacked(data), 2 + count)
    if [codec.unsigned(field) for field in fields[:2]] != [VERSION, kind]:
        raise codec.malformed("another message, or another version, than is due")
    return fields[2:]


def _listed(value: object, most: int) -> list[Any]:
    if type(value) is not list or len(value) > most:
        raise codec.malformed("a field is no list, or too long a one")
    return value


def _bounded(value: object, most: int) -> bytes:
    data = codec.sized(value)
    if len(data) > most:
        raise codec.malformed(f"a field of {len(data):,} bytes, where {most:,} are the most")
    return data


def _chip(fields: object) -> Chip:
    certificate, intermediates, endorsement, attester = codec.array(fields, 4)
    between = tuple(_bounded(der, MAX_CERTIFICATE_BYTES) for der in _listed(intermediates, MAX_INTERMEDIATES))
    areas = (_bounded(area, MAX_PUBLIC_BYTES + 2) for area in (endorsement, attester))
    return Chip(_bounded(certificate, MAX_CERTIFICATE_BYTES), between, *areas)


def _applicant(fields: object, *, in_chip: bool) -> Applicant:
    name, public, spki, suite, kem_number, inbox_key, way, token = codec.array(fields, 8)
    if not is_agent_name(codec.ascii_text(name)):
        raise codec.malformed("what is to be enrolled has no agent's name")
    number = codec.unsigned(suite, most=255)
    if number not in _SUITES:
        raise codec.malformed("no identity key has this suite")
    kem.check_key(codec.unsigned(kem_number, most=255), codec.sized(inbox_key))
    way = codec.unsigned(way, most=RENEWAL)
    codec.sized(token, TOKEN_BYTES if way == TOKEN else 0)
    if bool(_bounded(public, MAX_PUBLIC_BYTES + 2)) != in_chip:
        raise codec.malformed("a key has a public area if it is in a chip, and only then")
    return Applicant(name, public, _bounded(spki, _MAX_SPKI_BYTES), _SUITES[number], kem_number, inbox_key, way, token)


def _evidence(fields: object) -> Evidence:
    attest, signature, own, succession = codec.array(fields, 4)
    said = _bounded(attest, _MAX_ATTEST_BYTES), _bounded(signature, _MAX_SIGNATURE_BYTES)
    return Evidence(*said, _proof(own), _proof(succession))


def _proof(fields: object) -> Proof | None:
    return None if fields is None else Proof.parse(fields)


def _proof_fields(proof: Proof | None) -> list[Any] | None:
    return None if proof is None else list(proof)
