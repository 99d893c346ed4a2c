"""Which of many patterns match a topic: each pattern with a set of values, found by walking the topic's own tokens.

Both ends of a link ask this (the broker: who listens; a host: which subscription), so it lives between them.

    cost        a look-up goes down the topic's tokens, and into branches that match so far: at most two a token. How many
                patterns there are beside those does not matter
    reserved    a token that begins with an underscore is matched by itself alone, never by `*` or `>` (see protocol/topics)
    empty       a branch whose last value went is cut off: subscriptions that come and go leave nothing behind

`protocol/topics.PatternTrie` answers another question: which *one* pattern is the most specific.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from bus.protocol.topics import ONE, REST, is_reserved

T = TypeVar("T")


class _Node(Generic[T]):
    __slots__ = ("branches", "ends", "rest")

    def __init__(self) -> None:
        self.branches: dict[str, _Node[T]] = {}
        """By token; that of `*` stands among them, because no topic has such a token."""
        self.ends: dict[T, None] = {}
        self.rest: dict[T, None] = {}
        """Values of the pattern that ends here in `>`. Both are sets that keep their order."""

    def is_empty(self) -> bool:
        return not (self.branches or self.ends or self.rest)


class Trie(Generic[T]):
    """Pairs of a pattern and a value; `len` counts them. A value may stand under several patterns."""

    __slots__ = ("_root", "_size")

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, pattern: str, value: T) -> None:
        """Nothing changes if the pattern has this value already."""
        tokens, is_rest = _split(pattern)
        node = self._root
        for token in tokens:
            branch = node.branches.get(token)
            if branch is None:
                branch = node.branches[token] = _Node()
            node = branch
        values = node.rest if is_rest else node.ends
        self._size += value not in values
        values[value] = None

    def remove(self, pattern: str, value: T) -> None:
        """Raises KeyError if the pattern has no such value."""
        tokens, is_rest = _split(pattern)
        path = [self._root]
        for token in tokens:
            path.append(path[-1].branches[token])
        del (path[-1].rest if is_rest else path[-1].ends)[value]
        self._size -= 1
        while tokens and path.pop().is_empty():
            del path[-1].branches[tokens.pop()]

    def match(self, topic: str) -> list[T]:
        """The values of all patterns that match; one that stands under several comes once for each."""
        tokens = topic.split(".")
        open_from = max((place + 1 for place, token in enumerate(tokens) if is_reserved(token)), default=0)
        found: list[T] = []
        nodes = [self._root]
        for place, token in enumerate(tokens):
            if place >= open_from:
                for node in nodes:
                    found += node.rest
            wanted = (token,) if is_reserved(token) else (token, ONE)
            nodes = [node.branches[want] for node in nodes for want in wanted if want in node.branches]
        for node in nodes:
            found += node.ends
        return found


def _split(pattern: str) -> tuple[list[str], bool]:
    tokens = pattern.split(".")
    if tokens[-1] != REST:
        return tokens, False
    return tokens[:-1], True
