"""Hosts that mean harm, or are broken: what they can make grow is bounded, and it costs themselves."""

from __future__ import annotations

import os
from typing import Any

import pytest
from played import Played, Stage, settle

from bus.broker import accounts, host_link, intake, offences
from bus.broker.broker import LIMITS
from bus.broker.offences import Offences
from bus.protocol.frames import MAX_ROWS, Frame, column, encode, sub_ref
from bus.protocol.handshake import Limits
from bus.transport.link import Peer

pytestmark = pytest.mark.anyio


async def answers(host: Played) -> bool:
    """Whether it is served within a few turns of the loop."""
    return [Frame.PONG, 5] in await host.say(Frame.PING, 5)


async def test_thousands_of_frames_at_once_are_done_a_slice_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(intake, "SLICE", 8)
    flooding, other = await stage.host("MONITOR"), await stage.host("BUILDER")
    for number in range(1, 3_001):
        flooding.send(Frame.SUBSCRIBE, number, "MONITOR", f"tasks.t{number}", "", "", "new", 1, "block")
    assert await answers(other)
    assert 0 < stage.counted["subscriptions"] < 200
    while stage.counted["subscriptions"] < 3_000:
        await settle()
    assert len(await flooding.hears(Frame.SUBSCRIBED)) == 3_000, "in the end all of it is done, in its order"


