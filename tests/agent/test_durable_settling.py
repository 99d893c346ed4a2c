"""Between a handler and the broker is a disk: nothing is acknowledged that is not written, and what is finished is not lost."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

import bus.testing
from bus.agent.ledger_file import LedgersInMemory
from bus.agent.settling import LedgerWriter, Place
from bus.errors import VaultError

pytestmark = pytest.mark.anyio
assert bus.testing.open  # imported here: to import blocks, and a loop that runs is guarded against that

POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [work.>]}
  worker: {key: ecc256/sha256, subscribe: [work.>], groups: [builders]}
topics:
  - {match: work.>, class: durable, retention: 1d, ack_wait: 30s, max_deliver: 3}
"""


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "9"])
async def test_a_delay_that_is_none_is_said_at_the_call_and_the_message_stays_in_hand(delay):
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD") as lead, hub.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.paint", 1)
            message = await anext(work)
            with pytest.raises(ValueError, match="delay="):
                await message.nak(delay)
            await message.ack(confirmed=True)
            await hub.advance(120)
            assert work.pending == 0


class Disk:
    """Ledgers that cannot be written while there is an error; `held` are writes that take their time."""

    company_seconds = 0.0

    def __init__(self, ledgers) -> None:
        self._ledgers = ledgers
        self.error: VaultError | None = None
        self.written = 0
        self.go = anyio.Event()
        self.go.set()

    async def load(self, agent, name):
        return await self._ledgers.load(agent, name)

    async def write(self, changes) -> None:
        listed = [*changes]
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.written += 1
        await self._ledgers.write(listed)


@asynccontextmanager
async def scene():
    async with bus.testing.open(policy=POLICY) as hub:
        disk = hub._world.ledgers = Disk(hub._world.ledgers)
        async with hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
            yield hub, disk, lead, painter


async def acks(hub) -> int:
    return (await hub.statistics())["broker"]["backbone"]["acks"]


async def next_of(subscription):
    with anyio.fail_after(30):
        return await anext(subscription)


async def test_nothing_is_acknowledged_before_it_is_written_down():
    async with scene() as (hub, disk, lead, painter), painter.subscribe("work.>", durable="mine") as work:
        await lead.publish("work.a", 1)
        disk.go = anyio.Event()
        await (await next_of(work)).ack()
        await hub.settle()
        assert await acks(hub) == 0
        disk.go.set()
        await hub.settle()
        assert await acks(hub) == 1


async def test_what_many_acknowledge_while_the_disk_writes_is_written_together():
    async with scene() as (hub, disk, lead, painter), painter.subscribe("work.>", durable="mine") as work:
        for number in range(20):
            await lead.publish("work.a", number)
        disk.go = anyio.Event()
        for _ in range(20):
            await (await next_of(work)).ack()
            await hub.settle()
        disk.go.set()
        await hub.settle()
        assert (disk.written, await acks(hub)) == (2, 20)


async def test_what_nobody_waits_for_waits_for_company_and_what_somebody_waits_for_takes_it_along():
    async with scene() as (hub, disk, lead, painter), painter.subscribe("work.>", durable="mine") as work:
        disk.company_seconds = 60.0
        for number in range(20):
            await lead.publish("work.a", number)
        for _ in range(19):
            await (await next_of(work)).ack()
            await hub.settle()
        assert (disk.written, await acks(hub)) == (0, 0)
        with anyio.fail_after(30):
            await (await next_of(work)).ack(confirmed=True)
        assert (disk.written, await acks(hub)) == (1, 20)


async def test_company_is_not_waited_for_without_end():
    async with scene() as (hub, disk, lead, painter), painter.subscribe("work.>", durable="mine") as work:
        disk.company_seconds = 0.001
        await lead.publish("work.a", 1)
        await (await next_of(work)).ack()
        with anyio.fail_after(30):
            while not disk.written:
                await anyio.lowlevel.checkpoint()
        await hub.settle()
        assert await acks(hub) == 1


async def test_who_is_cancelled_has_what_was_finished_on_disk_all_the_same():
    async with scene() as (hub, disk, lead, painter):
        disk.company_seconds = 60.0
        await lead.publish("work.a", 1)
        await lead.publish("work.a", 2)
        with anyio.CancelScope() as scope:
            async with painter.subscribe("work.>", durable="mine", start="all") as work:
                await (await next_of(work)).ack()
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        async with painter.subscribe("work.>", durable="mine", start="all") as work:
            assert disk.written == 1
            assert (await next_of(work)).body == 2
            await hub.settle()
            assert work.pending == 0


async def test_a_writer_that_ends_writes_what_waits_for_company():
    disk = Disk(LedgersInMemory())
    disk.company_seconds = 60.0
    async with anyio.create_task_group() as tasks:
        writer = LedgerWriter(disk, anyio.lowlevel.checkpoint, lambda _: None)
        tasks.start_soon(writer.run)
        settling = await writer.open(Place("PAINTER", "mine", 1), lambda _: None)
        settling.ledger.finish(b"e" * 32, 0, (0,), records=1, expires_ms=1)
        writer.wake()
        await anyio.wait_all_tasks_blocked()
        assert disk.written == 0
        tasks.cancel_scope.cancel()
    assert (await disk.load("PAINTER", "mine")).rows() == settling.ledger.rows() != []


