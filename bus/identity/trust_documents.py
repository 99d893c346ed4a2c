"""What everybody judges by, as the bytes that were signed: revocation list, policy bundle, trust statement.

    STATE/trust/public --accept_from--> documents and snapshot         whoever has the folder: a broker, a host at its start
    TRUST frames --replaced--> documents --accept--> snapshot          a host, of what a broker pushes

They are one thing: a statement counts only with the very list that it names, and with no older policy than it names. So a newer
statement is taken last, when the other two are there, and what does not verify leaves everything as it was.

Whoever acts by these is led back by none: what was accepted is remembered on disk (`TrustMemory`) before the snapshot is used.
The policy of a bundle is compiled once in a process: broker and host of one process share it, and every statement that names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from anyio import to_thread

from bus.errors import RemoteProtocolError, VaultError, VerificationError
from bus.identity import durable
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.public_trust import read_crl
from bus.identity.trust_memory import TrustMemory
from bus.policy import Policy
from bus.protocol.frames import BUNDLE, CRL, STATEMENT
from bus.trust import bundle as bundles
from bus.trust import revocations
from bus.trust import statement as statements
from bus.trust.bundle import Bundle
from bus.trust.root import Root
from bus.trust.statement import Statement
from bus.trust.view import NOTHING_SEEN, TrustView, advance, advance_policy

IN_ORDER: Final = (CRL, BUNDLE, STATEMENT)
"""As they are sent: the statement, which names the others, last."""
_FIELDS: Final = MappingProxyType({CRL: "crl", BUNDLE: "bundle", STATEMENT: "statement"})
_COMPILED: Final = 4
"""Policies: the one in force, the next, and those of another hub or two in the same process."""


@dataclass(frozen=True, slots=True)
class TrustDocuments:
    crl: bytes = field(repr=False)
    """DER."""
    bundle: bytes = field(repr=False)
    statement: bytes = field(repr=False)

    def in_order(self) -> Iterator[tuple[int, bytes]]:
        """Each with what a TRUST frame calls it."""
        return ((what, getattr(self, _FIELDS[what])) for what in IN_ORDER)

    def replaced(self, what: int, data: bytes) -> TrustDocuments:
        """With another one of this kind, as a TRUST frame calls it."""
        return replace(self, **{_FIELDS[what]: data})


class _Verified(NamedTuple):
    snapshot: Snapshot
    statement: Statement
    bundle: Bundle


def load(folder: Path) -> TrustDocuments:
    """What lies in STATE/trust/public, read and not judged. Blocks.

    Raises VaultError: "missing" before the authority has signed everything, "damaged", "disk".
    """
    return TrustDocuments(
        crl=read_crl(folder),
        bundle=_published(folder / "bundle.bin", bundles.MAX_BUNDLE_BYTES),
        statement=_published(folder / "statement.bin", statements.MAX_STATEMENT_BYTES),
    )


def read(documents: TrustDocuments, *, root: Root, domain: str, ml_dsa_root: bytes | None = None) -> Snapshot:
    """What they say. Blocks for some milliseconds.

    Raises RemoteProtocolError("malformed"), PolicyError, VerificationError: "untrusted" where one was not signed, or where they do
    not belong together; "revoked"; "policy_rollback" and "policy_fork" for a bundle that is older than the statement's, or another.
    """
    return _read(documents, root, domain, ml_dsa_root).snapshot


async def accept(documents: TrustDocuments, memory: TrustMemory, verifier: Verifier) -> Snapshot:
    """The snapshot that these make, remembered. The verifier's root and domain are the ones that count.

    Raises what `read` raises, VerificationError: "trust_rollback", "trust_fork" and the same of policy, and VaultError.
    """

    def work() -> Snapshot:
        found = _read(documents, verifier.root, verifier.domain, verifier.ml_dsa_root)
        memory.accept_policy(found.bundle)
        memory.accept(found.statement)
        return found.snapshot

    return await to_thread.run_sync(work) if memory.on_disk else work()


async def accept_from(folder: Path, memory: TrustMemory, verifier: Verifier) -> tuple[TrustDocuments, Snapshot]:
    """What lies in STATE/trust/public, accepted. Raises what `load` and `accept` raise.

    Others write there meanwhile, and another process may have accepted what is newer: what does not verify is read once more, as
    long as it was changed in between.
    """
    documents = await to_thread.run_sync(load, folder)
    while True:
        try:
            return documents, await accept(documents, memory, verifier)
        except (VerificationError, RemoteProtocolError):
            newer = await to_thread.run_sync(load, folder)
            if newer == documents:
                raise
            documents = newer


def _read(documents: TrustDocuments, root: Root, domain: str, ml_dsa_root: bytes | None) -> _Verified:
    statement = statements.read(documents.statement, root=root, domain=domain, ml_dsa_root=ml_dsa_root)
    view = TrustView(root, domain, statement, revocations.read(documents.crl, root=root))
    bundle = bundles.read(documents.bundle, root=root, domain=domain, ml_dsa_root=ml_dsa_root)
    advance_policy(advance(NOTHING_SEEN, statement), bundle)
    return _Verified(Snapshot(policy_of(bundle), view), statement, bundle)


@lru_cache(maxsize=_COMPILED)
def policy_of(bundle: Bundle) -> Policy:
    """What its files say, compiled once in a process. Raises PolicyError, VerificationError("untrusted")."""
    return bundle.policy()


def _published(path: Path, longest: int) -> bytes:
    data = durable.read(path, longest=longest)
    if data is None:
        text = f"there is no {path}: nothing was signed here yet; `tpmbus provision` or `tpmbus policy sign` does it"
        raise VaultError("missing", text, path=str(path))
    return data
