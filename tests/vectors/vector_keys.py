"""Keys and random bytes from fixed seeds: whoever makes the vectors again gets the same keys.

RSA keys too, which no library makes from a seed: two primes are looked for, beginning where the seed says. They are good for
vectors and nothing else.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

E: Final = 65_537
SMALL: Final = [n for n in range(3, 2_000, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2))]


class Chance:
    """Called like os.urandom."""

    def __init__(self, seed: str) -> None:
        self.seed, self.count = seed, 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return hashlib.shake_256(f"tpmbus vectors {self.seed} {self.count}".encode()).digest(size)

    def urandom(self, size: int) -> bytes:
        return self(size)


def _is_prime(number: int) -> bool:
    if any(number % small == 0 for small in SMALL) or pow(2, number - 1, number) != 1:
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in SMALL[:12]:
        value = pow(base, odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def _prime(chance: Chance, bits: int) -> int:
    number = int.from_bytes(chance(bits // 8), "big") | 3 << (bits - 2) | 1
    while not _is_prime(number) or (number - 1) % E == 0:
        number += 2
    return number


@cache
def rsa_key(seed: str, bits: int, e: int = E) -> rsa.RSAPrivateKey:
    chance = Chance(f"rsa {seed} {bits} {e}")
    while True:
        p, q = _prime(chance, bits // 2), _prime(chance, bits // 2)
        phi = (p - 1) * (q - 1)
        if phi % e:
            break
    d = pow(e, -1, phi)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(e, p * q))
    return numbers.private_key()


@cache
def ec_key(seed: str, curve: str) -> ec.EllipticCurvePrivateKey:
    kind = {"ecc256": ec.SECP256R1, "ecc384": ec.SECP384R1, "p521": ec.SECP521R1}[curve]()
    return ec.derive_private_key(int.from_bytes(Chance(f"ec {seed} {curve}")(32), "big"), kind)


def identity_key(seed: str, kind: str) -> Any:
    return rsa_key(seed, 3_072) if kind == "rsa3072" else ec_key(seed, kind)
