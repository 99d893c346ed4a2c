"""The tree of topics beside a naive one that asks every topic it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.flow.topic_tree import TopicTree
from bus.protocol.topics import matches

tokens = st.sampled_from(["a", "b", "c", "_r"])
topics = st.lists(tokens, min_size=1, max_size=4).map(".".join)
patterns = st.lists(tokens | st.just("*"), min_size=1, max_size=4).map(".".join)
patterns = patterns | patterns.map(lambda pattern: pattern + ".>") | st.just(">")


@given(st.lists(st.tuples(st.booleans(), topics), max_size=40), st.lists(patterns, min_size=1, max_size=10))
def test_it_finds_what_a_scan_of_all_topics_finds(changes, asked):
    tree, naive = TopicTree(), set()
    for adds, topic in changes:
        if adds:
            tree.add(topic)
            naive.add(topic)
        elif topic in naive:
            tree.remove(topic)
            naive.remove(topic)
        else:
            with pytest.raises(KeyError):
                tree.remove(topic)
        assert len(tree) == len(naive)
    for pattern in asked:
        assert sorted(tree.match(pattern)) == sorted(topic for topic in naive if matches(pattern, topic))
    if not naive:
        assert not tree._root.branches, "what is empty is cut off"
