"""What every certificate of ours has, root or not: its fields in one order, its times in whole seconds, one plain name.

Reading and making stand side by side, so that they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PublicKeyTypes
from cryptography.x509.oid import NameOID

from bus.protocol.signatures import kind_of, load_public
from bus.trust import der, root_signature

MAX_BYTES: Final = 8_192
SERIAL_OCTETS: Final = 20
"""RFC 5280's limit."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION_3: Final = bytes.fromhex("a003020102")
_VERSION_TAG, _EXTENSIONS_TAG = 0xA0, 0xA3
_NO_USE: Final = dict.fromkeys(
    (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
        "crl_sign", "encipher_only", "decipher_only",
    ),
    False,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """A certificate taken apart by its DER alone; its signature is not checked yet."""

    tbs: bytes
    signature: bytes
    serial: int
    issuer: bytes
    subject: bytes
    spki: bytes


def take_apart(data: bytes) -> Form:
    """Raises ValueError unless it has the form that ours have: version 3, the one algorithm, no unique identifiers."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes, where {MAX_BYTES} are the most")
    tbs, signature = root_signature.split(data)
    fields = der.Reader(der.Reader(tbs).content(der.SEQUENCE))
    if fields.element(_VERSION_TAG) != _VERSION_3:
        raise ValueError("not of version 3")
    serial = serial_number(fields)
    if fields.element(der.SEQUENCE) != root_signature.ALGORITHM:
        raise ValueError("another algorithm inside than outside")
    issuer, _, subject, spki = (fields.element(der.SEQUENCE) for _ in range(4))
    fields.element(_EXTENSIONS_TAG)
    fields.end()
    return Form(tbs, signature, serial, issuer, subject, spki)


def serial_number(fields: der.Reader) -> int:
    serial = fields.unsigned(der.INTEGER, most_octets=SERIAL_OCTETS)
    if serial == 0:
        raise ValueError("a serial of 0")
    return serial


def lifetime(certificate: x509.Certificate, *, most_ms: int) -> tuple[int, int]:
    """(not before, not after). Raises ValueError."""
    begins, ends = ms_of(certificate.not_valid_before_utc), ms_of(certificate.not_valid_after_utc)
    if not 0 < ends - begins <= most_ms:
        raise ValueError(f"valid for {(ends - begins) // 1000} s, where {most_ms // 1000} s are the most")
    return begins, ends


def demand(found: x509.Extensions, wanted: Mapping[x509.ExtensionType, bool]) -> None:
    """Each of these extensions, critical or not as given, exactly as given; no other that is critical. Raises ValueError."""
    there = {extension.oid: extension for extension in found}
    for value, critical in wanted.items():
        extension = there.pop(value.oid, None)
        if extension is None or extension.critical is not critical or extension.value != value:
            raise ValueError(f"the extension {value.oid.dotted_string} is missing, or not as it should be")
    if odd := [extension.oid.dotted_string for extension in there.values() if extension.critical]:
        raise ValueError(f"the critical extension {odd[0]} is none of ours")


def key_usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**(_NO_USE | dict.fromkeys(uses, True)))


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def date_of(ms: int) -> datetime:
    """X.509 knows whole seconds."""
    return _EPOCH + timedelta(seconds=ms // 1000)


def ms_of(date: datetime) -> int:
    return (date - _EPOCH) // timedelta(milliseconds=1)


def start(subject: x509.Name, spki: bytes, *, serial: int, not_before_ms: int, not_after_ms: int) -> x509.CertificateBuilder:
    """What all builders begin with."""
    key = certifiable(load_public(spki))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(date_of(not_before_ms))
        .not_valid_after(date_of(not_after_ms))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def certifiable(key: PublicKeyTypes) -> CertificatePublicKeyTypes:
    if kind_of(key) is None and not isinstance(key, RSAPublicKey):
        raise ValueError("a key of a kind that no certificate has")
    return key  # type: ignore[return-value]  # what kind_of knows can stand in a certificate
