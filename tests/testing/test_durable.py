"""What is kept is kept in memory, as long as the test: for agents that are away, and for work that was not done."""

from __future__ import annotations

import threading

import anyio
import pytest

import bus.testing

pytestmark = pytest.mark.anyio
assert bus.testing.open  # to import blocks, and a loop that runs is guarded against that

POLICY = """
version: 1
rollout: {sample_rate: 0}
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [work.>], inbox: hybrid}
  worker: {key: ecc256/sha256, subscribe: [work.>], inbox: hybrid}
topics:
  - {match: work.>, class: durable, retention: 1d}
"""


async def next_of(subscription):
    with anyio.fail_after(30):
        return await anext(subscription)


async def test_what_was_stored_waits_for_who_is_away(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", None)
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD") as lead:
        elsewhere = hub.host()
        async with elsewhere.agent("PAINTER") as painter, painter.subscribe("work.>", durable="paint"):
            pass
        await lead.publish("work.door", "blue")
        async with elsewhere.agent("PAINTER") as painter, painter.subscribe("work.>", durable="paint") as work:
            message = await next_of(work)
            assert (message.body, message.deliveries) == ("blue", 1)
            await message.ack(confirmed=True)


async def test_what_was_finished_does_not_come_again_in_another_process():
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD") as lead:
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="paint") as work:
            for colour in ("blue", "green"):
                await lead.publish("work.door", colour)
            await (await next_of(work)).ack(confirmed=True)
            assert (await next_of(work)).body == "green"  # and is not acknowledged
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="paint") as work:
            assert (await next_of(work)).body == "green"


async def test_what_nobody_acknowledges_comes_again_when_the_clock_says_so():
    async with (
        bus.testing.open(policy=POLICY) as hub,
        hub.agent("LEAD") as lead,
        hub.host().agent("PAINTER") as painter,
        painter.subscribe("work.>", durable="paint") as work,
    ):
        await lead.publish("work.door", "blue")
        assert (await next_of(work)).deliveries == 1
        await hub.advance(40)
        message = await next_of(work)
        assert (message.body, message.deliveries) == ("blue", 2)
        await message.ack()
