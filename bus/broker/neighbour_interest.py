"""Who listens at which broker: each tells its neighbours of its own live subscriptions, and is told of theirs.

ours      SUBSCRIBE, under a number of that link, and the word "subscribed" waits for the neighbour, which says so when all who
          publish there know. One that does not within two seconds is cut: it has one second itself for its own hosts. One that has
          just come is not waited for until it has heard of all that was here before
theirs    is judged by our policy and stands among our own subscriptions, on the neighbour's link. What may not be is set aside, and
          tried again when policy changes; nobody here publishes to it, so nobody has to wait for it
durable   who has a durable subscription, as INTEREST (see `neighbour_kept`)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from functools import partial
from typing import Any, Final

from bus.backbone.interface import DEAD
from bus.broker.host_link import BLOCK, HostLink, Subscription
from bus.broker.interest import FAR_SECONDS, Barrier, Interest
from bus.broker.moment import Moment
from bus.broker.neighbour import INTRODUCED, MAX_GROUPS_LEFT, OVERFLOW, Neighbour
from bus.broker.neighbour_kept import NeighbourKept
from bus.broker.neighbour_lanes import NeighbourLanes
from bus.broker.neighbour_shares import Shares, name_of
from bus.broker.offences import Offences
from bus.broker.subscribing import Subscribing
from bus.protocol.codec import malformed
from bus.protocol.frames import Frame, sub_ref
from bus.transport.soon import soon

AT_ONCE: Final = 64
"""Durable subscriptions that are told, with the inboxes of their agents; subscriptions that are judged in one turn of the loop."""
_LIMIT: Final = 1
"""Of a subscription at a neighbour: it has no credit, and never blocks. Whether its reader does there, `overflow` says."""
_OVERFLOWS: Final = (BLOCK, OVERFLOW)
_TOO_MANY: Final = "busy"


class NeighbourInterest:
    """`open` are the neighbours that are open."""

    def __init__(
        self,
        interest: Interest,
        subscribing: Subscribing,
        open_: Collection[Neighbour],
        lanes: NeighbourLanes,
        offences: Offences,
    ) -> None:
        self._interest, self._subscribing, self._open, self._lanes = interest, subscribing, open_, lanes
        self.kept = NeighbourKept(interest, subscribing, offences)
        self._shares = Shares()
        self._unjudged: deque[tuple[Neighbour, int]] = deque()

    @property
    def links(self) -> Collection[HostLink]:
        return self._open

    @property
    def awaited(self) -> Collection[HostLink]:
        return [one for one in self._open if one.is_introduced]

    # ---- ours ----------------------------------------------------------------------------------------------------------------

    def begins(self, subscription: Subscription, barrier: Barrier) -> None:
        if _stays_here(subscription):
            return
        for neighbour in self._open:
            number = self._number(neighbour, subscription)
            if neighbour.is_introduced:
                neighbour.waits[number] = barrier
                barrier.waits_for += 1
            neighbour.do(partial(_tell, neighbour, number))

    def ends(self, subscription: Subscription) -> None:
        if subscription.host.is_neighbour:
            self._shares.release(name_of(subscription.host), *_texts(subscription))
            self._lanes.ended(subscription)
            return
        for neighbour in self._open:
            number = neighbour.numbers.pop(subscription, None)
            if number is None:
                continue
            del neighbour.mine[number]
            self.is_seen(neighbour, number)
            neighbour.do(partial(neighbour.send, Frame.UNSUBSCRIBE, number))
            if subscription.group:
                neighbour.groups_left[number] = subscription.group
                if len(neighbour.groups_left) > MAX_GROUPS_LEFT:
                    del neighbour.groups_left[next(iter(neighbour.groups_left))]

    def introduce(self, neighbour: Neighbour, subscriptions: Collection[Subscription]) -> None:
        """It has come: who listens here. Nobody waits for that, however long it takes; it says itself when it has heard all."""
        for one in subscriptions:
            if one.taker is None and not _stays_here(one):
                neighbour.do(partial(_tell, neighbour, self._number(neighbour, one)))
        for keys in self._interest.kept(AT_ONCE):
            neighbour.do(partial(self._interest.introduce, neighbour, keys))
        neighbour.do(partial(neighbour.send, Frame.PING, INTRODUCED))

    def is_seen(self, neighbour: Neighbour, number: int) -> None:
        """All who publish there know it; or nobody there may publish to it."""
        barrier = neighbour.waits.pop(number, None)
        if barrier is not None:
            barrier.one_less()

    def is_overdue(self, neighbour: Neighbour, now: float) -> bool:
        first = next(iter(neighbour.waits.values()), None)
        return first is not None and first.until + FAR_SECONDS <= now

    def lost(self, neighbour: Neighbour) -> None:
        for number in [*neighbour.waits]:
            self.is_seen(neighbour, number)
        self.kept.lost(neighbour)

    def _number(self, neighbour: Neighbour, one: Subscription) -> int:
        number = neighbour.next_number
        neighbour.next_number += 1
        neighbour.mine[number], neighbour.numbers[one] = one, number
        return number

    # ---- theirs --------------------------------------------------------------------------------------------------------------

    def subscribe(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """Raises RemoteProtocolError("malformed")."""
        _, number, _, pattern, _, durable, start, limit, overflow = fields
        if not number or number in neighbour.subscriptions or number in neighbour.subscriptions_aside:
            raise malformed("a subscription of a neighbour has a new number")
        if durable or start or limit != _LIMIT or overflow not in _OVERFLOWS or pattern.startswith(DEAD):
            raise malformed("what is kept is not read from a neighbour, and a neighbour's subscription drops what is too much")
        code = self._take(neighbour, fields, moment)
        if code == _TOO_MANY:
            raise malformed("more subscriptions than a broker can have")
        if code is not None:
            neighbour.set_aside(fields)
            neighbour.send(Frame.REFUSE, code, sub_ref(number))

    def unsubscribe(self, neighbour: Neighbour, number: int, moment: Moment) -> None:
        neighbour.subscriptions_aside.pop(number, None)
        one = neighbour.subscriptions.get(number)
        if one is not None:
            self._subscribing.drop(one, moment)

    def seated(self, neighbour: Neighbour, agent: str, moment: Moment) -> None:
        """It is there (again): what it subscribed to before that may be in force now."""
        for number, fields in [*neighbour.subscriptions_aside.items()]:
            if fields[2] == agent and self._take(neighbour, fields, moment) is None:
                del neighbour.subscriptions_aside[number]

    def judge(self, neighbour: Neighbour, moment: Moment) -> None:
        """What was set aside may be in force now; a few at a time."""
        self.kept.judge(neighbour)
        is_idle = not self._unjudged
        self._unjudged += [(neighbour, number) for number in neighbour.subscriptions_aside]
        if is_idle and self._unjudged:
            self._judge_some(moment)

    def _judge_some(self, moment: Moment) -> None:
        for _ in range(min(AT_ONCE, len(self._unjudged))):
            neighbour, number = self._unjudged.popleft()
            fields = neighbour.subscriptions_aside.get(number)
            if fields is not None and not neighbour.is_gone and self._take(neighbour, fields, moment) is None:
                del neighbour.subscriptions_aside[number]
        if self._unjudged:
            soon(partial(self._judge_some, moment))

    def _take(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> str | None:
        """None, or why it is not in force. Raises RemoteProtocolError("malformed") for what is no group."""
        _, number, agent, pattern, group, _, _, limit, overflow = fields
        code = self._subscribing.refusal(neighbour, agent, pattern, group)
        if code is None:
            one = Subscription(neighbour, number, agent, pattern, group, OVERFLOW, limit, 0, may_stop=overflow == BLOCK)
            if not self._shares.take(name_of(neighbour), *_texts(one)):
                return _TOO_MANY
            self._subscribing.accept(one, moment)
        return code


def _tell(neighbour: Neighbour, number: int) -> None:
    """If it is there still; what has ended meanwhile is taken back, and was never told."""
    one = neighbour.mine.get(number)
    if one is not None:
        overflow = BLOCK if one.blocks else OVERFLOW
        neighbour.send(Frame.SUBSCRIBE, number, one.agent, one.pattern, one.group, "", "", _LIMIT, overflow)


def _texts(one: Subscription) -> tuple[str, str, str]:
    return one.agent, one.pattern, one.group


def _stays_here(one: Subscription) -> bool:
    """What neighbours are not told: theirs, and who listens to dead letters, which are read from the backbone."""
    return one.host.is_neighbour or one.pattern.startswith(DEAD)
