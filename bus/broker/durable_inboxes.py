"""The inbox papers of agents: shown by who is live, kept over restarts, and told to those who publish for it while it is away.

shown    on the link on which the agent is live, with the identity that it proved there; the newest counts. Whether its
         signature holds is the business of those who seal to it: a false one harms nobody but the agent itself
kept     in the backbone, beside the grants that will be sealed to it, until it ends
loaded   when a broker begins, of all who have a durable subscription. Others may have written where they lay, so they count only
         with the name and the signature that they should have: who is shown something else by its broker would leave it
heard    from a neighbour, of those who are live there or have a durable subscription; that broker keeps them
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import anyio

from bus.backbone.interface import Backbone, Grant
from bus.broker.host_link import HostLink
from bus.broker.offences import Offences
from bus.clock import Clock
from bus.errors import BusError, RemoteProtocolError, VerificationError
from bus.identity.envelopes.believe import believe_inbox
from bus.identity.envelopes.verifier import Verifier
from bus.protocol.codec import array, malformed, sized, unpack
from bus.protocol.papers import InboxCertificate

RETRY_SECONDS: Final = 1.0
FIELDS: Final = 2
SHELF: Final = "_inbox"
"""For whom they are kept. It is no agent's name, so nothing that an agent has kept for somebody ever stands among them."""
_log = logging.getLogger("tpmbus.broker")


class Inbox(NamedTuple):
    papers: bytes
    """As PAPERS carries them."""
    identity: bytes
    counter: int
    key_id: bytes
    not_after_ms: int

    @classmethod
    def parse(cls, data: bytes) -> tuple[str, Inbox]:
        """Whose it is, and it. Raises RemoteProtocolError("malformed")."""
        certificate, identity = fields_of(data)
        body = InboxCertificate.parse(certificate).body
        if hashlib.sha256(identity).digest() != body.identity:
            raise malformed("an inbox certificate stands beside the identity that signed it")
        return body.name, cls(data, identity, body.counter, body.key_id, body.not_after_ms)

    def replaces(self, known: Inbox | None) -> bool:
        """Of those that verify, the one that is newer."""
        if known is None:
            return True
        if known.identity == self.identity:
            return known.counter < self.counter
        return known.not_after_ms < self.not_after_ms


class Inboxes:
    def __init__(self, backbone: Backbone, clock: Clock, verifier: Verifier, now_ms: Callable[[], int], offences: Offences) -> None:
        self._backbone, self._clock, self._verifier, self._now_ms = backbone, clock, verifier, now_ms
        self._offences = offences
        self.changed: Callable[[str], None] = lambda _agent: None
        """Told of each agent whose papers are new."""
        self._of: dict[str, Inbox] = {}
        self._unkept: dict[str, None] = {}
        self._wanted = anyio.Event()

    def papers(self, agent: str) -> bytes | None:
        found = self._of.get(agent)
        return None if found is None else found.papers

    def show(self, host: HostLink, data: bytes) -> None:
        """An agent of this link shows its own. Raises RemoteProtocolError("malformed"), VerificationError("untrusted")."""
        agent, inbox = Inbox.parse(data)
        live = host.agents.get(agent)
        if live is None or live.identity.der != inbox.identity:
            raise VerificationError("untrusted", agent=agent, detail="an inbox of an agent that is not on this link")
        known = self._of.get(agent)
        if known is not None and known.identity == inbox.identity and known.counter >= inbox.counter:
            return
        self._of[agent] = inbox
        self._unkept[agent] = None
        self._wanted.set()
        self.changed(agent)

    def hear(self, data: bytes) -> None:
        """Verified already. Raises RemoteProtocolError("malformed")."""
        agent, inbox = Inbox.parse(data)
        if inbox.replaces(self._of.get(agent)):
            self._of[agent] = inbox
            self.changed(agent)

    async def load(self, agents: Iterable[str]) -> None:
        """Those that are kept, of agents that have none here. Raises BackboneError."""
        for agent in agents:
            if agent in self._of:
                continue
            for data in await self._backbone.grants_for(_shelf(agent), SHELF):
                try:
                    inbox = self._kept_of(agent, data)
                except (RemoteProtocolError, VerificationError) as error:
                    detail = f"of {agent}: {error}"
                    self._offences.note("what is kept", "an inbox that is none is passed over", detail, now=self._clock.monotonic())
                else:
                    if inbox.replaces(self._of.get(agent)):
                        self._of[agent] = inbox
            if agent in self._of:
                self.changed(agent)

    def _kept_of(self, agent: str, data: bytes) -> Inbox:
        """Raises RemoteProtocolError("malformed"), VerificationError."""
        name, inbox = Inbox.parse(data)
        if name != agent:
            raise VerificationError("untrusted", agent=agent, detail=f"it is an inbox of {name}")
        believe_inbox(*fields_of(data), self._verifier, now_ms=self._now_ms())
        return inbox

    async def run(self) -> None:
        """Keep what is new; until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            agents, self._unkept = self._unkept, {}
            rows = [
                Grant(_shelf(agent), SHELF, agent, inbox.key_id, inbox.not_after_ms, inbox.papers)
                for agent in agents
                if (inbox := self._of.get(agent)) is not None
            ]
            try:
                await self._backbone.keep(grants=rows)
            except BusError as error:
                _log.warning("inbox certificates are not kept, which costs those who are away messages: %s", error)
                self._unkept = {**agents, **self._unkept}
                await self._clock.sleep(RETRY_SECONDS)
                self._wanted.set()


def fields_of(data: bytes) -> tuple[bytes, bytes]:
    """The certificate, and the identity that signed it. Raises RemoteProtocolError("malformed")."""
    certificate, identity = array(unpack(data, longest=FIELDS, arrays=1), FIELDS)
    return sized(certificate), sized(identity)


def _shelf(agent: str) -> bytes:
    """Where they stand among the grants: whoever likes may name an epoch so, which is why they have a reader of their own."""
    return hashlib.sha256(b"inbox " + agent.encode()).digest()
