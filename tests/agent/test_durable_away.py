"""Messages for agents that are away, or come late: they get what they missed, and can open it; or they are told why not."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

import bus.testing

pytestmark = pytest.mark.anyio
assert bus.testing.open  # imported here: to import blocks, and a loop that runs is guarded against that

POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker, MASON: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [work.>], subscribe: [results.>]}
  worker: {key: ecc256/sha256, publish: [results.>], subscribe: [work.>], groups: [builders]}
topics:
  - {match: work.>, class: durable, retention: 7d, ack_wait: 30s, max_deliver: 20}
"""


@asynccontextmanager
async def bus_in_memory(policy: str = POLICY):
    async with bus.testing.open(policy=policy) as hub:
        yield hub


async def next_of(subscription):
    with anyio.fail_after(30):
        return await anext(subscription)


async def all_of(hub, subscription):
    """What is there when everybody has done what they can."""
    for _ in range(3):
        await hub.settle()
    return [await next_of(subscription) for _ in range(subscription.pending)]


async def pass_days(hub, days: float) -> None:
    """While nobody is there."""
    hub.clock.advance(days * 86_400)
    hub.state_trust()
    await hub.settle()


async def test_who_was_away_gets_what_it_missed_although_its_sender_has_gone():
    async with bus_in_memory() as hub:
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine"):
            pass
        async with hub.host().agent("LEAD") as lead:
            for number in range(3):
                await lead.publish("work.a", number)
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine") as work:
            messages = await all_of(hub, work)
            assert [(one.body, one.sender, one.deliveries) for one in messages] == [(0, "LEAD", 1), (1, "LEAD", 1), (2, "LEAD", 1)]


async def test_days_of_sessions_are_opened_in_their_order():
    async with bus_in_memory() as hub:
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine"):
            pass
        for number in range(8):
            async with hub.host().agent("LEAD") as lead:
                await lead.publish("work.a", number)
            await pass_days(hub, 0.7)
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine") as work:
            assert [one.body for one in await all_of(hub, work)] == [*range(8)]


async def test_who_comes_late_asks_a_sender_that_is_still_there():
    async with bus_in_memory() as hub, hub.host().agent("LEAD") as lead:
        await lead.publish("work.a", "early")
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine", start="all") as work:
            await hub.advance(1)
            assert [one.body for one in await all_of(hub, work)] == ["early"]


async def test_who_comes_late_asks_a_sender_that_was_started_again():
    async with bus_in_memory() as hub:
        async with hub.host().agent("LEAD") as lead:
            await lead.publish("work.a", "early")
        again = hub.host()
        async with again.agent("LEAD"), hub.host().agent("PAINTER") as painter:
            async with painter.subscribe("work.>", durable="mine", start="all") as work:
                await hub.advance(2)
                assert [one.body for one in await all_of(hub, work)] == ["early"]
            assert again.statistics()["keyring"]["epochs"]["grantable_again"] == 1


async def test_where_the_sender_is_gone_who_comes_late_hears_so_and_gets_it_when_it_is_back():
    async with bus_in_memory() as hub:
        async with hub.host().agent("LEAD") as lead:
            await lead.publish("work.a", "early")
        late = hub.host()
        async with late.agent("PAINTER") as painter:
            async with painter.subscribe("work.>", durable="mine", start="all") as work:
                await hub.advance(10)
                assert work.pending == 0
                assert {refusal.reason for refusal in await so_far(painter)} == {"no_granter"}
                async with hub.host().agent("LEAD"):
                    await hub.advance(120)
                    message, *_ = await all_of(hub, work)
                    assert (message.body, message.deliveries, message.redelivered) == ("early", 1, False)


async def test_what_nobody_could_open_is_not_counted_as_delivered():
    """LEAD is away for far more than one delivery: when it is back, its message comes in its order and for the first time."""
    async with bus_in_memory(POLICY.replace("max_deliver: 20", "max_deliver: 1")) as hub:
        async with hub.host().agent("LEAD") as lead:
            for number in range(3):
                await lead.publish("work.a", number)
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine", start="all") as work:
            await hub.advance(240)
            counts = backbone(hub).statistics()
            assert (work.pending, counts["dead"], counts["unsettled"]) == (0, 0, 3)
            assert counts["put_off"] > 9
            async with hub.host().agent("LEAD") as lead:
                await lead.publish("work.a", "while some wait")
                await hub.settle()
                later = await next_of(work)
                assert later.body == "while some wait"
                await later.ack()
                await hub.advance(65)
                messages = await all_of(hub, work)
                assert [(one.body, one.deliveries) for one in messages] == [(0, 1), (1, 1), (2, 1)]
                for message in messages:
                    await message.nak(0)
                await hub.advance(1)
                letters = await backbone(hub).dead_letters()
                assert [(one.reason, one.deliveries) for one in letters] == [("max_deliver", 1)] * 3


