"""Who reads what is kept is told of across brokers, with the inboxes by which others seal to it."""

from __future__ import annotations

import pytest
from kept_stage import KeptStage, inbox_key, inbox_papers, settle
from played_neighbour import PlayedNeighbour
from small_world import World

from bus.backbone.interface import ConsumerName
from bus.flow.start import ALL
from bus.protocol.codec import pack, unpack
from bus.protocol.frames import DURABLE, GONE, Frame
from bus.trust.revocations import Reason, Revocation

pytestmark = pytest.mark.anyio


@pytest.fixture
def stage(world: World) -> KeptStage:
    return KeptStage(world)


async def _met(stage: KeptStage) -> PlayedNeighbour:
    neighbour = PlayedNeighbour(stage)
    await neighbour.meet()
    assert neighbour.is_open
    return neighbour


async def test_a_durable_subscription_is_live_when_the_neighbour_has_seen_it(stage: KeptStage):
    async with stage.running():
        neighbour, reader = await _met(stage), await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>")
        assert await reader.hears(Frame.SUBSCRIBED) == []
        [[_, serial, rows]] = await neighbour.hears(Frame.INTEREST)
        assert rows == [["BUILDER", "work.>", DURABLE]]
        neighbour.send(Frame.INTEREST_SEEN, serial)
        assert await reader.hears(Frame.SUBSCRIBED) == [[Frame.SUBSCRIBED, 1]]


async def test_a_neighbour_that_does_not_say_that_it_has_seen_it_is_cut(stage: KeptStage):
    async with stage.running():
        neighbour, reader = await _met(stage), await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>")
        await stage.later(1.5)
        assert not neighbour.lost
        await stage.later(0.7)
        assert neighbour.lost
        assert await reader.hears(Frame.SUBSCRIBED) == [[Frame.SUBSCRIBED, 1]]


async def test_a_neighbour_that_comes_later_is_told_who_reads_though_away_and_of_its_inbox_first(stage: KeptStage):
    async with stage.running():
        reader = await stage.keeper("BUILDER")
        papers = inbox_papers(stage.world, reader.agents["BUILDER"].identity, inbox_key())
        reader.send(Frame.PAPERS, [papers], b"")
        await reader.subscribe_durably(1, "work.>")
        reader.link.close()
        await settle()
        neighbour = PlayedNeighbour(stage)
        await neighbour.meet()
        frames = await neighbour.hears(Frame.PAPERS, Frame.INTEREST)
        assert [one[0] for one in frames] == [Frame.PAPERS, Frame.INTEREST]
        assert (frames[0][1], frames[1][2]) == ([papers], [["BUILDER", "work.>", DURABLE]])


async def test_what_the_backbone_says_later_is_told_too_and_when_it_is_no_more(stage: KeptStage):
    async with stage.running():
        neighbour = await _met(stage)
        interest = stage.broker._interest
        interest.keep("BUILDER", "work.>")
        interest.keep("BUILDER", "work.>")
        assert [one[2] for one in await neighbour.hears(Frame.INTEREST)] == [[["BUILDER", "work.>", DURABLE]]]
        interest.keep_no_more("BUILDER", "work.>")
        assert await neighbour.hears(Frame.INTEREST) == []
        interest.keep_no_more("BUILDER", "work.>")
        assert [one[2] for one in await neighbour.hears(Frame.INTEREST)] == [[["BUILDER", "work.>", GONE]]]


async def test_who_reads_what_is_kept_is_told_of_again_when_the_neighbour_that_told_of_it_is_lost(stage: KeptStage):
    async with stage.running():
        neighbour, publisher = await _met(stage), await stage.host("DIRECTOR")
        await publisher.open("work.build")
        await stage.backbone.consume(ConsumerName("BUILDER", "mine"), "work.>", "work.>", ALL, allowed=1)
        await neighbour.say(Frame.INTEREST, 1, [("BUILDER", "work.>", DURABLE)])
        neighbour.link.close()
        await settle()
        rows = [row for frame in await publisher.hears(Frame.INTEREST) for row in frame[2]]
        assert rows[0] == rows[-1] == ["BUILDER", "work.>", DURABLE]
        assert stage.broker.statistics()["neighbours"] == {
            "open": 0, "agents": 0, "subscriptions": 0, "set_aside": 0, "not_opened": 0, "durable": 0
        }  # fmt: skip


