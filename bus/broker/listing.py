"""What a broker can tell the people who run it: who is here, what they say and hear, and each envelope as it passes.

It only looks. A list is made when somebody asks; a trace costs one comparison an envelope while nobody watches, and whoever watches
too slowly misses some and is told how many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import anyio

from bus.broker.admission import Admission
from bus.broker.host_link import HostLink, Subscription
from bus.broker.router import Route, Router
from bus.broker.seats import Seats
from bus.errors import OverloadedError
from bus.flow.trie import Trie
from bus.protocol.header import Header
from bus.protocol.topics import matches

MAX_SIGHTS: Final = 1_024
"""That wait for one who watches."""
MAX_WATCHERS: Final = 16


class Live(NamedTuple):
    """An agent that is here, or at a neighbour."""

    agent: str
    process: int | None
    kind: str
    """Of its link: memory, unix, tls; neighbour, if it is live at another broker."""
    address: str
    subscriptions: int
    until_ms: int
    """When its session certificate ends, if it is not renewed."""


class Spoken(NamedTuple):
    """A topic on which somebody published since policy last changed, and who would hear it now."""

    topic: str
    publishers: tuple[str, ...]
    readers: tuple[str, ...]
    unit: int


class Sight(NamedTuple):
    """An envelope that came by."""

    at_ms: int
    topic: str
    sender: str
    size: int
    records: int
    subscriptions: int
    """That were to get it at once; of a queue group, one."""
    kept: bool
    """Whether its topic is: then durable ones take it when they are that far."""
    refused: str
    """Why, or nothing."""
    missed: int
    """How many came by unseen just before it."""


@dataclass(slots=True, eq=False)
class _Watcher:
    pattern: str
    sights: deque[Sight] = field(default_factory=deque)
    missed: int = 0
    wake: anyio.Event = field(default_factory=anyio.Event)


class Listing:
    def __init__(self, hosts: Collection[HostLink], seats: Seats, router: Router, admission: Admission) -> None:
        self._hosts, self._seats, self._router, self._admission = hosts, seats, router, admission
        self._watchers: dict[_Watcher, None] = {}

    def live(self) -> list[Live]:
        found = []
        for agent, host in self._seats:
            listens = len(host.subscriptions.of(agent))
            found.append(Live(agent, *host.where, listens, host.agents[agent].not_after_ms))
        return sorted(found)

    def subscriptions(self) -> list[Subscription]:
        found = [one for host in self._hosts for one in host.subscriptions.values()]
        return sorted(found, key=lambda one: (one.agent, one.pattern, one.group))

    def spoken(self, pattern: str) -> list[Spoken]:
        publishers: dict[str, set[str]] = {}
        for agent, topic in self._admission.senders():
            if matches(pattern, topic):
                publishers.setdefault(topic, set()).add(agent)
        takers = self._takers()
        return [self._spoken(topic, agents, takers) for topic, agents in sorted(publishers.items())]

    def _spoken(self, topic: str, agents: Collection[str], takers: Trie[str]) -> Spoken:
        readers = {one.agent for one in self._readers(topic)}
        if self._router.is_kept(topic):
            readers.update(agent for agent in takers.match(topic) if self._router.may_hear(agent, topic))
        return Spoken(topic, tuple(sorted(agents)), tuple(sorted(readers)), self._router.unit(topic))

    def _readers(self, topic: str) -> Iterator[Subscription]:
        """Of what is said there now."""
        route = self._router.route(topic)
        yield from _plain(route)
        for members in route.groups:
            yield from members

    def _takers(self) -> Trie[str]:
        """Who reads what is kept, by pattern."""
        found: Trie[str] = Trie()
        for host in self._hosts:
            for one in host.subscriptions.values():
                if one.taker is not None:
                    found.add(one.pattern, one.agent)
        return found

    def _at_once(self, topic: str) -> int:
        """How many subscriptions get what is said there now."""
        route = self._router.route(topic)
        return sum(1 for _ in _plain(route)) + len(route.groups)

    # ---- as they pass --------------------------------------------------------------------------------------------------------

    @property
    def is_watched(self) -> bool:
        return bool(self._watchers)

    def passed(self, header: Header, size: int, refused: str, *, now_ms: int) -> None:
        """An envelope came by. To be called where `is_watched`."""
        for watcher in self._watchers:
            if not matches(watcher.pattern, header.topic):
                continue
            if len(watcher.sights) >= MAX_SIGHTS:
                watcher.missed += 1
                continue
            readers = 0 if refused else self._at_once(header.topic)
            kept = not refused and self._router.is_kept(header.topic)
            watcher.sights.append(
                Sight(now_ms, header.topic, header.sender, size, header.records, readers, kept, refused, watcher.missed)
            )
            watcher.missed = 0
            watcher.wake.set()

    async def watch(self, pattern: str) -> AsyncGenerator[Sight, None]:
        """Each envelope on topics of this pattern, from now on. Raises OverloadedError where many watch already."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise OverloadedError("trace", pending=len(self._watchers), limit=MAX_WATCHERS)
        watcher = _Watcher(pattern)
        self._watchers[watcher] = None
        try:
            while True:
                while watcher.sights:
                    yield watcher.sights.popleft()
                watcher.wake = anyio.Event()
                await watcher.wake.wait()
        finally:
            del self._watchers[watcher]


def _plain(route: Route) -> Iterator[Subscription]:
    for reader in route.plain:
        yield from reader.subscriptions
    for shared in route.shared.values():
        yield from shared
