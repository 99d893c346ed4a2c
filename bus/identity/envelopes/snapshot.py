"""What one envelope is judged by, from its first line to its last: my policy and my trust, as they were at one moment.

Immutable; a new policy, statement or revocation list makes another snapshot. What it says about a sender, an epoch and a topic
is the same for every envelope of theirs: it is worked out once (`standing`, `arrival`), kept with the snapshot, and goes with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from bus.identity.envelopes import reserved
from bus.identity.envelopes.arrival import Arrival, arrival_of
from bus.identity.envelopes.believe import Believed
from bus.identity.envelopes.reserved import rule_of
from bus.identity.envelopes.standing import Standing, standing_of
from bus.policy import Policy, TopicRule
from bus.policy.model import DEFAULT_TOPIC_RULE
from bus.protocol import audience
from bus.protocol.audience import Members
from bus.protocol.epochs import OpenedEpoch
from bus.trust.view import TrustView

REPLY_TTL_MS: Final = DEFAULT_TOPIC_RULE.ttl_ms
"""Of replies to requests on durable topics, whose own messages may wait for days."""
MAX_KEPT: Final = 8_192
"""Of each kind; a full table starts anew."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    policy: Policy
    trust: TrustView
    _rules: dict[tuple[str, bool], TopicRule] = field(init=False, repr=False, default_factory=dict)
    _arrivals: dict[tuple[bytes, str, bool], Arrival] = field(init=False, repr=False, default_factory=dict)
    _standings: dict[tuple[bytes, bytes, str, bool], Standing] = field(init=False, repr=False, default_factory=dict)
    _hearers: dict[tuple[str, str, bool], bool] = field(init=False, repr=False, default_factory=dict)
    _audiences: dict[tuple[str, ...], Members] = field(init=False, repr=False, default_factory=dict)

    @property
    def domain(self) -> str:
        return self.trust.domain

    def judged_at(self, now_ms: int) -> int:
        """The time to judge by. Raises VerificationError("trust_stale") past the end of the trust statement."""
        statement = self.trust.statement
        if now_ms < statement.issued_ms:
            return statement.issued_ms
        if now_ms > statement.next_update_ms:
            self.trust.check_fresh(now_ms)
        return now_ms

    def rule(self, topic: str, *, reply: bool = False) -> TopicRule:
        """How envelopes of this topic travel; replies to it are live, and all else as the topic says."""
        found = self._rules.get((topic, reply))
        if found is None:
            found = rule_of(self.policy, topic)
            if reply and found.is_durable:
                found = replace(found, class_="live", ttl_ms=REPLY_TTL_MS)
            _keep(self._rules, (topic, reply), found)
        return found

    def arrival(self, epoch: OpenedEpoch, topic: str, *, reply: bool = False) -> Arrival:
        """What lines 3 and 4 of the receiver say about this epoch on this topic; of a reply, on the request's."""
        key = (epoch.id, topic, reply)
        found = self._arrivals.get(key)
        if found is None:
            found = arrival_of(epoch.params, self.rule(topic, reply=reply), self.domain)
            _keep(self._arrivals, key, found)
        return found

    def standing(self, believed: Believed, topic: str, *, reply: bool = False) -> Standing:
        """What lines 8 and 9 say about a sender with these papers who publishes on this topic, or answers what was asked there."""
        key = (believed.id, believed.papers.ml_dsa, topic, reply)  # of papers, all but the ML-DSA key is in what the id is made of
        found = self._standings.get(key)
        if found is None:
            found = standing_of(believed, topic, reply=reply, policy=self.policy, trust=self.trust)
            _keep(self._standings, key, found)
        return found

    def may_hear(self, agent: str, topic: str, *, dead: bool = False) -> bool:
        """Whether this agent may hear the topic, or, `dead`, read what could not be delivered on it."""
        key = (agent, topic, dead)
        found = self._hearers.get(key)
        if found is None:
            found = (reserved.may_read_dead if dead else reserved.may_hear)(self.policy, agent, topic)
            _keep(self._hearers, key, found)
        return found

    def audience(self, topic: str) -> Members:
        """Whom messages of this topic are sealed to, each with its generation."""
        names = reserved.audience(self.policy, topic)
        found = self._audiences.get(names)
        if found is None:
            found = audience.members((name, self.trust.generation(name)) for name in names)
            _keep(self._audiences, names, found)
        return found


def _keep(table: dict[K, V], key: K, value: V) -> None:
    if len(table) >= MAX_KEPT:
        table.clear()
    table[key] = value
