"""No live envelope is taken twice: a window of 65,536 numbers for each epoch, and a table that bounds how many there are.

    number > top                  new: top is the highest number that was committed
    top - 65,536 < number <= top  new, unless its bit is set
    number <= top - 65,536        too old to tell, so refused

`check` moves nothing and comes before the seal is opened; `commit` comes after proof, papers and policy. Every reader of an epoch
holds its key, so a window that moved earlier would let any of them shut the sender out with one forged high number. `commit`
looks again: between the two the same envelope may have come a second time.

Bits lie in a ring of 16 pages of 512 bytes; a page is there only when a bit of it is set, so an epoch of a few envelopes costs a
page. Numbers that fall out of the window and those that come in share their place: what a jump passes over is wiped, at most the
ring once, page by page, however far the jump.

The table never evicts an epoch of which something could still be accepted: whoever may open epochs could then push out what
stops a replay. It refuses new ones instead.
"""

from __future__ import annotations

from typing import Final

from bus.errors import VerificationError
from bus.protocol.expiry import Expiry
from bus.protocol.skew import SKEW_MS

WINDOW: Final = 65_536
MAX_EPOCHS_A_SENDER: Final = 64
MAX_DURABLE_EPOCHS_A_SENDER: Final = 1_024
"""Counted apart: they are kept as long as messages are, and each restart of a sender makes others."""
MIN_EPOCHS: Final = 4_096
EPOCHS_AN_AGENT: Final = 16
"""At most MIN_EPOCHS in all, or this many for each agent that may be heard, if that is more; of durable ones four times as many."""
DURABLE_FACTOR: Final = 4

_PAGE_BITS: Final = 12
_PAGES: Final = WINDOW >> _PAGE_BITS
_PAGE_BYTES: Final = 1 << _PAGE_BITS >> 3
_LAST: Final = (1 << _PAGE_BITS) - 1


class Window:
    """Which numbers of one epoch were taken."""

    __slots__ = ("_pages", "_top")

    def __init__(self) -> None:
        self._top = -1
        self._pages: list[bytearray | None] = [None] * _PAGES

    @property
    def top(self) -> int:
        """The highest number that was committed; -1 before the first."""
        return self._top

    @property
    def allocated_bytes(self) -> int:
        return sum(len(page) for page in self._pages if page is not None)

    def check(self, seq: int) -> None:
        """Return if this number is new. Raises VerificationError("replayed" or "too_old"); moves nothing."""
        top = self._top
        if seq > top:
            return
        if seq <= top - WINDOW:
            raise VerificationError("too_old", detail=f"number {seq} is {top - seq} behind the newest, and {WINDOW} is the window")
        page = self._pages[seq >> _PAGE_BITS & _PAGES - 1]
        if page is not None and page[seq >> 3 & _PAGE_BYTES - 1] >> (seq & 7) & 1:
            raise VerificationError("replayed", detail=f"number {seq} was taken before")

    def commit(self, seq: int) -> None:
        """Take this number. Raises as `check` does, and then has moved nothing."""
        self.check(seq)
        top = self._top
        if seq > top:
            if seq != top + 1:
                self._pass_over(top + 1, seq - 1)
            self._top = seq
        place = seq >> _PAGE_BITS & _PAGES - 1
        page = self._pages[place]
        if page is None:
            page = self._pages[place] = bytearray(_PAGE_BYTES)
        page[seq >> 3 & _PAGE_BYTES - 1] |= 1 << (seq & 7)

    def _pass_over(self, first: int, last: int) -> None:
        """The numbers from first to last come into the window unseen."""
        if last - first >= WINDOW:
            self._pages = [None] * _PAGES
            return
        while first <= last:
            end = min(last, first | _LAST)
            place = first >> _PAGE_BITS & _PAGES - 1
            page = self._pages[place]
            if end - first == _LAST:
                self._pages[place] = None
            elif page is not None:
                _wipe(page, first & _LAST, end & _LAST)
            first = end + 1


