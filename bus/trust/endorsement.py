"""Which chip this is, and whose word that rests on: the chain of an endorsement certificate, judged strictly.

The root that verifies decides what a key may be called, never the enrollee: under a root of the explicit list of manufacturers
it is in `hardware`, under the CA of a software TPM in a `software-tpm`, and under none the chip is not believed.

Ordinary verifiers of X.509 refuse these certificates: they have an empty subject, a critical subjectAltName that is a directory
name, and end in 9999. So the path is walked here, by signatures: at each step the issuer's name, its key's signature, CA:TRUE,
the path length, keyCertSign, the dates, a modern hash, and no critical extension that nobody here has read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID

from bus.errors import AttestationError
from bus.trust.extension import ORIGINS
from bus.trust.tpm_keys import IN_THIS_CHIP, Attributes, TpmKey

SOFTWARE, SOFTWARE_TPM, HARDWARE = ORIGINS

MAX_CERTIFICATE_BYTES: Final = 4_096
MAX_INTERMEDIATES: Final = 4
MAX_RSA_BITS: Final = 4_096
MAX_RSA_EXPONENT: Final = (1 << 32) - 1
"""Of those who issue: more than any maker has."""
EK_CERTIFICATE: Final = x509.ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate: without it the certificate may be the platform's, which has another key."""

_ENDORSING: Final = IN_THIS_CHIP | Attributes.RESTRICTED | Attributes.DECRYPT
_READ_OF_LEAF: Final = frozenset(
    {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,  # who made the chip and which model: nothing rests on it
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
    }
)
_READ_OF_ISSUERS: Final = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})


@dataclass(frozen=True, slots=True)
class Roots:
    """Whose word is taken. `intermediates` are believed only under a root; they spare enrollees to send them."""

    hardware: tuple[x509.Certificate, ...] = ()
    software: tuple[x509.Certificate, ...] = ()
    intermediates: tuple[x509.Certificate, ...] = ()

    @classmethod
    def of(cls, *, hardware: Iterable[bytes] = (), software: Iterable[bytes] = (), intermediates: Iterable[bytes] = ()) -> Roots:
        """From DER. Raises ValueError for what is no certificate."""
        return cls(tuple(map(_read, hardware)), tuple(map(_read, software)), tuple(map(_read, intermediates)))


@dataclass(frozen=True, slots=True)
class Endorsed:
    """A chip that is believed: its endorsement key, the hash by which lists call it, and what its keys may be called."""

    key: TpmKey
    hash: bytes
    origin: str


def key_hash(spki: bytes) -> bytes:
    """SHA-256 of an endorsement key's SubjectPublicKeyInfo: how enrolment lists name a chip."""
    return hashlib.sha256(spki).digest()


def verify(certificate: bytes, public: bytes, *, roots: Roots, intermediates: Sequence[bytes] = (), now_ms: int) -> Endorsed:
    """The chip of this certificate and public area (TPM2B_PUBLIC).

    Raises AttestationError: `ek_untrusted` where the certificate or its chain is not believed, `ek_mismatch` where it is not for
    this key; RemoteProtocolError("malformed") where the public area is none.
    """
    key = TpmKey.parse(public)
    leaf = _load(certificate)
    between = (*map(_load, intermediates), *roots.intermediates)
    at = datetime.fromtimestamp(now_ms / 1000, UTC)
    _check_leaf(leaf, at)
    if _spki(leaf) != key.spki:
        raise AttestationError("ek_mismatch", detail="the endorsement certificate is for another key than the public area")
    if not key.has(_ENDORSING) or Attributes.SIGN in key.attributes or not key.symmetric_bits:
        raise AttestationError("ek_mismatch", detail="the public area is not that of an endorsement key: restricted, decrypting")
    return Endorsed(key, key_hash(key.spki), _origin(leaf, between, roots, at))


def _origin(leaf: x509.Certificate, between: Sequence[x509.Certificate], roots: Roots, at: datetime) -> str:
    for origin, trusted in ((HARDWARE, roots.hardware), (SOFTWARE_TPM, roots.software)):
        if _reaches(leaf, between, trusted, at, below=0):
            return origin
    raise _untrusted("no root that is trusted here has signed for it: add the maker's root, or the CA of that software TPM")


