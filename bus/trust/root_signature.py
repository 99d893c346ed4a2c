"""What the root signs in X.509, certificates and revocation lists alike: SEQUENCE { tbs, algorithm, signature }.

One algorithm in one encoding: RSA-PSS, SHA3-384, MGF1 with SHA3-384, salt of 48 bytes. It is compared byte for byte, inside and
outside, so that nothing but what was signed decides a certificate's digest, and a library's tolerance decides nothing. Nothing
of what a stranger sent is parsed further before the root's signature verifies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA3_384

from bus.errors import VerificationError
from bus.trust import der

HASH: Final = SHA3_384()
PSS: Final = padding.PSS(padding.MGF1(HASH), 48)

ALGORITHM: Final = bytes.fromhex(
    "304106092a864886f70d01010a3034"  # rsassaPss, with
    "a00f300d06096086480165030402090500"  # [0] sha3-384
    "a11c301a06092a864886f70d010108300d06096086480165030402090500"  # [1] mgf1 with sha3-384
    "a203020130"  # [2] a salt of 48
)


_Arguments = ParamSpec("_Arguments")
_Found = TypeVar("_Found")


def strictly(what: str) -> Callable[[Callable[_Arguments, _Found]], Callable[_Arguments, _Found]]:
    """For a reader: whatever goes wrong in it, in our checks or in a library's, is VerificationError("untrusted")."""

    def refusing(read: Callable[_Arguments, _Found]) -> Callable[_Arguments, _Found]:
        @wraps(read)
        def reader(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Found:
            try:
                return read(*arguments, **named)
            except Exception as error:
                raise VerificationError("untrusted", detail=f"{what}: {error}") from error

        return reader

    return refusing


def split(data: bytes) -> tuple[bytes, bytes]:
    """(tbs, signature), if the form is right. Raises ValueError."""
    outer = der.Reader(data)
    inner = der.Reader(outer.content(der.SEQUENCE))
    outer.end()
    tbs, algorithm, signature = inner.element(der.SEQUENCE), inner.element(der.SEQUENCE), inner.content(der.BIT_STRING)
    inner.end()
    if algorithm != ALGORITHM:
        raise ValueError("not signed with RSA-PSS, SHA3-384 and a salt of 48 bytes")
    if signature[:1] != b"\0":
        raise ValueError("a signature of bits that are no whole octets")
    return tbs, signature[1:]


def verify(key: RSAPublicKey, tbs: bytes, signature: bytes) -> None:
    """Raises ValueError."""
    try:
        key.verify(signature, tbs, PSS, HASH)
    except InvalidSignature as error:
        raise ValueError("the pinned root did not sign it") from error
