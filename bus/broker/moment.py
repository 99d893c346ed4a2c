"""The time of one callback: read once, however many frames it brings."""

from __future__ import annotations

from typing import NamedTuple


class Moment(NamedTuple):
    now: float
    """Of the clock that never runs backwards."""
    now_ms: int
    """The date to judge by."""
