"""Requests and their replies: only who got a request may answer it."""

from __future__ import annotations

from typing import Any

import pytest
from kept_stage import KeptStage
from played import Played, Stage, settle, with_words
from small_world import MINUTE, NOW, World

from bus.broker import requests
from bus.broker.requests import Requests
from bus.identity.envelopes.reserved import reply_topic
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.frames import BY_ITS_TOPIC, UNHEARD, Frame
from bus.protocol.header import DATA, REPLY, REQUEST, Header

pytestmark = pytest.mark.anyio


def ask(director: Played, topic: str = "ask.that") -> bytes:
    request = director.seal(topic, flags=REQUEST)
    director.publish(request, topic=topic)
    return request


def answer(host: Played, request: bytes, *, by: str | None = None, to: Played, ref: bytes | None = None) -> bytes:
    asked = headers.parse(envelopes.split(request)[0])
    requester = to.agents[asked.sender]
    topic = reply_topic(requester.name, requester.session)
    return host.seal(topic, b"answer", by=by, flags=REPLY, ref=asked.id if ref is None else ref)


@pytest.fixture
async def director(stage: Stage) -> Played:
    host = await stage.host("DIRECTOR", "DEPUTY")
    await host.open("ask.that")
    return host


async def test_a_reply_goes_to_who_asked_and_to_nobody_else(stage: Stage, director: Played):
    builder, monitor = await stage.host("BUILDER"), await stage.host("MONITOR")
    await builder.subscribe(1, "ask.>")
    await monitor.subscribe(1, ">")
    request = ask(director)
    assert await builder.delivered() == [((1,), request)]
    await monitor.delivered()
    await director.hears()
    reply = answer(builder, request, to=director)
    turn = builder.publish(reply, alias=BY_ITS_TOPIC)
    assert await director.hears(Frame.DELIVER) == [[Frame.DELIVER, 1, b"", 1, 0, reply]]
    assert await monitor.delivered() == []
    assert await builder.credited() == set()
    director.send(Frame.CREDIT, 0, 1)
    assert await builder.credited() == {turn}
    assert stage.counted["requests"] == 1


@pytest.mark.parametrize("case", ["nobody asked it", "another request", "not delivered to it", "of another agent of the link"])
async def test_a_reply_from_somebody_else_is_refused(stage: Stage, director: Played, case: str):
    builder, other = await stage.host("BUILDER", "PACKER"), await stage.host("TESTER")
    await builder.subscribe(1, "ask.>")
    request = ask(director)
    await builder.delivered()
    replies = {
        "nobody asked it": (other, answer(other, request, to=director)),
        "another request": (builder, answer(builder, request, to=director, ref=bytes(16))),
        "not delivered to it": (other, answer(other, request, to=director)),
        "of another agent of the link": (builder, answer(builder, request, to=director, by="PACKER")),
    }
    host, reply = replies[case]
    host.publish(reply, alias=BY_ITS_TOPIC)
    assert [one[1] for one in await host.hears(Frame.REFUSE)] == ["not_permitted"]
    assert await director.delivered() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sender": "TESTER"}, "untrusted"),
        ({"expires_ms": NOW + MINUTE - 1}, "expired"),
        ({"sent_ms": NOW + 3 * MINUTE, "expires_ms": NOW + 4 * MINUTE}, "from_future"),
        ({"expires_ms": NOW + 30 * MINUTE}, "ttl_too_long"),
        ({"priority": 0}, "not_permitted"),
    ],
    ids=["in the name of another who was asked", "expired", "from the future", "lives too long", "too urgent"],
)
async def test_a_reply_is_judged_like_all_else(stage: Stage, director: Played, changes: dict[str, Any], reason: str):
    builder, tester = await stage.host("BUILDER"), await stage.host("TESTER")
    for reader in (builder, tester):
        await reader.subscribe(1, "ask.>")
    request = ask(director)
    await builder.delivered()
    await tester.delivered()
    header, sealed = envelopes.split(answer(builder, request, to=director))
    reply = envelopes.join(headers.parse(header)._replace(**changes).encode(), sealed)
    builder.publish(reply, alias=BY_ITS_TOPIC)
    await settle()
    assert stage.counted["refused"] == {reason: 1}
    assert await director.delivered() == []


