"""A bus in this process: authority, broker and host of one state folder, beside its TPM service.

    authority --documents--> broker <--memory link--> host          and <--links-- hosts of other processes, by the doors

Nothing passes from host to host but through the broker, and nothing is believed because it comes from the same process: embedded
is the same work as elsewhere, and the same code. What is one here is the trust domain: whoever runs code in this process has all.

The order of things: what is wrong with the policy is said before anything is made; then the folder is ours alone; then whatever
takes long is begun at once (the TPM service, the root's key); then trust; then the bus.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bus.agent.agent import Agent
from bus.agent.host import Host
from bus.clock import Clock
from bus.hub.admin import Desk
from bus.hub.agent_papers import AgentPapers, Openable
from bus.hub.authority import patiently_opened, root_key_if_needed
from bus.hub.backbones import NatsServers, loop_is_trio
from bus.hub.believed_chips import believed_chips
from bus.hub.broker_apart import BrokerApart
from bus.hub.broker_here import BrokerHere
from bus.hub.broker_identity import enroll_broker, open_broker_engine
from bus.hub.core_dumps import forbid_core_dumps
from bus.hub.cosigners import Cosigners
from bus.hub.doors import broker_tls, hosts_of
from bus.hub.enrolling import LocalDesk
from bus.hub.gateway_papers import GatewayDesk
from bus.hub.household import Leaving, alone
from bus.hub.hub import Hub
from bus.hub.in_force import InForce
from bus.hub.materials import Materials
from bus.hub.petitioning import Petitioning
from bus.hub.state import State, bus_url, owned
from bus.hub.tpm_process import end_service_of_another_policy, needs_another_service, open_engine, start_service
from bus.hub.upkeep import Upkeep
from bus.hub.verbs import Verbs
from bus.hub.which_tpm import chosen_tpm
from bus.hub.wishes import Wishes
from bus.identity.anchor import BROKER, Anchor, read_anchor
from bus.identity.authority import Authority, TpmSeal
from bus.identity.host.session import Holder
from bus.identity.trust_memory import TrustMemory
from bus.metrics.sources import plain
from bus.policy import Policy, files, load
from bus.tpm.interface import TpmEngine
from bus.tpm.values import STATISTICS


@asynccontextmanager
async def embedded(state: State, wishes: Wishes, leaving: Leaving) -> AsyncIterator[Hub]:
    """Raises PolicyError, StateInUseError(pid, url), TpmError, VaultError, ConnectError for an address that cannot be had."""
    listed = await to_thread.run_sync(_listed, wishes)
    wishes = await to_thread.run_sync(wishes.located)
    clock = wishes.clock
    async with AsyncExitStack() as stack:
        facts = {"url": bus_url(state), "policy": wishes.policy_word, "tpm": chosen_tpm(wishes.tpm)}
        await to_thread.run_sync(lambda: stack.enter_context(owned(state.hub_lock, **facts)))
        forbid_core_dumps()
        prepared = await _begin(state, wishes)
        engine = await stack.enter_async_context(open_engine(state, policy=wishes.policy_word, tpm=wishes.tpm))
        authority = await patiently_opened(
            stack, state, domain=listed.domain, protection=TpmSeal(engine), clock=clock, prepared=prepared
        )
        memory = await to_thread.run_sync(TrustMemory, state.trust, clock)
        in_force = InForce(authority, memory, policy=wishes.policy, agents=wishes.agents, clock=clock)
        await in_force.begin()
        local = await to_thread.run_sync(_local_desk, authority, in_force, state, clock)
        running = _Running(state, wishes, engine, authority, in_force, local)
        async with running.alive(memory) as hub:
            yield hub
            await leaving.within(running.drain)


def _listed(wishes: Wishes) -> Policy:
    return load(files.read(wishes.policy)).with_agents(wishes.agents)


async def _begin(state: State, wishes: Wishes) -> RSAPrivateKey | None:
    """What takes seconds, at the same time: the TPM service, and the root's key where there is none."""
    made: list[RSAPrivateKey | None] = []

    async def make() -> None:
        made.append(await root_key_if_needed(state))

    async with alone(), anyio.create_task_group() as early:
        early.start_soon(make)
        await start_service(state, policy=wishes.policy_word, tpm=wishes.tpm)
    return made[0]


