"""Expectations in YAML beside a policy: what must be allowed, what must not, who must hear. `tpmbus policy test` runs them.

version: 1
allow:
- {agent: DIRECTOR, publish: control.shutdown, signed_by: identity}
deny:
- {role: development, publish: control.shutdown}
audience:
- {topic: work.build.linux, includes: [development], excludes: [WEB]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from bus.errors import NotPermittedError, PolicyError, Problem
from bus.policy import source
from bus.policy.decide import Action, Decision
from bus.policy.kinds import DAY, AgentName, GroupName, PatternText, Priority, ReaderName, RoleName, SuiteName, duration
from bus.policy.near import hint
from bus.policy.policy import Policy
from bus.policy.shape import place_at, shape
from bus.policy.values import show_duration
from bus.policy.words import Words
from bus.protocol.topics import has_wildcard


class DeniedWords(Words):
    """Something that must not be allowed."""

    agent: AgentName | None = Field(default=None, description="The agent that tries.", examples=["DIRECTOR"])
    role: RoleName | None = Field(
        default=None, description="Instead of `agent`: everybody in this role tries.", examples=["development"]
    )
    publish: PatternText | None = Field(default=None, description="On this topic.", examples=["control.shutdown"])
    subscribe: PatternText | None = Field(default=None, description="To this topic or pattern.", examples=["work.>"])
    group: GroupName | None = Field(default=None, description="As a member of this queue group.", examples=["builders"])

    @property
    def action(self) -> Action:
        return "publish" if self.publish is not None else "subscribe"

    @property
    def topic(self) -> str:
        return self.publish or self.subscribe or ""


class AllowedWords(DeniedWords):
    """Something that must be allowed, and how it must travel."""

    suite: SuiteName | None = Field(default=None, description="The suite of the identity key.", examples=["rsa3072/sha3-384"])
    signed_by: Literal["session", "identity"] | None = Field(default=None, description="Who must sign.", examples=["identity"])
    class_: Literal["live", "durable"] | None = Field(default=None, alias="class", description="Kept or not.", examples=["durable"])
    unit: Literal["envelope", "record"] | None = Field(default=None, description="What is delivered as one.", examples=["record"])
    priority: Priority | None = Field(default=None, description="The priority of a message that names none.", examples=["critical"])
    kem: Literal["x25519", "hybrid"] | None = Field(default=None, description="The weakest key agreement.", examples=["hybrid"])
    ttl: Annotated[int, *duration(1, 366 * DAY)] | None = Field(
        default=None, description="The longest time to delivery.", examples=["60s"]
    )


class AudienceWords(Words):
    """Who must be among those to whom a topic's messages are sealed, and who must not."""

    topic: PatternText = Field(description="The topic.", examples=["tasks.build"])
    includes: list[ReaderName] = Field(default=[], description="Roles and agents, all of whom hear it.", examples=[["MONITOR"]])
    excludes: list[ReaderName] = Field(default=[], description="Roles and agents, none of whom does.", examples=[["guest"]])
    exactly: list[ReaderName] | None = Field(default=None, description="These, and nobody else.", examples=[["LEAD"]])


class ExpectationWords(Words):
    """A file of expectations, *.test.yaml, beside a policy."""

    version: Literal[1] = Field(description="The version of the policy language.")
    allow: list[AllowedWords] = Field(default=[], description="What must be allowed.")
    deny: list[DeniedWords] = Field(default=[], description="What must not be allowed.")
    audience: list[AudienceWords] = Field(default=[], description="Who must hear, and who must not.")


@dataclass(slots=True)
class Outcome:
    """How many expectations there were, and which the policy does not meet."""

    count: int = 0
    failures: list[Problem] = field(default_factory=list)


def run(policy: Policy, texts: Mapping[str, str | bytes]) -> Outcome:
    """Hold a policy against files of expectations. Raises PolicyError where these are written wrong."""
    outcome, problems = Outcome(), []
    for file in sorted(texts):
        root, found, _ = source.read(texts[file], file=file)
        problems += found
        words, mistakes = shape(root, ExpectationWords) if root is not None else (None, [])
        problems += mistakes
        if root is not None and words is not None and not mistakes:
            problems += _incomplete(words, root)
            _run_file(policy, words, root, outcome)
    if problems:
        raise PolicyError(sorted(problems))
    return outcome


def _incomplete(words: ExpectationWords, root: source.Mapping) -> Iterator[Problem]:
    for section, items in (("allow", words.allow), ("deny", words.deny)):
        for number, item in enumerate(items):
            place = place_at(root, (section, number))
            if (item.agent is None) == (item.role is None):
                yield place.problem("an expectation is about one 'agent' or one 'role'")
            if (item.publish is None) == (item.subscribe is None):
                yield place.problem("an expectation has either 'publish' or 'subscribe'")
            elif item.publish is not None and item.group is not None:
                yield place_at(root, (section, number, "group")).problem("'group' is for 'subscribe': nobody publishes in a group")
            if item.publish is not None and has_wildcard(item.publish):
                yield _no_topic(place_at(root, (section, number, "publish")), item.publish, "is published on")
    for number, audience in enumerate(words.audience):
        if has_wildcard(audience.topic):
            yield _no_topic(place_at(root, ("audience", number, "topic")), audience.topic, "has an audience")


