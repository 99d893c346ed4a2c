"""The revocation list: what the root takes back. X.509, so that openssl and TLS obey it too; the bus obeys the one that its trust
statement names.

A revocation counts for everything that the certificate ever signed: nobody can tell what a thief has dated back. Only `rotated`
(X.509's superseded), which says that the key was given up in order, counts from its date on: what was signed before stays good.
The entry of a rotated key may stand in the list before its date; openssl looks at no date and refuses such a certificate at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from cryptography import x509

from bus.errors import VerificationError
from bus.trust import der as strict
from bus.trust import root_signature, x509_form
from bus.trust.profiles import DAY_MS
from bus.trust.root import Root
from bus.trust.root_signature import strictly

MAX_BYTES: Final = 1 << 22
"""Some 80,000 entries."""
MAX_NUMBER: Final = (1 << 63) - 1
LIFETIME_MS: Final = 7 * DAY_MS

_VERSION_2: Final = bytes.fromhex("020101")


class Reason(Enum):
    """Why, in the words of commands and audits."""

    UNSPECIFIED = "unspecified"
    COMPROMISED = "compromised"
    ROTATED = "rotated"
    RETIRED = "retired"
    WITHDRAWN = "withdrawn"


_FLAGS: Final[Mapping[Reason, x509.ReasonFlags]] = {
    Reason.COMPROMISED: x509.ReasonFlags.key_compromise,
    Reason.ROTATED: x509.ReasonFlags.superseded,
    Reason.RETIRED: x509.ReasonFlags.cessation_of_operation,
    Reason.WITHDRAWN: x509.ReasonFlags.privilege_withdrawn,
}
"""`unspecified` is left out in X.509: RFC 5280, 5.3.1."""
_REASONS: Final = {flag: reason for reason, flag in _FLAGS.items()}


@dataclass(frozen=True, slots=True)
class Revocation:
    date_ms: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One that the root signed. Nothing is said of its age."""

    der: bytes = field(repr=False)
    digest: bytes
    """SHA-256 of the DER: what a trust statement names."""
    number: int
    this_update_ms: int
    next_update_ms: int
    revoked: Mapping[int, Revocation] = field(repr=False)

    def verdict(self, serial: int, at_ms: int) -> None:
        """Return if what the certificate of this serial did at this time stands; else raise VerificationError("revoked")."""
        found = self.revoked.get(serial)
        if found is None or (found.reason is Reason.ROTATED and at_ms < found.date_ms):
            return
        raise VerificationError("revoked", detail=f"its certificate was revoked: {found.reason.value}")


def read(der: bytes, *, root: Root) -> RevocationList:
    """Raises VerificationError("untrusted")."""
    return _read(der, root)


def builder(
    *, root: Root, number: int, this_update_ms: int, next_update_ms: int, revoked: Mapping[int, Revocation]
) -> x509.CertificateRevocationListBuilder:
    """What the root is to sign."""
    entries = [_entry(serial, revocation) for serial, revocation in sorted(revoked.items())]
    return (
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)  # one by one they would be copied each time
        .issuer_name(root.certificate.subject)
        .last_update(x509_form.date_of(this_update_ms))
        .next_update(x509_form.date_of(next_update_ms))
        .add_extension(root.authority_key, critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )


def _entry(serial: int, revocation: Revocation) -> x509.RevokedCertificate:
    entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(x509_form.date_of(revocation.date_ms))
    if revocation.reason in _FLAGS:
        entry = entry.add_extension(x509.CRLReason(_FLAGS[revocation.reason]), critical=False)
    return entry.build()


@strictly("no revocation list")
def _read(der: bytes, root: Root) -> RevocationList:
    if len(der) > MAX_BYTES:
        raise ValueError(f"{len(der)} bytes, where {MAX_BYTES} are the most")
    tbs, signature = root_signature.split(der)
    root_signature.verify(root.public_key, tbs, signature)
    fields = strict.Reader(strict.Reader(tbs).content(strict.SEQUENCE))
    if fields.element(strict.INTEGER) != _VERSION_2 or fields.element(strict.SEQUENCE) != root_signature.ALGORITHM:
        raise ValueError("not of version 2, or another algorithm inside than outside")
    if fields.element(strict.SEQUENCE) != root.subject:
        raise ValueError("its issuer is not the root")
    crl = x509.load_der_x509_crl(der)
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value
    x509_form.demand(crl.extensions, {number: False, root.authority_key: False})
    if len(crl.extensions) != 2:
        raise ValueError("a list of some certificates or of changes only, or something else that ours are not")
    this_update_ms, next_update_ms = _updates(crl)
    if not 0 < number.crl_number <= MAX_NUMBER:
        raise ValueError("a number that no list has")
    digest = hashlib.sha256(der).digest()
    return RevocationList(der, digest, number.crl_number, this_update_ms, next_update_ms, MappingProxyType(_revoked(crl)))


def _updates(crl: x509.CertificateRevocationList) -> tuple[int, int]:
    if crl.next_update_utc is None:
        raise ValueError("good for ever")
    this_update_ms, next_update_ms = x509_form.ms_of(crl.last_update_utc), x509_form.ms_of(crl.next_update_utc)
    if not 0 < next_update_ms - this_update_ms <= LIFETIME_MS:
        raise ValueError("good for longer than seven days, or never")
    return this_update_ms, next_update_ms


def _revoked(crl: x509.CertificateRevocationList) -> dict[int, Revocation]:
    revoked: dict[int, Revocation] = {}
    for entry in crl:
        serial = entry.serial_number
        if serial <= 0 or serial in revoked:
            raise ValueError("a serial twice, or one that no certificate has")
        revoked[serial] = Revocation(x509_form.ms_of(entry.revocation_date_utc), _reason(entry.extensions))
    return revoked


def _reason(extensions: x509.Extensions) -> Reason:
    if len(extensions) == 0:
        return Reason.UNSPECIFIED
    (extension,) = extensions
    if not isinstance(extension.value, x509.CRLReason) or extension.critical:
        raise ValueError("an entry with more than its reason")
    return _REASONS[extension.value.reason]
