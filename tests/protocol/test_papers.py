"""Session and inbox certificates, papers, grants: their bytes, and whose signature makes them count."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.bindings import crypto_sign_seed_keypair

from bus.errors import RemoteProtocolError, VerificationError
from bus.protocol import grants, papers
from bus.protocol.contexts import Purpose
from bus.protocol.grants import GrantBody
from bus.protocol.header import Header
from bus.protocol.papers import InboxBody, InboxCertificate, Papers, SessionBody, SessionCertificate
from bus.protocol.proof import Proof, batch
from bus.protocol.signatures import load_public
from bus.protocol.suites import IDENTITY_SUITES

HOST_KEY = crypto_sign_seed_keypair(b"h" * 32)[0]
KEM_KEY = X25519PrivateKey.generate().public_key().public_bytes_raw()
MINUTE = 60_000
SESSION = SessionBody(
    "fleet.test", "DIRECTOR", b"i" * 32, HOST_KEY, 1, KEM_KEY, 1_000, 1_000 + 15 * MINUTE, 7, b"t" * 32, b"r" * 16
)
INBOX = InboxBody("fleet.test", "DIRECTOR", b"i" * 32, 3, 1, KEM_KEY, 1_000, 1_000 + 30 * 24 * 60 * MINUTE)
SUITE = IDENTITY_SUITES["ecc256/sha256"]
KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = load_public(KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
SIGNER = b"i" * 32


def signed(purpose: Purpose, body: bytes, **changes: Any) -> Proof:
    blind = os.urandom(16)
    content = papers.content(purpose, body, blind=blind, suite=SUITE)
    tree = batch(SUITE, SIGNER, [(purpose, content)])
    r, s = decode_dss_signature(KEY.sign(tree.tbs, ec.ECDSA(hashes.SHA256())))
    return Proof.of(tree.proofs(r.to_bytes(32, "big") + s.to_bytes(32, "big"))[0], blind=blind)._replace(**changes)


def session(**changes: Any) -> SessionCertificate:
    return SessionCertificate(SESSION.encode(), signed(Purpose.SESSION, SESSION.encode(), **changes))


def test_a_session_travels_as_it_is():
    certificate = session()
    parsed = SessionCertificate.parse(certificate.encode())
    assert parsed == certificate
    assert parsed.body == SESSION
    assert parsed.encode() == certificate.encode()
    assert parsed.id == hashlib.sha256(b"tpmbus/1 session id" + SESSION.encode()).digest()[:16]
    assert SESSION.encode() == msgpack.packb([1, *SESSION])
    parsed.check(PUBLIC, SUITE, SIGNER)


def test_an_inbox_certificate_travels_as_it_is():
    certificate = InboxCertificate(INBOX.encode(), signed(Purpose.INBOX, INBOX.encode()))
    parsed = InboxCertificate.parse(certificate.encode())
    assert parsed.body == INBOX
    assert parsed.encode() == certificate.encode()
    assert INBOX.key_id == hashlib.sha256(b"tpmbus/1 kem key\x01" + KEM_KEY).digest()[:16]
    parsed.check(PUBLIC, SUITE, SIGNER)


def test_a_signature_for_one_purpose_is_none_for_another():
    swapped = InboxCertificate(INBOX.encode(), signed(Purpose.SESSION, INBOX.encode()))
    with pytest.raises(VerificationError) as caught:
        swapped.check(PUBLIC, SUITE, SIGNER)
    assert caught.value.reason == "bad_proof"


@pytest.mark.parametrize(
    ("changes", "checked"),
    [
        ({"signature": bytes(64)}, {}),
        ({"signer": bytes(32)}, {}),
        ({"suite": 33}, {}),
        ({"n": 2}, {}),
        ({"path": bytes(32)}, {}),
        ({"blind": bytes(16)}, {}),
        ({}, {"signer": bytes(32)}),
        ({}, {"suite": IDENTITY_SUITES["ecc256/sha3-256"]}),
    ],
)
def test_a_proof_that_is_not_the_identitys_is_refused(changes: dict[str, Any], checked: dict[str, Any]):
    facts = {"suite": SUITE, "signer": SIGNER} | checked
    with pytest.raises(VerificationError) as caught:
        session(**changes).check(PUBLIC, **facts)
    assert caught.value.reason == "bad_proof"


SESSIONS: dict[str, dict[str, Any]] = {
    "no domain": {"domain": ""},
    "a small name": {"name": "director"},
    "an identity of 31 bytes": {"identity": bytes(31)},
    "a host key of small order": {"host_key": bytes(32)},
    "a host key of 31 bytes": {"host_key": HOST_KEY[:31]},
    "no key agreement": {"kem": 0},
    "a KEM key of another kind": {"kem": 2},
    "a KEM key of small order": {"kem_key": bytes(32)},
    "no time": {"not_after_ms": 1_000},
    "more than a quarter of an hour": {"not_after_ms": 1_001 + 15 * MINUTE},
    "before 1970": {"not_before_ms": -1},
    "a number below zero": {"trust_number": -1},
    "a digest of 31 bytes": {"trust_digest": bytes(31)},
    "15 random bytes": {"random": bytes(15)},
}


@pytest.mark.parametrize("changes", SESSIONS.values(), ids=SESSIONS.keys())
def test_a_session_body_that_is_none_is_malformed(changes: dict[str, Any]):
    body = msgpack.packb([1, *(SESSION._asdict() | changes).values()])
    with pytest.raises(RemoteProtocolError) as caught:
        SessionCertificate.parse(msgpack.packb([body, list(session().proof)]))
    assert caught.value.reason == "malformed"


INBOXES: dict[str, dict[str, Any]] = {
    "a counter below zero": {"counter": -1},
    "a counter of more than 32 bits": {"counter": 1 << 32},
    "more than thirty days": {"not_after_ms": 1_001 + 30 * 24 * 60 * MINUTE},
    "an identity of 33 bytes": {"identity": bytes(33)},
    "a KEM key of text": {"kem_key": "k"},
}


@pytest.mark.parametrize("changes", INBOXES.values(), ids=INBOXES.keys())
def test_an_inbox_body_that_is_none_is_malformed(changes: dict[str, Any]):
    body = msgpack.packb([1, *(INBOX._asdict() | changes).values()])
    with pytest.raises(RemoteProtocolError) as caught:
        InboxCertificate.parse(msgpack.packb([body, list(session().proof)]))
    assert caught.value.reason == "malformed"


def test_a_certificate_of_another_form_is_malformed():
    good, proof = session(), list(session().proof)
    cosigned = [*proof[:6], bytes(3_309), proof[7]]
    for data in (
        b"",
        msgpack.packb([good.body_bytes]),
        msgpack.packb([good.body_bytes, proof, 0]),
        msgpack.packb([good.body_bytes, cosigned]),
        msgpack.packb([good.body_bytes, [2, *proof[1:]]]),
        msgpack.packb(["body", proof]),
        msgpack.packb([bytes(8_193), proof]),
        msgpack.packb([msgpack.packb([2, *SESSION]), proof]),
        msgpack.packb([msgpack.packb([1, *SESSION][:-1]), proof]),
        good.encode() + b"\x00",
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            SessionCertificate.parse(data)
        assert caught.value.reason == "malformed"


def test_papers_travel_as_they_are():
    for found in (Papers(b"s", b"i", b"t", b""), Papers(b"s", b"i", b"t", bytes(1_952))):
        assert Papers.parse(found.encode()) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"session": b""},
        {"identity": b""},
        {"statement": b""},
        {"session": bytes(8_193)},
        {"identity": bytes(8_193)},
        {"ml_dsa": b"m"},
        {"ml_dsa": None},
        {"session": "s"},
    ],
)
def test_papers_of_another_form_are_malformed(changes: dict[str, Any]):
    fields = {"session": b"s", "identity": b"i", "statement": b"t", "ml_dsa": b""} | changes
    with pytest.raises(RemoteProtocolError) as caught:
        Papers.parse(msgpack.packb(list(fields.values())))
    assert caught.value.reason == "malformed"


def test_the_host_signer_is_the_digest_of_its_key():
    assert papers.host_signer(HOST_KEY) == hashlib.sha256(b"tpmbus/1 host" + HOST_KEY).digest()


# ---- grants ----------------------------------------------------------------------------------------------------------------------

GRANT = GrantBody(b"s" * 32, b"params", "BUILDER", b"n" * 16, (("A", 0), ("B", 1)))
HEADER = Header(1, 2, 0, "_grant.BUILDER", "DIRECTOR", b"s" * 16, b"e" * 32, 0, 1, 2, 0, 1, b"i" * 16, b"k" * 16, 0)


def test_a_grant_travels_as_it_is():
    for body in (GRANT, GRANT._replace(reader_session=b"", names=())):
        assert GrantBody.parse(body.encode()) == body
    assert GRANT.encode() == msgpack.packb([b"s" * 32, b"params", "BUILDER", b"n" * 16, msgpack.packb([["A", 0], ["B", 1]])])
    assert b"s" * 32 not in repr(GRANT).encode()
    assert grants.topic("BUILDER") == HEADER.topic
    assert grants.reader_of(HEADER) == "BUILDER"
    assert grants.info(b"header") == b"tpmbus/1 grant" + hashlib.sha256(b"header").digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": bytes(31)},
        {"params": "p"},
        {"params": bytes(1_025)},
        {"reader": "builder"},
        {"reader_session": bytes(15)},
        {"names": b"\x90"},
        {"names": []},
    ],
)
def test_a_grant_of_another_form_is_malformed(changes: dict[str, Any]):
    fields = {"secret": b"s" * 32, "params": b"p", "reader": "A", "reader_session": b"", "names": b""} | changes
    with pytest.raises(RemoteProtocolError) as caught:
        GrantBody.parse(msgpack.packb(list(fields.values())))
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 1},
        {"topic": "_reply.BUILDER"},
        {"topic": "_grant.builder"},
        {"topic": "tasks.x"},
        {"flags": 1},
        {"seq": 1},
        {"before": 1},
        {"priority": 1},
        {"records": 2},
        {"ref": b""},
    ],
)
def test_a_header_that_is_no_grants_is_malformed(changes: dict[str, Any]):
    with pytest.raises(RemoteProtocolError) as caught:
        grants.reader_of(HEADER._replace(**changes))
    assert caught.value.reason == "malformed"


def test_a_header_that_is_too_long_has_no_grant():
    with pytest.raises(RemoteProtocolError):
        grants.info(bytes(1_025))
