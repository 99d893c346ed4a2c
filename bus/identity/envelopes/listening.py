"""What the agents of a host listen to: the agent picks who gets an envelope, by the verified topic; the broker never does.

Immutable; a changed subscription makes another one. Which subscriptions a topic reaches is worked out once for each topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bus.flow.ledger import Ledger
from bus.identity.envelopes.reserved import requester_of
from bus.protocol.header import Header
from bus.protocol.topics import matches

MAX_KEPT: Final = 8_192


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """One that an agent has. With a ledger it is durable; without, what was sent before the agent began is not for it."""

    agent: str
    pattern: str
    began_ms: int
    ledger: Ledger | None = field(default=None, repr=False)
    dead: bool = False
    """Whether it reads dead letters of its pattern, and those alone."""


@dataclass(frozen=True, slots=True)
class Request:
    """One that still waits for an answer."""

    topic: str
    expires_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Listening:
    subscriptions: tuple[Subscription, ...]
    requests: Mapping[tuple[str, bytes], Request] = field(default_factory=dict)
    """What agents asked and have no answer to, by agent and id of the request."""
    sessions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The ids, in hex, of all sessions that each agent has had since its oldest open request."""
    _reached: dict[tuple[str, bool], tuple[Subscription, ...]] = field(init=False, repr=False, default_factory=dict)

    @classmethod
    def to(cls, subscriptions: Iterable[Subscription]) -> Listening:
        return cls(tuple(subscriptions))

    def reached(self, topic: str, *, dead: bool = False) -> tuple[Subscription, ...]:
        """The subscriptions that this topic matches."""
        key = (topic, dead)
        found = self._reached.get(key)
        if found is None:
            found = tuple(one for one in self.subscriptions if one.dead == dead and matches(one.pattern, topic))
            if len(self._reached) >= MAX_KEPT:
                self._reached.clear()
            self._reached[key] = found
        return found

    def asked(self, header: Header, *, now_ms: int) -> tuple[str, Request] | None:
        """Who waits for this reply, and what was asked; None if nobody does."""
        requester = requester_of(header.topic)
        if requester is None or header.topic.rpartition(".")[2] not in self.sessions.get(requester, ()):
            return None
        request = self.requests.get((requester, header.ref))
        return None if request is None or now_ms > request.expires_ms else (requester, request)
