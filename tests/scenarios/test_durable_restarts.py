"""A broker that dies and comes back over its journal: what was stored is there, what was settled does not come again."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from kept_world import kept_world, until

from bus.errors import BusError

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "journal"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "journal" else None


async def next_of(subscription):
    with anyio.fail_after(60):
        return await anext(subscription)


async def test_what_was_stored_is_there_and_what_was_acknowledged_does_not_come_again(folder):
    async with kept_world(folder=folder) as world:
        async with world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
            async with painter.subscribe("work.>", durable="mine") as work:
                for number in range(6):
                    await lead.publish("work.a", number)
                for _ in range(6):
                    message = await next_of(work)
                    if message.body % 2 == 0:
                        await message.ack(confirmed=True)
                await world.restart()
                again = [await next_of(work) for _ in range(3)]
                assert [(one.body, one.redelivered) for one in again] == [(1, True), (3, True), (5, True)]
                for one in again:
                    await one.ack(confirmed=True)
                assert work.pending == 0
        await world.restart()
        async with world.agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine") as work:
            await painter._host.connection.sync()
            assert work.pending == 0
            assert world.counted["backbone"]["unsettled"] == 0


async def test_what_is_published_while_there_is_no_broker_is_stored_when_there_is_one(folder):
    async with kept_world(folder=folder) as world, world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            backbone = await world.stop()
            receipts = [await lead.publish_soon("work.a", number) for number in range(20)]
            await world.start(backbone if folder is None else None)
            with anyio.fail_after(60):
                positions = [await receipt.stored() for receipt in receipts]
            assert positions == sorted(set(positions))
            assert [(await next_of(work)).body for _ in range(20)] == [*range(20)]


async def test_a_broker_that_dies_again_and_again_loses_nothing_and_stores_nothing_twice(folder):
    sent, got = 60, {}

    async def publish(lead) -> None:
        for number in range(sent):
            await lead.publish("work.a", number)

    async def read(work) -> None:
        async for message in work:
            got.setdefault(message.body, []).append(message.position)
            await message.ack()

    async with kept_world(folder=folder) as world, world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work, anyio.create_task_group() as tasks:
            tasks.start_soon(publish, lead)
            tasks.start_soon(read, work)
            for seen in range(5, 50, 9):
                await until(lambda seen=seen: len(got) >= seen, seconds=30)
                await world.restart()
            await until(lambda: len(got) == sent, seconds=30)
            tasks.cancel_scope.cancel()
        assert sorted(got) == [*range(sent)]
        assert len({positions[0] for positions in got.values()}) == sent
        assert all(len({*positions}) == 1 for positions in got.values()), "stored once each"


async def test_who_was_away_all_the_time_opens_what_was_kept_over_restarts(folder):
    async with kept_world(folder=folder) as world:
        async with world.agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine"):
            pass
        await world.restart()
        async with world.agent("LEAD") as lead:
            await lead.publish("work.a", "first")
        await world.restart()
        async with world.agent("SECOND") as second:
            await second.publish("work.b", "second")
        await world.restart()
        async with world.agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine") as work:
            assert [((one := await next_of(work)).body, one.sender) for _ in range(2)] == [("first", "LEAD"), ("second", "SECOND")]


async def test_a_publisher_that_was_started_again_grants_what_it_kept_over_a_restart_of_the_broker(folder):
    async with kept_world(folder=folder) as world:
        async with world.agent("LEAD") as lead:
            await lead.publish("work.a", "early")
        await world.restart()
        async with world.agent("LEAD"), world.agent("PAINTER") as painter:
            async with painter.subscribe("work.>", durable="mine", start="all") as work:
                assert (await next_of(work)).body == "early"


async def test_dead_letters_outlive_a_broker(folder):
    async with kept_world(folder=folder) as world:
        async with world.agent("MONITOR") as monitor, monitor.subscribe("work.>", dead=True, durable="dead"):
            pass
        async with world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
            async with painter.subscribe("work.>", durable="mine") as work:
                await lead.publish("work.a", "nonsense")
                await (await next_of(work)).term("bad")
                await until(lambda: world.counted["backbone"]["dead_letters"] == 1)
        await world.restart()
        async with world.agent("MONITOR") as monitor, monitor.subscribe("work.>", dead=True, durable="dead") as dead:
            letter = await next_of(dead)
            assert (letter.body, letter.dead_reason) == ("nonsense", "bad")


async def test_published_is_stored_and_refused_and_stored_is_acknowledged_dead_and_waiting(folder):
    async with kept_world(folder=folder) as world, world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            receipts = [await lead.publish_soon("work.a", number) for number in range(100)]
            stored = refused = 0
            for receipt in receipts:
                try:
                    await receipt.stored()
                    stored += 1
                except BusError:
                    refused += 1
            assert stored + refused == 100
            for number in range(stored):
                message = await next_of(work)
                if number % 3 == 0:
                    await message.ack()
                elif number % 3 == 1:
                    await message.term("no")
            await painter._host.connection.sync()
            counted = world.counted
            kept = counted["backbone"]
            assert counted["stored"] == stored == kept["appended"]
            assert kept["acks"] + kept["terms"] + kept["unsettled"] == stored
            await until(lambda: world.counted["backbone"]["dead_letters"] == kept["terms"])