async def test_while_the_disk_is_full_nothing_is_acknowledged_and_nothing_is_handed_out_twice():
    async with scene() as (hub, disk, lead, painter), painter.subscribe("work.>", durable="mine") as work:
        await lead.publish("work.a", 1)
        disk.error = VaultError("disk_full", "no room", path="ledger")
        message = await next_of(work)
        await message.ack()
        with pytest.raises(VaultError):
            await message.ack(confirmed=True)
        await hub.advance(40)
        assert (await acks(hub), work.pending) == (0, 0)
        disk.error = None
        await hub.advance(40)
        assert (await acks(hub), work.pending) == (1, 0)


@pytest.mark.parametrize("settle", ["ack", "term"])
async def test_what_is_settled_while_a_second_copy_waits_is_not_handed_out_again(settle):
    async with scene() as (hub, _, lead, painter), painter.subscribe("work.>", durable="mine") as work:
        await lead.publish("work.a", 1)
        message = await next_of(work)
        await hub.advance(31)
        assert work.pending == 1
        await (message.ack(confirmed=True) if settle == "ack" else message.term("bad"))
        await hub.settle()
        with anyio.move_on_after(0.05):
            pytest.fail(f"{await anext(work)} was settled")


async def test_what_was_finished_on_a_link_that_is_gone_is_acknowledged_on_the_next():
    async with bus.testing.open(policy=POLICY) as hub:
        host = hub.host()
        async with hub.host().agent("LEAD") as lead, host.agent("PAINTER") as painter:
            async with painter.subscribe("work.>", durable="mine") as work:
                await lead.publish("work.a", 1)
                message = await next_of(work)
                host.disconnect()
                await message.ack()
                await hub.advance(60)
                assert (await acks(hub), work.pending) == (1, 0)


async def test_a_group_and_its_member_alone_have_ledgers_of_their_own():
    async with scene() as (hub, _, lead, painter):
        async with (
            painter.subscribe("work.>", durable="same") as alone,
            painter.subscribe("work.>", durable="same", group="builders") as shared,
        ):
            await lead.publish("work.a", 1)
            for work in (alone, shared):
                await (await next_of(work)).ack(confirmed=True)
            assert await acks(hub) == 2


async def test_a_durable_subscription_drops_nothing():
    async with scene() as (*_, painter):
        with pytest.raises(ValueError, match="durable"):
            painter.subscribe("work.>", durable="mine", overflow="drop_oldest")


async def test_without_news_of_trust_what_is_kept_waits_at_the_broker_and_dies_of_nothing():
    policy = POLICY.replace("topics:", "trust: {max_age: 10m}\ntopics:")
    async with bus.testing.open(policy=policy) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine", limit=1) as work:
            for number in range(3):
                await lead.publish("work.a", number)
            await (await next_of(work)).ack()
            hub.clock.ms += 11 * 60_000  # and nobody states anything
            with anyio.move_on_after(0.05):
                pytest.fail(f"{await anext(work)} cannot be judged")
            await hub.advance(200)
            assert (await hub.statistics())["broker"]["backbone"]["dead_letters"] == 0
            hub.state_trust()
            await hub.settle()
            for number in (1, 2):
                message = await next_of(work)
                assert message.body == number
                await message.ack()


async def test_what_comes_again_while_it_is_written_as_finished_is_acknowledged_as_soon_as_it_is():
    async with bus.testing.open(policy=POLICY) as hub:
        disk = hub._world.ledgers = Disk(hub._world.ledgers)
        host = hub.host()
        async with hub.host().agent("LEAD") as lead, host.agent("PAINTER") as painter:
            async with painter.subscribe("work.>", durable="mine") as work:
                await lead.publish("work.a", 1)
                message = await next_of(work)
                disk.go = anyio.Event()
                await message.ack()
                host.disconnect()
                await hub.advance(5)
                assert (await acks(hub), work.pending) == (0, 0)
                disk.go.set()
                await hub.settle()
                assert await acks(hub) == 1


async def test_what_was_ended_without_a_link_can_be_ended_again():
    async with bus.testing.open(policy=POLICY) as hub:
        host = hub.host()
        async with hub.host().agent("LEAD") as lead, host.agent("PAINTER") as painter:
            async with painter.subscribe("work.>", durable="mine") as work:
                await lead.publish("work.a", 1)
                message = await next_of(work)
                host.disconnect()
                await message.term("bad")
                await hub.advance(20)
                await (await next_of(work)).term("bad")
                await hub.advance(1)
                (letter,) = await backbone(hub).dead_letters()
                assert (letter.reason, work.pending) == ("bad", 0)


def backbone(hub):
    return hub.broker._durable._backbone


@pytest.mark.parametrize("unit", ["record", "envelope"])
async def test_a_dead_letter_that_is_handed_out_anew_reaches_the_reader_that_ended_it(unit):
    policy = POLICY.replace("max_deliver: 3", f"max_deliver: 3, unit: {unit}")
    async with bus.testing.open(policy=policy) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish_many("work.a", ["good", "bad"])
            for _ in range(2):
                message = await next_of(work)
                if message.body == "bad":
                    await message.term("not now")
                else:
                    await message.ack()
            await hub.advance(1)
            (letter,) = await backbone(hub).dead_letters()
            await backbone(hub).requeue_dead(letter.class_, letter.position)
            message = await next_of(work)
            assert (message.body, message.deliveries, work.pending) == ("bad", 1, 0)
            await message.ack(confirmed=True)
            await hub.advance(60)
            assert (work.pending, await backbone(hub).dead_letters()) == (0, [])
