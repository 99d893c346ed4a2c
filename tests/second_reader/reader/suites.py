"""Part 4: the suites, and whether a signature over tbs verifies."""

from __future__ import annotations

import functools

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, utils

from . import ed25519, rsa_pss
from .digests import HASHES
from .public_keys import CURVES, NotDer, PublicKey, read_spki
from .refusal import Refused, demand

KINDS = {16: "rsa3072", 32: "P-256", 48: "P-384"}
LENGTHS = {"ed25519": 64, "rsa3072": 384, "P-256": 64, "P-384": 96}
ML_DSA_KEY, ML_DSA_SIGNATURE = 1952, 3309
_EC = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}


def kind(suite: int) -> str:
    """Of the key that a known suite needs."""
    return "ed25519" if suite == 1 else KINDS[suite & 0xF0]


def has_sha3(suite: int) -> bool:
    return suite != 1 and suite % 4 >= 2


def verify(suite: int, key: bytes, tbs: bytes, signature: bytes) -> None:
    """`key` is 32 bytes for suite 1, else a SubjectPublicKeyInfo. A bad key is malformed, a bad signature bad_proof."""
    if suite == 1:
        demand(ed25519.public_point(key), "malformed", "no Ed25519 key")
        demand(len(signature) == 64 and ed25519.verify(key, tbs, signature), "bad_proof")
        return
    try:
        public = read_spki(key)
    except NotDer as error:
        raise Refused("malformed", str(error)) from error
    demand(suite in HASHES, "bad_proof", "an unknown suite")
    demand(public.kind == kind(suite), "bad_proof", "a key of another kind")
    demand(len(signature) == LENGTHS[public.kind], "bad_proof", "a signature of another length")
    demand(_verifies(suite, public, HASHES[suite](tbs), signature), "bad_proof")


@functools.lru_cache(4096)
def _verifies(suite: int, public: PublicKey, digest: bytes, signature: bytes) -> bool:
    if public.kind == "rsa3072":
        return rsa_pss.verify(public.numbers[0], HASHES[suite], digest, signature)
    return ecdsa(public, digest, signature)


def ecdsa(public: PublicKey, digest: bytes, signature: bytes) -> bool:
    _, _, order, size = CURVES[public.kind]
    r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    if not (1 <= r < order and 1 <= s < order):
        return False
    key = ec.EllipticCurvePublicNumbers(*public.numbers, _EC[public.kind]()).public_key()
    prehashed = utils.Prehashed(hashes.SHA256() if len(digest) == 32 else hashes.SHA384())
    try:
        key.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(prehashed))
    except InvalidSignature:
        return False
    return True


@functools.lru_cache(4096)
def ml_dsa(key: bytes, tbs: bytes, signature: bytes) -> bool:
    if len(key) != ML_DSA_KEY or len(signature) != ML_DSA_SIGNATURE:
        return False
    try:
        mldsa.MLDSA65PublicKey.from_public_bytes(key).verify(signature, tbs)
    except InvalidSignature:
        return False
    return True
