"""What trust statements and policy bundles share: an outer array around a body, and the second signature.

    tbs          = context ‖ body
    cosignature  = ML-DSA-65 over the same tbs, by the ML-DSA root key that was pinned at provisioning

Signatures are checked over the bytes as received, before the body is parsed: so only the authority can make a reader parse much.
What does not fit is `untrusted`: to a receiver it makes no difference which part of the authority's word is missing.
"""

from __future__ import annotations

from typing import Any

from bus.errors import VerificationError
from bus.protocol import codec, cosign
from bus.protocol.proof import COSIGNATURE_BYTES


def untrusted(detail: str) -> VerificationError:
    return VerificationError("untrusted", detail=detail)


def outer(data: bytes, *, fields: int, most: int) -> list[Any]:
    """The fields around a signed body, none of them believed yet. Raises RemoteProtocolError("malformed")."""
    if len(data) > most:
        raise codec.malformed(f"{len(data):,} bytes, where {most:,} are the most")
    return codec.array(codec.unpack(data, longest=fields, arrays=1), fields)


def cosignature_field(value: object) -> bytes:
    """Empty where the authority has no ML-DSA key."""
    return codec.sized(value, 0, COSIGNATURE_BYTES)


def check_cosignature(ml_dsa_root: bytes | None, tbs: bytes, cosignature: bytes) -> None:
    """Where an ML-DSA root key is pinned, its signature must be there and fit; elsewhere nothing is claimed."""
    if ml_dsa_root is None:
        return
    if not cosignature:
        raise untrusted("the co-signature is missing, and an ML-DSA root key is pinned")
    try:
        cosign.verify(ml_dsa_root, tbs, cosignature)
    except VerificationError as error:
        raise untrusted("not co-signed by the pinned ML-DSA key") from error
