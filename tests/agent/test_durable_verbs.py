"""What an agent can say of a durable message, and what the bus makes of it: by a clock that the test turns."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import pytest

import bus.testing
from bus.agent import lanes
from bus.errors import BackboneError, LocalProtocolError, NotPermittedError

pytestmark = pytest.mark.anyio
assert bus.testing.open  # imported here: to import blocks, and a loop that runs is guarded against that

POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker, MONITOR: monitor}
roles:
  lead: {key: ecc384/sha3-384, publish: [work.>, logs.>, tasks.>], subscribe: [results.>]}
  worker: {key: ecc256/sha256, publish: [results.>], subscribe: [work.>, logs.>, tasks.>], groups: [builders]}
  monitor: {key: ecc256/sha256, subscribe: [">"]}
topics:
  - {match: work.>, class: durable, retention: 1d, dead_readers: [MONITOR], ack_wait: 30s, max_deliver: 3}
  - {match: logs.>, class: durable, retention: 7d, unit: envelope}
"""


@asynccontextmanager
async def bus_with(*names: str):
    """A hub, and these agents in processes of their own."""
    async with bus.testing.open(policy=POLICY) as hub:
        agents = [await hub.host().agent(name).__aenter__() for name in names]
        yield hub, *agents


async def next_of(subscription):
    with anyio.fail_after(30):
        return await anext(subscription)


async def all_of(hub, subscription):
    """What is there now."""
    await hub.settle()
    return [await next_of(subscription) for _ in range(subscription.pending)]


async def test_what_is_published_is_stored_at_positions_that_grow():
    async with bus_with("LEAD") as (_, lead):
        first, second = await lead.publish("work.a", 1), await lead.publish("work.a", 2)
        assert 0 < first < second


async def test_lanes_that_went_to_make_room_are_made_again_for_who_publishes_there(monkeypatch):
    monkeypatch.setattr(lanes, "MAX_LANES", 8)
    async with bus_with("LEAD") as (_, lead):
        for _ in range(2):
            for number in range(20):
                with anyio.fail_after(30):
                    await lead.publish(f"work.n{number}", number)
        known = lead._lanes
        assert len(known._usual) <= len(known._all) <= 8
        assert {*known._usual.values()} <= {*known._all.values()}


async def test_what_was_acknowledged_never_comes_again():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", {"n": 1})
            message = await next_of(work)
            assert (message.body, message.deliveries, message.redelivered, message.position) == ({"n": 1}, 1, False, 1)
            await message.ack()
            await hub.advance(300)
            assert work.pending == 0
        async with painter.subscribe("work.>", durable="mine") as work:
            assert await all_of(hub, work) == []


async def test_what_nobody_acknowledges_comes_again_after_its_time():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            await next_of(work)
            await hub.advance(29)
            assert work.pending == 0
            await hub.advance(2)
            message = await next_of(work)
            assert (message.body, message.deliveries, message.redelivered) == (1, 2, True)


async def test_what_was_not_acknowledged_is_there_for_the_next_subscription():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("work.>", durable="mine") as work:
            for number in range(3):
                await lead.publish("work.a", number)
            for _ in range(2):
                message = await next_of(work)
                if message.body == 0:
                    await message.ack()
        async with painter.subscribe("work.>", durable="mine") as work:
            assert [(one.body, one.redelivered) for one in await all_of(hub, work)] == [(1, True), (2, False)], (
                "nobody took the last one"
            )


async def test_what_nobody_took_when_a_subscription_was_closed_was_not_delivered():
    """More often than anything is delivered, and in the order in which it was published. One is taken each time: that counts."""
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("work.>", durable="mine"):
            pass
        for number in range(8):
            await lead.publish("work.a", number)
        for number in range(8):
            async with painter.subscribe("work.>", durable="mine") as work:
                await hub.settle()
                assert work.pending == 8 - number
                message = await next_of(work)
                assert (message.body, message.deliveries) == (number, 1)
                await message.ack()
        assert (await hub.statistics())["broker"]["backbone"]["dead"] == 0


async def test_what_was_taken_and_not_settled_was_delivered():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        for number in range(2):
            await lead.publish("work.a", number)
        for times in range(1, 3):
            async with painter.subscribe("work.>", durable="mine", start="all") as work:
                message = await next_of(work)
                assert (message.body, message.deliveries) == (0, times)
        async with painter.subscribe("work.>", durable="mine", start="all") as work:
            assert sorted([(one.body, one.deliveries) for one in await all_of(hub, work)]) == [(0, 3), (1, 1)]


