"""Hooks: what they give back goes on, what they take out goes no further and is counted, and what they fail at is refused."""

from __future__ import annotations

import anyio
import pytest
from agent_scenes import Later, inside, rest, scene, soon, take

import bus
from bus.errors import Drop, NotPermittedError

pytestmark = pytest.mark.anyio


def plain(context, record):
    return record


async def waiting(context, record):
    await anyio.lowlevel.checkpoint()
    return record


def batch(context, records):
    assert isinstance(records, list)
    return records


async def waiting_batch(context, records):
    await anyio.lowlevel.checkpoint()
    return list(records)


class Callable:
    async def __call__(self, context, record):
        return record


KINDS = [(plain, False), (waiting, False), (batch, True), (waiting_batch, True), (Callable(), False)]


async def every_way(lead, topic="tasks.paint") -> None:
    """One record, published in each way that there is."""
    await lead.publish(topic, 0)
    await lead.publish(topic, 1)
    await lead.publish(topic, 2, headers={"k": "v"})
    await lead.publish_soon(topic, 3)
    await lead.publish_many(topic, [4, 5])
    await lead.publish_many(topic, [b"6", b"7"])

    async def slowly():
        yield 8

    await lead.publish_many(topic, slowly(), wait="sent")


EVERY = [0, 1, 2, 3, 4, 5, b"6", b"7", 8]


@pytest.mark.parametrize(("hook", "is_batch"), KINDS, ids=[f"kind {number}" for number in range(len(KINDS))])
@pytest.mark.parametrize("side", ["publish", "deliver", "both"])
async def test_a_hook_that_gives_back_what_it_gets_changes_nothing(hook, is_batch, side):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        if side != "deliver":
            assert lead.hooks.publish(hook, batch=is_batch) is hook
        if side != "publish":
            painter.hooks.deliver(hook, batch=is_batch)
        await every_way(lead)
        assert await rest(hub, tasks) == EVERY
        assert (tasks.delivered, tasks.pending) == (len(EVERY), 0)


async def test_hooks_are_decorators_with_and_without_arguments():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        seen = []

        @lead.hooks.publish
        def one(context, record):
            seen.append((context, record))
            return record

        @lead.hooks.publish(batch=True)
        def two(context, records):
            seen.append((context, records))
            return records

        @painter.hooks.deliver()
        async def three(context, message):
            seen.append((context, message))
            return message

        await lead.publish("tasks.paint", {"n": 1}, headers={"k": "v"})
        assert await rest(hub, tasks) == [{"n": 1}]
        record = bus.Record("tasks.paint", {"n": 1}, {"k": "v"})
        assert seen[:2] == [(bus.HookContext("LEAD"), record), (bus.HookContext("LEAD"), [record])]
        context, message = seen[2]
        assert (context, message.sender, message.body) == (bus.HookContext("PAINTER", "tasks.>"), "LEAD", {"n": 1})


async def test_a_publish_hook_may_give_back_another_record():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:

        @lead.hooks.publish
        async def twice(context, record):
            body = record.body * 2 if isinstance(record.body, int) else b"bytes"
            return record._replace(body=body, headers={**record.headers, "twice": "yes"})

        await every_way(lead)
        await hub.settle()
        messages = [await anext(tasks) for _ in range(tasks.pending)]
        assert [message.body for message in messages] == [0, 2, 4, 6, 8, 10, b"bytes", b"bytes", 16]
        assert all(message.headers["twice"] == "yes" for message in messages)
        assert messages[2].headers["k"] == "v"


async def test_a_deliver_hook_may_give_back_another_message():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:

        @painter.hooks.deliver
        def other(context, message):
            return message.replace(body={"was": message.body}, headers={"k": "v"})

        receipt = await lead.publish_soon("tasks.paint", "blue")
        message = await soon(anext(tasks))
        assert (message.body, dict(message.headers), message.sender, message.id) == (
            {"was": "blue"},
            {"k": "v"},
            "LEAD",
            receipt.id,
        )
        assert message.replace(body=b"raw").body == b"raw"
        assert message.replace(headers={}).body == {"was": "blue"}
        with pytest.raises(TypeError):
            message.replace(body=object())


async def test_hooks_run_in_the_order_in_which_they_were_added_and_can_be_removed():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:

        def adding(letter):
            def publish(context, record):
                return record._replace(body=record.body + letter)

            def deliver(context, message):
                return message.replace(body=message.body + letter.upper())

            return publish, deliver

        (first, one), (second, two) = adding("a"), adding("b")
        for hook in (first, second):
            lead.hooks.publish(hook)
        for hook in (one, two):
            painter.hooks.deliver(hook)
        await lead.publish("tasks.paint", "-")
        assert await rest(hub, tasks) == ["-abAB"]
        lead.hooks.remove(first)
        painter.hooks.remove(two)
        lead.hooks.remove(print)
        await lead.publish("tasks.paint", "-")
        assert await rest(hub, tasks) == ["-bA"]
        lead.hooks.remove(second)
        painter.hooks.remove(one)
        await every_way(lead)
        assert await rest(hub, tasks) == EVERY
        assert "tasks.paint" in lead._quick  # beside what samples are published on


