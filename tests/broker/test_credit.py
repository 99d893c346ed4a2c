"""Pace: turns are credited when their readers have taken them in, or after 5 ms; full readers are waited for, and not for ever."""

from __future__ import annotations

import os

import pytest
from played import Played, Stage, settle

from bus.broker import holding, outbox
from bus.protocol.frames import Frame, column, sub_ref

pytestmark = pytest.mark.anyio


@pytest.fixture
async def director(stage: Stage) -> Played:
    host = await stage.host("DIRECTOR")
    await host.open("tasks.build")
    await host.open("ask.that")
    return host


# ---- turns ----------------------------------------------------------------------------------------------------------------------


async def test_a_turn_is_credited_when_all_its_readers_have_taken_it_in(stage: Stage, director: Played):
    readers = [await stage.host("BUILDER"), await stage.host("TESTER")]
    for reader in readers:
        await reader.subscribe(1, "tasks.>")
    turn = director.publish(director.seal("tasks.build"), director.seal("tasks.build"), topic="tasks.build")
    assert len(await readers[0].delivered()) == 2
    assert await director.credited() == set()
    await readers[1].delivered(take_in=False)
    readers[1].send(Frame.CREDIT, 0, 1)
    assert await director.credited() == set()
    readers[1].send(Frame.CREDIT, 0, 1)
    assert await director.credited() == {turn}


async def test_a_turn_that_nobody_hears_is_credited_at_once(stage: Stage, director: Played):
    turn = director.publish(director.seal("tasks.build"), topic="tasks.build")
    assert await director.credited() == {turn}
    assert stage.counted["unheard"] == 1


async def test_whatever_its_readers_do_a_turn_is_credited_after_five_milliseconds(stage: Stage, director: Played):
    async with stage.running():
        reader = await stage.host("BUILDER")
        await reader.subscribe(1, "tasks.>")
        first = director.publish(director.seal("tasks.build"), topic="tasks.build")
        await settle()
        await stage.later(0.003)
        second = director.publish(director.seal("tasks.build"), topic="tasks.build")
        await stage.later(0.001)
        assert await director.credited() == set()
        await stage.later(0.001)
        assert await director.credited() == {first}
        await stage.later(0.002)
        assert await director.credited() == set()
        await stage.later(0.001)
        assert await director.credited() == {second}
        assert len(await reader.delivered()) == 2, "and taking them in later changes nothing"
        assert await director.credited() == set()