def _wipe(page: bytearray, first: int, last: int) -> None:
    """Clear the bits from first to last."""
    part = slice(first >> 3, (last >> 3) + 1)
    bits = ((1 << last - first + 1) - 1) << (first & 7)
    page[part] = (int.from_bytes(page[part], "little") & ~bits).to_bytes(part.stop - part.start, "little")


class Room:
    """How many epochs there may be, of one sender and of all; live and durable ones apart.

    `audible`: how many agents may be heard. A place is never taken from one epoch for another.
    """

    __slots__ = ("_in_all", "_of_sender", "audible")

    def __init__(self, *, audible: int = 0) -> None:
        self.audible = audible
        self._of_sender: dict[tuple[str, bool], int] = {}
        self._in_all = {False: 0, True: 0}

    def limit(self, *, durable: bool = False) -> int:
        return max(MIN_EPOCHS, EPOCHS_AN_AGENT * self.audible) * (DURABLE_FACTOR if durable else 1)

    def check(self, sender: str, *, durable: bool) -> None:
        """Return if there is room for one more. Raises VerificationError("too_many_epochs")."""
        of_sender, most = self._of_sender.get((sender, durable), 0), MAX_DURABLE_EPOCHS_A_SENDER if durable else MAX_EPOCHS_A_SENDER
        if of_sender >= most or self._in_all[durable] >= self.limit(durable=durable):
            detail = f"{of_sender} of this sender are held, and {self._in_all[durable]} in all"
            raise VerificationError("too_many_epochs", agent=sender, detail=detail)

    def take(self, sender: str, *, durable: bool) -> None:
        """There is one more. Raises as `check` does."""
        self.check(sender, durable=durable)
        self._of_sender[sender, durable] = self._of_sender.get((sender, durable), 0) + 1
        self._in_all[durable] += 1

    def give_back(self, sender: str, *, durable: bool) -> None:
        self._in_all[durable] -= 1
        self._of_sender[sender, durable] -= 1
        if not self._of_sender[sender, durable]:
            del self._of_sender[sender, durable]


class Windows:
    """The windows of all live epochs that a host hears. `audible`: how many agents its own agents may hear."""

    __slots__ = ("_expiry", "_held", "room")

    def __init__(self, *, audible: int = 0) -> None:
        self.room = Room(audible=audible)
        self._held: dict[bytes, tuple[Window, str, bool]] = {}
        self._expiry = Expiry()

    def __len__(self) -> int:
        return len(self._held)

    def check(self, epoch: bytes, seq: int, *, sender: str, durable: bool = False) -> None:
        """Return if this envelope is new, and there is room for its epoch. Changes nothing.

        Raises VerificationError("replayed", "too_old" or "too_many_epochs").
        """
        held = self._held.get(epoch)
        if held is None:
            self.room.check(sender, durable=durable)
        else:
            held[0].check(seq)

    def commit(self, epoch: bytes, seq: int, *, sender: str, ends_ms: int, ttl_ms: int, durable: bool = False) -> None:
        """Take it. Its window is kept until nothing of the epoch, which ends then and has that TTL, can be accepted any more.

        Raises as `check` does, and then has changed nothing.
        """
        held = self._held.get(epoch)
        if held is None:
            self.room.take(sender, durable=durable)
            held = self._held[epoch] = Window(), sender, durable
        held[0].commit(seq)
        self._expiry.keep(epoch, until_ms=ends_ms + ttl_ms + SKEW_MS)

    def forget(self, passed_ms: int) -> int:
        """Let go of what can be accepted no more; how many epochs that were. It costs by these, not by those that stay.

        `passed_ms`: nothing is judged by an earlier instant from now on. A clock's time is not enough: if it is ahead, and then
        right again, what was forgotten meanwhile could be taken a second time.
        """
        expired = self._expiry.take_expired(passed_ms)
        for epoch in expired:
            _, sender, durable = self._held.pop(epoch)
            self.room.give_back(sender, durable=durable)
        return len(expired)
