"""When a record that was not acknowledged is handed out again: after a second, then two, four, up to a minute.

What its reader could not open, because the key had not come, is put off. That counts as no delivery, so another bound holds.
"""

from __future__ import annotations

from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
LONGEST_PUT_OFF_SECONDS: Final = 86_400.0
"""A sender that is away over night is waited for; who looks after the bus hears the day after."""
_DOUBLINGS: Final = 6
"""2^6 s is past the longest."""


def redelivery_seconds(deliveries: int) -> float:
    """How long to wait after so many deliveries that ended in a nak without a delay of its own."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * (1 << min(max(deliveries, 1) - 1, _DOUBLINGS)))


def put_off_seconds(retention_ms: int) -> float:
    """How long a record may be put off: a day, or half of its retention, so that it is a dead letter before its time is over."""
    return min(LONGEST_PUT_OFF_SECONDS, retention_ms / 2_000)
