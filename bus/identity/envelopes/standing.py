"""Lines 8 and 9 of the receiver, as far as they are the same for all envelopes of one session on one topic.

A session is judged by what is trusted *now*: who is revoked today is refused whatever the date on the envelope, except where the
key was only `rotated`; then what was sent before that date stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bus.errors import NotPermittedError, VerificationError
from bus.identity.envelopes.believe import Believed
from bus.identity.envelopes.reserved import may_hear, rule_of, why_not_publish
from bus.policy import Policy
from bus.protocol import cosign
from bus.protocol.header import Header
from bus.tpm.interface import ORIGINS
from bus.trust.certificates import Certificate
from bus.trust.view import TrustView


class Fault(NamedTuple):
    """A refusal that is known before the envelope comes."""

    reason: str
    detail: str

    def error(self, agent: str) -> VerificationError:
        return VerificationError(self.reason, agent=agent, detail=self.detail)


@dataclass(frozen=True, slots=True)
class Standing:
    name: str
    not_before_ms: int
    not_after_ms: int
    rotated_ms: int | None
    """What was sent from then on is `revoked`."""
    fault: Fault | None
    """Line 8."""
    forbidden: Fault | None
    """Line 9."""
    needs_identity: bool
    cosign_key: bytes | None
    """The ML-DSA key that must have signed too; None if policy asks for none."""

    def check_signer(self, header: Header) -> None:
        """Line 8. Raises VerificationError: untrusted, revoked."""
        sent = header.sent_ms
        if self.name != header.sender:
            raise VerificationError("untrusted", agent=header.sender, detail=f"the session is {self.name}'s")
        if self.fault is not None:
            raise self.fault.error(header.sender)
        if not self.not_before_ms <= sent <= self.not_after_ms:
            raise VerificationError("untrusted", agent=header.sender, detail="sent outside the time of its session")
        if self.rotated_ms is not None and sent >= self.rotated_ms:
            raise VerificationError("revoked", agent=header.sender, detail="sent after its identity key was replaced")

    def check_policy(self, header: Header, *, by_identity: bool) -> None:
        """Line 9, as far as it is about the sender. Raises VerificationError: not_permitted, wrong_signer."""
        if self.forbidden is not None:
            raise self.forbidden.error(header.sender)
        if self.needs_identity and not by_identity:
            raise VerificationError("wrong_signer", agent=header.sender, detail="policy demands a signature by the identity key")


def standing_of(believed: Believed, topic: str, *, reply: bool, policy: Policy, trust: TrustView) -> Standing:
    """`topic` is the envelope's; of a reply, the request's."""
    rotated_ms, fault = _trusted(believed, trust)
    rule = rule_of(policy, topic)
    cosign_key, cosign_fault = _cosigner(believed, trust) if rule.cosign else (None, None)
    return Standing(
        name=believed.name,
        not_before_ms=believed.not_before_ms,
        not_after_ms=believed.not_after_ms,
        rotated_ms=rotated_ms,
        fault=fault,
        forbidden=_forbidden(believed.identity, topic, policy, reply=reply, needs_identity=rule.needs_identity) or cosign_fault,
        needs_identity=rule.needs_identity,
        cosign_key=cosign_key,
    )


def _trusted(believed: Believed, trust: TrustView) -> tuple[int | None, Fault | None]:
    """From when on it is replaced, and why it is not believed at all."""
    try:
        trust.revocations.verdict(believed.statement.signer.serial, believed.statement.issued_ms)
        # Asked for the first instant of time: what is refused even then is refused always.
        trust.revocations.verdict(believed.identity.serial, 0)
    except VerificationError as error:
        return None, Fault(error.reason, str(error))
    if believed.begun_ms < trust.sessions_not_before_ms(believed.name):
        return None, Fault("revoked", "a session from before the date that sessions of this agent count from")
    revocation = trust.revocations.revoked.get(believed.identity.serial)
    return (revocation.date_ms if revocation is not None else None), None


def _forbidden(identity: Certificate, topic: str, policy: Policy, *, reply: bool, needs_identity: bool) -> Fault | None:
    name = identity.name
    if reply:
        if not may_hear(policy, name, topic):
            return Fault("not_permitted", f"{name} may not hear {topic}, so it cannot answer what was asked there")
    elif (rule := why_not_publish(policy, name, topic)) is not None:
        return Fault("not_permitted", f"{name} may not publish {topic}: {rule}")
    return origin_fault(identity, policy, needs_identity=needs_identity)


def origin_fault(identity: Certificate, policy: Policy, *, needs_identity: bool) -> Fault | None:
    """Whether the key is where the role demands it, and, for what it signs itself, of a suite that may."""
    try:
        role = policy.role_of(identity.name)
    except NotPermittedError as error:
        return Fault("not_permitted", str(error))
    if ORIGINS.index(identity.origin) < ORIGINS.index(role.key_origin):
        return Fault("wrong_signer", f"role {role.name} demands key_origin {role.key_origin}, and this key is {identity.origin}")
    if needs_identity and not identity.suite.is_sha3:
        return Fault("wrong_signer", f"critical topics are signed with SHA-3, and this key signs with {identity.suite}")
    return None


def _cosigner(believed: Believed, trust: TrustView) -> tuple[bytes | None, Fault | None]:
    key, expected = believed.papers.ml_dsa, trust.ml_dsa_hash(believed.name)
    if not key or expected is None or cosign.key_hash(key) != expected:
        return None, Fault("wrong_signer", "the topic demands an ML-DSA signature, and trust vouches for no such key of this agent")
    return key, None
