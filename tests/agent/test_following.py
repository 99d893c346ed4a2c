"""Another policy while all goes on: what it forbids ends with the rule that does, what it allows goes on as if nothing were."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from agent_scenes import POLICY, Later, apart, inside, numbered, numbers, rest, scene, soon, take

from bus.agent.opened_topics import EXPECTED_SECONDS
from bus.errors import MessageTooLargeError, NotPermittedError, RevokedError
from bus.testing.policy_texts import in_domain

pytestmark = pytest.mark.anyio

SUBSCRIBES = "subscribe: [tasks.>, control.>,"
NO_TASKS = POLICY.replace(SUBSCRIBES, "subscribe: [control.>,")
DENIED = POLICY.replace("groups: [{group: crew}]", "deny: {subscribe: [tasks.secret]}\n    groups: [{group: crew}]")
MUTE = POLICY.replace("publish: [results.>]", "publish: []")


async def test_a_subscription_that_is_not_allowed_any_more_ends_with_the_rule():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), apart(hub, "CARPENTER") as carpenter:
        async with (
            painter.subscribe("tasks.>") as here,
            carpenter.subscribe("tasks.*") as there,
            painter.subscribe("lists.>") as lists,
        ):
            await lead.publish("tasks.paint", 1)
            await hub.settle()
            await hub.change_policy(NO_TASKS)
            await hub.settle()
            for subscription in (here, there):
                assert (await soon(anext(subscription))).body == 1
                with pytest.raises(NotPermittedError) as caught:
                    await anext(subscription)
                assert caught.value.action == f"subscribe to {subscription.pattern}"
                assert "(policy.yaml:" in caught.value.rule
            await lead.publish("lists.a", 1)
            assert await rest(hub, lists) == [1]
            with pytest.raises(NotPermittedError):
                async with painter.subscribe("tasks.>"):
                    pass
            await hub.change_policy(POLICY)
            await hub.settle()
            async with painter.subscribe("tasks.>") as again:
                await lead.publish("tasks.paint", 2)
                assert await rest(hub, again) == [2]


async def test_who_may_not_say_something_any_more_hears_it_at_the_call():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), lead.subscribe("results.>") as results:
        await painter.publish("results.paint", 1)
        await hub.settle()
        await hub.change_policy(MUTE)
        await hub.settle()
        for call in (painter.publish, painter.publish_soon, painter.request):
            with pytest.raises(NotPermittedError) as caught:
                await call("results.paint", 2)
            assert (caught.value.agent, caught.value.action) == ("PAINTER", "publish results.paint")
        await hub.change_policy(POLICY)
        await hub.settle()
        await painter.publish("results.paint", 3)
        assert await rest(hub, results) == [1, 3]


async def test_what_was_accepted_and_may_not_be_sent_any_more_is_refused_and_told():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), lead.subscribe("results.>") as results:
        await painter.publish("results.paint", 0)
        assert await rest(hub, results) == [0]
        painter.publish_nowait("results.paint", 1)
        receipt = await painter.publish_soon("results.paint", 2)
        world = hub._world.change(in_domain({"policy.yaml": MUTE.encode()}))
        inside(painter)._follow(world)  # before the turn of the loop in which it would have left
        with pytest.raises(NotPermittedError) as caught:
            await soon(receipt.sent())
        assert caught.value.action == "publish results.paint"
        refusal = await soon(anext(painter.refusals()))
        assert (refusal.direction, refusal.topic, refusal.reason) == ("out", "results.paint", "not_permitted")
        with pytest.raises(NotPermittedError):
            await painter.drain()
        assert await rest(hub, results) == []


async def test_what_waited_for_a_link_and_may_not_be_said_any_more_reaches_nobody():
    async with scene("LEAD") as (hub, lead), lead.subscribe("results.>") as results:
        host = hub.host()
        async with host.agent("PAINTER") as painter:
            await painter.publish("results.paint", 0)
            await hub.settle()
            host.disconnect()
            await hub.settle()
            await painter.publish("results.paint", 1)
            await hub.change_policy(MUTE)
            await hub.advance(2)
            with pytest.raises(NotPermittedError):
                await painter.publish("results.paint", 2)
            await hub.advance(EXPECTED_SECONDS)  # for a reader that it can't hear of any more
            with suppress(NotPermittedError):
                await painter.drain()
        assert await rest(hub, results) == [0]


async def test_a_publisher_in_full_flight_is_stopped_or_goes_on_as_the_policy_says():
    async with (
        scene("LEAD") as (hub, lead),
        apart(hub, "PAINTER") as painter,
        lead.subscribe("results.>", limit=100_000) as results,
    ):
        async with anyio.create_task_group() as group:
            many = Later(group, lambda: painter.publish_many("results.paint", numbered(400_000)))
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            await hub.change_policy(POLICY.replace("max_bytes: 256B", "max_bytes: 128B"))  # of others
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert not many.is_done
            await hub.change_policy(MUTE)
            with pytest.raises(NotPermittedError) as caught:
                await many.result()
            assert 0 < caught.value.accepted < 400_000
            with suppress(NotPermittedError):  # of what was on its way
                await painter.drain()
        found = numbers(await rest(hub, results))
        assert found == list(range(len(found)))


async def test_another_rule_for_a_topic_holds_from_the_next_message_on():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("small.>") as small:
        await lead.publish("small.box", bytes(200))
        await hub.change_policy(POLICY.replace("max_bytes: 256B", "max_bytes: 128B"))
        await hub.settle()
        with pytest.raises(MessageTooLargeError) as caught:
            await lead.publish("small.box", bytes(200))
        assert caught.value.limit == 128
        await lead.publish("small.box", bytes(100))
        await hub.change_policy(POLICY.replace("max_bytes: 256B}", "max_bytes: 256B, unit: record}"))
        await hub.settle()
        await lead.publish_many("small.box", [b"1", b"2"])
        await hub.settle()
        found = [await soon(anext(small)) for _ in range(4)]
        assert [len(message.body) for message in found] == [200, 100, 1, 1]
        assert [message.header.records for message in found] == [1, 1, 1, 1]


async def test_who_lost_the_right_to_hear_does_not_get_the_next_message():
    """A wider subscription goes on, without what was denied within it."""
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.secret", 1)
        await lead.publish("tasks.paint", 1)
        assert await rest(hub, tasks) == [1, 1]
        await hub.change_policy(DENIED)
        await hub.settle()
        await lead.publish("tasks.secret", 2)
        await lead.publish("tasks.paint", 3)
        assert await rest(hub, tasks) == [3]


async def test_a_hundred_changes_while_all_flows_lose_nothing():
    async with (
        scene("LEAD") as (hub, lead),
        apart(hub, "PAINTER") as painter,
        painter.subscribe("tasks.>", limit=1_000_000) as tasks,
    ):
        async with anyio.create_task_group() as group:
            many = Later(group, lambda: lead.publish_many("tasks.paint", numbered(30_000), wait="sent"))
            for number in range(100):
                await hub.change_policy(POLICY.replace("max_bytes: 256B", f"max_bytes: {number + 1}B"))
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
            assert await many.result() == 30_000
        assert numbers(await rest(hub, tasks)) == list(range(30_000))


async def test_who_is_revoked_is_off_and_others_of_its_host_are_not():
    async with scene("LEAD") as (hub, lead):
        host = hub.host()
        painter, carpenter = await host.agent("PAINTER").__aenter__(), await host.agent("CARPENTER").__aenter__()
        tasks, others = await painter.subscribe("tasks.>").__aenter__(), await carpenter.subscribe("tasks.>").__aenter__()
        hub.revoke("PAINTER")
        await hub.settle()
        with pytest.raises(RevokedError) as caught:
            await soon(anext(tasks))
        assert caught.value.agent == "PAINTER"
        with pytest.raises(RevokedError):
            await painter.publish("results.paint", 1)
        await lead.publish("tasks.saw", 1)
        assert await take(others, 1) == [1]
        assert list(inside(carpenter).agents) == ["CARPENTER"]
