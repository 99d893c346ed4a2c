"""What changes between two policies, for whom: judged by what is allowed, not by how it is written.

A topic moves only if it matches a pattern that stands in one of the policies and not in the other. So one topic of each region
(`regions.py`) of these patterns is asked about, and that is exact. Where there are too many regions the answer is never "no
difference": it says that it is not exact, and shows what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final

from bus.policy.decide import ACTIONS, Action
from bus.policy.kinds import OTHERS
from bus.policy.model import Role, TopicRule
from bus.policy.policy import Policy
from bus.policy.regions import Budget, PatternIndex, TooManyRegionsError, largest, regions, widest_first
from bus.protocol.topics import REST, intersection, shapes, unused_token

INEXACT: Final = "not compared exactly: too many patterns meet; as written"
"""How the change begins that stands in place of gains and losses that are too much work."""
_MAX_WRITTEN: Final = 20
"""Lines of a policy shown in such a change, before and after."""
_STEPS_A_DECISION: Final = 8
_DENY: Final = "deny "
_ROLE_WORDS: Final = {"suite": "key", "session_ms": "session"}
_COMPARED: Final = ("suite", "key_origin", "session_ms", "inbox", "environment", "pcrs")
_SETTINGS: Final = ("domain", "rollout", "trust_max_age_ms", "primary_handle", "audit_readers")

_RULE_WORDS: Final = tuple(field.name for field in fields(TopicRule) if field.name != "match")

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
    """Names that are listed now. Where `*` had a role before, `roles` says what they gain and lose."""
    removed: Mapping[str, str]
    """Names that are listed no more. Where `*` has a role now, `roles` says what they gain and lose."""
    roles: tuple[RoleDiff, ...]
    topics: tuple[TopicDiff, ...]
    settings: Mapping[str, Change]
    is_exact: bool
    """False where a change of a role, or of the topics, is `INEXACT`."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.roles or self.topics or self.settings)


def diff(old: Policy, new: Policy) -> PolicyDiff:
    before, after = _everybody(old), _everybody(new)
    pairs: dict[tuple[str, str], list[str]] = {}
    for agent in sorted(before.keys() | after.keys()):
        had, has = before.get(agent, old.others), after.get(agent, new.others)
        if had is not None and has is not None:
            pairs.setdefault((had, has), []).append(agent)
    comparison = _Comparison(old, new)
    roles = [comparison.roles(*pair, tuple(agents)) for pair, agents in sorted(pairs.items())]
    topics = comparison.topics()
    return PolicyDiff(
        added={agent: after[agent] for agent in sorted(after.keys() - before.keys())},
        removed={agent: before[agent] for agent in sorted(before.keys() - after.keys())},
        roles=tuple(role for role in roles if role),
        topics=topics,
        settings=_changed(old, new, _SETTINGS),
        is_exact=comparison.is_exact,
    )


def _everybody(policy: Policy) -> dict[str, str]:
    return {**policy.agents, **({} if policy.others is None else {OTHERS: policy.others})}


def _changed(old: object, new: object, names: Iterable[str]) -> dict[str, Change]:
    pairs = {name: (getattr(old, name), getattr(new, name)) for name in names}
    return {_ROLE_WORDS.get(name, name): pair for name, pair in pairs.items() if pair[0] != pair[1]}


