"""What an attestation key said, believed only as far as it proves something.

An unrestricted key signs whatever bytes it is given, also some that look like an attestation. So nothing is believed but the
word of a key that is *restricted* (then its chip made what it signed, and it begins with the TPM's magic), that is in the chip
whose endorsement key opened a credential for it, and whose structure says: of this kind, about this Name, with this nonce.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from bus.errors import AttestationError, RemoteProtocolError
from bus.protocol.signatures import CRYPTOGRAPHY_HASHES, kind_of
from bus.protocol.suites import Suite
from bus.protocol.tpm_structures import Attest, CertifyInfo, QuoteInfo, Signature, SignatureScheme
from bus.trust.tpm_keys import HASHES, IN_THIS_CHIP, TPM_ALG_ECDSA, Attributes, TpmKey

_NUMBER_OF_HASH: Final = {name: number for number, name in HASHES.items()}
_PCR_BANK: Final = "sha256"


def attestation_key(public: bytes) -> TpmKey:
    """The attestation key of a TPM2B_PUBLIC: ECDSA with a hash of its own. Raises AttestationError("ak_unrestricted")."""
    key = TpmKey.parse(public)
    if not key.has(IN_THIS_CHIP | Attributes.RESTRICTED | Attributes.SIGN) or Attributes.DECRYPT in key.attributes:
        raise AttestationError("ak_unrestricted", detail="the attestation key may sign what its chip did not make, or leave it")
    if key.scheme != TPM_ALG_ECDSA:
        raise AttestationError("ak_unrestricted", detail="an attestation key signs with ECDSA, and names its hash")
    return key


def identity_key(public: bytes, *, spki: bytes, suite: Suite) -> TpmKey:
    """The identity key of a TPM2B_PUBLIC, which must be this key, for this suite, made in its chip and for ever there.

    A restricted key could sign nothing of ours; only RSA, where a chip lacks the suite's hash, needs `decrypt` beside `sign`.
    Raises AttestationError("wrong_identity_key").
    """
    key = TpmKey.parse(public)
    if key.spki != spki or kind_of(key.key) != suite.kind:
        raise AttestationError("wrong_identity_key", detail=f"the public area is not that key, or no {suite.kind}")
    if not key.has(IN_THIS_CHIP | Attributes.SIGN) or Attributes.RESTRICTED in key.attributes:
        raise AttestationError("wrong_identity_key", detail="the key may leave its chip, was not made there, or cannot sign for us")
    if Attributes.DECRYPT in key.attributes and suite.kind != "rsa3072":
        raise AttestationError("wrong_identity_key", detail="an elliptic-curve identity key only signs")
    return key


def check_certify(attester: TpmKey, attest: bytes, signature: bytes, *, subject: TpmKey, qualifying: bytes) -> None:
    """Return if the attester's chip said: the key `subject` is in me, and I was asked with `qualifying`.

    Raises AttestationError: `not_certified`, `wrong_qualifying`, `wrong_identity_key`; RemoteProtocolError("malformed").
    """
    said = _said(attester, attest, signature, qualifying=qualifying)
    if not isinstance(said, CertifyInfo):
        raise AttestationError("not_certified", detail="the attestation is of another kind")
    if not hmac.compare_digest(said.name, subject.name):
        raise AttestationError("wrong_identity_key", detail="another key was certified than the one that is to be enrolled")


def check_quote(attester: TpmKey, attest: bytes, signature: bytes, *, registers: Mapping[int, bytes], qualifying: bytes) -> None:
    """Return if the attester's chip said that exactly these registers of the SHA-256 bank have these values.

    Raises AttestationError: `not_quoted`, `wrong_qualifying`, `wrong_registers`; RemoteProtocolError("malformed").
    """
    try:
        said = _said(attester, attest, signature, qualifying=qualifying)
    except AttestationError as error:
        raise AttestationError("not_quoted" if error.reason == "not_certified" else error.reason) from error
    if not isinstance(said, QuoteInfo):
        raise AttestationError("not_quoted", detail="the attestation is of another kind")
    chosen = [(HASHES.get(selection.hash), selection.pcrs) for selection in said.selections]
    values = b"".join(registers[pcr] for pcr in sorted(registers))
    digest = hashlib.new(attester.scheme_hash, values).digest()
    if chosen != [(_PCR_BANK, tuple(sorted(registers)))] or not hmac.compare_digest(said.digest, digest):
        raise AttestationError("wrong_registers", detail="other registers were quoted, or they have other values")


def _said(attester: TpmKey, attest: bytes, signature: bytes, *, qualifying: bytes) -> object:
    try:
        parsed = Attest.parse(attest)
        _check_signature(attester, attest, Signature.parse(signature))
    except InvalidSignature as error:
        raise AttestationError("not_certified", detail="the attestation key did not sign this") from error
    if not hmac.compare_digest(parsed.extra_data, qualifying):
        raise AttestationError("wrong_qualifying", detail="the chip was asked with another nonce, name or key")
    return parsed.attested


def _check_signature(attester: TpmKey, attest: bytes, signature: Signature) -> None:
    """By the scheme and hash that the key's public area names, and no other: the signature's own word is not asked."""
    if not isinstance(attester.key, ec.EllipticCurvePublicKey) or attester.scheme != TPM_ALG_ECDSA:
        raise RemoteProtocolError("malformed", "attestation keys sign with ECDSA")
    if signature.scheme is not SignatureScheme.ECDSA or signature.hash != _NUMBER_OF_HASH[attester.scheme_hash]:
        raise InvalidSignature
    r, s = (int.from_bytes(part, "big") for part in signature.parts)
    attester.key.verify(encode_dss_signature(r, s), attest, ec.ECDSA(CRYPTOGRAPHY_HASHES[attester.scheme_hash]))
