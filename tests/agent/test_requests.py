"""Requests: the first answer of who was asked counts, nobody waits where nobody listens, and what comes late is dropped."""

from __future__ import annotations

import gc

import anyio
import pytest
from agent_scenes import Later, apart, inside, rest, scene, soon

from bus.errors import LocalProtocolError, NoRespondersError, NotPermittedError, RequestFailedError, RequestTimeoutError

pytestmark = pytest.mark.anyio


async def answer(subscription, first: int = 1_000) -> None:
    for _ in range(first):
        message = await anext(subscription)
        await message.reply(message.body)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), None, "2"])
async def test_a_time_that_nobody_can_wait_is_said_at_once(seconds):
    async with scene("LEAD") as (_, lead):
        with pytest.raises((ValueError, TypeError), match="timeout="):
            await lead.request("tasks.paint", 1, timeout=seconds)
        with pytest.raises((ValueError, TypeError), match="timeout="):
            lead.request_many("tasks.paint", 1, timeout=seconds)


async def test_the_answer_comes_to_who_asked():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter, anyio.create_task_group() as group:
        async with painter.subscribe("tasks.>") as tasks:
            group.start_soon(answer, tasks)
            reply = await soon(lead.request("tasks.paint", {"colour": "blue"}, headers={"k": "v"}))
            assert (reply.sender, reply.body, reply.is_request, reply.error) == ("PAINTER", {"colour": "blue"}, False, None)
            for number in range(100):
                assert (await soon(lead.request("tasks.paint", number))).body == number
            group.cancel_scope.cancel()
    assert inside(lead).statistics()["requests"] == {"outstanding": 0, "late": 0}


async def test_many_questions_at_a_time_get_each_its_own_answer():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), anyio.create_task_group() as group:
        async with painter.subscribe("tasks.>") as tasks:
            group.start_soon(answer, tasks)
            asked = [Later(group, lambda number=number: lead.request("tasks.paint", number)) for number in range(300)]
            assert [(await one.result()).body for one in asked] == list(range(300))
            group.cancel_scope.cancel()


async def test_a_reply_has_headers_and_is_made_by_whoever_has_the_message():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), anyio.create_task_group() as group:
        async with painter.subscribe("tasks.>") as tasks:
            asked = Later(group, lambda: lead.request("tasks.paint", 1))
            message = await soon(anext(tasks))
            assert message.is_request
            await message.reply(b"raw", headers={"k": "v"})
            reply = await asked.result()
            assert (reply.data, dict(reply.headers)) == (b"raw", {"k": "v"})


async def test_what_is_no_request_cannot_be_answered():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.paint", 1)
        message = await soon(anext(tasks))
        with pytest.raises(LocalProtocolError):
            await message.reply(1)


# ---- nobody ----------------------------------------------------------------------------------------------------------------------


async def test_where_nobody_listens_it_fails_at_once():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        with pytest.raises(NoRespondersError) as caught:
            await soon(lead.request("tasks.paint", 1, timeout=3600))
        assert caught.value.topic == "tasks.paint"
        async with painter.subscribe("tasks.>"):
            pass
        await hub.settle()
        for _ in range(3):
            with pytest.raises(NoRespondersError):
                await soon(lead.request("tasks.paint", 1, timeout=3600))
        with pytest.raises(NoRespondersError):
            await soon(anext(lead.request_many("tasks.paint", 1)))
        assert inside(lead).statistics()["requests"]["outstanding"] == 0


async def test_where_nobody_answers_in_time_it_says_so():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        async with anyio.create_task_group() as group:
            asked = Later(group, lambda: lead.request("tasks.paint", 1, timeout=3))
            await hub.settle()
            await hub.advance(2.9)
            assert not asked.is_done
            await hub.advance(0.2)
            with pytest.raises(RequestTimeoutError) as caught:
                await asked.result()
        assert (caught.value.topic, caught.value.seconds) == ("tasks.paint", 3)
        assert isinstance(caught.value, TimeoutError)
        await (await soon(anext(tasks))).reply("late")
        await hub.settle()
        assert inside(lead).statistics()["requests"]["outstanding"] == 0


async def test_the_time_counts_while_the_request_cannot_even_be_sent():
    async with scene() as (hub,):
        host = hub.host()
        async with host.agent("LEAD") as lead, anyio.create_task_group() as group:
            host.disconnect()
            asked = Later(group, lambda: lead.request("tasks.paint", 1, timeout=0.01))
            await hub.settle()
            await hub.advance(0.02)
            with pytest.raises(RequestTimeoutError):
                await asked.result()
            await hub.advance(5)


