"""How late it is, as far as an authority believes its machine's clock.

    the root has not begun    root made only after this software was released; later such a clock is one that is behind
    behind                    what must not go back (statements, ends of sessions) is dated as the last that was done; the rest
                              by the clock: a certificate that begins early ends early, and that is all
    up to 90 days ahead       believed
    further ahead             refused, until somebody says that the clock is right
    the root has ended        refused

A clock that is years ahead for a moment would do harm that stays: a statement that was dated then is never undercut, agents keep
its date, and whatever ends by date is forgotten. What was done last is evidence of how late it is: the journal has its date.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bus.clock import Clock
from bus.errors import VaultError
from bus.identity.authority.records import LAST, Records
from bus.trust.profiles import DAY_MS
from bus.trust.root import Root

RELEASED_MS: Final = 1_767_225_600_000
"""2026-01-01: no clock that is before it is right."""
MOST_AHEAD_MS: Final = 90 * DAY_MS
"""An authority that rested for a season goes on by itself; a statement that is as much ahead is outlived by every certificate."""


class Dates:
    """Of one authority, whose journal says when it did something last."""

    def __init__(self, clock: Clock, records: Records, root: Root, folder: Path) -> None:
        self._clock, self._records, self._root, self._folder = clock, records, root, folder
        self._known_ms = root.not_before_ms

    def learn(self, *instants_ms: int) -> None:
        """These have passed, whatever the journal says."""
        self._known_ms = max(self._known_ms, *instants_ms)

    def confirm(self) -> None:
        """Somebody says that the clock is right. It counts for now: if it jumps again, that is another matter."""
        self.learn(self._clock.now_ms())

    @property
    def _last_ms(self) -> int:
        return max(self._known_ms, self._records.index.numbers.get(LAST, 0))

    def now_ms(self) -> int:
        """The clock's time. Raises VaultError: "clock" where it cannot be believed, "root_ended"."""
        now, last = self._clock.now_ms(), self._last_ms
        if now >= self._root.not_after_ms:
            raise VaultError(
                "root_ended",
                f"the root ended on {_date(self._root.not_after_ms)}, and this machine's clock says {_date(now)}: set the clock "
                f"if it is wrong; else move {self._folder} away, provision again, and pin the new root on every machine",
                path=str(self._folder),
            )
        if now > last + MOST_AHEAD_MS:
            raise VaultError(
                "clock",
                f"this machine's clock says {_date(now)}, and the authority did something last on {_date(last)}: set the clock "
                "if it is wrong; if it is right, and it rested for so long, say so once: `tpmbus provision --clock-is-right`",
                path=str(self._folder),
            )
        return now

    def reached_ms(self) -> int:
        """An instant that never goes back: now, or when something was done last. Raises as `now_ms` does."""
        return max(self.now_ms(), self._last_ms)


def check_first(now_ms: int, folder: Path) -> None:
    """Before a root is made: it would end ten years after that date. Raises VaultError("clock")."""
    if now_ms < RELEASED_MS:
        text = f"this machine's clock says {_date(now_ms)}, and this software is of {_date(RELEASED_MS)} or later: set the clock"
        raise VaultError("clock", text, path=str(folder))


def _date(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"
