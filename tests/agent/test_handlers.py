"""Handlers: called with each message while they serve, answering what was asked, and nothing that they do ends their agent."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest
from agent_scenes import POLICY, Later, apart, inside, scene, soon

import bus
from bus.agent.serving import MOST_LOGGED
from bus.errors import ClosedError, NotPermittedError, RequestFailedError, RevokedError, SlowReaderError

pytestmark = pytest.mark.anyio


async def test_handlers_are_called_with_each_message_in_order_while_they_serve():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        handlers, seen = bus.Handlers(), []

        @handlers.on("tasks.>")
        async def paint(message: bus.Message) -> None:
            seen.append(message.body)

        @handlers.on("lists.*")
        def listed(message: bus.Message) -> None:
            seen.append(message.topic)

        assert len(handlers) == 2
        await lead.publish("tasks.paint", "before")
        await hub.settle()
        async with painter.serving(handlers) as serving:
            await lead.publish_many("tasks.paint", range(1_000))
            await lead.drain()
            await hub.settle()
            assert seen == list(range(1_000))
            await lead.publish("lists.a", 1)
            await hub.settle()
            assert seen[1_000:] == ["lists.a"]
            assert (serving.handled, serving.failed) == (1_001, 0)
        await lead.publish("tasks.paint", "after")
        await hub.settle()
        assert len(seen) == 1_001
        assert len(inside(painter).inbox) == 0


async def test_the_sugar_of_an_agent():
    async with scene("LEAD", "PAINTER") as (_, lead, painter):

        @painter.on("tasks.>")
        async def paint(message):
            return message.body + 1

        for _ in range(2):
            async with painter.serving():
                assert (await soon(lead.request("tasks.paint", 1))).body == 2


async def test_the_same_handlers_serve_several_agents():
    async with scene("LEAD", "PAINTER", "CARPENTER") as (_, lead, painter, carpenter):
        handlers = bus.Handlers()
        handlers.on("tasks.>")(lambda message: message.agent)
        async with painter.serving(handlers), carpenter.serving(handlers):
            found = [one.body async for one in lead.request_many("tasks.paint", 1, most=2)]
            assert sorted(found) == ["CARPENTER", "PAINTER"]


async def test_what_it_returns_answers_the_request_and_none_does_not():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):

        @painter.on("tasks.>")
        async def paint(message):
            if message.body == "by hand":
                await message.reply("by hand")
                return None
            return message.body

        async with painter.serving(), anyio.create_task_group() as group:
            for body in (0, "", False, {"a": []}, b"raw", "by hand"):
                assert (await soon(lead.request("tasks.paint", body))).body == body
            asked = Later(group, lambda: lead.request("tasks.paint", None, timeout=1))
            await hub.settle()
            await hub.advance(1.1)
            with pytest.raises(TimeoutError):
                await asked.result()
            await lead.publish("tasks.paint", "what it returns to nobody is forgotten")
            await hub.settle()


# ---- failing ---------------------------------------------------------------------------------------------------------------------


async def test_an_exception_fails_the_request_and_nothing_else(caplog):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):

        @painter.on("tasks.>")
        async def paint(message):
            if message.body == "secret":
                raise LookupError("the password is 1234")
            if message.body == "told":
                raise RequestFailedError("PAINTER", "no blue left")
            if message.body == "cannot travel":
                return object()
            return "done"

        async with painter.serving() as serving:
            for body, reason in [("secret", "failed"), ("told", "no blue left"), ("cannot travel", "failed")]:
                with pytest.raises(RequestFailedError) as caught:
                    await soon(lead.request("tasks.paint", body))
                assert (caught.value.agent, caught.value.reason) == ("PAINTER", reason)
            await lead.publish("tasks.paint", "secret")
            assert (await soon(lead.request("tasks.paint", "fine"))).body == "done"
            assert (serving.handled, serving.failed) == (1, 4)
            assert inside(painter).statistics()["received"]["handler_failed"] == 4
        logged = [record.exc_info[0] for record in caplog.records if record.exc_info]
        assert logged == [LookupError, RequestFailedError, TypeError, LookupError]
        del hub


async def test_a_handler_that_always_fails_does_not_fill_the_log(caplog):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):

        @painter.on("tasks.>")
        def paint(message):
            raise LookupError

        async with painter.serving() as serving:
            for _ in range(2):
                await lead.publish_many("tasks.paint", range(200))
                await hub.settle()
                await hub.advance(61)
            assert serving.failed == 400
        assert len([record for record in caplog.records if record.exc_info]) == 2 * MOST_LOGGED


async def test_what_policy_forbids_is_raised_when_the_block_is_entered():
    async with scene("PAINTER") as (hub, painter):
        handlers = bus.Handlers()
        handlers.on("tasks.>")(print)
        handlers.on("secrets.>")(print)
        with pytest.raises(NotPermittedError):
            async with painter.serving(handlers):
                pass
        await hub.settle()
        assert len(inside(painter).inbox) == 0
        assert (await hub.statistics())["broker"]["subscriptions"] == 0


async def test_a_subscription_that_ends_with_an_error_interrupts_the_block():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter:
        painter.on("tasks.>")(print)

        async def serve() -> None:
            async with painter.serving():
                await hub.change_policy(POLICY.replace("subscribe: [tasks.>, ", "subscribe: ["))
                await anyio.sleep_forever()

        with pytest.raises(NotPermittedError) as caught:
            await serve()
        assert caught.value.agent == "PAINTER"
        await lead.publish("results.x", 1)
        async with painter.subscribe("lists.>"):
            pass


async def test_an_agent_that_is_cut_off_interrupts_the_block():
    async with scene("LEAD") as (hub, _), apart(hub, "PAINTER") as painter:
        painter.on("tasks.>")(print)

        async def serve() -> None:
            async with painter.serving():
                hub.revoke("PAINTER")
                await anyio.sleep_forever()

        with pytest.raises(RevokedError):
            await serve()


async def test_a_handler_that_is_too_slow_for_its_topic_says_so():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter:

        @painter.on("alone.>", limit=2)
        async def stuck(message):
            await anyio.sleep_forever()

        async def serve() -> None:
            async with painter.serving():
                await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            serving = Later(group, serve)
            await hub.settle()
            for number in range(20):
                lead.publish_nowait("alone.box", number)
            await hub.settle()
            await hub.advance(4)
            with pytest.raises(SlowReaderError):
                await serving.result()


async def test_the_blocks_own_exception_passes_and_names_the_other():
    async with scene("LEAD") as (hub, _), apart(hub, "PAINTER") as painter:
        painter.on("tasks.>")(print)

        async def serve() -> None:
            async with painter.serving():
                hub.revoke("PAINTER")
                try:
                    await anyio.sleep_forever()
                finally:
                    raise LookupError

        with pytest.raises(LookupError) as caught:
            await serve()
        assert "RevokedError" in caught.value.__notes__[0]


# ---- durable ---------------------------------------------------------------------------------------------------------------------


async def test_durable_messages_are_acknowledged_when_it_returns_and_given_back_when_it_fails():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        seen = []

        @painter.on("work.>", durable="wall")
        async def work(message):
            seen.append((message.body, message.deliveries))
            if message.body == "hard" and message.deliveries < 3:
                raise LookupError

        async with painter.serving():
            for body in ("easy", "hard"):
                await soon(lead.publish("work.wall", body))
            await hub.settle()
            for _ in range(3):
                await hub.advance(3)  # given back, it comes after one second, then two; forgotten, after thirty
            assert seen == [("easy", 1), ("hard", 1), ("hard", 2), ("hard", 3)]
        async with painter.serving():
            await hub.advance(120)
        assert len(seen) == 4


async def test_manual_acknowledgement_is_left_to_the_handler():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        seen = []

        @painter.on("work.>", durable="wall", ack="manual")
        async def work(message):
            seen.append(message.deliveries)
            if message.deliveries == 2:
                await message.ack()

        async with painter.serving():
            await soon(lead.publish("work.wall", 1))
            await hub.advance(100)
            assert seen == [1, 2]


async def test_what_was_not_begun_when_the_block_is_left_comes_again():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        seen = []

        @painter.on("work.>", durable="wall")
        async def work(message):
            seen.append(message.body)
            await anyio.lowlevel.checkpoint()

        async with painter.serving():
            for number in range(20):
                await soon(lead.publish("work.wall", number))
        first = len(seen)
        async with painter.serving():
            await hub.advance(120)
        assert sorted(seen) == list(range(20))
        assert first <= 20


# ---- options ---------------------------------------------------------------------------------------------------------------------


async def test_more_than_one_call_at_a_time():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        running, most, done = 0, 0, []
        go_on = anyio.Event()

        @painter.on("tasks.>", concurrency=3)
        async def paint(message):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await go_on.wait()
            running -= 1
            done.append(message.body)

        async with painter.serving():
            await lead.publish_many("tasks.paint", range(100))
            await hub.settle()
            assert (running, most) == (3, 3)
            go_on.set()
            await hub.settle()
            assert sorted(done) == list(range(100))
            assert most == 3


async def test_groups_and_decode():
    @dataclass
    class Wall:
        width: int

    async with scene("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter):
        handlers, seen = bus.Handlers(), []

        @handlers.on("tasks.>", group="crew", decode=Wall)
        async def paint(message):
            seen.append((message.agent, message.body))

        async with painter.serving(handlers), carpenter.serving(handlers):
            await lead.publish_many("tasks.paint", [{"width": number} for number in range(20)])
            await lead.publish("tasks.paint", "nonsense")
            await hub.settle()
        assert sorted(body.width for _, body in seen) == list(range(20))
        assert {agent for agent, _ in seen} == {"PAINTER", "CARPENTER"}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"concurrency": 0}, ValueError),
        ({"ack": "never"}, ValueError),
        ({"limit": 0}, ValueError),
        ({"overflow": "x"}, ValueError),
        ({"group": "Crew"}, ValueError),
        ({"durable": ""}, ValueError),
        ({"decode": 7}, TypeError),
    ],
)
async def test_options_that_make_no_sense_are_said_where_they_are_written(options, kind):
    with pytest.raises(kind):
        bus.Handlers().on("tasks.>", **options)
    with pytest.raises(TypeError):
        bus.Handlers().on("tasks.>")("no function")


# ---- the end ---------------------------------------------------------------------------------------------------------------------


async def test_calls_that_run_when_the_block_is_left_come_to_their_end():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        ended, go_on = [], anyio.Event()

        @painter.on("tasks.>")
        async def paint(message):
            await go_on.wait()
            ended.append(message.body)

        async def serve() -> None:
            async with painter.serving():
                await lead.publish_many("tasks.paint", range(10))
                await hub.settle()

        async with anyio.create_task_group() as group:
            serving = Later(group, serve)
            await hub.settle()
            assert not serving.is_done
            go_on.set()
            await serving.result()
        assert ended == [0]


async def test_calls_that_do_not_end_are_cancelled_after_five_seconds():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        cancelled = []

        @painter.on("tasks.>")
        async def paint(message):
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.append(message.body)

        async def serve() -> None:
            async with painter.serving():
                await lead.publish("tasks.paint", 1)
                await hub.settle()

        async with anyio.create_task_group() as group:
            serving = Later(group, serve)
            await hub.settle()
            await hub.advance(4.9)
            assert not serving.is_done
            await hub.advance(0.2)
            await serving.result()
        assert cancelled == [1]


async def test_when_the_block_fails_calls_are_cancelled_at_once():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        cancelled = []

        @painter.on("tasks.>", concurrency=2)
        async def paint(message):
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.append(message.body)

        async def serve() -> None:
            async with painter.serving():
                await lead.publish_many("tasks.paint", [1, 2])
                await hub.settle()
                raise LookupError

        with pytest.raises(LookupError):
            await soon(serve())
        assert sorted(cancelled) == [1, 2]


async def test_serving_is_entered_once_and_not_after_the_end():
    async with scene("PAINTER") as (_, painter):
        serving = painter.serving()
        async with serving:
            pass
        with pytest.raises(ClosedError):
            await serving.__aenter__()
        await painter.aclose()
        with pytest.raises(ClosedError):
            painter.serving()


async def test_an_agent_that_is_closed_while_it_serves_ends_quietly():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        seen = []
        painter.on("tasks.>")(lambda message: seen.append(message.body))
        async with painter.serving():
            await lead.publish("tasks.paint", 1)
            await hub.settle()
            await painter.aclose()
            await hub.settle()
        assert seen == [1]
