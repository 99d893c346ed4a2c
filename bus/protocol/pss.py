"""EMSA-PSS of RFC 8017, section 9.1.1, for hashes that a TPM cannot pad with itself.

The TPM then does the bare RSA operation on the result. The salt is given, so that this stays a pure function.
"""

from __future__ import annotations

from bus.protocol.suites import HASHES


def encode(digest: bytes, *, bits: int, hash_name: str, salt: bytes) -> bytes:
    """The padded block for a modulus of `bits` bits: as long as the modulus, and always smaller."""
    new = HASHES[hash_name]
    size = len(digest)
    length = (bits - 1 + 7) // 8
    if length < size + len(salt) + 2:
        raise ValueError("the modulus is too short for this hash and salt")
    h = bytes(new(bytes(8) + digest + salt).digest())
    data = bytes(length - len(salt) - size - 2) + b"\x01" + salt
    masked = bytearray(a ^ b for a, b in zip(data, mgf1(h, len(data), hash_name=hash_name), strict=True))
    masked[0] &= 0xFF >> (8 * length - (bits - 1))
    return bytes((bits + 7) // 8 - length) + bytes(masked) + h + b"\xbc"


def mgf1(seed: bytes, length: int, *, hash_name: str) -> bytes:
    """The mask of RFC 8017, appendix B.2.1."""
    new = HASHES[hash_name]
    blocks = -(-length // new().digest_size)
    return b"".join(bytes(new(seed + counter.to_bytes(4, "big")).digest()) for counter in range(blocks))[:length]