@pytest.mark.parametrize("ack_wait", ["1s", "2s", "5s"])
async def test_what_waits_for_its_key_longer_than_for_an_ack_was_not_delivered(ack_wait):
    policy = POLICY.replace("max_deliver: 20", "max_deliver: 1").replace("ack_wait: 30s", f"ack_wait: {ack_wait}")
    async with bus_in_memory(policy) as hub:
        async with hub.host().agent("LEAD") as lead:
            for number in range(3):
                await lead.publish("work.a", number)
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine", start="all") as work:
            await pass_ticks(hub, 10)
            counts = backbone(hub).statistics()
            assert (counts["dead"], counts["unsettled"]) == (0, 3)
            async with hub.host().agent("LEAD"):
                await pass_ticks(hub, 20)
                assert [(one.body, one.deliveries) for one in await all_of(hub, work)] == [(0, 1), (1, 1), (2, 1)]


async def pass_ticks(hub, seconds: int) -> None:
    """As time really passes: whoever looks at the clock now and then is never late."""
    for _ in range(seconds * 4):
        await hub.advance(0.25)


async def test_who_leaves_while_something_waits_for_its_key_was_not_handed_it():
    async with bus_in_memory(POLICY.replace("max_deliver: 20", "max_deliver: 1")) as hub:
        async with hub.host().agent("LEAD") as lead:
            await lead.publish("work.a", "early")
        for _ in range(3):
            async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine", start="all"):
                await hub.advance(1.5)
        await hub.settle()
        counts = backbone(hub).statistics()
        assert (counts["put_off"], counts["dead"], counts["unsettled"]) == (3, 0, 1)


async def test_what_was_kept_before_its_reader_was_enrolled_is_a_dead_letter_that_says_why_and_can_be_handed_out_anew():
    """CARPENTER has no key yet that anybody could seal to, and LEAD is gone when it has one: half of the retention is waited."""
    async with bus_in_memory(POLICY.replace("max_deliver: 20", "max_deliver: 3").replace("retention: 7d", "retention: 4m")) as hub:
        async with hub.host().agent("LEAD") as lead:
            await lead.publish("work.a", "early")
        async with hub.host().agent("CARPENTER") as carpenter:
            async with carpenter.subscribe("work.>", durable="mine", start="all") as work:
                await hub.advance(115)
                assert await backbone(hub).dead_letters() == []
                await hub.advance(65)
                (letter,) = await backbone(hub).dead_letters()
                assert (letter.topic, letter.sender, letter.reason, letter.deliveries) == ("work.a", "LEAD", "no_granter", 1)
                counts = backbone(hub).statistics()
                assert (work.pending, counts["dead_letters"], counts["unsettled"]) == (0, 1, 0)
                async with hub.host().agent("LEAD"):
                    await backbone(hub).requeue_dead(letter.class_, letter.position)
                    await hub.advance(50)
                    message, *_ = await all_of(hub, work)
                    assert message.body == "early"


async def test_what_its_sender_never_grants_is_a_dead_letter_that_says_so():
    told = POLICY.replace("max_deliver: 20", "max_deliver: 3")
    before = told.replace("MASON: worker", "MASON: guest").replace("topics:", "  guest: {key: ecc256/sha256}\ntopics:")
    async with bus_in_memory(before) as hub, hub.host().agent("LEAD") as lead:
        await lead.publish("work.a", "early")
        await hub.change_policy(told)
        await hub.settle()
        async with hub.host().agent("MASON") as mason, mason.subscribe("work.>", durable="mine", start="all"):
            await hub.advance(60)
            (letter,) = await backbone(hub).dead_letters()
            assert (letter.reason, letter.deliveries) == ("not_granted", 3)


def backbone(hub):
    return hub.broker._durable._backbone


async def so_far(agent):
    """What it was told of refusals."""
    found, refusals = [], agent.refusals()
    for _ in range(sum(refusals.counts.values())):
        found.append(await anext(refusals))  # noqa: PERF401  each of them has to be waited for
    return found


