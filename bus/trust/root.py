"""The root of a domain: RSA-4096, signed by itself, for certificates and revocation lists, with no other authority below it.

It is pinned when a machine is provisioned and never learned from a peer. So `Root.of` does not say whether it is the right one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import ExtensionOID

from bus.protocol.signatures import load_public
from bus.trust import root_signature, x509_form
from bus.trust.profiles import ROOT_LIFETIME_MS
from bus.trust.root_signature import strictly

KEY_BITS: Final = 4_096
_CONSTRAINTS: Final = x509.BasicConstraints(ca=True, path_length=0)
_USE: Final = x509_form.key_usage("key_cert_sign", "crl_sign")


@dataclass(frozen=True, slots=True)
class Root:
    """The pinned root of one domain."""

    der: bytes = field(repr=False)
    certificate: x509.Certificate = field(repr=False, compare=False)
    public_key: RSAPublicKey = field(repr=False, compare=False)
    digest: bytes
    """SHA-256 of the DER."""
    subject: bytes = field(repr=False, compare=False)
    """The issuer that everything it signed must name; DER."""
    ski: bytes = field(repr=False, compare=False)
    not_before_ms: int = field(compare=False)
    not_after_ms: int = field(compare=False)

    @classmethod
    def of(cls, der: bytes) -> Root:
        """Raises VerificationError("untrusted") unless it is an RSA-4096 root as `builder` makes them, signed by itself."""
        return _read(der)

    @property
    def authority_key(self) -> x509.AuthorityKeyIdentifier:
        """How everything that it signed names its key."""
        return x509.AuthorityKeyIdentifier(self.ski, None, None)


@strictly("no root")
def _read(der: bytes) -> Root:
    form = x509_form.take_apart(der)
    key = load_public(form.spki)
    if not isinstance(key, RSAPublicKey) or key.key_size != KEY_BITS or key.public_numbers().e != 65537:
        raise ValueError("not RSA-4096")
    root_signature.verify(key, form.tbs, form.signature)
    if form.issuer != form.subject:
        raise ValueError("not issued by itself")
    certificate = x509.load_der_x509_certificate(der)
    ski = x509.SubjectKeyIdentifier.from_public_key(key)
    x509_form.demand(certificate.extensions, {_CONSTRAINTS: True, _USE: True, ski: False})
    if any(extension.oid == ExtensionOID.EXTENDED_KEY_USAGE for extension in certificate.extensions):
        raise ValueError("a root for some uses only")
    begins, ends = x509_form.lifetime(certificate, most_ms=ROOT_LIFETIME_MS)
    return Root(der, certificate, key, hashlib.sha256(der).digest(), form.subject, ski.digest, begins, ends)


def builder(*, domain: str, spki: bytes, serial: int, not_before_ms: int, not_after_ms: int) -> x509.CertificateBuilder:
    """The root's certificate. Its name holds a part of its key's digest, so that two roots never look like one."""
    name = x509_form.common_name(f"tpmbus authority {hashlib.sha256(spki).hexdigest()[:16]}")
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{domain}")])
    return (
        x509_form.start(name, spki, serial=serial, not_before_ms=not_before_ms, not_after_ms=not_after_ms)
        .issuer_name(name)
        .add_extension(_CONSTRAINTS, critical=True)
        .add_extension(_USE, critical=True)
        .add_extension(names, critical=False)
    )
