"""The second signature: what its key signed verifies, and nothing near it does."""

from __future__ import annotations

import copy
import hashlib
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA87PrivateKey

from bus.errors import VerificationError
from bus.identity import ml_dsa
from bus.identity.ml_dsa import CosigningKey
from bus.protocol import cosign
from bus.protocol.proof import COSIGNATURE_BYTES

TBS = b"tpmbus/1 root\x00 and what follows it"
KEY = CosigningKey.from_seed(bytes(range(32)))


def refused(public: bytes, tbs: bytes, cosignature: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        cosign.verify(public, tbs, cosignature)
    assert caught.value.reason == "bad_proof"


def test_what_was_signed_verifies():
    for key in (KEY, ml_dsa.generate()):
        cosignature = key.sign(TBS)
        assert (len(cosignature), len(key.public)) == (COSIGNATURE_BYTES, cosign.PUBLIC_BYTES)
        cosign.verify(key.public, TBS, cosignature)


def test_other_bytes_another_key_and_another_context_are_refused():
    cosignature = KEY.sign(TBS)
    refused(KEY.public, TBS + b"\x00", cosignature)
    refused(KEY.public, b"", cosignature)
    refused(ml_dsa.generate().public, TBS, cosignature)
    refused(KEY.public, TBS, MLDSA65PrivateKey.from_seed_bytes(KEY.seed).sign(TBS, b"another use"))


def test_a_digest_signed_in_place_of_the_bytes_is_refused():
    refused(KEY.public, TBS, KEY.sign(hashlib.sha256(TBS).digest()))


def test_a_bit_anywhere_counts():
    cosignature = KEY.sign(TBS)
    for position in range(0, COSIGNATURE_BYTES, 97):
        changed = bytearray(cosignature)
        changed[position] ^= 1 << position % 8
        refused(KEY.public, TBS, bytes(changed))
    for position in range(0, cosign.PUBLIC_BYTES, 97):
        changed = bytearray(KEY.public)
        changed[position] ^= 1 << position % 8
        refused(bytes(changed), TBS, cosignature)


def test_another_length_is_refused():
    cosignature = KEY.sign(TBS)
    for wrong in (b"", cosignature[:-1], cosignature + b"\x00"):
        refused(KEY.public, TBS, wrong)
    for wrong in (b"", KEY.public[:-1], KEY.public + b"\x00", MLDSA87PrivateKey.generate().public_key().public_bytes_raw()):
        refused(wrong, TBS, cosignature)


def test_a_key_is_named_by_its_hash():
    assert cosign.key_hash(KEY.public) == hashlib.sha256(KEY.public).digest()


def test_a_signing_key_survives_its_seed_and_shows_it_nowhere():
    key = ml_dsa.generate()
    assert CosigningKey.from_seed(key.seed).public == key.public
    assert key.seed.hex() not in repr(key)
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copying(key)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_of_another_length_is_none(length):
    with pytest.raises(ValueError, match="32 bytes"):
        CosigningKey.from_seed(bytes(length))
