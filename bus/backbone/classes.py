"""Retention classes as a backbone needs them: of each rule for durable topics, what is kept how long, and how redelivered."""

from __future__ import annotations

from bus.backbone.interface import DEAD, RetentionClass
from bus.policy import retention
from bus.policy.policy import Policy
from bus.policy.retention import LIVE, class_name

__all__ = ["LIVE", "class_name", "class_within", "retention_classes"]


def retention_classes(policy: Policy) -> list[RetentionClass]:
    found: dict[str, RetentionClass] = {}
    for rule in policy.topics:
        if rule.is_durable:
            name = class_name(rule)
            found.setdefault(name, RetentionClass(name, rule.retention_ms, rule.ack_wait_ms, rule.max_deliver))
    return [*found.values()]


def class_within(policy: Policy, pattern: str) -> str:
    """The class in which all topics of this pattern lie; `_dead.<pattern>` lies where its topics do.

    Raises BackboneError: "not_durable", "several_classes", with their names.
    """
    return retention.class_within(policy, pattern.removeprefix(DEAD))
