"""What the backbone on NATS does beyond the check for all of them: several brokers, a server that goes away, one that lies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import nats
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from backbones import entries, taken
from nats_servers import free_port, nats_server, new_space, on_nats

from bus.backbone.interface import UNUSED_MS, ConsumerName, Grant, Papers, PutOff, RetentionClass
from bus.backbone.nats.backbone import open_nats
from bus.backbone.nats.layout import CONSUMER, DIED, EXPIRES, ID, ORIGINAL, SENDER, Names
from bus.clock import SystemClock
from bus.errors import BackboneError
from bus.flow.start import ALL, NEW
from bus.protocol.codec import pack
from bus.testing.backbone_bench import seen

CLOCK = SystemClock()
WORK = RetentionClass("work.>", 7 * 86_400_000, ack_wait_ms=500, max_deliver=5)
SHARED = ConsumerName("workers", "shared")
ALONE = ConsumerName("MONITOR", "inbox")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def server():
    with nats_server() as one:
        yield one


@pytest.fixture
async def backbone(server, space):
    async with on_nats([server.url], space) as one:
        await one.retain([WORK], passed_ms=0)
        yield one


@pytest.fixture
async def other(server, space, backbone):
    async with on_nats([server.url], space) as one:
        await one.retain([WORK], passed_ms=0)
        yield one


@pytest.fixture
def space():
    return new_space()


def taken_and_killed(url: str, space: str, count: int) -> list[int]:
    """The positions that a broker in a process of its own had in hand when it was killed."""
    command = [sys.executable, str(Path(__file__).parent / "nats_taking.py"), url, space, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        child.kill()
    return [*map(int, line.split())]


# ---- several brokers -----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_group_is_served_by_two_brokers_and_each_record_goes_to_one_of_them(backbone, other):
    one = await backbone.consume(SHARED, "work.>", "work.>", ALL, allowed=3)
    two = await other.consume(SHARED, "work.>", "work.>", ALL, allowed=100)
    positions = await backbone.append(entries(CLOCK, *["work.a"] * 10))
    first = await taken(one, 3)
    second = await taken(two, 7)
    assert sorted(seen([*first, *second])) == [(position, 1) for position in positions]


@pytest.mark.anyio
async def test_what_came_twice_while_nobody_took_is_handed_out_once(backbone):
    consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL, allowed=10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.take)
        await anyio.wait_all_tasks_blocked()  # its request is at the server, and will be answered
        tasks.cancel_scope.cancel()
    (position,) = await backbone.append(entries(CLOCK, "work.a"))
    with anyio.fail_after(30):
        while not consumer.source._arrived:
            await anyio.lowlevel.checkpoint()
        await consumer.source._ask(10, 5)  # as of somebody whose request left before the other one was answered
    assert len(consumer.source._arrived) == 2
    assert seen(await consumer.take()) == [(position, 2)]
    consumer.settle_nowait(acks=[(position, position)])


@pytest.mark.anyio
async def test_a_record_that_two_brokers_store_is_stored_once(backbone, other):
    entry, *_ = entries(CLOCK, "work.a")
    assert await backbone.append([entry]) == await other.append([entry])
    assert (backbone.statistics()["appended"], other.statistics()["duplicates"]) == (1, 1)


@pytest.mark.anyio
async def test_what_a_killed_broker_had_in_hand_goes_to_another_one(server, space, backbone):
    positions = await backbone.append(entries(CLOCK, *["work.a"] * 4))
    assert await anyio.to_thread.run_sync(taken_and_killed, server.url, space, 4) == positions
    consumer = await backbone.consume(SHARED, "work.>", "work.>", ALL, allowed=100)
    assert seen(await taken(consumer, 4)) == [(position, 2) for position in positions]


@pytest.mark.anyio
async def test_a_consumer_that_one_broker_made_is_the_same_on_another(backbone, other):
    await backbone.append(entries(CLOCK, "work.a", "work.b"))
    consumer = await backbone.consume(ALONE, "work.>", "work.>", NEW, allowed=10)
    await consumer.aclose()
    (position,) = await other.append(entries(CLOCK, "work.c", seed=2))
    with pytest.raises(BackboneError) as refused:
        await other.consume(ALONE, "work.>", "work.>", ALL)
    assert refused.value.code == "consumer_differs"
    assert seen(await taken(await other.consume(ALONE, "work.>", "work.>", NEW, allowed=10), 1)) == [(position, 1)]


@pytest.mark.anyio
async def test_a_consumer_that_is_removed_elsewhere_ends_here(backbone, other):
    consumer = await backbone.consume(ALONE, "work.>", "work.>", NEW, allowed=10)
    codes: list[str] = []

    async def take() -> None:
        with pytest.raises(BackboneError) as ended:
            await consumer.take()
        codes.append(ended.value.code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await other.remove_consumer(ALONE)
    assert codes == ["unknown_consumer"]


@pytest.mark.anyio
async def test_what_an_operator_requeues_at_one_broker_comes_at_the_one_that_reads(backbone, other):
    (position,) = await backbone.append(entries(CLOCK, "work.a", body=b"the original"))
    consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL, allowed=10)
    await taken(consumer, 1)
    await consumer.settle(terms=[(position, position, "bad")])
    (letter,) = await other.dead_letters()
    await other.requeue_dead("work.>", letter.position)
    (again,) = await taken(consumer, 1)
    assert (again.position, again.deliveries, again.envelope) == (position, 1, b"the original")
    consumer.settle_nowait(naks=[(position, position, 0)])
    assert seen(await taken(consumer, 1)) == [(position, 2)]
    await consumer.settle(acks=[(position, position)])
    await consumer.aclose()
    later = await other.append(entries(CLOCK, "work.b", seed=1))
    reopened = await other.consume(ALONE, "work.>", "work.>", ALL, allowed=10)
    assert seen(await taken(reopened, 1)) == [(later[0], 1)]


@pytest.mark.anyio
async def test_grants_are_read_by_all_and_go_when_their_time_is_over(backbone, other):
    now_ms = CLOCK.now_ms()
    grants = [Grant(bytes(32), "MONITOR", "DIRECTOR", bytes([n]) * 16, now_ms + 1_000 * n, b"grant %d" % n) for n in (1, 2)]
    await backbone.keep(grants)
    assert await other.grants_for(bytes(32), "MONITOR") == [b"grant 1", b"grant 2"]
    await other.retain([WORK], passed_ms=now_ms + 1_500)
    assert await other.grants_for(bytes(32), "MONITOR") == [b"grant 2"]
    await other._keeping.sweep()
    assert await backbone.grants_for(bytes(32), "MONITOR") == [b"grant 2"]


@pytest.mark.anyio
async def test_of_papers_that_two_say_are_of_one_session_both_are_given(backbone, other):
    until_ms = CLOCK.now_ms() + 1_000
    for sender, data in (("DIRECTOR", b"papers"), ("MONITOR", b"other papers, of who would hide these")):
        await backbone.keep(papers=[Papers(bytes(16), sender, until_ms, data)])
    assert await other.papers_for(bytes(16)) == [b"papers", b"other papers, of who would hide these"]


@pytest.mark.anyio
async def test_consumers_that_nobody_used_go_and_one_that_is_open_elsewhere_stays(backbone, other):
    await (await backbone.consume(ALONE, "work.>", "work.>", ALL)).aclose()
    await other.retain([WORK], passed_ms=CLOCK.now_ms() + UNUSED_MS - 60_000)
    assert [one.name for one in await backbone.consumers()] == [ALONE]
    await other.retain([WORK], passed_ms=CLOCK.now_ms() + UNUSED_MS + 60_000)
    assert await backbone.consumers() == []


@pytest.mark.anyio
async def test_a_class_that_policy_forgot_is_read_by_a_broker_that_began_afterwards(server, space, backbone):
    positions = await backbone.append(entries(CLOCK, "work.a"))
    async with on_nats([server.url], space) as later:
        await later.retain([], passed_ms=0)
        consumer = await later.consume(ALONE, "work.>", "work.>", ALL, allowed=10)
        assert seen(await taken(consumer, 1)) == [(positions[0], 1)]
        with pytest.raises(BackboneError) as refused:
            await later.append(entries(CLOCK, "work.b", seed=5))
        assert refused.value.code == "unknown_class"


@pytest.mark.anyio
async def test_policy_may_change_how_long_a_record_is_waited_for_while_it_is_read(backbone):
    positions = await backbone.append(entries(CLOCK, "work.a"))
    consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL, allowed=10)
    await backbone.retain([RetentionClass("work.>", 86_400_000, ack_wait_ms=60_000, max_deliver=1)], passed_ms=0)
    await taken(consumer, 1)
    await consumer.settle(naks=[(positions[0], positions[0], 0)])
    (letter,) = await backbone.dead_letters()
    assert (letter.original, letter.reason, letter.deliveries) == (positions[0], "max_deliver", 1)


# ---- servers that go away ------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_readers_and_writers_go_on_when_the_server_was_killed_and_is_back(space):
    with nats_server() as server:
        async with on_nats([server.url], space) as backbone:
            await backbone.retain([WORK], passed_ms=0)
            consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL, allowed=100)
            before = await backbone.append(entries(CLOCK, "work.a", "work.b"))
            await taken(consumer, 2)
            await consumer.settle(acks=[(before[0], before[0])])
            found: dict[int, int] = {}

            async def take() -> None:
                """What was not settled comes again, and what is new. How often it came a server that was killed need not know."""
                while before[1] not in found or sum(position > before[1] for position in found) < 2:
                    found.update(seen(await consumer.take()))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                server.kill()
                tasks.start_soon(backbone.append, entries(CLOCK, "work.c", "work.d", seed=2))
                await anyio.to_thread.run_sync(server.begin)
            assert await backbone.append(entries(CLOCK, "work.a")) == before[:1], "what was stored is known"


@pytest.mark.anyio
async def test_a_settlement_that_was_lost_with_the_connection_is_said_again(space):
    with nats_server() as server:
        async with on_nats([server.url], space) as backbone:
            await backbone.retain([RetentionClass("work.>", 86_400_000, ack_wait_ms=60_000)], passed_ms=0)
            (position,) = await backbone.append(entries(CLOCK, "work.a"))
            consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL, allowed=100)
            await taken(consumer, 1)
            server.end()
            async with anyio.create_task_group() as tasks:
                consumer.settle_nowait(acks=[(position, position)])
                tasks.start_soon(consumer.settle)
                await anyio.to_thread.run_sync(server.begin)
            (facts,) = await backbone.consumers()
            assert (facts.outstanding, facts.waiting, facts.behind) == (0, 0, 0)


@pytest.mark.anyio
async def test_where_nobody_listens_it_says_so():
    with pytest.raises(BackboneError) as refused:
        await open_nats([f"nats://user:secret@127.0.0.1:{free_port()}"], CLOCK, wait_seconds=0.3)
    assert refused.value.code == "disk"
    assert "secret" not in str(refused.value)


# ---- what does not fit ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_envelope_that_the_server_does_not_take_is_refused_and_the_connection_stays(backbone):
    with pytest.raises(BackboneError) as refused:
        await backbone.append(entries(CLOCK, "work.a", body=bytes(1 << 20)))
    assert refused.value.code == "too_large"
    (largest,) = await backbone.append(entries(CLOCK, "work.a", body=bytes((1 << 20) - 2_048)))
    consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL, allowed=10)
    assert seen(await taken(consumer, 1)) == [(largest, 1)]
    assert backbone.statistics()["connections_lost"] == 0


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["", "A", "a b", "a.b", "x" * 33])
async def test_a_space_is_a_name(server, name):
    with pytest.raises(ValueError, match="space"):
        await open_nats([server.url], CLOCK, space=name)


# ---- servers that lie ----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_what_somebody_else_put_into_a_stream_is_not_handed_out(server, space, backbone):
    names = Names(space)
    client = await nats.connect(server.url)
    for subject, headers in (
        (names.record("work.>", "work.a"), None),
        (names.record("work.>", "work.a"), {EXPIRES: "never"}),
        (names.record("work.>", "work.a"), {EXPIRES: "-1"}),
        (names.record("work.>", "work.a"), {EXPIRES: "9" * 30}),
        (names.record("work.>", "work._reserved"), {EXPIRES: "9999999999999"}),
        (names.record("work.>", "work.\u00e4"), {EXPIRES: "9999999999999"}),
    ):
        await client.request(subject, b"forged", headers=headers)
    await client.close()
    positions = await backbone.append(entries(CLOCK, "work.a"))
    consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL, allowed=10)
    assert seen(await taken(consumer, 1)) == [(positions[0], 1)]
    assert backbone.statistics()["refused"] == 6
    await consumer.settle(acks=[(positions[0], positions[0])])
    (facts,) = await backbone.consumers()
    assert (facts.outstanding, facts.waiting, facts.behind) == (0, 0, 0), "it does not come again and again"


@pytest.mark.anyio
async def test_a_server_that_hands_out_topics_that_nobody_asked_for_is_not_believed(server, space, backbone):
    """Its consumer has a wider filter than was asked for."""
    names = Names(space)
    await (await backbone.consume(ALONE, "work.>", "work.a", ALL)).aclose()
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    await jetstream.delete_consumer(names.stream("work.>"), "MONITOR=inbox")
    consumer = await backbone.consume(ALONE, "work.>", "work.a", ALL, allowed=10)
    await jetstream.delete_consumer(names.stream("work.>"), "MONITOR=inbox")
    wide = nats.js.api.ConsumerConfig(durable_name="MONITOR=inbox", ack_policy="explicit", filter_subject=f"{space}.>")
    await jetstream.add_consumer(names.stream("work.>"), wide)
    positions = await backbone.append(entries(CLOCK, "work.b", "work.a", "work.c", "work.a"))
    assert seen(await taken(consumer, 2)) == [(positions[1], 1), (positions[3], 1)]
    assert backbone.statistics()["refused"] == 2
    await client.close()


@pytest.mark.anyio
async def test_buckets_with_rubbish_in_them_are_read_as_if_it_were_not_there(server, space, backbone):
    client = await nats.connect(server.url)
    for bucket, key in (("grants", f"i.{bytes(32).hex()}.MONITOR"), ("consumers", "MONITOR.rubbish"), ("classes", "rubbish")):
        await client.request(f"$KV.{space}_{bucket}.{key}", b"\xc1rubbish")
    await client.close()
    assert await backbone.grants_for(bytes(32), "MONITOR") == []
    assert await backbone.consumers() == []
    async with on_nats([server.url], space) as later:
        assert await later.dead_letters() == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "changed",
    [
        {3: "a..b"},
        {3: ""},
        {3: ">.a"},
        {3: "\x1b[2Jwork"},
        {3: "a." * 99},
        {5: -1},
        {6: (1 << 64) - 1},
        {7: (1 << 64) - 1},
        {4: "now"},
    ],
    ids=repr,
)
async def test_a_consumer_that_somebody_else_wrote_down_is_one_by_its_form_or_none(server, space, backbone, changed):
    """Else all brokers would tell of it, show it, and open it."""
    now = CLOCK.now_ms()
    right = ["MONITOR", "forged", "work.>", "work.>", "new", 1, now, now]
    client = await nats.connect(server.url)
    for revision, fields in ((0, right), (1, [changed.get(place, field) for place, field in enumerate(right)])):
        await client.request(f"$KV.{space}_consumers.MONITOR.forged", pack(fields))
        assert len(await backbone.consumers()) == 1 - revision
    await client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("fields", [[(1 << 64) - 1, 0], [0, (1 << 64) - 1], [-1, 0]], ids=repr)
async def test_a_mark_that_somebody_else_wrote_ends_no_broker(server, space, backbone, fields):
    (position,) = await backbone.append(entries(CLOCK, "work.a"))
    consumer = await backbone.consume(ALONE, "work.>", "work.>", ALL, allowed=10)
    await taken(consumer, 1)
    subject = Names(space).put_off("work.>", ALONE, consumer.row.made_ms)
    client = await nats.connect(server.url)
    await client.request(f"{subject}.{position}", pack(fields))
    await client.close()
    await consumer.settle(naks=[(position, position, 0)])
    assert seen(await taken(consumer, 1)) == [(position, 2)]
    await consumer.settle(put_off=[PutOff(position, position, 0, "missing_key")])
    assert seen(await taken(consumer, 1)) == [(position, 2)], "and what is written down now counts"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "changed", [{SENDER: "\x1b[2JLEAD"}, {CONSUMER: "\x1b[2J/x"}, {CONSUMER: "MONITOR"}, {DIED: "9" * 30}], ids=repr
)
async def test_a_dead_letter_that_somebody_else_wrote_names_agents_and_consumers_or_is_none(server, space, backbone, changed):
    right = {SENDER: "LEAD", ID: "00" * 16, CONSUMER: "MONITOR/inbox", ORIGINAL: "1", DIED: "1700000000000"}
    client = await nats.connect(server.url)
    for headers in (right, {**right, **changed}):
        await client.request(Names(space).dead("work.>", "work.a"), pack(["bad", 1, b"original"]), headers=headers)
    await client.close()
    assert [one.sender for one in await backbone.dead_letters()] == ["LEAD"]


@pytest.mark.anyio
async def test_one_sender_keeps_no_more_than_its_places_at_whichever_broker(backbone, other, monkeypatch):
    monkeypatch.setattr("bus.backbone.nats.keeping.MAX_KEPT_OF_ONE", 10)
    until_ms = CLOCK.now_ms() + 3_600_000

    def grant(number: int, size: int) -> Grant:
        return Grant(number.to_bytes(32), "MONITOR", "DIRECTOR", bytes(16), until_ms, bytes(size))

    await backbone.keep([grant(1, 100), grant(2, 6 * 4_096)])
    await backbone.keep([grant(1, 100)])
    with pytest.raises(BackboneError) as refused:
        await other.keep([grant(3, 100), grant(4, 4_096)])
    assert refused.value.code == "too_many"
    await other.keep([grant(3, 100), grant(4, 100)])
    await other.keep([grant(5, 100)._replace(sender="WORKER1")])
