"""The private extension, which pins what a certificate's key may do and how well it is kept:

    SEQUENCE { version INTEGER 1, suite INTEGER, origin ENUMERATED { software 0, software-tpm 1, hardware 2 }, level INTEGER }

The suite comes from here and from nowhere else, so that no proof can name a weaker one. One encoding: what parses re-encodes
identically.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.trust import der

ORIGINS: Final = ("software", "software-tpm", "hardware")
"""Where a key lives; the place in this row is the number."""
MAX_LEVEL: Final = 6
VERSION: Final = 1

_SUITES: Final = {suite.number: suite for suite in IDENTITY_SUITES.values()}


@dataclass(frozen=True, slots=True)
class Pinned:
    suite: Suite
    origin: str
    level: int

    def encode(self) -> bytes:
        if self.suite.number not in _SUITES or self.origin not in ORIGINS or not 0 <= self.level <= MAX_LEVEL:
            raise ValueError(f"no certificate pins {self.suite} {self.origin} level {self.level}")
        numbers = (
            der.number(der.INTEGER, VERSION),
            der.number(der.INTEGER, self.suite.number),
            der.number(der.ENUMERATED, ORIGINS.index(self.origin)),
            der.number(der.INTEGER, self.level),
        )
        return der.element(der.SEQUENCE, b"".join(numbers))

    @classmethod
    def parse(cls, data: bytes) -> Pinned:
        """Raises ValueError."""
        outer = der.Reader(data)
        inner = der.Reader(outer.content(der.SEQUENCE))
        outer.end()
        version, suite = inner.unsigned(der.INTEGER, most_octets=1), inner.unsigned(der.INTEGER, most_octets=1)
        origin, level = inner.unsigned(der.ENUMERATED, most_octets=1), inner.unsigned(der.INTEGER, most_octets=1)
        inner.end()
        if version != VERSION:
            raise ValueError(f"an extension of version {version}")
        if suite not in _SUITES:
            raise ValueError(f"{suite} is the suite of no identity")
        if origin >= len(ORIGINS) or level > MAX_LEVEL:
            raise ValueError(f"origin {origin}, level {level}")
        return cls(_SUITES[suite], ORIGINS[origin], level)
