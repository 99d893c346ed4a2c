"""The last things of a kind, for one reader who comes now and then: what happened to an agent, what was refused.

Bounded, and nobody ever waits for the reader: where it stays away, the oldest go.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, Self, TypeVar

import anyio

KEPT: Final = 1_024
_Thing = TypeVar("_Thing")


class LastOnes(Generic[_Thing]):
    """The last KEPT of them. One reader gets each; it is over when the agent is."""

    def __init__(self) -> None:
        self._kept: deque[_Thing] = deque(maxlen=KEPT)
        self._event: anyio.Event | None = None
        self._is_open = True

    def keep(self, one: _Thing) -> None:
        self._kept.append(one)
        self._wake()

    def close(self) -> None:
        """Nothing comes any more: who reads hears the rest."""
        self._is_open = False
        self._wake()

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Thing:
        """Each once, as they come; those that came before, too."""
        while not self._kept:
            if not self._is_open:
                raise StopAsyncIteration
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        return self._kept.popleft()
