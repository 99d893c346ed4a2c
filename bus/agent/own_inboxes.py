"""The inbox keys of the agents of this host: shown to those who send, and unsealed when a grant comes that is sealed to one.

To unseal is an operation of the TPM, once for each key. The grant waits for it; envelopes that need the grant are parked meanwhile,
as for any key that is not here yet.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from bus.errors import BusError
from bus.identity.epochs.keyring import Keyring
from bus.protocol.codec import pack
from bus.protocol.kem import PrivateKey

_log = logging.getLogger("bus.agent")


class OwnInbox(Protocol):
    """Of one agent."""

    @property
    def certificate(self) -> bytes:
        """The newest; empty if there is none."""

    async def private(self, key_id: bytes) -> PrivateKey | None:
        """The key of this id; None if it is none of the agent's, or none any more. Raises VaultError, TpmError."""


class OwnInboxes:
    def __init__(self, keyring: Keyring, start: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        self._keyring, self._start = keyring, start
        self._of: dict[str, tuple[OwnInbox, bytes]] = {}

    def add(self, agent: str, inbox: OwnInbox, identity: bytes) -> None:
        """`identity`: the certificate that signed the inbox's."""
        self._of[agent] = inbox, identity

    def remove(self, agent: str) -> None:
        self._of.pop(agent, None)

    def papers(self, agent: str | None = None) -> list[bytes]:
        """What others need to seal to them (or to this one), as PAPERS carries it."""
        wanted = self._of.values() if agent is None else [self._of[agent]] if agent in self._of else []
        return [pack([inbox.certificate, identity]) for inbox, identity in wanted if inbox.certificate]

    def unseal(self, place: tuple[str, bytes], then: Callable[[], None]) -> bool:
        """Have this key open, and then go on; False if the agent has no inbox here."""
        agent, key_id = place
        found = self._of.get(agent)
        if found is None:
            return False

        async def work() -> None:
            try:
                key = await found[0].private(key_id)
            except BusError as error:
                _log.warning("an inbox key of %s does not open: %s", agent, error)
                key = None
            if key is not None:
                self._keyring.own_inbox(agent, key)
            then()

        self._start(work)
        return True
