"""From a name to what a host opens: the agent's identity key, its certificate, its inbox keys, an ML-DSA key where it needs one.

Each step looks at what is there and makes what is missing. So an agent is enrolled when it is opened for the first time, and none
is that nobody opens. Who certifies is somebody else: the authority of this process, the hub's that runs, or nobody here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from anyio import Lock, to_thread

from bus.clock import Clock
from bus.errors import AttestationError, RevokedError, VaultError
from bus.hub.cosigners import Cosigners
from bus.hub.enrolling import Enrolled, fits
from bus.hub.inboxes import Inboxes
from bus.hub.state import State
from bus.identity.anchor import Anchor
from bus.identity.host.session import Holder
from bus.identity.inbox import Inbox, InboxFolder, Signer
from bus.identity.inbox_record import Place
from bus.identity.provision import plan
from bus.identity.public_trust import read_agent
from bus.policy import Policy
from bus.protocol.kem import PrivateKey
from bus.tpm.interface import Facts, KeyInfo, TpmEngine
from bus.trust.certificates import Certificate


class Certifier(Protocol):
    def enroll(self, keys: Sequence[KeyInfo]) -> AsyncIterator[Enrolled]:
        """Certificates for the agents that have these keys. Raises AttestationError, TpmError."""


@dataclass(frozen=True, slots=True)
class Openable:
    """An agent with all that it needs to be opened here."""

    holder: Holder
    inbox: Inbox
    """Its private keys for what was sent to its durable subscriptions: unsealed when they are needed."""


@dataclass(slots=True, eq=False)
class AgentPapers:
    """Of one state folder, with its engine open."""

    state: State
    engine: TpmEngine
    anchor: Anchor
    environ: Mapping[str, str]
    clock: Clock
    certifier: Certifier | None
    """None: nobody certifies here."""
    cosigners: Cosigners
    _facts: Facts | None = None
    _places: dict[str, Place] = field(default_factory=dict)
    _enrolling: Lock = field(default_factory=Lock)
    """One after the other: two at once would make two certificates for one name."""

    async def of(self, name: str, policy: Policy) -> Openable:
        """Raises NotPermittedError where policy does not know the name or wants its key elsewhere, VaultError("missing") where it
        has no certificate and nobody here makes one, RevokedError, AttestationError, TpmError.
        """
        role = policy.role_of(name)
        if self._facts is None:
            self._facts = await self.engine.facts()
        (wanted,) = plan(policy, [name], origin=self._facts.origin, environ=self.environ)
        key = await self.engine.create(name, wanted.suite, origin=wanted.origin)
        async with self._enrolling:
            certificate, prepared = await self._certificate(key)
            inboxes = await Inboxes.open(self.state, self.engine, policy, places=self._places, clock=self.clock)
            await inboxes.keep(Signer(certificate, key.id), prepared=prepared)
        inbox = await Inbox.open(InboxFolder(self.state.inbox), self.engine, name, clock=self.clock)
        return Openable(Holder.of(certificate, key.id, role, ml_dsa=await self.cosigners.of(name, policy)), inbox)

    async def _certificate(self, key: KeyInfo) -> tuple[Certificate, PrivateKey | None]:
        """The one in force, or a new one with the inbox key that was named for it."""
        found = await to_thread.run_sync(self._in_force, key.name)
        if found is not None and fits(found, key, now_ms=self.clock.now_ms()):
            return found, None
        if self.certifier is None:
            text = f"{key.name} has no certificate for its key yet: `tpmbus provision {key.name}` enrols it"
            raise VaultError("missing", text, path=str(self.state.trust / "public" / "certificates" / f"{key.name}.pem"))
        try:
            (made,) = [one async for one in self.certifier.enroll([key])]
        except AttestationError as error:
            if error.reason != "uid_unknown":
                raise
            raise RevokedError(key.name, uid=os.getuid()) from error
        return made.certificate, made.inbox_key

    def _in_force(self, name: str) -> Certificate | None:
        return read_agent(self.state.trust / "public", name, root=self.anchor.root, domain=self.anchor.domain)
