"""Where an envelope goes: for each topic the links that get it, worked out once and kept until a subscription, policy or trust
changes. Then one number is another, and each route is worked out anew when it is next needed.

    plain     readers on links that have no member of a queue group for this topic
    shared    plain readers on links that have one: a link gets an envelope once, with all its subscriptions, so these wait with it
    groups    the members of each queue group, of which one gets it

Policy is asked here, for each reader and topic: a subscription may stand although some of its topics are not for the agent.

What a neighbour brings has routes of its own: to the readers here, and of groups to those for which this broker was chosen.

Of what an agent at a neighbour subscribes to in the same words, one stands for all: the neighbour finds its readers itself, and who
says the same a thousand times makes no route longer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from bus.broker.crossing import Reader
from bus.broker.host_link import HostLink, Subscription
from bus.flow.trie import Trie
from bus.identity.envelopes.snapshot import Snapshot

MAX_ROUTES: Final = 16_384
"""A full table starts anew."""
MAX_PICKED: Final = 1_024
ENVELOPE: Final = 0
RECORD: Final = 1

Members = tuple[Subscription, ...]
_Words = tuple[HostLink, str, str, str, bool]


@dataclass(slots=True, eq=False)
class Route:
    version: int
    plain: tuple[Reader, ...]
    shared: dict[HostLink, tuple[Subscription, ...]] = field(default_factory=dict)
    groups: tuple[Members, ...] = ()
    _picked: dict[Members, tuple[Reader, ...]] = field(default_factory=dict, repr=False)

    @property
    def is_heard(self) -> bool:
        return bool(self.plain or self.groups)

    def with_picks(self, picks: Members) -> tuple[Reader, ...]:
        """The links with group members, and what each of them gets when these were picked."""
        found = self._picked.get(picks)
        if found is None:
            hosts: dict[HostLink, list[Subscription]] = {host: [*plain] for host, plain in self.shared.items()}
            for one in picks:
                hosts.setdefault(one.host, []).append(one)
            found = tuple(Reader.of(host, ones) for host, ones in hosts.items())
            if len(self._picked) >= MAX_PICKED:
                self._picked.clear()
            self._picked[picks] = found
        return found


class Router:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._trie: Trie[Subscription] = Trie()
        self._routes: dict[str, Route] = {}
        self._here: dict[tuple[str, frozenset[str]], Route] = {}
        self._version = 0
        self._stands: dict[_Words, Subscription] = {}
        """Of neighbours, for those that are alike."""
        self._alike: dict[_Words, dict[Subscription, None]] = {}
        """The others; of these the last is next, because a dictionary that is emptied from its front is slow."""
        self._shared: Trie[object] = Trie()
        """Patterns of groups whose records are kept."""

    def __len__(self) -> int:
        """Subscriptions, alike ones at neighbours as one."""
        return len(self._trie)

    def follow(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._version += 1

    def add(self, subscription: Subscription) -> None:
        if subscription.host.is_neighbour:
            words = _words(subscription)
            if self._stands.setdefault(words, subscription) is not subscription:
                self._alike.setdefault(words, {})[subscription] = None
                return
        self._trie.add(subscription.pattern, subscription)
        self._version += 1

    def remove(self, subscription: Subscription) -> None:
        if subscription.host.is_neighbour and not self._leaves(subscription):
            return
        self._trie.remove(subscription.pattern, subscription)
        self._version += 1

    def is_lost(self) -> None:
        """A link is: nothing goes there any more, though its subscriptions are let go of only later."""
        self._version += 1

    def _leaves(self, subscription: Subscription) -> bool:
        """Whether it stood for all that are alike; then another does."""
        words = _words(subscription)
        alike = self._alike.get(words, {})
        stood = self._stands[words] is subscription
        if not stood:
            del alike[subscription]
        elif alike:
            self._stands[words] = alike.popitem()[0]
            self._trie.add(subscription.pattern, self._stands[words])
        else:
            del self._stands[words]
        if not alike:
            self._alike.pop(words, None)
        return stood

    def route(self, topic: str) -> Route:
        found = self._routes.get(topic)
        if found is None or found.version != self._version:
            found = self._work_out(topic)
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[topic] = found
        return found

    def here(self, topic: str, chosen: frozenset[str]) -> Route:
        """Of what a neighbour has brought: never to another neighbour, and to members of these groups alone."""
        key = topic, chosen
        found = self._here.get(key)
        if found is None or found.version != self._version:
            found = self._work_out(topic, chosen)
            if len(self._here) >= MAX_ROUTES:
                self._here.clear()
            self._here[key] = found
        return found

    def stopper(self, host: HostLink, topic: str) -> Subscription | None:
        """Of a neighbour: a subscription that may hear this topic and may stop it; of several that are alike, the newest."""
        for one in reversed(self._trie.match(topic)):
            if one.may_stop and one.host is host and self._snapshot.may_hear(one.agent, topic):
                return one
        return None

    def share(self, pattern: str, group: object) -> None:
        """A group takes what is kept there."""
        self._shared.add(pattern, group)

    def share_no_more(self, pattern: str, group: object) -> None:
        self._shared.remove(pattern, group)

    def unit(self, topic: str) -> int:
        """How many records may be in an envelope: groups share them out one by one."""
        if self._snapshot.rule(topic).unit == "record" or self.route(topic).groups:
            return RECORD
        return RECORD if self._shared and self._shared.match(topic) else ENVELOPE

    def is_kept(self, topic: str) -> bool:
        return self._snapshot.rule(topic).is_durable

    def may_hear(self, agent: str, topic: str) -> bool:
        return self._snapshot.may_hear(agent, topic)

    def _work_out(self, topic: str, chosen: frozenset[str] | None = None) -> Route:
        """`chosen`: it comes from a neighbour, for these groups."""
        plain: dict[HostLink, list[Subscription]] = {}
        groups: dict[str, list[Subscription]] = {}
        for one in self._trie.match(topic):
            if one.host.is_gone or (chosen is not None and (one.host.is_neighbour or (one.group and one.group not in chosen))):
                continue
            if not self._snapshot.may_hear(one.agent, topic):
                continue
            if one.group:
                groups.setdefault(one.group, []).append(one)
            else:
                plain.setdefault(one.host, []).append(one)
        with_members = {one.host for members in groups.values() for one in members}
        return Route(
            self._version,
            plain=tuple(Reader.of(host, ones) for host, ones in plain.items() if host not in with_members),
            shared={host: tuple(ones) for host, ones in plain.items() if host in with_members},
            groups=tuple(tuple(members) for members in groups.values()),
        )


def _words(one: Subscription) -> _Words:
    return one.host, one.agent, one.pattern, one.group, one.may_stop
