"""Where patterns meet: the regions into which they divide topics, each with one topic that answers for all of it.

A region is a pattern, or what some patterns have in common. Its *own* topics are those that no smaller region has. All of them
match the same patterns, so whatever patterns decide, asking about one own topic answers for every one.

How many regions there are can grow much faster than the patterns that make them, so the work has a budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from bus.protocol.topics import ONE, REST, intersection, shapes

MAX_STEPS: Final = 1_000_000
"""A few seconds. Four thousand patterns that are replaced need a twelfth."""

_BREADTH: Final = {REST: 0, ONE: 1}


class TooManyRegionsError(Exception):
    """The budget is used up."""


class Budget:
    """Steps that are left."""

    __slots__ = ("left",)

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        """Raises TooManyRegionsError."""
        self.left -= steps
        if self.left < 0:
            raise TooManyRegionsError


class _Node:
    __slots__ = ("children", "ends", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        """By token; `*` is one like the others."""
        self.ends: str | None = None
        self.rest: str | None = None


class PatternIndex:
    """Patterns, and which of them stand to a given one how. Its walks are paid for by node."""

    __slots__ = ("_budget", "_root")

    def __init__(self, patterns: Iterable[str], *, budget: Budget) -> None:
        self._root, self._budget = _Node(), budget
        for pattern in patterns:
            self.add(pattern)

    def add(self, pattern: str) -> None:
        node = self._root
        for token in pattern.split("."):
            if token == REST:
                node.rest = pattern
                return
            node = node.children.setdefault(token, _Node())
        node.ends = pattern

    def meeting(self, pattern: str) -> Iterator[str]:
        """Those that have topics in common with this pattern."""
        return self._find(pattern.split("."), wider=True, narrower=True)

    def covering(self, pattern: str) -> Iterator[str]:
        """Those that match all of this pattern (or topic)."""
        return self._find(pattern.split("."), wider=True, narrower=False)

    def covers(self, pattern: str) -> bool:
        """Whether one of them alone does."""
        return any(True for _ in self.covering(pattern))

    def within(self, pattern: str) -> Iterator[str]:
        """Those of which this pattern matches all."""
        return self._find(pattern.split("."), wider=False, narrower=True)

    def _find(self, tokens: list[str], *, wider: bool, narrower: bool) -> Iterator[str]:
        todo = [(self._root, 0)]
        while todo:
            node, place = todo.pop()
            self._budget.spend()
            if place == len(tokens):
                yield from _given(node.ends)
                continue
            token = tokens[place]
            if token == REST and narrower:
                yield from self._below(node)
                continue
            if wider:
                yield from _given(node.rest)
            if token == ONE and narrower:
                todo += [(child, place + 1) for child in node.children.values()]
            elif token != REST:
                steps = (token, ONE) if wider and token != ONE else (token,)
                todo += [(node.children[step], place + 1) for step in steps if step in node.children]

    def _below(self, top: _Node) -> Iterator[str]:
        todo = [top]
        while todo:
            node = todo.pop()
            self._budget.spend()
            yield from _given(node.rest)
            yield from _given(None if node is top else node.ends)
            todo += node.children.values()


def _given(pattern: str | None) -> tuple[str, ...]:
    return () if pattern is None else (pattern,)


def regions(patterns: Iterable[str], *, changed: Iterable[str], fill: str, budget: Budget) -> dict[str, str]:
    """The regions that lie within a changed pattern, each with a topic of its own; those that have none are left out.

    A topic that matches no changed pattern matches the same patterns before and after, so nothing is missed. `fill` is a token
    that no pattern spells. Raises TooManyRegionsError.
    """
    found = dict.fromkeys(changed, "")
    index = PatternIndex(patterns if found else (), budget=budget)
    todo = list(found)
    while todo:
        region = todo.pop()
        covering = 0
        for other in index.meeting(region):
            budget.spend()
            common = intersection(region, other)
            if common == region:
                covering += 1
            elif common is not None and common not in found:
                found[common] = ""
                todo.append(common)
        own = (topic for topic in shapes(region, fill=fill) if sum(1 for _ in index.covering(topic)) == covering)
        found[region] = next(own, "")
    return {region: topic for region, topic in found.items() if topic}


def widest_first(patterns: Iterable[str]) -> list[str]:
    """In an order in which no pattern stands before one that covers it."""
    return sorted(patterns, key=lambda pattern: [(_BREADTH.get(token, 2), token) for token in pattern.split(".")])


def largest(patterns: Iterable[str], *, budget: Budget) -> list[str]:
    """Without those that lie within another, by name."""
    kept = PatternIndex((), budget=budget)
    found = []
    for pattern in widest_first(patterns):
        if not kept.covers(pattern):
            kept.add(pattern)
            found.append(pattern)
    return sorted(found)
