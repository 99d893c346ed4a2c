"""What changes between two policies, for whom: judged by what is allowed, not by how it is written.

Topics are divided into *regions*: every pattern of both policies, and what any of them have in common. All topics of one
length that belong to a region, and to no smaller one in it, are treated alike, so asking about one of them answers for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from bus.policy.decide import ACTIONS, Action
from bus.policy.kinds import OTHERS
from bus.policy.model import Role, TopicRule
from bus.policy.policy import Policy
from bus.protocol.topics import REST, PatternTrie, covers, intersection, shapes, unused_token

MAX_REGIONS: Final = 2_000
"""Policies with more are compared pattern by pattern, without what these have in common."""
_ROLE_WORDS: Final = {"suite": "key", "session_ms": "session"}
_COMPARED: Final = ("suite", "key_origin", "session_ms", "inbox", "environment", "pcrs")
_SETTINGS: Final = ("domain", "rollout", "trust_max_age_ms", "primary_handle", "audit_readers")

_RULE_WORDS: Final = tuple(field.name for field in fields(TopicRule) if field.name != "match")

_Judge = Callable[[str], bool]
Change = tuple[object, object]
"""Before and after."""


@dataclass(frozen=True, slots=True)
class RoleDiff:
    """What changes for some agents: all that had the one role and now have the other."""

    agents: tuple[str, ...]
    before: str
    after: str
    gains: Mapping[str, tuple[str, ...]]
    loses: Mapping[str, tuple[str, ...]]
    changes: Mapping[str, Change]

    def __bool__(self) -> bool:
        return bool(self.gains or self.loses or self.changes or self.before != self.after)


@dataclass(frozen=True, slots=True)
class TopicDiff:
    """What changes about the messages of some topics, and whom it concerns."""

    match: str
    changes: Mapping[str, Change]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    added: Mapping[str, str]
    removed: Mapping[str, str]
    roles: tuple[RoleDiff, ...]
    topics: tuple[TopicDiff, ...]
    settings: Mapping[str, Change]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.roles or self.topics or self.settings)


def diff(old: Policy, new: Policy) -> PolicyDiff:
    before, after = _everybody(old), _everybody(new)
    pairs: dict[tuple[str, str], list[str]] = {}
    for agent in sorted(before.keys() & after.keys()):
        pairs.setdefault((before[agent], after[agent]), []).append(agent)
    comparison = _Comparison(old, new)
    roles = [comparison.roles(*pair, tuple(agents)) for pair, agents in sorted(pairs.items())]
    return PolicyDiff(
        added={agent: after[agent] for agent in sorted(after.keys() - before.keys())},
        removed={agent: before[agent] for agent in sorted(before.keys() - after.keys())},
        roles=tuple(role for role in roles if role),
        topics=comparison.topics(),
        settings=_changed(old, new, _SETTINGS),
    )


def _everybody(policy: Policy) -> dict[str, str]:
    return {**policy.agents, **({} if policy.others is None else {OTHERS: policy.others})}


def _changed(old: object, new: object, names: Iterable[str]) -> dict[str, Change]:
    pairs = {name: (getattr(old, name), getattr(new, name)) for name in names}
    return {_ROLE_WORDS.get(name, name): pair for name, pair in pairs.items() if pair[0] != pair[1]}


class _Comparison:
    def __init__(self, old: Policy, new: Policy) -> None:
        self.old, self.new = old, new
        self.fill = unused_token((old.fill, new.fill, *_all_patterns(old), *_all_patterns(new)))

    def roles(self, before: str, after: str, agents: tuple[str, ...]) -> RoleDiff:
        old, new = self.old.roles[before], self.new.roles[after]
        gains: dict[str, tuple[str, ...]] = {}
        loses: dict[str, tuple[str, ...]] = {}
        for action in ACTIONS:
            gains[action], loses[action] = self._permissions(action, old, new)
        for name in ("groups", "may", "uids"):
            had, has = _named(old, name), _named(new, name)
            gains[name], loses[name] = tuple(sorted(has - had)), tuple(sorted(had - has))
        return RoleDiff(
            agents,
            before,
            after,
            gains={name: items for name, items in gains.items() if items},
            loses={name: items for name, items in loses.items() if items},
            changes=_changed(old, new, _COMPARED),
        )

    def _permissions(self, action: Action, old: Role, new: Role) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Regions gained and lost."""
        samples = self._samples((*_patterns(old, action), *_patterns(new, action)))

        def could(topic: str) -> bool:
            return self.old.permits(old.name, action, topic)

        def can(topic: str) -> bool:
            return self.new.permits(new.name, action, topic)

        gained = _moved(samples, lambda topic: can(topic) and not could(topic), but_for=lambda topic: not can(topic))
        return gained, _moved(samples, lambda topic: could(topic) and not can(topic), but_for=can)

    def _samples(self, patterns: Iterable[str]) -> dict[str, list[str]]:
        """The regions of these patterns, each with one topic for every length that is its own."""
        found = regions(patterns)
        smallest = PatternTrie((region, region) for region in found)
        return {region: [topic for topic in shapes(region, fill=self.fill) if smallest.best(topic) == region] for region in found}

    def topics(self) -> tuple[TopicDiff, ...]:
        samples = self._samples(rule.match.text for rule in (*self.old.topics, *self.new.topics))
        by_change: dict[str, list[tuple[str, dict[str, Change]]]] = {}
        for region in sorted(samples, key=lambda region: (region.count("."), region.replace(REST, "\0"))):
            changes = next(filter(None, map(self._rule_changes, samples[region])), {})
            larger = by_change.setdefault(repr(changes), [])
            if changes and not any(covers(outer, region) for outer, _ in larger):
                larger.append((region, changes))
        flat = sorted((item for items in by_change.values() for item in items), key=lambda item: item[0])
        return tuple(TopicDiff(region, changes, self._concerned(region)) for region, changes in flat)

    def _rule_changes(self, topic: str) -> dict[str, Change]:
        return _changed(self.old.topic_rule(topic), self.new.topic_rule(topic), _RULE_WORDS)

    def _concerned(self, region: str) -> tuple[str, ...]:
        """The roles that may publish or hear there, before or after."""
        concerned = {
            role
            for policy in (self.old, self.new)
            for role in policy.roles
            for action in ACTIONS
            if any(policy.permits(role, action, topic) for topic in shapes(region, fill=self.fill))
        }
        return tuple(sorted(concerned))


