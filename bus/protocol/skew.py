"""How far two clocks may be apart, everywhere: nothing is from the future, and nothing ended, by less than this."""

from __future__ import annotations

from typing import Final

SKEW_MS: Final = 60_000
