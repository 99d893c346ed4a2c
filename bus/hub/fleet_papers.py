"""A fleet with its papers: each agent's identity key, certificate and inbox key, the signed policy, a fresh trust statement.

    decide    what policy forbids is said before anything is made
    keys      in the TPM, one agent after the other; meanwhile the authority is made, if there is none
    papers    policy signed, agents enrolled a few at a time, a statement issued
    inboxes   a key and its certificate for each, as soon as the agent has its own

Every step looks at what is there and makes what is missing, on disk before the next begins: so it can be killed anywhere, and is
finished by calling it again. Where nothing is missing, the authority is not even opened; where a hub runs, it is the hub's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from bus.clock import Clock
from bus.errors import RemoteProtocolError, VaultError, VerificationError
from bus.hub.authority import patiently_opened
from bus.hub.enrolling import fits
from bus.hub.household import alone
from bus.hub.inboxes import Inboxes, signers_of
from bus.hub.offices import Office, OfficeAtHub, OfficeHere, everybody
from bus.hub.state import State, holder_of
from bus.identity.authority import Passphrase, TpmSeal, policies
from bus.identity.inbox import Kept, Signer
from bus.identity.provision import Provisioned, Wanted, plan, provision
from bus.identity.public_trust import PublicTrust, read_public
from bus.policy import Policy
from bus.tpm.interface import Facts, KeyInfo, TpmEngine
from bus.trust.certificates import Certificate

KEYS: Final = "keys"
PAPERS: Final = "papers"
Tell = Callable[[str, str], None]
"""Hears of each agent twice, when it has its key and when it has all: (KEYS, name), (PAPERS, name)."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be there."""

    listed: Policy
    """As its files say."""
    texts: Mapping[str, bytes] = field(repr=False)
    names: Sequence[str]
    joined: Mapping[str, str] = field(default_factory=dict)
    """Agents whom the files do not list, and their roles."""
    passphrase: str | None = field(default=None, repr=False)
    """What protects the authority's keys, if not the TPM."""
    clock_is_right: bool = False
    """Somebody says so, to an authority that has reason to doubt it."""


@dataclass(frozen=True, slots=True)
class Member:
    """One agent with all that it has."""

    key: Provisioned
    certificate: Certificate | None
    """None: it was revoked, and nobody has let it in again."""
    enrolled: bool
    """Just now."""
    inbox: Kept | None

    @property
    def name(self) -> str:
        return self.key.wanted.agent


@dataclass(frozen=True, slots=True)
class Fleet:
    members: tuple[Member, ...]
    facts: Facts
    public: PublicTrust
    """With the root, the policy and the statement in force."""
    folder: Path
    """Where everybody finds these."""


async def provision_fleet(
    state: State, engine: TpmEngine, order: Order, *, environ: Mapping[str, str], clock: Clock, tell: Tell
) -> Fleet:
    """Make what is missing.

    Raises NotPermittedError, PolicyError and VaultError("wrong_domain") before anything is made; AttestationError that names the
    agent; VaultError; StateInUseError where another process keeps the authority open; TpmError.
    """
    before = await to_thread.run_sync(_read_public, state)
    policy = order.listed.with_agents(everybody(order.listed, order.joined, before.bundle if before else None))
    _check_domain(state, policy, before)
    facts = await engine.facts()
    wanted = plan(policy, order.names, origin=facts.origin, environ=environ)
    work = _Work(state, engine, order, policy, clock, tell)
    async with AsyncExitStack() as stack:
        hub = await work.hub()
        if hub is not None:  # its TPM service asks the signed policy for names that are new
            await work.sign(hub)
            await work.make_keys(wanted)
            return await work.finish(facts, await work.make_papers(hub))
        if before is None:  # a root key takes a second or two to make, and so do the agents' keys
            async with alone(), anyio.create_task_group() as tasks:
                tasks.start_soon(work.make_keys, wanted)
                here = await work.open_authority(stack)
        else:
            await work.make_keys(wanted)
            if await to_thread.run_sync(work.is_complete, before):
                return await work.finish(facts, {one.name: one for one in before.agents})
            here = await work.open_authority(stack)
        await work.sign(here)
        return await work.finish(facts, await work.make_papers(here))


