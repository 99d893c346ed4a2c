"""What was stored is known for ten minutes, whoever else stores how much; what nobody stored is never taken for it."""

from __future__ import annotations

import random
from collections import Counter

from bus.flow.duplicates import Duplicates

MINUTE = 60_000
KEEP = 10 * MINUTE


def key(number, sender="DIRECTOR"):
    return sender, number.to_bytes(16)


def test_it_is_known_for_as_long_as_it_is_kept():
    known = Duplicates(keep_ms=KEEP)
    known.stored([key(1), key(2)], 7, now_ms=5_000)
    assert known.find([key(2), key(3), key(1)], now_ms=5_000) == {key(1): 7, key(2): 8}
    assert known.find([key(1)], now_ms=5_000 + KEEP - 1) == {key(1): 7}
    assert known.find([key(1)], now_ms=5_000 + KEEP) == {}


def test_what_was_stored_last_is_kept_as_long_whatever_was_stored_before_and_comes_after():
    known = Duplicates(keep_ms=KEEP)
    for number, minute in ((1, 0), (2, 4), (3, 11)):
        known.stored([key(number)], number, now_ms=minute * MINUTE)
    assert known.find([key(1), key(2), key(3)], now_ms=11 * MINUTE) == {key(2): 2, key(3): 3}
    assert known.find([key(2)], now_ms=14 * MINUTE - 1) == {key(2): 2}


def test_another_sender_is_another_key():
    known = Duplicates(keep_ms=KEEP)
    known.stored([key(1)], 7, now_ms=0)
    assert known.find([key(1, "WORKER1")], now_ms=0) == {}


def test_what_is_stored_again_later_has_its_new_position():
    known = Duplicates(keep_ms=KEEP)
    known.stored([key(1)], 7, now_ms=0)
    known.stored([key(1)], 9, now_ms=KEEP)
    assert known.find([key(1)], now_ms=KEEP + 1) == {key(1): 9}


def test_what_is_pending_is_so_until_it_is_stored_or_could_not_be():
    known = Duplicates(keep_ms=KEEP)
    known.pending |= {key(1): 7, key(2): 8}
    known.stored([key(1)], 7, now_ms=0)
    known.forget([key(2), key(3)])
    assert known.pending == {}
    assert known.find([key(1), key(2)], now_ms=0) == {key(1): 7}


def test_bytes_of_another_entry_that_look_like_a_mark_are_none():
    """A mark is looked for in bytes, and may stand across two fields, or two entries. The hash of a number is itself."""
    bucket = 3 << 40 | 5  # two that are in one bucket, where the position of one is what the other would be found by
    stranger = 7 << 40 | 5
    known = Duplicates(keep_ms=KEEP)
    known.stored([bucket], stranger, now_ms=0)
    known.stored([9 << 40 | 5], 1, now_ms=0)
    assert known.find([stranger], now_ms=0) == {}
    known.stored([stranger], 11, now_ms=0)
    assert known.find([bucket, stranger], now_ms=0) == {bucket: stranger, stranger: 11}


def test_memory_is_bounded_and_what_is_forgotten_early_is_counted():
    known = Duplicates(keep_ms=KEEP, most=1_000)
    for start in range(0, 5_000, 50):
        known.stored([key(start + number) for number in range(50)], start, now_ms=start)
        assert known.count <= 1_500
    assert len(known.find([key(number) for number in range(4_500, 5_000)], now_ms=5_000)) == 500, "the newest are known"
    assert known.find([key(0)], now_ms=5_000) == {}
    assert known.forgotten_early == 5_000 - known.count


def test_what_is_over_is_not_counted_as_forgotten_early():
    known = Duplicates(keep_ms=KEEP)
    for minute in range(60):
        known.stored([key(minute)], minute, now_ms=minute * MINUTE)
    assert known.forgotten_early == 0
    assert known.count <= 25


def test_many_keys_in_few_buckets_are_all_found():
    dice = random.Random(3)
    known, naive = Duplicates(keep_ms=KEEP), {}
    now_ms = 0
    for start in range(0, 200_000, 1_000):
        now_ms += dice.randrange(0, 2_000)
        keys = [(dice.choice(["DIRECTOR", "WORKER1"]), dice.randbytes(16)) for _ in range(1_000)]
        known.stored(keys, start, now_ms=now_ms)
        naive |= {one: start + place for place, one in enumerate(keys)}
    wanted = dice.sample([*naive], 5_000)
    assert known.find(wanted, now_ms=now_ms) == {one: naive[one] for one in wanted}
    assert known.find([("DIRECTOR", dice.randbytes(16)) for _ in range(5_000)], now_ms=now_ms) == {}
    assert max(Counter(map(len, known._generations[0].buckets))) < 20 * 40, "they are spread"
