"""Why may this agent do this, or not: the decision with everything that a person asks next."""

from __future__ import annotations

from dataclasses import dataclass

from bus.policy.decide import Action, Decision
from bus.policy.model import GroupGrant, Pattern, Role, TopicRule
from bus.policy.policy import Policy
from bus.protocol.topics import covers, has_wildcard, overlaps


@dataclass(frozen=True, slots=True)
class Explanation:
    agent: str
    decision: Decision
    role: Role
    denied_within: tuple[Pattern, ...]
    """Of a subscription to a pattern: what is denied of it, topic by topic."""
    other_rules: tuple[TopicRule, ...]
    """Of a pattern: more specific rules for some of its topics."""
    groups: tuple[GroupGrant, ...]
    """Queue groups in which the agent may share this subscription."""
    audience: tuple[str, ...]
    """To whom messages of this topic are sealed; nobody for a pattern."""


def explain(policy: Policy, agent: str, action: Action, topic: str) -> Explanation:
    """Raises NotPermittedError, with the nearest name, for an agent that policy does not know."""
    role = policy.role_of(agent)
    decision = policy.decide(agent, action, topic)
    within = decision.allowed and has_wildcard(topic)
    groups = role.groups if decision.allowed and action == "subscribe" else ()
    return Explanation(
        agent=agent,
        decision=decision,
        role=role,
        denied_within=tuple(pattern for pattern in role.deny_subscribe if within and overlaps(pattern.text, topic)),
        other_rules=tuple(rule for rule in policy.topics if within and _is_for_some(rule.match.text, topic)),
        groups=tuple(grant for grant in groups if grant.allows(grant.group, topic)),
        audience=policy.audience(topic),
    )


def _is_for_some(match: str, pattern: str) -> bool:
    return overlaps(match, pattern) and not covers(match, pattern)
