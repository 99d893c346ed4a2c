"""Suites: which key signs, over which hash. `rsa3072/sha3-384` in policy, one number on the wire.

The numbers are the protocol's: an RSA suite is 16 + hash, P-256 is 32 + hash, P-384 is 48 + hash, in the order of `HASHES`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

HASHES: Final[Mapping[str, Callable[..., Any]]] = {
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha3-256": hashlib.sha3_256,
    "sha3-384": hashlib.sha3_384,
}
KINDS: Final[Mapping[str, int]] = {"rsa3072": 16, "ecc256": 32, "ecc384": 48}
"""Kinds of identity key, each with its first suite number."""

_DIGEST_BYTES: Final[Mapping[str, int]] = {name: new().digest_size for name, new in HASHES.items()}
_SIGNATURE_BYTES: Final[Mapping[str, int]] = {"rsa3072": 384, "ecc256": 64, "ecc384": 96, "ed25519": 64}


@dataclass(frozen=True, slots=True)
class Suite:
    number: int
    kind: str
    hash: str

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.hash}"

    @property
    def digest_bytes(self) -> int:
        return _DIGEST_BYTES[self.hash]

    @property
    def signature_bytes(self) -> int:
        return _SIGNATURE_BYTES[self.kind]

    @property
    def is_sha3(self) -> bool:
        return self.hash.startswith("sha3-")

    def digest(self, data: bytes) -> bytes:
        return bytes(HASHES[self.hash](data).digest())

    def __str__(self) -> str:
        return self.name


HOST_SUITE: Final = Suite(1, "ed25519", "sha256")
"""The software keys that sign ordinary traffic; never an identity."""

IDENTITY_SUITES: Final[Mapping[str, Suite]] = {
    suite.name: suite
    for kind, first in KINDS.items()
    for suite in (Suite(first + offset, kind, hash_name) for offset, hash_name in enumerate(HASHES))
}
BY_NUMBER: Final[Mapping[int, Suite]] = {suite.number: suite for suite in (HOST_SUITE, *IDENTITY_SUITES.values())}
