"""The window beside a naive one that remembers every number, and the table that bounds how many windows there are."""

from __future__ import annotations

import sys
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import VerificationError
from bus.protocol.expiry import Expiry
from bus.protocol.replay import MAX_DURABLE_EPOCHS_A_SENDER, MAX_EPOCHS_A_SENDER, MIN_EPOCHS, WINDOW, Window, Windows

# ---- the definition ------------------------------------------------------------------------------------------------------------


class NaiveWindow:
    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.top = -1

    def verdict(self, seq: int) -> str:
        if seq <= self.top - WINDOW:
            return "too_old"
        return "replayed" if seq in self.taken else "new"

    def commit(self, seq: int) -> None:
        self.taken.add(seq)
        self.top = max(self.top, seq)


def verdict(window: Window, seq: int) -> str:
    try:
        window.check(seq)
    except VerificationError as error:
        return error.reason
    return "new"


def taken(*numbers: int) -> Window:
    window = Window()
    for seq in numbers:
        window.commit(seq)
    return window


# ---- the window ----------------------------------------------------------------------------------------------------------------

PAGE = 4_096
steps = st.one_of(
    st.integers(1, 3),
    st.sampled_from([7, 8, 9, PAGE - 1, PAGE, PAGE + 1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW]),
    st.integers(-WINDOW - 10, WINDOW + 10),
    st.integers(1, 1 << 31),
)


@given(st.integers(0, 1 << 20), st.lists(steps, max_size=60))
def test_a_window_decides_as_one_that_remembers_every_number(first, moves):
    window, naive = Window(), NaiveWindow()
    seq = first
    for step in [0, *moves]:
        seq = max(0, seq + step)
        for near in {
            seq,
            max(0, seq - 1),
            seq + 1,
            seq + 8,
            max(0, seq - WINDOW),
            max(0, seq - WINDOW + 1),
            max(0, naive.top - WINDOW + 1),
        }:
            assert verdict(window, near) == naive.verdict(near), near
        if naive.verdict(seq) == "new":
            window.commit(seq)
            naive.commit(seq)
        else:
            with pytest.raises(VerificationError):
                window.commit(seq)
        assert window.top == naive.top
        seq = naive.top if step > WINDOW else seq


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=80), st.integers(0, 3 * WINDOW))
def test_after_any_jump_every_number_is_known_or_not_as_it_should_be(numbers, jump):
    window, naive = Window(), NaiveWindow()
    for seq in dict.fromkeys([*numbers, max(numbers) + jump + 1]):
        window.commit(seq)
        naive.commit(seq)
    around = {near for seq in naive.taken for near in range(max(0, seq - 2), seq + 3)}
    again = {near + WINDOW for near in around} | {max(0, near - WINDOW) for near in around}
    for seq in around | again:
        assert verdict(window, seq) == naive.verdict(seq), seq


def test_every_number_of_a_window_is_taken_once():
    window = Window()
    for seq in range(WINDOW + 5_000):
        window.check(seq)
        window.commit(seq)
        assert verdict(window, seq) == "replayed"
    assert {verdict(window, seq) for seq in range(5_000)} == {"too_old"}
    assert {verdict(window, seq) for seq in range(5_000, WINDOW + 5_000)} == {"replayed"}


@pytest.mark.parametrize("gap", [1, 2, 7, 8, 9, PAGE - 2, PAGE - 1, PAGE, PAGE + 1, WINDOW - 1, WINDOW, WINDOW + 1])
def test_what_a_jump_passes_over_is_new_although_its_place_was_taken(gap):
    window = Window()
    for seq in range(5, WINDOW + 5):
        window.commit(seq)
    top = WINDOW + 5 + gap
    window.commit(top)
    assert {verdict(window, seq) for seq in range(max(WINDOW + 5, top - WINDOW + 1), top)} == {"new"}
    before = range(top - WINDOW + 1, WINDOW + 5)
    assert {verdict(window, seq) for seq in [*before[:20], *before[-20:], top]} == {"replayed"}


def test_numbers_that_come_in_any_order_within_the_window_are_taken():
    window = taken(WINDOW - 1)
    for seq in range(WINDOW - 2, -1, -1):
        window.commit(seq)
    assert {verdict(window, seq) for seq in range(WINDOW)} == {"replayed"}


