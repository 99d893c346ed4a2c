"""What a host is made of, from a state folder and an engine: trust as it was accepted, sessions, signer, verifier, keyring.

Everything is the host's own, also in the process of a hub: no verified envelope, no key and no snapshot is shared with the broker.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self

import anyio
from anyio import to_thread

from bus.agent.host import Host
from bus.agent.ledger_file import LedgerFiles
from bus.clock import Clock
from bus.hub.state import State
from bus.identity import trust_documents
from bus.identity.anchor import Anchor, read_anchor
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.verifier import Verifier
from bus.identity.epochs.keyring import Keyring
from bus.identity.host.sessions import Sessions
from bus.identity.ml_dsa import CosigningKey
from bus.identity.signer import Signer
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.policy import Policy
from bus.protocol.sampling import AuditRecord
from bus.tpm.interface import TpmEngine
from bus.transport.link import Link


@dataclass(frozen=True, slots=True, eq=False)
class Materials:
    anchor: Anchor
    documents: TrustDocuments
    memory: TrustMemory
    verifier: Verifier
    keyring: Keyring
    sessions: Sessions
    signer: Signer
    cosigners: dict[str, CosigningKey]
    """What signs a second time, by agent; filled when agents are opened."""
    ledgers: LedgerFiles
    clock: Clock

    @classmethod
    async def gather(cls, state: State, engine: TpmEngine, *, environ: Mapping[str, str] = os.environ, clock: Clock) -> Self:
        """Raises VaultError("missing") where nothing was signed yet, and what `trust_documents.accept_from` raises."""
        public = state.trust / "public"
        anchor = await to_thread.run_sync(read_anchor, public)
        memory = await to_thread.run_sync(TrustMemory, state.trust, clock)
        verifier = Verifier(anchor.root, anchor.domain, ml_dsa_root=anchor.ml_dsa_root)
        documents, snapshot = await trust_documents.accept_from(public, memory, verifier)
        keyring = Keyring(Held(verifier), memory, snapshot, clock)
        sessions = Sessions(engine, lambda: keyring.snapshot.trust.statement, clock)
        sessions.on_change.append(lambda: keyring.renewed(sessions.held))
        cosigners: dict[str, CosigningKey] = {}
        signer = Signer(
            engine, sessions, clock, snapshot.policy, on_audit=_nobody_yet, environ=environ, cosigners=cosigners
        )  # fmt: skip
        ledgers = LedgerFiles(state.ledger)
        return cls(anchor, documents, memory, verifier, keyring, sessions, signer, cosigners, ledgers, clock)

    @property
    def policy(self) -> Policy:
        """The one in force here."""
        return self.keyring.snapshot.policy

    async def aclose(self) -> None:
        """After the host has ended."""
        with anyio.CancelScope(shield=True):
            await self.ledgers.aclose()

    def host(self, dial: Callable[[], Awaitable[Link]], *, give_up: float | None = None) -> Host:
        """Made of them; they are nobody else's from then on."""
        return Host(
            keyring=self.keyring,
            sessions=self.sessions,
            signer=self.signer,
            memory=self.memory,
            verifier=self.verifier,
            trust=self.documents,
            brokers=self.anchor.brokers,
            clock=self.clock,
            dial=dial,
            ledgers=self.ledgers,
            give_up=give_up,
        )


def _nobody_yet(agent: str, record: AuditRecord) -> None:
    """The host says who hears of it when it is made."""
