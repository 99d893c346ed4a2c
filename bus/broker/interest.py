"""Who listens, and who was told so. A publisher seals to those it was told of, so nobody may miss what is published after
"subscribed" was said.

    subscribed    when every link with a matching open topic has said that it has seen the interest; one that does not within a
                  second is cut, because nobody could rely on what it publishes
    told          once a link: an agent and its pattern, after the agent's papers; "no more" when its last such subscription ends
    durable       who has a durable subscription listens while it is away: until that is removed, and by its inbox papers

Numbers of INTEREST count on each link. A link has seen one when it has seen a later one.

Neighbours are told too, and are waited for: of live subscriptions by `across`, and of durable ones as hosts are, but of those alone
that this broker knows of itself. What neighbours say of durable ones is told to the hosts here (`keep_far`), and not passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from bus.backbone.interface import DEAD
from bus.broker.host_link import HostLink, Subscription
from bus.broker.lanes import Lane, Lanes
from bus.broker.seats import Seats
from bus.flow.trie import Trie
from bus.protocol.frames import DURABLE, GONE, LISTENS, MAX_ROWS, Frame

SEEN_SECONDS: Final = 1.0
FAR_SECONDS: Final = 1.0
"""More for a neighbour, which waits so long for its own hosts."""

Key = tuple[str, str, int]
"""An agent, its pattern, and how it listens."""


@dataclass(slots=True, eq=False)
class Barrier:
    """Between somebody who listens and the word that all publishers know."""

    passed: Callable[[], None]
    """Says so."""
    until: float
    waits_for: int = 0
    """So many links."""

    def one_less(self) -> None:
        self.waits_for -= 1
        if not self.waits_for:
            self.passed()


class Across(Protocol):
    """Neighbours that are open, and what they are told of live subscriptions."""

    @property
    def links(self) -> Collection[HostLink]: ...

    @property
    def awaited(self) -> Collection[HostLink]:
        """Those that know all that was here when they came."""

    def begins(self, subscription: Subscription, barrier: Barrier) -> None: ...

    def ends(self, subscription: Subscription) -> None: ...


class Interest:
    def __init__(self, seats: Seats, lanes: Lanes) -> None:
        self._seats, self._lanes = seats, lanes
        self.inbox_papers: Callable[[str], bytes | None] = lambda _agent: None
        self.across: Across | None = None
        self._own: dict[Key, int] = {}
        """Of durable subscriptions, those of which this broker knows itself."""
        self._count: dict[Key, int] = {}
        self._keys: Trie[Key] = Trie()
        self._told: dict[Key, dict[HostLink, None]] = {}
        self._told_by: dict[tuple[str, int], dict[Key, None]] = {}
        """The same by agent and how it listens: a neighbour has very many, and each of them renews its papers."""

    def __len__(self) -> int:
        return len(self._count)

    # ---- subscriptions -------------------------------------------------------------------------------------------------------

    def add(self, subscription: Subscription, *, now: float) -> None:
        """It listens. SUBSCRIBED is sent, at once or when all have seen it."""
        self._listens(_key(subscription, LISTENS))
        self._begin(subscription, LISTENS, now=now)

    def add_reader(self, subscription: Subscription, *, now: float) -> None:
        """The same of a durable one, which is among those who `keep` listening already."""
        self._begin(subscription, DURABLE, now=now)

    def remove(self, subscription: Subscription) -> None:
        if self.across is not None:
            self.across.ends(subscription)
        self._listens_no_more(_key(subscription, LISTENS))

    def keep(self, agent: str, pattern: str) -> None:
        """It has a durable subscription, whether or not it is here."""
        key = (agent, pattern.removeprefix(DEAD), DURABLE)
        if self._listens(key):
            for host in self._reached(key[1]):
                self._tell(host, [key])
        self._own[key] = self._own.get(key, 0) + 1
        for host in self._neighbours:
            self._tell(host, [key])

    def keep_no_more(self, agent: str, pattern: str) -> None:
        key = (agent, pattern.removeprefix(DEAD), DURABLE)
        self._own[key] -= 1
        if not self._own[key]:
            del self._own[key]
            for host in self._neighbours:
                self._untell(host, [key])
        self._listens_no_more(key)

    # ---- neighbours ----------------------------------------------------------------------------------------------------------

    @property
    def _neighbours(self) -> Collection[HostLink]:
        return () if self.across is None else self.across.links

    def kept(self, at_once: int) -> Iterator[list[Key]]:
        """Durable subscriptions of which this broker knows itself, so many at once."""
        keys = [*self._own]
        for start in range(0, len(keys), at_once):
            yield keys[start : start + at_once]

    def introduce(self, neighbour: HostLink, keys: Iterable[Key]) -> None:
        """It has come, and hears of those that are there still."""
        self._tell(neighbour, [key for key in keys if key in self._own])

    def keep_far(self, keys: Sequence[Key], barrier: Barrier | None) -> None:
        """A neighbour knows of durable subscriptions; the barrier is passed when all publishers here do."""
        reached: dict[HostLink, list[Key]] = {}
        for key in keys:
            self._listens(key)
            for host in self._reached(key[1]):
                reached.setdefault(host, []).append(key)
        for host, theirs in reached.items():
            self._await(host, theirs, barrier)

    def keep_far_no_more(self, keys: Sequence[Key]) -> None:
        ended: dict[HostLink, list[Key]] = {}
        for key in keys:
            for host in self._ends(key):
                ended.setdefault(host, []).append(key)
        for host, theirs in ended.items():
            self._untell(host, theirs)

    # ---- counting ------------------------------------------------------------------------------------------------------------

    def _listens(self, key: Key) -> bool:
        """Whether it is the first of its kind."""
        self._count[key] = self._count.get(key, 0) + 1
        if self._count[key] == 1:
            self._keys.add(key[1], key)
        return self._count[key] == 1

    def _begin(self, subscription: Subscription, how: int, *, now: float) -> None:
        key, barrier = _key(subscription, how), Barrier(partial(_is_live, subscription), now + SEEN_SECONDS, waits_for=1)
        for host in self._reached(key[1]):
            self._await(host, [key], barrier)
        if self.across is not None and how == LISTENS:
            self.across.begins(subscription, barrier)
        elif how == DURABLE:
            for host in () if self.across is None else self.across.awaited:
                self._await(host, [key], barrier)
        barrier.one_less()

    def _await(self, host: HostLink, keys: Sequence[Key], barrier: Barrier | None) -> None:
        self._tell(host, keys)
        newest = max(host.told[key] for key in keys)
        if barrier is not None and host.seen < newest:
            barrier.waits_for += 1
            host.awaited.append((newest, barrier))

    def _listens_no_more(self, key: Key) -> None:
        for host in self._ends(key):
            self._untell(host, [key])

    def _ends(self, key: Key) -> list[HostLink]:
        """One that listened so does no more; of the last, those who were told."""
        self._count[key] -= 1
        if self._count[key]:
            return []
        del self._count[key]
        self._keys.remove(key[1], key)
        return [*self._told.get(key, ())]

    def _untell(self, host: HostLink, keys: Sequence[Key]) -> None:
        """Of a few: all in one frame."""
        rows: list[Key] = []
        for key in keys:
            if key in host.told:
                del host.told[key]
                self._forget(host, key)
                rows += [(*key[:2], GONE), *(other for other in _other_ways(key) if other in host.told)]  # that takes them all
        if rows:
            host.serial += 1
            host.send(Frame.INTEREST, host.serial, rows)

    def _forget(self, host: HostLink, key: Key) -> None:
        told = self._told[key]
        del told[host]
        if not told:
            del self._told[key]
            alike = self._told_by[key[0], key[2]]
            del alike[key]
            if not alike:
                del self._told_by[key[0], key[2]]

    def _reached(self, pattern: str) -> list[HostLink]:
        return [*{lane.host: None for lane in self._lanes.reached(pattern)}]

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
                host.awaited.popleft()[1].one_less()

    def is_overdue(self, host: HostLink, now: float) -> bool:
        """Whether the link has not said in time what it has seen."""
        grace = FAR_SECONDS if host.is_neighbour else 0.0
        return bool(host.awaited) and host.awaited[0][1].until + grace <= now

    def renewed(self, agent: str) -> None:
        """The agent has new papers: whoever seals to it gets them."""
        newest = self._seats.newest(agent)
        if newest is not None:
            for host in self._told_of(agent, LISTENS):
                host.tell_papers([newest])

    def inbox_renewed(self, agent: str) -> None:
        """The same for its inbox."""
        papers = self.inbox_papers(agent)
        if papers is not None:
            for host in self._told_of(agent, DURABLE):
                host.tell_inbox(agent, papers)

    def _told_of(self, agent: str, how: int) -> list[HostLink]:
        return [*{host: None for key in self._told_by.get((agent, how), ()) for host in self._told[key]}]

    def lost(self, host: HostLink) -> None:
        """The link is gone; nobody waits for it any more. Its own subscriptions were removed before."""
        for key in host.told:
            self._forget(host, key)
        host.told.clear()
        while host.awaited:
            host.awaited.popleft()[1].one_less()

    def _tell(self, host: HostLink, keys: Iterable[Key]) -> None:
        new = [key for key in keys if key not in host.told]
        live = {agent: None for agent, _, how in new if how == LISTENS}
        host.tell_papers([found for agent in live if (found := self._seats.newest(agent)) is not None])
        for agent, _, how in new:
            if how == DURABLE and (inbox := self.inbox_papers(agent)) is not None:
                host.tell_inbox(agent, inbox)
        for start in range(0, len(new), MAX_ROWS):
            self._tell_rows(host, new[start : start + MAX_ROWS])

    def _tell_rows(self, host: HostLink, keys: Sequence[Key]) -> None:
        host.serial += 1
        host.send(Frame.INTEREST, host.serial, keys)
        for key in keys:
            host.told[key] = host.serial
            self._told.setdefault(key, {})[host] = None
            self._told_by.setdefault((key[0], key[2]), {})[key] = None


def _is_live(subscription: Subscription) -> None:
    """Nobody is waited for any more."""
    if subscription.is_live and not subscription.host.is_gone:
        subscription.host.send(Frame.SUBSCRIBED, subscription.number)


def _key(subscription: Subscription, how: int) -> Key:
    """Who reads dead letters needs what opens them: it listens to their topics."""
    return subscription.agent, subscription.pattern.removeprefix(DEAD), how


def _other_ways(key: Key) -> list[Key]:
    return [(*key[:2], how) for how in (LISTENS, DURABLE) if how != key[2]]
