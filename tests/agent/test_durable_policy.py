"""Policy changes under durable subscriptions: what was kept is read where it was kept, and what is kept from then on, too."""

from __future__ import annotations

import anyio
import pytest

import bus.testing
from bus.errors import BackboneError, NotPermittedError

pytestmark = pytest.mark.anyio
assert bus.testing.open  # imported here: to import blocks, and a loop that runs is guarded against that

POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [work.>, tasks.>]}
  worker: {key: ecc256/sha256, subscribe: [work.>, tasks.>], groups: [builders]}
topics:
  - {match: work.>, class: durable, retention: 1d, ack_wait: 30s, max_deliver: 5}
"""
SPLIT = POLICY + "  - {match: work.a.>, class: durable, retention: 2d, ack_wait: 30s, max_deliver: 5}\n"
LIVE = POLICY.replace("class: durable, retention: 1d, ack_wait: 30s, max_deliver: 5", "class: live")
MORE = POLICY + "  - {match: tasks.>, class: durable, retention: 1d}\n"
FORBIDDEN = POLICY.replace("subscribe: [work.>, tasks.>]", "subscribe: [tasks.>]")


async def next_of(subscription):
    with anyio.fail_after(30):
        return await anext(subscription)


async def all_of(hub, subscription):
    for _ in range(3):
        await hub.settle()
    return [await next_of(subscription) for _ in range(subscription.pending)]


async def classes(hub) -> dict[str, str]:
    return {str(one.name): one.class_ for one in await hub.broker._durable._backbone.consumers()}


async def test_a_subscription_whose_topics_are_kept_elsewhere_reads_to_the_end_and_goes_on_there():
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("work.a.>", durable="mine", limit=4) as work:
            for number in range(6):
                await lead.publish("work.a.x", number)
            await hub.change_policy(SPLIT)
            await hub.settle()
            for number in range(6, 9):
                await lead.publish("work.a.x", number)
            got = []
            while len(got) < 9:
                for message in await all_of(hub, work):
                    got.append(message.body)
                    await message.ack()
                await hub.advance(2)
            assert got == [*range(9)]
            assert await classes(hub) == {"PAINTER/mine": "work.a.>"}
        async with painter.subscribe("work.a.>", durable="mine") as work:
            await lead.publish("work.a.x", "more")
            assert [message.body for message in await all_of(hub, work)] == ["more"]


async def test_what_moved_while_its_reader_was_away_is_found_in_both_places():
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead:
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.a.>", durable="mine"):
            pass
        await lead.publish("work.a.x", "before")
        await hub.change_policy(SPLIT)
        await hub.settle()
        await lead.publish("work.a.x", "after")
        async with hub.host().agent("PAINTER") as painter, painter.subscribe("work.a.>", durable="mine") as work:
            (first,) = await all_of(hub, work)
            assert first.body == "before"
            await first.ack()
            await hub.advance(3)
            assert [message.body for message in await all_of(hub, work)] == ["after"]


async def test_a_subscription_over_what_is_several_classes_now_ends_and_says_so():
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            await hub.change_policy(SPLIT)
            await hub.settle()
            with pytest.raises(BackboneError) as caught:
                await next_of(work)
            assert (caught.value.code, caught.value.classes) == ("several_classes", ("work.>", "work.a.>"))


async def test_a_subscription_to_what_is_live_now_ends_and_the_next_message_is_live():
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            await hub.change_policy(LIVE)
            await hub.settle()

            async def to_the_end() -> None:
                for _ in range(2):
                    await next_of(work)

            with pytest.raises(BackboneError) as caught:
                await to_the_end()
            assert caught.value.code == "not_durable"
        async with painter.subscribe("work.>") as live:
            assert await lead.publish("work.a", 2) is None
            assert (await next_of(live)).position is None


async def test_what_is_durable_from_now_on_is_stored_from_now_on():
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        assert await lead.publish("tasks.a", "live") is None
        await hub.change_policy(MORE)
        await hub.settle()
        async with painter.subscribe("tasks.>", durable="mine") as tasks:
            assert await lead.publish("tasks.a", "kept")
            assert (await next_of(tasks)).body == "kept"


async def test_who_may_not_hear_any_more_keeps_its_place_until_it_may_again():
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", "first")
            await (await next_of(work)).ack()
            await hub.change_policy(FORBIDDEN)
            await hub.settle()
            with pytest.raises(NotPermittedError):
                await next_of(work)
        await lead.publish("work.a", "not for it")
        await hub.change_policy(POLICY)
        await hub.settle()
        await lead.publish("work.a", "second")
        async with painter.subscribe("work.>", durable="mine") as work:
            await hub.advance(5)
            assert [message.body for message in await all_of(hub, work)] == ["second"]


async def test_how_long_an_acknowledgement_is_waited_for_follows_policy():
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            await hub.change_policy(POLICY.replace("30s", "5s"))
            await hub.settle()
            await lead.publish("work.a", 1)
            await next_of(work)
            await hub.advance(7)
            assert (await next_of(work)).deliveries == 2
