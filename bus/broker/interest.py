"""Who listens, and who was told so. A publisher seals to those it was told of, so nobody may miss what is published after
"subscribed" was said.

    subscribed    when every link with a matching open topic has said that it has seen the interest; one that does not within a
                  second is cut, because nobody could rely on what it publishes
    told          once a link: an agent and its pattern, after the agent's papers; "no more" when its last such subscription ends

Numbers of INTEREST count on each link. A link has seen one when it has seen a later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from bus.broker.host_link import HostLink, Subscription
from bus.broker.lanes import Lane, Lanes
from bus.broker.seats import Seats
from bus.flow.trie import Trie
from bus.protocol.frames import GONE, LISTENS, MAX_ROWS, Frame

SEEN_SECONDS: Final = 1.0

Key = tuple[str, str]
"""An agent and its pattern."""


@dataclass(slots=True, eq=False)
class Barrier:
    """Between a subscription and its SUBSCRIBED."""

    subscription: Subscription
    until: float
    waits_for: int = 0
    """So many links."""


class Interest:
    def __init__(self, seats: Seats, lanes: Lanes) -> None:
        self._seats, self._lanes = seats, lanes
        self._count: dict[Key, int] = {}
        self._keys: Trie[Key] = Trie()
        self._told: dict[Key, dict[HostLink, None]] = {}

    def __len__(self) -> int:
        return len(self._count)

    # ---- subscriptions -------------------------------------------------------------------------------------------------------

    def add(self, subscription: Subscription, *, now: float) -> None:
        """It listens. SUBSCRIBED is sent, at once or when all have seen it."""
        key = (subscription.agent, subscription.pattern)
        self._count[key] = self._count.get(key, 0) + 1
        if self._count[key] == 1:
            self._keys.add(key[1], key)
        barrier = Barrier(subscription, now + SEEN_SECONDS)
        for host in {lane.host: None for lane in self._lanes.reached(subscription.pattern)}:
            self._tell(host, [key])
            if host.seen < host.told[key]:
                barrier.waits_for += 1
                host.awaited.append((host.told[key], barrier))
        if not barrier.waits_for:
            subscription.host.send(Frame.SUBSCRIBED, subscription.number)

    def remove(self, subscription: Subscription) -> None:
        key = (subscription.agent, subscription.pattern)
        self._count[key] -= 1
        if self._count[key]:
            return
        del self._count[key]
        self._keys.remove(key[1], key)
        for host in self._told.pop(key, ()):
            del host.told[key]
            host.serial += 1
            host.send(Frame.INTEREST, host.serial, [[*key, GONE]])

    # ---- lanes ---------------------------------------------------------------------------------------------------------------

    def opened(self, lane: Lane) -> None:
        """A link may publish there: it hears who listens."""
        if lane.hears:
            self._tell(lane.host, self._keys.match(lane.topic))

    def seen(self, host: HostLink, serial: int) -> None:
        """An older number tells nothing; one that was not given yet cannot have been seen, and is none either."""
        if host.seen < serial <= host.serial:
            host.seen = serial
            while host.awaited and host.awaited[0][0] <= serial:
                _pass(host.awaited.popleft()[1])

    def is_overdue(self, host: HostLink, now: float) -> bool:
        """Whether the link has not said in time what it has seen."""
        return bool(host.awaited) and host.awaited[0][1].until <= now

    def renewed(self, agent: str) -> None:
        """The agent has new papers: whoever seals to it gets them."""
        newest = self._seats.newest(agent)
        if newest is not None:
            hosts = {host: None for key, told in self._told.items() if key[0] == agent for host in told}
            for host in hosts:
                host.tell_papers([newest])

    def lost(self, host: HostLink) -> None:
        """The link is gone; nobody waits for it any more. Its own subscriptions were removed before."""
        for key in host.told:
            del self._told[key][host]
            if not self._told[key]:
                del self._told[key]
        host.told.clear()
        while host.awaited:
            _pass(host.awaited.popleft()[1])

    def _tell(self, host: HostLink, keys: Iterable[Key]) -> None:
        new = [key for key in keys if key not in host.told]
        papers = [found for agent in {agent: None for agent, _ in new} if (found := self._seats.newest(agent)) is not None]
        host.tell_papers(papers)
        for start in range(0, len(new), MAX_ROWS):
            self._tell_rows(host, new[start : start + MAX_ROWS])

    def _tell_rows(self, host: HostLink, keys: Sequence[Key]) -> None:
        host.serial += 1
        host.send(Frame.INTEREST, host.serial, [[*key, LISTENS] for key in keys])
        for key in keys:
            host.told[key] = host.serial
            self._told.setdefault(key, {})[host] = None


def _pass(barrier: Barrier) -> None:
    """One link less to wait for."""
    barrier.waits_for -= 1
    if not barrier.waits_for and barrier.subscription.is_live:
        barrier.subscription.host.send(Frame.SUBSCRIBED, barrier.subscription.number)
