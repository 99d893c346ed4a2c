"""May this role publish or subscribe here, and which line of the policy says so?

Nothing is allowed that no pattern allows, and deny wins. A role may subscribe to a *pattern* if its allowed patterns cover all
of it and its denied ones do not; where they take a part away, the subscription stands and every topic is judged when something
is delivered on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from bus.policy.model import Pattern, Role, TopicRule
from bus.policy.source import Place
from bus.protocol.names import MAX_TOPIC_BYTES, pattern_fault, topic_fault
from bus.protocol.suites import Suite
from bus.protocol.topics import PatternTrie, has_wildcard, shapes

Action = Literal["publish", "subscribe"]
ACTIONS: Final[tuple[Action, ...]] = ("publish", "subscribe")


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and the rule and line that gave it."""

    allowed: bool
    action: Action
    topic: str
    role: str | None
    rule: str
    place: Place
    topic_rule: TopicRule
    """How messages of this topic travel; for a pattern, those that no more specific rule is for."""
    suite: Suite | None
    """The suite of the role's identity keys."""

    @property
    def file(self) -> str:
        return self.place.file

    @property
    def line(self) -> int:
        return self.place.line

    @property
    def signed_by(self) -> str:
        return self.topic_rule.signed_by


@dataclass(frozen=True, slots=True)
class Answer:
    """What the patterns of a role say, before topics are looked at."""

    allowed: bool
    rule: str
    place: Place


def fault(action: Action, topic: str) -> str | None:
    """Why nobody could do this on this topic; None if somebody could."""
    if len(topic) > MAX_TOPIC_BYTES:
        return f"{topic[:80]!r} and so on is longer than {MAX_TOPIC_BYTES} bytes"
    wild = has_wildcard(topic)
    if wild and action == "publish":
        return f"{topic[:80]!r} is a pattern; messages are published on topics"
    found = pattern_fault(topic) if wild else topic_fault(topic)
    return f"{topic[:80]!r} {found}" if found else None


class Rights:
    """The patterns of one role for one action, ready to be asked."""

    __slots__ = ("_action", "_allow", "_deny", "_fill", "_role")

    def __init__(self, role: Role, action: Action, *, fill: str) -> None:
        allow, deny = (role.publish, role.deny_publish) if action == "publish" else (role.subscribe, role.deny_subscribe)
        self._role, self._action, self._fill = role, action, fill
        self._allow, self._deny = _trie(allow), _trie(deny)

    def judge(self, topic: str) -> Answer:
        """About a topic, or a pattern to subscribe to, in which `fault` finds nothing."""
        return self._weigh(list(shapes(topic, fill=self._fill)) if has_wildcard(topic) else [topic])

    def _weigh(self, topics: list[str]) -> Answer:
        denied = [self._deny.best(topic) for topic in topics]
        if denied[0] is not None and None not in denied:
            return Answer(allowed=False, rule=f"deny.{self._action}: {denied[0]}", place=denied[0].place)
        allowed = [self._allow.best(topic) for topic in topics]
        if allowed[0] is None or None in allowed:
            return Answer(
                allowed=False, rule=f"nothing in {self._action}: of role {self._role.name!r} allows it", place=self._role.place
            )
        return Answer(allowed=True, rule=f"{self._action}: {allowed[0]}", place=allowed[0].place)


def _trie(patterns: Iterable[Pattern]) -> PatternTrie[Pattern]:
    return PatternTrie((pattern.text, pattern) for pattern in patterns)