def test_what_is_reordered_outside_the_window_is_refused():
    window = taken(10, 10 + WINDOW)
    assert verdict(window, 10) == "too_old"
    assert verdict(window, 9) == "too_old"
    assert verdict(window, 11) == "new"


def test_a_forged_high_number_leaves_the_window_where_it_was():
    """A reader holds the key, so what it forges opens; its proof fails after the check, and there is no commit."""
    window = taken(0, 1, 2)
    window.check((1 << 32) - 1)
    assert window.top == 2
    assert [verdict(window, seq) for seq in (2, 3, 4)] == ["replayed", "new", "new"]


def test_the_same_number_twice_between_check_and_commit_is_taken_once():
    window = Window()
    window.check(7)
    window.check(7)
    window.commit(7)
    with pytest.raises(VerificationError) as refused:
        window.commit(7)
    assert refused.value.reason == "replayed"


def test_a_commit_that_is_refused_moves_nothing():
    window = taken(5, 5 + WINDOW)
    for seq in (5, 5 + WINDOW):
        with pytest.raises(VerificationError):
            window.commit(seq)
    assert window.top == 5 + WINDOW
    assert verdict(window, 6) == "new"


def test_memory_grows_with_what_is_taken_and_never_beyond_8_kib():
    window = Window()
    assert window.allocated_bytes == 0
    window.commit(3_000_000_000)
    assert window.allocated_bytes == 512
    for seq in range(3_000_000_000 - WINDOW + 1, 3_000_000_000, 100):
        window.commit(seq)
    assert window.allocated_bytes == 8_192
    window.commit(4_000_000_000)
    assert window.allocated_bytes == 512


def test_what_a_jump_costs_does_not_depend_on_how_far_it_goes():
    """Counted in steps of the interpreter: a loop over the gap would take billions."""

    def lines(window: Window, seq: int) -> int:
        counted = count()

        def trace(*_):
            next(counted)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            window.commit(seq)
        finally:
            sys.settrace(before)
        return next(counted)

    assert lines(taken(0), 1 << 32) <= lines(taken(0), WINDOW + 1)
    assert lines(taken(*range(0, WINDOW, 64)), 2 * WINDOW - 2) < 300


# ---- the table -----------------------------------------------------------------------------------------------------------------


def epoch(number: int) -> bytes:
    return number.to_bytes(32, "big")


def commit(windows: Windows, number: int, seq: int = 0, *, sender: str = "DIRECTOR", ends_ms: int = 900_000) -> None:
    windows.commit(epoch(number), seq, sender=sender, ends_ms=ends_ms, ttl_ms=60_000)


def refusal(windows: Windows, number: int, seq: int = 0, *, sender: str = "DIRECTOR") -> str | None:
    try:
        windows.check(epoch(number), seq, sender=sender)
    except VerificationError as error:
        return error.reason
    return None


def test_each_epoch_has_its_own_numbers():
    windows = Windows()
    commit(windows, 1)
    assert refusal(windows, 1) == "replayed"
    assert refusal(windows, 2) is None
    assert len(windows) == 1, "a check makes no window"


def test_a_sender_has_64_epochs_and_a_new_one_is_refused():
    windows = Windows()
    for number in range(MAX_EPOCHS_A_SENDER):
        commit(windows, number)
    assert refusal(windows, 64) == "too_many_epochs"
    with pytest.raises(VerificationError) as refused:
        commit(windows, 64)
    assert (refused.value.reason, refused.value.agent) == ("too_many_epochs", "DIRECTOR")
    assert len(windows) == MAX_EPOCHS_A_SENDER
    assert refusal(windows, 64, sender="MONITOR") is None, "the others are not held to account"
    assert [refusal(windows, number) for number in range(MAX_EPOCHS_A_SENDER)] == ["replayed"] * MAX_EPOCHS_A_SENDER
    assert refusal(windows, 0, 1) is None, "what is held goes on"


@pytest.mark.parametrize(("audible", "limit"), [(0, MIN_EPOCHS), (256, MIN_EPOCHS), (257, 4_112), (10_000, 160_000)])
def test_how_many_there_are_in_all_depends_on_who_may_be_heard(audible, limit):
    assert Windows(audible=audible).room.limit() == limit


