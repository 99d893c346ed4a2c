"""Which of many topics a pattern matches: `trie` the other way round, for who asks "where does this new reader matter?".

It walks the pattern's tokens, and below a wildcard everything that is there; so it costs what it finds.
"""

from __future__ import annotations

from bus.protocol.topics import ONE, REST, is_reserved


class _Node:
    __slots__ = ("branches", "is_topic")

    def __init__(self) -> None:
        self.branches: dict[str, _Node] = {}
        self.is_topic = False


class TopicTree:
    """A set of topics."""

    __slots__ = ("_root", "_size")

    def __init__(self) -> None:
        self._root = _Node()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, topic: str) -> None:
        node = self._root
        for token in topic.split("."):
            node = node.branches.setdefault(token, _Node())
        self._size += not node.is_topic
        node.is_topic = True

    def remove(self, topic: str) -> None:
        """Raises KeyError if it is not there."""
        tokens = topic.split(".")
        path = [self._root]
        for token in tokens:
            path.append(path[-1].branches[token])
        if not path[-1].is_topic:
            raise KeyError(topic)
        path[-1].is_topic = False
        self._size -= 1
        while tokens and not (node := path.pop()).is_topic and not node.branches:
            del path[-1].branches[tokens.pop()]

    def match(self, pattern: str) -> list[str]:
        nodes: list[tuple[str, _Node]] = [("", self._root)]
        for token in pattern.split("."):
            if token == REST:
                return [topic for each in nodes for topic in _below(each)]
            nodes = [below for each in nodes for below in _next(each, token)]
        return [topic for topic, node in nodes if node.is_topic]


def _next(at: tuple[str, _Node], token: str) -> list[tuple[str, _Node]]:
    topic, node = at
    prefix = f"{topic}." if topic else ""
    if token == ONE:
        return [(prefix + name, branch) for name, branch in node.branches.items() if not is_reserved(name)]
    branch = node.branches.get(token)
    return [] if branch is None else [(prefix + token, branch)]


def _below(at: tuple[str, _Node]) -> list[str]:
    """The topics that have this as their beginning, and no reserved token after it."""
    found: list[str] = []
    waiting = _next(at, ONE)
    while waiting:
        one = waiting.pop()
        if one[1].is_topic:
            found.append(one[0])
        waiting += _next(one, ONE)
    return found
