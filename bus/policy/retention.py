"""Retention classes: each rule for durable topics is one, named by what it matches. What is kept is kept, and goes, by class.

A durable pattern lies within one class, whatever keeps it: a consumer reads one stream. Which rules are for some topic of a pattern
is found without searching through topics: for every rule that has topics in common with it, its own topic of each length answers
(`protocol/topics`).
"""

from __future__ import annotations

from typing import Final

from bus.errors import BackboneError
from bus.policy.model import TopicRule
from bus.policy.policy import Policy
from bus.protocol.names import MAX_TOPIC_BYTES
from bus.protocol.topics import intersection, shapes

LIVE: Final = "live"
"""In `BackboneError.classes`: topics that are not kept."""


def class_name(rule: TopicRule) -> str:
    """Of a durable rule."""
    return rule.match.text


def class_within(policy: Policy, pattern: str) -> str:
    """The class in which all topics of this pattern lie.

    Raises BackboneError: "not_durable", "several_classes", with their names.
    """
    names = sorted(_classes(policy, pattern))
    if names == [LIVE]:
        raise BackboneError(
            "not_durable", f"no topic of {pattern!r} is durable in policy: nothing is kept for {pattern!r}", classes=names
        )
    if len(names) > 1:
        named = ", ".join(names)
        text = f"{pattern!r} has topics of {named}: a durable subscription reads one retention class; make one for each"
        raise BackboneError("several_classes" if LIVE not in names else "not_durable", text, classes=names)
    return names[0]


def _classes(policy: Policy, pattern: str) -> set[str]:
    common = {found for rule in policy.topics if (found := intersection(pattern, rule.match.text)) is not None}
    topics = {topic for part in (pattern, *common) for topic in shapes(part, fill=policy.fill) if len(topic) <= MAX_TOPIC_BYTES}
    rules = [policy.topic_rule(topic) for topic in topics]
    return {class_name(rule) if rule.is_durable else LIVE for rule in rules} or {LIVE}
