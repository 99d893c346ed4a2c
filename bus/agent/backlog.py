"""What came for a subscription and was not taken: how much may wait, what goes where it is too much, and what was lost so far.

Overflow: block (the publishers wait), drop_oldest, drop_newest, disconnect. The limit is of records in envelopes that were not
begun, and of 64 MiB; one that alone has more ends nobody who waits for it. Where publishers wait, a broker keeps to the limit,
but for the last envelope and for what it may give anew on another link; what it brings far beyond is not taken.

It is the part of a subscription that works by the envelope, and a class beneath it: what is taken record by record asks nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from bus.agent.message import Batch
from bus.errors import BusError, SlowReaderError
from bus.protocol.header import MAX_RECORDS
from bus.protocol.names import is_share_name
from bus.transport.bell import Bell

BLOCK: Final = "block"
DROP_OLDEST: Final = "drop_oldest"
DROP_NEWEST: Final = "drop_newest"
DISCONNECT: Final = "disconnect"
OVERFLOWS: Final = (BLOCK, DROP_OLDEST, DROP_NEWEST, DISCONNECT)
MAX_BYTES: Final = 64 << 20
"""Of records that wait where publishers do not."""
MAX_SERIES: Final = 4_096
"""Senders' epochs and topics whose gaps are looked at."""
_NOTHING: Final[deque[Batch]] = deque()
BEYOND: Final = 4
"""Times what may wait where publishers wait is more than any honest broker brings."""


class Backlog:
    """Of one subscription, which adds `pending`."""

    def __init__(self, pattern: str, *, limit: int, overflow: str) -> None:
        self.pattern, self.limit, self.overflow = pattern, limit, overflow
        self.on_end: Callable[[BusError], None] | None = None
        """Told at once of an end that whoever takes hears of later."""
        self.dropped = 0
        """Messages that came and were not wanted, as the overflow says."""
        self._batches: deque[Batch] = _NOTHING
        """Its own, once something has come: idle ones are many."""
        self._queued = self._bytes = 0
        """In batches that were not begun."""
        self.not_begun: Sequence[Batch] = ()
        """Durable ones that were here when it was closed, or came later."""
        self._wake: Bell | None = None
        """Once somebody has waited."""
        self._end: BusError | None = None
        self._ended = False
        self._lost = 0
        """Dropped, where numbers do not tell."""
        self._next_of: dict[tuple[bytes, str], int] = {}

    @property
    def pending(self) -> int:
        raise NotImplementedError

    def put(self, batch: Batch) -> bool:
        """False if it was not asked for: nobody gave credit for so much."""
        if self.overflow == BLOCK and self._queued >= BEYOND * (self.limit + MAX_RECORDS):
            return False
        if not self._ended and (self.overflow == BLOCK or self._fits(batch)):
            if self._batches is _NOTHING:
                self._batches = deque()
            self._batches.append(batch)
            self._queued += len(batch.indexes)
            if self._wake is not None:
                self._wake.ring()
        elif self._ended:
            if self.overflow == DISCONNECT:  # also what ended it, and what comes until it is closed
                self.dropped += len(batch.indexes)
            self._leave_behind((batch,))
        return True

    def _leave_behind(self, batches: Iterable[Batch]) -> None:
        self.not_begun = [*self.not_begun, *(batch for batch in batches if batch.settling is not None)]

    def _fits(self, batch: Batch) -> bool:
        """Whether any of it does; if not all, somebody has to go: the newest, the oldest, or the reader."""
        header, size = batch.header, size_of(batch)
        if len(self._next_of) >= MAX_SERIES:
            self._next_of.clear()
        self._next_of.setdefault((header.epoch, header.topic), header.before + batch.indexes[0])
        too_many = max(self._queued + len(batch.indexes) - self.limit, 0)
        if not too_many and self._bytes + size <= MAX_BYTES:
            self._bytes += size
            return True
        if self.overflow == DISCONNECT:
            if self._queued:
                self.end(SlowReaderError(self.pattern, pending=self.pending, limit=self.limit))
        elif self.overflow == DROP_NEWEST:
            has_room = not self._queued or self._bytes + size <= MAX_BYTES
            self._drop(batch, slice(max(len(batch.indexes) - too_many, 0) if has_room else 0))
        else:
            self._drop_oldest(too_many, size)
            self._drop(batch, slice(max(len(batch.indexes) - self.limit, 0), None))
        self._bytes += size_of(batch)
        return not self._ended and bool(batch.indexes)

    def _drop_oldest(self, count: int, size: int) -> None:
        """So many of those that wait in whole batches, and as many batches as it takes to have room for so many bytes."""
        while self._batches and (count > 0 or self._bytes + size > MAX_BYTES):
            oldest = self._batches[0]
            before, dropped = size_of(oldest), min(max(count, 0), len(oldest.indexes)) or len(oldest.indexes)
            count -= dropped
            self._queued -= dropped
            self._drop(oldest, slice(dropped, None))
            self._bytes -= before - size_of(oldest)
            if not oldest.indexes:
                self._batches.popleft()

    def _drop(self, batch: Batch, kept: slice) -> None:
        before = len(batch.indexes)
        batch.indexes = batch.indexes[kept]
        self.dropped += before - len(batch.indexes)
        self._lost += before - len(batch.indexes)

    def end(self, error: BusError | None = None) -> None:
        """Nothing comes any more. What is here is handed out, then this is raised, or the iteration is over."""
        if not self._ended:
            self._ended, self._end = True, error
            self._wake_up()
            if error is not None and self.on_end is not None:
                self.on_end(error)

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.ring()

    # ---- for who takes -------------------------------------------------------------------------------------------------------

    def _gap(self, batch: Batch) -> int:
        """How many of its sender's records on its topic were lost before the first of these."""
        header, indexes, next_of = batch.header, batch.indexes, self._next_of
        key = (header.epoch, header.topic)
        first = header.before + indexes[0]
        after = header.before + indexes[-1] + 1
        expected = next_of.get(key, first)
        if len(next_of) >= MAX_SERIES:
            next_of.clear()
        next_of[key] = max(after, expected)
        return first - expected if first > expected else 0


def size_of(batch: Batch) -> int:
    return sum(len(batch.payloads[index]) for index in batch.indexes)


def check_options(overflow: str, limit: int, *, group: str | None, durable: str | None) -> None:
    """Raises ValueError and TypeError for what no subscription can have: a broker that is asked for it hangs up on all agents."""
    for option, name in (("group", group), ("durable", durable)):
        if name is None:
            continue
        if not isinstance(name, str):
            raise TypeError(f"{option}={name!r}: a name, not {type(name).__name__}")
        if not is_share_name(name):
            raise ValueError(f"{option}={name!r}: 1 to 64 of a-z 0-9 _ -, and no _ or - at the start; None for none")
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow={overflow!r}: one of {', '.join(OVERFLOWS)}")
    if type(limit) is not int:
        raise TypeError(f"limit={limit!r}: a number of messages, not {type(limit).__name__}")
    if not 0 < limit <= 0xFFFFFFFF:
        raise ValueError(f"limit={limit!r}: a number of messages from 1 on")
