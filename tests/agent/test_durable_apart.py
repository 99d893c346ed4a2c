"""Several records in one durable envelope: each is settled for itself, and what the broker hears is true of all."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

import bus.testing
from bus.agent.apart import USUAL_DELAY, Apart

pytestmark = pytest.mark.anyio
assert bus.testing.open  # imported here: to import blocks, and a loop that runs is guarded against that

POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [logs.>]}
  worker: {key: ecc256/sha256, subscribe: [logs.>]}
topics:
  - {match: logs.>, class: durable, retention: 7d, unit: envelope, ack_wait: 30s, max_deliver: 5}
"""


@asynccontextmanager
async def envelope_of(count: int):
    """So many records of one envelope, by their body, in a subscription that was handed all of them."""
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("logs.>", durable="mine") as logs:
            await lead.publish_many("logs.a", range(count))
            got = await take(logs, count)
            assert len({message.position for message in got.values()}) == 1
            yield hub, logs, got


async def take(subscription, count: int):
    with anyio.fail_after(60):
        return {message.body: message for message in [await anext(subscription) for _ in range(count)]}


async def here(hub, subscription):
    """What is there now."""
    await hub.settle()
    return await take(subscription, subscription.pending)


async def letters(hub):
    return await hub.broker._durable._backbone.dead_letters()


async def test_a_nak_of_one_record_brings_that_one_again_and_no_other():
    async with envelope_of(4) as (hub, logs, got):
        await got[1].nak(delay=2)
        await hub.advance(5)
        assert logs.pending == 0  # the others are still in a handler's hands
        for body in (0, 2, 3):
            await got[body].ack()
        await hub.advance(1)
        assert logs.pending == 0
        await hub.advance(2)
        again = await here(hub, logs)
        assert (set(again), again[1].deliveries) == ({1}, 2)
        await again[1].ack(confirmed=True)
        await hub.advance(60)
        assert (logs.pending, await letters(hub)) == (0, [])


async def test_records_that_were_all_put_back_come_again_together_no_sooner_than_any_of_them_may():
    async with envelope_of(3) as (hub, logs, got):
        for body, delay in ((0, 1), (1, 20), (2, None)):
            await got[body].nak(delay=delay)
        await hub.advance(19)
        assert logs.pending == 0
        await hub.advance(2)
        assert set(await here(hub, logs)) == {0, 1, 2}


async def test_a_record_that_is_ended_makes_a_dead_letter_when_the_others_are_finished_and_not_before():
    async with envelope_of(3) as (hub, _, got):
        await got[0].term("nonsense")
        await hub.settle()
        assert await letters(hub) == []
        await got[1].ack()
        await got[2].ack()
        await hub.advance(1)
        assert [letter.reason for letter in await letters(hub)] == ["nonsense"]


async def test_a_record_that_is_ended_does_not_come_again_with_one_that_was_put_back():
    async with envelope_of(3) as (hub, logs, got):
        await got[0].term("nonsense")
        await got[1].nak(delay=1)
        await got[2].ack()
        await hub.advance(2)
        again = await take(logs, 1)
        assert (set(again), logs.pending, await letters(hub)) == ({1}, 0, [])
        await again[1].ack()
        await hub.advance(1)
        assert [letter.reason for letter in await letters(hub)] == ["nonsense"]
        await hub.advance(60)
        assert logs.pending == 0


async def test_what_is_acknowledged_after_it_was_put_back_is_finished():
    async with envelope_of(2) as (hub, logs, got):
        await got[0].nak(delay=1)
        await got[0].ack()
        await got[1].ack(confirmed=True)
        await hub.advance(60)
        assert (logs.pending, await letters(hub)) == (0, [])


async def test_what_was_put_back_while_another_was_forgotten_comes_again_with_it_and_is_to_be_settled_anew():
    async with envelope_of(2) as (hub, logs, got):
        await got[0].nak(delay=1)
        await hub.advance(31)
        again = await here(hub, logs)
        assert set(again) == {0, 1}
        await again[1].ack()
        await hub.advance(5)
        assert logs.pending == 0
        await again[0].ack(confirmed=True)


async def test_after_another_link_all_that_is_not_finished_comes_again():
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead:
        host = hub.host()
        async with host.agent("PAINTER") as painter, painter.subscribe("logs.>", durable="mine") as logs:
            await lead.publish_many("logs.a", range(3))
            got = await take(logs, 3)
            await got[0].term("nonsense")
            await got[1].ack(confirmed=True)
            host.disconnect()
            await hub.advance(20)
            again = await here(hub, logs)
            assert set(again) == {0, 2}
            await again[0].term("still nonsense")
            await again[2].ack()
            await hub.advance(1)
            assert [letter.reason for letter in await letters(hub)] == ["still nonsense"]


@pytest.mark.parametrize(
    ("put_back", "expected"),
    [({}, None), ({0: USUAL_DELAY}, USUAL_DELAY), ({0: USUAL_DELAY, 1: 5}, 5), ({0: 7, 1: 5}, 7), ({2: 9}, None)],
    ids=["none", "usual", "one-named", "longest", "finished-meanwhile"],
)
def test_the_whole_waits_as_long_as_the_record_that_waits_longest(put_back, expected):
    apart = Apart()
    apart.put_back |= put_back
    assert apart.delay_ms({0, 1}) == expected


def test_the_reason_is_that_of_the_first_record_that_is_left():
    apart = Apart()
    apart.ended |= {3: "third", 1: "first", 2: "second"}
    assert apart.reason({2, 3}) == "second"
