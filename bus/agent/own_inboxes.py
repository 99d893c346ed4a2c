"""The inbox keys of the agents of this host: shown to those who send, and unsealed when a grant comes that is sealed to one.

To unseal is an operation of the TPM, once for each key. The grant waits for it; envelopes that need the grant are parked meanwhile,
as for any key that is not here yet.

Anybody may send grants that name keys which nobody has, and each costs a look at the disk. So of each sender a few keys are looked
for at a time, and what it sends beyond that is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from bus.clock import Clock
from bus.errors import BusError
from bus.flow.quiet import Quiet
from bus.identity.epochs.keyring import Keyring
from bus.protocol.codec import pack
from bus.protocol.kem import PrivateKey

_log = logging.getLogger("bus.agent")
MAX_KEYS: Final = 8
"""Of one agent that are looked for at a time because of one sender; more than it can have heard of."""
MAX_ALL: Final = 4_096
"""A broker may name as many senders as it likes."""
MAX_WAITING: Final = 1_024
"""Grants of one sender that wait for one key."""
Place = tuple[str, bytes]
"""An agent, and the id of a key."""


class OwnInbox(Protocol):
    """Of one agent."""

    @property
    def certificate(self) -> bytes:
        """The newest; empty if there is none."""

    async def private(self, key_id: bytes) -> PrivateKey | None:
        """The key of this id; None if it is none of the agent's, or none any more. Raises VaultError, TpmError."""


class OwnInboxes:
    def __init__(self, keyring: Keyring, start: Callable[[Callable[[], Awaitable[None]]], None], clock: Clock) -> None:
        self._keyring, self._start = keyring, start
        self._clock, self._quiet = clock, Quiet()
        self._of: dict[str, tuple[OwnInbox, bytes]] = {}
        self._waiting: dict[tuple[str, str], dict[bytes, list[Callable[[], None]]]] = {}
        """By sender and agent, then by key: what goes on when it is here, or is known to be none."""
        self._count = 0
        """Keys that are looked for."""

    def add(self, agent: str, inbox: OwnInbox, identity: bytes) -> None:
        """`identity`: the certificate that signed the inbox's."""
        self._of[agent] = inbox, identity

    def remove(self, agent: str) -> None:
        self._of.pop(agent, None)

    def papers(self, agent: str | None = None) -> list[bytes]:
        """What others need to seal to them (or to this one), as PAPERS carries it."""
        wanted = self._of.values() if agent is None else [self._of[agent]] if agent in self._of else []
        return [pack([inbox.certificate, identity]) for inbox, identity in wanted if inbox.certificate]

    def unseal(self, place: Place, sender: str, then: Callable[[], None]) -> bool:
        """Have this key open, and then go on; False if the agent has no inbox here, or this sender wants too much at a time."""
        found = self._of.get(place[0])
        if found is None:
            return False
        agent, key_id = place
        mine = self._waiting.get((sender, agent), {})
        waiting = mine.get(key_id)
        if waiting is not None:
            if len(waiting) >= MAX_WAITING:
                return False
            waiting.append(then)
            return True
        if len(mine) >= MAX_KEYS or self._count >= MAX_ALL:
            return False
        mine[key_id] = [then]
        self._waiting[sender, agent] = mine
        self._count += 1

        async def work() -> None:
            await self._open(place, found[0])
            for call in self._taken(place, sender):
                call()

        self._start(work)
        return True

    async def _open(self, place: Place, inbox: OwnInbox) -> None:
        agent, key_id = place
        try:
            key = await inbox.private(key_id)
        except BusError as error:
            if self._quiet.may_say(agent, now=self._clock.monotonic()):  # whoever seals to it decides how often it is tried
                _log.warning("an inbox key of %s does not open: %s", agent, error)
        else:
            if key is not None:
                self._keyring.own_inbox(agent, key)

    def _taken(self, place: Place, sender: str) -> list[Callable[[], None]]:
        agent, key_id = place
        self._count -= 1
        mine = self._waiting[sender, agent]
        waiting = mine.pop(key_id)
        if not mine:
            del self._waiting[sender, agent]
        return waiting
