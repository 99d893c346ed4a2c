"""A neighbour with valid papers says things in the name of agents that are live elsewhere, or dated ahead: they notice nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from played import Played, Stage, settle
from played_neighbour import PlayedNeighbour
from town import town

from bus.broker.asking import MAX_FAR_SENDERS, Asking
from bus.broker.neighbour_seats import AHEAD_MS, MOST_AHEAD_MS
from bus.broker.seats import Seats
from bus.identity.envelopes.reserved import reply_topic
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.frames import BY_ITS_TOPIC, UNHEARD, Frame
from bus.protocol.header import REPLY, REQUEST, Header
from bus.protocol.neighbour_frames import ORDER_BITS, Between
from bus.protocol.skew import SKEW_MS

pytestmark = pytest.mark.anyio


async def _met(stage: Stage, **changes: Any) -> PlayedNeighbour:
    neighbour = PlayedNeighbour(stage, **changes)
    await neighbour.meet()
    assert neighbour.is_open
    return neighbour


def _cut(stage: Stage) -> dict[str, int]:
    found: dict[str, int] = stage.counted["cut"]
    return found


def _header(envelope: bytes) -> Header:
    return headers.parse(envelopes.split(envelope)[0])


async def _listens(host: Played, neighbour: PlayedNeighbour, pattern: str) -> None:
    """Once the neighbour has said that its publishers know."""
    number = len(host.stage.broker._hosts)
    host.send(Frame.SUBSCRIBE, number, next(iter(host.agents)), pattern, "", "", "new", 1_024, "block")
    for one in await neighbour.hears(Frame.SUBSCRIBE):
        neighbour.send(Frame.SUBSCRIBED, one[1])
    assert await host.hears(Frame.SUBSCRIBED)


async def _asks(director: Played, builder: Played) -> bytes:
    request = director.seal("ask.now", flags=REQUEST)
    director.publish(request, topic="ask.now")
    assert [envelope for _, envelope in await builder.delivered()] == [request]
    return request


async def _is_answered(director: Played, builder: Played, request: bytes) -> bool:
    asked = _header(request)
    reply = builder.seal(reply_topic("DIRECTOR", asked.session), flags=REPLY, ref=asked.id)
    builder.publish(reply, alias=BY_ITS_TOPIC)
    return [envelope for _, envelope in await director.delivered()] == [reply]


async def _stand(stage: Stage) -> tuple[PlayedNeighbour, Played, Played]:
    """A neighbour that has shown the papers of DIRECTOR, who is live here, and BUILDER, who listens to what is asked."""
    neighbour, director, builder = await _met(stage), await stage.host("DIRECTOR"), await stage.host("BUILDER")
    await _listens(builder, neighbour, "ask.>")
    await director.open("ask.now")
    await director.open("tasks.build")
    neighbour.agents["DIRECTOR"] = director.agents["DIRECTOR"]
    await neighbour.say(Frame.PAPERS, [director.agents["DIRECTOR"].papers], b"")
    return neighbour, director, builder


# ---- requests --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["ask.now", "ask.else", "tasks.build"])
async def test_a_request_here_is_answered_whatever_a_neighbour_brings_under_its_id(stage: Stage, topic: str):
    neighbour, director, builder = await _stand(stage)
    request = await _asks(director, builder)
    await neighbour.deliver(1, neighbour.envelope("DIRECTOR", topic, flags=REQUEST, id=_header(request).id))
    assert stage.counted["refused"] == {"not_permitted": 1}
    assert await _is_answered(director, builder, request)


async def test_a_neighbour_does_not_push_out_requests_of_who_is_live_here(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.broker.requests.MAX_OF_ONE", 3)
    neighbour, director, builder = await _stand(stage)
    request = await _asks(director, builder)
    for number in range(1, 6):
        await neighbour.deliver(number, neighbour.envelope("DIRECTOR", "ask.now", flags=REQUEST))
    assert stage.counted["refused"] == {"not_permitted": 5}
    assert await _is_answered(director, builder, request)


async def test_of_the_requests_of_one_neighbour_so_many_are_remembered_over_all_its_links(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bus.broker.neighbour_crossing.MAX_BROUGHT", 2)
    host = await stage.host("BUILDER")
    await host.subscribe(1, "ask.>")
    neighbour = await _met(stage)
    for _ in range(3):
        for number, name in enumerate(("DIRECTOR", "DEPUTY")):
            await neighbour.seats(name)
            await neighbour.deliver(number, neighbour.envelope(name, "ask.now", flags=REQUEST))
        neighbour.link.close()
        neighbour = await _met(stage, session=neighbour.session)
    assert len(await host.delivered()) == 6
    assert stage.counted["requests"] == 2


async def test_another_topic_under_a_known_id_takes_the_answer_from_nobody(stage: Stage):
    director, builder = await stage.host("DIRECTOR"), await stage.host("BUILDER")
    await builder.subscribe(1, "ask.now")
    await director.open("ask.now")
    await director.open("ask.else")
    request = await _asks(director, builder)
    director.publish(director.seal("ask.else", flags=REQUEST, id=_header(request).id), topic="ask.else")
    await settle()
    assert await _is_answered(director, builder, request)
    assert stage.counted["requests"] == 1


async def test_another_asker_under_a_known_id_does_not_get_the_word_that_nobody_hears_it(stage: Stage):
    neighbour, director, deputy = await _met(stage), await stage.host("DIRECTOR"), await stage.host("DEPUTY")
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(1, "BUILDER", "ask.>")
    await director.open("ask.now")
    await deputy.open("ask.now")
    request = director.seal("ask.now", flags=REQUEST)
    director.publish(request, topic="ask.now")
    await settle()
    deputy.publish(deputy.seal("ask.now", flags=REQUEST, id=_header(request).id), topic="ask.now")
    await settle()
    await neighbour.say(Frame.REFUSE, UNHEARD, _header(request).id)
    assert [one[1:] for one in await director.hears(Frame.REFUSE)] == [[UNHEARD, _header(request).id]]
    assert await deputy.hears(Frame.REFUSE) == []


# ---- epochs ----------------------------------------------------------------------------------------------------------------------


async def _is_asked(stage: Stage, director: Played, builder: Played, epoch: bytes) -> bool:
    await stage.later(1)
    builder.send(Frame.ASK, epoch, builder.agents["BUILDER"].papers)
    return len(await director.hears(Frame.ASK)) == 1


async def test_a_neighbour_does_not_push_out_epochs_of_who_is_live_here(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.broker.asking.MAX_EPOCHS", 3)
    neighbour, director, builder = await _stand(stage)
    envelope = director.seal("tasks.build")
    director.publish(envelope, topic="tasks.build")
    assert await _is_asked(stage, director, builder, _header(envelope).epoch)
    for number in range(1, 6):
        made_up = neighbour.envelope("DIRECTOR", "tasks.build")
        await neighbour.deliver(number, made_up)
    assert stage.counted["refused"] == {}
    assert await _is_asked(stage, director, builder, _header(envelope).epoch)
    assert not await _is_asked(stage, director, builder, _header(made_up).epoch)


async def test_a_neighbour_that_had_an_agent_for_a_moment_has_pushed_out_none_of_its_epochs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bus.broker.asking.MAX_EPOCHS", 3)
    neighbour, director, builder = await _stand(stage)
    envelope = director.seal("tasks.build")
    director.publish(envelope, topic="tasks.build")
    await neighbour.seats("DIRECTOR", later=1_000)
    assert await director.hears(Frame.DRAIN)
    for number in range(1, 6):
        await neighbour.deliver(number, neighbour.envelope("DIRECTOR", "tasks.build"))
    await director.say(Frame.PAPERS, [director.agents["DIRECTOR"].papers], b"")
    assert await _is_asked(stage, director, builder, _header(envelope).epoch)


async def test_an_epoch_that_a_neighbour_brought_too_early_is_known_when_its_sender_says_it(stage: Stage):
    neighbour, director, builder = await _stand(stage)
    envelope = director.seal("tasks.build")
    await neighbour.deliver(1, envelope)
    director.publish(envelope, topic="tasks.build")
    assert await _is_asked(stage, director, builder, _header(envelope).epoch)


def test_the_epochs_of_all_agents_of_a_neighbour_have_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.broker.asking.MAX_FAR_EPOCHS", 10)
    table = Asking(Seats())
    table.note(bytes(32), "DIRECTOR")
    for number in range(1, 50):
        table.note(number.to_bytes(32, "big"), f"A{number % 7}", "GATE")
        assert len(table) <= 11
    assert table.is_sender(bytes(32), "DIRECTOR")
    assert sum(map(len, table._of_sender.values())) == len(table._of_neighbour["GATE"]) + 1 == 11


def test_of_those_who_name_an_epoch_at_one_neighbour_so_many_are_known():
    table = Asking(Seats())
    for number in range(50):
        table.note(bytes(32), f"A{number}", "GATE")
    table.note(bytes(32), "DIRECTOR")
    table.note(bytes(32), "DEPUTY", "OTHER")
    assert table.is_sender(bytes(32), "DIRECTOR")
    assert table.is_sender(bytes(32), "DEPUTY")
    assert sum(map(len, table._of_sender.values())) == MAX_FAR_SENDERS + 2


# ---- seats -----------------------------------------------------------------------------------------------------------------------


async def _live(stage: Stage) -> dict[str, str]:
    return {one.agent: one.kind for one in stage.broker.listing.live()}


async def test_a_seat_counts_that_is_ahead_as_far_as_clocks_may_differ(stage: Stage):
    neighbour = await _met(stage)
    await neighbour.seats("BUILDER", later=AHEAD_MS)
    assert await _live(stage) == {"BUILDER": "neighbour"}


async def test_a_seat_that_is_further_ahead_waits_and_ends_no_link(stage: Stage):
    async with stage.running():
        host, neighbour = await stage.host("BUILDER"), await _met(stage)
        await neighbour.seats("BUILDER", later=MOST_AHEAD_MS)
        assert not neighbour.lost
        assert await _live(stage) == {"BUILDER": "memory"}
        await stage.later((MOST_AHEAD_MS - AHEAD_MS) / 1000 - 1, step=1)
        assert await _live(stage) == {"BUILDER": "memory"}
        await stage.later(2)
        assert await _live(stage) == {"BUILDER": "neighbour"}
        assert await host.hears(Frame.DRAIN)


async def test_a_seat_that_no_honest_broker_can_say_ends_the_link(stage: Stage):
    neighbour = await _met(stage)
    await neighbour.seats("BUILDER", later=MOST_AHEAD_MS + 1)
    assert neighbour.lost
    assert _cut(stage) == {"malformed": 1}


@pytest.mark.parametrize("later", [AHEAD_MS, MOST_AHEAD_MS])
async def test_a_lie_about_the_time_makes_this_broker_say_nothing_for_which_another_cuts_it(stage: Stage, later: int):
    liar, other = await _met(stage), await _met(stage, name="OTHER")
    for _ in range(5):
        await stage.host("BUILDER")
        liar.send(Between.SEATED, (stage.world.now + later) << ORDER_BITS | 0xFFFF, stage.world.agent("BUILDER").papers)
        await settle()
    await stage.host("BUILDER")
    said = [one[1] >> ORDER_BITS for one in await other.hears(Between.SEATED)]
    its_clock = stage.world.now - SKEW_MS
    assert max(said) <= its_clock + MOST_AHEAD_MS
    assert not liar.lost


async def test_a_clock_that_was_set_back_makes_this_broker_say_nothing_for_which_another_cuts_it(stage: Stage):
    stage.clock.ms += 600_000
    await stage.host("BUILDER")
    stage.clock.ms -= 600_000
    neighbour = PlayedNeighbour(stage)
    await neighbour.meet()
    [[_, number, _]] = await neighbour.hears(Between.SEATED)
    assert number >> ORDER_BITS <= stage.world.now - SKEW_MS + MOST_AHEAD_MS


async def test_whom_a_neighbour_has_put_off_is_named_with_its_name(stage: Stage):
    await stage.host("BUILDER")
    neighbour = await _met(stage)
    await neighbour.seats("TESTER")
    assert not any("GATE" in one for one in stage.counted["offences"])
    await neighbour.seats("BUILDER", later=1_000)
    assert any("GATE" in one for one in stage.counted["offences"])


async def test_who_was_put_off_by_a_lie_is_back_and_listens_when_the_liar_is_gone(stage: Stage):
    async with stage.running():
        honest, liar = await _met(stage, name="OTHER"), await _met(stage)
        director = await stage.host("DIRECTOR")
        await director.open("tasks.build")
        await honest.seats("BUILDER")
        await honest.subscribe(1, "BUILDER", "tasks.>")
        await liar.seats("BUILDER", later=30_000)
        assert [one.address.split()[0] for one in stage.broker.listing.live() if one.agent == "BUILDER"] == ["GATE"]
        await honest.seats("BUILDER", later=1)
        director.publish(director.seal("tasks.build"), topic="tasks.build")
        assert await honest.hears(Frame.DELIVER) == []
        liar.link.close()
        await stage.later(0.3)
        assert [one.address.split()[0] for one in stage.broker.listing.live() if one.agent == "BUILDER"] == ["OTHER"]
        director.publish(director.seal("tasks.build"), topic="tasks.build")
        assert len(await honest.hears(Frame.DELIVER)) == 1


async def test_two_honest_brokers_do_not_cut_each_other_over_the_seats_of_a_third():
    async with town() as two:
        made = two.world.broker_materials("LIAR")
        await made.sessions.open(made.holder)
        [session] = made.sessions.held.values()
        now_ms = two.world.clock.now_ms
        place: Any = SimpleNamespace(broker=two[0].broker, world=SimpleNamespace(now=now_ms()))
        liar = PlayedNeighbour(place, session=session)
        await liar.meet()
        assert two.open_at(0) == 2
        for later in (AHEAD_MS, 2 * SKEW_MS):
            async with two[0].host().agent("BUILDER"):
                await two.settle()
                [*_, [_, _, papers]] = await liar.hears(Between.SEATED)
                await liar.say(Between.SEATED, (now_ms() + later) << ORDER_BITS | 0xFFFF, papers)
                await two.settle()
                async with two[0].host().agent("BUILDER"):
                    await two.settle()
        assert [two.counted(place)["cut"] for place in (0, 1)] == [{}, {}]
        assert [two.open_at(place) for place in (0, 1)] == [2, 1]
