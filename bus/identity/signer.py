"""Who signs: the host key at once, or the identity key in its TPM, as the epoch says that policy demands.

    session    the host key, one signature over a whole turn of all agents; never waits
    identity   the engine's next batch for the agent's key, critical lanes first; where the rule says so, ML-DSA over the same root
    sampled    a part of the session-signed contents enters the identity key's batch afterwards, and the proof follows on `_audit`

What is sampled follows from epoch and number alone, so that everybody can predict it; the message never waits for it. The proofs
are asked for in the background, gather while the TPM is busy or away, and are given up only when too many wait: each one that is
missing is an alert to those who listen. The rate is the signed policy's. The environment may raise it, never lower it.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import anyio

from bus.clock import Clock
from bus.errors import LocalProtocolError
from bus.identity.envelopes.seal import Draft, sign_by_host
from bus.identity.host.attempts import Pauses, attempt
from bus.identity.host.session import sign_as
from bus.identity.host.sessions import Sessions
from bus.identity.ml_dsa import CosigningKey
from bus.policy import Policy
from bus.policy.rollout import sample_rate
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import PRIORITIES
from bus.protocol.proof import BLIND_BYTES, BatchProof, Proof
from bus.protocol.sampling import AuditRecord, audit_content, sampled
from bus.protocol.suites import BY_NUMBER, HOST_SUITE, Suite
from bus.tpm.interface import Priority, TpmEngine
from bus.trust.petition import content

MAX_WAITING: Final = 4_096
"""Samples. At the default rate that is a minute of seven thousand envelopes a second without a TPM."""
MAX_BATCH: Final = 1_024
HOST: Final = "host"
"""Who signs for all agents of a process, in the statistics; every other signer is an agent's name."""


_BY_HOST: Final = HOST_SUITE.name, HOST


class Sample(NamedTuple):
    """A session-signed content that the identity key shall vouch for."""

    agent: str
    epoch: bytes
    seq: int
    content: bytes


@dataclass(frozen=True, slots=True)
class SignerStatistics:
    """Since the start; by suite, then by signer. What several callers had under one root counts as a signature for each."""

    signatures: Mapping[str, Mapping[str, int]]
    contents: Mapping[str, Mapping[str, int]]
    cosignatures: int
    sampled: int
    vouched: int
    """Samples whose proof was made."""
    dropped: int
    """Samples that were given up: too many waited, or the key was refused."""
    waiting: int


