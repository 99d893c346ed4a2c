"""A broker is a neighbour for as long as its session lasts: on one link, which it keeps by showing its next session there."""

from __future__ import annotations

from typing import Any

import pytest
from played import Stage, broker_session
from played_neighbour import PlayedNeighbour
from small_world import MINUTE
from town import town

from bus.protocol.frames import Frame
from bus.protocol.neighbour_frames import Between, greeting_tbs
from bus.protocol.papers import claimed
from bus.protocol.signatures import verify_host
from bus.protocol.skew import SKEW_MS
from bus.trust.revocations import Reason, Revocation

pytestmark = pytest.mark.anyio


async def _met(stage: Stage, **changes: Any) -> PlayedNeighbour:
    neighbour = PlayedNeighbour(stage, **changes)
    await neighbour.meet()
    assert neighbour.is_open
    return neighbour


async def _until_it_ends(stage: Stage, neighbour: PlayedNeighbour, *, and_ms: int) -> None:
    """So long after the end of the session with which it came."""
    await stage.later((neighbour.session.not_after_ms + and_ms - stage.world.now) / 1000, step=2.5)


# ---- sessions --------------------------------------------------------------------------------------------------------------------


async def test_a_neighbour_whose_session_has_ended_loses_its_link(stage: Stage):
    async with stage.running():
        neighbour = await _met(stage)
        await neighbour.seats("BUILDER")
        await _until_it_ends(stage, neighbour, and_ms=SKEW_MS - 1_000)
        assert not neighbour.lost
        await stage.later(3)
        assert neighbour.lost
        assert stage.counted["cut"] == {"session_ended": 1}
        assert stage.broker.listing.live() == []


async def test_a_neighbour_that_shows_its_next_session_keeps_its_link(stage: Stage):
    async with stage.running():
        neighbour = await _met(stage)
        await stage.later(10 * MINUTE / 1000, step=2.5)
        await neighbour.renews(broker_session(stage.world, "GATE"))
        await _until_it_ends(stage, neighbour, and_ms=5 * MINUTE)
        assert not neighbour.lost
        assert stage.counted["cut"] == {}


@pytest.mark.parametrize("how", ["another name", "an agent", "another key", "another link", "nonsense"])
async def test_what_is_no_next_session_of_this_broker_keeps_no_link(stage: Stage, how: str):
    async with stage.running():
        neighbour = await _met(stage)
        await stage.later(10 * MINUTE / 1000, step=2.5)
        renewed, world = broker_session(stage.world, "GATE"), stage.world
        if how == "another name":
            await neighbour.renews(broker_session(world, "OTHER"))
        elif how == "an agent":
            await neighbour.renews(renewed, papers=world.agent("BUILDER").papers)
        elif how == "another key":
            await neighbour.renews(renewed, signs=neighbour.session)
        elif how == "another link":
            neighbour.theirs = bytes(100)
            await neighbour.renews(renewed)
        else:
            await neighbour.say(Frame.PAPERS, [renewed.papers[:-1] + bytes([renewed.papers[-1] ^ 1])], bytes(64))
        await _until_it_ends(stage, neighbour, and_ms=SKEW_MS + 1_000)
        assert neighbour.lost


async def test_more_than_one_session_of_a_broker_at_a_time_ends_the_link(stage: Stage):
    neighbour = await _met(stage)
    await neighbour.say(Frame.PAPERS, [neighbour.session.papers] * 2, bytes(64))
    assert neighbour.lost
    assert stage.counted["cut"] == {"malformed": 1}


async def test_a_next_session_under_a_certificate_that_was_revoked_keeps_no_link(stage: Stage):
    async with stage.running():
        neighbour = await _met(stage)
        renewed = broker_session(stage.world, "GATE")
        await neighbour.renews(renewed)
        revocation = Revocation(stage.world.now, Reason.COMPROMISED)
        await stage.follow(revoked={renewed.holder.identity.serial: revocation})
        assert neighbour.lost
        assert stage.counted["cut"] == {"revoked": 1}


async def test_a_neighbour_is_shown_the_next_session_of_this_broker(stage: Stage):
    neighbour = await _met(stage)
    session = broker_session(stage.world)
    stage.broker.take_session(session)
    stage.broker.take_session(session)
    [[_, [papers], signature]] = await neighbour.hears(Frame.PAPERS)
    assert papers == session.papers
    verify_host(claimed(papers).host_key, greeting_tbs(neighbour.theirs, neighbour.mine), signature)


async def test_who_was_greeted_with_the_last_session_is_shown_the_next_one_when_it_has_proved_itself(stage: Stage):
    neighbour = PlayedNeighbour(stage)
    session = broker_session(stage.world)
    stage.broker.take_session(session)
    await neighbour.meet()
    assert [one[1] for one in await neighbour.hears(Frame.PAPERS)] == [[session.papers]]


async def test_two_brokers_that_run_for_long_keep_their_link():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        async with builder.subscribe("tasks.>") as tasks:
            before = [two.counted(place)["links"] for place in (0, 1)]
            await two.later(35 * 60, step=4)
            assert [two.counted(place)["cut"] for place in (0, 1)] == [{}, {}]
            assert [two.counted(place)["links"] for place in (0, 1)] == before
            await director.publish("tasks.build", 1)
            assert (await anext(tasks)).body == 1


# ---- one link --------------------------------------------------------------------------------------------------------------------


async def test_a_broker_has_one_link_whatever_it_says_of_its_boot(stage: Stage):
    first = await _met(stage)
    await first.seats("BUILDER")
    other = await _met(stage, name="OTHER")
    links = [await _met(stage, session=first.session) for _ in range(5)]
    found: Any = stage.broker.statistics()["neighbours"]
    assert (found["open"], found["agents"]) == (2, 0)
    assert [bool(one.lost) for one in (first, *links)] == [True] * 5 + [False]
    assert not other.lost
    assert stage.counted["cut"] == {"came_again": 5}


async def test_who_only_says_to_be_a_broker_takes_no_link_from_it(stage: Stage):
    first, thief = await _met(stage), PlayedNeighbour(stage, name="GATE")
    await thief.say(Between.GREET, thief.greeting(papers=first.session.papers))
    await thief.say(Frame.PROVE, thief.session.keys.sign(greeting_tbs(b"", b"")))
    assert thief.lost
    assert not first.lost


async def test_a_broker_that_comes_again_and_again_has_to_wait_for_a_moment(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.broker.neighbours.TOLD_COST", 2_000_000)
    await stage.host("BUILDER")
    first = await _met(stage)
    again = PlayedNeighbour(stage, session=first.session)
    await again.meet()
    assert again.lost
    assert stage.counted["cut"] == {"came_again": 1, "comes_too_often": 1}
    await stage.later(6)
    await _met(stage, session=first.session)
