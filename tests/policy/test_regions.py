"""The index of patterns and the regions, held against the plain questions that they answer faster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.policy.regions import Budget, PatternIndex, TooManyRegionsError, largest, regions, widest_first
from bus.protocol.topics import covers, intersection, matches, overlaps

sys.path.insert(0, str(Path(__file__).parent))

from random_policies import EVERY_SHAPE, patterns

some = st.lists(patterns(), max_size=8, unique=True)


@given(some, patterns())
def test_the_index_finds_what_a_look_at_each_pattern_finds(given_patterns, asked):
    index = PatternIndex(given_patterns, budget=Budget())
    assert sorted(index.meeting(asked)) == sorted(one for one in given_patterns if overlaps(one, asked))
    assert sorted(index.covering(asked)) == sorted(one for one in given_patterns if covers(one, asked))
    assert sorted(index.within(asked)) == sorted(one for one in given_patterns if covers(asked, one))
    assert index.covers(asked) is any(covers(one, asked) for one in given_patterns)


@given(some)
def test_no_pattern_stands_before_a_wider_one(given_patterns):
    ordered = widest_first(given_patterns)
    assert not any(covers(after, before) for place, before in enumerate(ordered) for after in ordered[place + 1 :])


@given(some)
def test_the_largest_are_those_within_no_other(given_patterns):
    wanted = [one for one in given_patterns if not any(other != one and covers(other, one) for other in given_patterns)]
    assert largest(given_patterns, budget=Budget()) == sorted(wanted)


@given(some, some)
def test_every_topic_that_a_changed_pattern_matches_has_a_region_that_answers_for_it(changed, others):
    every = [*changed, *others]
    found = regions(every, changed=changed, fill="x0", budget=Budget())
    answered = {frozenset(one for one in every if matches(one, topic)) for topic in found.values()}
    for topic in EVERY_SHAPE:
        matching = frozenset(one for one in every if matches(one, topic))
        assert not matching & {*changed} or matching in answered


@given(some, some)
def test_the_topic_of_a_region_is_its_own(changed, others):
    every = [*changed, *others]
    found = regions(every, changed=changed, fill="x0", budget=Budget())
    for region, topic in found.items():
        assert matches(region, topic)
        assert {one for one in every if matches(one, topic)} == {one for one in every if covers(one, region)}


def test_regions_are_what_changed_patterns_have_in_common_with_all():
    every = ["a.>", "*.b", "a.*.c", "b.*"]
    assert set(regions(every, changed=every, fill="x", budget=Budget())) == {*every, "a.b", "b.b"}
    assert set(regions(every, changed=["*.b"], fill="x", budget=Budget())) == {"*.b", "a.b", "b.b"}
    assert regions(every, changed=[], fill="x", budget=Budget()) == {}


def test_a_region_that_smaller_ones_fill_has_no_topic_of_its_own():
    every = [">", "*", "*.>"]
    assert set(regions(every, changed=every, fill="x", budget=Budget())) == {"*", "*.>"}


def test_the_work_has_an_end():
    every = [".".join("*" if place != hole else "x" for place in range(13)) for hole in range(13)]
    assert intersection(every[0], every[1])
    with pytest.raises(TooManyRegionsError):
        regions(every, changed=every, fill="y", budget=Budget(10_000))
