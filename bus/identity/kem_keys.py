"""New KEM keys: for a host's sessions, kept in memory only, and for inboxes, which the TPM seals at rest."""

from __future__ import annotations

import os

from bus.protocol.kem import PRIVATE_BYTES, PrivateKey


def generate(kem: int) -> PrivateKey:
    """Any bytes of the right length are a private key: X25519 clamps its own, and ML-KEM's are a seed."""
    return PrivateKey.from_bytes(kem, os.urandom(PRIVATE_BYTES[kem]))
