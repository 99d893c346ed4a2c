"""What agents of a test have instead of a state folder: inbox keys, and ledgers of their durable subscriptions.

They belong to a world and not to a host: who opens an agent again, also in "another process" of the test, finds them as on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from bus.flow.ledger import Changes, Ledger, Row
from bus.identity.host.session import Holder
from bus.identity.inbox_record import ROTATED_AFTER_MS, times
from bus.protocol import papers
from bus.protocol.contexts import Purpose
from bus.protocol.kem import PRIVATE_BYTES, PrivateKey
from bus.protocol.papers import InboxBody, InboxCertificate
from bus.protocol.proof import BLIND_BYTES, Proof, batch
from bus.testing.inline_engine import InlineEngine
from bus.testing.inline_keys import InlineKeys
from bus.trust.certificates import Certificate


@dataclass(slots=True, eq=False)
class MemoryInbox:
    """Of one agent. As elsewhere, the TPM unseals a key when it is needed."""

    engine: InlineEngine
    identity: bytes = b""
    """The certificate that signed the newest one."""
    certificate: bytes = b""
    counter: int = 0
    rotates_ms: int = 0
    _sealed: dict[bytes, tuple[int, bytes]] = field(default_factory=dict, repr=False)

    async def private(self, key_id: bytes) -> PrivateKey | None:
        found = self._sealed.get(key_id)
        return None if found is None else PrivateKey.from_bytes(found[0], await self.engine.unseal(found[1]))

    def renew(self, holder: Holder, keys: InlineKeys, *, now_ms: int) -> None:
        """A new key, if one is due: there is none, it is a week old, or the identity is another."""
        identity = holder.identity
        if identity.der == self.identity and now_ms < self.rotates_ms:
            return
        self.counter += 1
        seed = hashlib.sha512(f"{identity.name} {identity.serial} {self.counter}".encode()).digest() * 2
        key = PrivateKey.from_bytes(holder.kem, seed[: PRIVATE_BYTES[holder.kem]])
        self._sealed[key.id] = key.kem, self.engine.seal_nowait(key.to_bytes())
        self.certificate, self.identity = _certified(holder, keys, key, self.counter, now_ms=now_ms), identity.der
        self.rotates_ms = now_ms + ROTATED_AFTER_MS


def _certified(holder: Holder, keys: InlineKeys, key: PrivateKey, counter: int, *, now_ms: int) -> bytes:
    identity: Certificate = holder.identity
    begins, ends = times(now_ms=now_ms, identity_not_before_ms=identity.not_before_ms, identity_not_after_ms=identity.not_after_ms)
    body = InboxBody(identity.domain, identity.name, identity.signer, counter, key.kem, key.public, begins, ends).encode()
    blind = hashlib.sha256(body).digest()[:BLIND_BYTES]
    content = papers.content(Purpose.INBOX, body, blind=blind, suite=identity.suite)
    tree = batch(identity.suite, identity.signer, [(Purpose.INBOX, content)])
    (proof,) = tree.proofs(keys.find(holder.key).sign(tree.tbs))
    return InboxCertificate(body, Proof.of(proof, blind=blind)).encode()


class MemoryLedgers:
    """What was finished, by agent and durable subscription: written at once, and as lasting as the test."""

    company_seconds = 0.0

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], dict[tuple[bytes, int], Row]] = {}

    async def load(self, agent: str, name: str) -> Ledger:
        return Ledger.load(self._rows.get((agent, name), {}).values())

    async def write(self, changes: Iterable[tuple[str, str, Changes]]) -> None:
        for agent, name, one in changes:
            rows = self._rows.setdefault((agent, name), {})
            for key in [key for key in rows if key[0] in one.forget]:
                del rows[key]
            for key in one.drop:
                rows.pop(key, None)
            rows.update({(row.epoch, row.start): row for row in one.put})
