"""Random policies over a small world of topics, and a reading of them so simple that it can be believed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import product

from hypothesis import strategies as st

TOKENS = ("a", "b")
WORLD = [".".join(topic) for length in (1, 2, 3) for topic in product(TOKENS, repeat=length)]
EVERY_SHAPE = [".".join(topic) for length in range(1, 6) for topic in product((*TOKENS, "z"), repeat=length)]
"""Patterns here have at most four tokens and never spell `z`: what they do to these topics, they do to all."""
ROLES = ("red", "green", "blue")
AGENTS = ("A", "B", "C", "D")
ACTIONS = ("publish", "subscribe")


ENDS = ("", ">")
PATTERNS = [
    ".".join([*tokens, end] if end else tokens)
    for length in range(4)
    for _ in range(27 // 3**length)  # short ones, which meet more often, as often as long ones
    for tokens in product((*TOKENS, "*"), repeat=length)
    for end in ENDS
    if tokens or end
]


def patterns() -> st.SearchStrategy[str]:
    """One draw each: what makes these tests slow is making policies, not asking them."""
    return st.sampled_from(PATTERNS)


lists = st.lists(patterns(), max_size=3, unique=True)


@dataclass
class Plan:
    """A policy as plain lists; `text` is the same as YAML."""

    agents: dict[str, str]
    allow: dict[tuple[str, str], list[str]]
    deny: dict[tuple[str, str], list[str]]
    rules: dict[str, dict[str, str]] = field(default_factory=dict)

    def text(self) -> str:
        lines = [
            "version: 1",
            "agents:" if self.agents else "agents: {}",
            *(f'  "{name}": {role}' for name, role in self.agents.items()),
            "roles:",
        ]
        for role in ROLES:
            lines += [f"  {role}:", "    key: ecc256/sha3-256"]
            lines += [f"    {action}: {quoted(self.allow[role, action])}" for action in ACTIONS]
            lines += ["    deny:", *(f"      {action}: {quoted(self.deny[role, action])}" for action in ACTIONS)]
        lines.append("topics:" if self.rules else "topics: []")
        for match, words in self.rules.items():
            lines += [f'  - match: "{match}"', *(f"    {key}: {value}" for key, value in words.items())]
        return "\n".join(lines) + "\n"

    def may(self, agent: str, action: str, topic: str) -> bool:
        role = self.agents.get(agent, self.agents.get("*"))
        if role is None:
            return False
        denied = any(stands_for(pattern, topic) for pattern in self.deny[role, action])
        return not denied and any(stands_for(pattern, topic) for pattern in self.allow[role, action])

    def rule(self, topic: str) -> str | None:
        matching = [match for match in self.rules if stands_for(match, topic)]
        return max(matching, key=lambda match: [{">": 0, "*": 1}.get(token, 2) for token in match.split(".")], default=None)


def quoted(texts: list[str]) -> str:
    return f"[{', '.join(f'{chr(34)}{text}{chr(34)}' for text in texts)}]"


@cache
def stands_for(pattern: str, topic: str) -> bool:
    wanted, tokens = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        return len(tokens) >= len(wanted) and stands_for(".".join([*wanted[:-1], "*"]), ".".join(tokens[: len(wanted)]))
    return len(wanted) == len(tokens) and all(want in ("*", token) for want, token in zip(wanted, tokens, strict=True))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    return Plan(
        agents={name: draw(st.sampled_from(ROLES)) for name in AGENTS if draw(st.integers(0, 3))},
        allow={(role, action): draw(lists) for role in ROLES for action in ACTIONS},
        deny={(role, action): draw(lists) for role in ROLES for action in ACTIONS},
        rules=draw(
            st.dictionaries(
                patterns(),
                st.fixed_dictionaries(
                    {}, optional={"signed_by": st.just("identity"), "priority": st.sampled_from(["high", "bulk"])}
                ),
                max_size=4,
            )
        ),
    )
