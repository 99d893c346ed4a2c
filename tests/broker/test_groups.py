"""Queue groups: one member gets each envelope, the one with most room, and busy ones are waited for."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from played import Played, Stage, settle

from bus.broker import groups
from bus.protocol.frames import Frame, sub_ref

pytestmark = pytest.mark.anyio


@pytest.fixture
async def director(stage: Stage) -> Played:
    host = await stage.host("DIRECTOR")
    await host.open("records.one")
    return host


async def workers(stage: Stage, *, limit: int = 1_024, overflow: str = "block") -> list[Played]:
    """Three hosts with a member each."""
    hosts = [await stage.host(name) for name in ("BUILDER", "TESTER", "PACKER")]
    for host in hosts:
        await host.subscribe(1, "records.>", group="builders", limit=limit, overflow=overflow)
    return hosts


def publish(director: Played, count: int) -> list[bytes]:
    sent = [director.seal("records.one") for _ in range(count)]
    director.publish(*sent, topic="records.one")
    return sent


async def test_each_envelope_goes_to_one_member_in_turn(stage: Stage, director: Played):
    hosts = await workers(stage)
    sent = publish(director, 9)
    got = [[one for _, one in await host.delivered()] for host in hosts]
    assert got == [sent[start::3] for start in range(3)]
    assert (await director.credited(), stage.counted["delivered"]) == ({1}, 9)


@pytest.mark.parametrize("overflow", ["drop_oldest", "disconnect"])
async def test_members_that_do_not_block_take_turns_too(stage: Stage, director: Played, overflow: str):
    hosts = await workers(stage, limit=1, overflow=overflow)
    publish(director, 9)
    assert [len(await host.delivered()) for host in hosts] == [3, 3, 3]


async def test_who_has_most_credit_is_next(stage: Stage, director: Played):
    first, second, third = await workers(stage, limit=4)
    publish(director, 9)
    assert [len(await host.delivered()) for host in (first, second, third)] == [3, 3, 3]
    second.send(Frame.CREDIT, 1, 3)
    await settle()
    publish(director, 3)
    assert [len(await host.delivered()) for host in (first, second, third)] == [0, 3, 0]
    publish(director, 3)
    assert [len(await host.delivered()) for host in (first, second, third)] == [1, 1, 1]


async def test_while_all_are_busy_envelopes_wait_in_order_and_nobody_is_ended(stage: Stage, director: Played):
    async with stage.running():
        first, second, third = await workers(stage, limit=1)
        await director.hears()
        sent = publish(director, 7)
        assert [len(await host.delivered()) for host in (first, second, third)] == [1, 1, 1]
        await stage.later(0.01)
        assert await director.credited() == {1}
        assert await director.hears(Frame.OPENED) == [[Frame.OPENED, 2, 0, 1, 3]]
        await stage.later(10, step=1)
        assert stage.counted["held"] == 4
        second.send(Frame.CREDIT, 1, 1)
        assert [one for _, one in await second.delivered()] == sent[3:4]
        for host in (third, second, first):
            host.send(Frame.CREDIT, 1, 1)
            await settle()
        assert [[one for _, one in await host.delivered()] for host in (third, second, first)] == [[one] for one in sent[4:]]
        assert await director.hears(Frame.OPENED) == [[Frame.OPENED, 2, 1, 1, 3]]
        assert stage.counted["ended"] == {}


async def test_what_waits_too_long_expires(stage: Stage, director: Played):
    async with stage.running():
        (worker, *_) = await workers(stage, limit=1)
        publish(director, 5)
        await stage.later(61, step=5)
        assert stage.counted["dropped"] == {"expired": 2}
        worker.send(Frame.CREDIT, 1, 1)
        assert len(await worker.delivered()) == 1


async def test_what_waits_for_a_group_has_a_bound(stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups, "MAX_WAITING_BYTES", 10_000)
    await workers(stage, limit=1)
    director.publish(*[director.seal("records.one", os.urandom(2_000)) for _ in range(10)], topic="records.one")
    await settle()
    assert stage.counted["dropped"] == {"group_full": 3}
    assert stage.counted["held"] == 4


async def test_members_and_plain_readers_of_one_link_share_one_copy(stage: Stage, director: Played):
    mixed, plain = await stage.host("BUILDER", "TESTER", "MONITOR"), await stage.host("PACKER")
    await mixed.subscribe(1, "records.>", by="BUILDER", group="builders", limit=1)
    await mixed.subscribe(2, "records.>", by="TESTER", group="builders", limit=1)
    await mixed.subscribe(3, "records.>", by="MONITOR")
    await plain.subscribe(1, "records.>")
    sent = publish(director, 3)
    assert [subs for subs, _ in await mixed.delivered()] == [(3, 1), (3, 2)]
    assert [one for _, one in await plain.delivered()] == sent, "who has no member does not wait"
    mixed.send(Frame.CREDIT, 2, 1)
    assert await mixed.delivered() == [((3, 2), sent[2])]


async def test_each_group_gets_its_own_copy(stage: Stage):
    director = await stage.host("DIRECTOR")
    await director.open("tasks.a")
    hosts = [await stage.host(name) for name in ("BUILDER", "TESTER", "PACKER")]
    for host, group in zip(hosts, ("builders", "builders", "testers"), strict=True):
        await host.subscribe(1, "tasks.>", group=group)
    await hosts[2].subscribe(2, "tasks.>")
    director.publish(*[director.seal("tasks.a") for _ in range(4)], topic="tasks.a")
    assert [Counter(subs for subs, _ in await host.delivered()) for host in hosts] == [{(1,): 2}, {(1,): 2}, {(2, 1): 4}]


async def test_a_member_that_leaves_is_chosen_no_more_and_what_waited_for_it_alone_is_dropped(stage: Stage, director: Played):
    first, second = await stage.host("BUILDER"), await stage.host("TESTER")
    await first.subscribe(1, "records.>", group="builders", limit=1)
    await second.subscribe(1, "records.>", group="builders", limit=1)
    sent = publish(director, 4)
    await settle()
    first.link.close()
    await settle()
    assert stage.counted["held"] == 2
    second.send(Frame.CREDIT, 1, 1)
    assert [one for _, one in await second.delivered()] == sent[1:3]
    second.send(Frame.UNSUBSCRIBE, 1)
    await settle()
    assert stage.counted["dropped"] == {"unsubscribed": 1}
    assert (await director.credited(), stage.counted["held"]) == ({1}, 0)


async def test_who_comes_later_does_not_get_what_was_sent_before(stage: Stage, director: Played):
    first = await stage.host("BUILDER")
    await first.subscribe(1, "records.>", group="builders", limit=1)
    publish(director, 3)
    late = await stage.host("TESTER")
    await late.subscribe(1, "records.>", group="builders")
    assert await late.delivered() == []
    sent = publish(director, 1)
    assert await late.delivered() == [], "it comes behind what waits, because order is kept"
    first.send(Frame.CREDIT, 1, 1)
    await settle()
    first.send(Frame.CREDIT, 1, 1)
    assert [one for _, one in await late.delivered()] == sent


async def test_publishers_send_record_by_record_while_a_group_reads(stage: Stage):
    director, worker = await stage.host("DIRECTOR"), await stage.host("BUILDER")
    assert await director.open("tasks.a") == [[Frame.OPENED, 2, 1, 0, 0]]
    await worker.subscribe(1, "tasks.>")
    assert await director.hears(Frame.OPENED) == []
    await worker.subscribe(2, "tasks.>", group="builders")
    assert await director.hears(Frame.OPENED) == [[Frame.OPENED, 2, 1, 1, 1]]
    worker.send(Frame.UNSUBSCRIBE, 2)
    assert await director.hears(Frame.OPENED) == [[Frame.OPENED, 2, 1, 0, 1]]
    assert (await director.open("records.a"))[-1][3] == 1, "policy says so"


async def test_an_envelope_of_several_records_is_not_cut_in_two(stage: Stage, director: Played):
    hosts = await workers(stage, limit=2)
    director.publish(director.seal("records.one", b"a", b"b", b"c"), topic="records.one")
    assert [len(await host.delivered()) for host in hosts] == [1, 0, 0]


async def test_a_lane_that_a_group_has_stopped_stays_so_while_a_plain_reader_beside_it_is_full(stage: Stage, director: Played):
    async with stage.running():
        host = await stage.host("BUILDER", "MONITOR")
        await host.subscribe(1, "records.>", by="BUILDER", group="builders", limit=1)
        await host.subscribe(2, "records.>", by="MONITOR", limit=1)
        publish(director, 2)
        await stage.later(0.01)
        assert [one[2] for one in await director.hears(Frame.OPENED)][-1] == 0
        host.send(Frame.CREDIT, 1, 1)
        assert [one[2] for one in await director.hears(Frame.OPENED)][-1:] in ([], [0])
        host.send(Frame.CREDIT, 2, 1)
        assert [one[2] for one in await director.hears(Frame.OPENED)] == [1]
        assert len(await host.delivered()) == 2


async def test_a_stalled_plain_reader_beside_a_member_is_ended_like_any_other(stage: Stage, director: Played):
    async with stage.running():
        host = await stage.host("BUILDER", "MONITOR")
        await host.subscribe(1, "records.>", by="BUILDER", group="builders")
        await host.subscribe(2, "records.>", by="MONITOR", limit=1)
        sent = publish(director, 3)
        assert [subs for subs, _ in await host.delivered()] == [(2, 1)]
        await stage.later(2.2)
        assert await host.hears(Frame.REFUSE) == [[Frame.REFUSE, "busy", sub_ref(2)]]
        assert await host.delivered() == [((1,), one) for one in sent[1:]]


async def test_what_waited_for_a_group_of_a_link_that_is_lost_is_not_kept_for_its_other_readers(stage: Stage, director: Played):
    lost = await stage.host("BUILDER", "TESTER")
    await lost.subscribe(1, "records.>", by="BUILDER", group="builders", limit=1)
    await lost.subscribe(2, "records.>", by="TESTER")
    publish(director, 3)
    await settle()
    assert stage.counted["held"] == 2
    lost.link.close()
    await settle()
    counted = stage.counted
    assert (counted["held"], counted["held_bytes"]) == (0, 0)
    assert counted["dropped"] == {"link_lost": 2}
