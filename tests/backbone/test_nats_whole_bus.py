"""The whole bus with its durable topics on NATS: agents, a broker and its readers notice nothing of it."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_servers import nats_server, new_space

from bus import testing
from bus.backbone.nats.backbone import open_nats
from bus.clock import SystemClock
from bus.testing import memory_hub

POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker, MASON: worker}
roles:
  lead: {key: ecc256/sha256, publish: [work.>], subscribe: [results.>]}
  worker: {key: ecc256/sha256, publish: [results.>], subscribe: [work.>], groups: [builders]}
topics:
  - {match: work.>, class: durable, retention: 7d, max_deliver: 2, dead_readers: [LEAD]}
"""


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def server():
    with nats_server() as one:
        yield one


@pytest.fixture
async def backbone(server):
    one = await open_nats([server.url], SystemClock(), space=new_space())
    yield one
    await one.aclose()


@pytest.fixture
async def hub(backbone, monkeypatch):
    monkeypatch.setattr(memory_hub, "memory_backbone", lambda _: backbone)
    async with testing.open(policy=POLICY, clock=SystemClock()) as one:
        with anyio.fail_after(60):
            yield one


@pytest.mark.anyio
async def test_an_agent_that_was_away_gets_what_it_missed_from_nats(hub, backbone):
    async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="inbox"):
        pass
    async with hub.host().agent("LEAD") as lead:
        positions = [await lead.publish("work.paint", number) for number in range(5)]
    found = []
    async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="inbox") as work:
        while len(found) < 5:
            message = await anext(work)
            found.append((message.sender, message.body, message.position, message.deliveries))
            await message.ack(confirmed=True)
    assert found == [("LEAD", number, position, 1) for number, position in enumerate(positions)]
    assert backbone.statistics()["appended"] == 5


@pytest.mark.slow
@pytest.mark.anyio
async def test_what_its_reader_could_not_open_while_the_sender_was_away_comes_for_the_first_time_when_it_is_back(hub, backbone):
    """It is put off as often as it may be delivered."""
    async with hub.host().agent("LEAD") as lead:
        await lead.publish("work.paint", "early")
    async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="inbox", start="all") as work:
        while backbone.statistics()["put_off"] < 2:  # noqa: ASYNC110  it goes by the time of a server
            await anyio.sleep(0.1)
        async with hub.host().agent("LEAD"):
            message = await anext(work)
            assert (message.body, message.deliveries) == ("early", 1)
            await message.ack(confirmed=True)
    assert await backbone.dead_letters() == []
    stream = backbone.names.stream("work.>")
    assert (await backbone._jetstream.stream(stream))["state"]["messages"] == 1, "no mark is left"


@pytest.mark.anyio
async def test_a_group_shares_and_what_it_gives_up_is_a_dead_letter_that_can_be_requeued(hub, backbone):
    async with hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter, hub.host().agent("MASON") as mason:
        async with (
            lead.subscribe("work.>", dead=True) as dead,
            painter.subscribe("work.>", group="builders", durable="walls") as one,
            mason.subscribe("work.>", group="builders", durable="walls") as two,
        ):
            for number in range(4):
                await lead.publish("work.wall", number)
            found = dict.fromkeys(range(4), 0)
            all_there = anyio.Event()

            async def take(work) -> None:
                async for message in work:
                    found[message.body] += 1
                    if found == {0: 1, 1: 1, 2: 1, 3: 2}:
                        all_there.set()
                    if message.body == 3 and found[3] == 1:
                        await message.term("no stone")
                    else:
                        await message.ack(confirmed=True)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take, one)
                tasks.start_soon(take, two)
                letter = await anext(dead)
                assert (letter.topic, letter.sender, letter.dead_reason) == ("work.wall", "LEAD", "no stone")
                await backbone.requeue_dead("work.>", letter.position)
                await all_there.wait()
                tasks.cancel_scope.cancel()
