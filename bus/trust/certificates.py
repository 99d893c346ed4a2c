"""Certificates of the four profiles, read strictly (skeleton)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from bus.protocol.suites import Suite

ARC: Final = "2.25.16993102144338698348540404301649632246"


class Profile(Enum):
    """What a certificate is for; `path` stands in its SPIFFE URI."""

    AGENT = 1
    TLS = 2
    BROKER = 3
    TRUST = 4

    @property
    def path(self) -> str:
        return self.name.lower()

    @property
    def eku(self) -> x509.ObjectIdentifier:
        return x509.ObjectIdentifier(f"{ARC}.{self.value}")


@dataclass(frozen=True, slots=True)
class Root:
    der: bytes
    certificate: x509.Certificate
    public_key: RSAPublicKey
    digest: bytes

    @classmethod
    def of(cls, der: bytes) -> Root:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Certificate:
    der: bytes
    signer: bytes
    """SHA-256 of the DER."""
    profile: Profile
    domain: str
    name: str
    spki: bytes
    public_key: PublicKeyTypes
    suite: Suite
    origin: str
    level: int
    serial: int
    not_before_ms: int
    not_after_ms: int


def read(der: bytes, *, root: Root, domain: str, profile: Profile | None = None) -> Certificate:
    """The certificate, if the root signed it and it keeps every rule of its profile, which must be this one if one is given.

    Raises VerificationError("untrusted"). Says nothing about time or revocation.
    """
    raise NotImplementedError
