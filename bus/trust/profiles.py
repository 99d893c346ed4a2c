"""The four kinds of certificate, as a table. Each has its own extended key usage and SPIFFE path, so that none passes for another.

A TLS key lies in a file: if its certificate passed for an identity's, the file would sign what a TPM should.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.trust.extension import ORIGINS

ARC: Final = "2.25.16993102144338698348540404301649632246"
"""Private: 2.25 and a UUID, which nobody hands out twice."""
EXTENSION: Final = ObjectIdentifier(f"{ARC}.10")

DAY_MS: Final = 86_400_000
ROOT_LIFETIME_MS: Final = 3_652 * DAY_MS
"""Ten years."""


class Profile(Enum):
    """What a certificate is for."""

    AGENT = 1
    TLS = 2
    BROKER = 3
    TRUST = 4

    @property
    def path(self) -> str:
        """The first part of the path in its SPIFFE URI."""
        return self.name.lower()

    @property
    def eku(self) -> ObjectIdentifier:
        return ObjectIdentifier(f"{ARC}.{self.value}")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a profile allows. Whatever is not allowed is refused."""

    ekus: tuple[ObjectIdentifier, ...]
    lifetime_ms: int
    suites: frozenset[Suite]
    origins: frozenset[str]
    hosts: bool
    """DNS names and addresses beside the SPIFFE URI."""


def _identity(profile: Profile) -> Rules:
    return Rules((profile.eku,), 365 * DAY_MS, frozenset(IDENTITY_SUITES.values()), frozenset(ORIGINS), hosts=True)


RULES: Final[Mapping[Profile, Rules]] = {
    Profile.AGENT: _identity(Profile.AGENT),
    Profile.TLS: Rules(
        (Profile.TLS.eku, ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
        DAY_MS,
        frozenset({IDENTITY_SUITES["ecc256/sha256"]}),
        frozenset({"software"}),
        hosts=True,
    ),
    Profile.BROKER: _identity(Profile.BROKER),
    Profile.TRUST: Rules(
        (Profile.TRUST.eku,),
        365 * DAY_MS,
        frozenset({IDENTITY_SUITES["ecc384/sha3-384"]}),
        frozenset({"software"}),
        hosts=False,
    ),
}
BY_EKUS: Final[Mapping[tuple[ObjectIdentifier, ...], Profile]] = {rules.ekus: profile for profile, rules in RULES.items()}


def spiffe(domain: str, profile: Profile, name: str) -> str:
    return f"spiffe://{domain}/{profile.path}/{name}"
