"""The time of one callback: read once, however many frames it brings."""

from __future__ import annotations

from collections.abc import Callable


class Moment:
    """`now` is of the clock that never runs backwards. The date is looked up when it is first asked for: credit needs none."""

    __slots__ = ("_date", "_now_ms", "now")

    def __init__(self, now: float, date: Callable[[], int]) -> None:
        self.now, self._date = now, date
        self._now_ms: int | None = None

    @property
    def now_ms(self) -> int:
        """The date to judge by."""
        if self._now_ms is None:
            self._now_ms = self._date()
        return self._now_ms
