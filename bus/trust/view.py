"""What a receiver judges by, and what keeps it from being led back.

A view is one statement with the revocation list that it names, under one root: immutable, so a decision is taken by one of them
from its start to its end. Every look-up is one in a dict.

    the next number                        accepted
    the same number, the same body         accepted: it is the same statement
    a lower number                         trust_rollback      of the statement, or of the revocation list that it names
    an equal number, another body          trust_fork          the same; the authority signs no two: somebody has its key
    policy older, or equal and different   policy_rollback, policy_fork      also older than the one that a statement names

Numbers alone do not stop somebody who withholds what is newer. That is why a statement has an end: past `next_update` nothing is
sealed and nothing delivered (`trust_stale`), and at half of its life there is an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from bus.errors import VerificationError
from bus.trust.bundle import Bundle
from bus.trust.certificates import Root
from bus.trust.revocations import RevocationList
from bus.trust.statement import NEW, Statement


@dataclass(frozen=True, slots=True)
class TrustView:
    """Raises VerificationError("untrusted") if its parts do not belong together, "revoked" if the statement's signer is."""

    root: Root
    domain: str
    statement: Statement
    revocations: RevocationList

    def __post_init__(self) -> None:
        statement, revocations = self.statement, self.revocations
        if statement.domain != self.domain:
            raise VerificationError("untrusted", detail="a statement of another domain")
        if (revocations.number, revocations.digest) != (statement.crl_number, statement.crl_digest):
            raise VerificationError(
                "untrusted", detail=f"revocation list {revocations.number} is not number {statement.crl_number} of the statement"
            )
        revocations.verdict(statement.signer.serial, statement.issued_ms)

    def generation(self, name: str) -> int:
        """How often this name was revoked: part of every audience that it is in."""
        return self.statement.agents.get(name, NEW)[0]

    def sessions_not_before_ms(self, name: str) -> int:
        """Sessions of this name that were made before count no more."""
        return self.statement.agents.get(name, NEW)[1]

    def ml_dsa_hash(self, name: str) -> bytes | None:
        """SHA-256 of the ML-DSA key that this name co-signs with; None if it has none."""
        return self.statement.ml_dsa.get(name)

    def check_fresh(self, now_ms: int) -> None:
        """Return if the statement is still good at this time, as `now_ms` gives it; else raise VerificationError("trust_stale")."""
        late = now_ms - self.statement.next_update_ms
        if late > 0:
            detail = f"statement {self.statement.number} ended {late // 1000} s ago: no news of revocations; fetch a newer one"
            raise VerificationError("trust_stale", detail=detail)

    def half_life_passed(self, now_ms: int) -> bool:
        """Whether it is time to worry: a new statement is due every five minutes, and half of this one's life has passed."""
        return 2 * now_ms >= self.statement.issued_ms + self.statement.next_update_ms

    def now_ms(self, clock_ms: int) -> int:
        """The time to judge by: the clock's, but never before the statement was issued, since it is later than that."""
        return max(clock_ms, self.statement.issued_ms)


class Highest(NamedTuple):
    """The newest that was ever accepted of each, by number and digest. It is kept on disk and never goes back."""

    number: int = 0
    digest: bytes = b""
    """Of the statement's body; see there why."""
    crl_number: int = 0
    crl_digest: bytes = b""
    policy_version: int = 0
    policy_digest: bytes = b""


NOTHING_SEEN: Final = Highest()


def advance(highest: Highest, statement: Statement) -> Highest:
    """The new highest after accepting this statement.

    It may name a policy that is older than one that is here already: the root signed that one, and newer is all that counts.
    Where it names a newer one, bundles that are older than it are refused from now on.
    Raises VerificationError: "trust_rollback", "trust_fork", "policy_fork".
    """
    here = Highest(
        statement.number,
        statement.body_digest,
        statement.crl_number,
        statement.crl_digest,
        *max((highest.policy_version, highest.policy_digest), (statement.policy_version, statement.policy_digest), key=_number),
    )
    _check("trust", "statement", highest[0:2], here[0:2])
    _check("trust", "revocation list", highest[2:4], here[2:4])
    if statement.policy_version == highest.policy_version:
        _check("policy", "policy", highest[4:6], (statement.policy_version, statement.policy_digest))
    return here


def advance_policy(highest: Highest, bundle: Bundle) -> Highest:
    """The new highest after accepting this bundle. Raises VerificationError: "policy_rollback", "policy_fork"."""
    _check("policy", "policy", highest[4:6], (bundle.version, bundle.digest))
    return highest._replace(policy_version=bundle.version, policy_digest=bundle.digest)


def _number(mark: tuple[int, bytes]) -> int:
    return mark[0]


def _check(kind: str, what: str, old: tuple[int, bytes], new: tuple[int, bytes]) -> None:
    if new[0] < old[0]:
        raise VerificationError(f"{kind}_rollback", detail=f"{what} {new[0]} is older than {old[0]}, which was seen before")
    if new[0] == old[0] and old[1] and new[1] != old[1]:
        raise VerificationError(f"{kind}_fork", detail=f"there are two of {what} {new[0]}: somebody else has the authority's key")
