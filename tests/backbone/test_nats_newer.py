"""What newer NATS servers do besides: a record leaves their disks when its own time is over, and not that of its class."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import nats
import pytest
from anyio import to_thread

sys.path.insert(0, str(Path(__file__).parent))

from backbones import entries, taken
from nats_servers import NEWER, OLDER, nats_server, new_space, on_nats

from bus.backbone.interface import ConsumerName, PutOff, RetentionClass
from bus.backbone.nats import appending, streams
from bus.backbone.nats.layout import SPARE_MS, TTL, Names
from bus.clock import SystemClock
from bus.errors import BackboneError
from bus.flow.start import ALL, LAST, NEW
from bus.testing.backbone_bench import seen

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not NEWER, reason="no newer nats-server is here: `make test` installs one")]
needs_older = pytest.mark.skipif(not OLDER, reason="this machine has no older nats-server")

CLOCK = SystemClock()
WORK = RetentionClass("work.>", 7 * 86_400_000, ack_wait_ms=500, max_deliver=5)
ALONE = ConsumerName("MONITOR", "inbox")
SOON = {"expires_in_ms": 1_500 - SPARE_MS}
"""Past its time for nearly a day, so that servers drop it in 1.5 s, rounded up."""
HOUR_MS = 3_600_000


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def server():
    with nats_server(NEWER) as one:
        yield one


@pytest.fixture
def space():
    return new_space()


@pytest.fixture
async def backbone(server, space):
    async with on_nats([server.url], space) as one:
        await one.retain([WORK], passed_ms=0)
        yield one


async def lies_there(backbone, space) -> int:
    """How many messages its stream has."""
    found = await backbone._jetstream.stream(Names(space).stream(WORK.name))
    return found["state"]["messages"]


async def left(backbone, space, count: int) -> None:
    with anyio.fail_after(30):
        while await lies_there(backbone, space) != count:
            await CLOCK.sleep(0.05)


async def headers_of(server, space, position: int) -> dict[str, str]:
    client = await nats.connect(server.url)
    try:
        return (await client.jetstream().get_msg(Names(space).stream(WORK.name), position)).headers
    finally:
        await client.close()


async def test_it_says_so(backbone):
    assert backbone.servers()["features"] == ["message_ttl"]
    assert backbone.servers()["version"].startswith("2.")


async def test_a_record_lies_there_for_a_day_after_its_own_time_and_one_of_its_class_for_as_long_as_that(server, space, backbone):
    [short] = await backbone.append(entries(CLOCK, "work.a", expires_in_ms=HOUR_MS))
    [long] = await backbone.append(entries(CLOCK, "work.a", seed=1, expires_in_ms=WORK.retention_ms))
    seconds = int((await headers_of(server, space, short))[TTL].removesuffix("s"))
    assert 0 <= seconds - (HOUR_MS + SPARE_MS) / 1000 + 30 <= 31
    assert TTL not in await headers_of(server, space, long)


async def test_what_has_left_is_missed_by_nobody(space, backbone):
    first = await backbone.consume(ALONE, "work.>", "work.>", ALL)
    before = await backbone.append(entries(CLOCK, "work.a", "work.b"))
    gone = await backbone.append(entries(CLOCK, "work.a", "work.a", "work.c", seed=2, **SOON))
    [after] = await backbone.append(entries(CLOCK, "work.b", seed=5))
    await left(backbone, space, 3)
    assert gone == [before[-1] + 1, before[-1] + 2, before[-1] + 3]
    assert after == gone[-1] + 1
    first.allow(100)
    assert seen(await taken(first, 3)) == [(position, 1) for position in (*before, after)]
    await first.settle(acks=[(1, after)])
    [facts] = await backbone.consumers()
    assert (facts.floor, facts.behind, facts.outstanding, facts.waiting) == (after, 0, 0, 0)
    latest = await backbone.consume(ConsumerName("MONITOR", "latest"), "work.>", "work.>", LAST, allowed=100)
    assert seen(await taken(latest, 2)) == [(position, 1) for position in (before[0], after)]
    assert await backbone.append(entries(CLOCK, "work.a", "work.a", "work.c", seed=2, **SOON)) == gone


async def test_who_had_it_in_hand_when_it_left_goes_on_and_nothing_of_it_stays_but_its_dead_letter(space, backbone):
    consumer = await backbone.consume(ALONE, "work.>", "work.>", NEW, allowed=100)
    acked, again, put_off, dead = await backbone.append(entries(CLOCK, *["work.a"] * 4, expires_in_ms=3_500 - SPARE_MS))
    await taken(consumer, 4)
    await consumer.settle(put_off=[PutOff(put_off, put_off, HOUR_MS, "no_key")], terms=[(dead, dead, "bad")])
    [letter] = await backbone.dead_letters()
    await backbone.requeue_dead(WORK.name, letter.position)
    assert seen(await taken(consumer, 1)) == [(dead, 1)]
    await consumer.settle(terms=[(dead, dead, "worse")])
    [letter] = await backbone.dead_letters()
    await left(backbone, space, 1)
    await consumer.settle(acks=[(acked, acked)], naks=[(again, again, 0)])
    with pytest.raises(BackboneError) as refused:
        await backbone.requeue_dead(WORK.name, letter.position)
    assert refused.value.code == "gone"
    assert [one.position for one in await backbone.dead_letters()] == [letter.position]
    [position] = await backbone.append(entries(CLOCK, "work.b", seed=4))
    assert seen(await taken(consumer, 1)) == [(position, 1)]
    await consumer.settle(acks=[(position, position)])
    [facts] = await backbone.consumers()
    assert (facts.behind, facts.outstanding, facts.waiting) == (0, 0, 0)


async def test_a_stream_whose_servers_take_no_time_after_all_gets_its_records_without(server, space, backbone):
    name = Names(space).stream(WORK.name)
    client = await nats.connect(server.url)
    await client.jetstream().delete_stream(name)
    await client.jetstream().add_stream(name=name, subjects=[Names(space).record(WORK.name, ">")])
    await client.close()
    assert await backbone.append(entries(CLOCK, "work.a", "work.b")) == [1, 2]
    assert TTL not in await headers_of(server, space, 1)
    assert backbone.servers()["features"] == []


@needs_older
async def test_with_an_older_server_nothing_changes_and_it_is_found_when_that_has_become_newer(monkeypatch, space):
    monkeypatch.setattr(streams, "ASK_SECONDS", 0.0)
    with nats_server(OLDER) as server:
        async with on_nats([server.url], space) as backbone:
            await backbone.retain([WORK], passed_ms=0)
            assert backbone.servers()["features"] == []
            consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL)
            [old] = await backbone.append(entries(CLOCK, "work.a", expires_in_ms=HOUR_MS))
            assert TTL not in await headers_of(server, space, old)
            await to_thread.run_sync(server.end)
            server.program = NEWER
            await to_thread.run_sync(server.begin)
            [new] = await backbone.append(entries(CLOCK, "work.a", seed=1, expires_in_ms=HOUR_MS))
            await backbone.retain([WORK], passed_ms=0)
            assert backbone.servers()["features"] == ["message_ttl"]
            [short] = await backbone.append(entries(CLOCK, "work.a", seed=2, expires_in_ms=HOUR_MS))
            assert [TTL in await headers_of(server, space, one) for one in (old, new, short)] == [False, False, True]
            consumer.allow(100)
            assert seen(await taken(consumer, 3)) == [(one, 1) for one in (old, new, short)]


@needs_older
async def test_a_server_that_becomes_older_under_a_broker_is_named_with_both_versions(space, monkeypatch):
    """What it cannot read it does not speak of: JetStream there answers nothing, and a disk would be looked at in vain."""
    monkeypatch.setattr(appending, "PATIENCE_SECONDS", 3.0)
    with nats_server(NEWER) as server:
        async with on_nats([server.url], space) as backbone:
            await backbone.retain([WORK], passed_ms=0)
            [first, *_, last] = await backbone.append(entries(CLOCK, "work.a", "work.b", "work.c"))
            await backbone._jetstream.delete_message(Names(space).stream(WORK.name), first + 1)
            newer = ".".join(map(str, backbone._connection.server_version))
            await to_thread.run_sync(server.end)
            server.program = OLDER
            await to_thread.run_sync(server.begin)
            with pytest.raises(BackboneError) as refused:
                await backbone.append(entries(CLOCK, "work.a", seed=8))
            older = ".".join(map(str, backbone._connection.server_version))
            assert (refused.value.code, newer in str(refused.value), older in str(refused.value)) == ("version", True, True)
            server.kill()  # asked to end, this one would not
            server.program = NEWER
            await to_thread.run_sync(server.begin)
            [again] = await backbone.append(entries(CLOCK, "work.a", seed=9))
            assert again > last, "it goes on by itself"


@needs_older
async def test_a_server_that_became_older_and_cannot_read_what_is_there_is_not_used_and_nothing_is_lost(space):
    with nats_server(NEWER) as server:
        async with on_nats([server.url], space) as backbone:
            await backbone.retain([WORK], passed_ms=0)
            [first, *_, last] = await backbone.append(entries(CLOCK, "work.a", "work.b", "work.c"))
            await backbone._jetstream.delete_message(Names(space).stream(WORK.name), first + 1)
            await to_thread.run_sync(server.end)
        server.program = OLDER
        await to_thread.run_sync(server.begin)
        async with on_nats([server.url], space) as backbone:
            with pytest.raises(BackboneError) as refused:
                await backbone.retain([WORK], passed_ms=0)
            assert (refused.value.code, "newer" in str(refused.value)) == ("version", True)
        await to_thread.run_sync(server.end)
        server.program = NEWER
        await to_thread.run_sync(server.begin)
        async with on_nats([server.url], space) as backbone:
            await backbone.retain([WORK], passed_ms=0)
            consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL, allowed=100)
            assert seen(await taken(consumer, 2)) == [(first, 1), (last, 1)]
