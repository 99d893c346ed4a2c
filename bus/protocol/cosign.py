"""The second signature, which a quantum computer does not forge: ML-DSA-65 (FIPS 204) over the same tbs, with an empty context.

It never stands alone: the identity signature over that tbs is checked too. The key comes with the papers; that it is the
signer's is vouched for by the trust statement, which names the key's hash.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

from bus.errors import VerificationError
from bus.protocol.proof import COSIGNATURE_BYTES

PUBLIC_BYTES: Final = 1_952
KEY_HASH_BYTES: Final = 32


def verify(public: bytes, tbs: bytes, cosignature: bytes) -> None:
    """Return if `public` signed `tbs`; else raise VerificationError("bad_proof")."""
    if len(public) != PUBLIC_BYTES or len(cosignature) != COSIGNATURE_BYTES:
        raise VerificationError("bad_proof", detail="a second signature or its key has the wrong length")
    try:
        MLDSA65PublicKey.from_public_bytes(public).verify(cosignature, tbs)
    except (InvalidSignature, ValueError) as error:
        raise VerificationError("bad_proof", detail="the second signature does not fit") from error


def key_hash(public: bytes) -> bytes:
    """What a trust statement names the key by."""
    return hashlib.sha256(public).digest()
