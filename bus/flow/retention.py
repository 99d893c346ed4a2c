"""When something that is kept may go, as values: what policy says, how far consumers are, and an instant that has passed.

A record goes when nobody would accept it any more, or when its class keeps nothing so old and every consumer is past it. It goes
by an instant that is known to have passed, never by a clock: what a clock that is ahead would drop cannot be had again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Limits(NamedTuple):
    """Of one class."""

    retention_ms: int
    floor: int
    """The last position that every consumer of the class has settled or passed over."""


class Retention(NamedTuple):
    passed_ms: int
    classes: Mapping[str, Limits]

    def ended(self, class_: str, *, last: int, stored_ms: int, until_ms: int) -> bool:
        """Whether records may go of which the last is at `last`, was stored at `stored_ms`, and is of use until `until_ms`."""
        if until_ms <= self.passed_ms:
            return True
        limits = self.classes.get(class_)
        return limits is not None and stored_ms + limits.retention_ms <= self.passed_ms and last <= limits.floor
