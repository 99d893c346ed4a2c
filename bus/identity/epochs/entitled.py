"""Who may have the key of an epoch now: asked again each time, by my own policy and trust, also long after it was made.

    in its audience     the same name of the same generation, and policy lets it hear one of the epoch's topics still
    not in it           only if policy lets it hear *every* topic of the epoch, and the rule of each says `history: all`, or a
                        duration and the epoch was made within it

An epoch's key opens all of it. So what one rule lets a newcomer read of the past is not given where another rule's messages may
be under the same key. An epoch of this process knows its topics. One that only its self-grant tells of may have any topic that
this sender could have used it for by the policy of now: durable, with its priority, signer, cipher and key agreement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bus.errors import NotPermittedError
from bus.identity.envelopes.snapshot import Snapshot
from bus.policy import Policy, TopicRule
from bus.policy.regions import Budget, TooManyRegionsError, regions
from bus.protocol.audience import Members
from bus.protocol.epochs import AEADS, CLASSES, PRIORITIES, SIGNERS, OpenedEpoch, Params, SealingEpoch
from bus.protocol.kem import BY_WORD

Member = tuple[str, int]
MAX_TOPICS: Final = 64
"""That an epoch remembers; beyond, it may have been used for any."""
MAX_STEPS: Final = 100_000
"""For finding all kinds of topics of a sender: a fifth of a second at most. Whose policy needs more grants nothing of the past."""


class Entitlement(NamedTuple):
    """By one snapshot."""

    now: frozenset[Member]
    """Who was in the audience and may still hear."""
    history: frozenset[Member]
    """These, and who may have the past."""
    history_ms: int | None
    """How far back; None is all of it."""

    def members(self, made_ms: int, now_ms: int) -> frozenset[Member]:
        far = self.history_ms
        return self.history if far is None or (far and now_ms - made_ms <= far) else self.now


NOBODY: Final = Entitlement(frozenset(), frozenset(), 0)


@dataclass(slots=True, eq=False)
class Grantable:
    """An epoch whose secret its own agent has, and may give to others."""

    epoch: SealingEpoch | OpenedEpoch
    secret: bytes = field(repr=False)
    members: Members = field(repr=False)
    """Its audience."""
    topics: set[str] | None = field(default=None, repr=False)
    """What it was used for; None if that is not known."""
    _by: Snapshot | None = field(default=None, repr=False)
    _entitlement: Entitlement = field(default=NOBODY, repr=False)

    def used_for(self, topic: str) -> None:
        """Topics that share it now have one audience now, so who is entitled by this snapshot does not change."""
        if self.topics is not None and topic not in self.topics:
            self.topics = {*self.topics, topic} if len(self.topics) < MAX_TOPICS else None

    def entitled(self, snapshot: Snapshot, *, now_ms: int) -> frozenset[Member]:
        """Whom it may be given to now."""
        if self._by is not snapshot:
            self._by, self._entitlement = snapshot, entitlement(self, snapshot)
        return self._entitlement.members(self.epoch.params.made_ms, now_ms)


def entitlement(grantable: Grantable, snapshot: Snapshot) -> Entitlement:
    params, topics = grantable.epoch.params, grantable.topics
    if topics is None:
        topics = set(topics_of(params, snapshot.policy))
    if not topics:
        return NOBODY
    audiences = [frozenset(snapshot.audience(topic)) for topic in topics]
    now = frozenset().union(*audiences) & frozenset(grantable.members)
    far = _shortest(snapshot.rule(topic) for topic in topics) if params.is_durable else 0
    return Entitlement(now, now if far == 0 else now | frozenset.intersection(*audiences), far)


def _shortest(rules: Iterator[TopicRule]) -> int | None:
    """Of how far back rules let newcomers read."""
    known = [rule.history_ms if rule.is_durable else 0 for rule in rules]
    return min((far for far in known if far is not None), default=None)


def topics_of(params: Params, policy: Policy) -> Iterator[str]:
    """One topic of each kind for which this sender could have used an epoch of these parameters."""
    try:
        role = policy.role_of(params.sender)
        mine = [pattern.text for pattern in role.publish]
        found = regions(_patterns(policy), changed=mine, fill=policy.fill, budget=Budget(MAX_STEPS))
    except (NotPermittedError, TooManyRegionsError):
        return
    for topic in found.values():
        if policy.decide(params.sender, "publish", topic).allowed and _fits(params, policy.topic_rule(topic)):
            yield topic


def _fits(params: Params, rule: TopicRule) -> bool:
    return (
        params.class_ == CLASSES[rule.class_]
        and params.priority in {PRIORITIES[word] for word in rule.priorities}
        and (params.signed_by, params.aead, params.kem) == (SIGNERS[rule.signed_by], AEADS[rule.aead], BY_WORD[rule.kem])
    )


def _patterns(policy: Policy) -> Iterator[str]:
    yield from (rule.match.text for rule in policy.topics)
    for role in policy.roles.values():
        for pattern in (*role.publish, *role.subscribe, *role.deny_publish, *role.deny_subscribe):
            yield pattern.text
