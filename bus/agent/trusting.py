"""News of trust, as the broker pushes it: documents in parts, put together, verified, remembered, and then judged by.

The broker may withhold them or send nonsense: what does not verify changes nothing and is counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio

from bus.clock import Clock
from bus.errors import BusError
from bus.flow.quiet import Quiet
from bus.identity import trust_documents
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.protocol.codec import malformed
from bus.protocol.frames import STATEMENT

_log = logging.getLogger("bus.agent")
Start = Callable[[Callable[[], Awaitable[None]]], None]


class Trusting:
    """`follow` is told of each new snapshot."""

    def __init__(
        self,
        documents: TrustDocuments,
        memory: TrustMemory,
        verifier: Verifier,
        *,
        clock: Clock,
        start: Start,
        follow: Callable[[Snapshot], None],
    ) -> None:
        self.documents = documents
        self._clock, self._quiet = clock, Quiet()
        self._memory, self._verifier, self._start, self._follow = memory, verifier, start, follow
        self._parts: dict[int, bytearray] = {}
        self._came: dict[int, bytes] = {}
        """Whole documents that were not judged yet."""
        self._next: dict[int, bytes] = {}
        """Those that were there when the last statement came, which names them: judged together."""
        self._busy = self._again = False
        self._afterwards: list[Callable[[], object]] = []
        self._idle = anyio.Event()
        self.counts: Counter[str] = Counter()

    def part(self, what: int, total: int, offset: int, part: bytes) -> None:
        """Raises RemoteProtocolError("malformed") for parts that leave a gap."""
        held = self._parts.setdefault(what, bytearray())
        if offset == 0:
            held.clear()
        if offset != len(held):
            raise malformed("parts of a document with a gap")
        held += part
        if len(held) < total:
            return
        del self._parts[what]
        self._came[what] = bytes(held)
        if what == STATEMENT:
            self._next = dict(self._came)
            self._again = True
            if not self._busy:
                self._busy = True
                self._start(self._take)

    def when_idle(self, call: Callable[[], object]) -> None:
        """Do this by the policy that the broker goes by, if that is on its way here."""
        if self._busy:
            self._afterwards.append(call)
        else:
            call()

    async def take(self, documents: TrustDocuments) -> None:
        """From whoever opened this host, in place of a broker: return when the host goes by them, or does not believe them."""
        self._came = dict(documents.in_order())
        self._next, self._again = dict(self._came), True
        if self._busy:
            await self._idle.wait()
        else:
            self._busy = True
            await self._take()

    async def _take(self) -> None:
        """One after the other; what came meanwhile is looked at next."""
        try:
            while self._again:
                self._again = False
                judged, coming = self._next, self.documents
                for what, data in judged.items():
                    coming = coming.replaced(what, data)
                if coming != self.documents:
                    await self._judge(coming)
                # What came meanwhile is judged by itself: it must not go with what was refused.
                self._came = {what: data for what, data in self._came.items() if judged.get(what) is not data}
                self._next = {what: data for what, data in self._next.items() if judged.get(what) is not data}
        finally:
            self._busy = False
            self._idle.set()
            self._idle = anyio.Event()
            calls, self._afterwards = self._afterwards, []
            for call in calls:
                call()

    async def _judge(self, coming: TrustDocuments) -> None:
        try:
            snapshot = await trust_documents.accept(coming, self._memory, self._verifier)
        except BusError as error:
            reason = str(getattr(error, "reason", type(error).__name__))
            self.counts[reason] += 1
            if self._quiet.may_say(reason, now=self._clock.monotonic()):
                _log.warning("news of trust is not believed: %s", error)
            return
        self.documents = coming
        self.counts["accepted"] += 1
        self._follow(snapshot)
