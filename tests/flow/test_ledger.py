"""The ledger beside a naive one that remembers every record, with a disk that has what was written and nothing else."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import VerificationError
from bus.flow.ledger import EPOCH_BYTES, RUN_BYTES, Changes, Ledger, Row, Verdict
from bus.flow.runs import Runs
from bus.protocol.skew import SKEW_MS

E = b"e" * 32
F = b"f" * 32
NEW, DONE = Verdict((0, 1), redelivered=False, done=False), Verdict((), redelivered=True, done=True)


class Disk:
    """What a shell does with changes: forget, drop, put, in one transaction."""

    def __init__(self) -> None:
        self.rows: dict[tuple[bytes, int], Row] = {}

    def write(self, changes: Changes) -> None:
        self.rows = {key: row for key, row in self.rows.items() if key[0] not in changes.forget and key not in changes.drop}
        self.rows |= {(row.epoch, row.start): row for row in changes.put}

    def read(self, **bounds: int) -> Ledger:
        return Ledger.load(self.rows.values(), **bounds)


def save(ledger: Ledger, disk: Disk) -> tuple[tuple[bytes, int], ...]:
    """Write everything; what may be acknowledged now."""
    changes = ledger.changes()
    assert changes is not None
    disk.write(changes)
    ledger.written(changes)
    return changes.settled


def finish(ledger: Ledger, seq: int, *indexes: int, epoch: bytes = E, records: int = 2, expires_ms: int = 1_000) -> None:
    ledger.finish(epoch, seq, indexes, records=records, expires_ms=expires_ms)


def decide(ledger: Ledger, seq: int, *, epoch: bytes = E, records: int = 2) -> Verdict:
    return ledger.decide(epoch, seq, records=records)


# ---- what an envelope means ----------------------------------------------------------------------------------------------------


def test_what_was_never_seen_is_handed_over():
    assert decide(Ledger(), 0) == NEW


def test_a_finished_envelope_is_acked_again_in_silence():
    ledger, disk = Ledger(), Disk()
    finish(ledger, 0, 0, 1)
    assert save(ledger, disk) == ((E, 0),)
    assert decide(ledger, 0) == DONE
    assert decide(disk.read(), 0) == DONE


def test_an_unfinished_record_is_handed_over_again_and_says_so():
    ledger, disk = Ledger(), Disk()
    finish(ledger, 0, 1)
    assert save(ledger, disk) == (), "half an envelope is not acknowledged"
    for one in (ledger, disk.read()):
        assert decide(one, 0) == Verdict((0,), redelivered=True, done=False)


def test_what_is_finished_but_not_yet_written_is_neither_handed_over_nor_acked():
    ledger = Ledger()
    finish(ledger, 0, 0, 1)
    writing = Verdict((), redelivered=True, done=False)
    assert decide(ledger, 0) == writing
    changes = ledger.changes()
    assert decide(ledger, 0) == writing, "taken is not written"
    assert changes is not None
    ledger.written(changes)
    assert decide(ledger, 0) == DONE


def test_envelopes_of_one_record_that_follow_each_other_are_one_run_and_each_is_settled():
    ledger, disk = Ledger(), Disk()
    for seq in range(4):
        finish(ledger, seq, 0, records=1, expires_ms=1_000 + seq)
        assert decide(ledger, seq, records=1) == Verdict((), redelivered=True, done=False)
        assert ledger.is_being_written(E, seq)
    finish(ledger, 3, 0, records=1)
    assert save(ledger, disk) == tuple((E, seq) for seq in range(4))
    assert (len(disk.rows), disk.read().rows()) == (1, ledger.rows())
    assert ledger.rows()[0].until_ms == 1_003 + SKEW_MS
    assert [decide(ledger, seq, records=1).done for seq in range(5)] == [True] * 4 + [False]


def test_a_crash_before_the_write_hands_it_over_again():
    ledger, disk = Ledger(), Disk()
    finish(ledger, 0, 0, 1)
    ledger.changes()
    assert decide(disk.read(), 0) == NEW


def test_a_write_that_failed_is_tried_again():
    ledger, disk = Ledger(), Disk()
    finish(ledger, 0, 0, 1)
    changes = ledger.changes()
    finish(ledger, 1, 0, 1)
    assert changes is not None
    disk.write(changes)
    disk.write(changes)  # the first did go through, and only its answer was lost
    ledger.written(changes)
    assert decide(ledger, 0) == DONE
    assert not decide(ledger, 1).done
    assert save(ledger, disk) == ((E, 1),)
    assert disk.read().rows() == ledger.rows() == [Row(E, 0, 2_048, 61_000)]


def test_epochs_and_envelopes_are_told_apart():
    ledger = Ledger()
    finish(ledger, 5, 0, 1)
    assert decide(ledger, 4) == decide(ledger, 6) == decide(ledger, 5, epoch=F) == NEW


def test_finishing_twice_changes_nothing():
    ledger, disk = Ledger(), Disk()
    finish(ledger, 0, 0)
    finish(ledger, 0, 0, 0)
    save(ledger, disk)
    finish(ledger, 0, 0)
    assert ledger.changes() is None
    finish(ledger, 0, 0, 1)
    assert save(ledger, disk) == ((E, 0),)
    finish(ledger, 0, 0, 1)
    assert ledger.changes() is None
    assert decide(ledger, 0).done


def test_an_envelope_has_no_records_beyond_its_own():
    for index in (-1, 2):
        with pytest.raises(ValueError, match="no others"):
            finish(Ledger(), 0, 0, index)


def test_the_largest_envelope_and_the_last_number_fit():
    ledger, disk = Ledger(), Disk()
    last = (1 << 32) - 1
    finish(ledger, last, *range(1_024), records=1_024)
    finish(ledger, last - 1, *range(1_023), records=1_024)
    save(ledger, disk)
    assert decide(disk.read(), last, records=1_024).done
    assert decide(disk.read(), last - 1, records=1_024).unfinished == (1_023,)


# ---- what is written -----------------------------------------------------------------------------------------------------------


def test_envelopes_one_after_the_other_are_one_row():
    ledger, disk = Ledger(), Disk()
    for seq in range(100):
        finish(ledger, seq, 0, records=1)
        if seq % 7 == 0:
            save(ledger, disk)
    save(ledger, disk)
    assert [*disk.rows.values()] == [Row(E, 0, 100 * 1_024, 61_000)]


def test_a_gap_that_is_filled_joins_two_rows():
    ledger, disk = Ledger(), Disk()
    for seq in (0, 2):
        finish(ledger, seq, 0, records=1)
    save(ledger, disk)
    assert len(disk.rows) == 2
    finish(ledger, 1, 0, records=1)
    changes = ledger.changes()
    assert changes == Changes(forget=(), drop=((E, 2_048),), put=(Row(E, 0, 3_072, 61_000),), settled=((E, 1),))
    disk.write(changes)
    assert len(disk.rows) == 1


def test_nothing_to_write_is_none():
    assert Ledger().changes() is None


BAD_ROWS = {
    "an epoch too short": Row(b"e", 0, 1, 0),
    "an empty run": Row(E, 5, 5, 0),
    "a run backwards": Row(E, 5, 4, 0),
    "a negative start": Row(E, -1, 4, 0),
    "beyond the last number": Row(E, 0, (1 << 42) + 1, 0),
    "a time before all times": Row(E, 0, 1, -1),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_row_that_no_ledger_wrote_is_refused(case):
    with pytest.raises(ValueError, match="no ledger wrote"):
        Ledger.load([BAD_ROWS[case]])


# ---- how long, and how much ----------------------------------------------------------------------------------------------------


def test_an_epoch_is_kept_until_its_last_envelope_can_be_accepted_no_more():
    ledger, disk = Ledger(), Disk()
    for seq, expires_ms in enumerate([1_000, 9_000, 2_000]):
        finish(ledger, seq * 2, 0, records=1, expires_ms=expires_ms)
        save(ledger, disk)
    for one in (ledger, disk.read()):
        assert one.forget(69_000) == 0
        assert decide(one, 0, records=1).done
        assert one.forget(69_001) == 1
        assert one.size_bytes == 0
        disk_after = Disk()
        disk_after.rows = dict(disk.rows)
        save(one, disk_after)
        assert disk_after.rows == {}


def test_what_is_forgotten_before_it_was_written_leaves_nothing():
    ledger, disk = Ledger(), Disk()
    finish(ledger, 0, 0, 1)
    finish(ledger, 0, 0, 1, epoch=F, expires_ms=9_000_000)
    ledger.forget(100_000)
    assert set(save(ledger, disk)) == {(E, 0), (F, 0)}, "its acknowledgement still goes out"
    assert {row.epoch for row in disk.rows.values()} == {F}


def test_a_record_that_is_finished_after_its_epoch_was_forgotten_is_written_again():
    ledger, disk = Ledger(), Disk()
    finish(ledger, 0, 0)
    save(ledger, disk)
    ledger.forget(100_000)
    finish(ledger, 0, 1)
    save(ledger, disk)
    assert disk.rows == {(E, 1): Row(E, 1, 2, 61_000)}


def test_a_full_ledger_takes_no_new_work_and_keeps_what_it_knows():
    ledger, disk = Ledger(max_bytes=EPOCH_BYTES + 3 * RUN_BYTES), Disk()
    for seq in (0, 2, 4):
        assert decide(ledger, seq, records=1).unfinished == (0,)
        finish(ledger, seq, 0, records=1)
    assert ledger.size_bytes == ledger.max_bytes
    save(ledger, disk)
    for one in (ledger, disk.read(max_bytes=ledger.max_bytes)):
        with pytest.raises(VerificationError) as refused:
            decide(one, 6, records=1)
        assert refused.value.reason == "ledger_full"
        assert decide(one, 4, records=1).done, "what is finished is acknowledged as ever"


def test_what_was_handed_over_is_written_even_over_the_bound():
    ledger, disk = Ledger(max_bytes=1), Disk()
    assert decide(ledger, 0) == NEW
    finish(ledger, 0, 0)
    finish(ledger, 0, 1)
    assert save(ledger, disk) == ((E, 0),)


# ---- beside the naive one ------------------------------------------------------------------------------------------------------

RECORDS = (1, 3, 1_024, 2, 1, 1, 5, 1)
"""How many records the envelope of each number has."""
numbers = st.integers(0, len(RECORDS) - 1)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("finish"), st.sampled_from([E, F]), numbers, st.lists(st.integers(0, 1_023), max_size=4)),
        st.tuples(st.just("all"), st.sampled_from([E, F]), numbers, st.just([])),
        st.tuples(st.sampled_from(["take", "write", "crash", "forget"]), st.just(E), st.integers(0, 3), st.just([])),
    ),
    max_size=60,
)


@given(actions)
def test_it_decides_as_one_that_remembers_every_record_whatever_is_written_when_it_dies(steps):
    ledger, disk, taken = Ledger(), Disk(), []
    known: set[tuple[bytes, int, int]] = set()  # finished, in this life
    safe: set[tuple[bytes, int, int]] = set()  # of these, on disk
    in_change: list[set[tuple[bytes, int, int]]] = []
    fresh: set[tuple[bytes, int, int]] = set()
    for action, epoch, seq, indexes in steps:
        expires_ms = 1_000 if epoch == E else 5_000
        if action in ("finish", "all"):
            done = range(RECORDS[seq]) if action == "all" else [index % RECORDS[seq] for index in indexes]
            ledger.finish(epoch, seq, done, records=RECORDS[seq], expires_ms=expires_ms)
            new = {(epoch, seq, index) for index in done} - known
            known |= new
            fresh |= new
        elif action == "take" and (changes := ledger.changes()) is not None:
            taken.append(changes)
            in_change.append(fresh)
            fresh = set()
        elif action == "write" and taken:
            disk.write(taken[0])
            ledger.written(taken.pop(0))
            safe |= in_change.pop(0)
        elif action == "crash":
            ledger, taken, in_change, fresh = disk.read(), [], [], set()
            known = set(safe)
        elif action == "forget" and seq == 3 and not taken and not fresh:  # E goes, F stays; with nothing under way
            ledger.forget(62_000)
            known = {one for one in known if one[0] == F}
            safe = {one for one in safe if one[0] == F}
            if (changes := ledger.changes()) is not None:
                disk.write(changes)
                ledger.written(changes)
        for some_epoch in (E, F):
            for number, records in enumerate(RECORDS):
                every = {(some_epoch, number, index) for index in range(records)}
                expected = Verdict(tuple(sorted(index for _, _, index in every - known)), bool(every & known), every <= safe)
                assert ledger.decide(some_epoch, number, records=records) == expected
        assert ledger.size_bytes == len(ledger.rows()) * RUN_BYTES + len({row.epoch for row in ledger.rows()}) * EPOCH_BYTES


@given(actions)
def test_once_all_is_written_the_disk_has_exactly_its_rows(steps):
    ledger, disk = Ledger(), Disk()
    for action, epoch, seq, indexes in steps:
        if action in ("finish", "all"):
            done = range(RECORDS[seq]) if action == "all" else [index % RECORDS[seq] for index in indexes]
            ledger.finish(epoch, seq, done, records=RECORDS[seq], expires_ms=1_000)
        elif (changes := ledger.changes()) is not None:
            disk.write(changes)
    if (changes := ledger.changes()) is not None:
        disk.write(changes)
    assert sorted(disk.rows.values()) == sorted(ledger.rows())
    assert sorted(disk.read().rows()) == sorted(ledger.rows())


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12))))
def test_runs_are_a_set_of_numbers_sorted_and_apart(steps):
    runs, naive, kept = Runs(), set(), {}
    for start, length in steps:
        changed = runs.add(start, start + length)
        naive |= set(range(start, start + length))
        spans = [*runs]
        assert {number for span in spans for number in range(*span)} == naive
        assert all(end < begin for (_, end), (begin, _) in pairwise(spans))
        assert runs.missing(0, 80) == [number for number in range(80) if number not in naive]
        for begin in changed:  # what it says has changed is enough to keep a copy
            end = runs.end_of(begin)
            kept = {key: value for key, value in kept.items() if key != begin} | ({} if end is None else {begin: end})
        assert sorted(kept.items()) == spans
        assert len(runs) == len(spans)