async def test_who_may_not_hear_a_topic_any_more_answers_nothing_there(stage: Stage, director: Played):
    builder = await stage.host("BUILDER")
    await builder.subscribe(1, "ask.>")
    request = ask(director)
    await builder.delivered()
    await stage.follow(policy=with_words('"work.>", "ask.>", "records.>", "short.>"]\n    groups', '"work.>"]\n    groups'))
    builder.publish(answer(builder, request, to=director), alias=BY_ITS_TOPIC)
    await settle()
    assert stage.counted["refused"] == {"not_permitted": 1}


async def test_who_may_answer_on_a_topic_may_publish_nothing_there_and_the_other_way_round(stage: Stage, director: Played):
    """What is worked out once for each sender and topic is worked out for each of both."""
    builder, tester = await stage.host("BUILDER"), await stage.host("TESTER")
    for reader in (builder, tester):
        await reader.open("ask.that")
        await reader.subscribe(1, "ask.>")
    request = ask(director)
    await builder.delivered()
    await tester.delivered()
    builder.publish(answer(builder, request, to=director), alias=BY_ITS_TOPIC)
    builder.publish(builder.seal("ask.that"), topic="ask.that")
    tester.publish(tester.seal("ask.that"), topic="ask.that")
    tester.publish(answer(tester, request, to=director), alias=BY_ITS_TOPIC)
    for reader in (builder, tester):
        assert [one[1] for one in await reader.hears(Frame.REFUSE)] == ["not_permitted"]
    assert len(await director.delivered()) == 2


async def test_a_request_that_is_held_back_has_not_been_delivered_yet(stage: Stage, director: Played):
    builder = await stage.host("BUILDER")
    await builder.subscribe(1, "ask.>", limit=1)
    first, second = ask(director), ask(director)
    await builder.delivered()
    for request in (first, second):
        builder.publish(answer(builder, request, to=director), alias=BY_ITS_TOPIC)
    assert len(await director.delivered()) == 1
    builder.send(Frame.CREDIT, 1, 1)
    await builder.delivered()
    builder.publish(answer(builder, second, to=director), alias=BY_ITS_TOPIC)
    assert len(await director.delivered()) == 1


async def test_a_requester_hears_replies_after_it_came_back(stage: Stage, director: Played):
    builder = await stage.host("BUILDER")
    await builder.subscribe(1, "ask.>")
    request = ask(director)
    await builder.delivered()
    director.link.close()
    await settle()
    reply = answer(builder, request, to=director)
    builder.publish(reply, alias=BY_ITS_TOPIC)
    await settle()
    assert stage.counted["unheard"] == 1, "it is not there"
    again = stage.connect(keys=director.keys)
    again.agents = director.agents
    await again.shake_hands()
    builder.publish(answer(builder, request, to=director), alias=BY_ITS_TOPIC)
    assert len(await again.delivered()) == 1


async def test_a_broker_forgets_requests_after_an_hour(stage: Stage, director: Played):
    async with stage.running():
        builder = await stage.host("BUILDER")
        await builder.subscribe(1, "ask.>")
        ask(director)
        await stage.later(6, step=1)
        assert stage.counted["requests"] == 1
        stage.clock.advance(3_600)
        await stage.later(6, step=1)
        assert stage.counted["requests"] == 0


async def test_a_reply_that_is_none_is_malformed(stage: Stage, director: Played):
    builder = await stage.host("BUILDER")
    await builder.subscribe(1, "ask.>")
    request = ask(director)
    await builder.delivered()
    builder.publish(answer(builder, request, to=director, ref=b""), alias=BY_ITS_TOPIC)
    builder.publish(builder.seal("_reply.DIRECTOR.nothex", flags=REPLY, ref=bytes(16)), alias=BY_ITS_TOPIC)
    header, sealed = envelopes.split(answer(builder, request, to=director))
    of_two = envelopes.join(headers.parse(header)._replace(records=2).encode(), sealed)
    builder.publish(of_two, alias=BY_ITS_TOPIC)
    assert [one[1] for one in await builder.hears(Frame.REFUSE)] == ["malformed"] * 3


