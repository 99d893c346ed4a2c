"""Where a new durable consumer begins: a word, a time or a position, as values and as the text that travels in SUBSCRIBE.

new             what is stored from now on
all             from the oldest record that is kept
last            the latest record of each topic that is not expired, then what is stored from now on
time=MS         the first record stored at that time or later (ms since 1970 UTC)
position=N      the first record at that position or later
"""

from __future__ import annotations

from typing import Final, NamedTuple

WORDS: Final = ("new", "all", "last")
NUMBERED: Final = ("time", "position")
_LARGEST: Final = (1 << 63) - 1


class Start(NamedTuple):
    kind: str
    """One of WORDS or of NUMBERED."""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind}={self.number}" if self.kind in NUMBERED else self.kind


NEW: Final = Start("new")
ALL: Final = Start("all")
LAST: Final = Start("last")


def parse_start(text: str) -> Start:
    """The start that this text names; every start has one text. Raises ValueError."""
    if text in WORDS:
        return Start(text)
    kind, _, digits = text.partition("=")
    if kind in NUMBERED and digits.isascii() and digits.isdecimal() and len(digits) < 20 and str(int(digits)) == digits:
        number = int(digits)
        if number <= _LARGEST:
            return Start(kind, number)
    raise ValueError(f"{text[:64]!r} is no start: new, all, last, time=MS or position=N")
