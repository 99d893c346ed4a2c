"""What was refused, for whoever wants to know: an agent's `refusals()`, and one line in the log an offender and minute.

Nothing here ever stops a reader: whoever forges an envelope must not be able to end somebody's loop.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Final, Literal, NamedTuple

import anyio

_log = logging.getLogger("bus.agent")
KEPT: Final = 1_024
MAX_OFFENDERS: Final = 1_024
QUIET_SECONDS: Final = 60.0


class Refusal(NamedTuple):
    direction: Literal["in", "out"]
    """Of what came, or of what was sent."""
    agent: str
    """Who sent it, or says so."""
    topic: str
    reason: str
    id: str


class Refusals:
    """The last KEPT of them; how many there were is counted by direction and reason."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._kept: deque[Refusal] = deque(maxlen=KEPT)
        self._event: anyio.Event | None = None
        self._quiet: dict[tuple[str, str, str], float] = {}

    def add(self, one: Refusal, *, now: float) -> None:
        """`now` is of a clock that never runs backwards."""
        self.counts[one.direction, one.reason] += 1
        self._kept.append(one)
        if self._event is not None:
            self._event.set()
            self._event = None
        offender = (one.direction, one.agent, one.reason)
        if self._quiet.get(offender, now) <= now:
            if len(self._quiet) >= MAX_OFFENDERS:
                self._quiet.clear()
            self._quiet[offender] = now + QUIET_SECONDS
            verb = "refused what came from" if one.direction == "in" else "could not send for"
            _log.warning("%s %s on %s: %s", verb, one.agent or "somebody", one.topic or "a topic", one.reason)

    async def __aiter__(self) -> AsyncIterator[Refusal]:
        """Each once, as they come; those that came before, too. One reader gets each."""
        while True:
            while self._kept:
                yield self._kept.popleft()
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
