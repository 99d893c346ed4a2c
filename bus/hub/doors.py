"""Where a hub lets others in: every address that it listens at, and what is shown at those of TLS.

A certificate lasts a day, and the list of revocations changes with trust: whoever comes next is shown and asked what is newest.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import anyio

from bus.clock import Clock
from bus.errors import BusError
from bus.hub.state import State
from bus.hub.tls_papers import Hosts, Issue, TlsPapers
from bus.identity.anchor import BROKER, Anchor
from bus.transport import address
from bus.transport.address import TlsAddress
from bus.transport.link import Link
from bus.transport.listening_links import Door, TurnAway, listening
from bus.transport.tls import Tls

_log = logging.getLogger(__name__)
REFRESHED_SECONDS: Final = 3_600.0


def hosts_of(urls: Sequence[str]) -> Hosts:
    """What a certificate for these addresses names; nothing, if none is of TLS. Raises ConnectError for what is no address."""
    return Hosts.of(*(place for url in urls if isinstance(place := address.parse(url), TlsAddress)))


def broker_tls(state: State, anchor: Anchor, urls: Sequence[str], *, name: str = BROKER) -> TlsPapers:
    """What a broker shows at these addresses."""
    return TlsPapers(state.broker / "tls", name, anchor, state.trust / "public", hosts=hosts_of(urls))


class Doors:
    def __init__(
        self, urls: Sequence[str], state: State, anchor: Anchor, issue: Issue | None, *, broker: str, clock: Clock
    ) -> None:
        """Without `issue` somebody else renews what is shown over TLS. Raises ConnectError for what is no address."""
        self._asked, self._issue, self._clock = urls, issue, clock
        self._hosts = hosts_of(urls)
        self._papers = broker_tls(state, anchor, urls, name=broker)
        self._doors: list[Door] = []
        self._changed = anyio.Event()

    @property
    def urls(self) -> list[str]:
        """Where others come in: with its number where any free port would do."""
        return [door.url for door in self._doors]

    @property
    def silent(self) -> int:
        """Who has come and not said a word."""
        return sum(door.silent for door in self._doors)

    @asynccontextmanager
    async def open(self, on_link: Callable[[Link], None], turn_away: TurnAway) -> AsyncIterator[None]:
        """Both as `listening` has them. Raises ConnectError, StateInUseError for an address that another live process has."""
        tls = await self._tls()
        async with AsyncExitStack() as stack:
            for url in self._asked:
                shown = tls if isinstance(address.parse(url), TlsAddress) else None
                self._doors.append(await stack.enter_async_context(listening(url, on_link, tls=shown, turn_away=turn_away)))
            yield

    def trust_changed(self, *_: object) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Show what is newest, until cancelled."""
        while self._hosts != Hosts():
            await self._wait()
            try:
                tls = await self._tls()
            except BusError as error:
                _log.error("what is shown over TLS stays as it is: %s", error)
                continue
            for door in self._doors:
                if door.tls is not None:
                    door.tls = tls

    async def _wait(self) -> None:
        """Until trust has changed, or it is time to look."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._timer, tasks.cancel_scope)
            await self._changed.wait()
            tasks.cancel_scope.cancel()
        self._changed = anyio.Event()

    async def _timer(self, scope: anyio.CancelScope) -> None:
        await self._clock.sleep(REFRESHED_SECONDS)
        scope.cancel()

    async def _tls(self) -> Tls | None:
        if self._hosts == Hosts():
            return None
        return await self._papers.get(self._issue, is_client=False, now_ms=self._clock.now_ms())
