"""Whose turn it is: urgent lanes first, the others by their share, nobody for ever last."""

from __future__ import annotations

from collections import Counter

import pytest

from bus.flow.rounds import MAX_ENVELOPE_BYTES, QUANTUM_BYTES, Rounds

CRITICAL, HIGH, NORMAL, BULK = 1, 2, 3, 4


class Lane:
    def __init__(self, name: str, priority: int = NORMAL, *, size: int = 1_000) -> None:
        self.name, self.priority, self.size = name, priority, size
        self.deficit, self.ready = 0, False

    def first_bytes(self) -> int:
        return self.size


def order(rounds: Rounds, turns: int, *, size: int = 1_000) -> list[str]:
    """Who sends, when everybody always has more."""
    names = []
    for _ in range(turns):
        lane, allowed = rounds.next()
        assert 0 < allowed <= MAX_ENVELOPE_BYTES
        names += [lane.name] * max(allowed // size, 1)
        rounds.sent(lane, size * max(allowed // size, 1), more=True)
    return names


def test_nothing_is_ready_in_the_beginning():
    assert Rounds().next() is None


def test_urgent_lanes_go_first_in_the_order_in_which_they_came():
    rounds = Rounds()
    for lane in (Lane("bulk", BULK), Lane("stop", CRITICAL), Lane("halt", 0)):
        rounds.add(lane)
    assert [rounds.next()[0].name for _ in range(3)] == ["stop", "halt", "bulk"]
    assert len(rounds) == 0


def test_a_lane_is_listed_once():
    rounds, lane = Rounds(), Lane("one")
    rounds.add(lane)
    rounds.add(lane)
    assert len(rounds) == 1
    rounds.next()
    assert rounds.next() is None


def test_a_lane_alone_may_send_a_whole_envelope():
    rounds, lane = Rounds(), Lane("one", BULK, size=100_000)
    rounds.add(lane)
    assert rounds.next() == (lane, MAX_ENVELOPE_BYTES)


def test_equal_lanes_take_turns():
    rounds = Rounds()
    for name in "abc":
        rounds.add(Lane(name))
    assert order(rounds, 6, size=QUANTUM_BYTES[NORMAL]) == list("abcabc")


def test_a_lane_of_small_records_does_not_give_way_to_one_of_large_ones():
    rounds = Rounds()
    sizes = {"small": 1_000, "large": 300_000}
    for name, size in sizes.items():
        rounds.add(Lane(name, size=size))
    sent: Counter[str] = Counter()
    for _ in range(2_000):
        lane, _ = rounds.next()
        sent[lane.name] += sizes[lane.name]
        rounds.sent(lane, sizes[lane.name], more=True)
    assert sent["large"] > 0
    assert sent["small"] > 0
    assert sent["large"] <= 1.2 * QUANTUM_BYTES[NORMAL] * 2_000


def test_high_priority_has_a_larger_share_and_bulk_is_not_starved():
    rounds = Rounds()
    for name, priority in (("high", HIGH), ("bulk", BULK)):
        rounds.add(Lane(name, priority, size=40_000))
    counts = Counter(order(rounds, 500, size=40_000))
    assert 3 < counts["high"] / counts["bulk"] < 5


@pytest.mark.parametrize("priority", [CRITICAL, NORMAL])
def test_a_lane_that_may_not_go_on_is_taken_out(priority):
    rounds, lane, other = Rounds(), Lane("gone", priority), Lane("stays", priority)
    rounds.add(lane)
    rounds.add(other)
    rounds.discard(lane)
    rounds.discard(lane)
    assert rounds.next()[0] is other
    assert rounds.next() is None


def test_what_is_left_of_a_share_is_gone_when_nothing_waits():
    rounds, lane, other = Rounds(), Lane("one"), Lane("other")
    rounds.add(lane)
    rounds.add(other)
    first, _ = rounds.next()
    rounds.sent(first, 10, more=False)
    assert first.deficit == 0
