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

WINDOW: Final = 65_536
MAX_EPOCHS_A_SENDER: Final = 64
MIN_EPOCHS: Final = 4_096
EPOCHS_AN_AGENT: Final = 16
"""At most MIN_EPOCHS in all, or this many for each agent that may be heard, if that is more."""
SKEW_MS: Final = 60_000

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


class Windows:
    """The windows of all live epochs that a host hears. `audible`: how many agents its own agents may hear."""

    __slots__ = ("_expiry", "_held", "_of_sender", "audible")

    def __init__(self, *, audible: int = 0) -> None:
        self.audible = audible
        self._held: dict[bytes, tuple[Window, str]] = {}
        self._of_sender: dict[str, int] = {}
        self._expiry = Expiry()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def limit(self) -> int:
        return max(MIN_EPOCHS, EPOCHS_AN_AGENT * self.audible)

    def check(self, epoch: bytes, seq: int, *, sender: str) -> None:
        """Return if this envelope is new, and there is room for its epoch. Changes nothing.

        Raises VerificationError("replayed", "too_old" or "too_many_epochs").
        """
        held = self._held.get(epoch)
        if held is None:
            self._check_room(sender)
        else:
            held[0].check(seq)

    def commit(self, epoch: bytes, seq: int, *, sender: str, ends_ms: int, ttl_ms: int) -> None:
        """Take it. Its window is kept until nothing of the epoch, which ends then and has that TTL, can be accepted any more.

        Raises as `check` does, and then has changed nothing.
        """
        held = self._held.get(epoch)
        if held is None:
            self._check_room(sender)
            held = Window(), sender
            self._held[epoch] = held
            self._of_sender[sender] = self._of_sender.get(sender, 0) + 1
        held[0].commit(seq)
        self._expiry.keep(epoch, until_ms=ends_ms + ttl_ms + SKEW_MS)

    def forget(self, now_ms: int) -> int:
        """Let go of what can be accepted no more; how many epochs that were. It costs by these, not by those that stay."""
        expired = self._expiry.take_expired(now_ms)
        for epoch in expired:
            _, sender = self._held.pop(epoch)
            left = self._of_sender[sender] - 1
            if left:
                self._of_sender[sender] = left
            else:
                del self._of_sender[sender]
        return len(expired)

    def _check_room(self, sender: str) -> None:
        if self._of_sender.get(sender, 0) >= MAX_EPOCHS_A_SENDER:
            raise VerificationError("too_many_epochs", agent=sender, detail=f"{MAX_EPOCHS_A_SENDER} of this sender are held")
        if len(self._held) >= self.limit:
            raise VerificationError("too_many_epochs", agent=sender, detail=f"{self.limit} of all senders are held")
