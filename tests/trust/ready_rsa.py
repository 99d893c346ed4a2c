"""RSA keys that were made before, for tests whose subject is not the making: that takes a second of every process that runs tests.

They lie beside this file as primes, which are no key file, and protect nothing. Each line: length, exponent, the two primes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

ROOT_BITS = 4_096
PRIMES = Path(__file__).with_name("ready_rsa_primes.txt")


@cache
def pairs(bits: int, exponent: int) -> list[tuple[int, int]]:
    rows = [line.split() for line in PRIMES.read_text().splitlines()]
    return [(int(p, 16), int(q, 16)) for length, e, p, q in rows if (int(length), int(e)) == (bits, exponent)]


@cache
def rsa_key(bits: int, number: int = 0, *, exponent: int = 65_537) -> rsa.RSAPrivateKey:
    """The one with this number of its kind; each time the same, or made now if there are not so many."""
    found = pairs(bits, exponent)
    return of_primes(*found[number], exponent) if number < len(found) else rsa.generate_private_key(exponent, bits)


def one_of_many(bits: int, number: int) -> rsa.RSAPrivateKey:
    """Of any two of these primes that are no pair: 60 keys of 4,096 bits, of which neighbours differ. None is a `rsa_key`."""
    known = pairs(bits, 65_537)
    many = [two for two in combinations([prime for pair in known for prime in pair], 2) if two not in known]
    return of_primes(*many[number % len(many)], 65_537)


def roots_of_many(number: Callable[[], int]) -> Callable[[int, int], rsa.RSAPrivateKey]:
    """In place of `rsa.generate_private_key`: a root has primes of these, any other key is found as ever."""
    find = rsa.generate_private_key

    def made(public_exponent: int, key_size: int) -> rsa.RSAPrivateKey:
        return one_of_many(key_size, number()) if key_size == ROOT_BITS else find(public_exponent, key_size)

    return made


def of_primes(p: int, q: int, exponent: int) -> rsa.RSAPrivateKey:
    d = rsa.rsa_recover_private_exponent(exponent, p, q)
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(exponent, p * q))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)  # it was checked when it was put there
