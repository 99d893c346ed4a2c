"""Everything that foreign bytes are parsed as, in one table. A new structure is one more row.

target    rows that are fuzzed together, in one process; its corpus is corpus/<target>
parse     bytes -> value, or `refusal`
encode    value -> the same bytes; None where the bytes themselves are kept, and nothing is ever encoded again
example   bytes that parse: what random changes begin with
memory    the most that parsing may take at once, whatever the bytes: three mebibytes unless the row says more, and why
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bus.errors import RemoteProtocolError
from bus.protocol import codec, envelope, header, kem, records
from bus.protocol.epochs import Params
from bus.protocol.grants import GrantBody
from bus.protocol.handshake import HelloA, HelloB, Limits
from bus.protocol.header import Header
from bus.protocol.papers import InboxBody, InboxCertificate, Papers, SessionBody, SessionCertificate
from bus.protocol.proof import Proof
from bus.protocol.records import Records
from bus.protocol.sampling import AuditRecord
from bus.protocol.suites import IDENTITY_SUITES
from bus.protocol.tpm_structures import PublicArea
from bus.trust import bundle, enrolment_messages, statement
from bus.trust.bundle import Bundle
from bus.trust.enrolment_list import EnrolmentList
from bus.trust.enrolment_messages import Answer, Applicant, Challenge, Chip, Evidence, Granted, Refused, Request
from bus.trust.extension import Pinned
from bus.trust.statement import Statement
from bus.trust.tpm_keys import TpmKey

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Row:
    target: str
    name: str
    parse: Callable[[bytes], Any]
    encode: Callable[[Any], bytes] | None
    example: bytes
    refusal: type[Exception] = RemoteProtocolError
    memory: int = 3 * MEBIBYTE
    reasons: tuple[str, ...] = ("malformed",)

    def judge(self, data: bytes) -> bool:
        """Whether these bytes parse. Anything but a refusal, or a value that is encoded to other bytes, is an error."""
        try:
            value = self.parse(data)
        except self.refusal as error:
            if getattr(error, "reason", "malformed") not in self.reasons:
                raise AssertionError((self.name, data, error)) from error
            return False
        if self.encode is not None and (again := self.encode(value)) != data:
            raise AssertionError((self.name, data, again))
        return True


# ---- values for the examples ---------------------------------------------------------------------------------------------------


def _bytes(length: int, what: str = "") -> bytes:
    return hashlib.shake_256(what.encode()).digest(length)


MINUTE = 60_000
NOW = 1_800_000_000_000
SUITE = IDENTITY_SUITES["ecc256/sha256"]
PROOF = Proof(SUITE.number, _bytes(32), 2, 1, _bytes(32), _bytes(64), b"", _bytes(16))
HOST_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
KEM_KEY = kem.PrivateKey.from_bytes(kem.X25519, _bytes(32)).public
HYBRID_KEY = kem.PrivateKey.from_bytes(kem.HYBRID, _bytes(96)).public
HEADER = Header(1, 1, 1, "news.today", "ALPHA", _bytes(16), _bytes(32), 7, NOW, NOW + MINUTE, 3, 2, _bytes(16), b"", 12)
RECORDS = Records(b"\x00\x01", [b"bytes", b"\x93\x01\x02\x03"], {0: {"lang": "de"}, 1: {"trace": "4bf9", "lang": "en"}})
PARAMS = Params("example.org", "ALPHA", _bytes(32), 0, 3, 0, 1, kem.HYBRID, NOW, NOW + 15 * MINUTE)
GRANT = GrantBody(_bytes(32), PARAMS.encode(), "BETA", _bytes(16), (("ALPHA", 0), ("BETA", 3)))
SESSION = SessionBody(
    "example.org", "ALPHA", _bytes(32), HOST_KEY, kem.HYBRID, HYBRID_KEY, NOW, NOW + 15 * MINUTE, 9, _bytes(32), _bytes(16)
)
INBOX = InboxBody("example.org", "ALPHA", _bytes(32), 4, kem.X25519, KEM_KEY, NOW, NOW + 7 * 1440 * MINUTE)
PAPERS = Papers(b"session", b"identity", b"statement", b"")
CHIP = Chip(_bytes(600), (_bytes(500),), _bytes(300), _bytes(90))
NONCE = _bytes(32)


def _public_area() -> bytes:
    """Of an attestation key on P-256: fixed, restricted, signing with ECDSA and SHA-256."""
    point = derive_private_key(7, SECP256R1()).public_key().public_numbers()
    rest = bytes.fromhex("0000 0010 0018 000b 0003 0010") + b"".join(
        b"\x00\x20" + number.to_bytes(32, "big") for number in (point.x, point.y)
    )
    return PublicArea(0x0023, 0x000B, 0x00050072, rest).encode()


def _statement_bytes(found: Statement) -> bytes:
    return statement.body_bytes(
        domain=found.domain,
        number=found.number,
        issued_ms=found.issued_ms,
        next_update_ms=found.next_update_ms,
        policy=(found.policy_version, found.policy_digest),
        crl=(found.crl_number, found.crl_digest),
        agents=found.agents,
        ml_dsa=found.ml_dsa,
    )


def _bundle_bytes(found: Bundle) -> bytes:
    return bundle.body_bytes(domain=found.domain, version=found.version, made_ms=found.made_ms, files=found.files)


STATEMENT = statement.body_bytes(
    domain="example.org",
    number=9,
    issued_ms=NOW,
    next_update_ms=NOW + 60 * MINUTE,
    policy=(3, _bytes(32)),
    crl=(2, _bytes(32)),
    agents={"ALPHA": (1, NOW), "BETA": (0, 5)},
    ml_dsa={"ALPHA": _bytes(32)},
)
BUNDLE = bundle.body_bytes(
    domain="example.org", version=3, made_ms=NOW, files={"policy.yaml": b"version: 1\n", "rosters/a.yaml": b"agents: {}\n"}
)
REQUEST = Request(
    CHIP,
    (
        Applicant("ALPHA", _bytes(90), _bytes(91), SUITE, kem.X25519, KEM_KEY, enrolment_messages.TOKEN, _bytes(16)),
        Applicant("BETA", _bytes(90), _bytes(91), SUITE, kem.HYBRID, HYBRID_KEY, enrolment_messages.LISTED),
    ),
)
ENROLMENTS = EnrolmentList().with_chip("ALPHA", _bytes(32)).with_token("BETA", _bytes(16), now_ms=NOW).with_uid("GAMMA", 1_000)

# ---- the table -----------------------------------------------------------------------------------------------------------------

_FEW_LONG_LISTS = 96 * MEBIBYTE
"""An array of 16,384 in each of the 1,024 levels that msgpack goes down to; it takes room for them before it reads them."""
_RECORD_LISTS = 12 * MEBIBYTE
"""The same with 1,024."""

ROWS = (
    Row("envelope", "codec", lambda data: codec.unpack(data, longest=16), codec.pack, codec.pack([None, True, 1, b"x", "y", []])),
    Row("envelope", "header", header.parse, Header.encode, HEADER.encode()),
    Row("envelope", "envelope", envelope.split, lambda value: envelope.join(*value), envelope.join(HEADER.encode(), _bytes(90))),
    Row(
        "envelope",
        "plaintext",
        envelope.split_plaintext,
        lambda value: envelope.plaintext(*value),
        envelope.plaintext(PROOF, RECORDS.encode()),
    ),
    Row("envelope", "records", records.parse, Records.encode, RECORDS.encode(), memory=_RECORD_LISTS),
    Row("envelope", "params", Params.parse, Params.encode, PARAMS.encode()),
    Row("envelope", "grant", GrantBody.parse, GrantBody.encode, GRANT.encode()),
    Row("envelope", "audit record", AuditRecord.parse, AuditRecord.encode, AuditRecord(_bytes(32), 7, _bytes(32), PROOF).encode()),
    Row("papers", "session body", SessionBody.parse, SessionBody.encode, SESSION.encode()),
    Row("papers", "inbox body", InboxBody.parse, InboxBody.encode, INBOX.encode()),
    Row(
        "papers",
        "session certificate",
        SessionCertificate.parse,
        SessionCertificate.encode,
        SessionCertificate(SESSION.encode(), PROOF).encode(),
    ),
    Row(
        "papers",
        "inbox certificate",
        InboxCertificate.parse,
        InboxCertificate.encode,
        InboxCertificate(INBOX.encode(), PROOF).encode(),
    ),
    Row("papers", "papers", Papers.parse, Papers.encode, PAPERS.encode()),
    Row(
        "trust",
        "statement",
        lambda data: statement.parse_body(data, signer=None, raw=data),
        _statement_bytes,
        STATEMENT,
        memory=_FEW_LONG_LISTS,
    ),
    Row("trust", "bundle", lambda data: bundle.parse_body(data, raw=data), _bundle_bytes, BUNDLE, memory=_RECORD_LISTS),
    Row("trust", "extension", Pinned.parse, Pinned.encode, Pinned(SUITE, "hardware", 4).encode(), ValueError),
    Row("trust", "public area of a key", TpmKey.parse, None, _public_area()),
    Row("trust", "enrolment list", EnrolmentList.parse, EnrolmentList.encode, ENROLMENTS.encode(), ValueError),
    Row("enrolment", "request", Request.parse, Request.encode, REQUEST.encode()),
    Row("enrolment", "challenge", Challenge.parse, Challenge.encode, Challenge(NONCE, _bytes(70), _bytes(70), (0, 1)).encode()),
    Row(
        "enrolment",
        "proof",
        Answer.parse,
        Answer.encode,
        Answer(NONCE, NONCE, (Evidence(_bytes(90), _bytes(70)), Evidence(own=PROOF, succession=PROOF))).encode(),
    ),
    Row("enrolment", "granted", Granted.parse, Granted.encode, Granted((_bytes(700), _bytes(700))).encode()),
    Row("enrolment", "refused", Refused.parse, Refused.encode, Refused("name_taken", "ALPHA").encode()),
    Row(
        "link",
        "hello of a host",
        HelloA.parse,
        HelloA.encode,
        HelloA((1, 2), NONCE, (PAPERS.encode(), PAPERS.encode())).encode(),
        memory=_RECORD_LISTS,
    ),
    Row(
        "link",
        "hello of a broker",
        HelloB.parse,
        HelloB.encode,
        HelloB(1, NONCE, PAPERS.encode(), Limits(), NOW).encode(),
        memory=_RECORD_LISTS,
        reasons=("malformed", "version"),
    ),
)
TARGETS = tuple(dict.fromkeys(row.target for row in ROWS))


def judge(target: str, data: bytes) -> list[str]:
    """The rows of a target that take these bytes."""
    return [row.name for row in ROWS if row.target == target and row.judge(data)]
