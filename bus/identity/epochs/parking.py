"""Envelopes that wait for a key or for papers, in their order, for a while, and never without end.

    lane       what one sender says at one priority; while its first envelope waits, all later ones queue behind it
    room       256 envelopes and 1 MiB a lane; 8,192 envelopes and 8 MiB a sender, whatever lanes it makes up; 65,536 envelopes
               and 64 MiB in all
    time       2 s for each envelope, from its own arrival; then it is let go, and the next one is judged. None at all for what
               was asked for in vain and is not asked for now: it would only keep back what is behind it
    released   when what the first one misses is there: one after the other is judged anew, until one misses something again

Nothing overtakes, and nothing is silent: whatever came in here goes on, is let go, or is still here. What an arriving key costs
depends on the lanes whose first envelope waits for it, and not on what else is parked.

Pure: times are of a clock that never runs backwards, and who judges is given. A judge may not park anything.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from bus.identity.epochs.asking import Asks, Missing
from bus.protocol.header import GRANT, Header

MAX_ENVELOPES: Final = 256
MAX_BYTES: Final = 1 << 20
MAX_WAIT_MS: Final = 2_000
MAX_SENDER_ENVELOPES: Final = 8_192
MAX_SENDER_BYTES: Final = 8 << 20
"""Grants of a sender wait by session, and it may name as many of these as it likes."""
MAX_ALL_ENVELOPES: Final = 65_536
MAX_ALL_BYTES: Final = 64 << 20
"""A broker may name as many lanes as it likes."""

T = TypeVar("T")
Lane = tuple[str, int | bytes]
Judge = Callable[[T], Missing | None]
"""What an envelope misses; None if it is done with."""


class LetGo(NamedTuple, Generic[T]):
    """One that is not waited for any more."""

    item: T
    reason: str
    """missing_key, missing_papers: it waited too long, or others did in vain. busy: there was no room for it."""
    again_in_ms: int
    """When a durable one should be delivered again."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T]):
    number: int
    item: T
    header: Header
    size: int
    missing: Missing | None
    """Of the first in a lane: what it waits for. Of the others: what they will probably miss, so that it is asked for early."""


@dataclass(slots=True, eq=False)
class _Queue(Generic[T]):
    waiting: deque[_Waiting[T]] = field(default_factory=deque)
    bytes: int = 0


@dataclass(slots=True, eq=False)
class _Share:
    """What one sender has here."""

    envelopes: int = 0
    bytes: int = 0


def lane_of(header: Header) -> Lane:
    """Grants have no order among each other: those that wait for the same papers wait together."""
    return header.sender, header.session if header.kind == GRANT else header.priority


