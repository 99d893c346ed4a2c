"""While a host is behind with what comes to it, what its agents say gathers, for a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agent_scenes import inside, take

import bus.testing
from bus.agent.gathering import GATHER_SECONDS
from bus.agent.outbox import Outbox
from bus.agent.way import ENOUGH_RECORDS

pytestmark = pytest.mark.anyio
assert bus.testing.open  # imported here: to import blocks, and a loop that runs is guarded against that

POLICY = """
version: 1
rollout: {sample_rate: 0}  # what is counted would be one more with one message in a hundred
agents: {LEAD: lead, PAINTER: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [alarms.>, tasks.>]}
  worker: {key: ecc256/sha256, subscribe: [">"]}
topics:
  - {match: alarms.>, priority: critical}
"""


@asynccontextmanager
async def behind() -> AsyncIterator[tuple[Any, Any, Any, Outbox]]:
    """A bus, who says something, all that is heard, and the outbox of a host that is behind."""
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe(">") as heard:
            for topic in ("tasks.paint", "tasks.sand", "alarms.fire"):  # opened, and granted
                await lead.publish(topic, "first")
            await take(heard, 3)
            outbox = inside(lead).outbox
            outbox.gathering.is_behind = lambda: True
            yield hub, lead, heard, outbox


async def test_what_is_said_meanwhile_shares_an_envelope_and_leaves_when_the_host_has_caught_up():
    async with behind() as (hub, lead, heard, outbox):
        before = outbox.counts["envelopes"]
        for number in range(5):
            await lead.publish("tasks.paint", number)
            await hub.settle()
            outbox.worked()
            await hub.settle()
        assert outbox.counts["envelopes"] == before
        outbox.gathering.is_behind = lambda: False
        outbox.worked()
        assert await take(heard, 5) == [*range(5)]
        assert outbox.counts["envelopes"] == before + 1


async def test_a_host_that_stays_behind_sends_after_a_moment_all_the_same():
    async with behind() as (hub, lead, heard, outbox):
        await lead.publish("tasks.paint", 1)
        await hub.settle()
        assert not heard.pending
        await hub.advance(GATHER_SECONDS)
        outbox.worked()
        assert await take(heard, 1) == [1]


async def test_what_is_urgent_and_what_is_enough_for_an_envelope_does_not_wait_and_takes_the_rest_along():
    async with behind() as (hub, lead, heard, outbox):
        await lead.publish("tasks.sand", "rest")
        await hub.settle()
        assert not heard.pending
        await lead.publish("alarms.fire", "urgent")
        assert {*await take(heard, 2)} == {"urgent", "rest"}
        for number in range(ENOUGH_RECORDS):
            await lead.publish("tasks.paint", number)
        outbox.worked()  # as after each slice: it may have begun to gather before there was enough
        assert await take(heard, ENOUGH_RECORDS) == [*range(ENOUGH_RECORDS)]


async def test_a_host_that_is_not_behind_sends_at_once():
    async with behind() as (_, lead, heard, outbox):
        outbox.gathering.is_behind = lambda: False
        before = outbox.counts["envelopes"]
        for number in range(3):
            await lead.publish("tasks.paint", number)
            assert await take(heard, 1) == [number]
        assert outbox.counts["envelopes"] == before + 3
