"""A link that is cut in the middle of things: what was credited is not lost, what was not is sent again once, and all goes on."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest
from agent_scenes import Later, apart, inside, numbered, numbers, rest, scene, soon, take

from bus.agent.connection import FIRST_TRIES
from bus.agent.events import Connected, Disconnected
from bus.agent.opened_topics import EXPECTED_SECONDS
from bus.errors import ConnectError, ConnectionLostError, SessionReplacedError
from bus.identity.host import renewal
from bus.transport.link import Link
from bus.transport.listening_links import listening

pytestmark = pytest.mark.anyio


async def back(hub) -> None:
    """The host dials again after a moment."""
    await hub.settle()
    await hub.advance(1)


@pytest.mark.parametrize("topic", ["tasks.paint", "alone.box"])
async def test_a_publishers_link_is_cut_again_and_again_and_each_message_comes_once_and_in_order(topic):
    async with scene("PAINTER") as (hub, painter), painter.subscribe(topic, limit=1_000_000) as tasks:
        host = hub.host()
        async with host.agent("LEAD") as lead, anyio.create_task_group() as group:
            many = Later(group, lambda: lead.publish_many(topic, numbered(20_000), wait="sent"))
            for turns in range(40):
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                host.disconnect()
                await back(hub)
            assert await many.result() == 20_000
            await soon(lead.drain())
        assert numbers(await rest(hub, tasks)) == list(range(20_000))
        assert inside(painter).statistics()["refusals"].keys() <= {"in:replayed"}


async def test_what_is_published_while_there_is_no_link_waits_for_the_next():
    async with scene("PAINTER") as (hub, painter), painter.subscribe("tasks.>") as tasks:
        host = hub.host()
        async with host.agent("LEAD") as lead, anyio.create_task_group() as group:
            await lead.publish("tasks.paint", 0)
            await hub.settle()
            host.disconnect()
            await hub.settle()
            for number in range(1, 10):
                await lead.publish("tasks.paint", number)
            sent = Later(group, lambda: lead.publish("tasks.paint", 10, wait="sent"))
            await hub.settle()
            assert not sent.is_done
            await back(hub)
            await sent.result()
        assert await rest(hub, tasks) == list(range(11))


@asynccontextmanager
async def both_cut(hub, lead_host, painter_host, painter):
    """The broker is gone for both, and at first only the publisher gets through again. Gives what lets the reader through."""
    connection = inside(painter).connection
    dial, may_come = connection._dial, anyio.Event()

    async def when_it_may() -> Link:
        await may_come.wait()
        return await dial()

    connection._dial = when_it_may
    painter_host.disconnect()
    lead_host.disconnect()
    await back(hub)
    yield may_come.set


async def test_what_is_said_before_a_reader_is_back_from_the_same_outage_waits_for_it():
    async with scene() as (hub,):
        here, there = hub.host(), hub.host()
        async with here.agent("LEAD") as lead, there.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.paint", 0)
            await hub.settle()
            async with both_cut(hub, here, there, painter) as let_through:
                for number in range(1, 8):
                    await lead.publish("tasks.paint", number)
                await hub.settle()
                let_through()
                await back(hub)
            assert await rest(hub, tasks) == list(range(8))
        assert lead._host.outbox.counts["unheard"] == 0


@pytest.mark.parametrize("topic", ["tasks.paint", "work.box", "control.stop"])
async def test_what_was_sealed_before_a_renewal_counts_on_the_link_that_is_made_after_it(topic):
    """Its turns go again byte for byte, under sessions whose host key has been replaced."""
    async with scene("PAINTER") as (hub, painter), painter.subscribe(topic, limit=1_000_000) as tasks:
        host = hub.host()
        async with host.agent("LEAD") as lead, host.agent("SECOND"), anyio.create_task_group() as group:
            await lead.publish(topic, numbered(1)[0], wait="sent")
            here = inside(lead)
            many = Later(group, lambda: lead.publish_many(topic, numbered(2_000)[1:], wait="sent"))
            with anyio.fail_after(30):
                while not here.outbox.out:
                    await anyio.lowlevel.checkpoint()
            host.disconnect()
            await hub.settle()
            out, before = here.outbox.out, here.sessions.current("LEAD")
            async with here.sessions.changing:
                assert await renewal.renew(here.sessions)
            assert out
            assert here.sessions.current("LEAD").keys is not before.keys
            await back(hub)
            assert await many.result() == 1_999
            await soon(lead.drain())
            assert here.outbox.counts["refused"] == 0
        assert (await hub.statistics())["broker"]["refused"].keys() <= {"replayed"}
        assert numbers(await rest(hub, tasks)) == list(range(2_000))
        assert inside(painter).statistics()["refusals"].keys() <= {"in:replayed"}


async def test_a_reader_that_does_not_come_back_is_waited_for_for_two_seconds():
    async with scene() as (hub,):
        here, there = hub.host(), hub.host()
        async with here.agent("LEAD") as lead, there.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.paint", 0)
            await hub.settle()
            async with both_cut(hub, here, there, painter) as let_through:
                await lead.publish("tasks.paint", 1)
                await hub.settle()
                assert not lead._host.outbox.is_idle
                await hub.advance(EXPECTED_SECONDS)
                await soon(lead.drain())
                assert lead._host.outbox.counts["unheard"] == 1
                let_through()
                await back(hub)
            await lead.publish("tasks.paint", 2)
            assert await rest(hub, tasks) == [0, 2]


async def test_a_readers_link_is_cut_and_its_subscriptions_go_on():
    async with scene("LEAD") as (hub, lead):
        host = hub.host()
        async with host.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks, painter.subscribe("lists.>") as lists:
            for number in range(5):
                await lead.publish("tasks.paint", number)
                await lead.publish("lists.a", number)
                await hub.settle()
                host.disconnect()
                await back(hub)
            assert await rest(hub, tasks) == await rest(hub, lists) == list(range(5))


async def test_what_a_reader_missed_meanwhile_shows():
    async with scene("LEAD") as (hub, lead):
        host = hub.host()
        async with host.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks, lead.subscribe("tasks.>"):
            await lead.publish("tasks.paint", 0)
            await hub.settle()
            host.disconnect()
            await hub.settle()
            for number in range(1, 8):
                await lead.publish("tasks.paint", number)
            await hub.settle()
            await back(hub)
            await lead.publish("tasks.paint", 8)
            found = [await soon(anext(tasks)) for _ in range(2)]
            assert [(message.body, message.missed) for message in found] == [(0, 0), (8, 7)]


async def test_a_subscription_that_is_being_entered_is_entered_on_the_next_link():
    async with scene("LEAD") as (hub, lead):
        host = hub.host()
        async with host.agent("PAINTER") as painter, anyio.create_task_group() as group:
            host.disconnect()
            await hub.settle()
            entering = Later(group, painter.subscribe("tasks.>").__aenter__)
            await hub.settle()
            assert not entering.is_done
            await back(hub)
            tasks = await entering.result()
            await lead.publish("tasks.paint", 1)
            assert await rest(hub, tasks) == [1]


async def test_a_request_survives_a_cut_on_either_side():
    async with scene() as (hub,):
        asking, answering = hub.host(), hub.host()
        async with asking.agent("LEAD") as lead, answering.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            async with anyio.create_task_group() as group:
                for cut in (asking, answering):
                    asked = Later(group, lambda: lead.request("tasks.paint", 1, timeout=30))
                    message = await soon(anext(tasks))
                    cut.disconnect()
                    await back(hub)
                    await message.reply("done")
                    await hub.settle()
                    assert (await asked.result()).body == "done"


async def test_it_tells_that_it_was_away():
    async with scene() as (hub,):
        host = hub.host()
        async with host.agent("LEAD") as lead:
            host.disconnect()
            await back(hub)
            events = lead.events()
            found = [await soon(anext(events)) for _ in range(2)]
    assert [type(event) for event in found] == [Disconnected, Connected]
    assert found[0].reason


async def test_who_waits_for_a_broker_that_never_comes_back_gives_up_when_told():
    async with scene("LEAD") as (hub, _):
        host = hub.host()
        async with host.agent("PAINTER") as painter:
            made = inside(painter)
            made.connection._give_up = 10.0
            tasks = await painter.subscribe("tasks.>").__aenter__()
            hub.broker.attach = lambda link: link.close()
            made.connection._dial = _nobody
            host.disconnect()
            async with anyio.create_task_group() as group:
                waiting = Later(group, tasks.__anext__)
                await hub.advance(9)
                assert not waiting.is_done
                await hub.advance(5)
                with pytest.raises(ConnectionLostError):
                    await waiting.result()
            with pytest.raises(ConnectionLostError):
                painter.publish_nowait("results.paint", 1)


async def _nobody():
    from bus.errors import ConnectError

    raise ConnectError("nobody there")


# ---- takeover --------------------------------------------------------------------------------------------------------------------


async def test_the_same_agent_elsewhere_takes_over_and_the_older_does_not_come_back():
    async with scene("LEAD") as (hub, lead):
        first, second = hub.host(), hub.host()
        old = await first.agent("PAINTER").__aenter__()
        other = await first.agent("CARPENTER").__aenter__()
        tasks = await old.subscribe("tasks.>").__aenter__()
        await lead.publish("tasks.paint", "to the first")
        await hub.settle()
        async with second.agent("PAINTER") as new, new.subscribe("tasks.>") as again:
            await lead.publish("tasks.paint", "to the second")
            assert await rest(hub, again) == ["to the second"]
            assert (await soon(anext(tasks))).body == "to the first"
            with pytest.raises(SessionReplacedError) as caught:
                await anext(tasks)
            assert caught.value.agent == "PAINTER"
            with pytest.raises(SessionReplacedError):
                await old.publish("results.paint", 1)
            first.disconnect()
            await back(hub)
            await hub.advance(60)
            await lead.publish("tasks.paint", "still the second")
            assert await rest(hub, again) == ["still the second"]
            async with other.subscribe("tasks.>") as others:
                await lead.publish("tasks.saw", "others live on")
                assert await rest(hub, others) == ["others live on"]


async def test_one_process_opens_an_agent_once():
    from bus.errors import LocalProtocolError

    async with scene("PAINTER") as (hub, _):
        with pytest.raises(LocalProtocolError):
            await hub.agent("PAINTER").__aenter__()


async def test_an_agent_that_was_closed_can_be_opened_again_here_and_elsewhere():
    async with scene("LEAD") as (hub, lead):
        for place in (hub, hub.host(), hub, hub.host()):
            async with place.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
                await lead.publish("tasks.paint", 1)
                assert await take(tasks, 1) == [1]


# ---- the clock -------------------------------------------------------------------------------------------------------------------


async def test_a_broker_that_says_nothing_is_left_and_dialled_again():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
        hub.clock.advance(25)  # all at once: to everybody the others seem dead
        await hub.settle()
        await hub.advance(3)
        await lead.publish("tasks.paint", 1)
        assert await rest(hub, tasks) == [1]


@pytest.mark.parametrize("wakes_up", [True, False])
async def test_a_broker_that_is_too_busy_to_answer_the_first_time_is_tried_again(wakes_up):
    heard = []
    async with scene("LEAD") as (hub, _), listening("memory:deaf", heard.append):
        host = hub.host()
        url, host._url = host._url, "memory:deaf"
        async with anyio.create_task_group() as group:
            opening = Later(group, host.agent("PAINTER").__aenter__)
            await hub.settle()
            for tries in (1, 2):
                assert (len(heard), opening.is_done) == (tries, False)
                host._url = url if wakes_up and tries == 2 else "memory:deaf"
                await hub.advance(6)
            if wakes_up:
                painter = await opening.result()
                await painter.aclose()
            else:
                await hub.advance(6)
                with pytest.raises(ConnectError):
                    await opening.result()
                assert len(heard) == FIRST_TRIES