# ---- dropped ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_batch", [False, True])
async def test_what_a_publish_hook_drops_is_not_published_and_counted(is_batch):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:

        def none(context, record):
            raise Drop("not today")

        lead.hooks.publish(none, batch=is_batch)
        assert await lead.publish("tasks.paint", 1) is None
        assert await lead.publish("tasks.paint", 1) is None
        lead.publish_nowait("tasks.paint", 1)
        assert await lead.publish_many("tasks.paint", [1, 2, 3]) == 0
        assert inside(lead).statistics()["sent"]["dropped"] == 6
        for waits in (
            lambda: lead.publish("tasks.paint", 1, wait="sent"),
            lambda: lead.publish("control.stop", 1),
            lambda: lead.request("tasks.paint", 1),
            (await lead.publish_soon("tasks.paint", 1)).sent,
        ):
            with pytest.raises(Drop) as caught:
                await soon(waits())
            assert caught.value.reason == "not today"
        assert await rest(hub, tasks) == []


async def test_a_batch_hook_takes_out_what_it_does_not_give_back():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        lead.hooks.publish(lambda _, records: [one for one in records if one.body % 2], batch=True)
        assert await lead.publish_many("tasks.paint", range(100)) == 50
        await lead.publish("tasks.paint", 100)
        await lead.publish("tasks.paint", 101)
        painter.hooks.deliver(lambda _, messages: [one for one in messages if one.body % 3], batch=True)
        assert await take(tasks, 34) == [number for number in [*range(100), 101] if number % 2 and number % 3]
        assert tasks.delivered == 51
        del hub


async def test_what_a_deliver_hook_drops_is_not_handed_over_and_told():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:

        @painter.hooks.deliver
        async def odd(context, message):
            if message.body % 2:
                raise Drop("odd")
            return message

        await lead.publish_many("tasks.paint", range(10))
        assert await take(tasks, 5) == [0, 2, 4, 6, 8]
        await lead.publish("tasks.paint", 10)
        assert await take(tasks, 1) == [10]
        refusal = await soon(anext(painter.refusals()))
        assert (refusal.direction, refusal.agent, refusal.topic, refusal.reason) == ("in", "LEAD", "tasks.paint", "dropped")
        assert inside(painter).statistics()["received"]["dropped"] == 5
        del hub


async def test_replies_go_through_the_hooks_of_both_sides():
    async with (
        scene("LEAD", "PAINTER") as (hub, lead, painter),
        painter.subscribe("tasks.>") as tasks,
        anyio.create_task_group() as group,
    ):
        painter.hooks.publish(lambda _, record: record._replace(body=[*record.body, record.topic]))
        lead.hooks.deliver(lambda context, message: message.replace(body=[*message.body, context.pattern]))
        asked = Later(group, lambda: lead.request("tasks.paint", 1))
        await (await soon(anext(tasks))).reply(["done"])
        assert (await asked.result()).body == ["done", "tasks.paint", ""]

        def first_alone(context, message):
            if message.body[0] != "right":
                raise Drop
            return message

        lead.hooks.deliver(first_alone)
        asked = Later(group, lambda: lead.request("tasks.paint", 1))
        message = await soon(anext(tasks))
        await message.reply(["wrong"])
        await hub.settle()
        assert not asked.is_done
        await message.reply(["right"])
        assert (await asked.result()).body[0] == "right"


# ---- failing ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_batch", [False, True])
async def test_what_a_publish_hook_raises_is_raised_to_the_caller(is_batch):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:

        async def failing(context, record):
            body = record[-1].body if is_batch else record.body
            if body == 3:
                raise LookupError
            return record

        lead.hooks.publish(failing, batch=is_batch)
        for call in (lead.publish, lead.publish_soon, lead.request):
            with pytest.raises(LookupError):
                await call("tasks.paint", 3)
        with pytest.raises(LookupError) as caught:
            await lead.publish_many("tasks.paint", [1, 2, 3])
        accepted = 0 if is_batch else 2
        assert caught.value.accepted == accepted
        assert len(await rest(hub, tasks)) == accepted


