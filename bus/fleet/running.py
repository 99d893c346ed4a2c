"""A fleet that runs: in this process or in several, with its figures, and with an end in the right order.

begin      all agents listen before the first one speaks: otherwise what is said first would be heard by some
look       readings, taken from each other, are figures; the broker's and the TPM's are the hub's, the rest everybody's
end        nobody says anything new; what was said is taken in; then the books are closed, and only then the agents
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import anyio

from bus.clock import Clock
from bus.fleet.books import books
from bus.fleet.children import started
from bus.fleet.crew import Crew
from bus.fleet.figures import Figures, figures
from bus.fleet.mix import Mix
from bus.hub.collecting import leave_what_is_here
from bus.hub.household import alone
from bus.metrics.sources import added, counts, plain

REST_SECONDS: Final = 3.0
"""To come to rest: until two readings, so far apart, say the same."""
REST_STEP_SECONDS: Final = 0.1


class Speakers(Protocol):
    """A crew, or several processes with one each."""

    async def speak_up(self, *, rate: float) -> None: ...

    async def fall_silent(self) -> None: ...

    async def reading(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """Where the hub's own numbers come from: host and broker, and the TPM's engine."""

    statistics: Callable[[], Awaitable[Mapping[str, Any]]]


class Fleet:
    """Made by `running`."""

    def __init__(self, speakers: Speakers, hub: Measured, mix: Mix | None, *, processes: int, clock: Clock) -> None:
        self._speakers, self._hub, self._mix, self._processes, self._clock = speakers, hub, mix, processes, clock
        self._began = clock.monotonic()
        self._last: dict[str, Any] = {}

    async def reading(self) -> dict[str, Any]:
        ours, theirs = plain(await self._hub.statistics()), plain(await self._speakers.reading())
        hosts = added([host for host in (ours.get("host"), theirs.pop("host", None)) if host])
        return {
            "seconds": round(self._clock.monotonic() - self._began, 3),
            "processes": self._processes,
            "agents": 0,
            "lost": {},
            **theirs,
            "hosts": hosts,
            "broker": ours.get("broker", {}),
            "tpm": ours.get("tpm", {}),
        }

    async def figures(self) -> Figures:
        """Of the time since this was asked last."""
        before, self._last = self._last, await self.reading()
        return figures(before or self._last, self._last)

    async def speak_up(self, *, rate: float) -> None:
        await self._speakers.speak_up(rate=rate)

    async def come_to_rest(self) -> dict[str, Any]:
        """Nobody says anything new; the last reading, when nothing moves any more."""
        await self._speakers.fall_silent()
        before, until = await self.reading(), self._clock.monotonic() + REST_SECONDS
        while self._clock.monotonic() < until:
            await self._clock.sleep(REST_STEP_SECONDS)
            now = await self.reading()
            if _moves(before, now):
                before = now
                continue
            return now
        return before

    def whole(self, last: Mapping[str, Any]) -> Figures:
        """Of the whole run, not of an interval of it."""
        return figures({**last, "seconds": 0.0, "hosts": {}, "broker": {}, "tpm": {}, "play": {}}, last)

    def report(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """The whole run in one document."""
        whole = self.whole(last)
        document: dict[str, Any] = {
            "seconds": last["seconds"],
            "processes": last["processes"],
            "agents": last["agents"],
            "lost": dict(last["lost"]),
            "published_a_second": round(whole.published, 1),
            "delivered_a_second": round(whole.delivered, 1),
            "latency": dict(whole.latency),
            "round_trip": dict(whole.round_trip),
            "tpm": dict(last["tpm"]),
            "cache_hit_rate": {"signatures": _rounded(whole.signature_hits), "chains": _rounded(whole.chain_hits)},
            "talk": [{"from": sender, "to": reader, "a_second": round(rate, 2)} for sender, reader, rate in whole.talk],
        }
        if self._mix is not None and "play" in last:
            dropped, refused = counts(last["broker"], "dropped"), last["hosts"].get("refusals", {})
            document["books"] = books(self._mix, last["play"], dropped=dropped, refused=refused)
        return document | {"hosts": last["hosts"], "broker": last["broker"]}


@asynccontextmanager
async def running(
    hub: Measured, crew: Crew | None, commands: Sequence[Sequence[str]], mix: Mix | None, *, clock: Clock
) -> AsyncIterator[Fleet]:
    """With a crew of this process, or with a process for each command. All agents listen when the block begins."""
    if crew is None:
        async with started(commands) as children:
            yield Fleet(children, hub, mix, processes=1 + len(commands), clock=clock)
        return
    async with alone(), anyio.create_task_group() as tasks:
        await tasks.start(crew.run)
        leave_what_is_here()
        yield Fleet(crew, hub, mix, processes=1, clock=clock)
        tasks.cancel_scope.cancel()


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _moves(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    def counted(reading: Mapping[str, Any]) -> list[Any]:
        return [reading["hosts"].get("received"), reading["broker"].get("held"), reading.get("play", {}).get("delivered")]

    return counted(before) != counted(now)
