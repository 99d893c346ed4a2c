"""What readers need to open kept messages, and where it is when nobody who could say it is here any more.

    papers     of the session that signed: from who is live here, else from the backbone
    grants     of the epoch for one reader, with the papers of those who granted: from the backbone. Of each who granted the newest:
               anybody may have some kept that say to be of this epoch, and they must not push out its sender's
    told       once to each link, before the first delivery that needs them; and again to whoever asks, because it forgot
    asked for  what is kept is told first; whoever asks again after that is passed on to the epoch's sender, if it is live

An agent that asks for an epoch of its own is never passed on: nobody else has it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Final

import anyio

from bus.backbone.interface import Backbone
from bus.broker.asking import Asking
from bus.broker.host_link import HostLink
from bus.broker.offences import Offences
from bus.clock import Clock
from bus.errors import BusError, RemoteProtocolError, VerificationError
from bus.identity.envelopes.believe import Believed, believe
from bus.identity.envelopes.verifier import Verifier
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers

MOST_GRANTS: Final = 4
"""Of one epoch for one reader by one sender, the newest: one for each of its keys that may still be there."""
MOST_PAPERS: Final = 16
"""Of one session that are looked at; more than one there are only where somebody spoils them, and each costs a signature."""
MAX_QUESTIONS: Final = 64
"""Of one link that wait for the disk; what comes beyond is asked of others at once."""
MAX_TOLD: Final = 8_192

Find = Callable[[bytes], Believed | None]
"""A session that is live here, or was a while ago."""


class Kept:
    def __init__(
        self, backbone: Backbone, asking: Asking, find: Find, clock: Clock, *,
        verifier: Verifier, now_ms: Callable[[], int], offences: Offences,
    ) -> None:  # fmt: skip
        self._backbone, self._asking, self._find, self._clock = backbone, asking, find, clock
        self._verifier, self._now_ms, self._offences = verifier, now_ms, offences
        self._questions: deque[tuple[HostLink, str, bytes, bytes]] = deque()
        self._asked: dict[HostLink, int] = {}
        self._wanted = anyio.Event()

    # ---- before a delivery -----------------------------------------------------------------------------------------------------

    async def show(self, host: HostLink, agent: str, epoch: bytes, session: bytes, sender: str) -> None:
        """Have this link told what this agent needs to open an envelope. Raises BackboneError."""
        if (epoch, agent) not in host.told_grants:
            self._asking.note(epoch, sender)
            await self._show_grants(host, agent, epoch)
        if session not in host.told_papers:
            await self.show_papers(host, session)

    async def show_papers(self, host: HostLink, session: bytes) -> bool:
        """Whether there are any. Raises BackboneError."""
        found = self._find(session)
        papers = found.papers.encode() if found is not None else await self._kept_papers(session)
        if papers is not None:
            host.tell_session(session, papers)
        return papers is not None

    async def _kept_papers(self, session: bytes) -> bytes | None:
        """None also for what is kept as such and is none: who is shown that by its broker leaves it. Of several the newest that are
        some: what somebody spoiled beside them takes nothing away.
        """
        for data in (await self._backbone.papers_for(session))[: -MOST_PAPERS - 1 : -1]:
            try:
                if believe(data, self._verifier, now_ms=self._now_ms()).id == session:
                    return data
                why = "they are of another session"
            except (RemoteProtocolError, VerificationError) as error:
                why = str(error)
            self._spoiled("papers that are none are passed over", f"of session {session.hex()}: {why}")
        return None

    def _spoiled(self, what: str, detail: str) -> None:
        """Whoever wrote it there, each reader who comes would have it said again."""
        self._offences.note("what is kept", what, detail, now=self._clock.monotonic())

    async def _show_grants(self, host: HostLink, agent: str, epoch: bytes) -> int:
        newest: dict[str, deque[bytes]] = {}
        sessions: dict[bytes, None] = {}
        for grant in await self._backbone.grants_for(epoch, agent):
            try:
                header = headers.parse(envelopes.split(grant)[0])
            except RemoteProtocolError as error:
                self._spoiled("a grant that is none is passed over", f"for {agent}: {error}")
                continue
            newest.setdefault(header.sender, deque(maxlen=MOST_GRANTS)).append(grant)
            sessions[header.session] = None
        for session in sessions:
            if session not in host.told_papers:
                await self.show_papers(host, session)
        grants = [*chain.from_iterable(newest.values())]
        for grant in grants:
            host.outbox.deliver_kept(b"", 1, 0, grant)
        host.told_grants[epoch, agent] = None
        while len(host.told_grants) > MAX_TOLD:
            del host.told_grants[next(iter(host.told_grants))]
        return len(grants)

    # ---- to those who ask ------------------------------------------------------------------------------------------------------

    def ask(self, host: HostLink, agent: str, epoch: bytes, papers: bytes) -> bool:
        """Whether it is looked for here first: `agent` of this link, with these papers, asks."""
        if agent not in host.agents or self._asked.get(host, 0) >= MAX_QUESTIONS:
            return False
        if (epoch, agent) in host.told_grants and not self._asking.is_sender(epoch, agent):
            return False
        self._put(host, agent, epoch, papers)
        return True

    def ask_papers(self, host: HostLink, session: bytes) -> bool:
        """The same for the papers of a session."""
        if self._asked.get(host, 0) >= MAX_QUESTIONS:
            return False
        self._put(host, "", session, b"")
        return True

    def _put(self, host: HostLink, agent: str, id_: bytes, papers: bytes) -> None:
        self._asked[host] = self._asked.get(host, 0) + 1
        self._questions.append((host, agent, id_, papers))
        self._wanted.set()

    async def run(self) -> None:
        """Answer; until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            while self._questions:
                host, agent, id_, papers = self._questions.popleft()
                self._asked[host] -= 1
                if not self._asked[host]:
                    del self._asked[host]
                if not host.is_gone:
                    await self._answer(host, agent, id_, papers)

    async def _answer(self, host: HostLink, agent: str, id_: bytes, papers: bytes) -> None:
        try:
            if not agent:
                if not await self.show_papers(host, id_):
                    host.refuse("not_permitted", id_)
            elif not await self._show_grants(host, agent, id_):
                if self._asking.is_sender(id_, agent):
                    host.refuse("busy", id_)
                else:
                    self._asking.ask(host, id_, papers, now=self._clock.monotonic())
        except BusError:
            host.refuse("busy", id_)
