"""The inbox keys of a fleet: kept as policy wants them, and their certificates where everybody finds them.

The private halves and the counters are in STATE/inbox; STATE/trust/public/inbox/NAME.bin holds the newest certificate of each. What
is published there, and what was seen of others, are also second and third places in which a counter stands (see `inbox_record`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from anyio import to_thread

from bus.clock import Clock
from bus.errors import RemoteProtocolError, VerificationError
from bus.hub.state import State
from bus.identity import durable
from bus.identity.inbox import InboxFolder, Kept, Signer, keep_inbox, place_of
from bus.identity.inbox_record import Place, Wanted, longest_retention
from bus.identity.public_trust import read_public, read_statement
from bus.identity.trust_memory import TrustMemory
from bus.policy import Policy
from bus.protocol import kem
from bus.protocol.kem import PrivateKey
from bus.protocol.papers import MAX_CERTIFICATE_BYTES, InboxCertificate
from bus.tpm.interface import SOFTWARE, TpmEngine
from bus.trust.certificates import Certificate
from bus.trust.statement import NEW, Statement


@dataclass(slots=True)
class Inboxes:
    """Of one state folder, with its engine open."""

    state: State
    engine: TpmEngine
    policy: Policy
    clock: Clock
    memory: TrustMemory
    statement: Statement | None
    """The newest that is published."""
    _places: dict[str, Place] = field(default_factory=dict)

    @classmethod
    async def open(
        cls, state: State, engine: TpmEngine, policy: Policy, *, places: dict[str, Place] | None = None, clock: Clock
    ) -> Inboxes:
        """`places`: where the engine has said before, and will say here, that keys live."""
        memory = await to_thread.run_sync(TrustMemory, state.trust, clock)
        statement = await to_thread.run_sync(read_statement, state.trust / "public")
        return cls(state, engine, policy, clock, memory, statement, {} if places is None else places)

    async def keep(self, signer: Signer, *, anew: bool = False, prepared: PrivateKey | None = None) -> Kept:
        """The agent's inbox key as policy wants it now, published. Raises what `keep_inbox` does."""
        name, certificate = signer.certificate.name, signer.certificate
        role = self.policy.role_of(name)
        public = self.state.trust / "public" / "inbox" / f"{name}.bin"
        published = await to_thread.run_sync(_published, public, name)
        place = await self._place(certificate.origin, signer.key)
        wanted = Wanted(
            certificate.signer,
            kem.BY_WORD[role.inbox],
            place,
            longest_retention(self.policy),
            floor=max(published[0], self.memory.inbox_counter(name, self._generation(name))),
            passed_ms=self.passed_ms(),
        )
        kept = await keep_inbox(
            InboxFolder(self.state.inbox),
            self.engine,
            signer,
            wanted,
            clock=self.clock,
            pcrs=() if place.origin == SOFTWARE else role.pcrs,
            anew=anew,
            prepared=prepared,
        )
        newest = kept.record.newest
        if newest is not None and newest.certificate != published[1]:
            await to_thread.run_sync(_publish, public, newest.certificate)
        return kept

    def _generation(self, name: str) -> int:
        return 0 if self.statement is None else self.statement.agents.get(name, NEW)[0]

    def passed_ms(self) -> int:
        """The clock's time, but not past the end of the newest statement that this folder has seen."""
        now_ms, until_ms = self.clock.now_ms(), 0 if self.statement is None else self.statement.next_update_ms
        return max(self.memory.passed_ms(), min(now_ms, until_ms))

    async def _place(self, origin: str, key: str) -> Place:
        if key not in self._places:
            self._places[key] = await place_of(self.engine, origin, beside=key)
        return self._places[key]


async def renew_inboxes(state: State, engine: TpmEngine, names: Iterable[str], *, clock: Clock) -> dict[str, Kept]:
    """A new inbox key for each of these agents, now, as the signed policy wants it.

    Raises VerificationError("untrusted") for one that is not enrolled, NotPermittedError for one that policy does not know.
    """
    public = await to_thread.run_sync(read_public, state.trust / "public")
    signers = await signers_of(engine, public.agents)
    policy = Policy() if public.bundle is None else await to_thread.run_sync(public.bundle.policy)
    for name in names:
        policy.role_of(name)
        if name not in signers:
            detail = "it has no identity certificate, or its key is not in this vault: `tpmbus provision` enrols it"
            raise VerificationError("untrusted", agent=name, detail=detail)
    inboxes = await Inboxes.open(state, engine, policy, clock=clock)
    return {name: await inboxes.keep(signers[name], anew=True) for name in names}


async def signers_of(engine: TpmEngine, certificates: Iterable[Certificate]) -> Mapping[str, Signer]:
    """Those of these identities whose keys this engine has."""
    keys = {(info.name, info.spki): info.id for info in await engine.keys()}
    return {one.name: Signer(one, keys[one.name, one.spki]) for one in certificates if (one.name, one.spki) in keys}


def _published(path: Path, name: str) -> tuple[int, bytes]:
    """The counter of the certificate that lies there, and the certificate; (0, nothing) if it is none of this agent's."""
    data = durable.read(path, longest=MAX_CERTIFICATE_BYTES)
    with suppress(RemoteProtocolError):
        if data is not None and (body := InboxCertificate.parse(data).body).name == name:
            return body.counter, data
    return 0, b""


def _publish(path: Path, certificate: bytes) -> None:
    durable.make_folder(path.parent)
    durable.replace(path, certificate)
