"""What was said of single records of a durable envelope that brought several, until something can be said of the whole.

A broker knows envelopes, and an application speaks of records. So what is said of one waits until each of the others is settled:

    finished    the ledger knows it, and nothing is kept here
    put back    the envelope is, once nobody has anything of it in hand: sooner, and what others handle would be delivered twice
    ended       it is not handed over again with those that were put back; when it and its like are all that is left, the envelope
                is ended. Sooner, and a crash would make a dead letter of what nobody has looked at

Whoever takes too long, or forgets one, has all that is not finished again after `ack_wait`. This is known in memory alone: after a
crash, or on another link, what was ended may be handed over again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

USUAL_DELAY: Final = (1 << 64) - 1
"""The delay of a nak that leaves it to the broker."""


class Apart:
    """Of one envelope."""

    __slots__ = ("ended", "put_back")

    def __init__(self) -> None:
        self.put_back: dict[int, int] = {}
        """Index of a record, and after how many ms it is wanted again."""
        self.ended: dict[int, str] = {}
        """Index, and why."""

    def is_said(self, left: Collection[int]) -> bool:
        """Whether something was said of each record that is not finished."""
        return all(index in self.put_back or index in self.ended for index in left)

    def delay_ms(self, left: Collection[int]) -> int | None:
        """After how long the envelope is wanted again: no sooner than was asked for any record. None if nobody wants it."""
        delays = [self.put_back[index] for index in left if index in self.put_back and index not in self.ended]
        if not delays:
            return None
        return max((delay for delay in delays if delay != USUAL_DELAY), default=USUAL_DELAY)

    def reason(self, left: Collection[int]) -> str:
        """Why the envelope is ended: what was said of the first."""
        return next((reason for index, reason in sorted(self.ended.items()) if index in left), "term")
