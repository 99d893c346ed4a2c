"""What one consumer has handed out and not seen settled: who is waited for until when, and what is handed out again.

A position is in one of five places:

    out (first)     handed out once; acknowledged in time by almost all, so it costs a dictionary entry and nothing else
    out (again)     handed out more often, or touched
    later           after a nak, or put off: to be handed out again, but not before its time
    ready           to be handed out again
    dying           given up, until its dead letter is kept (`buried`)

`first` is ordered by position and by time at once, because what is new is handed out in ascending order and waits equally long.
So its front says what is overdue, and no alarm is set for a record that is acknowledged. All others have alarms in a heap, which
are looked at when they go off, and swept when most of them are stale.

What never reached its reader is put off, and that delivery does not count: there is a longest time for it instead, and a most.

What is written down is all of it (`written`): with the place up to which a consumer has read, that is all there is to know.

Times are seconds of one clock that never runs backwards.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from bus.flow.redelivery import redelivery_seconds

Span = tuple[int, int]
"""Positions, both included."""

_SPARE_ALARMS: Final = 64
MAX_PUT_OFF: Final = 4_096
"""Records of one consumer that are put off: as many again as may be unsettled are left for what its reader can open."""

_OUT: Final = 0
_LATER: Final = 1
_READY: Final = 2
_DYING: Final = 3
_NOT_THERE: Final = (0, -1.0, _DYING)


class Kept(NamedTuple):
    """One unsettled position as it is written down. `due`: when it may be handed out again, whoever had it."""

    position: int
    deliveries: int
    due: float


class Written(NamedTuple):
    """Everything that is unsettled, as it is written down."""

    once: list[int]
    """Out for the first time; most of them, so they are written without more."""
    others: list[Kept]
    put_off: dict[int, float] = {}  # noqa: RUF012  nobody changes it
    """Since when."""


class Given(NamedTuple):
    """A record that was given up."""

    position: int
    deliveries: int


class Unsettled:
    __slots__ = ("_ack_wait", "_alarms", "_first", "_max_deliver", "_put_off", "_ready", "_rest")

    def __init__(self, *, ack_wait: float, max_deliver: int, written: Written | None = None) -> None:
        self._ack_wait, self._max_deliver = ack_wait, max_deliver
        self._first: dict[int, float] = {}
        self._rest: dict[int, tuple[int, float, int]] = {}
        """Position -> deliveries, when its place changes by itself, and its place."""
        self._alarms: list[tuple[float, int]] = []
        self._ready: list[int] = []
        """A heap: the lowest position first. May hold positions that left."""
        self._put_off: dict[int, float] = {} if written is None else {**written.put_off}
        """Since when; all of them are among the `rest`."""
        for position in written.once if written is not None else ():
            self._put(position, 1, 0.0, _LATER)
        for position, deliveries, due in written.others if written is not None else ():
            self._put(position, deliveries, due, _LATER)

    def __len__(self) -> int:
        return len(self._first) + len(self._rest)

    def __contains__(self, position: int) -> bool:
        return position in self._first or position in self._rest

    @property
    def out(self) -> int:
        """How many somebody has in hand."""
        return len(self._first) + sum(place == _OUT for _, _, place in self._rest.values())

    @property
    def has_ready(self) -> bool:
        self._drop_stale_ready()
        return bool(self._ready)

    def floor(self, cursor: int) -> int:
        """All below it, it included, is settled, where everything below `cursor` was looked at."""
        lowest = min(self._rest, default=cursor)
        return min(lowest, next(iter(self._first), cursor), cursor) - 1

    def follow(self, *, ack_wait: float, max_deliver: int) -> None:
        """Policy changed. What is out keeps its time."""
        if ack_wait != self._ack_wait:  # the front of `first` would no longer be the next that is due
            for position, due in self._first.items():
                self._put(position, 1, due, _OUT)
            self._first.clear()
        self._ack_wait, self._max_deliver = ack_wait, max_deliver

    # ---- handing out -----------------------------------------------------------------------------------------------------------

    def hand_out(self, positions: Sequence[int], now: float) -> None:
        """New ones, ascending, above all that were handed out before."""
        self._first.update(dict.fromkeys(positions, now + self._ack_wait))

    def expect(self, position: int, *, deliveries: int) -> None:
        """To be handed out as soon as possible, after so many deliveries."""
        self._put(position, deliveries, 0.0, _READY)

    def take_ready(self, most: int, now: float) -> list[Given]:
        """Hand out again, the oldest first: positions, and how often each was handed out with this time."""
        taken: list[Given] = []
        while len(taken) < most:
            self._drop_stale_ready()
            if not self._ready:
                break
            position = heappop(self._ready)
            deliveries = self._rest[position][0] + 1
            self._put(position, deliveries, now + self._ack_wait, _OUT)
            taken.append(Given(position, deliveries))
        return taken

    # ---- settling --------------------------------------------------------------------------------------------------------------

    def ack(self, spans: Sequence[Span]) -> int:
        """How many this settled."""
        settled = 0
        pop, rest = self._first.pop, self._rest
        for position in self._chosen(spans):
            if pop(position, None) is None:
                if rest.get(position, _NOT_THERE)[2] == _DYING:
                    continue
                del rest[position]
                self._put_off.pop(position, None)
            settled += 1
        return settled

    def nak(self, spans: Sequence[Span], *, delay: float | None, now: float) -> tuple[int, list[Given]]:
        """How many this concerned, and which of them were handed out for the last time. Without a delay: the usual one."""
        count, given = 0, []
        for position, deliveries in self._pop_out(spans):
            count += 1
            if deliveries >= self._max_deliver:
                given.append(self._give_up(position, deliveries))
            else:
                wait = redelivery_seconds(deliveries) if delay is None else delay
                self._put(position, deliveries, now + wait, _LATER)
        return count, given

    def put_off(self, spans: Sequence[Span], *, delay: float, longest: float, now: float) -> tuple[int, list[Given]]:
        """These never reached their reader, so this time does not count. How many it concerned, and which of them are given up:
        they were put off for the longest time, or are too many."""
        count, given = 0, []
        for position, deliveries in self._pop_out(spans):
            count += 1
            since = self._put_off.get(position, now)
            is_known = position in self._put_off
            if now - since >= longest or (not is_known and len(self._put_off) >= MAX_PUT_OFF):
                given.append(self._give_up(position, deliveries))
            else:
                self._put_off[position] = since
                self._put(position, deliveries - 1, now + delay, _LATER)
        return count, given

    def give_back(self, spans: Sequence[Span]) -> int:
        """Nobody looked at these: they are ready again, and this time does not count. How many that are."""
        count = 0
        for position, deliveries in self._pop_out(spans):
            count += 1
            self._put(position, deliveries - 1, 0.0, _READY)
        return count

    def term(self, spans: Sequence[Span]) -> list[Given]:
        return [self._give_up(position, deliveries) for position, deliveries in self._pop_out(spans)]

    def touch(self, spans: Sequence[Span], now: float) -> bool:
        """Whether this concerned any."""
        any_of_them = False
        for position, deliveries in self._pop_out(spans):
            self._put(position, deliveries, now + self._ack_wait, _OUT)
            any_of_them = True
        return any_of_them

    def settle(self, position: int) -> None:
        """It is done with, wherever it is: its dead letter is kept, or nobody would accept it any more."""
        if self._first.pop(position, None) is None:
            self._rest.pop(position, None)
            self._put_off.pop(position, None)

    # ---- time ------------------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Given]:
        """What is overdue becomes ready; what was handed out for the last time is given up."""
        given: list[Given] = []
        while self._first:
            position, due = next(iter(self._first.items()))
            if due > now:
                break
            del self._first[position]
            self._overdue(position, 1, given)
        while self._alarms and self._alarms[0][0] <= now:
            when, position = heappop(self._alarms)
            deliveries, due, place = self._rest.get(position, _NOT_THERE)
            if due == when and place in (_OUT, _LATER):
                self._overdue(position, deliveries, given)
        return given

    def next_due(self) -> float | None:
        """When `advance` has something to do, at the earliest; None if there is nothing to wait for."""
        times = [
            due for due in (next(iter(self._first.values()), None), self._alarms[0][0] if self._alarms else None) if due is not None
        ]
        return min(times, default=None)

    def release(self) -> list[Given]:
        """Whoever had them is gone: all that is out is ready, or given up."""
        given: list[Given] = []
        out = [*((position, 1) for position in self._first), *self._outs()]
        self._first.clear()
        for position, deliveries in out:
            self._overdue(position, deliveries, given)
        return given

    # ---- what is written down --------------------------------------------------------------------------------------------------

    def written(self) -> Written:
        rest = self._rest.items()
        others = [Kept(position, times, due if place == _LATER else 0.0) for position, (times, due, place) in rest]
        return Written([*self._first], others, {**self._put_off})

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    def _put(self, position: int, deliveries: int, due: float, place: int) -> None:
        self._rest[position] = (deliveries, due, place)
        if place == _READY:
            heappush(self._ready, position)
        elif place != _DYING:
            heappush(self._alarms, (due, position))
            if len(self._alarms) > 2 * len(self._rest) + _SPARE_ALARMS:
                self._alarms = [(due, position) for position, (_, due, place) in self._rest.items() if place in (_OUT, _LATER)]
                heapify(self._alarms)

    def _overdue(self, position: int, deliveries: int, given: list[Given]) -> None:
        if deliveries >= self._max_deliver:
            given.append(self._give_up(position, deliveries))
        else:
            self._put(position, deliveries, 0.0, _READY)

    def _give_up(self, position: int, deliveries: int) -> Given:
        self._put_off.pop(position, None)
        self._put(position, deliveries, 0.0, _DYING)
        return Given(position, deliveries)

    def _chosen(self, spans: Sequence[Span]) -> list[int]:
        """Positions of these spans, all that are unsettled among them. Others named the spans: many, long, one over the other."""
        if sum(last - first for first, last in spans if last > first) <= len(self):
            return [position for first, last in spans for position in range(first, last + 1)]
        everything = sorted([*self._first, *self._rest])
        found: list[int] = []
        done = 0
        for first, last in sorted(spans):
            start = max(done, bisect_left(everything, first))
            done = max(done, bisect_right(everything, last))
            found += everything[start:done]
        return found

    def _pop_out(self, spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
        for position in self._chosen(spans):
            if self._first.pop(position, None) is not None:
                yield position, 1
            elif (state := self._rest.get(position, _NOT_THERE))[2] == _OUT:
                del self._rest[position]
                yield position, state[0]

    def _outs(self) -> list[tuple[int, int]]:
        return [(position, deliveries) for position, (deliveries, _, place) in self._rest.items() if place == _OUT]

    def _drop_stale_ready(self) -> None:
        ready, rest = self._ready, self._rest
        while ready and rest.get(ready[0], _NOT_THERE)[2] != _READY:
            heappop(ready)
