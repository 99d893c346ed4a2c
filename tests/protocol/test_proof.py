"""What is signed, byte by byte: spelled out here from the specification, not taken from the code."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import VerificationError
from bus.protocol import proof
from bus.protocol.contexts import Purpose
from bus.protocol.proof import BatchProof
from bus.protocol.suites import BY_NUMBER, IDENTITY_SUITES

SUITE = IDENTITY_SUITES["ecc384/sha3-384"]
SIGNER = bytes(range(32))


def contents(count: int, *, suite=SUITE) -> list[tuple[Purpose, bytes]]:
    purposes = list(Purpose)
    return [(purposes[index % len(purposes)], suite.digest(index.to_bytes(4, "big"))) for index in range(count)]


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("suite", BY_NUMBER.values(), ids=str)
def test_a_leaf_names_its_context_and_its_purpose(purpose, suite):
    content = suite.digest(b"content")
    spelled = bytes([0]) + b"tpmbus/1 leaf" + bytes([purpose]) + content
    assert proof.leaf(purpose, content, hash_name=suite.hash) == getattr(hashlib, suite.hash.replace("-", "_"))(spelled).digest()


def test_the_numbers_of_purposes_are_the_protocols():
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "ENVELOPE": 1,
        "SESSION": 2,
        "INBOX": 3,
        "ENROLL": 4,
        "AUDIT": 5,
        "HTTP": 6,
    }


def test_the_signed_bytes_of_a_known_root():
    spelled = b"tpmbus/1 root\x00" + b"\x33" + SIGNER + b"\x00\x01\x00\x00" + b"R" * 48
    assert proof.root_tbs(51, SIGNER, count=65_536, root=b"R" * 48) == spelled


def test_a_batch_of_one_by_hand():
    content = hashlib.sha3_384(b"x").digest()
    leaf = hashlib.sha3_384(b"\x00tpmbus/1 leaf\x01" + content).digest()
    batch = proof.batch(SUITE, SIGNER, [(Purpose.ENVELOPE, content)])
    assert batch.tbs == b"tpmbus/1 root\x00\x33" + SIGNER + b"\x00\x00\x00\x01" + leaf
    assert batch.proofs(b"signature") == [BatchProof(51, SIGNER, 1, 0, b"", b"signature")]


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("suite", BY_NUMBER.values(), ids=str)
def test_what_is_signed_alone_is_a_batch_of_one(purpose, suite):
    content = suite.digest(b"content")
    assert proof.alone(suite, SIGNER, purpose, content) == proof.batch(suite, SIGNER, [(purpose, content)]).tbs
    for signer, wrong in ((SIGNER, content[:-1]), (SIGNER[:-1], content)):
        for call in (
            lambda signer, one: proof.alone(suite, signer, purpose, one),
            lambda signer, one: proof.batch(suite, signer, [(purpose, one)]),
        ):
            with pytest.raises(ValueError, match="bytes, not"):
                call(signer, wrong)


def test_a_batch_of_three_by_hand():
    def h(data: bytes) -> bytes:
        return hashlib.sha3_384(data).digest()

    three = contents(3)
    first, second, third = (h(b"\x00tpmbus/1 leaf" + bytes([purpose]) + content) for purpose, content in three)
    left = h(b"\x01" + first + second)
    batch = proof.batch(SUITE, SIGNER, three)
    assert batch.tbs == b"tpmbus/1 root\x00\x33" + SIGNER + b"\x00\x00\x00\x03" + h(b"\x01" + left + third)
    assert [one.path for one in batch.proofs(b"")] == [second + third, first + third, left]


@pytest.mark.parametrize("suite", IDENTITY_SUITES.values(), ids=str)
@given(count=st.integers(1, 40))
def test_every_proof_leads_to_what_was_signed(suite, count):
    batch = proof.batch(suite, SIGNER, contents(count, suite=suite))
    for one, (purpose, content) in zip(batch.proofs(b"s"), contents(count, suite=suite), strict=True):
        assert one.tbs(purpose, content) == batch.tbs
        assert (one.suite, one.signer, one.count, one.signature) == (suite.number, SIGNER, count, b"s")


def test_a_proof_is_for_its_content_purpose_place_signer_and_suite():
    batch = proof.batch(SUITE, SIGNER, contents(5))
    right = batch.proofs(b"s")[2]
    purpose, content = contents(5)[2]
    assert right.tbs(purpose, content) == batch.tbs
    wrong = {
        "content": right.tbs(purpose, SUITE.digest(b"other")),
        "purpose": right.tbs(Purpose.ENVELOPE, content),
        "signer": BatchProof(right.suite, b"S" * 32, 5, 2, right.path, b"s").tbs(purpose, content),
        "suite": BatchProof(19, SIGNER, 5, 2, right.path, b"s").tbs(purpose, content),
    }
    assert [name for name, tbs in wrong.items() if tbs == batch.tbs] == []


@pytest.mark.parametrize("count", range(1, 20))
def test_the_count_is_signed_even_where_the_path_would_fit_another_one(count):
    batch = proof.batch(SUITE, SIGNER, contents(count))
    for index, one in enumerate(batch.proofs(b"s")):
        for other in range(1, 40):
            if other == count:
                continue
            with suppress(VerificationError):
                tbs = BatchProof(one.suite, one.signer, other, index, one.path, b"s").tbs(*contents(count)[index])
                assert tbs != batch.tbs


def test_a_purpose_is_part_of_the_leaf():
    leaves = {proof.leaf(purpose, bytes(32), hash_name="sha256") for purpose in Purpose}
    assert len(leaves) == len(Purpose)


@pytest.mark.parametrize(
    ("signer", "batch_contents", "complaint"),
    [
        (SIGNER, [], "1 to 65536"),
        (SIGNER, [(Purpose.AUDIT, bytes(48))] * 65_537, "1 to 65536"),
        (SIGNER[:31], [(Purpose.AUDIT, bytes(48))], "32 bytes"),
        (SIGNER + b"0", [(Purpose.AUDIT, bytes(48))], "32 bytes"),
        (SIGNER, [(Purpose.AUDIT, bytes(32))], "digest of 48 bytes"),
        (SIGNER, [(Purpose.AUDIT, bytes(48)), (Purpose.AUDIT, b"a whole message")], "digest of 48 bytes"),
    ],
    ids=["no content", "too many", "short signer", "long signer", "digest of another hash", "no digest"],
)
def test_what_is_no_batch_is_misuse(signer, batch_contents, complaint):
    with pytest.raises(ValueError, match=complaint):
        proof.batch(SUITE, signer, batch_contents)


def test_the_largest_batch_fits():
    batch = proof.batch(IDENTITY_SUITES["ecc256/sha256"], SIGNER, [(Purpose.AUDIT, bytes(32))] * 65_536)
    assert batch.tbs[47:51] == (65_536).to_bytes(4, "big")


def test_a_bare_keys_signer_is_the_digest_of_the_key():
    assert proof.key_signer(b"spki") == hashlib.sha256(b"tpmbus/1 key" + b"spki").digest()
