"""A bus in this process: authority, broker and host of one state folder, beside its TPM service.

    authority --documents--> broker <--memory link--> host          and <--links-- hosts of other processes, by the doors

Nothing passes from host to host but through the broker, and nothing is believed because it comes from the same process: embedded
is the same work as elsewhere, and the same code. What is one here is the trust domain: whoever runs code in this process has all.

The order of things: what is wrong with the policy is said before anything is made; then the folder is ours alone; then whatever
takes long is begun at once (the TPM service, the root's key); then trust; then the bus.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from bus.agent.host import Host
from bus.backbone.interface import Backbone
from bus.backbone.journal import open_journal
from bus.broker.broker import Broker
from bus.clock import Clock
from bus.hub.admin import Desk
from bus.hub.agent_papers import AgentPapers, Openable
from bus.hub.authority import patiently_opened
from bus.hub.believed_chips import believed_chips
from bus.hub.broker_identity import enroll_broker, open_broker_engine
from bus.hub.core_dumps import forbid_core_dumps
from bus.hub.enrolling import LocalDesk
from bus.hub.household import Leaving
from bus.hub.hub import Hub
from bus.hub.in_force import InForce
from bus.hub.materials import Materials
from bus.hub.overview import Overview
from bus.hub.state import State, owned
from bus.hub.tpm_process import open_engine, start_service
from bus.identity.authority import Authority, TpmSeal
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host import renewal
from bus.identity.host.session import Holder
from bus.identity.host.sessions import Sessions
from bus.identity.trust_memory import TrustMemory
from bus.metrics.sources import plain
from bus.policy import Policy, files, load
from bus.tpm.interface import TpmEngine
from bus.tpm.values import STATISTICS
from bus.transport.link import Link
from bus.transport.listening_links import listening
from bus.transport.memory import memory_pair


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a hub is opened with."""

    policy: str | Path
    agents: Mapping[str, str]
    listen: Sequence[str]
    tpm: str | None
    environ: Mapping[str, str]
    clock: Clock

    @property
    def policy_word(self) -> str:
        """As another process takes it: a shipped policy's name, or a path that means the same there."""
        place = Path(self.policy)
        return str(place.absolute()) if isinstance(self.policy, Path) or place.exists() else str(self.policy)


@asynccontextmanager
async def embedded(state: State, wishes: Wishes, leaving: Leaving) -> AsyncIterator[Hub]:
    """Raises PolicyError, StateInUseError(pid, url), TpmError, VaultError, ConnectError for an address that cannot be had."""
    listed = await to_thread.run_sync(_listed, wishes)
    clock = wishes.clock
    async with AsyncExitStack() as stack:
        facts = {"url": own_url(state), "policy": wishes.policy_word}
        await to_thread.run_sync(lambda: stack.enter_context(owned(state.hub_lock, **facts)))
        forbid_core_dumps()
        await start_service(state, policy=wishes.policy_word, tpm=wishes.tpm)
        engine = await stack.enter_async_context(open_engine(state, policy=wishes.policy_word, tpm=wishes.tpm))
        own_engine = await stack.enter_async_context(open_broker_engine(state, clock=clock))
        authority = await patiently_opened(stack, state, domain=listed.domain, protection=TpmSeal(engine), clock=clock)
        memory = await to_thread.run_sync(TrustMemory, state.trust)
        in_force = InForce(authority, memory, policy=wishes.policy, agents=wishes.agents, clock=clock)
        await in_force.begin()
        holder = await enroll_broker(authority, own_engine, clock=clock)
        running = _Running(state, wishes, engine, authority, in_force)
        backbone = await open_journal(state.journal, clock)
        stack.push_async_callback(_closed, backbone)
        async with running.alive(own_engine, holder, memory, backbone) as hub:
            yield hub
            await leaving.within(running.drain)


def _listed(wishes: Wishes) -> Policy:
    return load(files.read(wishes.policy)).with_agents(wishes.agents)