@dataclass(slots=True)
class _Work:
    """One provisioning, as far as it has come."""

    state: State
    engine: TpmEngine
    order: Order
    policy: Policy
    clock: Clock
    tell: Tell
    keys: list[Provisioned] = field(default_factory=list)
    enrolled: set[str] = field(default_factory=set)
    kept: dict[str, Kept] = field(default_factory=dict)

    async def hub(self) -> Office | None:
        """Of the hub that runs in this folder, if one does."""
        runs = await to_thread.run_sync(holder_of, self.state.hub_lock) is not None
        return OfficeAtHub(self.state, self.clock) if runs else None

    async def open_authority(self, stack: AsyncExitStack) -> Office:
        """Who provisions the same state folder at the same time is waited for; who keeps the authority open is not."""
        passphrase = self.order.passphrase
        authority = await patiently_opened(
            stack,
            self.state,
            domain=self.policy.domain,
            protection=TpmSeal(self.engine) if passphrase is None else Passphrase(passphrase),
            clock=self.clock,
            clock_is_right=self.order.clock_is_right,
        )
        return OfficeHere(authority, self.state, self.clock)

    async def sign(self, office: Office) -> None:
        self.policy = await office.sign(self.order.texts, self.order.listed, self.order.joined)

    async def make_keys(self, wanted: Sequence[Wanted]) -> None:
        async for one in provision(self.engine, wanted):
            self.keys.append(one)
            self.tell(KEYS, one.wanted.agent)

    def is_complete(self, public: PublicTrust) -> bool:
        """Whether the authority has nothing to do."""
        now, held = self.clock.now_ms(), {one.name: one for one in public.agents}
        files = policies.collect(self.order.texts, everybody(self.order.listed, self.order.joined, public.bundle))
        signed = public.bundle is not None and public.bundle.files == files
        return (
            signed
            and public.holds(now)
            and all(
                fits(held.get(one.key.name), one.key, now_ms=now) and _stands(public, held[one.key.name], now) for one in self.keys
            )
        )

    async def make_papers(self, office: Office) -> dict[str, Certificate]:
        """Enrol who is not, issue a statement. Gives the certificates of all who have one."""
        certificates, due = await self._who_is_due(office)
        inboxes = await Inboxes.open(self.state, self.engine, self.policy, clock=self.clock)
        ids = {key.name: key.id for key in due}
        async for one in (await office.enrolling(self.engine, self.policy)).enroll(due):
            name = one.certificate.name
            certificates[name] = one.certificate
            self.enrolled.add(name)
            self.kept[name] = await inboxes.keep(Signer(one.certificate, ids[name]), prepared=one.inbox_key)
            self.tell(PAPERS, name)
        await office.state()
        return certificates

    async def finish(self, facts: Facts, certificates: Mapping[str, Certificate]) -> Fleet:
        """The inbox keys of those who were enrolled already, and what there is now."""
        inboxes = await Inboxes.open(self.state, self.engine, self.policy, clock=self.clock)
        signers = await signers_of(self.engine, certificates.values())
        for one in self.keys:
            name = one.key.name
            if name in signers and name not in self.kept:
                self.kept[name] = await inboxes.keep(signers[name])
                self.tell(PAPERS, name)
        members = tuple(self._member(one, certificates) for one in self.keys)
        folder = self.state.trust / "public"
        return Fleet(members, facts, await to_thread.run_sync(read_public, folder), folder)

    def _member(self, one: Provisioned, certificates: Mapping[str, Certificate]) -> Member:
        name = one.key.name
        return Member(one, certificates.get(name), name in self.enrolled, self.kept.get(name))

    async def _who_is_due(self, office: Office) -> tuple[dict[str, Certificate], list[KeyInfo]]:
        now, keys = self.clock.now_ms(), {one.key.name: one.key for one in self.keys}
        held = await office.certificates(keys)
        good = {name: one for name, one in held.items() if fits(one, keys[name], now_ms=now)}
        others = [name for name in keys if name not in good]
        barred = await office.barred(others)
        return good, [keys[name] for name in others if name not in barred]


# ---- what is there already -----------------------------------------------------------------------------------------------------


def _read_public(state: State) -> PublicTrust | None:
    """None before there is an authority, and where something of it is not as it was written: opening the authority mends it."""
    try:
        return read_public(state.trust / "public")
    except (VaultError, VerificationError, RemoteProtocolError):
        return None


def _check_domain(state: State, policy: Policy, public: PublicTrust | None) -> None:
    """Before any key is made; `open_authority` would say it too late."""
    if public is not None and public.domain != policy.domain:
        raise VaultError(
            "wrong_domain",
            f"this state folder's authority is that of {public.domain}, and the policy's domain is {policy.domain}: "
            "choose another state folder with --state, or correct `domain:`",
            path=str(state.trust / "public" / "root.pem"),
        )


def _stands(public: PublicTrust, certificate: Certificate, now_ms: int) -> bool:
    try:
        public.revocations.verdict(certificate.serial, now_ms)
    except VerificationError:
        return False
    return True
