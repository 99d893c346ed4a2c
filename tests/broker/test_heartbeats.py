"""Silence and the end: who is not heard of is lost, and a broker that stops says so."""

from __future__ import annotations

import os

import pytest
from played import Stage, broker_session, settle

from bus.errors import LocalProtocolError
from bus.protocol.frames import GONE, Frame
from bus.transport.memory import memory_pair

pytestmark = pytest.mark.anyio


async def test_a_silent_peer_is_asked_after_ten_seconds_and_lost_after_twenty(stage: Stage):
    async with stage.running():
        silent, honest = await stage.host("DIRECTOR", polite=False), await stage.host("BUILDER")
        await stage.later(9.8, step=0.2)
        assert await silent.hears() == []
        await stage.later(0.4, step=0.2)
        assert [one[0] for one in await silent.hears()] == [Frame.PING]
        await stage.later(9.4, step=0.2)
        assert not silent.lost
        await stage.later(1.0, step=0.2)
        assert silent.lost
        assert not honest.lost
        assert stage.counted["cut"] == {"silent": 1}


async def test_a_peer_that_does_not_read_what_it_is_sent_is_lost_after_twenty_seconds(stage: Stage):
    async with stage.running():
        director, deaf, slow = [await stage.host(name) for name in ("DIRECTOR", "BUILDER", "TESTER")]
        await director.open("tasks.a")
        for reader in (deaf, slow):
            await reader.subscribe(1, "tasks.>", overflow="drop_oldest")
            reader.link.pause()
        for _ in range(4):
            director.publish(director.seal("tasks.a", os.urandom(100_000)), topic="tasks.a")
        for _ in range(11):
            await stage.later(2)
            deaf.send(Frame.PONG, 1)
            slow.link.resume()
            await slow.delivered()
            slow.link.pause()
        assert deaf.link.other._ending is not None or deaf.lost
        assert not slow.lost
        assert stage.counted["cut"] == {"does_not_read": 1}


async def test_a_ping_is_answered_with_its_number(stage: Stage):
    host = await stage.host("DIRECTOR")
    assert await host.say(Frame.PING, 77) == [[Frame.PONG, 77]]


async def test_a_host_that_says_bye_is_let_go(stage: Stage):
    host = await stage.host("DIRECTOR")
    await host.say(Frame.DRAIN, "bye")
    assert host.lost
    assert stage.counted["links_open"] == 0


async def test_an_agent_that_its_host_closes_is_off_the_link_and_the_others_stay(stage: Stage):
    director, host = await stage.host("DIRECTOR"), await stage.host("BUILDER", "TESTER")
    await director.open("tasks.a")
    for number, agent in enumerate(host.agents, 1):
        await host.subscribe(number, "tasks.>", by=agent)
    await director.hears()
    assert await host.say(Frame.DRAIN, "closed BUILDER") == []
    assert [one[2] for one in await director.hears(Frame.INTEREST)] == [[["BUILDER", "tasks.>", GONE]]]
    director.publish(director.seal("tasks.a"), topic="tasks.a")
    assert [subs for subs, _ in await host.delivered()] == [(2,)]
    host.send(Frame.DRAIN, "closed DIRECTOR")
    assert await host.hears(Frame.DRAIN) == [], "it has no such agent"
    assert not host.lost
    assert stage.counted["agents"] == 2


async def test_a_broker_that_drains_says_so_and_goes_on_until_it_is_closed(stage: Stage):
    director, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER")
    await director.open("tasks.a")
    await reader.subscribe(1, "tasks.>")
    stage.broker.drain()
    for host in (director, reader):
        assert await host.hears(Frame.DRAIN) == [[Frame.DRAIN, "shutdown"]]
    director.publish(director.seal("tasks.a"), topic="tasks.a")
    await settle()
    await stage.broker.aclose()
    assert len(await reader.delivered(take_in=False)) == 1, "what was sent is still written"
    assert director.lost
    assert reader.lost


async def test_nobody_comes_in_any_more_once_it_drains(stage: Stage):
    stage.broker.drain()
    host = stage.connect("DIRECTOR")
    assert await host.hears() == [[Frame.REFUSE, "busy", b""]]
    assert host.lost


async def test_a_broker_without_an_identity_of_its_own_takes_no_links(stage: Stage):
    stage.broker._links.own = None
    with pytest.raises(LocalProtocolError):
        stage.broker.attach(memory_pair()[0])


async def test_another_session_of_the_broker_serves_links_that_come_later(stage: Stage):
    first = await stage.host("DIRECTOR")
    stage.broker.take_session(broker_session(stage.world))
    await stage.host("BUILDER")
    assert not first.lost