def regions(patterns: Iterable[str]) -> set[str]:
    """The patterns, and what any of them have in common."""
    given = set(patterns)
    found, todo = set(given), list(given)
    while todo:
        pattern = todo.pop()
        for other in given:
            common = intersection(pattern, other)
            if common is not None and common not in found:
                found.add(common)
                todo.append(common)
        if len(found) > MAX_REGIONS:
            return given
    return found


def _moved(samples: Mapping[str, list[str]], has_moved: _Judge, *, but_for: _Judge) -> tuple[str, ...]:
    """The largest regions in which something has moved, each with those in it for which that is not said."""
    moved = [region for region, topics in samples.items() if any(map(has_moved, topics))]
    outside = [region for region, topics in samples.items() if topics and all(map(but_for, topics))]
    said: dict[str, list[str]] = {}
    for region in sorted(moved, key=lambda region: (-sum(covers(region, other) for other in moved), region)):
        if not any(covers(outer, region) and not _any_covers(excepted, region) for outer, excepted in said.items()):
            said[region] = _largest(other for other in outside if covers(region, other))
    return tuple(region + _except(excepted) for region, excepted in sorted(said.items()))


def _any_covers(patterns: list[str], region: str) -> bool:
    return any(covers(pattern, region) for pattern in patterns)


def _except(patterns: list[str]) -> str:
    return f" except {', '.join(patterns)}" if patterns else ""


def _largest(found: Iterable[str]) -> list[str]:
    """Without those that lie within another."""
    items = sorted(set(found))
    return [item for item in items if not any(other != item and covers(other, item) for other in items)]


def _patterns(role: Role, action: Action) -> list[str]:
    both = role.publish + role.deny_publish if action == "publish" else role.subscribe + role.deny_subscribe
    return [pattern.text for pattern in both]


def _all_patterns(policy: Policy) -> list[str]:
    own = [text for role in policy.roles.values() for action in ACTIONS for text in _patterns(role, action)]
    return own + [rule.match.text for rule in policy.topics]


def _named(role: Role, name: str) -> set[str]:
    if name == "groups":
        return {f"{grant.group}{_on(tuple(map(str, grant.topics)))}" for grant in role.groups}
    if name == "uids":
        return {f"{grant.uid} for {', '.join(sorted(purpose.name.lower() for purpose in grant.purposes))}" for grant in role.uids}
    return set(role.may)


def _on(patterns: tuple[str, ...]) -> str:
    return f" on {', '.join(patterns)}" if patterns else ""
