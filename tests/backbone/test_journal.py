"""The journal on disk: what is there after it was opened again, what it refuses to open, and what goes when its time is over."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

sys.path.insert(0, str(Path(__file__).parent))

from backbones import entries, on_disk, taken

from bus.backbone.interface import DEDUPLICATION_MS, ConsumerName, Grant, Papers, PutOff, RetentionClass
from bus.backbone.journal import kept_in, open_journal
from bus.errors import BackboneError, StateInUseError
from bus.flow.start import ALL, Start
from bus.testing import ManualClock

pytestmark = pytest.mark.anyio

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
WORK = RetentionClass("work.>", 7 * DAY_MS, ack_wait_ms=30_000, max_deliver=3)
RECORDS = RetentionClass("records.>", 30 * DAY_MS)
INBOX = ConsumerName("MONITOR", "inbox")


@pytest.fixture
def clock():
    return ManualClock()


OPEN = """
import sys
from pathlib import Path
import anyio
from bus.backbone.journal import open_journal
from bus.clock import SystemClock
from bus.errors import StateInUseError
try:
    anyio.run(open_journal, Path(sys.argv[1]), SystemClock())
except StateInUseError as error:
    print(error.pid)
"""


def segments(folder):
    return sorted((folder / "segments").glob("*.db"))


# ---- opened again --------------------------------------------------------------------------------------------------------------


async def test_since_when_something_was_put_off_is_known_when_it_is_opened_again(tmp_path, clock):
    short = RetentionClass("work.>", 20_000, max_deliver=3)
    for reason in ("missing_key", "no_granter"):
        async with on_disk(tmp_path, clock) as journal:
            await journal.retain([short], passed_ms=0)
            if reason == "missing_key":
                await journal.append(entries(clock, "work.a"))
            consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=9)
            (delivery,) = await taken(consumer, 1)
            await consumer.settle(put_off=[PutOff(delivery.position, delivery.position, 0, reason)])
            letters = await journal.dead_letters()
        clock.advance(10.0)
    assert [(one.reason, one.deliveries) for one in letters] == [("no_granter", 1)]


async def test_what_was_stored_is_there_when_it_is_opened_again(tmp_path, clock):
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK, RECORDS], passed_ms=0)
        first = await journal.append(entries(clock, "work.a", "work.b", "records.a"))
        await journal.keep([Grant(bytes(32), "MONITOR", "DIRECTOR", bytes(16), clock.now_ms() + HOUR_MS, b"grant")])
        await journal.keep(papers=[Papers(bytes(16), "DIRECTOR", clock.now_ms() + HOUR_MS, b"papers")])
    async with on_disk(tmp_path, clock) as journal:
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=10)
        found = await taken(consumer, 2)
        assert [(one.position, one.topic, one.envelope) for one in found] == [
            (first[0], "work.a", b"e0"),
            (first[1], "work.b", b"e1"),
        ]
        assert await journal.grants_for(bytes(32), "MONITOR") == [b"grant"]
        assert await journal.papers_for(bytes(16)) == [b"papers"]
        await journal.retain([WORK, RECORDS], passed_ms=0)
        (third,) = await journal.append(entries(clock, "work.c", seed=9))
        assert third == first[1] + 1


async def test_consumers_go_on_where_they_were(tmp_path, clock):
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        positions = await journal.append(entries(clock, *["work.a"] * 8))
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=6)
        await taken(consumer, 6)
        spans = {"acks": [(positions[1], positions[2]), (positions[5], positions[5])]}
        await consumer.settle(**spans, naks=[(positions[0], positions[0], 60_000), (positions[3], positions[3], 0)])
    clock.advance(20)
    async with on_disk(tmp_path, clock) as journal:
        (facts,) = await journal.consumers()
        assert (facts.pattern, facts.start, facts.is_open, facts.waiting, facts.behind) == ("work.>", "all", False, 3, 2)
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=10)
        found = [(one.position, one.deliveries) for one in await taken(consumer, 4)]
        assert found == [(positions[3], 2), (positions[4], 2), (positions[6], 1), (positions[7], 1)]
        clock.advance(39)
        overdue = [one.position for one in await taken(consumer, 4)]
        assert overdue == [positions[3], positions[4], positions[6], positions[7]], "thirty seconds without a word"
        clock.advance(1)
        assert [(one.position, one.deliveries) for one in await taken(consumer, 1)] == [(positions[0], 2)], "a nak keeps its time"


async def test_duplicates_are_known_after_it_was_opened_again(tmp_path, clock):
    some = entries(clock, "work.a", "work.b")
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=10)
        positions = await journal.append(some)
        await taken(consumer, 2)
        await consumer.settle(terms=[(positions[0], positions[0], "bad")])
    clock.advance(DEDUPLICATION_MS / 1000 - 1)
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        assert await journal.append(some) == positions, "its dead letter has its id, and is no duplicate of it"
        clock.advance(2)
        await journal.append(entries(clock, "work.c", seed=50))
        again = await journal.append(some)
        assert min(again) > max(positions), "after ten minutes they are new"


async def test_dead_letters_are_listed_after_it_was_opened_again(tmp_path, clock):
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        (position,) = await journal.append(entries(clock, "work.a"))
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=10)
        await taken(consumer, 1)
        await consumer.settle(terms=[(position, position, "bad")])
        letters = await journal.dead_letters()
    async with on_disk(tmp_path, clock) as journal:
        assert await journal.dead_letters() == letters
        await journal.requeue_dead("work.>", letters[0].position)
    async with on_disk(tmp_path, clock) as journal:
        assert await journal.dead_letters() == []
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=10)
        assert [(one.position, one.deliveries) for one in await taken(consumer, 1)] == [(position, 1)]


async def test_it_is_ours_alone(tmp_path, clock):
    async with on_disk(tmp_path / "journal", clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        await journal.append(entries(clock, "work.a"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "journal", *(tmp_path / "journal").rglob("*")]}
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}


# ---- what it refuses -----------------------------------------------------------------------------------------------------------


async def test_only_one_process_has_it(tmp_path, clock):
    async with on_disk(tmp_path, clock):
        with pytest.raises(StateInUseError) as refused:
            await open_journal(tmp_path, clock)
        assert refused.value.pid == os.getpid()
        assert refused.value.step, "it listens nowhere: nobody can be sent there"
        said = await anyio.run_process([sys.executable, "-c", OPEN, str(tmp_path)])
        assert int(said.stdout) == os.getpid()
    async with on_disk(tmp_path, clock):
        pass


@pytest.mark.parametrize("name", ["state.db", "grants.db", "segments/000000000001.db"])
@pytest.mark.parametrize("fault", ["garbage", "empty", "foreign", "newer"])
async def test_a_file_that_is_not_what_was_written_is_named(tmp_path, clock, name, fault):
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        await journal.append(entries(clock, "work.a"))
    path = tmp_path / name
    if fault == "garbage":
        path.write_bytes(b"garbage " * 2_000)
    elif fault == "empty":
        path.write_bytes(b"")
    else:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA user_version = 99" if fault == "newer" else "PRAGMA application_id = 7")
        connection.close()
    with pytest.raises(BackboneError) as refused:
        await open_journal(tmp_path, clock)
    assert (refused.value.code, refused.value.path) == ("version" if fault == "newer" else "damaged", str(path))
    path.unlink()
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        (position,) = await journal.append(entries(clock, "work.b", seed=1))
        assert position == (1 if name.startswith("segments") else 2), "it goes on with what is left"
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=10)
        assert [one.position for one in await taken(consumer, position)] == [*range(1, position + 1)]


async def test_what_cannot_be_read_back_is_an_error_of_who_reads_it(tmp_path, clock):
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK, RECORDS], passed_ms=0)
        for seed in range(20):
            await journal.append(entries(clock, "work.a", seed=seed * 100, body=os.urandom(20_000)))
        await journal.append(entries(clock, "records.a", seed=9_000))
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=1)
        await taken(consumer, 1)
    path = segments(tmp_path)[0]
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 60_000)
    clock.advance(DEDUPLICATION_MS / 1000)  # else it is read when it is opened
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK, RECORDS], passed_ms=0)
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=100)
        with pytest.raises(BackboneError) as refused:
            await taken(consumer, 20)
        assert (refused.value.code, refused.value.path) == ("damaged", str(path))
        other = await journal.consume(ConsumerName("MONITOR", "records"), "records.>", "records.>", ALL, allowed=10)
        assert len(await taken(other, 1)) == 1, "others are not concerned"
        (highest,) = await journal.append(entries(clock, "work.b", seed=7_000))
        newest = await journal.consume(ConsumerName("MONITOR", "new"), "work.>", "work.b", Start("position", highest), allowed=10)
        await taken(newest, 1)
        await newest.settle(acks=[(highest, highest)])
    path.rename(tmp_path / "taken-away.db")
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK, RECORDS], passed_ms=0)
        (position,) = await journal.append(entries(clock, "work.c", seed=8_000))
        assert position > highest, "positions that somebody has seen do not come back"


@pytest.mark.parametrize("name", ["state.db", "grants.db"])
async def test_what_is_left_of_a_file_that_was_moved_away_is_not_taken_for_the_new_ones(tmp_path, clock, name):
    async with on_disk(tmp_path / "killed", clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        await journal.consume(INBOX, "work.>", "work.>", ALL)
        await journal.keep([Grant(bytes(32), "MONITOR", "DIRECTOR", bytes(16), clock.now_ms() + HOUR_MS, b"grant")])
        shutil.copytree(tmp_path / "killed", tmp_path / "journal")  # as a process leaves it that is killed now
    assert (tmp_path / "journal" / f"{name}-wal").stat().st_size > 0
    (tmp_path / "journal" / name).unlink()
    async with on_disk(tmp_path / "journal", clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        assert [facts.name for facts in await journal.consumers()] == ([] if name == "state.db" else [INBOX])
        assert await journal.grants_for(bytes(32), "MONITOR") == ([] if name == "grants.db" else [b"grant"])


async def test_leftovers_of_a_killed_process_are_removed(tmp_path, clock):
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        await journal.append(entries(clock, "work.a"))
    left = [tmp_path / "segments" / name for name in ("000000000007.db.new", "000000000007.db.new-wal", "000000000000.db-wal")]
    for path in left:
        path.write_bytes(b"left")
    async with on_disk(tmp_path, clock):
        assert [path for path in left if path.exists()] == []


# ---- segments ------------------------------------------------------------------------------------------------------------------


async def test_a_segment_ends_when_it_is_full_or_a_day_old(tmp_path, clock):
    async with on_disk(tmp_path, clock, segment_bytes=200_000) as journal:
        await journal.retain([WORK], passed_ms=0)
        for seed in range(10):
            await journal.append(entries(clock, "work.a", seed=seed * 100, body=bytes(50_000)))
        full = len(segments(tmp_path))
        assert 2 <= full <= 4
        clock.advance(DAY_MS / 1000)
        await journal.append(entries(clock, "work.a", seed=5_000))
        assert len(segments(tmp_path)) == full + 1


async def test_classes_that_are_kept_equally_long_share_a_segment_and_others_do_not(tmp_path, clock):
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK, RECORDS, RetentionClass("results.>", WORK.retention_ms)], passed_ms=0)
        await journal.append(entries(clock, "work.a", "results.a", "records.a"))
        assert len(segments(tmp_path)) == 2


async def test_a_segment_goes_as_a_whole_when_nobody_needs_any_of_it(tmp_path, clock):
    start_ms = clock.now_ms()
    async with on_disk(tmp_path, clock, segment_bytes=1) as journal:
        await journal.retain([WORK, RECORDS], passed_ms=0)
        await journal.append(entries(clock, "work.a", expires_in_ms=WORK.retention_ms))
        await journal.append(entries(clock, "work.b", seed=100, expires_in_ms=2 * DAY_MS))
        await journal.append(entries(clock, "records.a", seed=200, expires_in_ms=RECORDS.retention_ms))
        first, second, third = segments(tmp_path)
        await journal.retain([WORK, RECORDS], passed_ms=start_ms + 2 * DAY_MS - 1)
        assert segments(tmp_path) == [first, second, third]
        await journal.retain([WORK, RECORDS], passed_ms=start_ms + 2 * DAY_MS)
        assert segments(tmp_path) == [first, third], "what expired goes, whoever did not read it"
        assert not [*(tmp_path / "segments").glob(f"{second.name}*")]
        await journal.retain([WORK, RECORDS], passed_ms=start_ms + WORK.retention_ms)
        assert segments(tmp_path) == [third], "also the one that is written"
        assert await journal.append(entries(clock, "work.c", seed=300)) == [3], "and its class goes on"


async def test_a_shorter_retention_waits_for_consumers(tmp_path, clock):
    start_ms, short = clock.now_ms(), RetentionClass("work.>", DAY_MS)
    async with on_disk(tmp_path, clock, segment_bytes=1) as journal:
        await journal.retain([WORK], passed_ms=0)
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=10)
        (position,) = await journal.append(entries(clock, "work.a", expires_in_ms=WORK.retention_ms))
        (found,) = await taken(consumer, 1)
        await journal.retain([short], passed_ms=start_ms + DAY_MS)
        assert len(segments(tmp_path)) == 1, "somebody is not past it, and it is still of use"
        await consumer.settle(acks=[(found.position, position)])
        await journal.retain([short], passed_ms=start_ms + DAY_MS - 1)
        assert len(segments(tmp_path)) == 1, "its day is not over"
        await journal.retain([short], passed_ms=start_ms + DAY_MS)
        assert segments(tmp_path) == []


async def test_positions_grow_although_all_segments_went(tmp_path, clock):
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        positions = await journal.append(entries(clock, "work.a", "work.a"))
        clock.advance(2 * HOUR_MS / 1000)
        await journal.retain([WORK], passed_ms=clock.now_ms())
        assert segments(tmp_path) == []
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        assert await journal.append(entries(clock, "work.b", seed=10)) == [positions[-1] + 1]


async def test_consumers_pass_over_what_went(tmp_path, clock):
    async with on_disk(tmp_path, clock, segment_bytes=1, ring_bytes=0) as journal:
        await journal.retain([WORK], passed_ms=0)
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=1)
        await journal.append(entries(clock, "work.a", expires_in_ms=HOUR_MS))
        await journal.append(entries(clock, "work.b", seed=10, expires_in_ms=HOUR_MS))
        await journal.append(entries(clock, "work.c", seed=20, expires_in_ms=DAY_MS))
        await taken(consumer, 1)
        clock.advance(HOUR_MS / 1000)
        await journal.retain([WORK], passed_ms=clock.now_ms())
        assert len(segments(tmp_path)) == 1
        consumer.allow(10)
        assert [one.topic for one in await taken(consumer, 1)] == ["work.c"]
        (facts,) = await journal.consumers()
        assert (facts.outstanding, facts.waiting) == (1, 0), "what was outstanding is done with"


async def test_in_an_idle_moment_what_is_in_a_wal_goes_into_its_file(tmp_path, clock):
    async with on_disk(tmp_path, clock, segment_bytes=100_000) as journal:
        await journal.retain([WORK], passed_ms=0)
        for seed in range(4):
            await journal.append(entries(clock, "work.a", seed=seed * 100, body=bytes(60_000)))
        first, *_, second = segments(tmp_path)
        wal = first.with_name(f"{first.name}-wal")
        assert wal.exists()
        with anyio.fail_after(20):
            while wal.exists() or second.stat().st_size < 60_000:
                clock.advance(0.1)
                await anyio.wait_all_tasks_blocked()
        assert len(await taken(await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=10), 4)) == 4


async def test_what_goes_and_what_is_tidied_up_do_not_meet(tmp_path, clock):
    """A connection that is closed while another thread works with it takes the process along."""
    async with on_disk(tmp_path, clock, segment_bytes=1, ring_bytes=0) as journal:
        await journal.retain([WORK], passed_ms=0)
        for round_ in range(5):
            for seed in range(6):
                await journal.append(entries(clock, "work.a", seed=round_ * 6 + seed, expires_in_ms=100))
            clock.advance(1)  # all of them end, and the journal's own tick tidies up
            await journal.retain([WORK], passed_ms=clock.now_ms())
        assert len(segments(tmp_path)) == 0
        assert journal.statistics()["failures"] == 0


async def test_what_somebody_may_still_read_is_counted_while_nobody_has_it_open(tmp_path, clock):
    def count() -> int:
        return kept_in(tmp_path, now_ms=clock.now_ms())

    assert await to_thread.run_sync(count) == 0
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        await journal.append(entries(clock, "work.a", "work.b", "work.c"))
    assert await to_thread.run_sync(count) == 3
    clock.advance(2 * HOUR_MS / 1000)
    assert await to_thread.run_sync(count) == 0
