"""An authority in memory, for the domain `testing.invalid`: it certifies, revokes and signs what a test wants, at the test's time.

Nothing is enrolled and nothing attested. What it issues is read back as every host reads it, so a test fails here if it asks for
what no reader would take. Dates begin at the day before, so that what was issued twice on one day is the same, and its signature
is often there already (see `ready_made`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA3_384

from bus.testing import ready_made
from bus.trust import bundle as bundles
from bus.trust import certificates, revocations
from bus.trust import root as roots
from bus.trust import statement as statements
from bus.trust.bundle import Bundle
from bus.trust.certificates import Certificate, Pinned, Profile, Root
from bus.trust.profiles import DAY_MS
from bus.trust.revocations import Revocation, RevocationList
from bus.trust.statement import SUITE, Standing, Statement
from bus.trust.testing_domain import DOMAIN

TRUST_NAME: Final = "TRUST"
ROOT_SERIAL, TRUST_SERIAL = 1, 2
_ROOT_DAYS: Final = 3_600
_DAYS: Final = 300
"""Of every other certificate."""


@dataclass(slots=True, eq=False)
class MadeUpAuthority:
    """Of one test, beginning at this time."""

    now_ms: int
    root: Root = field(init=False)
    _signer: Certificate = field(init=False, repr=False)
    _trust_key: ec.EllipticCurvePrivateKey = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.root = _root(_day(self.now_ms))
        key = ready_made.identity_key(TRUST_NAME, SUITE.kind)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the trust signer's suite is elliptic")
        self._trust_key = key
        pinned = Pinned(SUITE, "software", 0)
        self._signer = self.certificate(
            Profile.TRUST, TRUST_NAME, ready_made.spki(key), pinned, serial=TRUST_SERIAL, now_ms=self.now_ms
        )

    def certificate(self, profile: Profile, name: str, spki: bytes, pinned: Pinned, *, serial: int, now_ms: int) -> Certificate:
        """Good for the next months. Raises VerificationError("untrusted") for what its profile does not allow."""
        return _certificate(self.root, profile, name, spki, pinned, serial=serial, begins_ms=_day(now_ms))

    def revocations(self, number: int, revoked: Mapping[int, Revocation], *, now_ms: int) -> RevocationList:
        begins = _day(now_ms)
        draft = revocations.builder(
            root=self.root, number=number, this_update_ms=begins, next_update_ms=begins + revocations.LIFETIME_MS, revoked=revoked
        )
        return revocations.read(ready_made.root_issues(draft), root=self.root)

    def bundle(self, version: int, files: Mapping[str, bytes], *, now_ms: int) -> Bundle:
        """Raises ValueError for files that no bundle holds."""
        body = bundles.body_bytes(domain=DOMAIN, version=version, made_ms=_day(now_ms), files=files)
        signed = bundles.encode(body, signature=ready_made.root_signs(bundles.tbs(body)))
        return bundles.read(signed, root=self.root, domain=DOMAIN)

    def statement(
        self,
        number: int,
        *,
        issued_ms: int,
        lasts_ms: int,
        bundle: Bundle,
        crl: RevocationList,
        agents: Mapping[str, Standing],
        ml_dsa: Mapping[str, bytes],
    ) -> Statement:
        body = statements.body_bytes(
            domain=DOMAIN,
            number=number,
            issued_ms=issued_ms,
            next_update_ms=issued_ms + lasts_ms,
            policy=(bundle.version, bundle.digest),
            crl=(crl.number, crl.digest),
            agents=agents,
            ml_dsa=ml_dsa,
        )
        half = SUITE.signature_bytes // 2
        r, s = decode_dss_signature(self._trust_key.sign(SUITE.digest(statements.tbs(body)), ec.ECDSA(Prehashed(SHA3_384()))))
        signature = r.to_bytes(half, "big") + s.to_bytes(half, "big")
        raw = statements.encode(body, signer=self._signer.der, signature=signature)
        return statements.read(raw, root=self.root, domain=DOMAIN)


def serial_of(name: str, generation: int) -> int:
    """Of an identity certificate: the same each time, and another one after a revocation."""
    return int.from_bytes(hashlib.sha256(f"{name} {generation}".encode()).digest()[:8]) | 1 << 63


def _day(now_ms: int) -> int:
    """The beginning of the day before."""
    return (now_ms // DAY_MS - 1) * DAY_MS


@lru_cache(maxsize=16)
def _root(begins_ms: int) -> Root:
    draft = roots.builder(
        domain=DOMAIN,
        spki=ready_made.root_spki(),
        serial=ROOT_SERIAL,
        not_before_ms=begins_ms,
        not_after_ms=begins_ms + _ROOT_DAYS * DAY_MS,
    )
    return Root.of(ready_made.root_issues(draft))


@lru_cache(maxsize=1_024)
def _certificate(
    root: Root, profile: Profile, name: str, spki: bytes, pinned: Pinned, *, serial: int, begins_ms: int
) -> Certificate:
    draft = certificates.builder(
        profile,
        root=root,
        domain=DOMAIN,
        name=name,
        spki=spki,
        pinned=pinned,
        serial=serial,
        not_before_ms=begins_ms,
        not_after_ms=begins_ms + _DAYS * DAY_MS,
    )
    return certificates.read(ready_made.root_issues(draft), root=root, domain=DOMAIN, profile=profile)