class Signer:
    """`on_audit(agent, record)` gets each audit record, for the agent's `_audit` topic; it must neither wait nor raise. Whoever has
    the link may put itself in its place later."""

    def __init__(
        self,
        engine: TpmEngine,
        sessions: Sessions,
        clock: Clock,
        policy: Policy,
        *,
        on_audit: Callable[[str, AuditRecord], None],
        environ: Mapping[str, str] = os.environ,
        cosigners: Mapping[str, CosigningKey] | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`cosigners`: agents' ML-DSA keys; the mapping may change. Raises PolicyError for a malformed environment."""
        self._engine, self._sessions, self._clock, self._random = engine, sessions, clock, random
        self._environ, self.on_audit = environ, on_audit
        self._cosigners = {} if cosigners is None else cosigners
        self._waiting: deque[Sample] = deque()
        self._with_the_tpm = 0
        self._wake = anyio.Event()
        self._signatures: Counter[tuple[str, str]] = Counter()
        self._contents: Counter[tuple[str, str]] = Counter()
        self._cosignatures = self._sampled = self._vouched = self._dropped = 0
        self.follow(policy)

    def follow(self, policy: Policy) -> None:
        """Another policy is in force."""
        self.rate = sample_rate(policy, self._environ)

    def suite_of(self, agent: str, *, by_identity: bool) -> Suite:
        """In whose hash a draft's content is to be made."""
        return self._sessions.holder(agent).identity.suite if by_identity else HOST_SUITE

    # ---- by session ----------------------------------------------------------------------------------------------------------

    def sign_by_session(self, drafts: Sequence[Draft]) -> list[Proof]:
        """One signature over all of them, made here and now: in the step of the loop in which their headers named a session.

        Raises LocalProtocolError if one of them must be signed by its identity, or if there are no host keys here.
        """
        for draft in drafts:
            if draft.epoch.params.by_identity:
                raise LocalProtocolError("policy demands the identity key for this epoch: a host key may not sign for it")
        proofs = sign_by_host([draft.content for draft in drafts], [draft.blind for draft in drafts], self._sessions.keys)
        self._contents[_BY_HOST] += len(drafts)
        self._signatures[_BY_HOST] += 1
        if self.rate > 0:
            for draft in drafts:
                if sampled(draft.epoch.id, draft.seq, self.rate):
                    self._add(Sample(draft.epoch.params.sender, draft.epoch.id, draft.seq, draft.content))
        return proofs

    # ---- by identity ---------------------------------------------------------------------------------------------------------

    async def sign_by_identity(self, agent: str, drafts: Sequence[Draft], *, cosign: bool = False) -> list[Proof]:
        """A proof for each, when the TPM has signed. `cosign`: the rule also wants an ML-DSA signature.

        Raises TpmError; LocalProtocolError if a draft is another agent's, if the agent is not open here, or has no ML-DSA key.
        """
        if any(draft.epoch.params.sender != agent for draft in drafts):
            raise LocalProtocolError(f"{agent} does not sign what another agent sends")
        cosigner = self._cosigners.get(agent) if cosign else None
        if cosign and cosigner is None:
            raise LocalProtocolError(f"policy demands an ML-DSA signature, and {agent} has no such key: enroll it with one")
        urgent = any(draft.epoch.params.priority <= PRIORITIES["critical"] for draft in drafts)
        priority = Priority.CRITICAL if urgent else Priority.NORMAL
        contents = [draft.content for draft in drafts]
        proofs = await self._sign(agent, Purpose.ENVELOPE, contents, priority)
        cosignatures = {} if cosigner is None else self._cosign(cosigner, proofs, contents)
        return [
            Proof.of(proof, blind=draft.blind, cosignature=cosignatures.get(proof.signature, b""))
            for proof, draft in zip(proofs, drafts, strict=True)
        ]

    async def sign_petition(self, agent: str, body: bytes) -> Proof:
        """What an agent asks of the authority. Raises TpmError, LocalProtocolError."""
        blind = self._random(BLIND_BYTES)
        made = content(body, blind=blind, suite=self.suite_of(agent, by_identity=True))
        (proof,) = await self._sign(agent, Purpose.ENROLL, [made], Priority.CRITICAL)
        return Proof.of(proof, blind=blind)

    async def _sign(self, agent: str, purpose: Purpose, contents: Sequence[bytes], priority: Priority) -> list[BatchProof]:
        holder = self._sessions.holder(agent)
        proofs = await sign_as(self._engine, holder, purpose, contents, priority=priority)
        signatures = len({proof.signature for proof in proofs})
        self._count(agent, BY_NUMBER[proofs[0].suite], contents=len(proofs), signatures=signatures)
        return proofs

    def _cosign(self, key: CosigningKey, proofs: Sequence[BatchProof], contents: Sequence[bytes]) -> dict[bytes, bytes]:
        """The second signature of each root, by the first one. All contents under one root have one tbs."""
        roots = {proof.signature: (proof, content) for proof, content in zip(proofs, contents, strict=True)}
        self._cosignatures += len(roots)
        return {signature: key.sign(proof.tbs(Purpose.ENVELOPE, content)) for signature, (proof, content) in roots.items()}

    # ---- samples -------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Have samples vouched for, until cancelled. One task a process."""
        pauses = Pauses(self._random)
        while True:
            if not self._waiting:
                self._wake = anyio.Event()
                await self._wake.wait()
            if await self._vouch(self._take()):
                pauses.reset()
            else:
                await self._clock.sleep(pauses.take())

    def _add(self, sample: Sample) -> None:
        self._sampled += 1
        if len(self._waiting) + self._with_the_tpm >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(sample)
        self._wake.set()

    def _take(self) -> dict[str, list[Sample]]:
        """All that waits, by agent; of one agent only so much that it is one request."""
        taken: dict[str, list[Sample]] = {}
        kept: deque[Sample] = deque()
        while self._waiting:
            sample = self._waiting.popleft()
            mine = taken.setdefault(sample.agent, [])
            (mine if len(mine) < MAX_BATCH else kept).append(sample)
        self._waiting = kept
        self._with_the_tpm = sum(len(samples) for samples in taken.values())
        return taken

    async def _vouch(self, taken: Mapping[str, list[Sample]]) -> bool:
        """False if the TPM is away; then they wait again."""

        async def ask(agent: str) -> list[AuditRecord]:
            return await self._records(agent, taken[agent])

        outcome = await attempt(ask, taken, self._clock)
        self._with_the_tpm = 0
        for agent, samples in taken.items():
            if agent in outcome.made:
                self._vouched += len(samples)
                for record in outcome.made[agent]:
                    self.on_audit(agent, record)
            elif agent in outcome.refused:
                self._dropped += len(samples)
            else:
                self._waiting.extendleft(reversed(samples))  # before those that came meanwhile
        return outcome.trouble is None

    async def _records(self, agent: str, samples: Sequence[Sample]) -> list[AuditRecord]:
        suite = self._sessions.holder(agent).identity.suite
        blinds = [self._random(BLIND_BYTES) for _ in samples]
        contents = [audit_content(sample.content, blind=blind, suite=suite) for sample, blind in zip(samples, blinds, strict=True)]
        proofs = await self._sign(agent, Purpose.AUDIT, contents, Priority.BACKGROUND)
        return [
            AuditRecord(sample.epoch, sample.seq, sample.content, Proof.of(proof, blind=blind))
            for sample, proof, blind in zip(samples, proofs, blinds, strict=True)
        ]

    # ---- counting ------------------------------------------------------------------------------------------------------------

    def _count(self, signer: str, suite: Suite, *, contents: int, signatures: int) -> None:
        self._contents[suite.name, signer] += contents
        self._signatures[suite.name, signer] += signatures

    def statistics(self) -> SignerStatistics:
        return SignerStatistics(
            signatures=_by_suite(self._signatures),
            contents=_by_suite(self._contents),
            cosignatures=self._cosignatures,
            sampled=self._sampled,
            vouched=self._vouched,
            dropped=self._dropped,
            waiting=len(self._waiting) + self._with_the_tpm,
        )


def _by_suite(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    tree: dict[str, dict[str, int]] = {}
    for (suite, signer), count in counts.items():
        tree.setdefault(suite, {})[signer] = count
    return tree
