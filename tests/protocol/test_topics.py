"""Patterns against a naive reading of them: every topic of a small world is tried."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from bus.protocol.names import MAX_TOKENS
from bus.protocol.topics import (
    PatternTrie,
    covers,
    has_wildcard,
    intersection,
    matches,
    overlaps,
    shapes,
    unused_token,
)

TOKENS = ("a", "b", "c", "_x")
WORLD = [".".join(topic) for length in (1, 2, 3, 4) for topic in product(TOKENS, repeat=length)]


def naive(pattern: str, topic: str) -> bool:
    wanted, tokens = pattern.split("."), topic.split(".")
    if not wanted:
        return not tokens
    head, rest = wanted[0], wanted[1:]
    if head == ">":
        return bool(tokens) and not any(token.startswith("_") for token in tokens)
    if not tokens or (head == "*" and tokens[0].startswith("_")) or head not in ("*", tokens[0]):
        return False
    if not rest or len(tokens) == 1:
        return not rest and len(tokens) == 1
    return naive(".".join(rest), ".".join(tokens[1:]))


def specificity(pattern: str) -> list[int]:
    return [{">": 0, "*": 1}.get(token, 2) for token in pattern.split(".")]


@st.composite
def patterns(draw: st.DrawFn) -> str:
    tokens = draw(st.lists(st.sampled_from(("a", "b", "*")), min_size=0, max_size=3))
    if draw(st.booleans()) or not tokens:
        tokens.append(">")
    return ".".join(tokens)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c.d", True),
        (">", "a", True),
        ("*.b", "a.b", True),
        ("*", "_reply", False),
        (">", "_reply.DIRECTOR.00", False),
        ("a.>", "a.b._x", False),
        ("a.*.c", "a._x.c", False),
    ],
)
def test_a_pattern_matches_what_it_says(pattern, topic, expected):
    assert matches(pattern, topic) is expected


@given(patterns())
def test_matching_agrees_with_a_naive_reading(pattern):
    assert [topic for topic in WORLD if matches(pattern, topic)] == [topic for topic in WORLD if naive(pattern, topic)]


@given(patterns(), patterns())
def test_an_intersection_has_exactly_the_common_topics(first, second):
    both = {topic for topic in WORLD if naive(first, topic) and naive(second, topic)}
    common = intersection(first, second)
    assert common == intersection(second, first)
    assert {topic for topic in WORLD if common is not None and naive(common, topic)} == both
    assert overlaps(first, second) is (common is not None)
    if common is None:
        assert not both


@given(patterns(), patterns())
def test_covering_means_that_nothing_is_left_over(outer, inner):
    left_over = [topic for topic in WORLD if naive(inner, topic) and not naive(outer, topic)]
    assert covers(outer, inner) is not bool(left_over)


@given(st.lists(patterns(), unique=True, max_size=12))
def test_the_trie_finds_the_most_specific_match_whatever_the_order(chosen):
    trie = PatternTrie((pattern, pattern) for pattern in chosen)
    backwards = PatternTrie((pattern, pattern) for pattern in reversed(chosen))
    assert len(trie) == len(chosen)
    for topic in WORLD:
        matching = [pattern for pattern in chosen if naive(pattern, topic)]
        best = max(matching, key=specificity, default=None)
        note(topic)
        assert trie.best(topic) == best == backwards.best(topic)


def test_the_first_value_of_a_pattern_stays():
    trie = PatternTrie([("a", 1), ("a", 2), ("a.>", 3), ("a.>", 4)])
    assert (trie.best("a"), trie.best("a.b"), len(trie)) == (1, 3, 2)


def test_a_falsy_value_is_a_value():
    trie = PatternTrie([("a.b", 0), ("a.*", 1)])
    assert trie.best("a.b") == 0


@given(patterns(), st.lists(patterns(), max_size=6))
def test_what_holds_for_the_shapes_holds_for_every_topic(pattern, others):
    """Both ways: the others match all shapes iff they match all topics; they match some topic of each length, or no shape."""
    fill = unused_token([pattern, *others])
    found = list(shapes(pattern, fill=fill))
    assert all(naive(pattern, topic) for topic in found)
    covered = all(any(naive(other, shape) for other in others) for shape in found)
    mine = [topic for topic in WORLD if naive(pattern, topic)]
    if covered:
        assert all(any(naive(other, topic) for other in others) for topic in mine)
    else:
        bare = next(shape for shape in found if not any(naive(other, shape) for other in others))
        assert naive(pattern, bare)


def test_shapes_have_every_length_up_to_the_limit():
    assert list(shapes("a.*", fill="x0")) == ["a.x0"]
    lengths = [topic.count(".") + 1 for topic in shapes("a.>", fill="x0")]
    assert lengths == list(range(2, MAX_TOKENS + 1))


def test_an_unused_token_is_one_that_nobody_spells():
    assert unused_token([]) == "x0"
    assert unused_token(["x0.x1", "x2.>"]) == "x3"


@pytest.mark.parametrize(
    ("text", "expected"), [("a.b", False), ("a.*", True), ("*.b", True), (">", True), ("a.>", True), ("a>", False)]
)
def test_wildcards_are_whole_tokens(text, expected):
    assert has_wildcard(text) is expected
