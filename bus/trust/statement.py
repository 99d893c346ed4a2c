"""The trust statement: who is believed now, in one small signed document that is made anew every five minutes.

    statement = [body: bin, signer DER: bin, signature: bin, cosignature: bin]
    body      = [domain, number, issued, next_update, policy version, policy digest(32), CRL number, CRL digest(32),
                 [[agent, generation, sessions_not_before]..], [[agent, SHA-256(ML-DSA key)]..]]
    signature = r ‖ s of ECDSA P-384 over SHA3-384("tpmbus/1 trust" ‖ body), by a certificate of the trust profile

One encoding: agents ascend, each once, and stand in the first list only where they are not [0, 0].

An ECDSA signature has a twin, (r, n - s), that anybody can compute. So what tells two statements apart is the digest of the
body, not of the whole: else whoever carries a statement could make a second one of the same number, and call it a fork.
`digest`, over the whole, is what session certificates name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from bus.errors import VerificationError
from bus.protocol import codec, contexts, signatures
from bus.protocol.names import is_agent_name
from bus.protocol.skew import SKEW_MS
from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.trust import signed
from bus.trust.certificates import Certificate, Profile, Root
from bus.trust.certificates import read as read_certificate
from bus.trust.signed import untrusted

MAX_STATEMENT_BYTES: Final = 1 << 20
MAX_AGENTS: Final = 16_384
"""In one list: what a mebibyte holds of names of ordinary length. It bounds the memory that msgpack takes in advance."""
MAX_SIGNER_BYTES: Final = 8_192
MAX_AGE_MS: Final = 7 * 86_400_000
"""Policy's own upper limit of `trust: max_age`: no statement, whoever signed it, is good for longer."""
MAX_GENERATION: Final = (1 << 32) - 1
SUITE: Final[Suite] = IDENTITY_SUITES["ecc384/sha3-384"]
"""The trust signer's."""

_DIGEST_BYTES: Final = 32
_FIELDS: Final = 4
_BODY_FIELDS: Final = 10

Standing = tuple[int, int]
"""How often a name was revoked, and from when on its sessions count."""
NEW: Final[Standing] = (0, 0)


@dataclass(frozen=True, slots=True)
class Statement:
    """One that verified. Its mappings cannot be changed; look-ups cost the same with ten agents and with ten thousand."""

    domain: str
    number: int
    issued_ms: int
    next_update_ms: int
    policy_version: int
    policy_digest: bytes
    crl_number: int
    crl_digest: bytes
    agents: Mapping[str, Standing] = field(repr=False)
    """Only those that are not [0, 0]."""
    ml_dsa: Mapping[str, bytes] = field(repr=False)
    """SHA-256 of each agent's ML-DSA key."""
    signer: Certificate = field(repr=False)
    raw: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    """SHA-256 of all of it: what a session certificate names."""
    body_digest: bytes = field(repr=False)
    """SHA-256 of the body: two of one number are the same statement only if this is equal."""


def read(data: bytes, *, root: Root, domain: str, ml_dsa_root: bytes | None = None) -> Statement:
    """A statement of this domain's authority. Says nothing about age: `TrustView.check_fresh` does, and `advance` about rollback.

    Raises RemoteProtocolError("malformed") and VerificationError("untrusted").
    """
    body, signer_der, signature, cosignature = signed.outer(data, fields=_FIELDS, most=MAX_STATEMENT_BYTES)
    codec.sized(body)
    if len(codec.sized(signer_der)) > MAX_SIGNER_BYTES:
        raise codec.malformed("a signer's certificate that is too long")
    codec.sized(signature, SUITE.signature_bytes)
    signed.cosignature_field(cosignature)
    signer = read_certificate(signer_der, root=root, domain=domain, profile=Profile.TRUST)
    _check_signature(signer, tbs(body), signature)
    signed.check_cosignature(ml_dsa_root, tbs(body), cosignature)
    statement = parse_body(body, signer=signer, raw=data)
    if statement.domain != domain:
        raise untrusted(f"a statement of the domain {statement.domain[:64]!r}, not of {domain!r}")
    if not signer.not_before_ms - SKEW_MS <= statement.issued_ms <= signer.not_after_ms:
        raise untrusted("issued when its signer's certificate was not valid")
    return statement