async def test_what_a_neighbour_tells_of_is_not_told_to_another(stage: KeptStage):
    async with stage.running():
        neighbour, other = await _met(stage), PlayedNeighbour(stage, name="OTHER")
        await other.meet()
        await neighbour.say(Frame.INTEREST, 1, [("BUILDER", "work.>", DURABLE)])
        assert await other.hears() == []
        publisher = await stage.publisher()
        assert [one[2] for one in await publisher.open("work.a") if one[0] == Frame.INTEREST] == [[["BUILDER", "work.>", DURABLE]]]


async def test_an_inbox_that_a_neighbour_shows_is_told_to_publishers_and_a_false_one_is_not(stage: KeptStage):
    async with stage.running():
        neighbour, publisher = await _met(stage), await stage.publisher("work.a")
        await neighbour.say(Frame.INTEREST, 1, [("BUILDER", "work.>", DURABLE)])
        await publisher.hears()
        identity = stage.world.agent("BUILDER").identity
        papers = inbox_papers(stage.world, identity, inbox_key())
        certificate, der = unpack(inbox_papers(stage.world, identity, inbox_key(), counter=2), longest=2)
        false = pack([certificate[:-8] + bytes(8), der])
        await neighbour.say(Frame.PAPERS, [false], b"")
        assert await publisher.hears(Frame.PAPERS) == []
        await neighbour.say(Frame.PAPERS, [papers], b"")
        assert [one[1] for one in await publisher.hears(Frame.PAPERS)] == [[papers]]
        older = inbox_papers(stage.world, identity, inbox_key(), counter=0)
        await neighbour.say(Frame.PAPERS, [older], b"")
        assert await publisher.hears(Frame.PAPERS) == []


async def test_an_inbox_of_an_identity_that_was_revoked_is_told_to_nobody(stage: KeptStage):
    """Else who has a stolen key shows a newer inbox than its owner, and publishers seal to that."""
    async with stage.running():
        neighbour, publisher = await _met(stage), await stage.publisher("work.a")
        await neighbour.say(Frame.INTEREST, 1, [("BUILDER", "work.>", DURABLE)])
        await publisher.hears()
        stolen, good = stage.world.identity("BUILDER"), stage.world.identity("BUILDER")
        await stage.follow(revoked={stolen.certificate.serial: Revocation(stage.world.now, Reason.COMPROMISED)})
        await publisher.hears()
        for identity, told in ((stolen, []), (good, [Frame.PAPERS])):
            await neighbour.say(Frame.PAPERS, [inbox_papers(stage.world, identity, inbox_key())], b"")
            assert [one[0] for one in await publisher.hears(Frame.PAPERS)] == told


async def test_the_key_of_an_epoch_is_asked_for_across_brokers_and_a_refusal_comes_back(stage: KeptStage):
    async with stage.running():
        neighbour, reader = await _met(stage), await stage.host("BUILDER")
        await neighbour.seats("DIRECTOR")
        envelope = neighbour.envelope("DIRECTOR", "tasks.build")
        await neighbour.deliver(1, envelope)
        epoch = neighbour.epoch_of(envelope)
        papers = reader.agents["BUILDER"].papers
        await reader.say(Frame.ASK, epoch, papers)
        await settle()
        assert [one[1:] for one in await neighbour.hears(Frame.ASK)] == [[epoch, papers]]
        await reader.hears()
        neighbour.send(Frame.REFUSE, "not_permitted", epoch)
        assert [one[1:] for one in await reader.hears(Frame.REFUSE)] == [["not_permitted", epoch]]


async def test_a_neighbour_asks_for_the_key_of_an_epoch_of_an_agent_here(stage: KeptStage):
    async with stage.running():
        neighbour, other = await _met(stage), PlayedNeighbour(stage, name="OTHER")
        await other.meet()
        host = await stage.host("DIRECTOR")
        await host.open("tasks.build")
        envelope = host.seal("tasks.build")
        host.publish(envelope, topic="tasks.build")
        epoch = neighbour.epoch_of(envelope)
        papers = (await neighbour.seats("BUILDER")).papers
        await host.hears()
        stranger = stage.world.agent("TESTER").papers
        assert [one[1:] for one in await neighbour.say(Frame.ASK, epoch, stranger) if one[0] == Frame.REFUSE] == [
            ["unverified", epoch]
        ]
        await neighbour.say(Frame.ASK, epoch, papers)
        assert [one[1:] for one in await host.hears(Frame.ASK)] == [[epoch, papers]]
        await other.hears()
        await other.seats("DEPUTY")
        theirs = other.envelope("DEPUTY", "tasks.build")
        await other.deliver(1, theirs)
        refused = await neighbour.say(Frame.ASK, other.epoch_of(theirs), papers)
        assert [one[1] for one in refused if one[0] == Frame.REFUSE] == ["busy"]
        assert await other.hears(Frame.ASK) == []