async def test_a_nak_brings_it_again_when_it_says():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            await (await next_of(work)).nak(delay=100)
            await hub.advance(99)
            assert work.pending == 0
            await hub.advance(2)
            assert (await next_of(work)).deliveries == 2


async def test_a_nak_without_a_delay_brings_it_again_after_a_second_then_two():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            for pause in (1, 2):
                await (await next_of(work)).nak()
                await hub.advance(pause - 0.5)
                assert work.pending == 0
                await hub.advance(1)
            assert (await next_of(work)).deliveries == 3


async def test_a_touch_gives_it_time_anew():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            message = await next_of(work)
            for _ in range(3):
                await hub.advance(20)
                await message.touch()
            await hub.advance(25)
            assert work.pending == 0
            await message.ack()
            await hub.advance(60)
            assert work.pending == 0


async def test_what_is_ended_is_a_dead_letter_with_its_reason():
    async with bus_with("LEAD", "PAINTER", "MONITOR") as (hub, lead, painter, monitor):
        async with painter.subscribe("work.>", durable="mine") as work, monitor.subscribe("work.>", dead=True) as dead:
            await lead.publish("work.a", "nonsense")
            await (await next_of(work)).term("not a number")
            await hub.advance(1)
            letter = await next_of(dead)
            assert (letter.body, letter.sender, letter.topic, letter.dead_reason) == ("nonsense", "LEAD", "work.a", "not a number")
            await hub.advance(300)
            assert work.pending == 0


async def test_what_is_delivered_in_vain_too_often_is_a_dead_letter():
    async with bus_with("LEAD", "PAINTER", "MONITOR") as (hub, lead, painter, monitor):
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            for deliveries in (1, 2, 3):
                assert (await next_of(work)).deliveries == deliveries
                await hub.advance(31)
            async with monitor.subscribe("work.>", durable="letters", dead=True, start="all") as dead:
                letter = await next_of(dead)
                assert (letter.body, letter.dead_reason, letter.deliveries) == (1, "max_deliver", 3)
                await letter.ack()
            assert work.pending == 0
        async with monitor.subscribe("work.>", durable="letters", dead=True, start="all") as dead:
            assert await all_of(hub, dead) == []


async def test_an_acknowledgement_can_be_waited_for():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            await (await next_of(work)).ack(confirmed=True)
            assert (await hub.statistics())["broker"]["backbone"]["acks"] == 1


async def test_each_record_of_an_envelope_is_settled_and_the_envelope_when_all_are():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("logs.>", durable="mine") as logs:
            await lead.publish_many("logs.a", range(5))
            got = [await next_of(logs) for _ in range(5)]
            assert len({message.position for message in got}) == 1
            for message in got[:4]:
                await message.ack()
            await hub.advance(31)
            again = await next_of(logs)
            assert (again.body, again.redelivered) == (4, True)
            assert logs.pending == 0
            await again.ack()
            await hub.advance(300)
            assert logs.pending == 0


@pytest.mark.parametrize(
    ("start", "found"),
    [("all", [0, 1, 2, 3]), ("new", []), ("last", [2, 3]), (3, [2, 3]), (datetime.fromtimestamp(1_800_000_015, UTC), [2, 3])],
    ids=str,
)
async def test_a_new_subscription_begins_where_it_says(start, found):
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter):
        for number, topic in enumerate(["work.a", "work.b", "work.a", "work.b"]):
            assert await lead.publish(topic, number) == number + 1
            await hub.advance(10)
        async with painter.subscribe("work.>", durable="mine", start=start) as work:
            assert [one.body for one in await all_of(hub, work)] == found
            await lead.publish("work.c", "later")
            assert (await next_of(work)).body == "later"