class _Comparison:
    def __init__(self, old: Policy, new: Policy) -> None:
        self.old, self.new = old, new
        self.fill = unused_token(pattern for policy in (old, new) for pattern in (policy.fill, *_all_patterns(policy)))
        self.budget = Budget()
        self.is_exact = True

    def roles(self, before: str, after: str, agents: tuple[str, ...]) -> RoleDiff:
        old, new = self.old.roles[before], self.new.roles[after]
        gains: dict[str, tuple[str, ...]] = {}
        loses: dict[str, tuple[str, ...]] = {}
        changes = _changed(old, new, _COMPARED)
        for action in ACTIONS:
            try:
                gains[action], loses[action] = self._permissions(action, old, new)
            except TooManyRegionsError:
                before_lines, after_lines = _written(old, action), _written(new, action)
                changes[action] = self._as_written(before_lines - after_lines, after_lines - before_lines)
        for name in ("groups", "may", "uids"):
            had, has = _named(old, name), _named(new, name)
            gains[name], loses[name] = tuple(sorted(has - had)), tuple(sorted(had - has))
        return RoleDiff(
            agents,
            before,
            after,
            gains={name: items for name, items in gains.items() if items},
            loses={name: items for name, items in loses.items() if items},
            changes=changes,
        )

    def _permissions(self, action: Action, old: Role, new: Role) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Regions gained and lost."""
        before, after = _written(old, action), _written(new, action)
        answers: dict[str, tuple[bool, bool]] = {}
        for region, topic in self._regions(map(_pattern, before | after), map(_pattern, before ^ after)).items():
            self.budget.spend(2 * _STEPS_A_DECISION)
            answers[region] = self.old.permits(old.name, action, topic), self.new.permits(new.name, action, topic)
        gained = [region for region, (could, can) in answers.items() if can and not could]
        lost = [region for region, (could, can) in answers.items() if could and not can]
        allowed = [region for region, (_, can) in answers.items() if can]
        refused = [region for region, (_, can) in answers.items() if not can]
        return self._said(gained, but_for=refused), self._said(lost, but_for=allowed)

    def _regions(self, patterns: Iterable[str], changed: Iterable[str]) -> dict[str, str]:
        return regions(patterns, changed=changed, fill=self.fill, budget=self.budget)

    def _said(self, moved: list[str], *, but_for: list[str]) -> tuple[str, ...]:
        """The largest regions in which something has moved, each with those in it for which that is not said."""
        outside, outer = self._index(but_for), self._index()
        excepted: dict[str, PatternIndex] = {}
        texts = []
        for region in widest_first(moved):
            if all(excepted[one].covers(region) for one in outer.covering(region)):
                exceptions = largest(outside.within(region), budget=self.budget)
                texts.append(region + (f" except {', '.join(exceptions)}" if exceptions else ""))
                excepted[region] = self._index(exceptions)
                outer.add(region)
        return tuple(sorted(texts))

    def _index(self, patterns: Iterable[str] = ()) -> PatternIndex:
        return PatternIndex(patterns, budget=self.budget)

    def _as_written(self, gone: set[str], come: set[str]) -> Change:
        self.is_exact = False
        return f"{INEXACT}: {_some(gone)}", _some(come)

    def topics(self) -> tuple[TopicDiff, ...]:
        self.budget = Budget()
        try:
            return self._topics()
        except TooManyRegionsError:
            old, new = set(self.old.topics), set(self.new.topics)
            rules = self._as_written(set(map(_match, old - new)), set(map(_match, new - old)))
            return (TopicDiff(REST, {"rules": rules}, tuple(sorted({*self.old.roles, *self.new.roles}))),)

    def _topics(self) -> tuple[TopicDiff, ...]:
        old, new = set(self.old.topics), set(self.new.topics)
        samples = self._regions(map(_match, old | new), map(_match, old ^ new))
        by_change: dict[str, PatternIndex] = {}
        said: list[tuple[str, dict[str, Change]]] = []
        for region in widest_first(samples):
            self.budget.spend(2 * _STEPS_A_DECISION)
            changes = _changed(self.old.topic_rule(samples[region]), self.new.topic_rule(samples[region]), _RULE_WORDS)
            outer = by_change.setdefault(repr(changes), self._index())
            if changes and not outer.covers(region):
                outer.add(region)
                said.append((region, changes))
        concerned = _Concerned((self.old, self.new), fill=self.fill, budget=self.budget)
        return tuple(
            TopicDiff(region, changes, concerned.roles(region)) for region, changes in sorted(said, key=lambda item: item[0])
        )


class _Concerned:
    """Who may publish or hear somewhere, before or after."""

    def __init__(self, policies: tuple[Policy, Policy], *, fill: str, budget: Budget) -> None:
        self.fill, self.budget = fill, budget
        self.by_pattern: dict[str, list[tuple[Policy, str, Action]]] = {}
        for policy in policies:
            for role in policy.roles.values():
                for action in ACTIONS:
                    for pattern in role.publish if action == "publish" else role.subscribe:
                        self.by_pattern.setdefault(pattern.text, []).append((policy, role.name, action))
        self.index = PatternIndex(self.by_pattern, budget=budget)

    def roles(self, region: str) -> tuple[str, ...]:
        found: set[str] = set()
        for pattern in self.index.meeting(region):
            topics = list(shapes(intersection(pattern, region) or region, fill=self.fill))
            for policy, role, action in self.by_pattern[pattern]:
                if role not in found and self._any(policy, role, action, topics):
                    found.add(role)
        return tuple(sorted(found))

    def _any(self, policy: Policy, role: str, action: Action, topics: list[str]) -> bool:
        for topic in topics:
            self.budget.spend(_STEPS_A_DECISION)
            if policy.permits(role, action, topic):
                return True
        return False


def _written(role: Role, action: Action) -> set[str]:
    """What the role says about this action, line by line."""
    allow, deny = (role.publish, role.deny_publish) if action == "publish" else (role.subscribe, role.deny_subscribe)
    return {*map(str, allow), *(f"{_DENY}{pattern}" for pattern in deny)}


def _pattern(line: str) -> str:
    return line.removeprefix(_DENY)


def _match(rule: TopicRule) -> str:
    return rule.match.text


def _all_patterns(policy: Policy) -> Iterator[str]:
    for role in policy.roles.values():
        for action in ACTIONS:
            yield from map(_pattern, _written(role, action))
    yield from map(_match, policy.topics)


def _some(lines: Iterable[str]) -> str:
    listed = sorted(lines)
    more = len(listed) - _MAX_WRITTEN
    return (", ".join(listed[:_MAX_WRITTEN]) or "nothing") + (f" and {more} more" if more > 0 else "")


def _named(role: Role, name: str) -> set[str]:
    if name == "groups":
        return {f"{grant.group}{_on(tuple(map(str, grant.topics)))}" for grant in role.groups}
    if name == "uids":
        return {f"{grant.uid} for {', '.join(sorted(purpose.name.lower() for purpose in grant.purposes))}" for grant in role.uids}
    return set(role.may)


def _on(patterns: tuple[str, ...]) -> str:
    return f" on {', '.join(patterns)}" if patterns else ""
