"""Queue groups: of the members of each, one gets an envelope: the one with most credit, and in turn among equals.

Where no member of a group has credit, the envelope waits for the first that has, until it expires: to be busy is what workers are
there for, so none is ended. A link gets an envelope once, with all of its subscriptions; so what goes to links that have a member
waits together, in order, and the lanes that feed it are stopped as for any full reader. Links without members do not wait.

Only who was there when it came may get it: for who came later it was sent too early.

A member at a neighbour is chosen where no member here has credit; which of its members that broker takes is its own business. A
neighbour that has no room, or has stopped the topic, is passed over, and is never waited for: it may lie. Where there is no other,
the envelope waits among those for that link, and nobody else waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from bus.broker.counts import Counts
from bus.broker.crossing import EXPIRED, GROUP_FULL, NOT_LIVE, Crossing
from bus.broker.holding import Holding
from bus.broker.host_link import HostLink, Subscription
from bus.broker.pacing import Pacing
from bus.broker.room import Room
from bus.broker.router import Members, Route
from bus.broker.stopping import Stops

MAX_WAITING_BYTES: Final = 8 << 20
"""For one topic; what comes beyond is dropped."""
UNLIMITED: Final = 1 << 32
"""The credit of one that never blocks."""
_FULL: Final = 0
_BUSY: Final = 1
_THERE: Final = 2
_HERE: Final = 3


class _Line(Stops):
    """What waits on one topic, each with its route."""

    __slots__ = ("bytes", "topic", "waiting")

    def __init__(self, topic: str) -> None:
        super().__init__()
        self.topic = topic
        self.waiting: deque[tuple[Crossing, Route]] = deque()
        self.bytes = 0


class Groups:
    def __init__(self, counts: Counts, pacing: Pacing, room: Room, holding: Holding) -> None:
        self._counts, self._pacing, self._room, self._holding = counts, pacing, room, holding
        self._lines: dict[str, _Line] = {}
        self._picks = 0
        self.has_stopped: Callable[[HostLink, str], bool] = lambda _host, _topic: False
        """Whether this neighbour has stopped this topic."""

    def __len__(self) -> int:
        """Envelopes that wait for a member."""
        return sum(len(line.waiting) for line in self._lines.values())

    def cross(self, crossing: Crossing, route: Route, *, now: float) -> None:
        """One envelope, to all links of the route that have members."""
        line = self._lines.get(crossing.header.topic)
        picks = self._pick(route, crossing.header.topic) if line is None else None
        if picks is not None:
            self._send(crossing, route, picks, now=now)
            return
        self._counts.copies += 1
        size = len(crossing.envelope)
        if (line is not None and line.bytes + size > MAX_WAITING_BYTES) or not self._room.has(size):
            self._counts.dropped[GROUP_FULL] += 1
            return
        if line is None:
            line = self._lines[crossing.header.topic] = _Line(crossing.header.topic)
        crossing.turn.pending += 1
        if crossing.asked is not None:
            crossing.asked.copies += 1
        line.waiting.append((crossing, route))
        line.bytes += size
        self._room.take(size)
        if crossing.lane is not None:
            crossing.turn.is_held(line, crossing.lane)

    def go_on(self, *, now: float, now_ms: int) -> None:
        """Somebody has credit again, or has left; or time has passed."""
        for line in [*self._lines.values()]:
            self._go_on(line, now=now, now_ms=now_ms)

    def _go_on(self, line: _Line, *, now: float, now_ms: int) -> None:
        while line.waiting:
            crossing, route = line.waiting[0]
            expired = now_ms > crossing.header.expires_ms
            picks = None if expired else self._pick(route, line.topic)
            if picks is None and not expired:
                return
            line.waiting.popleft()
            line.bytes -= len(crossing.envelope)
            self._room.take(-len(crossing.envelope))
            self._counts.copies -= 1
            if picks is not None and (picks or route.shared):
                self._send(crossing, route, picks, now=now)
            else:
                self._counts.copies += 1
                self._counts.dropped[EXPIRED if expired else NOT_LIVE] += 1
            crossing.was_dropped()
            self._pacing.taken_in(crossing.turn)
        if not line.is_empty:  # to send may end a subscription, whose end comes here again
            del self._lines[line.topic]
            line.emptied()

    def _send(self, crossing: Crossing, route: Route, picks: Members, *, now: float) -> None:
        for reader in route.with_picks(picks):
            live = reader.of_now()
            if live is not None:
                self._holding.cross(crossing, live, now=now)

    def _pick(self, route: Route, topic: str) -> Members | None:
        """One of each group that has members still; None if one of those here has to wait."""
        picks: list[Subscription] = []
        for members in route.groups:
            live = [one for one in members if one.is_live]
            if not live:
                continue
            best = max(live, key=lambda one: self._rank(one, topic))
            if not best.host.is_neighbour and _free(best) <= 0:
                return None
            picks.append(best)
        for one in picks:
            self._picks += 1
            one.picked = self._picks
        return tuple(picks)

    def _rank(self, one: Subscription, topic: str) -> tuple[int, int, int]:
        """Who has credit here, then a neighbour with room, then who is busy here, and then a neighbour without."""
        host = one.host
        if not host.is_neighbour:
            free = _free(one)
            return _HERE if free > 0 else _BUSY, free, -one.picked
        has_room = host.outbox.has_room and not self.has_stopped(host, topic)
        return _THERE if has_room else _FULL, 0, -one.picked


def _free(one: Subscription) -> int:
    """Of a member here."""
    if one.blocks:
        return one.credit if one.may_take else 0
    return UNLIMITED
