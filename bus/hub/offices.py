"""Who signs the policy of a fleet that is provisioned, and certifies its agents: one of two, and both do the same.

here      the authority of the state folder, opened for as long as that takes
at hub    where a hub runs it has the authority open, and nobody else can: it is asked at its desk, and everybody who is on the bus
          hears at once of what changed. Its policy is that of its own files; whoever provisions by another one is told so
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from anyio import to_thread

from bus.clock import Clock
from bus.errors import ConnectError, NotPermittedError
from bus.hub import admin
from bus.hub.authority import PATIENCE_SECONDS
from bus.hub.believed_chips import believed_chips
from bus.hub.enrolling import Enrolling, Held, LocalDesk
from bus.hub.state import State
from bus.identity.anchor import read_anchor
from bus.identity.authority import Authority, policies
from bus.identity.authority.statements import Statements
from bus.identity.public_trust import read_agent, read_bundle, read_public
from bus.policy import Policy
from bus.tpm.interface import TpmEngine
from bus.trust.bundle import Bundle
from bus.trust.certificates import Certificate

AT_A_TIME: Final = 500
"""Names in one request to a desk."""

_Item = TypeVar("_Item")


class Office(Protocol):
    async def sign(self, texts: Mapping[str, bytes], listed: Policy, joined: Mapping[str, str]) -> Policy:
        """These files, and these agents besides, as the policy in force. Raises PolicyError."""

    async def certificates(self, names: Iterable[str]) -> dict[str, Certificate]:
        """What each has now."""

    async def barred(self, names: Iterable[str]) -> frozenset[str]:
        """Who of them was revoked, and let in by nobody since."""

    async def enrolling(self, engine: TpmEngine, policy: Policy) -> Enrolling: ...

    async def state(self) -> None:
        """Say what has changed to everybody."""


def everybody(listed: Policy, joined: Mapping[str, str], bundle: Bundle | None) -> dict[str, str]:
    """Who joined before and who joins now. Those whom the policy's files list meanwhile are theirs."""
    names = {**policies.joined(bundle), **joined}
    return {name: role for name, role in names.items() if name not in listed.agents or name in joined}


class OfficeHere:
    def __init__(self, authority: Authority, folder: State, clock: Clock) -> None:
        self._authority, self._folder, self._clock = authority, folder, clock
        self._policy: Policy
        self._desk: LocalDesk

    async def sign(self, texts: Mapping[str, bytes], listed: Policy, joined: Mapping[str, str]) -> Policy:
        def work() -> Policy:
            agents = everybody(listed, joined, policies.in_force(self._authority))
            policies.sign(self._authority, texts, agents=agents, clock=self._clock)
            return listed.with_agents(agents)

        self._policy = await to_thread.run_sync(work)
        roots = await to_thread.run_sync(believed_chips, self._folder)
        self._desk = await to_thread.run_sync(
            lambda: LocalDesk(self._authority, lambda: self._policy, roots=roots, clock=self._clock)
        )
        return self._policy

    async def certificates(self, names: Iterable[str]) -> dict[str, Certificate]:
        def work() -> dict[str, Certificate]:
            found = {name: self._desk.certificate(name) for name in names}
            return {name: one for name, one in found.items() if one is not None}

        return await to_thread.run_sync(work)

    async def barred(self, names: Iterable[str]) -> frozenset[str]:
        return await to_thread.run_sync(lambda: frozenset(name for name in names if self._desk.is_barred(name)))

    async def enrolling(self, engine: TpmEngine, policy: Policy) -> Enrolling:
        return self._desk.enrolling(engine, lambda: policy, clock=self._clock)

    async def state(self) -> None:
        await to_thread.run_sync(self._issue)

    def _issue(self) -> None:
        self._authority.revocations()
        if not read_public(self._authority.public).holds(self._clock.now_ms()):
            Statements(self._authority, clock=self._clock).issue()


class OfficeAtHub:
    def __init__(self, folder: State, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._public = folder.trust / "public"

    async def sign(self, texts: Mapping[str, bytes], listed: Policy, joined: Mapping[str, str]) -> Policy:
        await self._ask_patiently("reload")
        bundle = await to_thread.run_sync(read_bundle, self._public)
        missing = {name: role for name, role in joined.items() if policies.joined(bundle).get(name) != role}
        for part in _parts(sorted(missing.items())):
            await self._ask("admit", agents=dict(part))
        bundle = await to_thread.run_sync(read_bundle, self._public)
        agents = everybody(listed, joined, bundle)
        wanted = await to_thread.run_sync(policies.collect, texts, agents)
        if bundle is None or bundle.files != wanted:
            place = (await self._ask("status"))["policy"]
            rule = f"the hub that runs here goes by that of {place}: change that one, or end the hub first"
            raise NotPermittedError("operator", "provision by another policy", rule)
        return listed.with_agents(agents)

    async def certificates(self, names: Iterable[str]) -> dict[str, Certificate]:
        def work() -> dict[str, Certificate]:
            anchor = read_anchor(self._public)
            found = {name: read_agent(self._public, name, root=anchor.root, domain=anchor.domain) for name in names}
            return {name: one for name, one in found.items() if one is not None}

        return await to_thread.run_sync(work)

    async def barred(self, names: Iterable[str]) -> frozenset[str]:
        found: set[str] = set()
        for part in _parts([*names]):
            found.update(await self._ask("barred", names=part))
        return frozenset(found)

    async def enrolling(self, engine: TpmEngine, policy: Policy) -> Enrolling:
        async def exchange(message: bytes) -> bytes:
            return bytes.fromhex(await self._ask("enroll", message=message.hex()))

        async def held(name: str) -> Held | None:
            found = (await self.certificates([name])).get(name)
            return None if found is None else Held(found)

        anchor = await to_thread.run_sync(read_anchor, self._public)
        return Enrolling(
            engine, lambda: policy, exchange=exchange, held=held, root=anchor.root, domain=anchor.domain, clock=self._clock
        )

    async def state(self) -> None:
        """It did, each time."""

    async def _ask(self, verb: str, **arguments: Any) -> Any:
        return await admin.ask(self._folder.admin_socket, verb, **arguments)

    async def _ask_patiently(self, verb: str) -> Any:
        """A hub has its folder before it has its desk."""
        until = self._clock.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await self._ask(verb)
            except ConnectError:
                if self._clock.monotonic() > until:
                    raise
                await self._clock.sleep(0.1)


def _parts(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[start : start + AT_A_TIME] for start in range(0, len(items), AT_A_TIME))
