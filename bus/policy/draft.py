"""Several files -> one draft of a policy. What two files say about the same thing is a mistake that names both places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from bus.errors import Problem
from bus.policy.shape import key_place, node_at, place_at
from bus.policy.source import Mapping, Node, Place, Scalar
from bus.policy.words import Document, RoleWords, TopicWords

SETTINGS: Final = ("domain", "rollout", "trust", "tpm", "audit_readers")
"""Words that stand once in a policy, whichever of its files that is."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """Some words, where they are called by their name, and the tree in which each of their values has its place."""

    words: T
    place: Place
    node: Node

    def at(self, *path: str | int) -> Place:
        return place_at(self.node, path)

    def key(self, name: str) -> Place:
        return key_place(self.node, (name,))


@dataclass(slots=True)
class Draft:
    settings: dict[str, Entry[Any]] = field(default_factory=dict)
    agents: dict[str, Entry[str]] = field(default_factory=dict)
    roles: dict[str, Entry[RoleWords]] = field(default_factory=dict)
    topics: dict[str, Entry[TopicWords]] = field(default_factory=dict)
    role_names: set[str] = field(default_factory=set)
    """Also of roles that are written wrong, so that their agents are not called wrong too."""
    files: list[str] = field(default_factory=list)
    is_whole: bool = True
    """False where a file could not be read: what is missing may stand there."""

    def setting(self, name: str) -> Any:
        entry = self.settings.get(name)
        return Document.model_fields[name].get_default() if entry is None else entry.words

    def add(self, words: Document, root: Mapping) -> Iterator[Problem]:
        """Take a file in; gives what clashes with the files before it."""
        for name in SETTINGS:
            if name in words.model_fields_set:
                yield from _put(self.settings, name, Entry(getattr(words, name), key_place(root, (name,)), node_at(root, (name,))))
        for name, role in words.agents.items():
            yield from _put(self.agents, name, _entry(role, root, "agents", name), what="the agent")
        for name, role_words in words.roles.items():
            yield from _put(self.roles, name, _entry(role_words, root, "roles", name), what="the role")
        for number, rule in enumerate(words.topics):
            entry = Entry(rule, place_at(root, ("topics", number, "match")), node_at(root, ("topics", number)))
            yield from _put(self.topics, rule.match, entry, what="a rule for")


def _entry(words: T, root: Mapping, *path: str) -> Entry[T]:
    return Entry(words, key_place(root, path), node_at(root, path))


def _put(table: dict[str, Entry[Any]], name: str, entry: Entry[Any], *, what: str = "the key") -> Iterator[Problem]:
    first = table.setdefault(name, entry)
    if first is not entry:
        yield entry.place.problem(f"{what} {name!r} is already in {first.place}")


def roster_path(root: Mapping) -> Scalar | None:
    """`agents:` where it is the path of a roster file."""
    agents = root.entries.get("agents")
    return agents if isinstance(agents, Scalar) and isinstance(agents.value(), str) else None
