"""What happens to an agent beside its messages, for whoever watches over it: `async for event in agent.events()`."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple, Self, TypeAlias

import anyio

KEPT: Final = 1_024


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


class Events:
    """The last KEPT of them. One reader gets each; it is over when the agent is."""

    def __init__(self) -> None:
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._event: anyio.Event | None = None
        self._is_open = True

    def add(self, one: Event) -> None:
        self._kept.append(one)
        self._wake()

    def close(self) -> None:
        self._is_open = False
        self._wake()

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Each once, as they come; those that came before, too."""
        while not self._kept:
            if not self._is_open:
                raise StopAsyncIteration
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        return self._kept.popleft()
