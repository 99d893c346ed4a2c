"""Where the identity key signs: what gathers meanwhile shares its next signature, in order, and each who waits hears of its own."""

from __future__ import annotations

import anyio
import pytest
from agent_scenes import POLICY, Later, apart, inside, numbered, numbers, rest, scene, soon, take

from bus.agent.lane import MOST_RECORDS, MOST_SIGNING
from bus.errors import ClosedError, NotPermittedError, TpmUnavailableError
from bus.flow.rounds import MAX_ENVELOPE_BYTES
from bus.flow.waiting import MAX_RECORDS

pytestmark = pytest.mark.anyio

HUNG = TpmUnavailableError("hung", "it does not answer")
ONE_BY_ONE = POLICY.replace("- {match: lists.>,", "- {match: control.one, signed_by: identity, unit: record}\n  - {match: lists.>,")


async def signatures(hub) -> int:
    """That its TPM has made."""
    return sum((await hub.tpm.statistics()).operations.values())


async def refused(agent) -> int:
    """Records of which it was told that they are not sent."""
    return inside(agent).statistics()["sent"].get("refused", 0)


@pytest.mark.parametrize("size", [64, 8_000])
@pytest.mark.parametrize("wait", ["accepted", "sent"])
async def test_what_gathers_shares_a_signature_by_the_thousand(size, wait):
    """Sixteen envelopes under one, of small records and of large ones."""
    envelopes = 48
    count = envelopes * min(MOST_RECORDS, (128 << 10) // size)
    async with (
        scene("LEAD", "PAINTER") as (hub, lead, painter),
        painter.subscribe("control.>", limit=100_000) as orders,
        anyio.create_task_group() as group,
    ):
        await lead.publish("control.stop", b"first")
        assert await take(orders, 1) == [b"first"]
        hub.tpm.seconds = 1.0
        before = await signatures(hub)
        many = Later(group, lambda: lead.publish_many("control.stop", numbered(count, size), wait=wait))
        await hub.advance(20)
        assert await many.result() == count
        assert numbers(await take(orders, count)) == [*range(count)]
        assert await signatures(hub) - before <= envelopes // 16 + 2
        hub.tpm.seconds = 0


async def test_one_that_comes_alone_is_signed_at_once():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("control.>") as orders:
        for number in range(5):
            before = await signatures(hub)
            await soon(lead.publish("control.stop", number))
            assert await signatures(hub) == before + 1
        assert await rest(hub, orders) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [4, 8_000])
