"""Sources of numbers: asked when somebody looks, added up over processes, taken from each other over time."""

from __future__ import annotations

from collections import Counter

import pytest

from bus.metrics.sources import Sources, added, plain, since

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
