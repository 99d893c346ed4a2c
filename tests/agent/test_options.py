"""What a message is published with: an id of the caller's, a time to live, a priority; and trust that has grown old."""

from __future__ import annotations

import anyio
import pytest
from agent_scenes import Later, apart, inside, rest, scene, soon

from bus.errors import TrustStaleError
from bus.testing import ManualClock

pytestmark = pytest.mark.anyio


# ---- ids -------------------------------------------------------------------------------------------------------------------------


async def test_an_id_of_the_callers_is_the_same_each_time_and_no_other_senders():
    async with scene("LEAD", "SECOND", "PAINTER") as (_, lead, second, painter), painter.subscribe("tasks.>") as tasks:
        ids = []
        for agent, given in [(lead, "order 7"), (lead, "order 8"), (second, "order 7")]:
            receipt = await agent.publish_soon("tasks.paint", 1, id=given)
            await soon(receipt.sent())
            message = await soon(anext(tasks))
            assert receipt.id == message.id
            ids.append(message.id)
        assert len({*ids}) == 3
        await lead.publish("tasks.paint", 1, id="order 7")
        assert (await soon(anext(tasks))).id == ids[0]


async def test_a_message_with_an_id_travels_alone_and_in_order():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.paint", 0, id="zero")
        await lead.publish("tasks.paint", 1, id="one")
        await hub.settle()
        messages = [await soon(anext(tasks)) for _ in range(2)]
        assert [message.body for message in messages] == [0, 1]
        assert [message.header.records for message in messages] == [1, 1]


# ---- time to live ----------------------------------------------------------------------------------------------------------------


async def test_what_is_too_old_when_it_is_taken_in_reaches_nobody():
    clock = ManualClock()
    async with (
        scene("LEAD", clock=clock) as (hub, lead),
        apart(hub, "PAINTER") as painter,
        painter.subscribe("lists.>", limit=1) as few,
    ):
        for number in range(3):
            await lead.publish("lists.a", number, ttl=1)
            await hub.settle()
        clock.advance(1.5)  # the first is with its reader; the others wait for his credit
        assert await rest(hub, few) == [0]
        await hub.settle()
        assert few.pending == 0
        await lead.publish("lists.a", 3, ttl=1)
        await hub.settle()
        message = await soon(anext(few))
        assert (message.body, message.missed) == (3, 2)


async def test_nothing_lives_longer_than_its_rule_allows():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("short.>") as short:
        for ttl in (None, 0.5, 3600):
            await lead.publish("short.news", ttl, ttl=ttl)
        lives = [(message.header.expires_ms - message.header.sent_ms) async for message in _first(short, 3)]
    assert sorted(lives) == [500, 1000, 1000]


async def _first(subscription, count: int):
    for _ in range(count):
        yield await soon(anext(subscription))


# ---- priorities ------------------------------------------------------------------------------------------------------------------


async def test_what_is_critical_goes_before_what_waits():
    """Everything is accepted in one turn of the loop; the turn that leaves takes the critical first."""
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter, painter.subscribe("lists.>", limit=100_000) as lists:
        await lead.publish_many("lists.box", range(1_000))
        for number in range(3):
            await lead.publish("lists.box", f"critical {number}", priority="critical")
        await lead.publish("lists.box", "normal", priority="normal")
        found = await rest(hub, lists)
    assert found[:3] == ["critical 0", "critical 1", "critical 2"]
    assert found.index("normal") < found.index(999)
    assert [one for one in found if isinstance(one, int)] == list(range(1_000))


async def test_what_is_critical_passes_a_reader_who_is_slow():
    """While many turns of bulk are out, the next turn takes what is critical along first."""
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter:
        async with (
            painter.subscribe("lists.>", limit=1_000_000) as lists,
            anyio.create_task_group() as group,
        ):
            bulk = Later(group, lambda: lead.publish_many("lists.box", (bytes(1_000) for _ in range(30_000))))
            for _ in range(30):
                await anyio.lowlevel.checkpoint()
            assert not bulk.is_done
            before = lists.pending
            await lead.publish("lists.box", "critical", priority="critical")
            await bulk.result()
            found = await rest(hub, lists)
    assert found.index("critical") < before + 15_000


# ---- trust -----------------------------------------------------------------------------------------------------------------------


async def test_without_news_of_trust_nothing_is_sealed_and_publish_says_until_when():
    clock = ManualClock()
    async with scene("LEAD", "PAINTER", clock=clock) as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.paint", "before")
        assert await rest(hub, tasks) == ["before"]
        statement = inside(lead).keyring.snapshot.trust.statement
        clock.ms = statement.next_update_ms + 1  # the wall clock alone: nothing that is due happens
        with pytest.raises(TrustStaleError) as caught:
            await soon(lead.publish("tasks.paint", "stale", wait="sent"))
        assert caught.value.until == statement.next_update_ms
        with pytest.raises(TrustStaleError):
            await lead.publish("tasks.paint", "stale")
        with pytest.raises(TrustStaleError):
            lead.publish_nowait("tasks.paint", "stale")
        with pytest.raises(TrustStaleError):
            await lead.publish_many("tasks.paint", [b"stale"])
        with pytest.raises(TrustStaleError):
            await soon(lead.request("tasks.paint", "stale"))
        hub.state_trust()
        await hub.settle()
        await lead.publish("tasks.paint", "after")
        assert await rest(hub, tasks) == ["after"]
