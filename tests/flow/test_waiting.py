"""Records that wait: what is taken, in which order, and that nothing is lost between columns."""

from __future__ import annotations

import random

import pytest

from bus.flow.waiting import MAX_BYTES, MAX_RECORDS, Waiting


def filled(*sizes: int) -> Waiting:
    waiting = Waiting()
    for number, size in enumerate(sizes):
        waiting.add(bytes([number]) * size, number % 2, headers={"n": str(number)} if number % 3 == 0 else None, note=number)
    return waiting


def test_all_that_fits_is_taken_at_once():
    waiting = filled(1, 2, 3)
    taken = waiting.take(512, 1_000)
    assert (taken.kinds, [len(one) for one in taken.payloads], taken.size_bytes) == (b"\0\1\0", [1, 2, 3], 6)
    assert (len(waiting), waiting.size_bytes) == (0, 0)
    assert waiting.take(512, 1_000).payloads == []


def test_what_was_taken_does_not_change_when_more_is_added():
    waiting = filled(1, 1)
    taken = waiting.take(512, 1_000)
    waiting.add(b"new", 1)
    assert len(taken.payloads) == 2
    assert len(waiting) == 1


def test_no_more_bytes_are_taken_than_allowed():
    assert len(filled(400, 400, 400).take(512, 900).payloads) == 2


def test_a_record_that_is_larger_than_allowed_is_taken_alone():
    assert [len(one) for one in filled(2_000, 1).take(512, 900).payloads] == [2_000]


def test_headers_and_notes_stay_with_their_records():
    waiting = filled(*[1] * 7)
    first, second = waiting.take(4, 1_000), waiting.take(4, 1_000)
    assert (first.kinds, second.kinds) == (b"\0\1\0\1", b"\0\1\0")
    assert (first.headers, second.headers) == ({0: {"n": "0"}, 3: {"n": "3"}}, {2: {"n": "6"}})
    assert (first.notes, second.notes) == ({0: 0, 1: 1, 2: 2, 3: 3}, {0: 4, 1: 5, 2: 6})


def test_what_is_noted_of_a_run_stays_with_its_records_however_they_are_taken():
    waiting, one, other = filled(*[1] * 3), object(), object()
    waiting.note_newest(2, one)
    waiting.add(b"1", 0)
    waiting.note_newest(1, one)
    for _ in range(4):
        waiting.add(b"1", 0)
    waiting.note_newest(3, other)
    taken = [waiting.take(3, 1_000) for _ in range(3)]
    assert [one.runs for one in taken] == [[(1, 3, one)], [(0, 1, one), (2, 3, other)], [(0, 2, other)]]
    assert waiting.take(3, 1_000).runs == ()
    waiting.add(b"1", 0)
    assert waiting.take(3, 1_000).runs == []


def test_headers_count_as_bytes():
    waiting = Waiting()
    for number in range(4):
        waiting.add(b"1234567890", 0, headers={"n": str(number)}, header_bytes=90)
    assert (waiting.size_bytes, waiting.first_bytes) == (400, 100)
    taken = waiting.take(512, 250)
    assert (len(taken.payloads), taken.size_bytes, waiting.size_bytes) == (2, 200, 200)
    assert waiting.take(512, 1_000).headers == {0: {"n": "2"}, 1: {"n": "3"}}
    assert waiting.first_bytes == 0


@pytest.mark.parametrize(("count", "size"), [(MAX_RECORDS, 0), (1, MAX_BYTES)])
def test_a_lane_is_full_by_records_or_by_bytes(count, size):
    waiting = Waiting()
    for _ in range(count):
        assert not waiting.is_full
        waiting.add(bytes(size), 0)
    assert waiting.is_full


def test_taking_in_pieces_gives_what_was_added():
    chance = random.Random(7)
    for _ in range(200):
        sizes = [chance.choice([0, 1, 50, 400]) for _ in range(chance.randrange(1, 60))]
        waiting = filled(*sizes)
        kinds, payloads, notes = b"", [], []
        while len(waiting):
            taken = waiting.take(chance.randrange(1, 20), chance.randrange(1, 900))
            assert len(taken.kinds) == len(taken.payloads) > 0
            assert taken.size_bytes == sum(map(len, taken.payloads))
            notes += [taken.notes[index] for index in range(len(taken.payloads))]
            kinds, payloads = kinds + taken.kinds, payloads + taken.payloads
        assert [len(one) for one in payloads] == sizes
        assert kinds == bytes(number % 2 for number in range(len(sizes)))
        assert notes == list(range(len(sizes)))
        assert waiting.size_bytes == 0
