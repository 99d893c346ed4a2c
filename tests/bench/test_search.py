"""The search finds the knee of a system that is known, and ends where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bus.bench.search import MOST_STEPS, NEAR, Search, Tried


def run(search: Search, is_kept: Callable[[float], bool]) -> list[Tried]:
    tried: list[Tried] = []
    while (rate := search.next_rate(tried)) is not None:
        tried.append(Tried(rate, is_kept(rate)))
    return tried


def queue(capacity: float, *, seconds: float = 4.0, grace: float = 0.1) -> Callable[[float], bool]:
    """A server that does so many a second, and what had come of a window of so many seconds a moment after its end."""
    return lambda rate: min(capacity * (seconds + grace), rate * seconds) >= 0.999 * rate * seconds


@pytest.mark.parametrize("capacity", [130.0, 9_700.0, 312_000.0, 764_000.0])
@pytest.mark.parametrize("start", [100.0, 1_000.0, 50_000.0, 2_000_000.0])
def test_it_finds_the_knee(capacity, start):
    tried = run(Search(start=start), queue(capacity))
    best = Search.best(tried)
    assert best is not None
    assert capacity / NEAR <= best <= capacity * 1.03
    assert len(tried) <= 30


def test_one_hiccup_does_not_end_it_too_low():
    hiccups = iter([True])
    keeps = queue(100_000.0)

    def is_kept(rate: float) -> bool:
        return keeps(rate) and not (rate == 16_000 and next(hiccups, False))

    best = Search.best(run(Search(start=1_000.0), is_kept))
    assert best is not None
    assert best >= 100_000 / NEAR


def test_a_system_that_keeps_nothing_up_has_no_rate():
    tried = run(Search(start=1_000.0), lambda _: False)
    assert Search.best(tried) is None
    assert len(tried) <= MOST_STEPS
    assert tried[-1].rate == 1.0


def test_a_system_without_a_knee_ends_at_the_most():
    assert Search.best(run(Search(start=1_000.0, most=64_000.0), lambda _: True)) == 64_000


def test_it_ends_where_the_system_does_not_know_what_it_wants():
    answers = iter([True, False] * MOST_STEPS)
    assert len(run(Search(start=1_000.0), lambda _: next(answers))) <= MOST_STEPS