@pytest.mark.parametrize(
    "options",
    [
        {"durable": "Not a name"},
        {"durable": "a" * 65},
        {"durable": "mine", "start": "yesterday"},
        {"durable": "mine", "start": -1},
        {"durable": "mine", "start": 1 << 63},
        {"durable": "mine", "start": True},
        {"durable": "mine", "start": 1.5},
        {"durable": "mine", "start": None},
        {"limit": 1.5},
    ],
    ids=str,
)
async def test_what_no_subscription_can_be_is_said_at_the_call_and_costs_no_link(options):
    async with bus_with("PAINTER") as (hub, painter):
        before = hub.broker.statistics()["links"]
        with pytest.raises((ValueError, TypeError)), anyio.fail_after(5):
            async with painter.subscribe("work.>", **options):
                pass
        await hub.settle()
        assert hub.broker.statistics()["links"] == before


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), "3"], ids=str)
async def test_a_delay_that_is_none_is_said_at_the_call_and_the_message_stays_in_hand(delay):
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("work.>", durable="mine") as work:
        await lead.publish("work.a", 1)
        message = await next_of(work)
        with pytest.raises((ValueError, TypeError)):
            await message.nak(delay)
        await message.nak(1e30)  # longer than it is kept, and so for good
        await hub.advance(60)
        assert work.pending == 0


async def test_a_reason_is_a_text_that_can_be_shown():
    async with bus_with("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("work.>", durable="mine") as work:
        await lead.publish("work.a", 1)
        message = await next_of(work)
        with pytest.raises(TypeError):
            await message.term(5)
        await message.term("no\x1b[31m way\n\xe4")
        await hub.advance(1)
        (letter,) = await hub.broker._durable._backbone.dead_letters()
        assert letter.reason == "no?[31m way??"


async def test_who_only_listens_gets_what_is_stored_from_then_on():
    async with bus_with("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter):
        await lead.publish("work.a", "before")
        async with painter.subscribe("work.>") as live, carpenter.subscribe("work.>", durable="mine") as kept:
            await lead.publish("work.a", "after")
            assert [(await next_of(one)).body for one in (live, kept)] == ["after", "after"]
            await hub.advance(60)
            assert live.pending == 0


async def test_agents_of_one_process_do_not_settle_for_each_other():
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD") as lead:
        async with hub.agent("PAINTER") as painter, hub.agent("CARPENTER") as carpenter, hub.agent("MONITOR") as monitor:
            async with (
                painter.subscribe("work.>", durable="mine") as one,
                carpenter.subscribe("work.>", durable="mine") as two,
                monitor.subscribe(">") as live,
            ):
                await lead.publish("work.a", 1)
                await (await next_of(one)).ack(confirmed=True)
                assert [message.body for message in await all_of(hub, live)] == [1]
                await next_of(two)
                await hub.advance(31)
                assert (await next_of(two)).deliveries == 2
                assert one.pending == live.pending == 0


# ---- what cannot be ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pattern", "code"), [(">", "not_durable"), ("tasks.>", "not_durable"), ("results.a", "not_durable")])
async def test_a_pattern_with_topics_that_are_not_kept_is_no_durable_subscription(pattern, code):
    async with bus_with("MONITOR") as (_, monitor):
        with pytest.raises(BackboneError) as caught:
            async with monitor.subscribe(pattern, durable="mine"):
                pass
        assert caught.value.code == code


async def test_a_pattern_of_several_classes_names_them():
    policy = POLICY.replace("topics:", "topics:\n  - {match: work.audit.>, class: durable, retention: 30d}")
    async with bus.testing.open(policy=policy) as hub, hub.agent("PAINTER") as painter:
        with pytest.raises(BackboneError) as caught:
            async with painter.subscribe("work.>", durable="mine"):
                pass
        assert (caught.value.code, caught.value.classes) == ("several_classes", ("work.>", "work.audit.>"))


@pytest.mark.parametrize("changed", [{"start": "all"}, {"pattern": "work.a"}], ids=["start", "pattern"])
async def test_a_subscription_that_was_made_is_not_changed(changed):
    async with bus_with("PAINTER") as (_, painter):
        async with painter.subscribe("work.>", durable="mine"):
            pass
        with pytest.raises(BackboneError) as caught:
            async with painter.subscribe(changed.get("pattern", "work.>"), durable="mine", start=changed.get("start", "new")):
                pass
        assert caught.value.code == "consumer_differs"
        async with painter.subscribe("work.>", durable="mine"):
            pass


async def test_one_name_is_open_once():
    async with bus_with("PAINTER") as (_, painter):
        async with painter.subscribe("work.>", durable="mine") as work:
            with pytest.raises(LocalProtocolError):
                async with painter.subscribe("work.>", durable="mine"):
                    pass
            assert work.is_open


async def test_dead_letters_are_for_those_whom_the_rule_names():
    async with bus_with("PAINTER") as (_, painter):
        with pytest.raises(NotPermittedError):
            async with painter.subscribe("work.>", dead=True):
                pass
