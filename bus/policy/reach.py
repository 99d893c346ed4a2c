"""What follows from who may publish and hear what: the checks that need decisions.

Whether a role could ever publish where a rule applies is asked of one topic for each length (`topics.shapes`), taken from what
the role's pattern and the rule's pattern have in common; that is exact, with denials and more specific rules counted in. The
work grows with rules times patterns, so it has a budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from bus.errors import Problem
from bus.policy.decide import Action
from bus.policy.model import Pattern, Role, TopicRule
from bus.policy.policy import Policy
from bus.protocol.topics import ONE, REST, intersection, shapes

MAX_STEPS: Final = 2_000_000
"""A few seconds. Ten thousand agents with a thousand critical rules and two thousand patterns need a twentieth."""
_STEPS_A_DECISION: Final = 8


class Reach:
    """Asks a policy who gets where, until the budget is used up."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.left = MAX_STEPS
        self._by_first: dict[tuple[str, Action], dict[str, list[Pattern]]] = {}

    def pattern(self, role: Role, action: Action, rule: TopicRule, *, within: Iterable[Pattern] | None = None) -> Pattern | None:
        """The pattern by which the role may do this on topics that this rule, and no more specific one, is for."""
        for pattern in self._candidates(role, action, rule.match.text) if within is None else within:
            self._spend(1)
            common = intersection(pattern.text, rule.match.text)
            if common is not None and self._any(role, action, common, rule):
                return pattern
        return None

    def _candidates(self, role: Role, action: Action, match: str) -> list[Pattern]:
        """The role's patterns without those whose first token already differs: in a large policy, nearly all."""
        key = role.name, action
        if key not in self._by_first:
            by_first: dict[str, list[Pattern]] = {}
            for pattern in role.publish if action == "publish" else role.subscribe:
                by_first.setdefault(pattern.text.split(".", 1)[0], []).append(pattern)
            self._by_first[key] = by_first
        found = self._by_first[key]
        first = match.split(".", 1)[0]
        if first in (ONE, REST):
            return [pattern for patterns in found.values() for pattern in patterns]
        return [pattern for token in (first, ONE, REST) for pattern in found.get(token, ())]

    def has_effect(self, role: Role, action: Action, pattern: Pattern) -> bool:
        return self._any(role, action, pattern.text, None)

    def _spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise _TooLargeError

    def _any(self, role: Role, action: Action, pattern: str, rule: TopicRule | None) -> bool:
        for topic in shapes(pattern, fill=self.policy.fill):
            self._spend(_STEPS_A_DECISION)
            if self.policy.permits(role.name, action, topic, rule):
                return True
        return False


class _TooLargeError(Exception):
    """The budget is used up."""


def check(policy: Policy) -> tuple[list[Problem], list[Problem]]:
    """Mistakes and warnings."""
    reach = Reach(policy)
    try:
        mistakes = list(_weak_publishers(reach))
        doubts = [doubt for rule in policy.topics for doubt in _about_readers(reach, rule)]
        doubts += [doubt for role in policy.roles.values() for doubt in _without_effect(reach, role)]
    except _TooLargeError:
        first = policy.topics[0].place if policy.topics else next(iter(policy.roles.values())).place
        return [first.problem("the policy has too many rules and patterns to check; use fewer, with wildcards")], []
    return mistakes, doubts


def _weak_publishers(reach: Reach) -> Iterator[Problem]:
    weak = [role for role in reach.policy.roles.values() if not role.suite.is_sha3]
    for rule in reach.policy.topics:
        if rule.needs_identity:
            for role in weak:
                pattern = reach.pattern(role, "publish", rule)
                if pattern is not None:
                    yield pattern.place.problem(
                        f"role {role.name!r} ({role.suite}) may publish {pattern.text!r}, but {rule.match.text!r} ({rule.place}) "
                        "is signed by identities and needs a SHA-3 suite; deny it to the role, or give the role a key such as "
                        f"{role.suite.kind}/sha3-256"
                    )


def _about_readers(reach: Reach, rule: TopicRule) -> Iterator[Problem]:
    by_envelope = rule.is_durable and rule.unit == "envelope"
    if not (rule.needs_identity or by_envelope or rule.kem == "hybrid"):
        return
    readers = [role for role in reach.policy.roles.values() if reach.pattern(role, "subscribe", rule)]
    in_groups = [role.name for role in readers if _in_a_group(reach, role, rule)]
    if rule.needs_identity and in_groups:
        yield rule.place.problem(
            f"{rule.match.text!r} is critical and {_roles(in_groups)} may read it in queue groups: a dishonest broker can hand "
            "one message to each member; name the topics that are for the group: '{group: NAME, topics: [..]}'"
        )
    if by_envelope and in_groups:
        yield rule.place.problem(
            f"{rule.match.text!r} is delivered by the envelope and {_roles(in_groups)} may read it in queue groups: one member "
            "gets all records of an envelope and acknowledges them together; 'unit: record' spreads them"
        )
    left_out = [role.name for role in readers if rule.kem == "hybrid" and role.inbox != "hybrid"]
    if left_out:
        yield rule.place.problem(
            f"{rule.match.text!r} needs 'kem: hybrid', so {_roles(left_out)} may subscribe but cannot read it; "
            "give the role 'inbox: hybrid'"
        )


def _in_a_group(reach: Reach, role: Role, rule: TopicRule) -> bool:
    return any(reach.pattern(role, "subscribe", rule, within=grant.topics or None) for grant in role.groups)


def _without_effect(reach: Reach, role: Role) -> Iterator[Problem]:
    """Patterns that allow nothing because all of it is denied."""
    actions: tuple[tuple[Action, tuple[Pattern, ...]], ...] = (("publish", role.publish), ("subscribe", role.subscribe))
    for action, patterns in actions:
        for pattern in patterns:
            if not reach.has_effect(role, action, pattern):
                yield pattern.place.problem(f"role {role.name!r}: {action} {pattern.text!r} has no effect; all of it is denied")


def _roles(names: list[str]) -> str:
    return f"{'role' if len(names) == 1 else 'roles'} {', '.join(names)}"