def tbs(body: bytes) -> bytes:
    """What the trust signer signs, and the ML-DSA root key co-signs."""
    return contexts.TRUST + body


def encode(body: bytes, *, signer: bytes, signature: bytes, cosignature: bytes = b"") -> bytes:
    return bytes(codec.pack([body, signer, signature, cosignature]))


def body_bytes(
    *,
    domain: str,
    number: int,
    issued_ms: int,
    next_update_ms: int,
    policy: tuple[int, bytes],
    crl: tuple[int, bytes],
    agents: Mapping[str, Standing],
    ml_dsa: Mapping[str, bytes],
) -> bytes:
    """The one encoding of these facts. `policy` and `crl` are a number with the digest of what it numbers."""
    listed = [[name, *standing] for name, standing in sorted(agents.items()) if tuple(standing) != NEW]
    hashes = [[name, digest] for name, digest in sorted(ml_dsa.items())]
    return bytes(codec.pack([domain, number, issued_ms, next_update_ms, *policy, *crl, listed, hashes]))


def parse_body(body: bytes, *, signer: Certificate, raw: bytes) -> Statement:
    """What a body says, strictly. It proves nothing: `read` does. Raises RemoteProtocolError("malformed")."""
    if len(body) > MAX_STATEMENT_BYTES:
        raise codec.malformed("a statement that is too long")
    fields = codec.array(codec.unpack(body, longest=MAX_AGENTS), _BODY_FIELDS)
    domain, number, issued, next_update, policy_version, policy_digest, crl_number, crl_digest, agents, ml_dsa = fields
    if not codec.unsigned(number):
        raise codec.malformed("statements count from 1")
    if not 0 <= codec.unsigned(next_update) - codec.unsigned(issued) <= MAX_AGE_MS:
        raise codec.malformed("a statement is good for some time, and for seven days at most")
    return Statement(
        domain=codec.ascii_text(domain),
        number=number,
        issued_ms=issued,
        next_update_ms=next_update,
        policy_version=codec.unsigned(policy_version),
        policy_digest=codec.sized(policy_digest, _DIGEST_BYTES),
        crl_number=codec.unsigned(crl_number),
        crl_digest=codec.sized(crl_digest, _DIGEST_BYTES),
        agents=MappingProxyType(_ascending((name, _standing(rest)) for name, *rest in _rows(agents, 3))),
        ml_dsa=MappingProxyType(_ascending((name, codec.sized(digest, _DIGEST_BYTES)) for name, digest in _rows(ml_dsa, 2))),
        signer=signer,
        raw=raw,
        digest=hashlib.sha256(raw).digest(),
        body_digest=hashlib.sha256(body).digest(),
    )


def _check_signature(signer: Certificate, signed_bytes: bytes, signature: bytes) -> None:
    try:
        signatures.verify(SUITE, signer.public_key, signed_bytes, signature)
    except VerificationError as error:
        raise untrusted("not signed by the trust signer that it names") from error


def _rows(value: object, width: int) -> list[list[Any]]:
    if type(value) is not list:
        raise codec.malformed("a field is no list of agents")
    return [codec.array(row, width) for row in value]


def _standing(fields: list[Any]) -> Standing:
    generation, not_before = fields
    standing = codec.unsigned(generation, most=MAX_GENERATION), codec.unsigned(not_before)
    if standing == NEW:
        raise codec.malformed("an agent is listed of whom there is nothing to say")
    return standing


def _ascending(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    last = ""
    for name, value in pairs:
        if not is_agent_name(codec.ascii_text(name)) or name <= last:
            raise codec.malformed("agents that do not ascend by name")
        found[name] = value
        last = name
    return found
