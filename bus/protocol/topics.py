"""Topics and patterns: which matches which, and the trie that finds the most specific pattern of many.

A pattern is a topic in which `*` stands for one token and a final `>` for one or more. Tokens that begin with an underscore
belong to the protocol: no wildcard stands for one (`names.py` refuses them in patterns too).

Which pattern is more specific is decided token by token from the left: a literal beats `*`, `*` beats `>`. Two different
patterns that match one topic always differ at some token, so there is one winner, whatever the order they were added in.

Questions about *all* topics of a pattern ("is everything that it matches allowed?") need no search through topics. `shapes`
gives one topic for each length, with a token in place of every wildcard that no other pattern spells. A pattern that matches
such a topic can only do so with wildcards there, so it matches every topic of that length. What holds for the shapes holds for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from bus.protocol.names import MAX_TOKENS

ONE: Final = "*"
REST: Final = ">"

T = TypeVar("T")


def is_reserved(token: str) -> bool:
    return token.startswith("_")


def has_wildcard(pattern: str) -> bool:
    tokens = pattern.split(".")
    return tokens[-1] == REST or ONE in tokens


def matches(pattern: str, topic: str) -> bool:
    """Whether this pattern stands for this topic."""
    wanted, tokens = pattern.split("."), topic.split(".")
    if wanted[-1] == REST:
        if len(tokens) < len(wanted):
            return False
        wanted = wanted[:-1]
        if any(is_reserved(token) for token in tokens[len(wanted) :]):
            return False
    elif len(wanted) != len(tokens):
        return False
    return all(want == token or (want == ONE and not is_reserved(token)) for want, token in zip(wanted, tokens, strict=False))


def intersection(first: str, second: str) -> str | None:
    """The pattern of exactly those topics that both match; None if there are none."""
    left, right = first.split("."), second.split(".")
    if len(left) > len(right):
        left, right = right, left
    both: list[str] = []
    for place, token in enumerate(left):
        if token == REST:
            return ".".join(both + right[place:])
        other = right[place]
        if other == REST:
            return ".".join(both + left[place:])
        if ONE not in (token, other) and token != other:
            return None
        both.append(other if token == ONE else token)
    return ".".join(both) if len(left) == len(right) else None


def overlaps(first: str, second: str) -> bool:
    return intersection(first, second) is not None


def covers(outer: str, inner: str) -> bool:
    """Whether `outer` alone matches every topic that `inner` matches."""
    return intersection(outer, inner) == inner


def unused_token(patterns: Iterable[str]) -> str:
    """A token that none of these patterns spells, the same one whenever they are the same."""
    spelled = {token for pattern in patterns for token in pattern.split(".")}
    return next(token for token in (f"x{number}" for number in range(len(spelled) + 1)) if token not in spelled)


def shapes(pattern: str, *, fill: str) -> Iterator[str]:
    """One topic for each length that the pattern matches, `fill` (an `unused_token`) in place of its wildcards."""
    tokens = [fill if token in (ONE, REST) else token for token in pattern.split(".")]
    yield ".".join(tokens)
    if pattern.rsplit(".", maxsplit=1)[-1] == REST:
        for _ in range(len(tokens), MAX_TOKENS):
            tokens.append(fill)
            yield ".".join(tokens)


class _Node(Generic[T]):
    __slots__ = ("ends", "literals", "one", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.one: _Node[T] | None = None
        self.rest: T | None = None
        self.ends: T | None = None


class PatternTrie(Generic[T]):
    """Patterns with a value each. What a look-up costs depends on the topic's tokens, not on how many patterns there are."""

    __slots__ = ("_root", "_size")

    def __init__(self, entries: Iterable[tuple[str, T]] = ()) -> None:
        self._root: _Node[T] = _Node()
        self._size = 0
        for pattern, value in entries:
            self.add(pattern, value)

    def __len__(self) -> int:
        return self._size

    def add(self, pattern: str, value: T) -> None:
        """The first value that a pattern gets stays."""
        node = self._root
        for token in pattern.split("."):
            if token == REST:
                self._size += node.rest is None
                node.rest = value if node.rest is None else node.rest
                return
            if token == ONE:
                node.one = node.one or _Node()
                node = node.one
            else:
                node = node.literals.setdefault(token, _Node())
        self._size += node.ends is None
        node.ends = value if node.ends is None else node.ends

    def best(self, topic: str) -> T | None:
        """The value of the most specific pattern that matches; None if none does."""
        tokens = topic.split(".")
        for token in tokens:
            if token.startswith("_"):
                return None
        return _best(self._root, tokens, 0)


def _best(node: _Node[T], tokens: list[str], place: int) -> T | None:
    if place == len(tokens):
        return node.ends
    found: T | None = None
    literal = node.literals.get(tokens[place])
    if literal is not None:
        found = _best(literal, tokens, place + 1)
    if found is None and node.one is not None:
        found = _best(node.one, tokens, place + 1)
    return node.rest if found is None else found
