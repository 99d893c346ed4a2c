"""A full reader at one broker stops those who publish for it at another.

Lanes that a full reader here stops are those of hosts. What a neighbour brings has none; in its place stands a far lane, of one
topic and neighbour, and to stop that is to say so to the neighbour, which stops its own lanes of the topic.

A neighbour may lie, and a topic that is stopped is one on which nobody here publishes. So a stop of theirs

    stands on    a subscription of that neighbour, in force here, that may hear the topic and whose reader blocks; or is not heard
    ends         with that subscription, if no other bears it; with the link; and 10 s after it was said last: whose reader is full
                 still says so again
    is named     in the log: who stops without a reader, does not renew, stops too many topics, or one for more than a minute

What many stops need when they end at once is done a few at a time, and others go on between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from bus.broker.groups import Groups
from bus.broker.host_link import HostLink, Subscription
from bus.broker.lanes import Lanes
from bus.broker.moment import Moment
from bus.broker.neighbour import Neighbour
from bus.broker.neighbour_shares import name_of
from bus.broker.offences import Offences
from bus.broker.router import Router
from bus.broker.stopping import Stops
from bus.protocol.neighbour_frames import Between
from bus.transport.soon import soon

MAX_LANES: Final = 16_384
"""Topics of a neighbour that are remembered; those that are not stopped go first."""
MAX_STOPPED: Final = 4_096
"""That one neighbour may have stopped."""
STOP_SECONDS: Final = 10.0
"""A stop that is not said again."""
RENEW_SECONDS: Final = 3.0
LONG_SECONDS: Final = 60.0
"""From which on those who run this broker are told."""
AT_ONCE: Final = 64
"""Stops that are looked at in one turn of the loop."""
GO_ON: Final = 0
STOP: Final = 1


class FarLane:
    """One topic, as a neighbour brings it. `full` are those that are stopped."""

    __slots__ = ("_full", "neighbour", "stops", "topic")

    def __init__(self, neighbour: Neighbour, topic: str, full: dict[FarLane, None]) -> None:
        self.neighbour, self.topic, self._full = neighbour, topic, full
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1
        if self.stops == 1:
            self._full[self] = None
            self.say()

    def go_on(self) -> None:
        self.stops -= 1
        if not self.stops:
            self._full.pop(self, None)
            self.neighbour.say(Between.STOP, self.topic, GO_ON)

    def say(self) -> None:
        self.neighbour.say(Between.STOP, self.topic, STOP)


class _Stop(Stops):
    """What a neighbour has stopped here, and the subscription of it that bears this."""

    __slots__ = ("by", "neighbour", "since", "topic", "until")

    def __init__(self, neighbour: Neighbour, topic: str, by: Subscription, now: float) -> None:
        super().__init__()
        self.neighbour, self.topic, self.by = neighbour, topic, by
        self.since, self.until = now, now + STOP_SECONDS


class NeighbourLanes:
    def __init__(self, lanes: Lanes, router: Router, groups: Groups, offences: Offences) -> None:
        self._lanes, self._router, self._offences = lanes, router, offences
        self._far: dict[Neighbour, dict[str, FarLane]] = {}
        self._full: dict[FarLane, None] = {}
        self._renewed_at = 0.0
        self._stopped: dict[HostLink, dict[str, _Stop]] = {}
        """In the order in which they were said last."""
        self._borne: dict[Subscription, dict[_Stop, None]] = {}
        self._unborne: deque[_Stop] = deque()
        """Of subscriptions that have ended."""
        groups.has_stopped = self.has_stopped

    # ---- ours ----------------------------------------------------------------------------------------------------------------

    def of(self, neighbour: Neighbour, topic: str) -> FarLane:
        """Where what this neighbour brings can be stopped."""
        lanes = self._far.setdefault(neighbour, {})
        found = lanes.get(topic)
        if found is None:
            if len(lanes) >= MAX_LANES:
                self._forget(lanes)
            found = lanes[topic] = FarLane(neighbour, topic, self._full)
        return found

    @staticmethod
    def _forget(lanes: dict[str, FarLane]) -> None:
        """The oldest that are not stopped, half of all, so that this is rare; what is stopped is bounded by the room for it."""
        for topic in [topic for topic, lane in lanes.items() if not lane.stops][: max(MAX_LANES // 2, 1)]:
            del lanes[topic]

    # ---- theirs --------------------------------------------------------------------------------------------------------------

    def has_stopped(self, host: HostLink, topic: str) -> bool:
        return topic in self._stopped.get(host, ())

    def stop(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """It says that a reader there is full, full still, or not any more."""
        _, topic, how = fields
        stopped = self._stopped.setdefault(neighbour, {})
        known = stopped.get(topic)
        if how == GO_ON:
            if known is not None:
                self._lift(known)
            return
        by = self._router.stopper(neighbour, topic)
        if by is None:
            self._note(neighbour, "stops a topic of which it has no reader that may", topic, moment.now)
            if known is not None:
                self._lift(known)
        elif known is not None:
            self._renew(known, by, moment.now)
        elif len(stopped) >= MAX_STOPPED:
            self._note(neighbour, f"stops more than {MAX_STOPPED} topics", topic, moment.now)
        else:
            self._begin(_Stop(neighbour, topic, by, moment.now))

    def ended(self, subscription: Subscription) -> None:
        """Of a neighbour. What it bore falls, unless another one bears it."""
        borne = self._borne.pop(subscription, None)
        if borne:
            self._fall(borne)

    def lost(self, neighbour: Neighbour) -> None:
        for lane in self._far.pop(neighbour, {}).values():
            self._full.pop(lane, None)
        stopped = self._stopped.pop(neighbour, {})
        for one in stopped.values():
            self._borne.pop(one.by, None)
        self._fall(stopped.values())

    def tick(self, now: float) -> None:
        if now - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = now
            for lane in self._full:
                if lane.neighbour.link.writable:
                    lane.say()
        for stopped in self._stopped.values():
            over: list[_Stop] = []
            for one in stopped.values():
                if one.until > now or len(over) >= AT_ONCE:
                    break
                over.append(one)
            for one in over:
                self._note(one.neighbour, "stops a topic and does not say so again", one.topic, now)
                self._lift(one)

    # ---- one of theirs -------------------------------------------------------------------------------------------------------

    def _begin(self, one: _Stop) -> None:
        self._stopped[one.neighbour][one.topic] = one
        self._borne.setdefault(one.by, {})[one] = None
        self._lanes.stop_for(one.topic, one)

    def _renew(self, one: _Stop, by: Subscription, now: float) -> None:
        stopped = self._stopped[one.neighbour]
        del stopped[one.topic]
        stopped[one.topic] = one
        one.until = now + STOP_SECONDS
        self._bear(one, by)
        if now - one.since >= LONG_SECONDS:
            self._note(one.neighbour, f"keeps a topic stopped for more than {LONG_SECONDS:.0f} s", one.topic, now)

    def _bear(self, one: _Stop, by: Subscription) -> None:
        self._bears_no_more(one)
        one.by = by
        self._borne.setdefault(by, {})[one] = None

    def _bears_no_more(self, one: _Stop) -> None:
        borne = self._borne.get(one.by, {})
        borne.pop(one, None)
        if not borne:
            self._borne.pop(one.by, None)

    def _lift(self, one: _Stop) -> None:
        self._bears_no_more(one)
        stopped = self._stopped.get(one.neighbour, {})
        if stopped.get(one.topic) is one:
            del stopped[one.topic]
        if not one.is_empty:
            self._lanes.stop_no_more_for(one.topic, one)

    def _fall(self, stops: Iterable[_Stop]) -> None:
        is_idle = not self._unborne
        self._unborne += stops
        if is_idle and self._unborne:
            soon(self._look_again)  # never at once: of an agent that leaves, many subscriptions end one after the other

    def _look_again(self) -> None:
        for _ in range(min(AT_ONCE, len(self._unborne))):
            one = self._unborne.popleft()
            by = None if one.neighbour.is_gone or one.is_empty else self._router.stopper(one.neighbour, one.topic)
            if by is None:
                self._lift(one)
            else:
                self._bear(one, by)
        if self._unborne:
            soon(self._look_again)

    def _note(self, neighbour: Neighbour, what: str, topic: str, now: float) -> None:
        self._offences.note(neighbour.link.peer, f"{name_of(neighbour)} {what}", topic, now=now)
