"""ML-KEM-768 (FIPS 203), written from the standard: to check another implementation, not to keep a secret.

It is slow and its time depends on what it works on. Names are those of the standard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

Q, N, K = 3329, 256, 3
ETA, DU, DV = 2, 10, 4
EK_BYTES, DK_BYTES, C_BYTES = 384 * K + 32, 768 * K + 96, 32 * (DU * K + DV)

Poly = list[int]


class NotAKeyError(ValueError):
    """The checks of section 7.2 and 7.3 fail."""


def _reversed_bits(number: int) -> int:
    return int(f"{number:07b}"[::-1], 2)


ZETAS = [pow(17, _reversed_bits(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * _reversed_bits(i) + 1, Q) for i in range(128)]


def encode(poly: Sequence[int], d: int) -> bytes:
    return sum(value << d * i for i, value in enumerate(poly)).to_bytes(32 * d, "little")


def decode(data: bytes, d: int) -> Poly:
    """Algorithm 6; for d = 12 the numbers are not reduced, so that a key that is not reduced shows."""
    whole = int.from_bytes(data, "little")
    return [whole >> d * i & (1 << d) - 1 for i in range(N)]


def compress(poly: Sequence[int], d: int) -> Poly:
    return [((value << d) + Q // 2) // Q % (1 << d) for value in poly]


def decompress(poly: Sequence[int], d: int) -> Poly:
    return [(value * Q + (1 << d - 1)) >> d for value in poly]


def add(f: Sequence[int], g: Sequence[int]) -> Poly:
    return [(a + b) % Q for a, b in zip(f, g, strict=True)]


def ntt(f: Sequence[int]) -> Poly:
    f = list(f)
    i, length = 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = ZETAS[i] * f[j + length] % Q
                f[j], f[j + length] = (f[j] + t) % Q, (f[j] - t) % Q
            i += 1
        length //= 2
    return f


def inverse_ntt(f: Sequence[int]) -> Poly:
    f = list(f)
    i, length = 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                a, b = f[j], f[j + length]
                f[j], f[j + length] = (a + b) % Q, ZETAS[i] * (b - a) % Q
            i -= 1
        length *= 2
    return [value * 3303 % Q for value in f]  # 3303 is 1/128


def multiply(f: Sequence[int], g: Sequence[int]) -> Poly:
    """Of two polynomials in the NTT domain."""
    h = []
    for i in range(128):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a0 * b0 + a1 * b1 * GAMMAS[i]) % Q, (a0 * b1 + a1 * b0) % Q]
    return h


def dot(left: Sequence[Poly], right: Sequence[Poly]) -> Poly:
    total = [0] * N
    for f, g in zip(left, right, strict=True):
        total = add(total, multiply(f, g))
    return total


def sample_ntt(seed: bytes) -> Poly:
    stream = hashlib.shake_128(seed).digest(3 * 1024)  # four times what is needed on average
    found: Poly = []
    for a, b, c in zip(stream[::3], stream[1::3], stream[2::3], strict=True):
        found += [value for value in (a | (b & 15) << 8, b >> 4 | c << 4) if value < Q]
    if len(found) < N:
        raise AssertionError("not in the life of the universe")
    return found[:N]


def sample_noise(seed: bytes, counter: int) -> Poly:
    bits = int.from_bytes(hashlib.shake_256(seed + bytes([counter])).digest(64 * ETA), "little")
    fours = (bits >> 2 * ETA * i & 15 for i in range(N))
    return [((four & 1) + (four >> 1 & 1) - (four >> 2 & 1) - (four >> 3)) % Q for four in fours]


def _matrix(rho: bytes) -> list[list[Poly]]:
    return [[sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def _g(data: bytes) -> tuple[bytes, bytes]:
    digest = hashlib.sha3_512(data).digest()
    return digest[:32], digest[32:]


def _h(data: bytes) -> bytes:
    return hashlib.sha3_256(data).digest()


def _vector(data: bytes, d: int) -> list[Poly]:
    return [decode(data[32 * d * i : 32 * d * (i + 1)], d) for i in range(K)]


def key_pair(seed: bytes) -> tuple[bytes, bytes]:
    """(ek, dk) from d | z."""
    d, z = seed[:32], seed[32:]
    rho, sigma = _g(d + bytes([K]))
    a = _matrix(rho)
    s = [ntt(sample_noise(sigma, i)) for i in range(K)]
    e = [ntt(sample_noise(sigma, K + i)) for i in range(K)]
    t = [add(dot(a[i], s), e[i]) for i in range(K)]
    ek = b"".join(encode(poly, 12) for poly in t) + rho
    return ek, b"".join(encode(poly, 12) for poly in s) + ek + _h(ek) + z


def check_ek(ek: bytes) -> None:
    """Length, and that every number is below q. Raises NotAKeyError."""
    if len(ek) != EK_BYTES or any(value >= Q for poly in _vector(ek, 12) for value in poly):
        raise NotAKeyError("no encapsulation key")


def _encrypt(ek: bytes, m: bytes, r: bytes) -> bytes:
    t, a = _vector(ek, 12), _matrix(ek[384 * K :])
    y = [ntt(sample_noise(r, i)) for i in range(K)]
    columns = [[a[j][i] for j in range(K)] for i in range(K)]
    u = [add(inverse_ntt(dot(columns[i], y)), sample_noise(r, K + i)) for i in range(K)]
    v = add(add(inverse_ntt(dot(t, y)), sample_noise(r, 2 * K)), decompress(decode(m, 1), 1))
    return b"".join(_packed(u, v))


def _packed(u: Sequence[Poly], v: Poly) -> Iterator[bytes]:
    for poly in u:
        yield encode(compress(poly, DU), DU)
    yield encode(compress(v, DV), DV)


def encapsulate(ek: bytes, m: bytes) -> tuple[bytes, bytes]:
    """(shared secret, ciphertext), from 32 random bytes m. Raises NotAKeyError."""
    check_ek(ek)
    key, r = _g(m + _h(ek))
    return key, _encrypt(ek, m, r)


def decapsulate(dk: bytes, c: bytes) -> bytes:
    """The shared secret; for a wrong ciphertext another one, which nobody knows. Raises NotAKeyError."""
    s, ek, h, z = dk[: 384 * K], dk[384 * K : 768 * K + 32], dk[768 * K + 32 : 768 * K + 64], dk[768 * K + 64 :]
    if len(dk) != DK_BYTES or len(c) != C_BYTES or h != _h(ek):
        raise NotAKeyError("no decapsulation key, or no ciphertext")
    u = [decompress(poly, DU) for poly in _vector(c, DU)]
    v = decompress(decode(c[32 * DU * K :], DV), DV)
    noise = inverse_ntt(dot(_vector(s, 12), [ntt(poly) for poly in u]))
    m = encode(compress([(a - b) % Q for a, b in zip(v, noise, strict=True)], 1), 1)
    key, r = _g(m + h)
    return key if _encrypt(ek, m, r) == c else hashlib.shake_256(z + c).digest(32)
