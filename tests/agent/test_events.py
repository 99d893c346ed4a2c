"""Events: what happens to an agent beside its messages is told once, in order, and is over when the agent is."""

from __future__ import annotations

import anyio
import pytest
from agent_scenes import POLICY, Later, inside, scene, soon

import bus
from bus.agent.last_ones import KEPT

pytestmark = pytest.mark.anyio


async def test_renewals_are_told_to_whom_they_concern():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        await hub.advance(900)
        for agent in (lead, painter):
            assert await soon(anext(agent.events())) == bus.Renewed()


async def test_another_policy_is_told_and_news_of_trust_alone_is_not():
    async with scene("LEAD") as (hub, lead):
        hub.state_trust()
        await hub.settle()
        await hub.change_policy(POLICY.replace("max_bytes: 256B", "max_bytes: 128B"))
        await hub.settle()
        assert await soon(anext(lead.events())) == bus.PolicyChanged()
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await anext(lead.events())


async def test_what_was_missed_is_told_with_its_subscription():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("alone.>", limit=3, overflow="drop_oldest") as few:
            for number in range(10):
                await lead.publish("alone.box", number)
            await hub.settle()
            assert (await soon(anext(few))).missed == 7
            assert await soon(anext(painter.events())) == bus.Missed("alone.>", 7)


async def test_events_end_with_their_agent_and_so_do_refusals():
    async with scene("LEAD", "PAINTER") as (hub, _, painter):
        hub.revoke("LEAD")
        await hub.settle()

        async def every(iterator) -> list:
            return [one async for one in iterator]

        async with anyio.create_task_group() as group:
            events, refusals = Later(group, lambda: every(painter.events())), Later(group, lambda: every(painter.refusals()))
            await hub.settle()
            assert not events.is_done
            await painter.aclose()
            assert await events.result() == []
            assert await refusals.result() == []


async def test_only_the_newest_are_kept():
    async with scene("LEAD") as (_, lead):
        for number in range(KEPT + 10):
            lead.happened.add(bus.Missed("tasks.>", number))
        assert (await soon(anext(lead.events()))).messages == 10


async def test_refusals_are_told_to_every_agent_of_the_host_and_logged_once_a_minute(caplog):
    async with scene("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter):
        async with painter.subscribe("tasks.>"):
            await lead.publish("tasks.paint", 1)
            await hub.settle()
            host = inside(painter)
            for _ in range(100):
                host.reporting.not_taken(b"nonsense", "malformed", None)
            for agent in (painter, carpenter):
                refusal = await soon(anext(agent.refusals()))
                assert (refusal.direction, refusal.reason) == ("in", "malformed")
            assert host.statistics()["refusals"] == {"in:malformed": 100}
            assert len([record for record in caplog.records if "malformed" in record.getMessage()]) == 1
            await hub.advance(61)
            host.reporting.not_taken(b"nonsense", "malformed", None)
            assert len([record for record in caplog.records if "malformed" in record.getMessage()]) == 2
