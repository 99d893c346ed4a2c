"""Hosts with more topics than they keep open, more readers to grant to than turns may be out, and readers that just leave."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest
from agent_scenes import Later, inside, rest, scene

from bus.agent import opened_topics, outbox
from bus.broker import pacing
from bus.errors import NoRespondersError

pytestmark = pytest.mark.anyio
READERS = [f"READER{number}" for number in range(8)]
POLICY = f"""
version: 1
agents: {{LEAD: lead, {", ".join(f"{name}: reader" for name in READERS)}}}
roles:
  lead: {{key: ecc256/sha256, publish: ['>']}}
  reader: {{key: ecc256/sha256, subscribe: [tasks.>]}}
"""


async def test_a_topic_is_not_closed_while_something_of_it_may_have_to_be_sent_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opened_topics, "MAX_OPEN", 8)
    async with scene() as (hub,):
        sending, reading = hub.host(), hub.host()
        async with sending.agent("LEAD") as lead, reading.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.first", 0)
            await hub.settle()
            reading._links[0].pause()
            await lead.publish("tasks.first", 1)
            await hub.settle()
            assert inside(lead).outbox.out == 1, "its reader has not taken it in"
            for number in range(20):
                await lead.publish(f"other.a{number}", number)
                await hub.settle()
            sending.disconnect()
            reading._links[0].resume()
            await hub.settle()
            await hub.advance(2)
            await lead.publish("tasks.first", 2)
            assert await rest(hub, tasks) == [0, 1, 2]
            assert hub.broker.statistics()["cut"] == {}
            assert hub.broker.statistics()["refused"] == {}


async def test_more_grants_than_turns_may_be_out_leave_as_turns_come_back_and_before_what_they_open(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(outbox, "TURN_BYTES", 1)
    for room in (outbox, pacing):
        monkeypatch.setattr(room, "MAX_TURNS_OUT", 4)
    async with scene(policy=POLICY) as (hub,), AsyncExitStack() as stack:
        subscriptions = []
        for name in READERS:
            reader = await stack.enter_async_context(hub.host().agent(name))
            subscriptions.append(await stack.enter_async_context(reader.subscribe("tasks.>")))
        async with hub.host().agent("LEAD") as lead:
            for number in range(5):
                await lead.publish("tasks.a", number)
            await hub.advance(1)
            assert hub.broker.statistics()["cut"] == {}
            for one in subscriptions:
                assert await rest(hub, one) == [0, 1, 2, 3, 4]
            assert inside(lead).outbox.is_idle


async def test_a_request_whose_last_reader_has_just_left_fails_at_once():
    async with scene("PAINTER") as (hub, painter):
        asking = hub.host()
        async with asking.agent("LEAD") as lead, anyio.create_task_group() as group:
            async with painter.subscribe("tasks.>") as tasks:
                asked = Later(group, lambda: lead.request("tasks.paint", 1, timeout=30))
                await hub.settle()
                await (await anext(tasks)).reply("here")
                assert (await asked.result()).body == "here"
                asking._links[0].pause()  # that it leaves is on its way
            await hub.settle()
            late = Later(group, lambda: lead.request("tasks.paint", 2, timeout=30))
            await hub.settle()
            assert not late.is_done
            asking._links[0].resume()
            await hub.settle()
            assert isinstance(late.error, NoRespondersError)
            assert inside(lead).statistics()["requests"]["outstanding"] == 0


async def test_who_reads_large_records_slowly_gets_all_of_them_and_has_few_at_a_time():
    async with scene("LEAD") as (hub, lead):
        host = hub.host()
        async with host.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks, anyio.create_task_group() as group:
            bodies = [number.to_bytes(2, "big") + bytes(300_000) for number in range(100)]
            sent = Later(group, lambda: lead.publish_many("tasks.paint", bodies, wait="sent"))
            await hub.settle()
            assert 25 <= tasks.pending <= 29, "eight mebibytes"
            found = []
            for _ in bodies:
                found.append((await anext(tasks)).body)
                await hub.settle()
                assert tasks.pending <= 29
            assert found == bodies
            assert await sent.result() == 100
