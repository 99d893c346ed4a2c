"""A host of its own, with a link to a hub somewhere else: in another process of this machine, or on another machine.

reach     the address is tried until somebody answers there, for as long as the caller waits; papers that are refused are not
papers    from the state folder and its TPM service. What is missing there, the hub of this very folder makes, if it runs
host      dials, and from then on keeps the link by itself
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from bus.agent.agent import Agent
from bus.agent.host import Host
from bus.clock import Clock
from bus.errors import AttestationError, BusError, ConnectError, ConnectionLostError, RevokedError, VaultError
from bus.hub import admin
from bus.hub.agent_papers import AgentPapers, Openable
from bus.hub.cosigners import Cosigners
from bus.hub.enrolling import Enrolling, Held
from bus.hub.far_host import keep_documents
from bus.hub.household import Leaving
from bus.hub.hub import Hub
from bus.hub.materials import Materials
from bus.hub.state import State, holder_of
from bus.hub.tls_papers import TlsPapers
from bus.hub.tpm_process import open_engine
from bus.identity import trust_documents
from bus.identity.public_trust import read_agent
from bus.policy import Policy
from bus.tpm.interface import TpmEngine
from bus.transport import address
from bus.transport.address import TlsAddress
from bus.transport.dialing import dial
from bus.transport.link import Link
from bus.transport.tls import Tls

_log = logging.getLogger(__name__)
FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 0.5
KEEP_SECONDS: Final = 1.0
TLS_SECONDS: Final = 600.0
"""Between two looks at how long the certificate for TLS still lasts."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to reach, as whom, and for how long to try."""

    url: str
    wait_seconds: float
    give_up_seconds: float | None
    environ: Mapping[str, str]
    clock: Clock


@asynccontextmanager
async def connected_agent(state: State, target: Target, name: str, leaving: Leaving) -> AsyncIterator[Agent]:
    """Raises ConnectError when nobody answers for so long; what refuses the agent is raised at once."""
    async with _connected(state, target, name) as joined:
        with _or_revoked(name):
            agent = await joined.open_agent(await joined.papers_of(name))
        joined.tasks.start_soon(joined.keep_tls)
        try:
            yield agent
            if agent.error is None:
                await leaving.within(agent.drain)
        finally:
            await agent.aclose()


@asynccontextmanager
async def joined_hub(state: State, target: Target, leaving: Leaving) -> AsyncIterator[Hub]:
    """The hub that runs in this state folder, as if it were this process's own."""
    async with _connected(state, target, "") as joined:
        yield Hub([target.url], joined, joined.open_agent, clock=target.clock)
        await leaving.within(joined.drain)


@asynccontextmanager
async def _connected(state: State, target: Target, name: str) -> AsyncIterator[_Joined]:
    """`name`: who is shown where the way is TLS."""
    over_tls = isinstance(address.parse(target.url), TlsAddress)
    if not over_tls:  # there the hub is asked for papers first, and dialled when they are there
        await _reach(target, _no_tls)
    here = await to_thread.run_sync(holder_of, state.hub_lock)
    policy, tpm = (None, None) if here is None else (str(here.get(fact) or "") or None for fact in ("policy", "tpm"))
    tpm = target.environ.get("TPMBUS_TPM") or tpm  # where nobody here names one, it is started as the hub would start it
    async with open_engine(state, policy=policy, tpm=tpm) as engine, AsyncExitStack() as stack:
        joined = _Joined(state, target, engine, is_of_this_folder=here is not None)
        await joined.gather(name if over_tls else "")
        stack.push_async_callback(joined.materials.aclose)
        joined.tasks = tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(joined.keep_host, name)
        tasks.start_soon(joined.keep_trust)
        yield joined
        tasks.cancel_scope.cancel()


