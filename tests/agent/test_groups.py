"""Queue groups: each message goes to one member, the free ones first, and whoever is no member gets it all the same."""

from __future__ import annotations

import anyio
import pytest
from agent_scenes import Later, apart, rest, scene, soon

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("are_apart", [False, True])
async def test_each_message_goes_to_one_member_and_they_share_the_work(are_apart):
    async with scene("LEAD") as (hub, lead), anyio.create_task_group():
        workers = [
            await (apart(hub, name) if are_apart else hub.agent(name)).__aenter__() for name in ("PAINTER", "CARPENTER", "MASON")
        ]
        crew = [await worker.subscribe("tasks.>", group="crew").__aenter__() for worker in workers]
        for number in range(300):
            await lead.publish("tasks.paint", number)
        found = [await rest(hub, one) for one in crew]
        assert sorted(number for mine in found for number in mine) == list(range(300))
        assert all(mine == sorted(mine) and len(mine) > 50 for mine in found)


async def test_who_is_no_member_gets_everything():
    async with scene("LEAD", "PAINTER", "CARPENTER", "SECOND") as (hub, lead, painter, carpenter, second):
        async with (
            painter.subscribe("tasks.>", group="crew") as one,
            carpenter.subscribe("tasks.>", group="crew") as two,
            painter.subscribe("tasks.>") as alone,
            second.subscribe("tasks.>") as all_of_them,
        ):
            await lead.publish_many("tasks.paint", range(50))
            shared = await rest(hub, one) + await rest(hub, two)
            assert sorted(shared) == list(range(50))
            assert await rest(hub, alone) == await rest(hub, all_of_them) == list(range(50))


async def test_members_of_one_name_are_one_group_whatever_their_patterns():
    async with scene("LEAD", "MASON", "PAINTER", "CARPENTER") as (hub, lead, mason, painter, carpenter):
        async with (
            painter.subscribe("tasks.>", group="crew") as one,
            carpenter.subscribe("tasks.>", group="crew") as two,
            mason.subscribe("tasks.*", group="crew") as other_pattern,
        ):
            await lead.publish_many("tasks.paint", range(30))
            assert sorted(await rest(hub, one) + await rest(hub, two) + await rest(hub, other_pattern)) == list(range(30))


async def test_a_busy_member_is_passed_over_and_nothing_is_lost():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter, apart(hub, "CARPENTER") as carpenter:
        async with (
            painter.subscribe("tasks.>", group="crew", limit=2) as busy,
            carpenter.subscribe("tasks.>", group="crew") as free,
        ):
            for number in range(100):
                await soon(lead.publish("tasks.paint", number))
                await hub.settle()
            assert busy.pending <= 3
            assert len(await rest(hub, free)) >= 97


async def test_where_all_are_busy_the_work_waits_and_none_is_ended():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter:
        async with painter.subscribe("tasks.>", group="crew", limit=2) as crew, anyio.create_task_group() as group:
            many = Later(group, lambda: lead.publish_many("tasks.paint", range(50)))
            await hub.settle()
            await hub.advance(10)
            assert crew.is_open
            found = []
            while len(found) < 50:
                found.append((await soon(anext(crew))).body)
            assert found == list(range(50))
            await many.result()


async def test_who_leaves_in_the_middle_hands_the_rest_to_the_others():
    """What has left for a member is his; the others get all that comes after."""
    async with scene("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter):
        async with carpenter.subscribe("tasks.>", group="crew") as stays:
            async with painter.subscribe("tasks.>", group="crew") as leaves:
                await lead.publish_many("tasks.paint", range(20))
                first = await rest(hub, leaves)
            await hub.settle()
            await lead.publish_many("tasks.paint", range(20, 40))
            assert sorted(first + await rest(hub, stays)) == list(range(40))