def _reaches(
    subject: x509.Certificate, between: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate], at: datetime, *, below: int
) -> bool:
    """Whether a path leads up to a root. `below`: how many intermediates are on it already; each is on it once at most."""
    if any(_issued(root, subject, at, below=below) for root in trusted):
        return True
    return below < MAX_INTERMEDIATES and any(
        _reaches(issuer, [other for other in between if other is not issuer], trusted, at, below=below + 1)
        for issuer in _issuers(subject, between, at, below=below)
    )


def _issuers(
    subject: x509.Certificate, between: Sequence[x509.Certificate], at: datetime, *, below: int
) -> Iterator[x509.Certificate]:
    return (issuer for issuer in between if _issued(issuer, subject, at, below=below))


def _issued(issuer: x509.Certificate, subject: x509.Certificate, at: datetime, *, below: int) -> bool:
    if issuer.subject != subject.issuer or not _may_issue(issuer, at, below=below):
        return False
    try:
        subject.verify_directly_issued_by(issuer)  # which knows no SHA-1
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _may_issue(issuer: x509.Certificate, at: datetime, *, below: int) -> bool:
    if not issuer.not_valid_before_utc <= at <= issuer.not_valid_after_utc or not _is_strong(issuer):
        return False
    extensions = issuer.extensions
    try:
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    long_enough = basic.path_length is None or basic.path_length >= below
    return basic.ca and long_enough and usage.key_cert_sign and not _unread(extensions, _READ_OF_ISSUERS)


def _is_strong(issuer: x509.Certificate) -> bool:
    """And cheap: strangers bring intermediates, and a verification under an exponent as long as the modulus takes a hundred times
    as long.
    """
    key = issuer.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return 2048 <= key.key_size <= MAX_RSA_BITS and key.public_numbers().e <= MAX_RSA_EXPONENT
    return isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= 256


def _check_leaf(leaf: x509.Certificate, at: datetime) -> None:
    if not leaf.not_valid_before_utc <= at <= leaf.not_valid_after_utc:
        raise _untrusted("the endorsement certificate is not valid now: is a clock wrong?")
    extensions = leaf.extensions
    if _unread(extensions, _READ_OF_LEAF):
        raise _untrusted("the endorsement certificate has a critical extension that nobody here knows")
    values = {type(extension.value): extension.value for extension in extensions}
    purposes, basic, usage = values.get(x509.ExtendedKeyUsage), values.get(x509.BasicConstraints), values.get(x509.KeyUsage)
    if not isinstance(purposes, x509.ExtendedKeyUsage) or EK_CERTIFICATE not in purposes:
        raise _untrusted("this is no endorsement certificate: its purpose is another one")
    if isinstance(basic, x509.BasicConstraints) and basic.ca:
        raise _untrusted("a CA's certificate is no endorsement certificate")
    if not isinstance(usage, x509.KeyUsage) or not (usage.key_encipherment or usage.key_agreement):
        raise _untrusted("the endorsement certificate does not let its key take a credential")


def _unread(extensions: x509.Extensions, read: frozenset[x509.ObjectIdentifier]) -> bool:
    return any(extension.critical and extension.oid not in read for extension in extensions)


def _load(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise _untrusted(f"an endorsement certificate of {len(der):,} bytes")
    try:
        return _read(der)
    except ValueError as error:
        raise _untrusted("the chip has no endorsement certificate, or one that does not parse") from error


def _read(der: bytes) -> x509.Certificate:
    """The library parses most fields when they are asked for, and fails in many ways: so all are asked for here, once."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        for field in ("subject", "issuer", "not_valid_before_utc", "not_valid_after_utc", "extensions"):
            getattr(certificate, field)
        certificate.public_key()
        is_whole = der.endswith(b"\x00" + certificate.signature)
    except Exception as error:
        raise ValueError(f"no certificate that can be read: {error}") from error
    if not is_whole:  # some bits of its last octet are called unused: another way to write the same certificate
        raise ValueError("no certificate that can be read: its signature is not of whole octets")
    return certificate


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _untrusted(detail: str) -> AttestationError:
    return AttestationError("ek_untrusted", detail=detail)
