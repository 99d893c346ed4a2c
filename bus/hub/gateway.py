"""A gateway: a hub whose authority is elsewhere. It serves agents of its machine on the bus that it shares with others over NATS.

    from the authority     the root that is pinned, a certificate for the broker's own key (`gateway_papers`)
    over NATS              policy, revocations and statement, as they change; what is kept; what is live, from broker to broker
    here                   agents that have papers in this state folder (`tpmbus host join`), and whoever else comes by its doors

It signs nothing and enrols nobody, so what decides is refused here with a word where to ask. While the authority's hub is away, a
gateway goes on by the newest statement for as long as that lasts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from bus.agent.agent import Agent
from bus.agent.host import Host
from bus.backbone.nats.neighbours import SHUNNED
from bus.errors import BusError, ConnectError, NotPermittedError, VaultError, VerificationError
from bus.hub.admin import Desk
from bus.hub.agent_papers import AgentPapers, Openable
from bus.hub.backbones import loop_is_trio
from bus.hub.broker_apart import BrokerApart
from bus.hub.broker_here import BrokerHere
from bus.hub.broker_identity import gateway_holder, open_broker_engine
from bus.hub.core_dumps import forbid_core_dumps
from bus.hub.cosigners import Cosigners
from bus.hub.doors import hosts_of
from bus.hub.far_host import keep_documents
from bus.hub.household import Leaving
from bus.hub.hub import Hub
from bus.hub.materials import Materials
from bus.hub.shared_trust import begun_with, kept_by_gateway, stamp_of_kept
from bus.hub.state import State, bus_url, owned
from bus.hub.tls_papers import NO_HOSTS
from bus.hub.tpm_process import open_engine
from bus.hub.upkeep import Upkeep
from bus.hub.verbs import kept_by
from bus.hub.wishes import Wishes
from bus.identity import trust_documents
from bus.identity.anchor import Anchor, read_anchor
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host.session import Holder
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.metrics.sources import part, plain
from bus.policy import Policy
from bus.tpm.interface import TpmEngine
from bus.tpm.values import STATISTICS

_log = logging.getLogger(__name__)
KEEP_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 60.0
AT_THE_AUTHORITY: Final = (
    "join", "reload", "enroll", "enroll_from_afar", "papers", "issue_tls", "admit", "barred", "let_in", "revoke",
    "end_sessions", "certify_gateway", "issue_gateway_tls",
)  # fmt: skip
"""Verbs of a hub's desk that a gateway refuses."""


@asynccontextmanager
async def gateway(state: State, wishes: Wishes, leaving: Leaving) -> AsyncIterator[Hub]:
    """Raises VaultError("missing") for a folder that has no gateway's papers, StateInUseError, BackboneError, ConnectError."""
    if wishes.servers is None:
        text = "this state folder goes by the authority of another hub: connect its agents to that one (bus.connect)"
        raise ConnectError(f"{text}, or be a gateway of that bus, with --backbone and the NATS servers that it is on")
    async with AsyncExitStack() as stack:
        facts = {"url": bus_url(state), "role": "gateway"}
        await to_thread.run_sync(lambda: stack.enter_context(owned(state.hub_lock, **facts)))
        forbid_core_dumps()
        anchor = await to_thread.run_sync(read_anchor, state.trust / "public")
        snapshot = await _begin_with_newest(state, anchor)
        engine = await stack.enter_async_context(open_engine(state, tpm=wishes.tpm))
        running = _Running(state, wishes, engine, anchor, snapshot)
        async with running.alive() as hub:
            yield hub
            await leaving.within(running.drain)


async def _begin_with_newest(state: State, anchor: Anchor) -> Snapshot:
    """The broker may know of more than what lies here for everybody: it hears first, and either may be killed at any instant."""
    public = state.trust / "public"
    memory = await to_thread.run_sync(TrustMemory, state.trust)
    snapshot, newest = await begun_with(public, state.broker, anchor, memory)
    await to_thread.run_sync(_show, public, newest)
    return snapshot


def _show(public: Path, newest: TrustDocuments) -> None:
    try:
        if trust_documents.load(public) == newest:
            return
    except VaultError as error:  # what is gone or damaged is there again
        _log.warning("this gateway begins with what its broker kept: %s", error)
    keep_documents(public, newest)