async def test_a_tpm_that_does_not_answer_bounds_what_is_taken(size):
    """What is out and as much that gathers, by records or by bytes; not less either, so that it is ready when the answer comes."""
    envelope = min(MOST_RECORDS, MAX_ENVELOPE_BYTES // size)
    pulled = []

    def endless():
        for number in range(1_000_000):
            pulled.append(number)
            yield bytes(size)

    async with scene("LEAD", "PAINTER") as (hub, lead, painter), anyio.create_task_group() as group:
        async with painter.subscribe("control.>"):
            hub.tpm.seconds = 1_000.0
            many = Later(group, lambda: lead.publish_many("control.stop", endless()))
            await hub.settle()
            was_done, taken = many.is_done, len(pulled)
            many.scope.cancel()
        hub.tpm.seconds = 0
        await hub.advance(1_000)
    assert not was_done
    assert MOST_SIGNING * envelope < taken <= MOST_SIGNING * envelope + 2 * MAX_RECORDS


@pytest.mark.parametrize("place", range(3))
async def test_who_waits_hears_of_its_own_signature_and_of_no_other(place):
    """Of three turns in a row one fails. The two others arrive, in order."""
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("control.>", limit=10_000) as orders:
        expected, turns = [], [numbered(3_000)[start : start + 1_000] for start in range(0, 3_000, 1_000)]
        for number, bodies in enumerate(turns):
            if number == place:
                hub.tpm.fail_next(HUNG)
                with pytest.raises(TpmUnavailableError) as caught:
                    await soon(lead.publish_many("control.stop", bodies))
                assert caught.value.accepted == 1_000
            else:
                assert await soon(lead.publish_many("control.stop", bodies)) == 1_000
                expected += bodies
        assert await rest(hub, orders) == expected
        assert await refused(lead) == 1_000
        await soon(lead.drain())  # whoever waited has heard of it: nothing is left to be told


async def test_a_signature_that_fails_is_told_to_everybody_whose_records_it_had():
    """Two calls and a receipt share an envelope; of one that was only accepted its agent's refusals tell, and `drain`."""
    async with (
        scene("LEAD", "PAINTER") as (hub, lead, painter),
        painter.subscribe("control.>") as orders,
        anyio.create_task_group() as group,
    ):
        hub.tpm.seconds = 1.0
        before = Later(group, lambda: lead.publish("control.stop", "before"))
        await hub.settle()
        calls = [Later(group, lambda: lead.publish_many("control.stop", [b"1", b"2"])) for _ in range(2)]
        receipt = await lead.publish_soon("control.stop", 3)
        calls += [Later(group, receipt.sent)]
        await lead.publish("control.stop", 4, wait="accepted")
        await hub.settle()
        await hub.advance(1)
        await before.result()
        hub.tpm.fail_next(HUNG)
        await hub.advance(1)
        for call in calls:
            with pytest.raises(TpmUnavailableError):
                await call.result()
        assert (await soon(anext(lead.refusals()))).reason == "hung"
        assert await refused(lead) == 6
        with pytest.raises(TpmUnavailableError):
            await soon(lead.drain())
        hub.tpm.seconds = 0
        await lead.publish_many("control.stop", ["after"])
        assert await rest(hub, orders) == ["before", "after"]


async def test_in_envelopes_of_one_record_each_who_waits_hears_when_all_are_sent():
    async with (
        scene("LEAD", "PAINTER", policy=ONE_BY_ONE) as (hub, lead, painter),
        painter.subscribe("control.>", limit=10_000) as orders,
    ):
        assert await soon(lead.publish_many("control.one", numbered(600))) == 600
        assert numbers(await take(orders, 600)) == [*range(600)]
        hub.tpm.fail_next(HUNG)
        with pytest.raises(TpmUnavailableError):
            await soon(lead.publish_many("control.one", numbered(50)))
        assert await soon(lead.publish_many("control.one", numbered(3))) == 3


async def test_what_a_broker_refuses_while_more_is_given_is_raised():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>", limit=1):  # and takes nothing
        outbox = inside(lead).outbox
        for number in range(3):
            await lead.publish("tasks.paint", number)
            await hub.settle()

        async def bodies():
            yield 1
            await hub.settle()
            *_, newest = outbox._turns.values()
            outbox.refused(newest.sent[0].id, "forbidden")
            yield 2
            yield 3

        with pytest.raises(NotPermittedError) as caught:
            await soon(lead.publish_many("tasks.paint", bodies(), wait="sent"))
        assert caught.value.accepted == 2


async def test_who_waits_for_the_key_hears_of_its_agents_end():
    async with scene("PAINTER") as (hub, painter), apart(hub, "LEAD") as lead, painter.subscribe("control.>"):
        hub.tpm.seconds = 1_000.0
        async with anyio.create_task_group() as group:
            many = Later(group, lambda: lead.publish_many("control.stop", numbered(20_000)))
            await hub.settle()
            await lead.aclose()
            with pytest.raises(ClosedError):
                await many.result()
        hub.tpm.seconds = 0
        await hub.advance(1_000)


async def test_while_readers_are_behind_the_key_goes_on_and_what_it_signed_waits():
    """As much is signed as may be, so that it is ready when they have caught up."""
    count = 100_000
    async with (
        scene("LEAD", "PAINTER") as (hub, lead, painter),
        painter.subscribe("control.>", limit=1_000) as orders,
        anyio.create_task_group() as group,
    ):
        outbox = inside(lead).outbox
        many = Later(group, lambda: lead.publish_many("control.stop", numbered(count), wait="accepted"))
        await hub.settle()
        assert not many.is_done
        assert outbox._by_identity.signing == MOST_SIGNING
        assert numbers(await take(orders, count)) == [*range(count)]
        assert await many.result() == count
