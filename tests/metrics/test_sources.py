"""Sources of numbers: asked when somebody looks, added up over processes, taken from each other over time."""

from __future__ import annotations

from collections import Counter

import pytest

from bus.metrics.sources import Sources, added, counts, part, plain, readable, since

BEFORE = {"sent": 3, "refused": {"expired": 1}, "url": "a"}
AFTER = {"sent": 10, "refused": {"expired": 1, "replayed": 2}, "url": "b", "new": 1.5}


def test_a_source_is_asked_at_each_reading_and_not_before():
    asked = []
    sources = Sources()
    sources.add("broker", lambda: {"links": asked.append(1) or len(asked)})
    assert asked == []
    assert [sources.read(), sources.read()] == [{"broker": {"links": 1}}, {"broker": {"links": 2}}]
    sources.remove("broker")
    assert sources.read() == {}


def test_a_name_is_one_sources_alone():
    sources = Sources()
    sources.add("broker", dict)
    with pytest.raises(ValueError, match="broker"):
        sources.add("broker", dict)


def test_what_passed_between_two_readings():
    assert since(BEFORE, AFTER) == {"sent": 7, "refused": {"expired": 0, "replayed": 2}, "url": "b", "new": 1.5}
    assert since({}, AFTER) == AFTER


def test_readings_of_several_processes_add_up():
    assert added([BEFORE, AFTER]) == {"sent": 13, "refused": {"expired": 2, "replayed": 2}, "url": "b", "new": 1.5}
    assert added([]) == {}


def test_a_truth_is_no_number():
    assert added([{"open": True}, {"open": True}]) == {"open": True}
    assert since({"open": True}, {"open": True}) == {"open": True}


def test_names_become_texts():
    assert plain({("a", 1): {2: "x"}, "b": Counter(c=1)}) == {"a 1": {"2": "x"}, "b": {"c": 1}}


def test_of_what_nobody_has_to_believe_that_is_taken_which_has_the_form_of_a_reading():
    said = {
        "starts": 2, "rate": 0.5, "kept": None, "version": "2.9", "is_there": True, "features": ["ttl"],
        "dropped": {"oldest": 3, "why": "x"}, "infinite": float("inf"), "none": float("nan"), "mixed": ["a", 1],
        "listed": [{"a": 1}], 7: 1,
    }  # fmt: skip
    found = readable(said)
    assert found == {
        "starts": 2, "rate": 0.5, "kept": None, "version": "2.9", "is_there": True, "features": ["ttl"],
        "dropped": {"oldest": 3, "why": "x"}, "7": 1,
    }  # fmt: skip
    assert counts(found, "dropped") == {"oldest": 3}
    assert (part(found, "starts"), part(found, "nothing"), counts(found, "version")) == ({}, {}, {})


@pytest.mark.parametrize("said", [None, 5, "x", [], [["a", 1]]])
def test_what_is_no_reading_has_nothing(said):
    assert readable(said) == {}


def test_what_is_nested_without_end_is_cut():
    deep: dict = {"here": 1}
    for _ in range(5_000):
        deep = {"a": deep}
    found, levels = readable(deep), 0
    while found:
        found, levels = found.get("a", {}), levels + 1
    assert levels < 10
