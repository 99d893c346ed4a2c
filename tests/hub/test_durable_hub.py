"""What is kept outlives the hub: agents that were away get it, and can open it, also from a hub that was opened since."""

from __future__ import annotations

import pytest

from bus.backbone.interface import ConsumerName, DeadLetter
from bus.hub import admin, overview

pytestmark = pytest.mark.anyio


async def test_what_was_stored_is_there_when_the_hub_opens_again(home):
    async with home.open() as hub:
        async with hub.agent("PAINTER") as painter, painter.subscribe("work.>", durable="inbox"):
            pass
        async with hub.agent("LEAD") as lead:
            positions = [await lead.publish("work.paint", number) for number in range(3)]
    assert len(set(positions)) == 3
    async with home.open() as hub, hub.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="inbox") as work:
            for number in range(3):
                message = await anext(work)
                assert (message.sender, message.body, message.position) == ("LEAD", number, positions[number])
                await message.ack(confirmed=True)
        (consumer,) = await admin.ask(home.state.admin_socket, "consumers")
        assert (consumer["owner"], consumer["behind"], consumer["outstanding"]) == ("PAINTER", 0, 0)


async def test_a_process_that_connects_gets_what_waited_for_it(home):
    async with home.open() as hub:
        async with hub.agent("PAINTER") as painter, painter.subscribe("work.>", durable="inbox"):
            pass
        async with hub.agent("LEAD") as lead:
            await lead.publish("work.paint", b"the door")
        async with home.connect(hub.url, agent="PAINTER") as painter, painter.subscribe("work.>", durable="inbox") as work:
            message = await anext(work)
            assert message.body == b"the door"
            await message.ack(confirmed=True)


async def test_a_time_that_is_no_date_hides_nothing_else_in_a_list():
    """Servers that keep dead letters may say of them what they like."""
    letter = DeadLetter("work.>", 9, "work.a", "LEAD", bytes(16), ConsumerName("PAINTER", "inbox"), 1, "bad", 1, (1 << 63) - 1)
    assert overview._dead(letter)["died"].startswith("9999-12-31")
    assert overview._dead(letter._replace(died_ms=-1))["died"].startswith("1970-01-01")
