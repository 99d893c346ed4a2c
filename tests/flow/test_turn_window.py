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
