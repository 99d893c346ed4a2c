"""Part 4: SubjectPublicKeyInfo in its one encoding, and the three kinds of identity keys."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from . import der
from .der import NotDer, need

RSA_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")
EC_ALGORITHMS = {
    bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107"): "P-256",
    bytes.fromhex("301006072a8648ce3d020106052b81040022"): "P-384",
}
CURVES = {  # p, b, order, bytes of a coordinate; a is -3 in both
    "P-256": (
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
        32,
    ),
    "P-384": (
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
        48,
    ),
}


@dataclass(frozen=True)
class PublicKey:
    kind: str
    """P-256, P-384, rsa and the bits of the modulus, or `other`: a right encoding of a key that no suite has."""
    numbers: tuple[int, ...]
    """(modulus,) or (x, y); none of another key."""
    bits: bytes
    """What a subjectKeyIdentifier is the SHA-1 of."""


@functools.lru_cache(4096)
def read_spki(data: bytes) -> PublicKey:
    """Raises NotDer for anything that is not the one encoding of a key."""
    parts = der.read(data).items()
    need(len(parts) == 2, "no SubjectPublicKeyInfo")
    algorithm, bits = parts[0].whole, parts[1].bits()
    if algorithm == RSA_ALGORITHM:
        return _rsa(bits)
    parts[0].items()
    return _ec(EC_ALGORITHMS[algorithm], bits) if algorithm in EC_ALGORITHMS else PublicKey("other", (), bits)


def _rsa(bits: bytes) -> PublicKey:
    numbers = [item.integer() for item in der.read(bits).items()]
    need(len(numbers) == 2 and min(numbers) > 0, "no RSA key")
    modulus, exponent = numbers
    return PublicKey(f"rsa{modulus.bit_length()}", (modulus,), bits) if exponent == 65537 else PublicKey("other", (), bits)


def _ec(curve: str, bits: bytes) -> PublicKey:
    p, b, _, size = CURVES[curve]
    need(len(bits) == 1 + 2 * size and bits[0] == 4, "a point that is not uncompressed")
    x, y = int.from_bytes(bits[1 : 1 + size], "big"), int.from_bytes(bits[1 + size :], "big")
    need(x < p and y < p and (y * y - x * x * x + 3 * x - b) % p == 0, "not on the curve")
    return PublicKey(curve, (x, y), bits)


__all__ = ["CURVES", "NotDer", "PublicKey", "read_spki"]
