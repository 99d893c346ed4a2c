"""Agents on two and three brokers publish, subscribe, ask and answer as if they were on one."""

from __future__ import annotations

import pytest
from town import town

pytestmark = pytest.mark.anyio


async def test_two_brokers_prove_themselves_and_are_neighbours():
    async with town() as two:
        assert [two.open_at(place) for place in (0, 1)] == [1, 1]


async def test_what_is_published_at_one_broker_is_heard_at_the_other():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        async with builder.subscribe("tasks.>") as tasks:
            await director.publish("tasks.build", {"ref": "main"})
            message = await anext(tasks)
    assert (message.sender, message.topic, message.body) == ("DIRECTOR", "tasks.build", {"ref": "main"})


async def test_whoever_subscribes_later_at_the_other_broker_gets_the_key():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        async with director.subscribe("tasks.>") as own:
            await director.publish("tasks.build", 1)
            await anext(own)
            async with builder.subscribe("tasks.>") as tasks:
                await director.publish("tasks.build", 2)
                message = await anext(tasks)
    assert (message.body, message.missed) == (2, 0)
