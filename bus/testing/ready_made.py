"""Keys that everybody has, and what the root of `testing.invalid` has signed before: so that a test waits for no key and no RSA.

    ready_made_primes.bin       the root's key, one for drafts, and the RSA keys of agents: two primes each, their lengths
                                before them; no PEM, which whoever looks for lost keys would find
    ready_made_signatures.bin   signatures of the root over what most tests need, found by what was signed: 16 bytes of its
                                SHA-256, 512 bytes of signature. What is not in there is signed when it is asked for (3 to 6 ms)

Elliptic keys are derived from the name of who has them: that is quicker than to read them, and as secret. Nothing here protects
anything; `bus.trust.testing_domain` is where all the world refuses it.
"""

from __future__ import annotations

import hashlib
import pkgutil
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bus.trust import root_signature
from bus.trust.root_signature import ALGORITHM, HASH, PSS
from bus.trust.testing_domain import DOMAIN

TAG_BYTES: Final = 16
SIGNATURE_BYTES: Final = 512
SIGNATURES: Final = Path(__file__).with_name("ready_made_signatures.bin")
PRIMES: Final = Path(__file__).with_name("ready_made_primes.bin")

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def _shipped(file: Path) -> bytes:
    """As modules are read: this one may be imported while an event loop runs."""
    return pkgutil.get_data("bus.testing", file.name) or b""


_CURVES: Final = {"ecc256": ec.SECP256R1, "ecc384": ec.SECP384R1}
_ROOT, _DRAFTS, _FIRST_OF_AGENTS = 0, 1, 2
_EXPONENT: Final = 65_537


def _table(data: bytes) -> dict[bytes, bytes]:
    row = TAG_BYTES + SIGNATURE_BYTES
    return {data[at : at + TAG_BYTES]: data[at + TAG_BYTES : at + row] for at in range(0, len(data), row)}


def _numbers(data: bytes) -> list[int]:
    found = []
    while data:
        end = 2 + int.from_bytes(data[:2], "big")
        found.append(int.from_bytes(data[2:end], "big"))
        data = data[end:]
    return found


_primes: Final = _numbers(_shipped(PRIMES))
_signed: Final = _table(_shipped(SIGNATURES))


@cache
def _rsa(number: int) -> rsa.RSAPrivateKey:
    p, q = _primes[2 * number : 2 * number + 2]
    d = rsa.rsa_recover_private_exponent(_EXPONENT, p, q)
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(_EXPONENT, p * q))
    # Checking that it is a good key takes longer than a test may, and it was good when it was put there.
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


@lru_cache(maxsize=1_024)
def identity_key(name: str, kind: str) -> PrivateKey:
    """The key of this name: each time the same, and for RSA also that of other names."""
    seed = hashlib.sha512(f"{DOMAIN} {kind} {name}".encode()).digest()
    if kind == "rsa3072":
        return _rsa(_FIRST_OF_AGENTS + seed[0] % (len(_primes) // 2 - _FIRST_OF_AGENTS))
    curve = _CURVES[kind]()
    return ec.derive_private_key(int.from_bytes(seed[: curve.key_size // 8]) >> 1, curve)  # below the order of either curve


def spki(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# ---- the root ------------------------------------------------------------------------------------------------------------------


@cache
def root_spki() -> bytes:
    return spki(_rsa(_ROOT))


def tag(tbs: bytes) -> bytes:
    return hashlib.sha256(tbs).digest()[:TAG_BYTES]


@lru_cache(maxsize=1_024)
def root_signs(tbs: bytes) -> bytes:
    """The root's signature, if it must be by its key."""
    return _signed.get(tag(tbs)) or _rsa(_ROOT).sign(tbs, PSS, HASH)


def root_issues(builder: x509.CertificateBuilder | x509.CertificateRevocationListBuilder) -> bytes:
    """The DER of it, signed by the root.

    A builder shows what is to be signed only in what it has signed: so a short key signs a draft, which takes a tenth of a
    millisecond, and the root's signature takes its place.
    """
    draft = builder.sign(_rsa(_DRAFTS), HASH, rsa_padding=PSS).public_bytes(Encoding.DER)
    tbs, _ = root_signature.split(draft)
    signature = b"\x03\x82" + (SIGNATURE_BYTES + 1).to_bytes(2, "big") + b"\0" + root_signs(tbs)
    content = tbs + ALGORITHM + signature
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content