class _Joined:
    """A bus that runs elsewhere, as seen from here."""

    def __init__(self, state: State, target: Target, engine: TpmEngine, *, is_of_this_folder: bool) -> None:
        self._state, self._target, self._engine, self._is_of_this_folder = state, target, engine, is_of_this_folder
        self.materials: Materials
        self._papers: AgentPapers
        self._tls_papers: TlsPapers | None = None
        self.host: Host
        self.tasks: TaskGroup

    async def gather(self, tls_name: str) -> None:
        target = self._target
        self.materials = await Materials.gather(self._state, self._engine, environ=target.environ, clock=target.clock)
        anchor = self.materials.anchor
        enrolling = Enrolling(
            self._engine, self._policy, exchange=self._exchange, held=self._held, root=anchor.root, domain=anchor.domain,
            clock=target.clock,
        )  # fmt: skip
        certifier = enrolling if self._is_of_this_folder else None
        vouch = self._vouch if self._is_of_this_folder else None
        cosigners = Cosigners(self._state.cosign, self._engine, vouch, self.materials.cosigners)
        self._papers = AgentPapers(self._state, self._engine, anchor, target.environ, target.clock, certifier, cosigners)
        if tls_name:
            self._tls_papers = TlsPapers(self._state.tls, tls_name, anchor, self._state.trust / "public")
        self.host = self.materials.host(self._dial, give_up=target.give_up_seconds)

    async def keep_host(self, name: str) -> None:
        """Until cancelled. Raises what ends it, which whoever opens an agent may hear from here first."""
        with _or_revoked(name):
            await self.host.run()

    async def open_agent(self, openable: Openable) -> Agent:
        return await self.host.open(openable.holder, inbox=openable.inbox)

    async def papers_of(self, name: str) -> Openable:
        self._policy().role_of(name)
        if name not in self._policy().agents and self._is_of_this_folder:
            await self._ask("join", name=name)
            documents = await to_thread.run_sync(trust_documents.load, self._state.trust / "public")
            await self.host.trusting.take(documents)
        found = await self._papers.of(name, self._policy())
        if self._tls_papers is not None:
            await _reach(self._target, self._tls)
        return found

    async def keep_trust(self) -> None:
        """On a machine without an authority of its own: what it went by last is where it begins next. Until cancelled."""
        trust, kept = self._state.trust, self.materials.documents
        if await to_thread.run_sync((trust / "private").exists):
            return
        while True:
            await self._target.clock.sleep(KEEP_SECONDS)
            if (now := self.host.trusting.documents) is not kept:
                kept = now
                try:
                    await to_thread.run_sync(keep_documents, trust / "public", now)
                except VaultError as error:
                    _log.warning("what this machine begins with next stays older than what it goes by: %s", error)

    async def keep_tls(self) -> None:
        """On another machine than the authority's: a new certificate in time, asked for over the link. Until cancelled."""
        papers = self._tls_papers
        if papers is None or self._is_of_this_folder:
            return
        while True:
            try:
                await papers.get(partial(self.host.petitions.tls, papers.name), is_client=True, now_ms=self._target.clock.now_ms())
            except (BusError, TimeoutError) as error:
                _log.warning("the TLS certificate of %s was not renewed, which is tried again: %s", papers.name, error)
            await self._target.clock.sleep(TLS_SECONDS)

    async def reload(self) -> bool:
        return bool(await self._ask("reload"))

    async def statistics(self) -> dict[str, Any]:
        return {**await self._ask("statistics"), "host": self.host.statistics()}  # the hub's own host is not who asks

    async def drain(self) -> None:
        if self.host.is_connected:
            await self.host.outbox.drained()

    async def _dial(self) -> Link:
        return await dial(self._target.url, tls=await self._tls())

    async def _tls(self) -> Tls | None:
        """With a certificate that is good, and the newest list of revocations. Raises VaultError("missing")."""
        if self._tls_papers is None:
            return None
        issue = self._issue_tls if self._is_of_this_folder else None
        found = await self._tls_papers.get(issue, is_client=True, now_ms=self._target.clock.now_ms())
        if found is None:
            text = f"there is no TLS certificate in {self._state.tls}: connect once where the hub of this folder runs, it makes one"
            raise VaultError("missing", text, path=str(self._state.tls))
        return found

    async def _issue_tls(self, spki: bytes) -> bytes:
        name = self._tls_papers.name if self._tls_papers else ""
        try:
            return bytes.fromhex(await self._ask("issue_tls", name=name, spki=spki.hex()))
        except AttestationError as error:
            if error.reason != "not_enrolled":
                raise
            raise RevokedError(name) from error  # it was enrolled before it is asked who it is

    async def _ask(self, verb: str, **arguments: Any) -> Any:
        return await admin.ask(self._state.admin_socket, verb, **arguments)

    async def _vouch(self, name: str, digest: bytes) -> None:
        await self._ask("vouch", name=name, digest=digest.hex())

    async def _exchange(self, message: bytes) -> bytes:
        return bytes.fromhex(await self._ask("enroll", message=message.hex()))

    async def _held(self, name: str) -> Held | None:
        anchor, public = self.materials.anchor, self._state.trust / "public"
        found = await to_thread.run_sync(lambda: read_agent(public, name, root=anchor.root, domain=anchor.domain))
        return None if found is None else Held(found)

    def _policy(self) -> Policy:
        return self.materials.policy


@contextmanager
def _or_revoked(name: str) -> Iterator[None]:
    """A link that TLS ended because of a revocation is that one's."""
    try:
        yield
    except ConnectionLostError as error:
        if _says_revoked(error):
            raise RevokedError(name) from error
        raise


def _says_revoked(error: BaseException | None) -> bool:
    """Whether TLS ended the link because our certificate was revoked. The alert comes from who has proved to be the hub."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and "CERTIFICATE_REVOKED" in (error.reason or ""):
            return True
        error = error.__cause__
    return False


async def _no_tls() -> None:
    return None


async def _reach(target: Target, tls: Callable[[], Awaitable[Tls | None]]) -> None:
    """Return when somebody answers there. What may be there in a moment is waited for: a socket that is missing or refuses."""
    clock, pause = target.clock, FIRST_PAUSE_SECONDS
    until = clock.monotonic() + target.wait_seconds
    while True:
        try:
            (await dial(target.url, tls=await tls())).close()
        except ConnectError as error:
            if isinstance(error.__cause__, PermissionError | ssl.SSLError) or clock.monotonic() + pause > until:
                raise
            await clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            return