async def test_turns_that_are_credited_together_leave_in_one_frame(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    turns = {director.publish(director.seal("tasks.build"), topic="tasks.build") for _ in range(5)}
    await reader.delivered()
    frames = [one for one in director.came if one[0] == Frame.CREDIT]
    assert frames == [[Frame.CREDIT, 1, 5]]
    assert await director.credited() == turns


async def test_a_reader_that_is_lost_holds_nobody_up(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>", limit=1)
    turns = {director.publish(director.seal("tasks.build"), topic="tasks.build") for _ in range(3)}
    assert await director.credited() == set()
    reader.link.close()
    assert await director.credited() == turns
    counted = stage.counted
    assert (counted["delivered"], counted["dropped"]) == (1, {"link_lost": 2})


async def test_a_publisher_that_is_lost_takes_its_turns_along(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    await settle()
    director.link.close()
    await settle()
    assert len(await reader.delivered()) == 1
    assert stage.counted["links_open"] == 1


# ---- full subscriptions ---------------------------------------------------------------------------------------------------------


async def test_what_is_above_a_subscription_s_limit_is_held_back_until_it_gives_credit(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>", limit=3)
    sent = [director.seal("tasks.build", b"a", b"b") for _ in range(4)]
    director.publish(*sent, topic="tasks.build")
    assert [one for _, one in await reader.delivered()] == sent[:2], "the last may take more than there is"
    assert stage.counted["held"] == 2
    reader.send(Frame.CREDIT, 1, 1)
    assert await reader.delivered() == [], "it owes one"
    reader.send(Frame.CREDIT, 1, 1)
    assert [one for _, one in await reader.delivered()] == sent[2:3]
    reader.send(Frame.CREDIT, 1, 100)
    assert [one for _, one in await reader.delivered()] == sent[3:]
    director.publish(*[director.seal("tasks.build") for _ in range(5)], topic="tasks.build")
    assert len(await reader.delivered()) == 1, "no more credit than its limit, and the last one took two of three"


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "disconnect"])
async def test_those_that_do_not_block_get_everything(stage: Stage, director: Played, overflow: str):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>", limit=1, overflow=overflow)
    director.publish(*[director.seal("tasks.build") for _ in range(50)], topic="tasks.build")
    assert len(await reader.delivered()) == 50


async def test_an_envelope_comes_to_a_link_once_and_so_waits_for_the_slowest_there(stage: Stage, director: Played):
    slow, other = await stage.host("BUILDER", "TESTER"), await stage.host("MONITOR")
    await slow.subscribe(1, "tasks.>", by="BUILDER", limit=1)
    await slow.subscribe(2, "tasks.*", by="TESTER")
    await other.subscribe(1, "tasks.>")
    sent = [director.seal("tasks.build") for _ in range(3)]
    director.publish(*sent, topic="tasks.build")
    assert await slow.delivered() == [((1, 2), sent[0])]
    assert [one for _, one in await other.delivered()] == sent, "other links do not wait"
    slow.send(Frame.CREDIT, 1, 1)
    assert await slow.delivered() == [((1, 2), sent[1])]
    slow.send(Frame.UNSUBSCRIBE, 1)
    assert await slow.delivered() == [((2,), sent[2])], "nobody is left who has to be waited for"


async def test_other_topics_do_not_wait(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>", limit=1)
    await reader.subscribe(2, "ask.>")
    director.publish(director.seal("tasks.build"), director.seal("tasks.build"), topic="tasks.build")
    asked = director.seal("ask.that")
    director.publish(asked, topic="ask.that")
    assert [subs for subs, _ in await reader.delivered()] == [(1,), (2,)]


async def test_lanes_are_stopped_after_five_milliseconds_and_go_on_when_there_is_credit(stage: Stage, director: Played):
    async with stage.running():
        reader = await stage.host("BUILDER")
        await reader.subscribe(1, "tasks.>", limit=1)
        await director.hears()
        for _ in range(2):
            director.publish(director.seal("tasks.build"), topic="tasks.build")
        await stage.later(0.004)
        assert await director.hears(Frame.OPENED) == []
        await stage.later(0.002)
        assert await director.hears(Frame.OPENED) == [[Frame.OPENED, 2, 0, 0, 1]]
        assert await director.credited() == {1, 2}
        director.publish(director.seal("tasks.build"), topic="tasks.build")
        await stage.later(0.006)
        assert await director.hears(Frame.OPENED) == [], "said once"
        reader.send(Frame.CREDIT, 1, 1)
        assert await director.hears(Frame.OPENED) == [], "one is still held"
        reader.send(Frame.CREDIT, 1, 1)
        assert await director.hears(Frame.OPENED) == [[Frame.OPENED, 2, 1, 0, 1]]
        assert len(await reader.delivered()) == 3


async def test_a_subscription_that_gives_no_credit_for_two_seconds_is_ended(stage: Stage, director: Played):
    async with stage.running():
        reader = await stage.host("BUILDER")
        await reader.subscribe(1, "tasks.>", limit=1)
        await reader.subscribe(2, "ask.>", limit=1)
        director.publish(*[director.seal("tasks.build")] * 3, topic="tasks.build")
        await stage.later(1.9)
        reader.send(Frame.CREDIT, 1, 1)
        await stage.later(1.9)
        assert await reader.hears(Frame.REFUSE) == []
        await stage.later(0.3)
        assert await reader.hears(Frame.REFUSE) == [[Frame.REFUSE, "busy", sub_ref(1)]]
        assert [one[1:3] for one in await director.hears(Frame.OPENED)][-1] == [2, 1], "the lane goes on"
        counted = stage.counted
        assert (counted["ended"], counted["dropped"], counted["subscriptions"]) == ({"busy": 1}, {"unsubscribed": 1}, 1)


async def test_who_owes_much_and_pays_slowly_is_not_ended(stage: Stage, director: Played):
    async with stage.running():
        reader = await stage.host("BUILDER")
        await reader.subscribe(1, "tasks.>", limit=1)
        director.publish(director.seal("tasks.build", *[b"x"] * 5), director.seal("tasks.build"), topic="tasks.build")
        for _ in range(4):
            await stage.later(1.5)
            reader.send(Frame.CREDIT, 1, 1)
        assert await reader.hears(Frame.REFUSE) == []
        reader.send(Frame.CREDIT, 1, 1)
        assert len(await reader.delivered()) == 2


async def test_no_more_than_so_much_is_held_back_for_one(stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(holding, "MAX_HELD_BYTES", 10_000)
    reader = await stage.host("BUILDER", "TESTER")
    await reader.subscribe(1, "tasks.>", limit=1)
    await reader.subscribe(2, "tasks.>", by="TESTER", overflow="drop_oldest")
    sent = [director.seal("tasks.build", os.urandom(2_000)) for _ in range(8)]
    director.publish(*sent, topic="tasks.build")
    assert await reader.hears(Frame.REFUSE) == [[Frame.REFUSE, "busy", sub_ref(1)]]
    assert [one for _, one in await reader.delivered()] == sent, "the other one misses nothing"


async def test_what_expires_while_it_is_held_back_is_dropped(stage: Stage):
    async with stage.running():
        director, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER")
        await director.open("short.one")
        await reader.subscribe(1, "short.>", limit=1)
        now = stage.world.now
        director.publish(*[director.seal("short.one", expires_ms=now + 1_000) for _ in range(3)], topic="short.one")
        await stage.later(1.2)
        assert stage.counted["dropped"] == {"expired": 2}
        reader.send(Frame.CREDIT, 1, 10)
        assert len(await reader.delivered()) == 1


async def test_who_would_be_too_late_for_the_window_of_an_epoch_is_ended(
    stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outbox, "HALF_WINDOW", 20)
    monkeypatch.setattr(holding, "HALF_WINDOW", 20)
    await director.open("tasks.other")
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.build", limit=1)
    await reader.subscribe(2, "tasks.other")
    epoch = stage.world.epoch(director.agents["DIRECTOR"], "tasks.build")
    director.publish(*[director.seal("tasks.build", epoch=epoch) for _ in range(2)], topic="tasks.build")
    director.publish(*[director.seal("tasks.other", epoch=epoch) for _ in range(19)], topic="tasks.other")
    assert await reader.hears(Frame.REFUSE) == []
    director.publish(director.seal("tasks.other", epoch=epoch), topic="tasks.other")
    assert await reader.hears(Frame.REFUSE) == [[Frame.REFUSE, "busy", sub_ref(1)]]
    assert len(await reader.delivered()) == 21


# ---- full links -----------------------------------------------------------------------------------------------------------------


async def test_what_a_link_does_not_read_waits_and_critical_envelopes_leave_first(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>", overflow="drop_oldest")
    reader.link.pause()
    large = director.seal("tasks.build", os.urandom(300_000))
    waiting = [director.seal("tasks.build") for _ in range(3)]
    epoch = stage.world.epoch(director.agents["DIRECTOR"], "tasks.build", priority=1)
    critical = director.seal("tasks.build", epoch=epoch)
    director.publish(large, *waiting, critical, topic="tasks.build")
    await settle()
    assert stage.counted["held"] == 4
    reader.link.resume()
    assert [one for _, one in await reader.delivered()] == [large, critical, *waiting]


@pytest.mark.parametrize("bound", ["envelopes", "bytes"])
async def test_beyond_its_bounds_those_that_drop_lose_and_the_others_are_ended(
    stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch, bound: str
):
    monkeypatch.setattr(outbox, *(("MAX_WAITING", 4) if bound == "envelopes" else ("MAX_WAITING_BYTES", 4 * 2_500)))
    reader = await stage.host("BUILDER", "TESTER", "PACKER")
    await reader.subscribe(1, "tasks.>", by="BUILDER", overflow="drop_oldest")
    await reader.subscribe(2, "tasks.>", by="TESTER", overflow="block")
    await reader.subscribe(3, "tasks.>", by="PACKER", overflow="disconnect")
    reader.link.pause()
    sent = [director.seal("tasks.build", os.urandom(300_000)), *[director.seal("tasks.build", os.urandom(2_000)) for _ in range(7)]]
    director.publish(*sent, topic="tasks.build")
    await settle()
    reader.link.resume()
    assert [one[2] for one in await reader.hears(Frame.REFUSE)] == [sub_ref(2), sub_ref(3)]
    assert await reader.delivered() == [((1, 2, 3), sent[0]), *(((1,), one) for one in sent[1:5])]
    assert stage.counted["dropped"] == {"link_full": 3}


async def test_there_is_a_bound_for_all_slow_readers_together(stage: Stage, director: Played):
    stage.broker._room._most = 20_000
    slow = [await stage.host("BUILDER"), await stage.host("TESTER")]
    await slow[0].subscribe(1, "tasks.>", overflow="drop_oldest")
    await slow[1].subscribe(1, "tasks.>", limit=1)
    slow[0].link.pause()
    sent = [director.seal("tasks.build", os.urandom(size)) for size in (300_000, *[2_000] * 12)]
    director.publish(*sent, topic="tasks.build")
    await settle()
    counted = stage.counted
    assert counted["held_bytes"] <= 20_000
    assert counted["ended"] == {"busy": 1}
    slow[0].link.resume()
    await slow[0].delivered()
    assert stage.counted["held_bytes"] == 0


async def test_a_link_that_takes_nothing_in_waits_like_one_that_does_not_read(
    stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outbox, "MAX_UNTAKEN", 3)
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>", overflow="drop_oldest")
    director.publish(*[director.seal("tasks.build") for _ in range(8)], topic="tasks.build")
    for _ in range(2):
        assert len(await reader.delivered()) == 3
    assert len(await reader.delivered()) == 2


async def test_a_turn_whose_first_envelope_finds_no_room_is_credited_once_and_after_its_last(
    stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outbox, "MAX_WAITING", 0)
    reader, other = await stage.host("BUILDER"), await stage.host("TESTER")
    await reader.subscribe(1, "tasks.>", overflow="drop_oldest")
    await other.subscribe(1, "ask.>")
    director.publish(director.seal("tasks.build", os.urandom(300_000)), topic="tasks.build")
    await reader.delivered()
    await director.credited()
    reader.link.pause()
    director.publish(director.seal("tasks.build", os.urandom(300_000)), topic="tasks.build")
    await settle()
    turn = director.turn + 1
    aliases = [director.aliases["tasks.build"], director.aliases["ask.that"]]
    director.send(Frame.PUBLISH, turn, column(aliases), [director.seal("tasks.build"), director.seal("ask.that")])
    director.turns_out.add(turn)
    assert turn not in await director.credited()
    await other.delivered()
    assert turn in await director.credited()
    assert stage.counted["dropped"] == {"link_full": 1}
    assert stage.counted["cut"] == {}


@pytest.mark.parametrize("group", ["", "builders"])
async def test_a_full_link_ends_a_subscription_that_has_just_given_credit_and_nothing_else(
    stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch, group: str
):
    reader = await stage.host("BUILDER", "TESTER")
    await reader.subscribe(1, "tasks.>", by="BUILDER", limit=1, group=group)
    await reader.subscribe(2, "ask.>", by="TESTER", overflow="drop_oldest")
    director.publish(*[director.seal("tasks.build") for _ in range(3)], topic="tasks.build")
    await reader.delivered()
    reader.link.pause()
    director.publish(director.seal("ask.that", os.urandom(300_000)), topic="ask.that")
    monkeypatch.setattr(outbox, "MAX_WAITING", 0)
    await settle()
    reader.send(Frame.CREDIT, 1, 1)
    await settle()
    reader.link.resume()
    assert [one[2] for one in await reader.hears(Frame.REFUSE)] == [sub_ref(1)]
    assert stage.counted["cut"] == {}
    assert stage.counted["ended"] == {"busy": 1}
    assert stage.counted["held"] == 0


async def test_of_large_records_a_subscription_gets_eight_mebibytes_whatever_its_limit(stage: Stage, director: Played):
    reader, other = await stage.host("BUILDER"), await stage.host("TESTER")
    await reader.subscribe(1, "tasks.>")
    await other.subscribe(1, "tasks.>", overflow="drop_oldest")
    sent = [director.seal("tasks.build", os.urandom(1_000_000)) for _ in range(12)]
    came: list[bytes] = []
    for one in sent:
        director.publish(one, topic="tasks.build")
        came += [envelope for _, envelope in await reader.delivered()]
        await other.delivered()
    assert came == sent[:9], "the last one may be above it"
    assert stage.counted["held"] == 3
    for consumed, more in ((1, sent[9:10]), (2, sent[10:12])):
        reader.send(Frame.CREDIT, 1, consumed)
        assert [envelope for _, envelope in await reader.delivered()] == more
    reader.send(Frame.CREDIT, 1, 1_000)
    await settle()
    (one,) = (one for one in stage.broker._router._trie.match("tasks.build") if one.agent == "BUILDER")
    assert (one.credit, one.large_bytes, len(one._large)) == (1_024, 0, 0), "more credit than was used counts for nothing"