class Parking(Generic[T]):
    def __init__(self, asks: Asks) -> None:
        self._asks = asks
        self._lanes: dict[Lane, _Queue[T]] = {}
        self._first: dict[Missing, dict[Lane, None]] = {}
        """The lanes whose first envelope waits for this."""
        self._by_age: deque[tuple[int, int, Lane]] = deque()
        """When each came, its number, and its lane; also of those that have left."""
        self._shares: dict[str, _Share] = {}
        self._bytes = 0
        self.parked = 0
        """Envelopes that wait now."""
        self.came = self.went_on = 0
        self.let_go: Counter[str] = Counter()
        """By reason."""

    def blocks(self, header: Header) -> bool:
        """Whether something of this lane waits, so that this one has to queue behind."""
        return lane_of(header) in self._lanes

    def park(self, item: T, header: Header, size: int, missing: Missing | None, *, now_ms: int) -> LetGo[T] | None:
        """Let it wait; gives it back if there is no room. Only where the lane `blocks`, `missing` may be None."""
        lane = lane_of(header)
        queue = self._lanes.get(lane)
        self.came += 1
        if missing is not None and self._asks.is_in_vain(missing, now_ms=now_ms):
            return self._let_go(item, missing, missing.what, now_ms=now_ms)
        if not self._has_room(header.sender, queue, size):
            return self._let_go(item, missing, "busy", now_ms=now_ms)
        if queue is None:
            if missing is None:
                raise ValueError("what is first in its lane waits for something")
            queue = self._lanes[lane] = _Queue()
            self._first.setdefault(missing, {})[lane] = None
        queue.waiting.append(_Waiting(self.came, item, header, size, missing))
        self._by_age.append((now_ms, self.came, lane))
        queue.bytes += size
        share = self._shares.setdefault(header.sender, _Share())
        share.envelopes, share.bytes = share.envelopes + 1, share.bytes + size
        self._bytes += size
        self.parked += 1
        if missing is not None:
            self._asks.need(missing, header, now_ms=now_ms)
        return None

    def found(self, missing: Missing, judge: Judge[T], *, now_ms: int) -> None:
        """It is there now: the lanes that wait for it go on."""
        self._asks.answered(missing)
        for lane in self._first.pop(missing, ()):
            self._go_on(lane, judge, now_ms=now_ms)

    def expire(self, judge: Judge[T], *, now_ms: int) -> list[LetGo[T]]:
        """Let go of what waited too long, and of nothing else: what is behind it may be whole."""
        gone: list[LetGo[T]] = []
        while self._by_age and now_ms - self._by_age[0][0] >= MAX_WAIT_MS:
            _, number, lane = self._by_age.popleft()
            queue = self._lanes.get(lane)
            if queue is not None and queue.waiting[0].number == number:  # what came before it has left already
                gone.append(self._drop_first(lane, queue, now_ms=now_ms))
                self._go_on(lane, judge, now_ms=now_ms)
        return gone

    def items(self) -> list[T]:
        """All that wait."""
        return [one.item for queue in self._lanes.values() for one in queue.waiting]

    def empty(self, *, now_ms: int) -> list[LetGo[T]]:
        """Let go of everything: whoever delivered it is gone, or we are."""
        gone = [
            self._drop_first(lane, queue, now_ms=now_ms) for lane, queue in self._lanes.items() for _ in range(len(queue.waiting))
        ]
        self._by_age.clear()
        self._lanes.clear()
        return gone

    # ---- one lane ------------------------------------------------------------------------------------------------------------

    def _has_room(self, sender: str, queue: _Queue[T] | None, size: int) -> bool:
        if self.parked >= MAX_ALL_ENVELOPES or self._bytes + size > MAX_ALL_BYTES:
            return False
        share = self._shares.get(sender)
        if share is not None and (share.envelopes >= MAX_SENDER_ENVELOPES or share.bytes + size > MAX_SENDER_BYTES):
            return False
        return queue is None or (len(queue.waiting) < MAX_ENVELOPES and queue.bytes + size <= MAX_BYTES)

    def _go_on(self, lane: Lane, judge: Judge[T], *, now_ms: int) -> None:
        queue = self._lanes[lane]
        while queue.waiting:
            first = queue.waiting[0]
            missing = judge(first.item)
            if missing is not None:
                self._misses(first, missing, now_ms=now_ms)
                self._first.setdefault(missing, {})[lane] = None
                return
            self._leave(queue)
            self.went_on += 1
        del self._lanes[lane]

    def _misses(self, one: _Waiting[T], missing: Missing, *, now_ms: int) -> None:
        if one.missing is not None:
            self._asks.release(one.missing)
        self._asks.need(missing, one.header, now_ms=now_ms)
        one.missing = missing

    def _drop_first(self, lane: Lane, queue: _Queue[T], *, now_ms: int) -> LetGo[T]:
        one = queue.waiting[0]
        gone = self._let_go(one.item, one.missing, "busy" if one.missing is None else one.missing.what, now_ms=now_ms)
        if one.missing is not None:
            lanes = self._first.get(one.missing, {})
            lanes.pop(lane, None)
            if not lanes:
                self._first.pop(one.missing, None)
        self._leave(queue)
        return gone

    def _let_go(self, item: T, missing: Missing | None, reason: str, *, now_ms: int) -> LetGo[T]:
        self.let_go[reason] += 1
        return LetGo(item, reason, MAX_WAIT_MS if missing is None else self._asks.again_in_ms(missing, now_ms=now_ms))

    def _leave(self, queue: _Queue[T]) -> None:
        one = queue.waiting.popleft()
        queue.bytes -= one.size
        share = self._shares[one.header.sender]
        share.envelopes, share.bytes = share.envelopes - 1, share.bytes - one.size
        if not share.envelopes:
            del self._shares[one.header.sender]
        self._bytes -= one.size
        self.parked -= 1
        if one.missing is not None:
            self._asks.release(one.missing)

    def statistics(self) -> dict[str, int]:
        gone = {f"let_go_{reason}": count for reason, count in sorted(self.let_go.items())}
        return {"parked": self.parked, "parked_ever": self.came, "went_on": self.went_on, **gone}
