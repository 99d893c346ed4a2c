"""`decode=`: bodies become what their reader wants, and those of which that cannot be made are refused and ended."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import msgspec
import pydantic
import pytest
from agent_scenes import POLICY, inside, scene, soon, take

pytestmark = pytest.mark.anyio


@dataclass
class Wall:
    width: int
    height: int = 1


@dataclass
class Room:
    name: str
    walls: list[Wall]


class Struct(msgspec.Struct):
    width: int
    height: int = 1


class Model(pydantic.BaseModel):
    width: int
    height: int = 1


def number(body):
    return int(body["width"])


WANTED = [Wall, Struct, Model, number]


@pytest.mark.parametrize("wanted", WANTED, ids=lambda one: one.__name__)
async def test_a_body_becomes_what_is_wanted(wanted):
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>", decode=wanted) as tasks:
        await lead.publish("tasks.paint", {"width": 7})
        message = await soon(anext(tasks))
        assert message.body == (7 if wanted is number else wanted(width=7))
        assert message.body is message.body
        assert (message.sender, message.topic) == ("LEAD", "tasks.paint")
        assert message.data == b"\x81\xa5width\x07"


async def test_dataclasses_within_dataclasses():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>", decode=Room) as tasks:
        await lead.publish("tasks.paint", {"name": "hall", "walls": [{"width": 1}, {"width": 2, "height": 3}]})
        assert (await soon(anext(tasks))).body == Room("hall", [Wall(1), Wall(2, 3)])


async def test_bytes_are_decoded_by_a_function_of_them():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>", decode=bytes.decode) as tasks:
        await lead.publish("tasks.paint", b"text")
        assert await take(tasks, 1) == ["text"]


@pytest.mark.parametrize("wanted", WANTED, ids=lambda one: one.__name__)
@pytest.mark.parametrize("body", [{"width": "wide"}, {}, None, b"\xff", [1], "text"], ids=repr)
async def test_what_cannot_be_decoded_is_refused_and_the_rest_goes_on(wanted, body):
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>", decode=wanted) as tasks:
        await lead.publish("tasks.paint", body)
        receipt = await lead.publish_soon("tasks.paint", {"width": 7})
        assert (await soon(anext(tasks))).id == receipt.id
        refusal = await soon(anext(painter.refusals()))
        assert (refusal.direction, refusal.agent, refusal.topic, refusal.reason) == ("in", "LEAD", "tasks.paint", "undecodable")
        assert inside(painter).statistics()["received"]["undecodable"] == 1


async def test_batches_are_decoded_too():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>", decode=number) as tasks:
        await lead.publish_many("tasks.paint", [{"width": 1}, {}, {"width": 2}])
        assert [message.body for message in await soon(anext(tasks.batches()))] == [1, 2]


async def test_hooks_come_before_it():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>", decode=number) as tasks:
        painter.hooks.deliver(lambda _, message: message.replace(body={"width": message.body}))
        await lead.publish("tasks.paint", 3)
        assert await take(tasks, 1) == [3]
        painter.hooks.deliver(lambda _, messages: messages, batch=True)
        await lead.publish("tasks.paint", 4)
        assert await take(tasks, 1) == [4]


async def test_a_durable_message_that_cannot_be_decoded_becomes_a_dead_letter():
    policy = POLICY.replace("retention: 1d}", "retention: 1d, dead_readers: [LEAD]}")
    async with scene("LEAD", "PAINTER", policy=policy) as (hub, lead, painter):
        async with painter.subscribe("work.>", durable="walls", decode=Wall) as work, lead.subscribe("work.>", dead=True) as dead:
            await soon(lead.publish("work.wall", {"width": "wide"}))
            await soon(lead.publish("work.wall", {"width": 7}))
            message = await soon(anext(work))
            assert message.body == Wall(7)
            await message.ack()
            await hub.advance(1)
            letter = await soon(anext(dead))
            assert (letter.body, letter.dead_reason) == ({"width": "wide"}, "undecodable")


@pytest.mark.parametrize("nonsense", [7, "text", {"a": 1}])
async def test_what_decodes_nothing_is_said_at_once(nonsense):
    async with scene("PAINTER") as (_, painter):
        with pytest.raises(TypeError):
            painter.subscribe("tasks.>", decode=nonsense)


def test_neither_library_is_imported_before_it_is_named():
    code = "import sys, bus.agent.host, bus.testing; print(sorted({'msgspec', 'opentelemetry'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.strip() == "[]"