class _Running:
    """A bus that runs, as its hub sees it."""

    def __init__(self, state: State, wishes: Wishes, engine: TpmEngine, authority: Authority, in_force: InForce) -> None:
        self.state, self.wishes, self.engine, self.authority, self.in_force = state, wishes, engine, authority, in_force
        self.desk = Desk()
        self.broker: Broker
        self.host: Host
        self._papers: AgentPapers
        self._local: LocalDesk

    @asynccontextmanager
    async def alive(self, own_engine: TpmEngine, holder: Holder, memory: TrustMemory, backbone: Backbone) -> AsyncIterator[Hub]:
        clock, in_force, state = self.wishes.clock, self.in_force, self.state
        self.broker = Broker(
            snapshot=in_force.snapshot,
            trust=in_force.documents,
            verifier=Verifier(self.authority.root, self.authority.domain, ml_dsa_root=self.authority.ml_dsa_root),
            memory=memory,
            clock=clock,
            backbone=backbone,
        )
        in_force.followers.append(self.broker.follow)
        sessions = Sessions(own_engine, lambda: in_force.snapshot.trust.statement, clock)
        sessions.on_change.append(partial(_introduce, self.broker, sessions))
        await sessions.open(holder)
        materials = await self._prepare_agents(state, clock)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(materials.aclose)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            for part in (in_force.run, partial(renewal.run, sessions), backbone.run, self.broker.run, self.host.run):
                tasks.start_soon(part)
            for url in (own_url(self.state), *self.wishes.listen):
                await stack.enter_async_context(listening(url, self.broker.attach))
            self._register(backbone)
            await tasks.start(self.desk.serve, state.admin_socket)
            try:
                yield Hub([*self.wishes.listen, own_url(self.state)], self, self._open, clock=clock)
            finally:
                with anyio.CancelScope(shield=True):
                    await self.broker.aclose()
                tasks.cancel_scope.cancel()

    async def _prepare_agents(self, state: State, clock: Clock) -> Materials:
        roots = await to_thread.run_sync(believed_chips, state)
        self._local = await to_thread.run_sync(lambda: LocalDesk(self.authority, self._policy, roots=roots, clock=clock))
        materials = await Materials.gather(state, self.engine, environ=self.wishes.environ, clock=clock)
        self.host = materials.host(self._dial)
        certifier = self._local.enrolling(self.engine, self._policy, clock=clock)
        self._papers = AgentPapers(state, self.engine, materials.anchor, self.wishes.environ, clock, certifier)
        return materials

    def _policy(self) -> Policy:
        return self.in_force.policy

    async def _dial(self) -> Link:
        near, far = memory_pair()
        self.broker.attach(far)
        return near

    async def _open(self, openable: Openable) -> Any:
        return await self.host.open(openable.holder, inbox=openable.inbox)

    # ---- what other processes of this user ask ---------------------------------------------------------------------------------

    def _register(self, backbone: Backbone) -> None:
        for verb in (self.reload, self.statistics, self.join, self.enroll):
            self.desk.register(verb.__name__, verb)
        Overview(self.broker.listing, backbone, policy=self._policy, status=self._status).register(self.desk)

    async def _status(self) -> dict[str, Any]:
        """What an operator sees first."""
        trust = self.in_force.snapshot.trust.statement
        return {
            "pid": os.getpid(),
            "urls": [*self.wishes.listen, own_url(self.state)],
            "state": str(self.state.folder),
            "domain": self._policy().domain,
            "policy": str(self.wishes.policy),
            "policy_version": trust.policy_version,
            "trust_statement": trust.number,
            "agents_live": len(self.broker.listing.live()),
            "numbers": await self.statistics(),
        }

    async def enroll(self, message: str) -> str:
        """The authority's answer to a message of an enrolment, both in hex."""
        answer = await to_thread.run_sync(self._local.answer, bytes.fromhex(message))
        await self.in_force.settle()
        return answer.hex()

    async def join(self, name: str) -> None:
        """From now on this name is one of the policy's agents, if policy gives one to whoever comes."""
        role = self._policy().role_of(name)
        if name not in self._policy().agents:
            await self.in_force.join({name: role.name})

    # ---- what a hub asks -----------------------------------------------------------------------------------------------------

    async def papers_of(self, name: str) -> Openable:
        await self.join(name)
        openable = await self._papers.of(name, self._policy())
        await self.in_force.settle()
        await self.host.trusting.take(self.in_force.documents)  # it hears of nothing before it has a link
        return openable

    async def reload(self) -> bool:
        return await self.in_force.reload()

    async def statistics(self) -> dict[str, Any]:
        tpm = STATISTICS.encode(await self.engine.statistics())
        return plain({"broker": self.broker.statistics(), "host": self.host.statistics(), "tpm": tpm})

    async def drain(self) -> None:
        """What was accepted here is sent, and the others are asked to finish."""
        if self.host.is_connected:
            await self.host.outbox.drained()
        self.broker.drain()


async def _closed(backbone: Backbone) -> None:
    with anyio.CancelScope(shield=True):
        await backbone.aclose()


def _introduce(broker: Broker, sessions: Sessions) -> None:
    for session in sessions.held.values():
        broker.take_session(session)


def own_url(state: State) -> str:
    """Where the hub of a state folder always listens, for whoever has that folder."""
    return f"unix://{state.bus_socket}"