class _Running:
    """A bus that runs, as its hub sees it."""

    def __init__(  # noqa: PLR0917  what was opened, in its order
        self, state: State, wishes: Wishes, engine: TpmEngine, authority: Authority, in_force: InForce, local: LocalDesk
    ) -> None:
        self.state, self.wishes, self.clock = state, wishes, wishes.clock
        self.engine, self.authority, self.in_force, self.local = engine, authority, in_force, local
        self._served = in_force.policy
        self._asked = [bus_url(state), *wishes.listen]
        self.broker: BrokerHere | BrokerApart
        self.host: Host
        self._papers: AgentPapers

    @asynccontextmanager
    async def alive(self, memory: TrustMemory) -> AsyncIterator[Hub]:
        anchor = await to_thread.run_sync(read_anchor, self.authority.public)
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            await self._start_broker(stack, tasks, anchor, memory)
            self.in_force.followers.append(lambda snapshot: self.broker.follow(snapshot, self.in_force.documents))
            materials = await self._make_host()
            stack.push_async_callback(materials.aclose)
            upkeep = Upkeep(self.host, self._renewed_papers_of, besides=self._look_after_the_rest, clock=self.clock)
            self.in_force.followers.append(upkeep.follow)
            petitioning = Petitioning(self.authority, self.local, self.in_force, self.clock)
            for part in (self.in_force.run, self.host.run, upkeep.run, partial(self.broker.pass_on, petitioning)):
                tasks.start_soon(part)
            desk = Desk()
            Verbs(self).register(desk)
            GatewayDesk(self.authority, self.in_force, self.policy).register(desk)
            await tasks.start(desk.serve, self.state.admin_socket)
            yield Hub(self.urls, self, self._open, clock=self.clock)

    async def _start_broker(self, stack: AsyncExitStack, tasks: TaskGroup, anchor: Anchor, memory: TrustMemory) -> None:
        """Here, with an engine of its own that stays open; or apart, where it opens that itself."""
        state, clock, in_force = self.state, self.clock, self.in_force
        servers = self.wishes.servers
        if self.wishes.apart or (servers is not None and loop_is_trio()):
            await self._certify_broker()
            papers = broker_tls(state, anchor, self._asked)

            async def renew() -> None:
                await papers.get(self._issue, is_client=False, now_ms=clock.now_ms())

            apart = BrokerApart(state, clock, servers=servers, renew=renew)
            self.broker = apart
            await stack.enter_async_context(apart.running(tasks, self._asked))
            return
        engine = await stack.enter_async_context(open_broker_engine(state, clock=clock))
        holder = await enroll_broker(self.authority, engine, clock=clock)
        documents = in_force.documents
        here = BrokerHere(state, anchor, memory, snapshot=in_force.snapshot, documents=documents, servers=servers, clock=clock)
        self.broker = here
        await stack.enter_async_context(here.running(engine, holder, self._asked, issue=self._issue))

    async def _certify_broker(self) -> Holder:
        async with open_broker_engine(self.state, clock=self.clock) as engine:
            return await enroll_broker(self.authority, engine, clock=self.clock)

    async def _issue(self, spki: bytes) -> bytes:
        hosts = hosts_of(self._asked)
        return await to_thread.run_sync(lambda: self.authority.issue_tls(BROKER, spki, hosts.dns, hosts.ips))

    async def _make_host(self) -> Materials:
        state, clock, environ = self.state, self.clock, self.wishes.environ
        materials = await Materials.gather(state, self.engine, environ=environ, clock=clock)
        self.host = materials.host(self.broker.dial)
        self.in_force.first.append(self.host.trusting.take)
        certifier = self.local.enrolling(self.engine, self.policy, clock=clock)
        cosigners = Cosigners(state.cosign, self.engine, self.vouch, materials.cosigners)
        self._papers = AgentPapers(state, self.engine, materials.anchor, environ, clock, certifier, cosigners)
        return materials

    async def _open(self, openable: Openable) -> Agent:
        return await self.host.open(openable.holder, inbox=openable.inbox)

    # ---- what a hub asks -----------------------------------------------------------------------------------------------------

    @property
    def servers(self) -> NatsServers | None:
        return self.wishes.servers

    @property
    def urls(self) -> list[str]:
        """Those that somebody asked for come first."""
        own, *others = self.broker.urls
        return [*others, own]

    def policy(self) -> Policy:
        return self.in_force.policy

    async def papers_of(self, name: str) -> Openable:
        await self.join(name)
        return await self._renewed_papers_of(name)

    async def _renewed_papers_of(self, name: str) -> Openable:
        openable = await self._papers.of(name, self.policy())
        await self.in_force.settle()
        return openable

    async def _look_after_the_rest(self) -> None:
        """The TPM service goes by the policy too, and the broker's certificate lasts a year."""
        before, self._served = self._served, self.policy()
        if needs_another_service(before, self._served):
            await end_service_of_another_policy(self.state, self.wishes.policy_word)
        holder = await self._certify_broker()
        if isinstance(self.broker, BrokerHere):
            await self.broker.take_holder(holder)
        else:
            self.broker.follow(self.in_force.snapshot, self.in_force.documents)

    async def join(self, name: str) -> None:
        """From now on this name is one of the policy's agents, if policy has a role for whoever comes."""
        role = self.policy().role_of(name)
        if name not in self.policy().agents:
            await self.in_force.join({name: role.name})

    async def reload(self) -> bool:
        return await self.in_force.reload()

    async def vouch(self, name: str, digest: bytes) -> None:
        """This agent signs a second time with the ML-DSA key of this SHA-256; the next statement says so."""

        def work() -> None:
            if self.authority.ml_dsa_hashes().get(name) != digest:
                self.authority.register_ml_dsa(name, digest)

        await self.in_force.settle(work)

    async def statistics(self) -> dict[str, Any]:
        tpm = STATISTICS.encode(await self.engine.statistics())
        return plain({"broker": await self.broker.statistics(), "host": self.host.statistics(), "tpm": tpm})

    async def drain(self) -> None:
        """What was accepted here is sent, and the others are asked to finish."""
        if self.host.is_connected:
            await self.host.outbox.drained()
        await self.broker.drain()


def _local_desk(authority: Authority, in_force: InForce, state: State, clock: Clock) -> LocalDesk:
    return LocalDesk(authority, lambda: in_force.policy, roots=believed_chips(state), clock=clock)
