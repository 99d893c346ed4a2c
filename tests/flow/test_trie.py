"""The trie beside a naive one that asks every pattern it has."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.flow.trie import Trie
from bus.protocol.topics import matches

tokens = st.sampled_from(["a", "b", "c", "_r", "_dead"])
topics = st.lists(tokens, min_size=1, max_size=5).map(".".join)
patterns = st.builds(
    lambda parts, last: ".".join([*parts, *last]),
    st.lists(st.one_of(tokens, st.just("*")), min_size=1, max_size=4),
    st.sampled_from([[], [], [">"]]),
) | st.just(">")
steps = st.lists(st.tuples(st.booleans(), patterns, st.integers(0, 3)), max_size=40)


def nodes_of(trie: Trie[int]) -> int:
    """Branches below the root."""
    waiting, count = [trie._root], 0
    while waiting:
        branches = waiting.pop().branches.values()
        count += len(branches)
        waiting.extend(branches)
    return count


@given(steps, st.lists(topics, min_size=1, max_size=10))
def test_it_finds_what_a_scan_of_all_patterns_finds(changes, asked):
    trie: Trie[int] = Trie()
    naive: set[tuple[str, int]] = set()
    for adds, pattern, value in changes:
        if adds:
            trie.add(pattern, value)
            naive.add((pattern, value))
        elif (pattern, value) in naive:
            trie.remove(pattern, value)
            naive.remove((pattern, value))
        else:
            with pytest.raises(KeyError):
                trie.remove(pattern, value)
        assert len(trie) == len(naive)
    for topic in asked:
        assert Counter(trie.match(topic)) == Counter(value for pattern, value in naive if matches(pattern, topic))
    prefixes = {".".join(parts[:length]) for parts in (pattern.removesuffix(">").rstrip(".").split(".") for pattern, _ in naive)
                for length in range(1, len(parts) + 1) if parts != [""]}  # fmt: skip
    assert nodes_of(trie) == len(prefixes), "no branch without a value below it"


def test_what_is_added_twice_is_there_once():
    trie: Trie[str] = Trie()
    trie.add("a.*", "x")
    trie.add("a.*", "x")
    assert (len(trie), trie.match("a.b")) == (1, ["x"])
    trie.remove("a.*", "x")
    assert (len(trie), trie.match("a.b")) == (0, [])


def test_no_wildcard_stands_for_a_reserved_token():
    trie: Trie[str] = Trie()
    for pattern in (">", "*", "*.>", "_dead.>", "_dead.*"):
        trie.add(pattern, pattern)
    assert trie.match("_dead") == []
    assert sorted(trie.match("_dead.a")) == ["_dead.*", "_dead.>"]
    assert trie.match("_dead._reply") == []


def test_what_a_look_up_costs_does_not_grow_with_the_patterns():
    class Counted(dict):
        looked = 0

        def __contains__(self, key: object) -> bool:
            Counted.looked += 1
            return super().__contains__(key)

    def looked_at(count: int) -> int:
        trie: Trie[int] = Trie()
        for number in range(count):
            trie.add(f"tasks.t{number}.*", number)
        waiting = [trie._root]
        while waiting:
            node = waiting.pop()
            waiting.extend(node.branches.values())
            node.branches = Counted(node.branches)
        Counted.looked = 0
        assert trie.match("tasks.t7.build") == [7]
        return Counted.looked

    assert looked_at(10) == looked_at(10_000)
