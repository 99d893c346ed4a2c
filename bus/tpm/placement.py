"""In which of several TPMs a new key is made: rendezvous hashing, over the primary keys of those that are there.

Each TPM scores each name by a hash of both, and the highest score has the key. So names spread evenly without anybody counting,
one answer needs no memory, and a TPM more takes only its share of what is new. It says nothing of a key that exists: that one
lives where it was made, and its vault entry says where.

A TPM is known by its primary key's Name, not by what it is called: a device may have another number after the next start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def ranked(name: str, primaries: Mapping[str, bytes]) -> list[str]:
    """The TPMs, by what they are called, the one that a new key of this name is made in first. `primaries`: the Name of each."""
    return sorted(primaries, key=lambda tpm: (_score(name, primaries[tpm]), tpm), reverse=True)


def _score(name: str, primary_name: bytes) -> bytes:
    return hashlib.sha256(len(primary_name).to_bytes(2) + primary_name + name.encode()).digest()
