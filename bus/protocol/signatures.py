"""The one verifier of roots: given bytes pass, all else raises.

One encoding each, as the protocol fixes it: ECDSA as fixed-width r | s, RSA as PSS whose MGF1 and salt length are the suite's
hash, Ed25519 over the bytes themselves. Nothing else verifies, however well it would by another rule.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign_open
from nacl.exceptions import BadSignatureError

from bus.errors import VerificationError
from bus.protocol.suites import Suite

CRYPTOGRAPHY_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
}
HOST_KEY_BYTES: Final = 32
HOST_SIGNATURE_BYTES: Final = 64
_CURVES = {"ecc256": ("secp256r1", 32), "ecc384": ("secp384r1", 48)}


def load_public(spki: bytes) -> PublicKeyTypes:
    """A public key from its SubjectPublicKeyInfo. Raises VerificationError("malformed")."""
    try:
        key = load_der_public_key(spki)
    except Exception as error:
        raise VerificationError("malformed", detail="not a public key") from error
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise VerificationError("malformed", detail="a public key in another than its one encoding")
    if isinstance(key, ed25519.Ed25519PublicKey):
        check_host_key(key.public_bytes_raw())
    return key


def kind_of(key: PublicKeyTypes) -> str | None:
    """The key's kind in the words of policy, or None for a key that no suite knows."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size == 3072 and key.public_numbers().e == 65537:
        return "rsa3072"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return next((kind for kind, (curve, _) in _CURVES.items() if key.curve.name == curve), None)
    return "ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else None


def check_host_key(key: bytes) -> bytes:
    """The bytes of an Ed25519 key, if it is a valid point. Raises VerificationError("malformed")."""
    # Under a key of small order one signature fits any bytes; OpenSSL takes such keys, libsodium knows them.
    if len(key) != HOST_KEY_BYTES or not crypto_core_ed25519_is_valid_point(key):
        raise VerificationError("malformed", detail="an Ed25519 key that is no valid point")
    return key


def verify_host(key: bytes, tbs: bytes, signature: bytes) -> None:
    """Return if the host key signed `tbs`; else raise VerificationError("bad_proof").

    libsodium is a third faster than OpenSSL here, and refuses keys and points of small order.
    """
    if len(signature) != HOST_SIGNATURE_BYTES:
        raise VerificationError("bad_proof", detail="signature of the wrong length")
    try:
        crypto_sign_open(signature + tbs, key)
    except BadSignatureError as error:
        raise VerificationError("bad_proof", detail="the signature does not fit") from error


def verify(suite: Suite, key: PublicKeyTypes, tbs: bytes, signature: bytes) -> None:
    """Return if `key` signed `tbs` under `suite`; else raise VerificationError("bad_proof")."""
    if kind_of(key) != suite.kind:
        raise VerificationError("bad_proof", detail=f"the key is not {suite.kind}")
    if len(signature) != suite.signature_bytes:
        raise VerificationError("bad_proof", detail="signature of the wrong length")
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            verify_host(key.public_bytes_raw(), tbs, signature)
            return
        algorithm = CRYPTOGRAPHY_HASHES[suite.hash]
        digest, prehashed = suite.digest(tbs), Prehashed(algorithm)
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, digest, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), prehashed)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            half = suite.signature_bytes // 2
            r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
            key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(prehashed))
    except (InvalidSignature, ValueError) as error:
        raise VerificationError("bad_proof", detail="the signature does not fit") from error
