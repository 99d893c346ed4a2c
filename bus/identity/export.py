"""A public key in the forms that other programs read: PEM, JWK (RFC 7517), and the line of an SSH authorized_keys file."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bus.protocol.signatures import load_public
from bus.tpm.interface import KeyInfo

FORMATS: Final = ("pem", "jwk", "ssh")
_CURVE_NAMES: Final = {"secp256r1": "P-256", "secp384r1": "P-384"}


def export(info: KeyInfo, form: str) -> str:
    """The key as text, with its end of line."""
    return {"pem": _pem, "jwk": _jwk, "ssh": _ssh}[form](info)


def fingerprint(info: KeyInfo) -> str:
    """What ssh-keygen -l shows: SHA-256 of the SSH form."""
    blob = load_public(info.spki).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    digest = hashlib.sha256(b64decode(blob)).digest()
    return "SHA256:" + b64encode(digest).decode().rstrip("=")


def _pem(info: KeyInfo) -> str:
    return load_public(info.spki).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _ssh(info: KeyInfo) -> str:
    return load_public(info.spki).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + f" {info.id}\n"


def _jwk(info: KeyInfo) -> str:
    key = load_public(info.spki)
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        required = {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}
    elif isinstance(key, ec.EllipticCurvePublicKey):
        point, size = key.public_numbers(), (key.key_size + 7) // 8
        required = {"crv": _CURVE_NAMES[key.curve.name], "kty": "EC", "x": _number(point.x, size), "y": _number(point.y, size)}
    else:
        raise TypeError(f"{info.id} is no identity key")
    # RFC 7638: the required members, in the order of their names, without a space.
    thumbprint = hashlib.sha256(json.dumps(required, separators=(",", ":"), sort_keys=True).encode()).digest()
    return json.dumps(required | {"use": "sig", "kid": _base64(thumbprint)}, indent=2) + "\n"


def _number(value: int, size: int = 0) -> str:
    return _base64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
