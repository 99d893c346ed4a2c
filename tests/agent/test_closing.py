"""The end: what was accepted is sent, everybody may close anything in any order and from any task, and nothing is left."""

from __future__ import annotations

import itertools

import anyio
import pytest
from agent_scenes import POLICY, Later, apart, inside, numbered, numbers, rest, scene, soon

import bus.testing
from bus.errors import ClosedError, NotPermittedError, RevokedError
from bus.testing import cancel_everywhere

pytestmark = pytest.mark.anyio


async def test_a_clean_end_sends_what_was_accepted():
    async with scene("PAINTER") as (hub, painter), painter.subscribe("tasks.>", limit=10_000) as tasks:
        async with apart(hub, "LEAD") as lead:
            await lead.publish_many("tasks.paint", numbered(900))
        assert numbers(await rest(hub, tasks)) == list(range(900))


async def test_drain_returns_when_readers_have_taken_it_in():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
        await lead.publish_many("tasks.paint", range(100))
        assert tasks.pending == 0
        await soon(lead.drain())
        assert tasks.pending == 100
        await soon(lead.drain())


async def test_drain_is_of_one_agent():
    """Another one of the same host that publishes without end keeps nobody from leaving."""
    async with scene("SECOND") as (hub, second), apart(hub, "PAINTER") as painter, anyio.create_task_group() as group:
        async with (
            painter.subscribe("tasks.>", limit=8),
            second.subscribe("open.>", limit=100_000) as opened,
            hub.agent("LEAD") as lead,
        ):
            Later(group, lambda: second.publish_many("tasks.paint", itertools.repeat(b"x", 1_000_000)))
            await hub.settle()
            await lead.publish("open.news", 1)
            drained = Later(group, lead.drain)
            for _ in range(3):
                await hub.settle()
                await hub.advance(0.01)
            await drained.result()
            assert opened.pending == 1
            group.cancel_scope.cancel()


async def test_drain_tells_what_was_refused_later():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>"):
        host = inside(lead)
        await lead.publish("tasks.paint", 0)
        await soon(lead.drain())
        lead.publish_nowait("tasks.paint", 1)
        for lane in lead._lanes:
            host.outbox.fail_all(lane, NotPermittedError("LEAD", "publish tasks.paint", "a rule of a moment ago"))
        refusal = await soon(anext(lead.refusals()))
        assert (refusal.direction, refusal.topic, refusal.reason) == ("out", "tasks.paint", "not_permitted")
        with pytest.raises(NotPermittedError):
            await soon(lead.drain())
        await soon(lead.drain())


async def test_drain_tells_what_was_lost_when_the_agent_was_cut_off_meanwhile():
    async with scene("PAINTER") as (hub, painter), painter.subscribe("tasks.>"), anyio.create_task_group() as group:
        host = hub.host()
        async with host.agent("LEAD") as lead:
            host.disconnect()
            await hub.settle()
            await lead.publish("tasks.paint", 1)
            drained = Later(group, lead.drain)
            await hub.settle()
            assert not drained.is_done
            hub.revoke("LEAD")
            await hub.advance(2)
            with pytest.raises(RevokedError):
                await drained.result()
            await soon(lead.drain())  # that was told


async def test_drain_tells_what_was_lost_also_to_who_asks_when_it_is_over():
    async with scene("PAINTER") as (hub, painter), painter.subscribe("tasks.>"):
        host = hub.host()
        async with host.agent("LEAD") as lead:
            host.disconnect()
            await hub.settle()
            await lead.publish("tasks.paint", 1)
            hub.revoke("LEAD")
            await hub.advance(2)
            with pytest.raises(RevokedError):
                await soon(lead.drain())


async def test_who_drains_an_agent_that_somebody_else_closes_hears_what_was_lost_and_its_closer_does_not():
    async with scene("PAINTER") as (hub, painter), painter.subscribe("tasks.>"), anyio.create_task_group() as group:
        host = hub.host()
        for is_drained in (True, False):
            async with host.agent("LEAD") as lead:
                host.disconnect()
                await hub.settle()
                await lead.publish("tasks.paint", 1)
                drained = Later(group, lead.drain) if is_drained else None
                await hub.settle()
                await lead.aclose()
                if drained is not None:
                    with pytest.raises(ClosedError):
                        await drained.result()
                else:
                    await soon(lead.drain())
            await hub.advance(2)


async def test_what_waits_for_the_tpm_when_its_agent_is_closed_fails_as_what_it_is():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("control.>"):
        await lead.publish("control.stop", 0)
        hub.tpm.seconds = 1.0
        receipt = await lead.publish_soon("control.stop", 1)
        await hub.settle()
        await lead.aclose()
        await hub.advance(2)
        with pytest.raises(ClosedError):
            await soon(receipt.sent())


