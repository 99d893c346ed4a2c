"""When a record that was not acknowledged is handed out again: after a second, then two, four, up to a minute."""

from __future__ import annotations

from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
_DOUBLINGS: Final = 6
"""2^6 s is past the longest."""


def redelivery_seconds(deliveries: int) -> float:
    """How long to wait after so many deliveries that ended in a nak without a delay of its own."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * (1 << min(max(deliveries, 1) - 1, _DOUBLINGS)))
