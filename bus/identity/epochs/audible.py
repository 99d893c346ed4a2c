"""How many agents those of a host may hear, by policy: as many as it must have room for, with the epochs of each."""

from __future__ import annotations

from collections.abc import Iterable

from bus.errors import NotPermittedError
from bus.policy import Policy
from bus.policy.model import Pattern, Role
from bus.protocol.topics import overlaps


def audible(policy: Policy, hearers: Iterable[str]) -> int:
    """Of the agents that policy lists. What `deny` takes away counts too: it is rather too many than too few."""
    own = set(hearers)
    if own.intersection(policy.named(policy.audit_readers)):
        return len(policy.agents)
    roles = [role for role in (_role_of(policy, name) for name in own) if role is not None]
    heard = {pattern for role in roles for pattern in role.subscribe}
    heard |= {rule.match for rule in policy.topics if own.intersection(policy.named(rule.dead_readers))}
    asked = {pattern for role in roles for pattern in role.publish}
    return sum(
        len(policy.members(name))
        for name, role in policy.roles.items()
        if _meet(role.publish, heard) or _meet(role.subscribe, asked)  # who hears a request may answer it
    )


def _role_of(policy: Policy, agent: str) -> Role | None:
    try:
        return policy.role_of(agent)
    except NotPermittedError:
        return None


def _meet(some: Iterable[Pattern], others: Iterable[Pattern]) -> bool:
    return any(overlaps(one.text, other.text) for one in some for other in others)
