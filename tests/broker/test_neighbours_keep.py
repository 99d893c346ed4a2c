"""What is slow, late or kept, across brokers: full readers, lost keys, durable subscriptions."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from town import Town, town

from bus.errors import SlowReaderError

pytestmark = pytest.mark.anyio


async def test_a_full_reader_at_a_neighbour_stops_the_publisher_and_loses_nothing():
    async with town() as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        builder = await stack.enter_async_context(two[1].agent("BUILDER"))
        tasks = await stack.enter_async_context(builder.subscribe("tasks.>", limit=4))
        for number in range(12):
            await director.publish("tasks.build", number)
            await two.settle()
            await two.later(0.02, step=0.01)
        assert _stops(two) == [1]
        got = [(await anext(tasks)).body for _ in range(4)]
        await two.settle()
        got += [(await anext(tasks)).body for _ in range(4)]
        await two.settle()
        got += [(await anext(tasks)).body for _ in range(4)]
        assert got == [*range(12)]
        await two.settle()
        assert _stops(two) == [0]


async def test_a_lane_that_is_stopped_by_a_neighbour_goes_on_when_the_link_is_lost():
    async with town() as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        builder = await stack.enter_async_context(two[1].agent("BUILDER"))
        await stack.enter_async_context(builder.subscribe("tasks.>", limit=1))
        for number in range(3):
            await director.publish("tasks.build", number)
            await two.later(0.02, step=0.01)
        assert _stops(two) == [1]
        await two.part()
        assert _stops(two) == [0]


async def test_a_reader_at_a_neighbour_that_never_reads_is_ended_there():
    async with town() as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        builder = await stack.enter_async_context(two[1].agent("BUILDER"))
        tasks = await stack.enter_async_context(builder.subscribe("tasks.>", limit=1))
        for number in range(3):
            await director.publish("tasks.build", number)
            await two.later(0.02, step=0.01)
        await two.later(3)
        assert (await anext(tasks)).body == 0
        with pytest.raises(SlowReaderError):
            await anext(tasks)
        assert _stops(two) == [0]


async def test_what_is_kept_by_a_shared_backbone_is_read_at_the_other_broker():
    async with town(shared=True) as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        builder = await stack.enter_async_context(two[1].agent("BUILDER"))
        work = await stack.enter_async_context(builder.subscribe("work.>", durable="mine"))
        await director.publish("work.build", 1)
        message = await anext(work)
        await message.ack()
        assert message.body == 1


async def test_who_is_away_and_has_a_durable_subscription_at_a_neighbour_can_open_what_was_kept_meanwhile():
    async with town(shared=True) as two, two[0].agent("DIRECTOR") as director:
        host = two[1].host()
        async with host.agent("BUILDER") as builder:
            async with builder.subscribe("work.>", durable="mine"):
                await two.settle()
        await two.settle()
        await director.publish("work.build", 1)
        await two.settle()
        async with two[1].host().agent("BUILDER") as builder, builder.subscribe("work.>", durable="mine") as work:
            message = await anext(work)
            assert message.body == 1


async def test_the_listing_says_at_which_neighbour_an_agent_is():
    async with town() as two, two[0].agent("DIRECTOR"), two[1].agent("BUILDER") as builder, builder.subscribe("tasks.>"):
        await two.settle()
        live = {one.agent: one for one in two[0].broker.listing.live()}
        assert (live["BUILDER"].kind, live["BUILDER"].process, live["BUILDER"].subscriptions) == ("neighbour", None, 1)
        assert live["DIRECTOR"].kind == "memory"
        assert [(one.agent, one.pattern) for one in two[0].broker.listing.subscriptions()] == [("BUILDER", "tasks.>")]


async def test_whoever_lost_a_key_asks_for_it_across_brokers():
    async with town() as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        builder = await stack.enter_async_context(two[1].agent("BUILDER"))
        tasks = await stack.enter_async_context(builder.subscribe("tasks.>"))
        await director.publish("tasks.build", 1)
        assert (await anext(tasks)).body == 1
        newcomer = await stack.enter_async_context(two[1].host().agent("TESTER"))
        other = await stack.enter_async_context(newcomer.subscribe("tasks.>"))
        await director.publish("tasks.build", 2)
        assert (await anext(other)).body == 2


def _stops(two: Town) -> list[int]:
    """What stops each lane of the topic at the first broker."""
    return [lane.stops for lane in two[0].broker._lanes.of("tasks.build")]