async def test_who_may_not_ask_or_answer_does_not():
    async with scene("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter):
        with pytest.raises(NotPermittedError):
            await painter.request("tasks.paint", 1)
        async with painter.subscribe("tasks.paint") as tasks, carpenter.subscribe("tasks.saw"), anyio.create_task_group() as group:
            asked = Later(group, lambda: lead.request("tasks.paint", 1, timeout=10))
            message = await soon(anext(tasks))
            await carpenter.answer(message, "from somebody who was not asked", None)
            await hub.settle()
            assert not asked.is_done
            await message.reply("right")
            assert (await asked.result()).body == "right"
        refused = (await hub.statistics())["broker"]["refused"]
        assert refused == {"not_permitted": 1}
        refusal = await soon(anext(carpenter.refusals()))
        assert (refusal.direction, refusal.agent, refusal.reason) == ("out", "CARPENTER", "not_permitted")
        with pytest.raises(NotPermittedError):
            await carpenter.drain()
        await carpenter.drain()


# ---- late, twice, and many -------------------------------------------------------------------------------------------------------


async def test_the_second_answer_is_dropped_and_counted():
    async with scene("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter):
        async with painter.subscribe("tasks.>") as one, carpenter.subscribe("tasks.>") as two, anyio.create_task_group() as group:
            asked = Later(group, lambda: lead.request("tasks.paint", 1))
            first, second = await soon(anext(one)), await soon(anext(two))
            await second.reply("second agent")
            assert (await asked.result()).body == "second agent"
            await first.reply("first agent")
            await hub.settle()
            await second.reply("again")
            await hub.settle()
        statistics = inside(lead).statistics()
        assert statistics["requests"]["outstanding"] == 0
        late = statistics["requests"]["late"] + statistics["refusals"].get("in:unsolicited", 0)
        assert late == 2
        assert list(statistics["refusals"]) in ([], ["in:unsolicited"])


async def test_request_many_gives_each_answer_until_there_are_enough():
    async with scene("LEAD", "PAINTER", "CARPENTER", "MASON") as (_, lead, *workers), anyio.create_task_group() as group:
        for worker in workers:
            subscription = await worker.subscribe("tasks.>").__aenter__()
            group.start_soon(answer, subscription, 1_000)
        found = [answer.sender async for answer in lead.request_many("tasks.paint", 1, most=3, timeout=10)]
        assert sorted(found) == ["CARPENTER", "MASON", "PAINTER"]
        assert len([answer async for answer in lead.request_many("tasks.paint", 1, most=2, timeout=10)]) == 2
        assert [answer async for answer in lead.request_many("tasks.paint", 1, most=0)] == []
        assert inside(lead).statistics()["requests"]["outstanding"] == 0
        group.cancel_scope.cancel()


async def test_of_a_flood_of_answers_no_more_wait_than_were_asked_for():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), anyio.create_task_group() as group:
        async with painter.subscribe("tasks.>") as tasks:
            answers = lead.request_many("tasks.paint", 1, most=2, timeout=10)
            first = Later(group, lambda: anext(answers))
            message = await soon(anext(tasks))
            await message.reply(0)
            assert (await first.result()).body == 0
            for number in range(1, 10):
                await message.reply(number)
            await hub.settle()
            assert inside(lead).statistics()["requests"]["late"] == 7
            assert [one.body async for one in answers] == [1]


async def test_request_many_gives_what_comes_in_time():
    async with scene("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter), anyio.create_task_group() as group:
        await carpenter.subscribe("tasks.>").__aenter__()
        group.start_soon(answer, await painter.subscribe("tasks.>").__aenter__())
        answers = lead.request_many("tasks.paint", 1, timeout=3)
        assert (await soon(anext(answers))).sender == "PAINTER"

        async def the_rest() -> list:
            return [one async for one in answers]

        others = Later(group, the_rest)
        await hub.settle()
        await hub.advance(2.9)
        assert not others.is_done
        await hub.advance(0.2)
        assert await others.result() == []
        assert inside(lead).statistics()["requests"]["outstanding"] == 0
        group.cancel_scope.cancel()


async def test_who_looks_at_no_more_answers_leaves_nothing_behind():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), anyio.create_task_group() as group:
        group.start_soon(answer, await painter.subscribe("tasks.>").__aenter__())
        async for _ in lead.request_many("tasks.paint", 1, timeout=100):
            break
        gc.collect()
        assert inside(lead).statistics()["requests"]["outstanding"] == 0
        group.cancel_scope.cancel()


async def test_who_is_cancelled_while_asking_leaves_nothing_behind():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        async with anyio.create_task_group() as group:
            asked = Later(group, lambda: lead.request("tasks.paint", 1, timeout=100))
            await hub.settle()
            asked.scope.cancel()
        assert inside(lead).statistics()["requests"]["outstanding"] == 0
        await (await soon(anext(tasks))).reply("nobody waits")
        await hub.settle()


# ---- failing ---------------------------------------------------------------------------------------------------------------------


async def test_a_reply_can_say_that_there_is_no_answer():
    async with (
        scene("LEAD", "PAINTER") as (_, lead, painter),
        painter.subscribe("tasks.>") as tasks,
        anyio.create_task_group() as group,
    ):
        asked = Later(group, lambda: lead.request("tasks.paint", 1))
        await (await soon(anext(tasks))).reply(None, headers={"tpmbus-error": "no blue left"})
        with pytest.raises(RequestFailedError) as caught:
            await asked.result()
        assert (caught.value.agent, caught.value.reason) == ("PAINTER", "no blue left")
        many = Later(group, lead.request_many("tasks.paint", 1, most=1).__anext__)
        await (await soon(anext(tasks))).reply(None, headers={"tpmbus-error": "none at all"})
        assert (await many.result()).error == "none at all"


async def test_requests_reach_one_member_of_a_group():
    async with scene("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter), anyio.create_task_group() as group:
        one = await painter.subscribe("tasks.>", group="crew").__aenter__()
        two = await carpenter.subscribe("tasks.>", group="crew").__aenter__()
        for subscription in (one, two):
            group.start_soon(
                answer,
                subscription,
                1_000,
            )
        answers = lead.request_many("tasks.paint", 1, timeout=3)
        assert (await soon(anext(answers))).body == 1
        others = Later(group, answers.__anext__)
        await hub.settle()
        await hub.advance(4)
        with pytest.raises(StopAsyncIteration):
            await others.result()
        assert one.delivered + two.delivered == 1
        group.cancel_scope.cancel()


async def test_a_request_to_oneself_is_answered_too():
    async with scene("LEAD") as (_, lead), lead.subscribe("tasks.>") as tasks, anyio.create_task_group() as group:
        group.start_soon(answer, tasks, 1)
        assert (await soon(lead.request("tasks.paint", "me"))).body == "me"


async def test_requests_go_on_while_sessions_are_renewed():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), anyio.create_task_group() as group:
        group.start_soon(answer, await painter.subscribe("tasks.>").__aenter__())
        for _ in range(10):
            await hub.advance(600)
            assert (await soon(lead.request("tasks.paint", 1))).body == 1
        group.cancel_scope.cancel()


async def test_a_reply_may_come_after_the_session_that_asked_was_renewed():
    async with (
        scene("LEAD", "PAINTER") as (hub, lead, painter),
        painter.subscribe("tasks.>") as tasks,
        anyio.create_task_group() as group,
    ):
        asked = Later(group, lambda: lead.request("tasks.paint", 1, timeout=3600))
        message = await soon(anext(tasks))
        await hub.advance(1200)
        await message.reply("at last")
        assert (await asked.result()).body == "at last"
        assert await rest(hub, tasks) == []


async def test_a_request_that_waited_for_a_reader_which_has_gone_fails_at_once_long_after_it_was_sent():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter, anyio.create_task_group() as group:
        async with painter.subscribe("tasks.>", limit=1):
            first = Later(group, lambda: lead.request("tasks.paint", 1, timeout=60))
            await hub.settle()
            second = Later(group, lambda: lead.request("tasks.paint", 2, timeout=60))
            await hub.advance(1)
        with pytest.raises(NoRespondersError):
            await second.result()
        assert not first.is_done, "it was handed over, and may be answered yet"
        group.cancel_scope.cancel()


async def test_who_asked_has_the_answer_before_what_came_with_it_is_booked(anyio_backend_name):
    """The credit for the request comes in one read with the answer; it is nothing that anybody waits for."""
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter, anyio.create_task_group() as group:
        async with painter.subscribe("tasks.>") as tasks:
            group.start_soon(answer, tasks)
            out = []
            for number in range(5):
                await soon(lead.request("tasks.paint", number))
                out.append(inside(lead).statistics()["turns"]["out"])
                await hub.settle()
                assert inside(lead).statistics()["turns"]["out"] == 0
            group.cancel_scope.cancel()
    assert out == [1] * 5 or anyio_backend_name == "trio"  # which has tasks take turns in any order
