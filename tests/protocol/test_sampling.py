"""Sampling by whole numbers alone, and the record that follows."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import RemoteProtocolError, VerificationError
from bus.protocol import proof as proofs
from bus.protocol import signatures
from bus.protocol.codec import pack
from bus.protocol.contexts import Purpose
from bus.protocol.proof import Proof
from bus.protocol.sampling import MAX_RECORD_BYTES, AuditRecord, audit_content, sampled, threshold
from bus.protocol.suites import HOST_SUITE, IDENTITY_SUITES, Suite

E = bytes(range(32))
rates = st.floats(0, 1)


@given(st.binary(min_size=32, max_size=32), st.integers(0, (1 << 32) - 1), rates)
def test_the_rule_in_fractions_decides_the_same(epoch, seq, rate):
    place = int.from_bytes(hashlib.sha256(b"tpmbus/1 sample" + epoch + seq.to_bytes(8, "big")).digest()[:8], "big")
    assert sampled(epoch, seq, rate) == (place < Fraction(rate) * 2**64 // 1)


@pytest.mark.parametrize(
    ("rate", "number"),
    [
        (0, 0),
        (0.0, 0),
        (5e-324, 0),
        (2**-64, 1),
        (2**-65, 0),
        (0.01, 184467440737095520),
        (0.5, 1 << 63),
        (1 - 2**-53, (1 << 64) - 2048),
        (1, 1 << 64),
        (1.0, 1 << 64),
    ],
)
def test_the_number_below_which_a_hash_is_sampled_is_exact(rate, number):
    assert threshold(rate) == number


@pytest.mark.parametrize("rate", [-0.1, -5e-324, 1.0000000000000002, 2, float("inf"), float("-inf"), float("nan")])
def test_what_is_no_rate_is_refused(rate):
    with pytest.raises(ValueError, match="a rate is from 0 to 1"):
        threshold(rate)


def test_none_samples_nothing_and_one_everything():
    assert not any(sampled(E, seq, 0) for seq in range(2_000))
    assert all(sampled(E, seq, 1) for seq in range(2_000))


def test_about_as_many_are_sampled_as_the_rate_says():
    assert 60 <= sum(sampled(E, seq, 0.01) for seq in range(10_000)) <= 140


@given(st.integers(0, 1_000), rates, rates)
def test_a_higher_rate_samples_all_that_a_lower_one_does(seq, rate, other):
    assert sampled(E, seq, min(rate, other)) <= sampled(E, seq, max(rate, other))


# ---- the record ----------------------------------------------------------------------------------------------------------------

CONTENT = hashlib.sha256(b"an envelope").digest()
SUITE = IDENTITY_SUITES["ecc384/sha384"]
BLIND = b"b" * 16


def signed(*, suite: Suite = SUITE, purpose: Purpose = Purpose.AUDIT) -> tuple[AuditRecord, ec.EllipticCurvePublicKey]:
    key = ec.generate_private_key(ec.SECP384R1())
    batch = proofs.batch(suite, b"s" * 32, [(purpose, audit_content(CONTENT, blind=BLIND, suite=suite))])
    r, s = decode_dss_signature(key.sign(suite.digest(batch.tbs), ec.ECDSA(Prehashed(SHA384()))))
    [proof] = batch.proofs(r.to_bytes(48, "big") + s.to_bytes(48, "big"))
    return AuditRecord(E, 7, CONTENT, Proof.of(proof, blind=BLIND)), key.public_key()


def holds(record: AuditRecord, key: ec.EllipticCurvePublicKey) -> bool:
    try:
        signatures.verify(SUITE, key, record.tbs(), record.proof.signature)
    except VerificationError:
        return False
    return True


def test_the_content_is_that_of_the_specification():
    assert audit_content(CONTENT, blind=BLIND, suite=SUITE) == hashlib.sha384(b"tpmbus/1 audit" + BLIND + CONTENT).digest()


def test_what_the_identity_vouched_for_verifies_after_its_journey():
    record, key = signed()
    again = AuditRecord.parse(record.encode())
    assert again == record
    assert again.encode() == record.encode()
    assert holds(again, key)


def test_a_word_for_one_envelope_is_none_for_another():
    record, key = signed()
    assert not holds(record._replace(content=hashlib.sha256(b"another").digest()), key)
    assert not holds(record._replace(proof=record.proof._replace(blind=b"c" * 16)), key)


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.AUDIT])
def test_a_signature_for_another_purpose_is_none_for_this(purpose):
    record, key = signed(purpose=purpose)
    assert not holds(record, key)


def test_a_host_key_cannot_vouch_for_itself():
    record, _ = signed()
    with pytest.raises(VerificationError) as refused:
        record._replace(proof=record.proof._replace(suite=HOST_SUITE.number)).tbs()
    assert refused.value.reason == "wrong_signer"


def test_a_suite_that_nobody_knows_proves_nothing():
    record, _ = signed()
    with pytest.raises(VerificationError) as refused:
        record._replace(proof=record.proof._replace(suite=99)).tbs()
    assert refused.value.reason == "bad_proof"


def test_the_longest_record_fits():
    proof = Proof(19, b"s" * 32, 65_536, 65_535, b"p" * 16 * 48, b"x" * 384, b"c" * 3_309, BLIND)
    record = AuditRecord(E, (1 << 32) - 1, CONTENT, proof)
    assert len(record.encode()) <= MAX_RECORD_BYTES
    assert AuditRecord.parse(record.encode()) == record


def test_what_is_no_record_is_malformed():
    good, _ = signed()
    bad = {
        "too few fields": pack([E, 7, CONTENT]),
        "a short epoch": pack([E[:31], 7, CONTENT, good.proof]),
        "a number of no epoch": pack([E, 1 << 32, CONTENT, good.proof]),
        "a negative number": pack([E, -1, CONTENT, good.proof]),
        "a content of SHA-384": pack([E, 7, CONTENT + CONTENT[:16], good.proof]),
        "no proof": pack([E, 7, CONTENT, None]),
        "too long": good.encode() + b"\0" * MAX_RECORD_BYTES,
        **{f"the first {cut} bytes": good.encode()[:cut] for cut in range(len(good.encode()))},
        "a tail": good.encode() + b"\0",
    }
    for name, data in bad.items():
        with pytest.raises(RemoteProtocolError) as refused:
            AuditRecord.parse(data)
        assert refused.value.reason == "malformed", name


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_malformed(data):
    try:
        record = AuditRecord.parse(data)
    except RemoteProtocolError:
        return
    assert record.encode() == data
