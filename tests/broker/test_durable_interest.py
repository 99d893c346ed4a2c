"""Who publishes hears of readers that are away, and who reads what is old gets what opens it."""

from __future__ import annotations

import hashlib

import pytest
from kept_stage import DAY, Keeper, KeptStage, inbox_key, inbox_papers, settle
from small_world import World

from bus.backbone.interface import Grant
from bus.broker.durable_inboxes import SHELF
from bus.protocol.codec import pack, unpack
from bus.protocol.frames import DURABLE, GONE, LISTENS, Frame

pytestmark = pytest.mark.anyio


@pytest.fixture
def stage(world: World) -> KeptStage:
    return KeptStage(world)


async def interest(host: Keeper) -> list[list[object]]:
    return [row for _, _, rows in await host.hears(Frame.INTEREST) for row in rows]


def shown_by(host: Keeper, name: str, **changes: int) -> bytes:
    return inbox_papers(host.stage.world, host.agents[name].identity, inbox_key(), **changes)


async def away(stage: KeptStage) -> bytes:
    """BUILDER reads durably, has shown the papers of its inbox, which these are, and is gone."""
    reader = await stage.keeper("BUILDER")
    papers = shown_by(reader, "BUILDER")
    reader.send(Frame.PAPERS, [papers], b"")
    await reader.subscribe_durably(1, "work.>")
    reader.link.close()
    await settle()
    return papers


async def test_readers_that_are_away_are_told_of_with_their_inbox_papers_first(stage: KeptStage):
    async with stage.running():
        papers = await away(stage)
        publisher = await stage.keeper("DIRECTOR")
        frames = await publisher.open("work.a")
        assert [one[0] for one in frames] == [Frame.PAPERS, Frame.INTEREST, Frame.OPENED]
        assert (frames[0][1], frames[1][2]) == ([papers], [["BUILDER", "work.>", DURABLE]])


async def test_a_broker_that_comes_later_knows_them(stage: KeptStage):
    async with stage.running():
        papers = await away(stage)
    later = KeptStage(stage.world, stage.backbone, stage.disk)
    async with later.running():
        frames = await (await later.keeper("DIRECTOR")).open("work.a")
        assert [one[1] for one in frames if one[0] == Frame.PAPERS] == [[papers]]
        assert [one[2] for one in frames if one[0] == Frame.INTEREST] == [[["BUILDER", "work.>", DURABLE]]]


async def test_an_inbox_that_was_kept_is_shown_if_its_agent_signed_it_and_the_newest_of_these(stage: KeptStage):
    """Others may write where they are kept: whoever was shown a false one would leave its broker, and the true one never count."""
    async with stage.running():
        reader, stranger = await stage.keeper("BUILDER"), await stage.keeper("MONITOR")
        await reader.subscribe_durably(1, "work.>")
        older, newest, unsigned = (shown_by(reader, "BUILDER", counter=counter) for counter in (1, 2, 9))
        others = shown_by(stranger, "MONITOR", counter=9)
        certificate, identity = unpack(unsigned, longest=2, arrays=1)
        unsigned = pack([certificate[:-1] + bytes([certificate[-1] ^ 1]), identity])
    shelf = hashlib.sha256(b"inbox BUILDER").digest()
    for number, papers in enumerate((newest, older, others, unsigned)):
        await stage.backbone.keep([Grant(shelf, SHELF, "BUILDER", bytes([number] * 16), stage.world.now + DAY, papers)])
    later = KeptStage(stage.world, stage.backbone, stage.disk)
    async with later.running():
        frames = await (await later.keeper("DIRECTOR")).open("work.a")
        assert [one[1] for one in frames if one[0] == Frame.PAPERS] == [[newest]]


async def test_inbox_papers_that_are_none_end_the_link_of_who_shows_them_and_nothing_else(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        for junk in (pack([]), pack([b"x"]), pack([b"x", b"y"])):
            reader = await stage.keeper("BUILDER")
            reader.send(Frame.PAPERS, [junk], b"")
            await settle()
            assert reader.lost
        assert not publisher.lost


async def test_a_renewed_inbox_goes_to_whoever_was_told_of_it_and_an_older_one_to_nobody(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        first, second = (shown_by(reader, "BUILDER", counter=counter) for counter in (1, 2))
        await reader.subscribe_durably(1, "work.>")
        for papers, seen in ((first, [[first]]), (second, [[second]]), (first, [])):
            reader.send(Frame.PAPERS, [papers], b"")
            assert [one[1] for one in await publisher.hears(Frame.PAPERS)] == seen


async def test_who_listens_live_and_durably_is_told_of_as_both_and_stays_what_it_still_is(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>")
        await reader.subscribe(2, "work.>")
        assert await interest(publisher) == [["BUILDER", "work.>", DURABLE], ["BUILDER", "work.>", LISTENS]]
        reader.send(Frame.UNSUBSCRIBE, 2)
        assert await interest(publisher) == [["BUILDER", "work.>", GONE], ["BUILDER", "work.>", DURABLE]]
        reader.send(Frame.UNSUBSCRIBE, 1)
        assert await interest(publisher) == []


async def test_of_a_group_all_are_told_of_who_may_join_it(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>", group="builders")
        found = [["BUILDER", "work.>", DURABLE], ["PACKER", "work.>", DURABLE], ["TESTER", "work.>", DURABLE]]
        assert sorted(await interest(publisher)) == found


async def test_who_reads_dead_letters_is_told_of_as_a_reader_of_their_topics(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("MONITOR")
        await reader.subscribe_durably(1, "_dead.work.>")
        assert await interest(publisher) == [["MONITOR", "work.>", DURABLE]]


async def test_who_asks_gets_what_is_kept_and_the_second_time_its_sender_is_asked(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        grant = publisher.grant("work.a", "BUILDER", inbox_key())
        publisher.publish_kept([grant], publisher.seal("work.a"), topic="work.a")
        await settle()
        await reader.hears()
        epoch, papers = publisher.epochs["DIRECTOR", "work.a"].id, reader.agents["BUILDER"].papers
        assert [one[5] for one in await reader.say(Frame.ASK, epoch, papers) if one[0] == Frame.DELIVER] == [grant]
        assert await publisher.hears(Frame.ASK) == []
        await reader.say(Frame.ASK, epoch, papers)
        assert await publisher.hears(Frame.ASK) == [[Frame.ASK, epoch, papers]]
