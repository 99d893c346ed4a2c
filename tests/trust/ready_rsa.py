"""RSA keys that were made before, for tests whose subject is not the making: that takes a second of every process that runs tests.

They lie beside this file as primes, which are no key file, and protect nothing. Each line: length, exponent, the two primes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

PRIMES = Path(__file__).with_name("ready_rsa_primes.txt")


@cache
def rsa_key(bits: int, number: int = 0, *, exponent: int = 65_537) -> rsa.RSAPrivateKey:
    """The one with this number of its kind; each time the same, or made now if there are not so many."""
    rows = [line.split() for line in PRIMES.read_text().splitlines()]
    found = [(int(p, 16), int(q, 16)) for length, e, p, q in rows if (int(length), int(e)) == (bits, exponent)]
    if number >= len(found):
        return rsa.generate_private_key(exponent, bits)
    p, q = found[number]
    d = rsa.rsa_recover_private_exponent(exponent, p, q)
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(exponent, p * q))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)  # it was checked when it was put there
