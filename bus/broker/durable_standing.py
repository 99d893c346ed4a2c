"""Who has durable subscriptions, here or away: whoever publishes for them is told, so that they can open what they will find.

an agent     listens as long as its consumer is there
a group      all whom policy lets join it for these topics: which of them will take a record, nobody knows yet
looked up    when a broker begins, and every minute: consumers that nobody used are removed. And when a neighbour is lost: what it
             told of its own is forgotten, and is there still
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

import anyio

from bus.backbone.interface import Backbone, ConsumerName
from bus.broker.durable_classes import Classes
from bus.broker.durable_inboxes import Inboxes
from bus.broker.durable_moving import Stands, stands
from bus.broker.interest import Interest
from bus.broker.router import Router
from bus.broker.subscribing import Subscribing, may_subscribe
from bus.errors import BackboneError
from bus.policy import Policy
from bus.protocol.names import is_agent_name

_NOBODY: Final = Stands("", "", "")


class _Known(NamedTuple):
    stands: Stands
    agents: tuple[str, ...]


class Standing:
    def __init__(
        self,
        backbone: Backbone,
        classes: Classes,
        inboxes: Inboxes,
        *,
        interest: Interest,
        router: Router,
        subscribing: Subscribing,
    ) -> None:
        self._backbone, self._classes, self._inboxes = backbone, classes, inboxes
        self._interest, self._router, self._subscribing = interest, router, subscribing
        self._known: dict[ConsumerName, _Known] = {}
        self._wanted = anyio.Event()
        self._is_stale = False

    def find(self, name: ConsumerName) -> Stands | None:
        found = self._known.get(name)
        return None if found is None else found.stands

    async def refresh(self) -> None:
        """As the backbone says. Raises BackboneError."""
        before = [*self._known]  # what is made meanwhile is not missing
        there = stands(await self._backbone.consumers())
        await self._load(there)
        for name in before:
            if name not in there:
                self._drop(name)
        for name, one in there.items():
            self._put(name, one)

    def is_there(self, name: ConsumerName, one: Stands) -> None:
        """It was made, or opened."""
        self._put(name, one)
        self._wanted.set()

    def look_again(self) -> None:
        """As soon as can be."""
        self._is_stale = True
        self._wanted.set()

    def follow(self) -> None:
        """By another policy, others may be in a group."""
        for name, known in [*self._known.items()]:
            self._drop(name)
            self._put(name, known.stands)
        self._wanted.set()

    async def run(self) -> None:
        """Look up the inboxes of those who are new; until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            if self._is_stale:
                self._is_stale = False
                with suppress(BackboneError):  # it cannot be asked now; in a minute it is anyway
                    await self.refresh()
            await self._load({name: known.stands for name, known in self._known.items()})

    async def _load(self, there: Mapping[ConsumerName, Stands]) -> None:
        names = {agent: None for name, one in there.items() for agent in self._agents(name, one.pattern)}
        await self._inboxes.load(names)

    def _put(self, name: ConsumerName, one: Stands) -> None:
        known = self._known.get(name)
        if known is not None and known.stands == one:
            return
        self._drop(name)
        agents = self._agents(name, one.pattern)
        self._known[name] = _Known(one, agents)
        for agent in agents:
            self._interest.keep(agent, one.pattern)
        if not is_agent_name(name.owner):
            self._router.share(one.pattern, name)
            self._subscribing.refresh_units(one.pattern)

    def _drop(self, name: ConsumerName) -> None:
        known = self._known.pop(name, None)
        if known is None:
            return
        pattern = known.stands.pattern
        for agent in known.agents:
            self._interest.keep_no_more(agent, pattern)
        if not is_agent_name(name.owner):
            self._router.share_no_more(pattern, name)
            self._subscribing.refresh_units(pattern)

    def _agents(self, name: ConsumerName, pattern: str) -> tuple[str, ...]:
        policy = self._classes.snapshot.policy
        if is_agent_name(name.owner):
            return (name.owner,) if may_subscribe(policy, name.owner, pattern, "") else ()
        return tuple(_members(policy, name.owner, pattern))


def _members(policy: Policy, group: str, pattern: str) -> Iterable[str]:
    """What a role may, all of its agents may."""
    for role in policy.roles:
        members = policy.members(role)
        if members and may_subscribe(policy, members[0], pattern, group):
            yield from members