@pytest.mark.parametrize("history", ["", "history: all, "], ids=["nothing", "all"])
async def test_who_was_not_allowed_then_reads_of_the_past_what_the_rule_gives(history):
    told = POLICY.replace("ack_wait", f"{history}ack_wait")
    before = told.replace("MASON: worker", "MASON: guest").replace("topics:", "  guest: {key: ecc256/sha256}\ntopics:")
    async with bus_in_memory(before) as hub, hub.host().agent("LEAD") as lead:
        await lead.publish("work.a", "early")
        await hub.change_policy(told)
        await hub.settle()
        async with hub.host().agent("MASON") as mason, mason.subscribe("work.>", durable="mine", start="all") as work:
            await hub.advance(5)
            await lead.publish("work.a", "now")
            await hub.advance(5)
            got = [one.body for one in await all_of(hub, work)]
            assert got == (["early", "now"] if history else ["now"])
            assert {one.reason for one in await so_far(mason)} == (set() if history else {"not_granted"})


async def test_a_group_that_is_away_gets_what_it_missed_each_record_one_of_its_members():
    async with bus_in_memory() as hub:
        for name in ("PAINTER", "CARPENTER"):
            async with hub.host().agent(name) as agent, agent.subscribe("work.>", group="builders", durable="ours"):
                pass
        async with hub.host().agent("LEAD") as lead:
            for number in range(10):
                await lead.publish("work.a", number)
        async with hub.host().agent("PAINTER") as painter, hub.host().agent("CARPENTER") as carpenter:
            async with (
                painter.subscribe("work.>", group="builders", durable="ours", limit=5) as one,
                carpenter.subscribe("work.>", group="builders", durable="ours", limit=5) as two,
            ):
                got = [message for work in (one, two) for message in await all_of(hub, work)]
                assert sorted(message.body for message in got) == [*range(10)]
                assert {message.agent for message in got} == {"PAINTER", "CARPENTER"}


async def test_what_a_member_had_goes_to_the_others_when_it_leaves():
    async with bus_in_memory() as hub, hub.host().agent("LEAD") as lead:
        async with hub.host().agent("PAINTER") as painter, hub.host().agent("CARPENTER") as carpenter:
            async with carpenter.subscribe("work.>", group="builders", durable="ours", limit=4) as two:
                async with painter.subscribe("work.>", group="builders", durable="ours", limit=4) as one:
                    for number in range(8):
                        await lead.publish("work.a", number)
                    mine, others = await all_of(hub, one), await all_of(hub, two)
                    await mine[0].ack()
                    for message in others:
                        await message.ack()
                    await hub.settle()
                await hub.advance(1)
                again = await all_of(hub, two)
                assert sorted(message.body for message in again) == sorted(message.body for message in mine[1:])
                assert all(message.redelivered for message in again)


async def test_what_a_member_never_looked_at_comes_to_the_others_as_if_for_the_first_time():
    async with bus_in_memory() as hub, hub.host().agent("LEAD") as lead:
        async with hub.host().agent("PAINTER") as painter, hub.host().agent("CARPENTER") as carpenter:
            async with carpenter.subscribe("work.>", group="builders", durable="ours", limit=4) as two:
                async with painter.subscribe("work.>", group="builders", durable="ours", limit=4) as one:
                    for number in range(8):
                        await lead.publish("work.a", number)
                    await hub.settle()
                    left, taken = one.pending, await next_of(one)
                    for message in await all_of(hub, two):
                        await message.ack()
                await hub.advance(1)
                again = [*await all_of(hub, two), *await all_of(hub, two)]
                assert [message.deliveries for message in again if message.body != taken.body] == [1] * (left - 1)
                assert [message.deliveries for message in again if message.body == taken.body] == [2]


async def test_an_inbox_key_that_was_renewed_opens_what_comes_after_and_the_old_one_what_came_before():
    async with bus_in_memory() as hub:
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine"):
            pass
        async with hub.host().agent("LEAD") as lead:
            await lead.publish("work.a", "before")
        await pass_days(hub, 6.9)
        async with hub.host().agent("LEAD") as lead:
            async with hub.host().agent("PAINTER"):
                await hub.settle()
            await lead.publish("work.a", "after")
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine") as work:
            assert [one.body for one in await all_of(hub, work)] == ["before", "after"]
