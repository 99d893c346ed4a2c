"""What a reader hears, by a clock that the test turns: a stall counts for all that were due in it, and nothing lost hides."""

from __future__ import annotations

import pytest

from bus.bench.ear import Ear, added, unpacked
from bus.bench.order import Order
from bus.bench.record import Bodies

ORDER = Order(number=7, rate=1_000.0, begin_ns=5_000_000_000, warm_seconds=0.1, seconds=1.0, size=64)
TOTAL = ORDER.messages(1)


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def play(*, stall: range = range(0), lose: frozenset[int] = frozenset(), twice: frozenset[int] = frozenset()) -> dict:
    """Every message a millisecond after it was due; those of the stall when it is over."""
    clock, make = Clock(), Bodies(0).maker(step=7, size=64)
    ear = Ear(ORDER, clock, sources=1)
    for number in range(TOTAL):
        due_ns = ORDER.due_ns(number, 0, 1)
        over_ns = ORDER.due_ns(stall.stop, 0, 1) if number in stall else due_ns
        clock.now_ns = max(due_ns, over_ns) + 1_000_000
        for _ in range((number not in lose) + (number in twice)):
            ear.hear(make(number, due_ns))
    return ear.reading()


def test_what_comes_in_time_is_all_there():
    reading = play()
    assert (reading["delivered"], reading["in_time"], reading["duplicated"], reading["reordered"]) == (TOTAL, TOTAL, 0, 0)
    latency = unpacked(reading["latency"])
    assert latency.count == 1_000, "the warm-up is thrown away"
    assert latency.largest == pytest.approx(0.001)


def test_a_stall_counts_for_all_that_were_due_in_it():
    latency = unpacked(play(stall=range(500, 700))["latency"])
    assert latency.percentile(50) == pytest.approx(0.001, rel=0.05)
    assert latency.percentile(90) == pytest.approx(0.1, rel=0.05), (
        "a fifth waited, and half of them longer than a tenth of a second"
    )
    assert latency.percentile(99.9) == pytest.approx(0.2, rel=0.05)


def test_latency_over_time_shows_where_the_stall_was():
    slots = {int(name): unpacked(packed) for name, packed in play(stall=range(500, 700))["slots"].items()}
    worst = max(slots, key=lambda slot: slots[slot].largest)
    assert worst == (500 - 100) // 25, "of forty pieces of 25 messages each, warm-up not counted"
    assert play(stall=range(500, 700))["longest_silence"] == pytest.approx(0.2, rel=0.05)


def test_who_hears_nothing_more_is_silent_until_the_window_ends():
    assert play(lose=frozenset(range(600, TOTAL)))["longest_silence"] == pytest.approx(0.5, rel=0.05)
    assert play()["longest_silence"] == pytest.approx(0.001, rel=0.05)


def test_what_was_dropped_is_not_delivered():
    assert play(lose=frozenset({3, 400}))["delivered"] == TOTAL - 2


def test_what_comes_twice_is_counted_and_not_delivered_twice():
    reading = play(twice=frozenset({3, 400, 401}))
    assert (reading["delivered"], reading["duplicated"]) == (TOTAL, 3)


def test_what_comes_after_the_deadline_is_late():
    reading = play(stall=range(900, TOTAL + 500))
    assert reading["delivered"] == TOTAL
    assert reading["in_time"] == 900


def test_what_is_of_another_step_or_of_nobody_is_no_part_of_it():
    ear = Ear(ORDER, Clock(), sources=1)
    ear.hear(Bodies(0).make(0, 1, step=6, size=64))
    ear.hear(Bodies(1).make(0, 1, step=7, size=64))
    assert (ear.reading()["delivered"], ear.reading()["stale"]) == (0, 2)


def test_readings_of_several_readers_add_up():
    whole = added([play(), play(lose=frozenset({5}), stall=range(500, 700))])
    assert whole["delivered"] == 2 * TOTAL - 1
    assert unpacked(whole["latency"]).count == 2_000
    assert unpacked(whole["latency"]).largest == pytest.approx(0.201)
    assert sum(unpacked(slot).count for slot in whole["slots"].values()) == 2_000


def test_what_waits_for_something_is_told_apart_and_is_in_the_whole_too():
    clock = Clock()
    ear = Ear(ORDER, clock, sources=2, kinds=["session", "identity"])
    for number in range(200, 300):
        for source, seconds in ((0, 0.001), (1, 0.04)):
            due_ns = ORDER.due_ns(number, 0, 1)
            clock.now_ns = due_ns + int(seconds * 1e9)
            ear.hear(Bodies(source).make(number, due_ns, step=7, size=64))
    whole = added([ear.reading(), ear.reading()])
    assert {kind: unpacked(one).count for kind, one in whole["apart"].items()} == {"session": 200, "identity": 200}
    assert unpacked(whole["apart"]["session"]).largest == pytest.approx(0.001)
    assert unpacked(whole["apart"]["identity"]).mean == pytest.approx(0.04)
    assert unpacked(whole["latency"]).count == 400
    assert play()["apart"] == {}, "where all are alike there is nothing to tell apart"


def test_no_two_bodies_are_the_same():
    makers = [Bodies(source).maker(step=step, size=64) for source in (0, 1) for step in (1, 2)]
    bodies = {make(number, 0) for make in makers for number in range(1_000)}
    assert len(bodies) == 4_000
    assert {len(body) for body in bodies} == {64}
