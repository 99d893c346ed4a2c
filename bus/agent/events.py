"""What happens to an agent beside its messages, for whoever watches over it: `async for event in agent.events()`."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from bus.agent.last_ones import LastOnes


class Connected(NamedTuple):
    """There is a link to the broker again; what was not credited is sent again."""


class Disconnected(NamedTuple):
    """There is none. Iterators wait for the next one, and what is published waits in its lanes."""

    reason: str


class Renewed(NamedTuple):
    """It has another session certificate; from time to time this is as it should be."""


class PolicyChanged(NamedTuple):
    """Another policy is in force, and everything was judged again by it."""


class Missed(NamedTuple):
    """Messages were lost before the one that a subscription hands out next."""

    pattern: str
    messages: int


Event: TypeAlias = Connected | Disconnected | Renewed | PolicyChanged | Missed


class Events(LastOnes[Event]):
    def add(self, one: Event) -> None:
        self.keep(one)