def test_beyond_the_limit_new_ones_are_refused_whoever_sends_and_none_goes():
    windows = Windows(audible=1)
    for number in range(MIN_EPOCHS):
        commit(windows, number, sender=f"A{number // 64}")
    assert refusal(windows, MIN_EPOCHS, sender="NEW") == "too_many_epochs"
    assert {refusal(windows, number, sender=f"A{number // 64}") for number in range(MIN_EPOCHS)} == {"replayed"}
    windows.room.audible = 1_000
    assert refusal(windows, MIN_EPOCHS, sender="NEW") is None
    windows.room.audible = 0
    assert len(windows) == MIN_EPOCHS, "a policy that hears fewer takes nothing away"


def test_live_and_durable_epochs_have_room_apart():
    windows = Windows()
    for number in range(MAX_EPOCHS_A_SENDER):
        commit(windows, number)
    windows.check(epoch(MAX_EPOCHS_A_SENDER), 0, sender="DIRECTOR", durable=True)
    for number in range(MAX_DURABLE_EPOCHS_A_SENDER):
        windows.commit(epoch(5_000 + number), 0, sender="DIRECTOR", ends_ms=900_000, ttl_ms=60_000, durable=True)
    with pytest.raises(VerificationError) as caught:
        windows.check(epoch(9_999), 0, sender="DIRECTOR", durable=True)
    assert caught.value.reason == "too_many_epochs"
    assert windows.room.limit(durable=True) == 4 * windows.room.limit()
    assert windows.forget(2_000_000) == MAX_EPOCHS_A_SENDER + MAX_DURABLE_EPOCHS_A_SENDER
    commit(windows, 1)


def test_a_window_is_kept_until_nothing_of_its_epoch_can_be_accepted():
    windows = Windows()
    commit(windows, 1, ends_ms=1_000_000)
    assert windows.forget(1_000_000 + 60_000 + 60_000) == 0
    assert refusal(windows, 1) == "replayed"
    assert windows.forget(1_000_000 + 60_000 + 60_001) == 1
    assert len(windows) == 0


def test_a_longer_ttl_keeps_it_longer_and_a_shorter_one_not_less():
    windows = Windows()
    for seq, ttl_ms in enumerate([10, 5_000, 10]):
        windows.commit(epoch(1), seq, sender="A", ends_ms=0, ttl_ms=ttl_ms)
    assert windows.forget(65_000) == 0
    assert windows.forget(65_001) == 1


def test_what_was_forgotten_makes_room():
    windows = Windows()
    for number in range(MAX_EPOCHS_A_SENDER):
        commit(windows, number, ends_ms=number)
    assert windows.forget(120_010) == 10
    for number in range(100, 110):
        commit(windows, number)
    assert refusal(windows, 110) == "too_many_epochs"


ends = st.integers(0, 50)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(0, 90), st.integers(0, 3), ends),
        st.tuples(st.just("forget"), st.integers(0, 50), st.just(0), st.just(0)),
    ),
    max_size=200,
)


@given(actions)
def test_the_table_decides_as_one_that_looks_at_everything(steps):
    windows = Windows()
    taken_numbers: dict[int, set[int]] = {}
    until: dict[int, int] = {}
    now = 0
    for action, number, seq, ends_ms in steps:
        if action == "forget":
            now = max(now, number)
            gone = [key for key in until if until[key] < 120_000 + now]
            assert windows.forget(120_000 + now) == len(gone)
            for key in gone:
                del until[key], taken_numbers[key]
            continue
        full = number not in until and len(until) >= MAX_EPOCHS_A_SENDER
        expected = "too_many_epochs" if full else "replayed" if seq in taken_numbers.get(number, ()) else None
        assert refusal(windows, number, seq) == expected
        if expected is None:
            commit(windows, number, seq, ends_ms=ends_ms)
            taken_numbers.setdefault(number, set()).add(seq)
            until[number] = max(until.get(number, 0), 120_000 + ends_ms)
    assert len(windows) == len(until)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.integers(0, 20), st.integers(0, 20))))
def test_a_time_moves_later_and_never_earlier(steps):
    expiry, naive = Expiry(), {}
    for key, until_ms, now_ms in steps:
        expiry.keep(key, until_ms=until_ms)
        naive[key] = max(until_ms, naive.get(key, 0))
        assert expiry.until_ms(key) == naive[key]
        gone = sorted(one for one, until in naive.items() if until < now_ms)
        assert sorted(expiry.take_expired(now_ms)) == gone
        for one in gone:
            del naive[one]
        assert len(expiry) == len(naive)