# ---- the table -------------------------------------------------------------------------------------------------------------------


def header(sender: str, number: int, topic: str = "ask.that") -> Header:
    return Header(1, DATA, REQUEST, topic, sender, bytes(16), bytes(32), 0, 0, 0, 3, 1, number.to_bytes(16, "big"), b"", 0)


async def test_a_requester_that_asks_too_much_pushes_out_its_own_oldest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requests, "MAX_OF_ONE", 3)
    table = Requests()
    table.open(header("DEPUTY", 0), now_ms=0)
    for number in range(5):
        table.open(header("DIRECTOR", number), now_ms=0)
    assert len(table) == 4
    found = [number for number in range(5) if table.find("DIRECTOR", number.to_bytes(16, "big"))]
    assert (found, table.find("DEPUTY", bytes(16)) is not None) == ([2, 3, 4], True)


async def test_the_table_has_a_bound_and_forgets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requests, "MAX_IN_ALL", 10)
    table = Requests()
    for number in range(50):
        table.open(header(f"A{number % 7}", number), now_ms=number)
        assert len(table) <= 10
    assert len(table) == sum(len(mine) for mine in table._of.values()) == 10
    table.forget(requests.KEPT_MS + 100)
    assert (len(table), table._of) == (0, {})


async def test_the_same_request_again_is_the_same_request():
    table = Requests()
    first = table.open(header("DIRECTOR", 1), now_ms=0)
    assert table.open(header("DIRECTOR", 1), now_ms=5) is first
    assert table.open(header("DIRECTOR", 1, "ask.else"), now_ms=5) is not first
    assert len(table) == 1


# ---- requests that nobody gets ---------------------------------------------------------------------------------------------------


async def refusals(director: Played) -> list[list[object]]:
    return [one[1:] for one in await director.hears(Frame.REFUSE)]


def id_of(request: bytes) -> bytes:
    return headers.parse(envelopes.split(request)[0]).id


@pytest.mark.parametrize("group", ["", "builders"])
async def test_whose_request_is_dropped_on_its_way_hears_at_once_that_nobody_is_asked(stage: Stage, director: Played, group: str):
    async with stage.running():
        builder = await stage.host("BUILDER")
        await builder.subscribe(1, "ask.>", limit=1, group=group)
        taken, held = ask(director), ask(director)
        await settle()
        assert [one for _, one in await builder.delivered()] == [taken]
        assert await refusals(director) == []
        builder.link.close()
        await stage.later(0.3)
        assert await refusals(director) == [[UNHEARD, id_of(held)]], "and not of the one that it got"


async def test_whose_request_goes_to_somebody_else_as_well_waits_for_that_one(stage: Stage, director: Played):
    builder, packer = await stage.host("BUILDER"), await stage.host("PACKER")
    await builder.subscribe(1, "ask.>", limit=1)
    await packer.subscribe(1, "ask.>", limit=2)
    ask(director)
    second, third = ask(director), ask(director)
    await settle()
    builder.link.close()
    assert await refusals(director) == [], "the second went to one of them, and the third is held for the other"
    packer.link.close()
    assert await refusals(director) == [[UNHEARD, id_of(third)]]
    assert second


async def test_a_durable_request_waits_for_whoever_takes_it_later(world: World):
    stage = KeptStage(world)
    async with stage.running():
        director, builder = await stage.host("DIRECTOR"), await stage.host("BUILDER")
        await director.open("work.that")
        await builder.subscribe(1, "work.>", limit=1)
        for _ in range(2):
            ask(director, "work.that")
        await stage.later(0.2)
        assert len(await builder.delivered()) == 1
        builder.link.close()
        await stage.later(0.3)
        assert stage.counted["stored"] == 2
        assert await refusals(director) == []
