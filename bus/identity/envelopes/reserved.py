"""Who may do what on topics, those of the protocol included: these begin with an underscore, and policy cannot name them.

_audit.<NAME>                    sent by NAME, heard by policy's `audit_readers`
_reply.<NAME>.<session, hex>     sent by who may hear the request's topic, heard by NAME (the request decides, see `receive`)
_grant.<NAME>                    see `granting`
"""

from __future__ import annotations

from typing import Final

from bus.policy import Policy, TopicRule
from bus.policy.model import DEFAULT_TOPIC_RULE
from bus.protocol.names import is_agent_name

AUDIT: Final = "_audit."
REPLY: Final = "_reply."
AUDIT_RULE: Final = DEFAULT_TOPIC_RULE


def rule_of(policy: Policy, topic: str) -> TopicRule:
    return AUDIT_RULE if topic.startswith(AUDIT) else policy.topic_rule(topic)


def why_not_publish(policy: Policy, agent: str, topic: str) -> str | None:
    """The rule that keeps this agent from publishing on this topic; None if it may."""
    if topic.startswith(AUDIT):
        return None if topic == AUDIT + agent else "on _audit an agent speaks of itself alone"
    decision = policy.decide(agent, "publish", topic)
    return None if decision.allowed else f"{decision.rule} ({decision.place})"


def may_hear(policy: Policy, agent: str, topic: str) -> bool:
    if topic.startswith(AUDIT):
        return agent in policy.named(policy.audit_readers)
    return policy.may_hear(agent, topic)


def may_read_dead(policy: Policy, agent: str, topic: str) -> bool:
    return agent in policy.named(policy.topic_rule(topic).dead_readers)


def audience(policy: Policy, topic: str) -> tuple[str, ...]:
    """Every listed agent that messages of this topic are sealed to, by name."""
    if topic.startswith(AUDIT):
        return policy.named(policy.audit_readers)
    requester = requester_of(topic)
    return policy.audience(topic) if requester is None else (requester,)


def reply_topic(requester: str, session: bytes) -> str:
    return f"{REPLY}{requester}.{session.hex()}"


def requester_of(topic: str) -> str | None:
    """Whom a reply on this topic is for; None if it is no reply topic."""
    if not topic.startswith(REPLY):
        return None
    name, _, session = topic.removeprefix(REPLY).partition(".")
    return name if is_agent_name(name) and len(session) == 32 and not session.strip("0123456789abcdef") else None
