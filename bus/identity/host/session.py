"""One session certificate: an identity key says whose the host's keys are, for a quarter of an hour at most.

    begins   now; but not before the trust statement was issued, the identity begins, or the statement lets sessions begin
    ends     after the role's time; but never after the identity does

What no receiver would believe is not made: a session outside the time of its trust statement, or of its identity, or begun more
than a minute ahead of this machine's clock. What the TPM gives is checked against the identity certificate before it is used, so a
key that has been rotated away from its certificate is found here, and not by all the readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bus.errors import TpmRefusedError, VerificationError
from bus.identity.host.host_keys import HostKeys
from bus.policy import Role
from bus.protocol import kem, papers
from bus.protocol.contexts import Purpose
from bus.protocol.papers import MAX_SESSION_MS, Papers, SessionBody, SessionCertificate
from bus.protocol.proof import BLIND_BYTES, BatchProof, Proof
from bus.protocol.skew import SKEW_MS
from bus.tpm.interface import Priority, TpmEngine
from bus.trust.certificates import Certificate
from bus.trust.statement import NEW, Statement

RANDOM_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Holder:
    """An agent that is open in this process, as far as its sessions go."""

    identity: Certificate
    key: str
    """In the engine: NAME.GENERATION, the very generation that the certificate is for."""
    session_ms: int
    kem: int
    ml_dsa: bytes = field(default=b"", repr=False)
    """Its public ML-DSA key, if it has one."""

    @classmethod
    def of(cls, identity: Certificate, key: str, role: Role, *, ml_dsa: bytes = b"") -> Holder:
        return cls(identity, key, role.session_ms, kem.BY_WORD[role.inbox], ml_dsa)

    @property
    def name(self) -> str:
        return self.identity.name


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A certificate with all that goes with it."""

    holder: Holder
    keys: HostKeys
    certificate: SessionCertificate = field(repr=False)
    id: bytes
    papers: bytes = field(repr=False)
    not_before_ms: int
    not_after_ms: int
    ends: float
    """`not_after_ms` on the clock that never runs backwards, by which nobody else goes."""
    begun_ms: int
    """When its trust statement was issued: for readers it began then, where all sessions from before a date were ended, because
    `not_before_ms` can be dated ahead."""
    trust_signer: Certificate | None = field(default=None, repr=False)
    """Whose statement it names. Once that one's certificate is revoked, no reader believes the session."""

    @property
    def seconds(self) -> float:
        """How long it is good for, from its first moment on."""
        return (self.not_after_ms - self.not_before_ms) / 1000

    @property
    def is_its_identitys_last(self) -> bool:
        """Whether a renewal would not end later."""
        return self.not_after_ms >= self.holder.identity.not_after_ms

    def left(self, *, now: float, now_ms: int) -> float:
        """Seconds until it ends, by whichever hand of the clock says sooner."""
        return min(self.ends - now, (self.not_after_ms - now_ms) / 1000)

    def is_good(self, now_ms: int) -> bool:
        return self.not_before_ms - SKEW_MS <= now_ms <= self.not_after_ms

    def sent_ms(self, now_ms: int) -> int:
        """The time to write into a header. A clock that was set back a little must not date it before the session."""
        return max(now_ms, self.not_before_ms)


def body_of(holder: Holder, keys: HostKeys, statement: Statement, *, now_ms: int, random: bytes) -> SessionBody:
    """Raises VerificationError with why no receiver would believe it: "identity_ended", "clock_behind", "trust_stale"."""
    identity = holder.identity
    if statement.issued_ms < statement.agents.get(holder.name, NEW)[1]:
        raise _refused(
            holder,
            "trust_stale",
            f"trust statement {statement.number} ends sessions that would be made under it: fetch a newer one",
        )
    begins_ms = max(now_ms, statement.issued_ms, identity.not_before_ms)
    ends_ms = min(begins_ms + min(holder.session_ms, MAX_SESSION_MS), identity.not_after_ms)
    if ends_ms <= begins_ms:
        raise _refused(holder, "identity_ended", "its identity certificate has ended: enroll it again")
    if begins_ms > now_ms + SKEW_MS:
        raise _refused(holder, "clock_behind", f"this machine's clock is {(begins_ms - now_ms) // 1000} s behind the authority's")
    if begins_ms > statement.next_update_ms:
        raise _refused(holder, "trust_stale", f"trust statement {statement.number} has ended: fetch a newer one")
    return SessionBody(
        domain=identity.domain,
        name=identity.name,
        identity=identity.signer,
        host_key=keys.public,
        kem=keys.kem,
        kem_key=keys.kem_key,
        not_before_ms=begins_ms,
        not_after_ms=ends_ms,
        trust_number=statement.number,
        trust_digest=statement.digest,
        random=random,
    )


async def sign_as(
    engine: TpmEngine, holder: Holder, purpose: Purpose, contents: Sequence[bytes], *, priority: Priority
) -> list[BatchProof]:
    """Have an agent's identity key sign, in its certificate's name. Raises TpmError; "wrong_suite" if its key is of another one."""
    try:
        return await engine.sign_many(holder.key, purpose, contents, signer=holder.identity.signer, priority=priority)
    except ValueError as error:  # a content has the wrong length for the key
        suite = holder.identity.suite
        raise TpmRefusedError("wrong_suite", f"the key {holder.key} does not sign in {suite}, as its certificate says") from error


async def certify(
    engine: TpmEngine,
    holder: Holder,
    keys: HostKeys,
    statement: Statement,
    *,
    now: float,
    now_ms: int,
    random: Callable[[int], bytes],
) -> Session:
    """Have the identity key sign a session for these keys; below all identity traffic in the TPM's queue. `now` is monotonic.

    Raises what `body_of` raises, VerificationError("bad_proof") if the key is not the certificate's, and TpmError.
    """
    identity = holder.identity
    body = body_of(holder, keys, statement, now_ms=now_ms, random=random(RANDOM_BYTES))
    encoded, blind = body.encode(), random(BLIND_BYTES)
    content = papers.content(Purpose.SESSION, encoded, blind=blind, suite=identity.suite)
    (proof,) = await sign_as(engine, holder, Purpose.SESSION, [content], priority=Priority.RENEWAL)
    certificate = SessionCertificate(encoded, Proof.of(proof, blind=blind))
    certificate.check(identity.public_key, identity.suite, identity.signer)
    return Session(
        holder=holder,
        keys=keys,
        certificate=certificate,
        id=certificate.id,
        papers=Papers(certificate.encode(), identity.der, statement.raw, holder.ml_dsa).encode(),
        not_before_ms=body.not_before_ms,
        not_after_ms=body.not_after_ms,
        ends=now + (body.not_after_ms - now_ms) / 1000,
        begun_ms=statement.issued_ms,
        trust_signer=statement.signer,
    )


def _refused(holder: Holder, reason: str, detail: str) -> VerificationError:
    return VerificationError(reason, agent=holder.name, detail=detail)