async def test_closing_fails_what_waits_and_says_so():
    async with scene("PAINTER") as (hub, painter), painter.subscribe("tasks.>") as tasks:
        host = hub.host()
        lead = await host.agent("LEAD").__aenter__()
        host.disconnect()
        await hub.settle()
        receipt = await lead.publish_soon("tasks.paint", 1)
        await lead.aclose()
        with pytest.raises(ClosedError):
            await soon(receipt.sent())
        await hub.advance(2)
        assert await rest(hub, tasks) == []


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
async def test_agents_and_subscriptions_close_in_any_order(order):
    async with bus.testing.open(policy=POLICY) as hub:
        lead, painter = hub.agent("LEAD"), hub.agent("PAINTER")
        one, two = await lead.__aenter__(), await painter.__aenter__()
        first, second = one.subscribe("results.>"), two.subscribe("tasks.>")
        await first.__aenter__()
        await second.__aenter__()
        await one.publish("tasks.paint", 1)
        await two.publish("results.paint", 1)
        things = [lead, painter, first, second]
        for place in order:
            await soon(things[place].__aexit__(None, None, None))
        await hub.settle()
        statistics = await hub.statistics()
        assert (statistics["broker"]["agents"], statistics["broker"]["subscriptions"]) == (0, 0)


async def test_anything_may_be_closed_by_another_task_than_the_one_that_opened_it():
    async with scene("LEAD") as (hub, lead):
        opening = hub.agent("PAINTER")
        painter = await opening.__aenter__()
        tasks = await painter.subscribe("tasks.>").__aenter__()

        async def close() -> None:
            await tasks.aclose()
            await opening.__aexit__(None, None, None)

        async with anyio.create_task_group() as group:
            waiting = Later(group, tasks.__anext__)
            await hub.settle()
            await Later(group, close).result()
            with pytest.raises(StopAsyncIteration):
                await waiting.result()
        await lead.publish("tasks.paint", "nobody")
        assert (await hub.statistics())["broker"]["agents"] == 1


async def test_who_is_closed_while_entering_a_subscription_says_so():
    async with scene("LEAD") as (hub, _):
        host = hub.host()
        painter = await host.agent("PAINTER").__aenter__()
        host.disconnect()
        await hub.settle()
        async with anyio.create_task_group() as group:
            entering = Later(group, painter.subscribe("tasks.>").__aenter__)
            await hub.settle()
            await painter.aclose()
            with pytest.raises(ClosedError):
                await entering.result()
        assert len(inside(painter).inbox) == 0
        await hub.advance(2)


async def test_the_bodys_exceptions_pass_as_they_are():
    async def failing() -> None:
        async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>"):
            await lead.publish("tasks.paint", 1)
            raise LookupError

    with pytest.raises(LookupError):
        await failing()


# ---- cancelled -------------------------------------------------------------------------------------------------------------------


async def test_cancelled_anywhere_publishing_leaves_nothing_behind():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter:
        async with painter.subscribe("tasks.>", limit=100_000), painter.subscribe("control.>"):

            async def scenario() -> None:
                await lead.publish("tasks.paint", 1, wait="sent")
                await lead.publish("control.stop", 1)
                await lead.publish_many("tasks.paint", numbered(3_000))
                receipt = await lead.publish_soon("tasks.paint", 2, id="two")
                await receipt.sent()
                await lead.drain()

            assert await cancel_everywhere(scenario, hub.broker, inside(lead), inside(painter), settle=hub.settle) >= 4


async def test_cancelled_anywhere_reading_leaves_nothing_behind():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter:

        async def scenario() -> None:
            async with painter.subscribe("tasks.>") as tasks, painter.subscribe("lists.>", group="crew") as lists:
                await lead.publish_many("tasks.paint", range(10))
                await lead.publish("lists.a", 1)
                for _ in range(10):
                    await anext(tasks)
                await anext(lists)

        assert await cancel_everywhere(scenario, hub.broker, inside(lead), inside(painter), settle=hub.settle) >= 3


async def test_cancelled_anywhere_handlers_and_requests_leave_nothing_behind():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter:

        @painter.on("tasks.>", concurrency=2)
        async def paint(message):
            await anyio.lowlevel.checkpoint()
            return message.body

        async def scenario() -> None:
            async with painter.serving():
                await lead.request("tasks.paint", 1)
                async for _ in lead.request_many("tasks.paint", 1, most=1):
                    break

        assert await cancel_everywhere(scenario, inside(lead), inside(painter), settle=hub.settle) >= 4


async def test_cancelled_anywhere_opening_an_agent_leaves_nothing_behind():
    async with scene("LEAD") as (hub, lead):
        host = hub.host()
        await host.agent("CARPENTER").__aenter__()

        async def scenario() -> None:
            async with host.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
                await lead.publish("tasks.paint", 1)
                await anext(tasks)

        assert await cancel_everywhere(scenario, hub.broker, settle=hub.settle) >= 4
