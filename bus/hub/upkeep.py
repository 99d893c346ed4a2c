"""What a bus that runs for months has to look after: certificates that end in a year, inbox keys that are a week old.

Each hour, and when policy changed, the papers of every open agent are made as if it were opened now. What is good stays as it is;
what was renewed takes the place of the old: sessions are certified by the new identity, and senders are shown the new inbox key.
What fails is said, and tried again in an hour; there is a month for a certificate, and weeks for a key.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import anyio

from bus.agent.host import Host
from bus.clock import Clock
from bus.errors import BusError
from bus.hub.agent_papers import Openable
from bus.identity.envelopes.snapshot import Snapshot

_log = logging.getLogger(__name__)
LOOK_SECONDS: Final = 3_600.0


class Upkeep:
    """Of the agents of one host. `besides`: what else is to be renewed."""

    def __init__(
        self,
        host: Host,
        papers_of: Callable[[str], Awaitable[Openable]],
        *,
        besides: Callable[[], Awaitable[None]] | None = None,
        clock: Clock,
    ) -> None:
        self._host, self._papers_of, self._besides, self._clock = host, papers_of, besides, clock
        self._policy = host.keyring.snapshot.policy
        self._shown: dict[str, bytes] = {}
        self._wanted = anyio.Event()

    def follow(self, snapshot: Snapshot) -> None:
        """Another policy: it may want other keys. Another statement alone changes nothing here."""
        if snapshot.policy is not self._policy:
            self._policy = snapshot.policy
            self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wait()
            if self._besides is not None:
                await _said("the broker's papers", self._besides)
            for name in [*self._host.agents]:
                await _said(f"the papers of {name}", partial(self._renew, name))

    async def _wait(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._timer, tasks.cancel_scope)
            await self._wanted.wait()
            tasks.cancel_scope.cancel()
        self._wanted = anyio.Event()

    async def _timer(self, scope: anyio.CancelScope) -> None:
        await self._clock.sleep(LOOK_SECONDS)
        scope.cancel()

    async def _renew(self, name: str) -> None:
        host = self._host
        found = await self._papers_of(name)
        held = host.sessions.holders.get(name)
        if held is None:
            return  # it was closed meanwhile
        if found.holder != held:
            await host.sessions.replace(found.holder)
            _log.info("%s goes on with a new certificate", name)
        if self._shown.get(name) != found.inbox.certificate and name in host.agents:
            self._shown[name] = found.inbox.certificate
            host.own_inboxes.add(name, found.inbox, found.holder.identity.der)
            host.show_inboxes()


async def _said(what: str, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except BusError as error:
        _log.warning("%s are not renewed: %s", what, error)
