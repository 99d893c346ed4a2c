"""A broker that lies about what it keeps: the ledger of the reader holds, and nothing that was finished is handed over again."""

from __future__ import annotations

import anyio
import pytest
from kept_world import Wire, kept_world, until

from bus.protocol.frames import ACK, NAK, TERM, Frame
from bus.testing import ManualClock

pytestmark = pytest.mark.anyio


async def next_of(subscription):
    with anyio.fail_after(60):
        return await anext(subscription)


def again(wire: Wire, frame: list, **changes) -> None:
    """The same delivery, or with other facts."""
    _, number, subs, deliveries, position, envelope = frame
    facts = {"subs": subs, "deliveries": deliveries, "position": position, "envelope": envelope} | changes
    wire.tell(Frame.DELIVER, number, *facts.values())


async def test_what_was_acknowledged_is_acknowledged_again_and_nobody_sees_it():
    async with kept_world() as world, world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            await (await next_of(work)).ack(confirmed=True)
            wire = world.wire_of(painter)
            (frame,) = wire.delivered()
            for count in (2, 3):
                again(wire, frame)
                assert wire.settled(ACK) == [1] * count
            again(wire, frame, position=7, deliveries=9)
            assert wire.settled(ACK) == [1, 1, 1, 7]
            assert work.pending == 0


async def test_not_even_another_process_of_the_reader_sees_it():
    async with kept_world() as world, world.agent("LEAD") as lead:
        async with world.agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            await (await next_of(work)).ack(confirmed=True)
            (frame,) = world.wire_of(painter).delivered()
            grants = [one for one in world.wire_of(painter).heard if one[0] == Frame.DELIVER and not one[4]]
        async with world.agent("PAINTER") as painter, painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 2)
            assert (await next_of(work)).body == 2
            wire = world.wire_of(painter)
            (mine,) = wire.delivered()
            for one in [*grants, frame]:
                again(wire, one, subs=b"" if one in grants else mine[2])
            await until(lambda: 1 in wire.settled(ACK))
            assert work.pending == 0


async def test_what_was_ended_can_be_brought_back_as_an_operator_may_and_no_more_once_it_is_acknowledged():
    async with kept_world() as world, world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", "nonsense")
            await (await next_of(work)).term("bad")
            await until(lambda: world.counted["backbone"]["dead_letters"] == 1)
            wire = world.wire_of(painter)
            (frame,) = wire.delivered()
            again(wire, frame, deliveries=1)
            await (await next_of(work)).ack(confirmed=True)
            again(wire, frame, deliveries=1)
            assert work.pending == 0
            assert wire.settled(ACK) == [1, 1]


async def test_a_dead_letter_that_was_read_is_not_read_again():
    async with (
        kept_world() as world,
        world.agent("LEAD") as lead,
        world.agent("PAINTER") as painter,
        world.agent("MONITOR") as monitor,
    ):
        async with (
            painter.subscribe("work.>", durable="mine") as work,
            monitor.subscribe("work.>", durable="dead", dead=True) as dead,
        ):
            await lead.publish("work.a", "nonsense")
            await (await next_of(work)).term("bad")
            letter = await next_of(dead)
            await letter.ack(confirmed=True)
            wire = world.wire_of(monitor)
            (frame,) = wire.delivered()
            again(wire, frame)
            assert dead.pending == 0
            assert wire.settled(ACK) == [letter.position] * 2


async def test_positions_that_are_swapped_finish_nothing_that_was_not_handled():
    async with kept_world() as world, world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            wire = world.wire_of(painter)
            wire.withholds = lambda frame: frame[0] == Frame.DELIVER and bool(frame[4])
            taken: list[list] = []
            wire.withholds = lambda frame: frame[0] == Frame.DELIVER and bool(frame[4]) and not taken.append(frame)
            for body in ("one", "two"):
                await lead.publish("work.a", body)
            await until(lambda: len(taken) == 2)
            first, second = taken
            again(wire, second, position=first[4])
            message = await next_of(work)
            assert (message.body, message.position) == ("two", 1)
            await message.ack(confirmed=True)
            assert wire.settled(ACK) == [1]
            again(wire, first, position=second[4])
            message = await next_of(work)
            assert (message.body, message.position) == ("one", 2)
            again(wire, second)
            assert work.pending == 0
            assert wire.settled(ACK) == [1, 2]


async def test_what_is_withheld_stays_with_the_broker():
    clock = ManualClock()
    async with kept_world(clock=clock) as world, world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            wire = world.wire_of(painter)
            wire.withholds = lambda frame: frame[0] == Frame.DELIVER and frame[4] == 2
            for body in (1, 2, 3):
                await lead.publish("work.a", body)
            got = [await next_of(work) for _ in range(2)]
            assert [one.body for one in got] == [1, 3]
            for one in got:
                await one.ack(confirmed=True)
            wire.withholds = lambda _frame: False
            await until(lambda: world.counted["backbone"]["acks"] == 2)
            for _ in range(40):
                clock.advance(1)
                await anyio.wait_all_tasks_blocked()
            message = await next_of(work)
            assert (message.body, message.redelivered) == (2, True)


async def test_a_forged_one_is_ended_and_handed_to_nobody():
    async with kept_world() as world, world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
        async with painter.subscribe("work.>", durable="mine") as work:
            await lead.publish("work.a", 1)
            await next_of(work)
            wire = world.wire_of(painter)
            (frame,) = wire.delivered()
            again(wire, frame, position=9, envelope=frame[5][:-1] + bytes([frame[5][-1] ^ 1]))
            assert wire.settled(TERM) == [9]
            assert work.pending == 0


async def test_what_is_for_somebody_else_is_not_handed_over_by_naming_me():
    async with kept_world() as world, world.agent("LEAD") as lead, world.agent("PAINTER") as painter:
        async with painter.subscribe("work.a", durable="mine") as mine, painter.subscribe("work.b", durable="other") as other:
            await lead.publish("work.a", 1)
            await next_of(mine)
            wire = world.wire_of(painter)
            (frame,) = wire.delivered()
            again(wire, frame, subs=other.number.to_bytes(4, "big"), position=5)
            assert other.pending == mine.pending == 0
            assert wire.settled(TERM) == [5]


async def test_what_cannot_be_opened_yet_is_given_back_for_later_and_costs_no_credit():
    async with kept_world() as world, world.agent("LEAD") as lead:
        await lead.publish("work.a", 1)
        async with world.agent("PAINTER") as painter:
            async with painter.subscribe("work.>", durable="mine", start="all", limit=1) as work:
                wire = world.wire_of(painter)
                assert (await next_of(work)).body == 1
                (frame,) = wire.delivered()
                unknown = bytearray(frame[5])
                place = unknown.index(painter._host.keyring.held.epochs.__iter__().__next__())
                unknown[place] ^= 1
                again(wire, frame, position=8, envelope=bytes(unknown))
                await until(lambda: wire.settled(NAK) == [8], seconds=20)
                assert any(said[0] == Frame.CREDIT and said[1] == work.number for said in wire.said)
