"""The signing side of the second signature: an ML-DSA-65 key, in software, because no TPM has one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

SEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class CosigningKey:
    """It shows nothing of itself, and is neither copied nor pickled."""

    public: bytes
    _key: MLDSA65PrivateKey

    @classmethod
    def from_seed(cls, seed: bytes) -> CosigningKey:
        """The key that FIPS 204 makes of this seed. Raises ValueError unless it has 32 bytes."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"the seed of an ML-DSA-65 key has {SEED_BYTES} bytes, not {len(seed)}")
        key = MLDSA65PrivateKey.from_seed_bytes(seed)
        return cls(key.public_key().public_bytes_raw(), key)

    @property
    def seed(self) -> bytes:
        """The secret itself: short enough for a TPM to seal, and to be sealed before it goes anywhere."""
        return self._key.private_bytes_raw()

    def sign(self, tbs: bytes) -> bytes:
        return self._key.sign(tbs)

    def __repr__(self) -> str:
        return "CosigningKey()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not copied or pickled; seal its seed")


def generate() -> CosigningKey:
    return CosigningKey.from_seed(os.urandom(SEED_BYTES))
