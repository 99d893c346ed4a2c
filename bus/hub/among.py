"""A broker among others: what its gateway has in common with the others on NATS, beside what is kept there.

neighbours    a link to each of the others, over which brokers prove who they are and pass on what is live. A broker that begins
              waits a moment for those that are there, so that what is said first is heard there
trust         the same policy, revocations and statement everywhere, within a moment
petitions     what agents ask of the authority reaches its hub from every gateway
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import anyio

from bus.backbone.nats.authority_line import AuthorityLine, Reply
from bus.backbone.nats.backbone import NatsBackbone
from bus.backbone.nats.neighbours import Neighbours
from bus.broker.broker import Broker
from bus.clock import Clock
from bus.errors import RemoteProtocolError
from bus.hub.shared_trust import Believed, SharedTrust, Take
from bus.hub.state import State
from bus.identity.anchor import Anchor
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.protocol.frames import Frame
from bus.trust.petition import Answer, petition_id

MEET_SECONDS: Final = 1.0
"""At most, for those who are there: milliseconds for one that answers, and one that does not believe us never will."""
MEET_AGAIN_SECONDS: Final = 0.01
TRUST: Final = "trust"
"""The bucket."""
BUSY: Final = "busy"
AWAY: Final = "authority_away"
"""For what nobody answers: it may have been done, and what was done stands in the trust statement."""


MAX_FAR: Final = 32
"""Petitions of other gateways at a time: half of what a broker has under way, so that the other half is for its own hosts."""


class AmongOthers:
    """`is_authority`: whether the hub of this broker has the authority. `take` as for SharedTrust."""

    def __init__(self, backbone: NatsBackbone, broker: Broker, clock: Clock, *, is_authority: bool) -> None:
        self._backbone, self._broker, self._clock, self._is_authority = backbone, broker, clock, is_authority
        self._neighbours = Neighbours(backbone.connection, backbone.names, clock, broker.attach_neighbour)
        self._line = AuthorityLine(backbone.connection, backbone.names, clock, key=_key)
        self._trust: SharedTrust
        self._far = 0

    async def begin(self, state: State, anchor: Anchor, memory: TrustMemory, believed: Believed, take: Take) -> None:
        """What is newest of trust counts when this returns. Raises BackboneError: "another_bus", and what NATS raises."""
        shared = await self._backbone.shared(TRUST)
        self._trust = SharedTrust(
            shared, anchor, memory, believed, space=self._backbone.names.space, state=state, is_authority=self._is_authority,
            take=take, clock=self._clock,
        )  # fmt: skip
        await self._trust.begin()

    def follow(self, snapshot: Snapshot, documents: TrustDocuments) -> None:
        self._trust.follow(snapshot, documents)

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._trust.run)
            tasks.start_soon(self._neighbours.run)
            if self._is_authority:
                await self._line.serve(self._take_petition)
            else:
                await self._line.listen()
                tasks.start_soon(self._pass_on)

    async def meet(self) -> None:
        """Until each gateway that is there has a link to this one and both have told what they have; MEET_SECONDS at most."""
        with suppress(TimeoutError), self._clock.fail_after(MEET_SECONDS):
            while not self._neighbours.has_looked or self._broker.neighbours_met < self._neighbours.known:
                await self._clock.sleep(MEET_AGAIN_SECONDS)

    def statistics(self) -> dict[str, Any]:
        return {**self._neighbours.statistics(), "trust": self._trust.statistics()}

    # ---- petitions -----------------------------------------------------------------------------------------------------------

    def _take_petition(self, request: bytes, reply: Reply) -> None:
        """At the authority: as if it came from a host of this broker."""

        def done(answer: bytes) -> None:
            self._far -= 1
            reply(answer)

        self._far += 1
        asker = _FarAsker(done)
        if self._far > MAX_FAR:
            asker.refuse(BUSY, petition_id(request))
        else:
            self._broker.petitions.take(asker, request)

    async def _pass_on(self) -> None:
        """At a gateway without: what its hosts ask, to the authority."""
        async with anyio.create_task_group() as tasks:
            async for number, request in self._broker.petitions.taken():
                tasks.start_soon(self._ask, number, request)

    async def _ask(self, number: int, request: bytes) -> None:
        id_ = petition_id(request)
        answer = await self._line.ask(request, id_)
        self._broker.petitions.answer(number, answer or Answer(id_, AWAY, 0).encode())


class _FarAsker:
    """Somebody behind another gateway. Implements `petitions.Asker`."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def answer(self, frame: Frame, *fields: Any) -> None:
        if frame is Frame.AUTHORITY:
            self._reply(fields[0])

    def refuse(self, code: str, ref: bytes) -> None:
        self._reply(Answer(ref, code, 0).encode())


def _key(answer: bytes) -> bytes | None:
    try:
        return Answer.parse(answer).id
    except RemoteProtocolError:
        return None
