"""How many turns may be out: never a longer queue in front of a slow reader, and a long way is filled."""

from __future__ import annotations

from collections import deque

from bus.flow.turn_window import MOST, START, TurnWindow


def play(way: float, service: float, *, turns: int, window: TurnWindow | None = None) -> tuple[TurnWindow, float]:
    """A sender that always has more. Each turn travels `way` seconds in all, and they are served one after the other.

    The window, and how many turns a second.
    """
    window = window or TurnWindow()
    now, free, done = 0.0, 0.0, deque()
    sent = 0
    while sent < turns:
        while window.is_open and sent < turns:
            window.sent(now)
            free = max(free, now + way / 2) + service
            done.append(free + way / 2)
            sent += 1
        now = done.popleft()
        window.credited(1, now)
    rate = turns / now
    while done:
        now = done.popleft()
        window.credited(1, now)
    return window, rate


def test_it_begins_with_eight():
    window = TurnWindow()
    for _ in range(START):
        assert window.is_open
        window.sent(0.0)
    assert not window.is_open
    assert window.out == START


def test_what_comes_back_makes_room():
    window = TurnWindow()
    for _ in range(START):
        window.sent(0.0)
    window.credited(3, 0.001)
    assert window.out == START - 3


def test_a_slow_reader_gets_no_longer_queue():
    window, _ = play(0.0001, 0.005, turns=5_000)
    assert window.size == START


def test_a_long_way_is_filled():
    window, rate = play(0.1, 0.0005, turns=20_000)
    assert START < window.size <= MOST
    assert rate > 0.5 / 0.0005


def test_it_shrinks_again_when_the_way_is_full():
    window, _ = play(0.1, 0.0005, turns=20_000)
    large = window.size
    play(0.1, 0.05, turns=2_000, window=window)
    assert START <= window.size < large


def test_a_lost_link_takes_all_that_was_out_with_it():
    window = TurnWindow()
    for _ in range(5):
        window.sent(0.0)
    assert window.lost() == 5
    assert (window.out, window.size) == (0, START)


def test_more_credit_than_was_out_changes_nothing():
    window = TurnWindow()
    window.sent(0.0)
    window.credited(5, 0.1)
    assert window.out == 0


def test_within_one_machine_nothing_is_far():
    window = TurnWindow()
    window.is_far = False
    play(0.1, 0.0005, turns=5_000, window=window)
    assert window.size == START


# ---- what a turn says of the size ------------------------------------------------------------------------------------------------


def measured(way: float) -> TurnWindow:
    """One that knows how long the way is: a turn was alone on it. It is 10 s now."""
    window = TurnWindow()
    window.sent(10.0 - way)
    window.credited(1, 10.0)
    return window


def full_at(window: TurnWindow, now: float) -> None:
    while window.is_open:
        window.sent(now)


def test_a_turn_that_did_not_fill_the_window_says_nothing_of_its_size():
    window = measured(0.1)
    assert window.size == START, "it was alone, and as quick as can be"
    for number in range(START - 1):
        window.sent(10.0 + number / 1_000)
    window.credited(START - 1, 10.1)
    assert window.size == START


def test_what_left_before_the_last_change_says_nothing_of_the_new_size():
    window = measured(0.1)
    full_at(window, 10.0)
    window.credited(1, 10.09)
    window.sent(10.09)  # this one fills the window of eight, too
    window.credited(START - 1, 10.1)
    assert window.size == 2 * START
    window.credited(1, 10.19)
    assert window.size == 2 * START, "it left when eight were the most"


def test_what_leaves_at_the_moment_of_a_change_counts_for_the_new_size():
    window = measured(0.1)
    full_at(window, 10.0)
    window.credited(START, 10.1)
    full_at(window, 10.1)
    window.credited(2 * START, 10.2)
    assert window.size == 4 * START


def test_how_long_the_way_was_is_forgotten_with_its_link():
    window = measured(0.1)
    window.lost()
    full_at(window, 20.0)
    window.credited(START, 21.0)  # the first of them was alone: the way is longer now
    assert window.size == 2 * START


def test_how_large_it_was_is_forgotten_with_its_link():
    window = measured(0.1)
    full_at(window, 10.0)
    window.credited(START, 10.1)
    assert window.size == 2 * START
    window.lost()
    assert window.size == START


def test_a_short_way_is_never_too_long():
    """Below two milliseconds what takes its time waits for a processor."""
    for way, size in ((0.0015, START), (0.003, 2 * START)):
        window = measured(way)
        full_at(window, 10.0)
        window.credited(START, 10.0 + way)
        assert window.size == size


def test_how_much_longer_than_alone_a_turn_takes_says_whether_it_grows_stays_or_shrinks():
    for times, size in ((1.9, 4 * START), (2.5, 2 * START), (3.9, 2 * START), (4.5, START)):
        window = measured(0.1)
        full_at(window, 10.0)
        window.credited(START, 10.1)
        full_at(window, 20.0)
        window.credited(2 * START, 20.0 + times * 0.1)
        assert window.size == size, f"{times} times as long"