def _no_topic(place: source.Place, pattern: str, what: str) -> Problem:
    """Nobody may publish on a pattern, and nobody is its audience: a promise that somebody may not would always hold."""
    return place.problem(f"{pattern!r} is a pattern, and only a topic {what}; name a topic, or several in a line each")


def _run_file(policy: Policy, words: ExpectationWords, root: source.Mapping, outcome: Outcome) -> None:
    outcome.count += len(words.allow) + len(words.deny) + len(words.audience)
    for number, allowed in enumerate(words.allow):
        place = place_at(root, ("allow", number))
        outcome.failures += [place.problem(fault) for fault in _first(_not_allowed(policy, allowed))]
    for number, denied in enumerate(words.deny):
        place = place_at(root, ("deny", number))
        outcome.failures += [place.problem(fault) for fault in _first(_not_denied(policy, denied))]
    for number, audience in enumerate(words.audience):
        place = place_at(root, ("audience", number))
        outcome.failures += [place.problem(fault) for fault in _not_heard(policy, audience)]


def _first(faults: Iterator[str]) -> list[str]:
    """One fault of a role is enough: its other agents have the same."""
    return [fault for fault, _ in zip(faults, range(1), strict=False)]


def _decisions(policy: Policy, words: DeniedWords) -> Iterator[tuple[str, Decision | None, str]]:
    """Who tries, what policy says, and (where it cannot say) why not."""
    if words.role is not None and not policy.members(words.role):
        yield words.role, None, f"no agent has the role {words.role!r}{hint(words.role, policy.roles)}"
    for agent in [words.agent] if words.agent is not None else policy.members(words.role or ""):
        try:
            role = policy.role_of(agent)
        except NotPermittedError as error:
            yield agent, None, error.rule
            continue
        decision = policy.decide(agent, words.action, words.topic)
        joins = words.group is None or role.may_join(words.group, words.topic)
        yield agent, decision, "" if joins or not decision.allowed else f"group {words.group!r}"


def _what(agent: str, words: DeniedWords) -> str:
    return f"{agent} {words.action} {words.topic}{f' in group {words.group}' if words.group else ''}"


def _not_allowed(policy: Policy, words: AllowedWords) -> Iterator[str]:
    for agent, decision, reason in _decisions(policy, words):
        if decision is None:
            yield reason
        elif not decision.allowed:
            yield f"{_what(agent, words)} is refused: {decision.rule} ({decision.place})"
        elif reason:
            yield f"{_what(agent, words)} is refused: the role may not join this group here"
        else:
            yield from (f"{_what(agent, words)}: {fault}" for fault in _different(decision, words))


def _different(decision: Decision, words: AllowedWords) -> Iterator[str]:
    rule = decision.topic_rule
    ttl = None if words.ttl is None else show_duration(words.ttl)
    pairs = (
        ("suite", words.suite, str(decision.suite)),
        ("signed_by", words.signed_by, rule.signed_by),
        ("class", words.class_, rule.class_),
        ("unit", words.unit, rule.unit),
        ("priority", words.priority, rule.priority),
        ("kem", words.kem, rule.kem),
        ("ttl", ttl, show_duration(rule.ttl_ms)),
    )
    for name, expected, actual in pairs:
        if expected is not None and expected != actual:
            yield f"{name} is {actual}, expected {expected} ({rule.place})"


def _not_denied(policy: Policy, words: DeniedWords) -> Iterator[str]:
    for agent, decision, reason in _decisions(policy, words):
        if decision is None:
            yield reason
        elif decision.allowed and not reason:
            yield f"{_what(agent, words)} is allowed: {decision.rule} ({decision.place})"


def _not_heard(policy: Policy, words: AudienceWords) -> Iterator[str]:
    audience = set(policy.audience(words.topic))
    for name in (*words.includes, *words.excludes, *(words.exactly or ())):
        if name not in policy.agents and name not in policy.roles:
            yield f"there is no role or agent {name!r}{hint(name, {*policy.roles, *policy.agents})}"
    missing = set(policy.named((*words.includes, *(words.exactly or ())))) - audience
    if missing:
        yield f"{words.topic} is not heard by {_some(missing)}"
    extra = audience & set(policy.named(words.excludes))
    if words.exactly is not None:
        extra |= audience - set(policy.named(words.exactly))
    if extra:
        yield f"{words.topic} is heard by {_some(extra)}"


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
