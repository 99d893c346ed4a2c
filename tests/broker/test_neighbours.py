"""Agents on two and three brokers publish, subscribe, ask and answer as if they were on one."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from town import POLICY, Town, fails, town

from bus.agent.agent import Agent
from bus.agent.subscription import Subscription
from bus.errors import NoRespondersError, SessionReplacedError
from bus.testing.policy_texts import texts_of

pytestmark = pytest.mark.anyio

DEAF = POLICY.replace('"ask.>", "signed.>", "urgent.>"]\n    groups', '"ask.>", "urgent.>"]\n    groups')
WITHOUT_BUILDER = POLICY.replace("BUILDER: worker, ", "")


async def test_two_brokers_prove_themselves_and_are_neighbours():
    async with town() as two:
        assert [two.open_at(place) for place in (0, 1)] == [1, 1]


# ---- publishing ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "signed_by"), [("tasks.build", "session"), ("signed.build", "identity"), ("urgent.build", "session")]
)
async def test_what_is_published_at_one_broker_is_heard_at_the_other(topic: str, signed_by: str):
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        async with builder.subscribe(topic) as tasks:
            await director.publish(topic, {"ref": "main"})
            message = await anext(tasks)
    assert (message.sender, message.topic, message.body) == ("DIRECTOR", topic, {"ref": "main"})
    assert message.signed_by == signed_by


async def test_whoever_subscribes_later_at_the_other_broker_gets_the_key():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        async with director.subscribe("tasks.>") as own:
            await director.publish("tasks.build", 1)
            await anext(own)
            async with builder.subscribe("tasks.>") as tasks:
                await director.publish("tasks.build", 2)
                message = await anext(tasks)
    assert (message.body, message.missed) == (2, 0)


async def test_a_subscription_that_is_said_to_be_live_misses_nothing_of_a_publisher_at_the_other_broker():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        for number in range(5):
            await director.publish("tasks.build", -1)
            await two.settle()
            async with builder.subscribe("tasks.>") as tasks:
                await director.publish("tasks.build", number)
                message = await anext(tasks)
                assert (message.body, message.missed) == (number, 0)


async def test_each_message_comes_to_each_reader_once_in_a_mesh_of_three():
    async with town(3) as three, AsyncExitStack() as stack:
        director = await stack.enter_async_context(three[0].agent("DIRECTOR"))
        readers = [
            await _reads(stack, three, place, name, "tasks.>") for place, name in enumerate(("MONITOR", "BUILDER", "TESTER"))
        ]
        for number in range(20):
            await director.publish("tasks.build", number)
        await three.settle()
        for reader in readers:
            assert [(await anext(reader)).body for _ in range(20)] == [*range(20)]
        counted = [three.counted(place) for place in range(3)]
    assert counted[0]["delivered_records"] == counted[0]["records"] + 2 * 20  # its own reader, and two neighbours
    for far in counted[1:]:
        assert far["records"] >= 20
        assert far["refused"] == far["dropped"] == {}


async def test_two_subscriptions_at_a_neighbour_cost_one_envelope_on_the_way():
    async with town() as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        readers = [await _reads(stack, two, 1, name, "tasks.>") for name in ("BUILDER", "TESTER", "MONITOR")]
        await director.publish("tasks.build", 0)
        await two.settle()
        before = two.counted(0)["delivered"]
        await director.publish("tasks.build", 1)
        await two.settle()
        assert two.counted(0)["delivered"] == before + 1
        for reader in readers:
            assert [(await anext(reader)).body for _ in range(2)] == [0, 1]


async def test_the_counts_of_both_brokers_add_up():
    async with town() as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        near = await _reads(stack, two, 0, "MONITOR", "tasks.>")
        far = await _reads(stack, two, 1, "BUILDER", "tasks.>")
        also_far = await _reads(stack, two, 1, "TESTER", "tasks.>")
        for number in range(50):
            await director.publish("tasks.build", number)
        await two.settle()
        for reader in (near, far, also_far):
            assert [(await anext(reader)).body for _ in range(50)] == [*range(50)]
        here, there = two.counted(0), two.counted(1)
        [neighbour] = [one for one in two[0].broker._hosts if one.is_neighbour]
        carried = neighbour.outbox._next - 1
    assert here["copies"] == here["delivered"] > carried
    assert carried == there["received"] == there["admitted"] == there["routed"] == there["copies"] == there["delivered"]
    assert (here["refused"], here["dropped"], here["held"]) == (there["refused"], there["dropped"], there["held"]) == ({}, {}, 0)


# ---- asking ----------------------------------------------------------------------------------------------------------------------


async def test_a_request_is_answered_from_the_other_broker():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        async with builder.subscribe("ask.>") as asked, anyio.create_task_group() as tasks:

            async def answer() -> None:
                async for request in asked:
                    await request.reply(request.body + 1)

            tasks.start_soon(answer)
            assert (await director.request("ask.more", 1, timeout=5)).body == 2
            assert (await director.request("ask.more", 2, timeout=5)).body == 3
            tasks.cancel_scope.cancel()


async def test_nobody_answers_when_the_only_one_at_the_other_broker_has_left():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        assert isinstance(await fails(director.request("ask.more", 1, timeout=5)), NoRespondersError)
        async with builder.subscribe("ask.>"):
            pass
        await two.settle()
        assert isinstance(await fails(director.request("ask.more", 1, timeout=5)), NoRespondersError)


# ---- groups ----------------------------------------------------------------------------------------------------------------------


async def test_a_group_over_two_brokers_gets_each_message_once_and_here_first():
    async with town() as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        near = await _reads(stack, two, 0, "BUILDER", "tasks.>", group="builders")
        far = await _reads(stack, two, 1, "TESTER", "tasks.>", group="builders")
        for number in range(10):
            await director.publish("tasks.build", number)
        await two.settle()
        assert [(await anext(near)).body for _ in range(10)] == [*range(10)]
        assert await _nothing(far)
        await near.aclose()
        await two.settle()
        for number in range(10):
            await director.publish("tasks.build", number)
        await two.settle()
        assert [(await anext(far)).body for _ in range(10)] == [*range(10)]


async def test_who_is_busy_here_leaves_work_to_the_neighbours_which_share_it():
    async with town(3) as three, AsyncExitStack() as stack:
        director = await stack.enter_async_context(three[0].agent("DIRECTOR"))
        places = enumerate(("BUILDER", "TESTER", "PACKER"))
        members = [await _reads(stack, three, place, name, "tasks.>", group="builders", limit=5) for place, name in places]
        for number in range(15):
            await director.publish("tasks.build", number)
            await three.settle()
        got: Counter[int] = Counter()
        bodies: list[int] = []
        for place, member in enumerate(members):
            with anyio.move_on_after(0):
                async for message in member:
                    got[place] += 1
                    bodies.append(message.body)
    assert sorted(bodies) == [*range(15)]
    assert got == {0: 5, 1: 5, 2: 5}


async def test_a_group_and_a_reader_at_a_neighbour_get_their_own():
    async with town() as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        near = await _reads(stack, two, 0, "BUILDER", "tasks.>", group="builders")
        member = await _reads(stack, two, 1, "TESTER", "tasks.>", group="builders")
        other = await _reads(stack, two, 1, "TESTER", "tasks.>", group="testers")
        plain = await _reads(stack, two, 1, "MONITOR", "tasks.>")
        for number in range(5):
            await director.publish("tasks.build", number)
        await two.settle()
        for reader in (near, other, plain):
            assert [(await anext(reader)).body for _ in range(5)] == [*range(5)]
        assert await _nothing(member)


# ---- who is where ----------------------------------------------------------------------------------------------------------------


async def test_an_agent_that_joins_at_the_other_broker_takes_over_its_session():
    async with town() as two, two[1].agent("DIRECTOR") as director:
        first = two[0].host()
        async with AsyncExitStack() as stack:
            older = await stack.enter_async_context(first.agent("BUILDER"))
            before = await stack.enter_async_context(older.subscribe("tasks.>"))
            newer = await stack.enter_async_context(two[1].host().agent("BUILDER"))
            await two.settle()
            assert isinstance(await fails(anext(before)), SessionReplacedError)
            tasks = await stack.enter_async_context(newer.subscribe("tasks.>"))
            await director.publish("tasks.build", 1)
            assert (await anext(tasks)).body == 1
            assert [len(hub.broker.statistics()["neighbours"]) > 0 for hub in two] == [True, True]
            assert two.counted(0)["neighbours"]["agents"] == 2
            stack.pop_all()


async def test_brokers_that_find_each_other_agree_who_came_last():
    async with town(joined=False) as two, AsyncExitStack() as stack:
        first = await stack.enter_async_context(two[0].host().agent("BUILDER"))
        await two.later(1)
        second = await stack.enter_async_context(two[1].host().agent("BUILDER"))
        early = await stack.enter_async_context(first.subscribe("tasks.>"))
        late = await stack.enter_async_context(second.subscribe("tasks.>"))
        await two.join()
        assert isinstance(await fails(anext(early)), SessionReplacedError)
        assert [len(two[place].broker.listing.live()) for place in (0, 1)] == [1, 1]
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        await director.publish("tasks.build", 1)
        assert (await anext(late)).body == 1
        stack.pop_all()


# ---- loss ------------------------------------------------------------------------------------------------------------------------


async def test_a_lost_link_shows_as_missed_and_all_recovers_with_the_next():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        async with builder.subscribe("tasks.>") as tasks, director.subscribe("tasks.>") as own:
            await director.publish("tasks.build", 1)
            assert (await anext(tasks)).body == 1
            await two.part()
            assert [two.open_at(place) for place in (0, 1)] == [0, 0]
            await director.publish("tasks.build", 2)
            await director.publish("tasks.build", 3)
            await two.settle()
            await two.join()
            await director.publish("tasks.build", 4)
            message = await anext(tasks)
            assert (message.body, message.missed) == (4, 2)
            assert [(await anext(own)).body for _ in range(4)] == [1, 2, 3, 4]


async def test_a_new_link_to_the_same_broker_takes_the_place_of_the_older():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        async with builder.subscribe("tasks.>") as tasks:
            await two.join()
            assert [two.open_at(place) for place in (0, 1)] == [1, 1]
            await director.publish("tasks.build", 1)
            assert (await anext(tasks)).body == 1


# ---- policy and trust ------------------------------------------------------------------------------------------------------------


async def test_a_revoked_agent_is_cut_off_at_both():
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("MONITOR"):
        async with two[0].host().agent("BUILDER"):
            await two.settle()
            assert two.counted(1)["neighbours"]["agents"] == 2
            two.world.revoke("BUILDER")
            two.follow(1)
            await two.settle()
            assert {one.agent for one in two[1].broker.listing.live()} == {"DIRECTOR", "MONITOR"}
            two.follow(0)
            await two.settle()
            assert {one.agent for one in two[0].broker.listing.live()} == {"DIRECTOR", "MONITOR"}
        assert director


async def test_who_may_listen_by_a_policy_that_the_neighbour_hears_of_later_is_heard_then():
    async with town() as two, two[0].agent("DIRECTOR") as director:
        two.world.change(await texts_of(DEAF, {}))
        two.follow_all()
        await two.settle()
        two.world.change(await texts_of(POLICY, {}))
        two.follow(1)
        await two.settle()
        async with two[1].agent("BUILDER") as builder, builder.subscribe("signed.>") as tasks:
            assert two.counted(0)["neighbours"]["set_aside"] == 1
            two.follow(0)
            await two.settle()
            assert two.counted(0)["neighbours"]["set_aside"] == 0
            await director.publish("signed.build", 1)
            assert (await anext(tasks)).body == 1


@pytest.mark.parametrize("stricter", [DEAF, WITHOUT_BUILDER], ids=["subscription", "agent"])
async def test_what_a_stricter_policy_at_one_broker_took_away_is_back_with_the_next(stricter: str):
    async with town() as two, two[0].agent("DIRECTOR") as director, two[1].agent("BUILDER") as builder:
        async with builder.subscribe("signed.>") as tasks:
            two.world.change(await texts_of(stricter, {}))
            two.follow(0)
            await two.settle()
            assert two.counted(0)["neighbours"]["subscriptions"] == 0
            await director.publish("signed.build", 1)
            await two.settle()
            two.world.change(await texts_of(POLICY, {}))
            two.follow(0)
            await two.settle()
            assert two.counted(0)["neighbours"]["subscriptions"] == 1
            assert two.counted(0)["neighbours"]["set_aside"] == 0
            two.follow(1)
            await two.settle()
            await director.publish("signed.build", 2)
            assert (await anext(tasks)).body == 2


async def _nothing(reader: Subscription) -> bool:
    """Whether nothing has come."""
    with anyio.move_on_after(0):
        await anext(reader)
        return False
    return True


async def _reads(stack: AsyncExitStack, all_: Town, place: int, name: str, pattern: str, **options: Any) -> Subscription:
    hub = all_[place]
    key = (place, name)
    agents: dict[tuple[int, str], Agent] = all_.__dict__.setdefault("agents", {})
    if key not in agents:
        agents[key] = await stack.enter_async_context(hub.agent(name))
    return await stack.enter_async_context(agents[key].subscribe(pattern, **options))
