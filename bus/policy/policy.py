"""A whole policy: who is who, and what may they do. Frozen; a changed policy is another one.

Decisions are remembered (for each role, not for each agent) in a bounded table, so a warm one is two look-ups; a cold one walks
tries and costs the same with ten agents and with ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, TypeVar

from bus.errors import NotPermittedError, PolicyError, Problem
from bus.policy.decide import ACTIONS, Action, Answer, Decision, Rights, fault
from bus.policy.model import (
    BUILT_IN,
    DEFAULT_PRIMARY_HANDLE,
    DEFAULT_TOPIC_RULE,
    DEFAULT_TRUST_MAX_AGE_MS,
    Role,
    RolloutSettings,
    TopicRule,
)
from bus.policy.near import hint
from bus.protocol.names import is_agent_name
from bus.protocol.topics import PatternTrie, has_wildcard, shapes, unused_token

MAX_REMEMBERED: Final = 16_384
"""Decisions; at most 512 bytes of topic each. A full table starts anew."""

K = TypeVar("K")
V = TypeVar("V")
_Audiences = dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """Made by `load` or `open_policy`; made without arguments it refuses everything."""

    domain: str = "tpmbus.local"
    agents: Mapping[str, str] = field(default_factory=dict)
    """Every listed agent and its role."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    topics: tuple[TopicRule, ...] = ()
    rollout: RolloutSettings = RolloutSettings(tpm_percent=100, enabled=True, sample_rate=0.01)  # noqa: RUF009  (it is frozen)
    trust_max_age_ms: int = DEFAULT_TRUST_MAX_AGE_MS
    primary_handle: int = DEFAULT_PRIMARY_HANDLE
    audit_readers: tuple[str, ...] = ()
    """Roles and agents that may read the audit topics, as written; `named` turns them into agents."""
    others: str | None = None
    """The role of every valid name that is not listed."""
    files: tuple[str, ...] = ()

    _rights: dict[tuple[str, Action], Rights] = field(init=False, repr=False)
    _rules: PatternTrie[TopicRule] = field(init=False, repr=False)
    _fill: str = field(init=False, repr=False)
    _members: dict[str, tuple[str, ...]] = field(init=False, repr=False)
    _decisions: dict[tuple[str | None, str, str], Decision] = field(init=False, repr=False, default_factory=dict)
    _audiences: _Audiences = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        fill = unused_token(_patterns(self.roles.values(), self.topics))
        derived = {
            "agents": MappingProxyType(dict(self.agents)),
            "roles": MappingProxyType(dict(self.roles)),
            "_fill": fill,
            "_rights": {(role.name, action): Rights(role, action, fill=fill) for role in self.roles.values() for action in ACTIONS},
            "_rules": PatternTrie((rule.match.text, rule) for rule in self.topics),
            "_members": _members(self.agents),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def decide(self, agent: str, action: Action, topic: str) -> Decision:
        """Whether this agent may do this on this topic (to subscribe, also a pattern). Never raises for a bad name or topic."""
        role = self.agents.get(agent)
        if role is None:
            role = self._role_of_others(agent)
        decision = self._decisions.get((role, action, topic))
        return self._decide(role, action, topic) if decision is None else decision

    def may_hear(self, agent: str, topic: str) -> bool:
        return self.decide(agent, "subscribe", topic).allowed

    def role_of(self, agent: str) -> Role:
        """Raises NotPermittedError where policy does not know the agent."""
        name = self.agents.get(agent) or self._role_of_others(agent)
        if name is not None:
            return self.roles[name]
        if not is_agent_name(agent):
            advice = "a name is 1 to 32 of A-Z 0-9, a letter first"
        else:
            near = hint(agent, self.agents)
            advice = f"policy has no agent {agent!r}{near or '; add it to agents: in the policy, or open the bus with agents='}"
        raise NotPermittedError(agent[:64], "use this bus", advice)

    @property
    def fill(self) -> str:
        """A token that no pattern of this policy spells."""
        return self._fill

    def permits(self, role: str, action: Action, topic: str, rule: TopicRule | None = None) -> bool:
        """Whether a role may do this on a topic, and (if given) this rule is for it. For checks: nothing is remembered."""
        return self._rights[role, action].judge(topic).allowed and (rule is None or self._topic_rule(topic) is rule)

    def members(self, role: str) -> tuple[str, ...]:
        """The listed agents of a role, by name."""
        return self._members.get(role, ())

    def topic_rule(self, topic: str) -> TopicRule:
        """How messages of this topic travel; for a pattern, those that no more specific rule is for."""
        return DEFAULT_TOPIC_RULE if fault("subscribe", topic) else self._topic_rule(topic)

    def _topic_rule(self, topic: str) -> TopicRule:
        if has_wildcard(topic):
            topic = next(shapes(topic, fill=self._fill))
        return self._rules.best(topic) or DEFAULT_TOPIC_RULE

    def audience(self, topic: str) -> tuple[str, ...]:
        """Every listed agent to which messages of this topic are sealed, by name: who may hear it, or read its dead letters."""
        if fault("subscribe", topic) or has_wildcard(topic):
            return ()
        roles = tuple(name for name in self.roles if self._decide(name, "subscribe", topic).allowed)
        key = (roles, self._topic_rule(topic).dead_readers)
        audience = self._audiences.get(key)
        if audience is None:
            audience = tuple(sorted({*self.named(roles), *self.named(key[1])}))
            _remember(self._audiences, key, audience)
        return audience

    def named(self, readers: Iterable[str]) -> tuple[str, ...]:
        """The listed agents that these names of roles and agents stand for."""
        found = {agent for name in readers for agent in (*self._members.get(name, ()), *([name] if name in self.agents else []))}
        return tuple(sorted(found))

    def with_agents(self, agents: Mapping[str, str]) -> Policy:
        """The same policy with more agents in its roles. Raises PolicyError for a bad or taken name and for an unknown role."""
        problems = [Problem("agents=", 1, 1, wrong) for name, role in agents.items() if (wrong := self._agent_fault(name, role))]
        if problems:
            raise PolicyError(problems)
        return replace(self, agents={**self.agents, **agents})

    def _agent_fault(self, name: str, role: str) -> str | None:
        if not is_agent_name(name):
            return f"{name[:64]!r} is no agent name: 1 to 32 of A-Z 0-9, a letter first"
        if role not in self.roles:
            return f"{name}: there is no role {role!r}{hint(role, self.roles)}"
        if self.agents.get(name, role) != role:
            return f"{name} already has the role {self.agents[name]!r}"
        return None

    def _role_of_others(self, agent: str) -> str | None:
        return self.others if self.others is not None and is_agent_name(agent) else None

    def _decide(self, role: str | None, action: Action, topic: str) -> Decision:
        decision = self._decisions.get((role, action, topic))
        if decision is not None:
            return decision
        if action not in ACTIONS:
            raise ValueError(f"{action!r} is not something an agent does with a topic: publish or subscribe")
        wrong = fault(action, topic)
        suite = None if role is None else self.roles[role].suite
        if wrong:  # not remembered: it may be of any length
            return Decision(False, action, topic, role, wrong, BUILT_IN, DEFAULT_TOPIC_RULE, suite)
        if role is None:
            answer = Answer(allowed=False, rule="policy has no such agent", place=BUILT_IN)
        else:
            answer = self._rights[role, action].judge(topic)
        decision = Decision(answer.allowed, action, topic, role, answer.rule, answer.place, self._topic_rule(topic), suite)
        _remember(self._decisions, (role, action, topic), decision)
        return decision


def _remember(table: dict[K, V], key: K, value: V) -> None:
    if len(table) >= MAX_REMEMBERED:
        table.clear()
    table[key] = value


def _members(agents: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    members: dict[str, list[str]] = {}
    for agent in sorted(agents):
        members.setdefault(agents[agent], []).append(agent)
    return {role: tuple(names) for role, names in members.items()}


def _patterns(roles: Iterable[Role], topics: Iterable[TopicRule]) -> Iterator[str]:
    yield from (rule.match.text for rule in topics)
    for role in roles:
        for pattern in (*role.publish, *role.subscribe, *role.deny_publish, *role.deny_subscribe):
            yield pattern.text
