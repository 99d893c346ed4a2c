"""Percentiles against the sorted list that they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.metrics.histogram import Histogram

TIMES = st.lists(st.floats(1e-6, 10_000), min_size=1, max_size=200)


def filled(times) -> Histogram:
    histogram = Histogram()
    for time in times:
        histogram.add(time)
    return histogram


@given(TIMES, st.sampled_from([1, 50, 90, 99, 99.9, 100]))
def test_a_percentile_is_that_of_the_sorted_list_within_its_promise(times, percent):
    exact = sorted(times)[max(0, -(-len(times) * percent // 100).__int__() - 1)]
    assert filled(times).percentile(percent) == pytest.approx(exact, rel=0.033)


@given(TIMES)
def test_what_is_exact_is_exact(times):
    histogram = filled(times)
    assert (histogram.count, histogram.largest) == (len(times), max(times))
    assert histogram.mean == pytest.approx(sum(times) / len(times))


@given(TIMES, TIMES)
def test_two_that_are_merged_are_one_that_saw_all(left, right):
    merged = filled(left)
    merged.merge(filled(right))
    assert merged.packed() == filled(left + right).packed()
    assert merged.percentile(90) == filled(left + right).percentile(90)


@given(TIMES)
def test_what_is_packed_comes_out_the_same(times):
    histogram = filled(times)
    again = Histogram.unpacked(histogram.packed())
    assert (again.count, again.packed()) == (histogram.count, histogram.packed())
    for name, value in histogram.summary().items():
        assert again.summary()[name] == pytest.approx(value, rel=0.035)


def test_an_empty_one_says_nothing():
    assert set(Histogram().summary().values()) == {0}


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 1e5, 1e9])
def test_what_is_out_of_range_counts_at_its_end(seconds):
    histogram = filled([seconds])
    assert histogram.count == 1
    assert len(histogram.packed()) == 1


@pytest.mark.parametrize("packed", [{"-1": 1}, {"100000": 1}, {"3": -1}, {"x": 1}])
def test_what_no_histogram_packs_is_refused(packed):
    with pytest.raises(ValueError, match=r"bucket|literal"):
        Histogram.unpacked(packed)
