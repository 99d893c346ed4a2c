"""Ed25519 as part 4 wants it: strict keys, no cofactor, R compared byte for byte. Plain arithmetic; slow."""

from __future__ import annotations

import functools
import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]
"""Extended: X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z."""
NEUTRAL: Point = (0, 1, 1, 0)


def _add(a: Point, b: Point) -> Point:
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g, h = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(number: int, point: Point) -> Point:
    total = NEUTRAL
    for bit in f"{number:b}":
        total = _add(total, total)
        if bit == "1":
            total = _add(total, point)
    return total


def _is_neutral(point: Point) -> bool:
    return point[0] == 0 and point[1] == point[2]


def _encode(point: Point) -> bytes:
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decode(data: bytes) -> Point | None:
    """None unless it is the canonical encoding of a point."""
    whole = int.from_bytes(data, "little")
    sign, y = whole >> 255, whole & (1 << 255) - 1
    if len(data) != 32 or y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT_OF_MINUS_ONE % P
    if x * x % P != square or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


_BASE = _decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


@functools.lru_cache(4096)
def public_point(key: bytes) -> Point | None:
    """None unless the key is the canonical encoding of a point of the prime-order subgroup that is not the neutral element."""
    point = _decode(key)
    if point is None or _is_neutral(point) or not _is_neutral(_times(L, point)):
        return None
    return point


@functools.lru_cache(4096)
def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    point = public_point(key)
    if point is None or len(signature) != 64 or _BASE is None:
        return False
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    commitment = _decode(r)
    if s >= L or commitment is None or _is_neutral(_times(8, commitment)):
        return False
    k = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L
    minus_a: Point = (P - point[0], point[1], point[2], P - point[3])
    return _encode(_add(_times(s, _BASE), _times(k, minus_a))) == r


def _expanded(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    number = int.from_bytes(digest[:32], "little")
    return number & ((1 << 254) - 8) | 1 << 254, digest[32:]


def public_of(seed: bytes) -> bytes:
    return _encode(_times(_expanded(seed)[0], _BASE or NEUTRAL))


def sign(seed: bytes, message: bytes) -> bytes:
    scalar, prefix = _expanded(seed)
    nonce = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % L
    r = _encode(_times(nonce, _BASE or NEUTRAL))
    k = int.from_bytes(hashlib.sha512(r + public_of(seed) + message).digest(), "little") % L
    return r + ((nonce + k * scalar) % L).to_bytes(32, "little")
