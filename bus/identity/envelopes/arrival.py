"""Lines 3 and 4 of the receiver, as far as they are the same for all envelopes of one epoch on one topic."""

from __future__ import annotations

from dataclasses import dataclass

from bus.errors import VerificationError
from bus.policy import TopicRule
from bus.protocol.epochs import CLASSES, PRIORITIES, SIGNERS, Params
from bus.protocol.header import Header
from bus.protocol.kem import BY_WORD
from bus.protocol.skew import SKEW_MS


@dataclass(frozen=True, slots=True)
class Arrival:
    sender: str
    priority: int
    ttl_ms: int
    sent_from_ms: int
    sent_to_ms: int
    fault: str | None
    """What makes every envelope of this epoch on this topic `wrong_epoch`."""

    def check_epoch(self, header: Header) -> None:
        """Line 4. Raises VerificationError("wrong_epoch")."""
        if (
            self.fault is None
            and header.sender == self.sender
            and header.priority == self.priority
            and self.sent_from_ms <= header.sent_ms <= self.sent_to_ms
        ):
            return
        detail = self.fault or "its sender, priority or time is not that of its epoch"
        raise VerificationError("wrong_epoch", agent=header.sender, detail=detail)


def check_times(header: Header, ttl_ms: int, *, now_ms: int, dead: bool = False) -> None:
    """Line 3. Raises VerificationError: from_future, expired, ttl_too_long.

    A dead letter may be expired, but not older than its rule lets any message get: a ledger must know when it may forget.
    """
    sent, expires = header.sent_ms, header.expires_ms
    if sent > now_ms + SKEW_MS:
        raise VerificationError("from_future", agent=header.sender, detail=f"sent {sent - now_ms} ms from now: compare the clocks")
    ends = sent + ttl_ms if dead else expires
    if now_ms > ends:
        raise VerificationError("expired", agent=header.sender, detail=f"{now_ms - ends} ms ago")
    if expires - sent > ttl_ms:
        raise VerificationError("ttl_too_long", agent=header.sender, detail=f"the rule of {header.topic} allows {ttl_ms} ms")


def arrival_of(params: Params, rule: TopicRule, domain: str) -> Arrival:
    return Arrival(
        sender=params.sender,
        priority=params.priority,
        ttl_ms=rule.ttl_ms,
        sent_from_ms=params.made_ms - SKEW_MS,
        sent_to_ms=params.ends_ms,
        fault=_fault(params, rule, domain),
    )


def _fault(params: Params, rule: TopicRule, domain: str) -> str | None:
    if params.domain != domain:
        return "an epoch of another domain"
    if params.class_ != CLASSES[rule.class_]:
        return f"the rule of the topic says {rule.class_}"
    if params.priority not in {PRIORITIES[word] for word in rule.priorities}:
        return "the rule of the topic does not allow its priority"
    if params.signed_by < SIGNERS[rule.signed_by]:
        return f"the rule of the topic demands signatures by {rule.signed_by}"
    if not params.is_durable and params.kem < BY_WORD[rule.kem]:
        return f"the rule of the topic demands the key agreement {rule.kem}"
    return None