async def test_what_a_deliver_hook_raises_is_logged_counted_and_not_handed_over(caplog):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:

        @painter.hooks.deliver
        def failing(context, message):
            if message.body % 2:
                raise LookupError("a secret?")
            return message

        await lead.publish_many("tasks.paint", range(10))
        assert await take(tasks, 5) == [0, 2, 4, 6, 8]
        await lead.publish("tasks.paint", 10)
        await take(tasks, 1)
        assert inside(painter).statistics()["received"]["hook_failed"] == 5
        assert (await soon(anext(painter.refusals()))).reason == "hook_failed"
        told = [record for record in caplog.records if record.exc_info]
        assert len(told) == 1
        assert isinstance(told[0].exc_info[1], LookupError)
        del hub


NONSENSE = [None, 7, "text", [], {}]


@pytest.mark.parametrize("given", NONSENSE, ids=repr)
async def test_what_a_hook_must_not_give_back_refuses_the_message(given):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        hook = lead.hooks.publish(lambda _, __: given)
        with pytest.raises(TypeError):
            await lead.publish("tasks.paint", 1)
        lead.hooks.remove(hook)

        @lead.hooks.publish
        async def alone(context, record):
            return given

        with pytest.raises(TypeError):
            await lead.publish("tasks.paint", 1)
        lead.hooks.remove(alone)
        if given != []:
            hook = lead.hooks.publish(lambda _, __: given, batch=True)
            with pytest.raises(TypeError):
                await lead.publish_many("tasks.paint", [1])
            lead.hooks.remove(hook)
        hook = painter.hooks.deliver(lambda _, __: given)
        async with anyio.create_task_group() as group:
            taken = Later(group, lambda: anext(tasks))
            await lead.publish("tasks.paint", 1)
            await hub.settle()
            assert (taken.is_done, tasks.pending) == (False, 0)
            group.cancel_scope.cancel()
        painter.hooks.remove(hook)
        await lead.publish("tasks.paint", 2)
        assert await rest(hub, tasks) == [2]


async def test_a_batch_hook_adds_nothing():
    async with scene("LEAD") as (_, lead):
        lead.hooks.publish(lambda _, records: records * 2, batch=True)
        with pytest.raises(ValueError):  # noqa: PT011  misuse of Python's own kind
            await lead.publish("tasks.paint", 1)


async def test_a_hook_moves_nothing_to_another_topic_and_gets_nothing_that_may_not_be_said():
    async with scene("LEAD", "PAINTER") as (_, lead, painter):
        seen = []
        painter.hooks.publish(lambda _, record: seen.append(record) or record)
        for call in (painter.publish, painter.publish_soon, painter.request):
            with pytest.raises(NotPermittedError):
                await call("tasks.paint", 1)
        assert seen == []
        lead.hooks.publish(lambda _, record: record._replace(topic="control.stop"))
        for _ in range(2):
            with pytest.raises(ValueError):  # noqa: PT011  misuse of Python's own kind
                await lead.publish("tasks.paint", 1)


async def test_publish_nowait_takes_plain_functions_alone():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        hook = lead.hooks.publish(lambda _, record: record._replace(body=record.body + 1))
        lead.publish_nowait("tasks.paint", 1)
        lead.hooks.publish(waiting)
        with pytest.raises(TypeError):
            lead.publish_nowait("tasks.paint", 1)
        lead.hooks.remove(waiting)
        lead.hooks.remove(hook)
        lead.publish_nowait("tasks.paint", 3)
        assert await rest(hub, tasks) == [2, 3]


@pytest.mark.parametrize("nonsense", [7, "text"])
async def test_what_is_no_function_is_no_hook(nonsense):
    async with scene("LEAD") as (_, lead):
        for add in (lead.hooks.publish, lead.hooks.deliver):
            with pytest.raises(TypeError):
                add(nonsense)


# ---- cancelled -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_batch", [False, True])
async def test_who_is_cancelled_within_a_deliver_hook_has_taken_nothing(is_batch):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        slow = True

        async def hook(context, message):
            if slow:
                await anyio.sleep_forever()
            return message

        painter.hooks.deliver(hook, batch=is_batch)
        await lead.publish_many("tasks.paint", range(10))
        await hub.settle()
        for take_one in (tasks.__anext__, tasks.next_batch):
            with anyio.move_on_after(0.01):
                await take_one()
            assert (tasks.pending, tasks.delivered) == (10, 0)
        slow = False
        assert await rest(hub, tasks) == list(range(10))


async def test_several_tasks_and_hooks_that_wait_lose_nothing():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>", limit=10_000) as tasks:
        found: list[int] = []
        painter.hooks.deliver(waiting)

        async def taking() -> None:
            async for message in tasks:
                found.append(message.body)  # noqa: PERF401  others append, too

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(taking)
            await lead.publish_many("tasks.paint", range(2_000))
            await hub.settle()
            painter.hooks.deliver(waiting_batch, batch=True)
            await lead.publish_many("tasks.paint", range(2_000, 4_000))
            await hub.settle()
            await tasks.aclose()
        assert sorted(found) == list(range(4_000))
