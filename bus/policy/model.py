"""What a policy says, compiled: frozen values that know which file and line they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from bus.policy.kinds import OTHERS
from bus.policy.source import Place
from bus.policy.words import TopicWords, TpmWords, TrustWords, default_of
from bus.protocol.contexts import Purpose
from bus.protocol.suites import Suite
from bus.protocol.topics import covers

BUILT_IN: Final = Place("built in", 0, 0)
"""Where rules stand that no file holds."""
SOFTWARE: Final = "software"
"""The key origin that lets an agent do without a TPM."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern of topics as somebody wrote it; equal texts are equal patterns."""

    text: str
    place: Place = field(compare=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class UidGrant:
    """A local user who may use a role's keys for these purposes."""

    uid: int
    purposes: frozenset[Purpose]


@dataclass(frozen=True, slots=True)
class GroupGrant:
    """A queue group that a role may join (`*`: any), on subscriptions within these patterns (none: on all of its own)."""

    group: str
    topics: tuple[Pattern, ...]

    def allows(self, group: str, pattern: str) -> bool:
        return self.group in (group, OTHERS) and (not self.topics or any(covers(outer.text, pattern) for outer in self.topics))


@dataclass(frozen=True, slots=True)
class Role:
    name: str
    suite: Suite
    publish: tuple[Pattern, ...]
    subscribe: tuple[Pattern, ...]
    deny_publish: tuple[Pattern, ...]
    deny_subscribe: tuple[Pattern, ...]
    groups: tuple[GroupGrant, ...]
    uids: tuple[UidGrant, ...]
    """Empty: only the owner of the state folder."""
    key_origin: str
    """The least that is accepted: hardware, software-tpm or software."""
    session_ms: int
    inbox: str
    environment: str
    may: frozenset[str]
    pcrs: tuple[int, ...]
    place: Place = field(compare=False)

    def may_join(self, group: str, pattern: str) -> bool:
        """Whether the role may share this subscription in this group; whether it may subscribe at all is another question."""
        return any(grant.allows(group, pattern) for grant in self.groups)


@dataclass(frozen=True, slots=True)
class TopicRule:
    match: Pattern
    class_: str
    retention_ms: int
    """0 for live topics."""
    unit: str
    priority: str
    priorities: tuple[str, ...]
    ttl_ms: int
    """The longest time from sending to delivery; for durable topics the retention."""
    signed_by: str
    kem: str
    aead: str
    cosign: str | None
    history_ms: int | None
    """What a newly entitled reader gets of the past; None is all of it."""
    dead_readers: tuple[str, ...]
    """Roles and agents, as written."""
    ack_wait_ms: int
    max_deliver: int
    max_bytes: int

    @property
    def place(self) -> Place:
        return self.match.place

    @property
    def is_durable(self) -> bool:
        return self.class_ == "durable"

    @property
    def needs_identity(self) -> bool:
        return self.signed_by == "identity"


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    tpm_percent: int
    enabled: bool
    sample_rate: float
    place: Place = field(default=BUILT_IN, compare=False)


def topic_rule(words: TopicWords, place: Place) -> TopicRule:
    durable = words.class_ == "durable"
    return TopicRule(
        match=Pattern(words.match, place),
        class_=words.class_,
        retention_ms=words.retention if durable else 0,
        unit=words.unit or ("record" if durable else "envelope"),
        priority=words.priority,
        priorities=tuple(words.priorities or (words.priority,)),
        ttl_ms=words.retention if durable else words.ttl,
        signed_by=words.signed_by,
        kem=words.kem,
        aead=words.aead,
        cosign=words.cosign,
        history_ms=words.history,
        dead_readers=tuple(words.dead_readers),
        ack_wait_ms=words.ack_wait,
        max_deliver=words.max_deliver,
        max_bytes=words.max_bytes,
    )


DEFAULT_TOPIC_RULE: Final = topic_rule(TopicWords(match=">"), BUILT_IN)
"""For topics that no rule matches: live, session-signed, normal priority, 60 s."""

DEFAULT_TRUST_MAX_AGE_MS: Final[int] = default_of(TrustWords, "max_age")
DEFAULT_PRIMARY_HANDLE: Final[int] = default_of(TpmWords, "handle")
