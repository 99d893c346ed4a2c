"""What is lost, doubled and out of order is counted: each by itself, and held against a naive count."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bus.bench.tally import Tally

CASES = {
    "all in their order": ([0, 1, 2, 3], (4, 0, 0, 0)),
    "nothing": ([], (0, 0, 0, 0)),
    "one never came": ([0, 1, 3, 4], (4, 1, 0, 0)),
    "the first never came": ([1, 2], (2, 1, 0, 0)),
    "one came twice": ([0, 1, 1, 2], (3, 0, 1, 0)),
    "one came twice, late": ([0, 1, 2, 0], (3, 0, 1, 0)),
    "two changed places": ([0, 2, 1, 3], (4, 0, 0, 1)),
    "what was missing came twice": ([0, 3, 1, 1, 2], (4, 0, 1, 2)),
    "the middle of a gap": ([0, 9, 5], (3, 7, 0, 1)),
    "both ends of a gap": ([0, 9, 1, 8], (4, 6, 0, 2)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_counts(case):
    numbers, expected = CASES[case]
    tally = Tally()
    for number in numbers:
        tally.add(number)
    assert (tally.came, tally.missing, tally.duplicated, tally.reordered) == expected


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_a_naive_count(seed):
    chance = random.Random(seed)
    numbers = [number for number in range(300) if chance.random() < 0.9]
    numbers += chance.choices(numbers, k=30)
    for _ in range(40):
        one, other = chance.randrange(len(numbers)), chance.randrange(len(numbers))
        numbers[one], numbers[other] = numbers[other], numbers[one]
    tally, seen, highest, reordered = Tally(), Counter[int](), -1, 0
    for number in numbers:
        tally.add(number)
        reordered += number not in seen and number < highest
        seen[number] += 1
        highest = max(highest, number)
    assert tally.came == len(seen)
    assert tally.missing == highest + 1 - len(seen)
    assert tally.duplicated == len(numbers) - len(seen)
    assert tally.reordered == reordered
