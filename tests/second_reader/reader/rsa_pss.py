"""RSASSA-PSS by hand (RFC 8017, 8.1.2 and 9.1.2), for moduli of a whole number of bytes; the salt is as long as the hash."""

from __future__ import annotations

from .digests import Hash

EXPONENT = 65537


def _mask(h: Hash, seed: bytes, length: int) -> bytes:
    size = len(h(b""))
    return b"".join(h(seed + i.to_bytes(4, "big")) for i in range(-(-length // size)))[:length]


def verify(modulus: int, h: Hash, digest: bytes, signature: bytes) -> bool:
    """`digest` is mHash. True only for exactly this hash, this MGF and this salt length."""
    size, length = len(digest), (modulus.bit_length() + 7) // 8
    number = int.from_bytes(signature, "big")
    if len(signature) != length or number >= modulus:
        return False
    encoded = pow(number, EXPONENT, modulus).to_bytes(length, "big")
    masked, hashed, end = encoded[: -size - 1], encoded[-size - 1 : -1], encoded[-1]
    if end != 0xBC or masked[0] & 0x80:
        return False
    block = bytearray(a ^ b for a, b in zip(masked, _mask(h, hashed, len(masked)), strict=True))
    block[0] &= 0x7F
    zeros = len(block) - size - 1
    if any(block[:zeros]) or block[zeros] != 1:
        return False
    return h(bytes(8) + digest + bytes(block[-size:])) == hashed
