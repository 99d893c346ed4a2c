from __future__ import annotations

import hashlib

import pytest

from bus.protocol.suites import BY_NUMBER, HASHES, HOST_SUITE, IDENTITY_SUITES, KINDS


def test_the_numbers_are_the_protocols():
    assert {suite.name: suite.number for suite in BY_NUMBER.values()} == {
        "ed25519/sha256": 1,
        "rsa3072/sha256": 16,
        "rsa3072/sha384": 17,
        "rsa3072/sha3-256": 18,
        "rsa3072/sha3-384": 19,
        "ecc256/sha256": 32,
        "ecc256/sha384": 33,
        "ecc256/sha3-256": 34,
        "ecc256/sha3-384": 35,
        "ecc384/sha256": 48,
        "ecc384/sha384": 49,
        "ecc384/sha3-256": 50,
        "ecc384/sha3-384": 51,
    }


def test_every_kind_goes_with_every_hash():
    assert set(IDENTITY_SUITES) == {f"{kind}/{hash_name}" for kind in KINDS for hash_name in HASHES}


def test_no_identity_has_a_software_suite():
    assert HOST_SUITE.name not in IDENTITY_SUITES
    assert HOST_SUITE.kind not in KINDS


@pytest.mark.parametrize("suite", BY_NUMBER.values(), ids=str)
def test_sizes_and_digests(suite):
    new = getattr(hashlib, suite.hash.replace("-", "_"))
    assert suite.digest(b"abc") == new(b"abc").digest()
    assert suite.digest_bytes == new().digest_size
    assert suite.is_sha3 == (suite.hash in {"sha3-256", "sha3-384"})
    assert suite.signature_bytes == {"rsa3072": 384, "ecc256": 64, "ecc384": 96, "ed25519": 64}[suite.kind]
    assert str(suite) == suite.name == f"{suite.kind}/{suite.hash}"
