"""What tests of inbox keys share: an identity without an authority, and engines on fakes."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from bus.identity.inbox import Signer
from bus.identity.inbox_record import Place, Wanted
from bus.protocol import kem
from bus.protocol.signatures import load_public
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.interface import SOFTWARE, SOFTWARE_TPM
from bus.trust.certificates import Certificate, Profile

NOW = 1_800_000_000_000
DAY = 86_400_000
QUICK = IDENTITY_SUITES["ecc256/sha256"]
IN_THE_FAKE = Place(SOFTWARE_TPM, b"\x00\x0b" + bytes(32))
IN_SOFTWARE = Place(SOFTWARE, b"")


async def identity(engine, name="MONITOR", *, suite=QUICK, der=b"a certificate", ends=NOW + 365 * DAY):
    """As `read` would give it; an inbox key asks nothing else of it."""
    info = await engine.create(name, suite)
    signer = hashlib.sha256(der + name.encode()).digest()
    certificate = Certificate(
        der=der,
        signer=signer,
        profile=Profile.AGENT,
        domain="tpmbus.local",
        name=name,
        spki=info.spki,
        public_key=load_public(info.spki),
        suite=suite,
        origin=info.origin,
        level=0,
        serial=1,
        not_before_ms=NOW - DAY,
        not_after_ms=ends,
    )
    return Signer(certificate, info.id)


def wanted(signer, **options):
    """An ordinary key, sealed by the fake TPM, for topics that are kept for seven days."""
    plain = Wanted(signer.certificate.signer, kem.X25519, IN_THE_FAKE, retention_ms=7 * DAY)
    return replace(plain, **options)
