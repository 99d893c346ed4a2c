"""What others can make grow has a bound, and past it an error that says so."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from backbones import entries, in_memory, on_disk, taken

from bus.backbone import consumer as consumers
from bus.backbone import dead, intake, local, registry
from bus.backbone.grants_file import GrantsFile
from bus.backbone.interface import MAX_OUTSTANDING, ConsumerName, Grant, Papers, RetentionClass
from bus.errors import BackboneError, OverloadedError
from bus.flow.start import ALL, LAST
from bus.testing import ManualClock

pytestmark = pytest.mark.anyio

WORK = RetentionClass("work.>", 7 * 86_400_000)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def backbone(clock):
    async with in_memory(clock) as found:
        await found.retain([WORK], passed_ms=0)
        yield found


async def refused(code, call):
    with pytest.raises(BackboneError) as error:
        await call
    assert error.value.code == code


async def test_consumers_of_one_owner(backbone, monkeypatch):
    monkeypatch.setattr(registry, "MAX_CONSUMERS_OF_ONE", 2)
    for name in ("a", "b"):
        await (await backbone.consume(ConsumerName("MONITOR", name), "work.>", "work.>", ALL)).aclose()
    await refused("too_many", backbone.consume(ConsumerName("MONITOR", "c"), "work.>", "work.>", ALL))
    await backbone.consume(ConsumerName("TRACER", "c"), "work.>", "work.>", ALL)
    await backbone.remove_consumer(ConsumerName("MONITOR", "a"))
    await backbone.consume(ConsumerName("MONITOR", "c"), "work.>", "work.>", ALL)


async def test_consumers_of_all(backbone, monkeypatch):
    monkeypatch.setattr(registry, "MAX_CONSUMERS", 1)
    await backbone.consume(ConsumerName("MONITOR", "a"), "work.>", "work.>", ALL)
    await refused("too_many", backbone.consume(ConsumerName("TRACER", "a"), "work.>", "work.>", ALL))


async def test_records_in_hand(backbone, clock):
    for seed in range(0, MAX_OUTSTANDING + 2_000, 1_000):
        await backbone.append(entries(clock, *["work.a"] * 1_000, seed=seed))
    consumer = await backbone.consume(ConsumerName("MONITOR", "a"), "work.>", "work.>", ALL, allowed=1 << 40)
    found = await taken(consumer, MAX_OUTSTANDING)
    with anyio.move_on_after(0):
        await consumer.take()
        raise AssertionError("more than may be outstanding")
    consumer.settle_nowait(acks=[(found[0].position, found[0].position)], naks=[(found[1].position, found[1].position, 60_000)])
    (one,) = await consumer.take()
    assert one.position == found[-1].position + 1, "one was settled; what waits for its nak counts"


async def test_topics_that_last_begins_with(backbone, clock, monkeypatch):
    monkeypatch.setattr("bus.backbone.starting.MAX_KEPT", 3)
    await backbone.append(entries(clock, "work.a", "work.b", "work.c", "work.a"))
    await (await backbone.consume(ConsumerName("MONITOR", "a"), "work.>", "work.>", LAST)).aclose()
    await backbone.append(entries(clock, "work.d", seed=10))
    await refused("too_many", backbone.consume(ConsumerName("MONITOR", "b"), "work.>", "work.>", LAST))
    assert [facts.name.name for facts in await backbone.consumers()] == ["a"]
    await backbone.consume(ConsumerName("MONITOR", "b"), "work.>", "work.a", LAST)


async def test_topics_that_a_consumer_knows(backbone, clock, monkeypatch):
    monkeypatch.setattr(consumers, "_MAX_TOPICS", 10)
    consumer = await backbone.consume(ConsumerName("MONITOR", "a"), "work.>", "work.*", ALL, allowed=1_000)
    await backbone.append(entries(clock, *[f"work.{number}" for number in range(100)]))
    assert len(await taken(consumer, 100)) == 100
    assert len(consumer._wanted) <= 11


@pytest.mark.parametrize("kind", ["memory", "journal"])
async def test_grants_and_papers_of_one_sender(tmp_path, clock, kind, monkeypatch):
    monkeypatch.setattr(local, "MAX_KEPT_OF_ONE", 3)
    until_ms = clock.now_ms() + 1_000

    def grant(number, sender="DIRECTOR"):
        return Grant(number.to_bytes(32), "MONITOR", sender, bytes(16), until_ms, b"grant")

    async with in_memory(clock) if kind == "memory" else on_disk(tmp_path, clock) as backbone:
        await backbone.keep([grant(1), grant(2)], [Papers(bytes(16), "DIRECTOR", until_ms, b"papers")])
        await refused("too_many", backbone.keep([grant(3)]))
        await backbone.keep([grant(4, sender="WORKER1")])
        await backbone.retain([WORK], passed_ms=until_ms)
        await backbone.keep([grant(3)])
        await backbone.keep([grant(3)])
        await backbone.keep([grant(5)])
    if kind == "journal":
        async with on_disk(tmp_path, clock) as backbone:
            await backbone.keep([grant(6)])
            await refused("too_many", backbone.keep([grant(7)]))


@pytest.mark.parametrize("kind", ["memory", "journal"])
async def test_large_grants_count_as_several(tmp_path, clock, kind, monkeypatch):
    monkeypatch.setattr(local, "MAX_KEPT_OF_ONE", 8)
    until_ms = clock.now_ms() + 1_000

    def grant(number, size, until_ms=until_ms):
        return Grant(number.to_bytes(32), "MONITOR", "DIRECTOR", bytes(16), until_ms, bytes(size))

    async with in_memory(clock) if kind == "memory" else on_disk(tmp_path, clock) as backbone:
        await refused("too_many", backbone.keep([grant(1, 32 << 10)]))
        await backbone.keep([grant(1, 8 << 10)])
        await backbone.keep([grant(1, 12 << 10, until_ms + 1)])  # the newer one takes its place
        await backbone.keep([grant(2, 12 << 10)])
        await refused("too_many", backbone.keep([grant(3, 1)]))
        await backbone.retain([WORK], passed_ms=until_ms)
        await backbone.keep([grant(3, 12 << 10, until_ms + 1)])
        await refused("too_many", backbone.keep([grant(4, 1)]))


def test_grants_that_were_kept_before_they_were_counted_are_counted(tmp_path):
    path = tmp_path / "grants.db"
    grants = [Grant(number.to_bytes(32), "MONITOR", "DIRECTOR", bytes(16), 1_000, bytes(5_000)) for number in range(2)]
    papers = [Papers(bytes(16), "DIRECTOR", 1_000, b"papers")]
    with closing(GrantsFile(path)) as kept:
        kept.write(grants, papers)
    with closing(sqlite3.connect(path)) as file:
        for table in ("grants", "papers"):
            for name in ("came", "went", "changed"):
                file.execute(f"DROP TRIGGER {table}_{name}")
        file.execute("DROP TABLE kept")
    for _ in range(2):
        with closing(GrantsFile(path)) as kept:
            assert kept.kept() == {"DIRECTOR": 5}
            kept.drop(1_000)
            assert kept.kept() == {}
            kept.write(grants, papers)


async def test_dead_letters_of_one_class(backbone, clock, monkeypatch):
    monkeypatch.setattr(dead, "MAX_DEAD", 5)
    positions = await backbone.append(entries(clock, *["work.a"] * 12))
    consumer = await backbone.consume(ConsumerName("MONITOR", "a"), "work.>", "work.>", ALL, allowed=100)
    await taken(consumer, 12)
    for first in (0, 6):
        await consumer.settle(terms=[(positions[first], positions[first + 5], "bad")])
    letters = await backbone.dead_letters()
    assert [letter.original for letter in letters] == positions[7:], "the oldest made room"
    assert backbone.statistics()["lost"] == 7


async def test_what_is_not_on_disk_yet(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", 100_000)
    async with on_disk(tmp_path, clock) as journal:
        await journal.retain([WORK], passed_ms=0)
        outcomes = []

        async def append(number: int) -> None:
            try:
                await journal.append(entries(clock, "work.a", seed=number, body=bytes(60_000)))
                outcomes.append("stored")
            except OverloadedError as error:
                outcomes.append("refused" if error.pending > error.limit else "refused for nothing")

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(append, number)
        assert {"stored", "refused"} == {*outcomes}
        await append(99)
        assert outcomes[-1] == "stored"
        assert journal.statistics()["waiting_bytes"] == 0


async def test_a_large_append_is_several_blocks(tmp_path, clock):
    async with on_disk(tmp_path, clock, ring_bytes=0) as journal:
        await journal.retain([WORK], passed_ms=0)
        positions = await journal.append(entries(clock, *["work.a"] * 5_000))
        assert positions == [*range(1, 5_001)]
        positions += await journal.append(entries(clock, *["work.a"] * 5, seed=9_000, body=bytes(1 << 20)))
        consumer = await journal.consume(ConsumerName("MONITOR", "a"), "work.>", "work.>", ALL, allowed=10_000)
        assert [one.position for one in await taken(consumer, 5_005)] == positions
