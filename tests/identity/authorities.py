"""What the tests of the authority share: one that was made once, to copy, and a way to open it from a test that does not wait."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

sys.path.insert(0, str(Path(__file__).parent.parent / "trust"))

from ready_rsa import rsa_key

from bus.identity.authority import Authority, Passphrase, Protection, open_authority
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import ManualClock

DOMAIN = "tpmbus.test"
DAY = 86_400_000
PASSPHRASE = Passphrase("correct horse", log_n=10)
SUITE = IDENTITY_SUITES["ecc256/sha256"]
EK = b"e" * 32
OTHER_EK = b"o" * 32


def spki(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


KEYS = [spki(ec.generate_private_key(ec.SECP256R1())) for _ in range(3)]
P384 = spki(ec.generate_private_key(ec.SECP384R1()))
RSA3072 = spki(rsa_key(3072))


@contextmanager
def opened(
    folder: Path,
    *,
    clock: ManualClock | None = None,
    protection: Protection = PASSPHRASE,
    domain: str = DOMAIN,
    clock_is_right: bool = False,
) -> Iterator[Authority]:
    with start_blocking_portal() as portal:
        opening = open_authority(
            folder, domain=domain, protection=protection, clock=clock or ManualClock(), clock_is_right=clock_is_right
        )
        with portal.wrap_async_context_manager(opening) as authority:
            yield authority


def copied(made: Path, to: Path) -> Path:
    shutil.copytree(made, to)
    return to


def let_days_pass(authority: Authority, clock: ManualClock, days: int) -> None:
    """As they pass for an authority that runs: it does something at least every few days."""
    for _ in range(days // 50):
        clock.advance(50 * 86_400)
        authority.revocations()
    clock.advance(days % 50 * 86_400)


def enroll(authority: Authority, name: str = "ALPHA", key: bytes = KEYS[0], ek: bytes = EK, **changes: Any) -> bytes:
    return authority.issue_identity(name, key, SUITE, "software-tpm", 1, ek, **changes)
