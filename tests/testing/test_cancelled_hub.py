"""Whatever agents do can be cancelled at any checkpoint, and nothing is left: no task, no entry in a queue, no credit, no turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import bus.testing
from bus.testing import cancel_everywhere

pytestmark = pytest.mark.anyio
assert bus.testing.open  # to import blocks, and a loop that runs is guarded against that

POLICY = """
version: 1
rollout: {sample_rate: 0}
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [tasks.>, work.>, control.>], subscribe: [results.>], inbox: hybrid}
  worker: {key: ecc256/sha256, publish: [results.>], subscribe: [tasks.>, work.>, control.>], groups: ["*"]}
topics:
  - {match: work.>, class: durable, retention: 1d}
  - {match: control.>, signed_by: identity, priority: critical, cosign: ml-dsa-65}
"""

Scenario = Callable[[], Awaitable[None]]


def publishing(hub: Any, lead: Any, painter: Any) -> Scenario:
    async def scenario() -> None:
        for number in range(5):
            await lead.publish("tasks.paint", number)
        await lead.publish("control.stop", {})

    return scenario


def publishing_many(hub: Any, lead: Any, painter: Any) -> Scenario:
    async def scenario() -> None:
        await lead.publish_many("tasks.paint", [b"blue" * 25] * 3_000)
        await lead.drain()

    return scenario


def asking(hub: Any, lead: Any, painter: Any) -> Scenario:
    async def scenario() -> None:
        await lead.request("tasks.ask", "blue?")
        async for _ in lead.request_many("tasks.ask", "blue?", most=1):
            pass

    return scenario


def subscribing(hub: Any, lead: Any, painter: Any) -> Scenario:
    async def scenario() -> None:
        async with painter.subscribe("tasks.door") as one, painter.subscribe("tasks.door", group="doors") as other:
            await lead.publish("tasks.door", "blue")
            await anext(one)
            await anext(other)

    return scenario


def opening(hub: Any, lead: Any, painter: Any) -> Scenario:
    async def scenario() -> None:
        async with hub.agent("CARPENTER") as carpenter, carpenter.subscribe("tasks.door") as tasks:
            await lead.publish("tasks.door", "oak")
            await anext(tasks)
            await carpenter.publish("results.door", "done")

    return scenario


def opening_elsewhere(hub: Any, lead: Any, painter: Any) -> Scenario:
    elsewhere = hub.host()

    async def scenario() -> None:
        async with elsewhere.agent("CARPENTER") as carpenter, carpenter.subscribe("tasks.door") as tasks:
            await lead.publish("tasks.door", "oak")
            await anext(tasks)

    return scenario


def keeping(hub: Any, lead: Any, painter: Any) -> Scenario:
    """What is still unsettled when it is cancelled comes again: that is no leak, and taken away before anybody looks."""

    async def scenario() -> None:
        async with painter.subscribe("work.>", durable="inbox") as work:
            position = await lead.publish("work.paint", "blue")
            receipt = await lead.publish_soon("work.paint", "red")
            await receipt.stored()
            message = await anext(work)
            while message.position < position:  # of a run that was cancelled
                await message.ack()
                message = await anext(work)
            await message.touch()
            await message.ack(confirmed=True)
            await (await anext(work)).term("enough")
        await lead.drain()

    return scenario


async def serve(painter: Any) -> None:
    async with painter.subscribe("tasks.>", overflow="drop_oldest") as tasks:
        async for task in tasks:
            if task.topic == "tasks.ask":
                await task.reply("done")


@pytest.mark.parametrize("make", [publishing, publishing_many, asking, subscribing, keeping, opening, opening_elsewhere])
async def test_what_agents_do_leaves_nothing_in_a_hub_that_goes_on(make):
    async with (
        bus.testing.open(policy=POLICY) as hub,
        hub.agent("LEAD") as lead,
        hub.host().agent("PAINTER") as painter,
        painter.subscribe("control.>", overflow="drop_oldest"),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(serve, painter)
        await hub.settle()
        assert await cancel_everywhere(make(hub, lead, painter), hub, settle=hub.settle) >= 1
        tasks.cancel_scope.cancel()


async def test_a_hub_that_is_opened_and_left_leaves_nothing():
    async def scenario() -> None:
        async with (
            bus.testing.open(policy=POLICY) as hub,
            hub.agent("LEAD") as lead,
            hub.agent("PAINTER") as painter,
            painter.subscribe("tasks.>") as tasks,
        ):
            await lead.publish("tasks.paint", 1)
            await anext(tasks)

    assert await cancel_everywhere(scenario) > 10