async def test_who_has_used_up_its_budget_is_not_read_until_it_has_some_again(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(accounts, "STOCK", 400)
    async with stage.running():
        flooding, other = await stage.host("MONITOR"), await stage.host("BUILDER")
        for number in range(1, 1_001):
            flooding.send(Frame.SUBSCRIBE, number, "MONITOR", f"tasks.t{number}", "", "", "new", 1, "block")
        await settle()
        await settle()
        first = stage.counted["subscriptions"]
        assert first <= 101
        assert await answers(other)
        await stage.later(0.2)
        assert first < stage.counted["subscriptions"] < 1_000
        await stage.later(2)
        assert stage.counted["subscriptions"] == 1_000
        assert not flooding.lost


async def test_a_link_has_no_more_subscriptions_and_topics_than_it_was_told(world: Any):
    stage = Stage(world, limits=Limits(topics=3, subscriptions=2))
    host = await stage.host("MONITOR")
    for number in (1, 2):
        await host.subscribe(number, f"tasks.t{number}")
    assert await host.subscribe(3, "tasks.t3") == [[Frame.REFUSE, "busy", sub_ref(3)]]
    for alias in range(2, 5):
        await host.say(Frame.OPEN, alias, f"results.t{alias}")
    assert not host.lost
    host.send(Frame.UNSUBSCRIBE, 1)
    assert await host.subscribe(4, "tasks.t4") == [[Frame.SUBSCRIBED, 4]], "so many at a time"
    assert await host.subscribe(5, "tasks.t5") == [[Frame.REFUSE, "busy", sub_ref(5)]]
    await host.say(Frame.OPEN, 5, "results.t5")
    assert host.lost


async def test_all_subscriptions_that_a_link_may_have_fit_into_one_delivery(stage: Stage):
    host, director = await stage.host("MONITOR"), await stage.host("DIRECTOR")
    await director.open("tasks.build")
    for number in range(1, LIMITS.subscriptions + 1):
        host.send(Frame.SUBSCRIBE, (1 << 32) - number, "MONITOR", "tasks.>", "", "", "new", 1, "block")
    while stage.counted["subscriptions"] < LIMITS.subscriptions:
        await settle()
    large = director.seal("tasks.build", os.urandom(1_040_000))
    director.publish(large, topic="tasks.build")
    ((subscriptions, envelope),) = await host.delivered()
    assert (len(subscriptions), envelope) == (LIMITS.subscriptions, large)


async def test_a_turn_of_a_thousand_envelopes_is_one_turn(stage: Stage):
    director, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER")
    await director.open("tasks.build")
    await reader.subscribe(1, "tasks.>", limit=MAX_ROWS)
    sent = [director.seal("tasks.build") for _ in range(MAX_ROWS)]
    director.publish(*sent, topic="tasks.build")
    assert [one for _, one in await reader.delivered()] == sent
    assert await director.credited() == {1}


@pytest.mark.parametrize("kind", [Frame.HELLO_B, Frame.OPENED, Frame.STORED, Frame.SUBSCRIBED, Frame.DELIVER, Frame.INTEREST])
async def test_what_only_a_broker_says_ends_the_link(stage: Stage, kind: Frame):
    fields: dict[Frame, tuple[Any, ...]] = {
        Frame.HELLO_B: (b"x",), Frame.OPENED: (2, 1, 0, 0), Frame.STORED: (1, []), Frame.SUBSCRIBED: (1,),
        Frame.DELIVER: (1, column([1]), 1, 0, b"x"), Frame.INTEREST: (1, []),
    }  # fmt: skip
    host = await stage.host("DIRECTOR")
    await host.say(kind, *fields[kind])
    assert host.lost


async def test_random_frames_end_the_link_and_nothing_else(stage: Stage):
    other = await stage.host("MONITOR")
    for kind in [*range(30)]:
        for _ in range(4):
            host = await stage.host("DIRECTOR")
            host.link.send(encode(kind, *([b"x", 1, [], "tasks.a"][: 1 + kind % 4])))  # type: ignore[arg-type]  # kinds that there are not
            await settle()
            host.link.close()
            await settle()
    assert await answers(other)
    assert (stage.counted["links_open"], stage.counted["agents"]) == (1, 1)


async def test_a_frame_that_finds_a_fault_of_ours_costs_its_link_alone(stage: Stage, caplog: pytest.LogCaptureFixture):
    host, other = await stage.host("DIRECTOR"), await stage.host("MONITOR")
    stage.broker._serving._router = None  # type: ignore[assignment]  # whatever it may be that is broken
    host.send(Frame.OPEN, 2, "tasks.build")
    assert await answers(other)
    assert host.lost
    assert stage.counted["cut"] == {"internal": 1}
    for _ in range(20):
        again = await stage.host("DIRECTOR")
        again.send(Frame.OPEN, 2, "tasks.build")
        await settle()
    assert stage.counted["cut"] == {"internal": 21}
    assert len([record for record in caplog.records if record.exc_info]) == 1, "who found it shall not fill the disk with it"


async def test_who_does_not_read_its_answers_is_cut(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_link, "MAX_UNREAD_BYTES", 200_000)
    host, other = await stage.host("DIRECTOR"), await stage.host("MONITOR")
    host.link.pause()
    agent = other.agents["MONITOR"]
    for _ in range(200):
        host.send(Frame.ASK, agent.session, b"papers")
        host.send(Frame.PING, 1)
        host.send(Frame.ASK, bytes(16), b"papers")
        await settle()
    assert host.link.inbox_bytes < 250_000
    assert stage.counted["links_open"] == 1


async def test_frames_that_come_after_the_end_are_not_looked_at(stage: Stage):
    host = await stage.host("DIRECTOR")
    host.send(Frame.SUBSCRIBED, 1)
    host.send(Frame.SUBSCRIBE, 1, "DIRECTOR", "tasks.>", "", "", "new", 1, "block")
    await settle()
    assert stage.counted["subscriptions"] == 0


# ---- the log ---------------------------------------------------------------------------------------------------------------------


def peer(uid: int | None = None, address: str = "/run/bus.sock") -> Peer:
    return Peer("unix" if uid is not None else "tls", address, uid=uid)


def test_an_offender_is_named_once_a_minute_with_how_often(caplog: pytest.LogCaptureFixture):
    log = Offences()
    for number in range(1_000):
        log.note(peer(1_001), "bad_proof", f"number {number}", now=1.0)
        log.tick(1.0)
    assert len(caplog.records) == 1
    log.tick(61.5)
    assert len(caplog.records) == 2
    assert "999" in caplog.records[1].getMessage()
    log.tick(122)
    assert len(caplog.records) == 2, "who has stopped is forgotten"
    log.note(peer(1_001), "bad_proof", "again", now=123)
    assert len(caplog.records) == 3


def test_offenders_are_told_apart_by_user_or_address_and_not_by_link(caplog: pytest.LogCaptureFixture):
    log = Offences()
    peers = [peer(1), peer(1), peer(2), peer(address="10.0.0.1:4000"), peer(address="10.0.0.1:4001"), peer(address="10.0.0.2:4000")]
    for one in peers:
        log.note(one, "junk", "", now=0)
    assert len(caplog.records) == 4


def test_offenders_that_are_remembered_have_a_bound(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(offences, "MOST", 10)
    log = Offences()
    for uid in range(1_000):
        log.note(peer(uid), "junk", "", now=0)
    assert len(log._known) == 10