class _Running:
    """A gateway that runs, as its hub sees it."""

    def __init__(self, state: State, wishes: Wishes, engine: TpmEngine, anchor: Anchor, begun: Snapshot) -> None:
        """`begun`: by which it begins."""
        self.state, self.wishes, self.clock = state, wishes, wishes.clock
        self._engine, self._anchor, self._begun = engine, anchor, begun
        self._asked = [bus_url(state), *wishes.listen]
        self.broker: BrokerHere | BrokerApart
        self.host: Host
        self._papers: AgentPapers
        self._upkeep: Upkeep
        self._name, self._serial = "", 0

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[Hub]:
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            await self._start_broker(stack, tasks)
            materials = await self._make_host()
            stack.push_async_callback(materials.aclose)
            tasks.start_soon(self.host.run)
            self._upkeep = Upkeep(self.host, self.papers_of, clock=self.clock)
            tasks.start_soon(self._upkeep.run)
            tasks.start_soon(self._keep_trust)
            desk = Desk()
            self._register(desk)
            await tasks.start(desk.serve, self.state.admin_socket)
            yield Hub(self.urls, self, self._open, clock=self.clock)

    async def _start_broker(self, stack: AsyncExitStack, tasks: TaskGroup) -> None:
        state, clock, anchor, servers = self.state, self.clock, self._anchor, self.wishes.servers
        if self.wishes.apart or loop_is_trio():
            async with open_broker_engine(state, clock=clock) as engine:
                self._know(await gateway_holder(state, engine, anchor))  # without it nothing is started
                self._check_not_revoked(self._begun)
            apart = BrokerApart(state, clock, servers=servers, is_authority=False, renew=self._look_at_tls)
            self.broker = apart
            await stack.enter_async_context(apart.running(tasks, self._asked))
            return
        engine = await stack.enter_async_context(open_broker_engine(state, clock=clock))
        holder = await gateway_holder(state, engine, anchor)
        self._know(holder)
        self._check_not_revoked(self._begun)
        await self._look_at_tls()
        memory = await to_thread.run_sync(TrustMemory, state.broker, clock)
        documents = await to_thread.run_sync(trust_documents.load, state.trust / "public")
        verifier = Verifier(anchor.root, anchor.domain, ml_dsa_root=anchor.ml_dsa_root)
        snapshot = await trust_documents.accept(documents, memory, verifier)
        here = BrokerHere(
            state, anchor, memory, snapshot=snapshot, documents=documents, servers=servers, is_authority=False, clock=clock
        )
        self.broker = here
        await stack.enter_async_context(here.running(engine, holder, self._asked, issue=None))
        tasks.start_soon(self._keep_holder, here, engine)

    def _know(self, holder: Holder) -> None:
        self._name, self._serial = holder.name, holder.identity.serial

    async def _look_at_tls(self) -> None:
        """Nobody here certifies: `tpmbus host gateway` does, each day. Raises VaultError for what is not there."""
        if hosts_of(self._asked) != NO_HOSTS:
            place = self.state.broker / "tls" / f"{self._name}.pem"
            if not await to_thread.run_sync(place.exists):
                text = "there is no TLS certificate for these addresses: `tpmbus host gateway .. --listen URL` brings one"
                raise VaultError("missing", text, path=str(place))

    async def _keep_holder(self, here: BrokerHere, engine: TpmEngine) -> None:
        """A certificate that was brought anew."""
        while True:
            await self.clock.sleep(LOOK_SECONDS)
            try:
                holder = await gateway_holder(self.state, engine, self._anchor)
                self._know(holder)
                await here.take_holder(holder)
            except VaultError as error:
                _log.error("the broker's certificate stays as it is: %s", error)

    async def _make_host(self) -> Materials:
        state, clock, environ = self.state, self.clock, self.wishes.environ
        materials = await Materials.gather(state, self._engine, environ=environ, clock=clock)
        self.host = materials.host(self.broker.dial)
        cosigners = Cosigners(state.cosign, self._engine, None, materials.cosigners)
        self._papers = AgentPapers(state, self._engine, materials.anchor, environ, clock, None, cosigners)
        return materials

    async def _keep_trust(self) -> None:
        """What the broker hears of trust counts for this host, and is where everything here begins next. Until cancelled.

        Raises VerificationError("revoked") when that says that this gateway is none any more.
        """
        known = (0, 0)
        while True:
            self._check_not_revoked(self.host.keyring.snapshot)
            try:
                stamp = await to_thread.run_sync(stamp_of_kept, self.state.broker)
                if stamp != known:
                    await self._take_trust()
                    known = stamp
            except BusError as error:
                _log.warning("what this machine begins with next stays older than what its broker goes by: %s", error)
            await self.clock.sleep(KEEP_SECONDS)

    def _check_not_revoked(self, snapshot: Snapshot) -> None:
        if self._serial in snapshot.trust.revocations.revoked:
            text = "this gateway's certificate was revoked, and its name and key are good for nothing any more"
            detail = f"{text}: `tpmbus host gateway NAME --over COMMAND` in another state folder makes another one"
            raise VerificationError("revoked", agent=self._name, detail=detail)

    async def _take_trust(self) -> None:
        kept = await to_thread.run_sync(kept_by_gateway, self.state.broker, self._anchor)
        if kept is not None and kept != self.host.trusting.documents:
            await self.host.trusting.take(kept)
            self._upkeep.follow(self.host.keyring.snapshot)
            await to_thread.run_sync(keep_documents, self.state.trust / "public", self.host.trusting.documents)

    async def _open(self, openable: Openable) -> Agent:
        return await self.host.open(openable.holder, inbox=openable.inbox)

    # ---- what a hub asks -----------------------------------------------------------------------------------------------------

    @property
    def urls(self) -> list[str]:
        """Those that somebody asked for come first."""
        own, *others = self.broker.urls
        return [*others, own]

    def policy(self) -> Policy:
        return self.host.keyring.snapshot.policy

    async def papers_of(self, name: str) -> Openable:
        self.policy().role_of(name)
        return await self._papers.of(name, self.policy())

    async def reload(self) -> bool:
        _refuse("reload")

    async def statistics(self) -> dict[str, Any]:
        tpm = STATISTICS.encode(await self._engine.statistics())
        return plain({"broker": await self.broker.statistics(), "host": self.host.statistics(), "tpm": tpm})

    async def drain(self) -> None:
        if self.host.is_connected:
            await self.host.outbox.drained()
        await self.broker.drain()

    # ---- its desk ------------------------------------------------------------------------------------------------------------

    def _register(self, desk: Desk) -> None:
        for name in AT_THE_AUTHORITY:
            desk.register(name, _refusing(name))
        for verb in (self.statistics, self.vouch):
            desk.register(verb.__name__, verb)
        self.broker.register(desk, self._status)

    def vouch(self, name: str, digest: str) -> None:
        """An agent of another process here has this ML-DSA key. One that the trust statement lists already serves."""
        if self.host.keyring.snapshot.trust.ml_dsa_hash(name) != bytes.fromhex(digest):
            _refuse("vouch")

    async def _status(self) -> dict[str, Any]:
        statement = self.host.keyring.snapshot.trust.statement
        numbers = await self.statistics()
        return {
            "pid": os.getpid(),
            "gateway": self._name,
            "urls": self.urls,
            "state": str(self.state.folder),
            "domain": self._anchor.domain,
            "policy": "the authority's",
            "policy_version": statement.policy_version,
            "trust_statement": statement.number,
            "failures": {"links": SHUNNED} if _is_shunned(numbers) else {},
            "agents_live": await self.broker.live(),
            **kept_by(self.wishes.servers, numbers),
            "numbers": numbers,
        }


def _is_shunned(numbers: dict[str, Any]) -> bool:
    return bool(part(numbers["broker"], "gateways").get("shunned_by"))


def _refuse(verb: str) -> NoReturn:
    rule = "this hub is a gateway: what decides is the hub that has the authority, so do it there"
    raise NotPermittedError("operator", verb.replace("_", " "), rule)


def _refusing(verb: str) -> Any:
    def refuse(**_arguments: Any) -> None:
        _refuse(verb)

    return refuse
