"""What the agents of a host listen to: the agent picks who gets an envelope, by the verified topic; the broker never does.

Which subscriptions a topic reaches is worked out once for each topic, and anew when one comes or goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from bus.flow.ledger import Ledger
from bus.flow.trie import Trie
from bus.identity.envelopes.reserved import requester_of
from bus.protocol.header import Header

if TYPE_CHECKING:
    from bus.identity.envelopes.snapshot import Snapshot

MAX_KEPT: Final = 8_192
MAX_NAMED: Final = 128
"""A delivery that names more is looked at by itself: whoever names them may name them in any number of ways."""


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """One that an agent has. With a ledger it is durable; without, what was sent before the agent began is not for it."""

    agent: str
    pattern: str
    began_ms: int
    ledger: Ledger | None = field(default=None, repr=False)
    dead: bool = False
    """Whether it reads dead letters of its pattern, and those alone."""


class Hearing(NamedTuple):
    """One subscription that gets it."""

    subscription: Subscription
    indexes: tuple[int, ...] | None
    """The records that it gets; None for all of them."""
    redelivered: bool


class Alike(NamedTuple):
    """Subscriptions that a topic reaches, of which all are live and may hear it: of an envelope they get the same."""

    hearings: tuple[Hearing, ...]
    began_ms: int
    """When the last of their agents began."""


@dataclass(frozen=True, slots=True)
class Request:
    """One that still waits for an answer."""

    topic: str
    expires_ms: int


class Listening:
    """Subscriptions come and go by `add` and `remove`; nothing waits while one envelope is judged, so it is judged by one state.

    `requests`: what agents asked and have no answer to, by agent and id of the request. `sessions`: the ids, in hex, of all
    sessions that each agent has had since its oldest open request. Both are read when a reply comes, and kept by their owner.
    """

    __slots__ = ("_alike", "_by", "_found", "_live", "_reached", "requests", "sessions")

    def __init__(
        self,
        subscriptions: Iterable[Subscription] = (),
        requests: Mapping[tuple[str, bytes], Request] | None = None,
        sessions: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.requests = {} if requests is None else requests
        self.sessions = {} if sessions is None else sessions
        self._found: dict[bool, Trie[Subscription]] = {False: Trie(), True: Trie()}
        self._live: dict[Subscription, None] = {}
        self._reached: dict[tuple[str, bool, frozenset[Subscription] | None], tuple[Subscription, ...]] = {}
        self._alike: dict[tuple[str, tuple[Subscription, ...]], Alike] = {}
        self._by: Snapshot | None = None
        """By which these are alike."""
        for one in subscriptions:
            self.add(one)

    @classmethod
    def to(cls, subscriptions: Iterable[Subscription]) -> Listening:
        return cls(subscriptions)

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        return tuple(self._live)

    def add(self, one: Subscription) -> None:
        self._live[one] = None
        self._found[one.dead].add(one.pattern, one)
        self._reached.clear()
        self._alike.clear()

    def remove(self, one: Subscription) -> None:
        """Raises KeyError if it is not there."""
        del self._live[one]
        self._found[one.dead].remove(one.pattern, one)
        self._reached.clear()
        self._alike.clear()

    def reached(self, topic: str, *, dead: bool = False, named: frozenset[Subscription] | None = None) -> tuple[Subscription, ...]:
        """The subscriptions that this topic matches; of these, where some are named, those alone."""
        if named is not None and len(named) > MAX_NAMED:
            return tuple(one for one in self.reached(topic, dead=dead) if one in named)
        key = (topic, dead, named)
        found = self._reached.get(key)
        if found is None:
            found = tuple(one for one in self._found[dead].match(topic) if named is None or one in named)
            if len(self._reached) >= MAX_KEPT:
                self._reached.clear()
            self._reached[key] = found
        return found

    def alike(self, topic: str, reached: tuple[Subscription, ...], snapshot: Snapshot) -> Alike:
        """What can be said of all of these at once: without hearings, where each is to be looked at by itself."""
        if self._by is not snapshot:
            self._alike.clear()
            self._by = snapshot
        key = (topic, reached)
        found = self._alike.get(key)
        if found is None:
            is_so = all(one.ledger is None and not one.dead and snapshot.may_hear(one.agent, topic) for one in reached)
            hearings = tuple(Hearing(one, None, redelivered=False) for one in reached if is_so)
            found = Alike(hearings, max((one.began_ms for one in reached), default=0))
            if len(self._alike) >= MAX_KEPT:
                self._alike.clear()
            self._alike[key] = found
        return found

    def asked(self, header: Header, *, now_ms: int) -> tuple[str, Request] | None:
        """Who waits for this reply, and what was asked; None if nobody does."""
        requester = requester_of(header.topic)
        if requester is None or header.topic.rpartition(".")[2] not in self.sessions.get(requester, ()):
            return None
        request = self.requests.get((requester, header.ref))
        return None if request is None or now_ms > request.expires_ms else (requester, request)
