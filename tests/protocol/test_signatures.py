"""Signatures made by another library: what the protocol allows verifies, and everything near it does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import VerificationError
from bus.protocol import signatures
from bus.protocol.suites import BY_NUMBER, HOST_SUITE, IDENTITY_SUITES, Suite

TBS = b"tpmbus/1 root\x00 and what follows it"
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
}
ORDERS = {  # of the curves' groups, from SEC 2
    "ecc256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "ecc384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
}
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493


@cache
def private(kind: str) -> Any:
    return {
        "rsa3072": lambda: rsa.generate_private_key(public_exponent=65537, key_size=3072),
        "rsa2048": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ecc256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ecc384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ecc521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ed448": ed448.Ed448PrivateKey.generate,
        "x25519": x25519.X25519PrivateKey.generate,
    }[kind]()


def der(suite: Suite, tbs: bytes = TBS, *, hash_name: str = "", key: str = "") -> bytes:
    algorithm = HASHES[hash_name or suite.hash]
    return private(key or suite.kind).sign(tbs, ec.ECDSA(algorithm))


def fixed(suite: Suite, r: int, s: int) -> bytes:
    half = suite.signature_bytes // 2
    return r.to_bytes(half, "big") + s.to_bytes(half, "big")


def sign(suite: Suite, tbs: bytes = TBS, *, hash_name: str = "") -> bytes:
    """As the protocol wants it."""
    if suite.kind == "ed25519":
        return private("ed25519").sign(tbs)
    if suite.kind == "rsa3072":
        algorithm = HASHES[hash_name or suite.hash]
        return private("rsa3072").sign(tbs, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm)
    return fixed(suite, *decode_dss_signature(der(suite, tbs, hash_name=hash_name)))


def check(suite: Suite, signature: bytes, *, tbs: bytes = TBS, key: Any = None) -> None:
    signatures.verify(suite, key or private(suite.kind).public_key(), tbs, signature)


def refused(suite: Suite, signature: bytes, **how: Any) -> None:
    with pytest.raises(VerificationError) as caught:
        check(suite, signature, **how)
    assert caught.value.reason == "bad_proof"


every_suite = pytest.mark.parametrize("suite", BY_NUMBER.values(), ids=str)
every_rsa = pytest.mark.parametrize("suite", [s for s in IDENTITY_SUITES.values() if s.kind == "rsa3072"], ids=str)
every_ecc = pytest.mark.parametrize("suite", [s for s in IDENTITY_SUITES.values() if s.kind != "rsa3072"], ids=str)


# ---- of every suite ------------------------------------------------------------------------------------------------------------


@every_suite
def test_what_another_library_signed_verifies(suite):
    for _ in range(3):
        check(suite, sign(suite))


@every_suite
def test_an_exported_key_is_loaded_as_what_it_is(suite):
    spki = private(suite.kind).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = signatures.load_public(spki)
    assert signatures.kind_of(key) == suite.kind
    check(suite, sign(suite), key=key)


@every_suite
def test_other_bytes_are_refused(suite):
    signature = sign(suite)
    for tbs in (b"", TBS[:-1], TBS + b"\x00", TBS.upper()):
        refused(suite, signature, tbs=tbs)


@every_suite
def test_the_digest_in_place_of_the_bytes_is_refused(suite):
    refused(suite, sign(suite), tbs=suite.digest(TBS))
    refused(suite, sign(suite, suite.digest(TBS)))


@every_suite
def test_another_length_is_refused(suite):
    signature = sign(suite)
    half = len(signature) // 2
    padded = signature[:half] + b"\x00" + signature[half:]
    for wrong in (b"", signature[:-1], signature[1:], signature + b"\x00", b"\x00" + signature, padded, signature * 2):
        refused(suite, wrong)


@every_suite
@given(data=st.data())
def test_every_bit_of_a_signature_counts(suite, data):
    signature = bytearray(sign(suite))
    bit = data.draw(st.integers(0, len(signature) * 8 - 1))
    signature[bit // 8] ^= 1 << bit % 8
    refused(suite, bytes(signature))


@every_suite
@given(data=st.data())
def test_any_bytes_are_refused(suite, data):
    size = suite.signature_bytes
    refused(suite, data.draw(st.one_of(st.binary(min_size=size, max_size=size), st.binary(max_size=600))))


@every_suite
@pytest.mark.parametrize("signing", BY_NUMBER.values(), ids=str)
def test_only_its_own_suite_verifies_a_signature(suite, signing):
    if suite != signing:
        refused(suite, sign(signing))
        refused(suite, sign(signing), key=private(signing.kind).public_key())


@every_suite
def test_another_key_of_the_same_kind_is_refused(suite):
    other = {
        "rsa3072": lambda: rsa.generate_private_key(public_exponent=65537, key_size=3072),
        "ecc256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ecc384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
    }[suite.kind]()
    refused(suite, sign(suite), key=other.public_key())


@every_suite
@pytest.mark.parametrize("kind", ["rsa2048", "ecc521", "secp256k1", "ed448", "x25519"])
def test_a_key_that_no_suite_knows_is_refused(suite, kind):
    key = private(kind).public_key()
    assert signatures.kind_of(key) is None
    refused(suite, bytes(suite.signature_bytes), key=key)


# ---- RSA -----------------------------------------------------------------------------------------------------------------------


def rsa_pss(suite: Suite, salt: Any = None, *, mgf: str = "", hash: str = "") -> bytes:  # noqa: A002  as in the RFC
    algorithm = HASHES[hash or suite.hash]
    salt = HASHES[suite.hash].digest_size if salt is None else salt
    return private("rsa3072").sign(TBS, padding.PSS(padding.MGF1(HASHES[mgf or suite.hash]), salt), algorithm)


def rsa_modulus() -> int:
    return private("rsa3072").public_key().public_numbers().n


def rsa_bare(suite: Suite) -> bytes:
    return pow(int.from_bytes(suite.digest(TBS), "big"), private("rsa3072").private_numbers().d, rsa_modulus()).to_bytes(384, "big")


BY_ANOTHER_RULE: dict[str, Callable[[Suite], bytes]] = {
    "PKCS #1 v1.5": lambda suite: private("rsa3072").sign(TBS, padding.PKCS1v15(), HASHES[suite.hash]),
    "empty salt": lambda suite: rsa_pss(suite, 0),
    "salt one byte short": lambda suite: rsa_pss(suite, suite.digest_bytes - 1),
    "salt one byte long": lambda suite: rsa_pss(suite, suite.digest_bytes + 1),
    "longest salt": lambda suite: rsa_pss(suite, padding.PSS.MAX_LENGTH),
    "all zero": lambda _: bytes(384),
    "one": lambda _: (1).to_bytes(384, "big"),
    "the modulus": lambda _: rsa_modulus().to_bytes(384, "big"),
    "the modulus less one": lambda _: (rsa_modulus() - 1).to_bytes(384, "big"),
    "all ones": lambda _: b"\xff" * 384,
    "no padding": rsa_bare,
}


@every_rsa
@pytest.mark.parametrize("case", BY_ANOTHER_RULE)
def test_rsa_by_another_rule_is_refused(suite, case):
    refused(suite, BY_ANOTHER_RULE[case](suite))


@every_rsa
@pytest.mark.parametrize("other", HASHES)
def test_rsa_with_another_hash_anywhere_is_refused(suite, other):
    check(suite, rsa_pss(suite))
    if other != suite.hash:
        refused(suite, rsa_pss(suite, hash=other))
        refused(suite, rsa_pss(suite, mgf=other))


@every_rsa
def test_a_signature_plus_the_modulus_is_refused(suite):
    """The same number to the bare operation; one encoding only."""
    for _ in range(200):
        larger = int.from_bytes(sign(suite), "big") + rsa_modulus()
        if larger < 1 << 3072:
            refused(suite, larger.to_bytes(384, "big"))
            return
    pytest.fail("no signature small enough in 200")


# ---- ECDSA ---------------------------------------------------------------------------------------------------------------------


@every_ecc
def test_der_is_refused(suite):
    refused(suite, der(suite))
    half = suite.signature_bytes // 2
    short = encode_dss_signature(1, 1)
    refused(suite, short.ljust(suite.signature_bytes, b"\x00"))
    refused(suite, der(suite)[: 2 * half].ljust(2 * half, b"\x00"))


@every_ecc
def test_numbers_outside_of_the_group_are_refused(suite):
    half, order = suite.signature_bytes // 2, ORDERS[suite.kind]
    half_signature = sign(suite)
    r, s = int.from_bytes(half_signature[:half], "big"), int.from_bytes(half_signature[half:], "big")
    check(suite, fixed(suite, r, s))
    largest = (1 << half * 8) - 1
    for wrong in [
        (0, s),
        (r, 0),
        (0, 0),
        (order, s),
        (r, order),
        (r, order + 1),
        (largest, s),
        (r, largest),
        (0, order),
        (1, 1),
        (s, r),
    ]:
        refused(suite, fixed(suite, *wrong))
    for add in (s + order, r + order):
        if add <= largest:
            refused(suite, fixed(suite, r, add))


@every_ecc
def test_a_second_encoding_of_a_small_number_is_refused(suite):
    """Hardly any s is small enough to add the order to it. So the key is made to fit a signature with s = 1."""
    order, k = ORDERS[suite.kind], 0xB05
    curve = private(suite.kind).curve
    r = ec.derive_private_key(k, curve).public_key().public_numbers().x % order
    e = int.from_bytes(suite.digest(TBS)[: curve.key_size // 8], "big")
    key = ec.derive_private_key((k - e) * pow(r, -1, order) % order, curve).public_key()
    check(suite, fixed(suite, r, 1), key=key)
    refused(suite, fixed(suite, r, 1 + order), key=key)


@every_ecc
def test_little_endian_numbers_are_refused(suite):
    half, signature = suite.signature_bytes // 2, sign(suite)
    refused(suite, signature[:half][::-1] + signature[half:][::-1])


@every_ecc
@pytest.mark.parametrize("hash_name", HASHES)
def test_another_hash_is_refused(suite, hash_name):
    if hash_name != suite.hash:
        refused(suite, sign(suite, hash_name=hash_name))


@every_ecc
def test_the_digest_signed_directly_verifies(suite):
    """As a TPM does it: it gets the digest. The label that it is given for a hash that it lacks does not reach the signature."""
    signature = private(suite.kind).sign(suite.digest(TBS), ec.ECDSA(Prehashed(HASHES[suite.hash])))
    check(suite, fixed(suite, *decode_dss_signature(signature)))


# ---- Ed25519 -------------------------------------------------------------------------------------------------------------------


def test_a_second_encoding_of_an_ed25519_signature_is_refused():
    signature = sign(HOST_SUITE)
    larger = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    refused(HOST_SUITE, signature[:32] + larger.to_bytes(32, "little"))


# Points of small order, and 2: no point at all.
@pytest.mark.parametrize("raw", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"\x02" + bytes(31)])
def test_an_ed25519_key_under_which_one_signature_fits_any_bytes_is_refused(raw):
    spki = bytes.fromhex("302a300506032b6570032100") + raw
    with pytest.raises(VerificationError) as caught:
        signatures.load_public(spki)
    assert caught.value.reason == "malformed"


def test_ed25519_signs_the_bytes_and_not_their_digest():
    refused(HOST_SUITE, private("ed25519").sign(HOST_SUITE.digest(TBS)))


# ---- keys ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spki", [b"", b"\x30", b"\x30\x00", bytes(100), b"-----BEGIN PUBLIC KEY-----"])
def test_what_is_no_key_is_malformed(spki):
    with pytest.raises(VerificationError) as caught:
        signatures.load_public(spki)
    assert caught.value.reason == "malformed"


def reason_for(spki: bytes) -> str | None:
    try:
        signatures.load_public(spki)
    except VerificationError as error:
        return error.reason
    return None


@given(st.binary(max_size=500))
def test_any_bytes_are_a_key_or_malformed(spki):
    assert reason_for(spki) in {None, "malformed"}


@every_suite
@given(data=st.data())
def test_a_damaged_key_is_another_key_or_malformed(suite, data):
    spki = bytearray(private(suite.kind).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    spki[data.draw(st.integers(0, len(spki) - 1))] ^= data.draw(st.integers(1, 255))
    reason = reason_for(bytes(spki))
    assert reason in {None, "malformed"}
    if reason is None:
        with pytest.raises(VerificationError):
            signatures.verify(suite, signatures.load_public(bytes(spki)), TBS, sign(suite))
