"""A broker with all that it needs: its session, its backbone, its doors, and what it tells those who run it.

It runs in the hub's own process, or alone in one of its own (`broker_program`): it is the same either way, and gets the same. What
it is given is what a process that strangers talk to may have: its own key, the journal, and what is public.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio

from bus.backbone.nats.backbone import NatsBackbone
from bus.broker.broker import Broker
from bus.clock import Clock
from bus.hub.admin import Desk
from bus.hub.among import AmongOthers
from bus.hub.backbones import NatsServers, open_backbone
from bus.hub.doors import Doors
from bus.hub.overview import Overview
from bus.hub.petitioning import Petitioning
from bus.hub.state import State
from bus.hub.tls_papers import Issue
from bus.identity.anchor import Anchor
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host import renewal
from bus.identity.host.session import Holder
from bus.identity.host.sessions import Sessions
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.tpm.interface import TpmEngine
from bus.transport.link import Link
from bus.transport.memory import memory_pair

Part = Callable[[], Coroutine[Any, Any, None]]
Status = Callable[[], Awaitable[Mapping[str, Any]]]


class BrokerHere:
    """`snapshot` and `documents`: what is in force when it begins; later, `follow`. `servers`: of NATS, in place of the journal.
    `is_authority`: whether its hub has the authority; of several gateways, one has.
    """

    def __init__(
        self,
        state: State,
        anchor: Anchor,
        memory: TrustMemory,
        *,
        snapshot: Snapshot,
        documents: TrustDocuments,
        servers: NatsServers | None = None,
        is_authority: bool = True,
        clock: Clock,
    ) -> None:
        self._state, self._anchor, self._memory, self._clock = state, anchor, memory, clock
        self._snapshot, self._documents = snapshot, documents
        self._servers, self._is_authority = servers, is_authority
        self._among: AmongOthers | None = None
        self._broker: Broker
        self._sessions: Sessions
        self._doors: Doors

    @asynccontextmanager
    async def running(self, engine: TpmEngine, holder: Holder, urls: Sequence[str], *, issue: Issue | None) -> AsyncIterator[None]:
        """`issue`: who certifies what is shown over TLS; without, somebody else renews it. Raises BackboneError, ConnectError."""
        clock, anchor = self._clock, self._anchor
        async with AsyncExitStack() as stack:
            self._backbone = await open_backbone(self._state.journal, self._servers, clock)
            stack.push_async_callback(_shielded, self._backbone.aclose)
            verifier = Verifier(anchor.root, anchor.domain, ml_dsa_root=anchor.ml_dsa_root)
            self._broker = Broker(
                snapshot=self._snapshot, trust=self._documents, verifier=verifier, memory=self._memory, clock=clock,
                backbone=self._backbone,
            )  # fmt: skip
            stack.push_async_callback(_shielded, self._broker.aclose)
            self._doors = Doors(urls, self._state, anchor, issue, broker=holder.name, clock=clock)
            parts: list[Part] = [self._backbone.run, self._broker.run, self._doors.run]
            if isinstance(self._backbone, NatsBackbone):
                parts.append(await self._join_others(self._backbone))
            self._sessions = Sessions(engine, lambda: self._snapshot.trust.statement, clock)
            self._sessions.on_change.append(self._introduce)
            await self._sessions.open(holder)
            parts.append(partial(renewal.run, self._sessions))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)  # before what they work with is closed
            for part in parts:
                tasks.start_soon(part)
            if self._among is not None:
                await self._among.meet()
            await stack.enter_async_context(self._doors.open(self._broker.attach, self._broker.turn_away))
            yield

    async def _join_others(self, backbone: NatsBackbone) -> Part:
        """What is newest of trust counts when this returns; gives what runs from then on."""
        among = AmongOthers(backbone, self._broker, self._clock, is_authority=self._is_authority)
        await among.begin(self._state, self._anchor, self._memory, (self._snapshot, self._documents), self.follow)
        self._among = among
        return among.run

    def _introduce(self) -> None:
        for session in self._sessions.held.values():
            self._broker.take_session(session)

    # ---- what a hub asks of it -----------------------------------------------------------------------------------------------

    @property
    def urls(self) -> list[str]:
        return self._doors.urls

    async def dial(self) -> Link:
        """A link from this process."""
        near, far = memory_pair()
        self._broker.attach(far)
        return near

    def follow(self, snapshot: Snapshot, documents: TrustDocuments) -> None:
        """Another policy or trust is in force."""
        self._snapshot, self._documents = snapshot, documents
        self._broker.follow(snapshot, documents)
        self._doors.trust_changed()
        if self._among is not None:
            self._among.follow(snapshot, documents)

    async def pass_on(self, petitioning: Petitioning) -> None:
        """What agents ask of the authority, until cancelled."""

        async def reply(number: int, answer: bytes) -> None:
            self.answer_petition(number, answer)

        await petitioning.serve(self._broker.petitions.taken(), reply)

    def petitions(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """What agents ask of an authority that is elsewhere; answer them with `answer_petition`."""
        return self._broker.petitions.taken()

    def answer_petition(self, number: int, answer: bytes) -> None:
        self._broker.petitions.answer(number, answer)

    async def take_holder(self, holder: Holder) -> None:
        """Its certificate was renewed."""
        if self._sessions.holders.get(holder.name) != holder:
            await self._sessions.replace(holder)

    async def live(self) -> int:
        """How many agents are on the bus."""
        return len(self._broker.listing.live())

    async def statistics(self) -> dict[str, Any]:
        others = {} if self._among is None else {"gateways": self._among.statistics()}
        servers = {"nats": self._backbone.servers()} if isinstance(self._backbone, NatsBackbone) else {}
        found: dict[str, Any] = {**self._broker.statistics(), **others, **servers}
        found["links_half_open"] += self._doors.silent
        return found

    async def drain(self) -> None:
        """Those who are connected are asked to finish."""
        self._broker.drain()

    def register(self, desk: Desk, status: Status) -> None:
        Overview(self._broker.listing, self._backbone, policy=lambda: self._snapshot.policy, status=status).register(desk)


async def _shielded(close: Callable[[], Awaitable[None]]) -> None:
    with anyio.CancelScope(shield=True):
        await close()
