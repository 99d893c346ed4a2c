"""Certificate revocation lists, read strictly (skeleton)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bus.trust.certificates import Root


class Reason(Enum):
    """Why; the words of commands and audits. `rotated` is X.509's superseded."""

    UNSPECIFIED = "unspecified"
    COMPROMISED = "compromised"
    ROTATED = "rotated"
    RETIRED = "retired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Revocation:
    date_ms: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class RevocationList:
    der: bytes
    digest: bytes
    number: int
    this_update_ms: int
    next_update_ms: int
    revoked: Mapping[int, Revocation]

    def verdict(self, serial: int, at_ms: int) -> None:
        """Raise VerificationError("revoked") if this serial is; reason `rotated` counts from its date on, all others always."""
        raise NotImplementedError


def read(der: bytes, *, root: Root) -> RevocationList:
    """Raises VerificationError("untrusted")."""
    raise NotImplementedError
