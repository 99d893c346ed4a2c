"""Subscriptions: what comes is handed out in order and once, what is too much goes as its overflow says, and what is lost shows."""

from __future__ import annotations

import anyio
import pytest
from agent_scenes import POLICY, Later, apart, inside, numbered, numbers, rest, scene, soon, take

from bus.agent import backlog, joining
from bus.errors import ClosedError, LocalProtocolError, NotPermittedError, SlowReaderError
from bus.protocol.frames import Frame, encode

pytestmark = pytest.mark.anyio

AUDITED = POLICY.replace("topics:\n", "audit_readers: [LEAD]\ntopics:\n")


# ---- what a message tells --------------------------------------------------------------------------------------------------------


async def test_a_message_tells_all_that_was_verified():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.paint", {"colour": "blue"}, headers={"k": "v"})
        message = await soon(anext(tasks))
    assert (message.sender, message.topic, message.agent, message.signed_by) == ("LEAD", "tasks.paint", "PAINTER", "session")
    assert (message.deliveries, message.redelivered, message.missed, message.position) == (1, False, 0, None)
    assert int(message.sent_at.timestamp() * 1000) == hub.clock.now_ms()
    assert len(message.id) == 32
    assert not message.is_request
    for settle in (message.ack, message.nak, message.term, message.touch):
        await settle()


async def test_nothing_in_a_message_can_be_changed():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.paint", {"colour": "blue"}, headers={"k": "v"})
        message = await soon(anext(tasks))
        message.body["colour"] = "red"
        assert message.body == {"colour": "blue"}
        with pytest.raises(TypeError):
            message.headers["k"] = "w"
        with pytest.raises(AttributeError):
            message.sender = "SECOND"


async def test_each_subscription_gets_its_own_and_every_agent_of_a_host_too():
    async with scene("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter):
        async with (
            painter.subscribe("tasks.>") as one,
            painter.subscribe("tasks.*") as two,
            carpenter.subscribe("tasks.paint") as three,
        ):
            await lead.publish("tasks.paint", 1)
            await lead.publish("tasks.paint.wall", 2)
            await lead.publish("tasks.saw", 3)
            found = [await rest(hub, one), await rest(hub, two), await rest(hub, three)]
    assert found == [[1, 2, 3], [1, 3], [1]]


async def test_nothing_of_before_it_was_entered_and_all_of_afterwards():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        await lead.publish("tasks.paint", "before")
        await hub.settle()
        async with painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.paint", "within")
            assert await rest(hub, tasks) == ["within"]
        await lead.publish("tasks.paint", "after")
        await hub.settle()
        with pytest.raises(StopAsyncIteration):
            await anext(tasks)


async def test_what_policy_forbids_is_said_with_its_rule_when_it_is_entered():
    async with scene("GUEST", "PAINTER") as (_, guest, painter):
        with pytest.raises(NotPermittedError) as caught:
            async with guest.subscribe("tasks.>"):
                pass
        assert (caught.value.agent, caught.value.action) == ("GUEST", "subscribe to tasks.>")
        with pytest.raises(NotPermittedError):
            async with painter.subscribe("tasks.>", group="others"):
                pass
        async with guest.subscribe("open.>"):
            pass
        assert len(inside(guest).inbox) == 0


@pytest.mark.parametrize(
    "options",
    [
        *({"limit": 0}, {"limit": -1}, {"overflow": "explode"}, {"limit": 1 << 32}, {"start": "all"}),
        *({"durable": "mine", "start": start} for start in (-1, 1 << 63, "yesterday")),
        *({kind: name} for kind in ("group", "durable") for name in ("", "Crew", "_crew", "a b", "crew.two", "x" * 65, "ü")),
    ],
    ids=str,
)
async def test_options_that_no_subscription_can_have_are_said_at_once(options):
    async with scene("PAINTER") as (_, painter):
        with pytest.raises(ValueError):  # noqa: PT011  misuse of Python's own kind
            painter.subscribe("tasks.>", **options)


@pytest.mark.parametrize(
    "options",
    [
        *({"limit": limit} for limit in (True, 1.5, "8", None)),
        *({"durable": "mine", "start": start} for start in (True, None, 1.5)),
        *({kind: 7} for kind in ("group", "durable", "pattern")),
    ],
    ids=str,
)
async def test_options_of_another_kind_are_said_at_once(options):
    async with scene("PAINTER") as (_, painter):
        with pytest.raises(TypeError):
            painter.subscribe(**{"pattern": "tasks.>"} | options)


async def test_a_name_that_policy_lets_through_and_no_group_can_have_leaves_the_link_alone():
    async with scene("LEAD", "PAINTER", policy=POLICY.replace("{group: crew}", "'*'")) as (hub, lead, painter):
        async with painter.subscribe("tasks.>") as tasks:
            with pytest.raises(ValueError, match="Crew"):
                async with painter.subscribe("tasks.>", group="Crew"):
                    pass
            await lead.publish("tasks.paint", 1)
            assert await rest(hub, tasks) == [1]
            assert (await hub.statistics())["broker"]["cut"] == {}


async def test_a_subscription_that_was_not_entered_says_so_and_does_not_wait_for_ever():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        tasks = painter.subscribe("tasks.>")
        for take_one in (tasks.__anext__, tasks.next_batch, tasks.batches().__anext__):
            with pytest.raises(LocalProtocolError):
                await soon(take_one())
        async with tasks:
            await lead.publish("tasks.paint", 1)
            assert await rest(hub, tasks) == [1]


async def test_a_subscription_is_entered_once():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        with pytest.raises(ClosedError):
            await soon(tasks.__aenter__())
        await lead.publish("tasks.paint", 1)
        assert await rest(hub, tasks) == [1]
        await tasks.aclose()
        with pytest.raises(ClosedError):
            await soon(tasks.__aenter__())
        await hub.settle()
        broker = (await hub.statistics())["broker"]
        assert (broker["subscriptions"], broker["cut"]) == (0, {})


async def test_what_was_made_before_its_agent_was_closed_is_not_entered_afterwards():
    async with scene("PAINTER") as (hub, painter):
        tasks, kept = painter.subscribe("tasks.>"), painter.subscribe("work.>", durable="mine")
        await painter.aclose()
        for one in (tasks, kept):
            with pytest.raises(ClosedError):
                await soon(one.__aenter__())
            with pytest.raises(StopAsyncIteration):
                await soon(anext(one))
        await hub.settle()
        assert (await hub.statistics())["broker"]["subscriptions"] == 0


@pytest.mark.parametrize("pattern", ["", ">.tasks", "a..b", "tasks.>.x"])
async def test_what_is_no_pattern_is_said_when_it_is_entered(pattern):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        with pytest.raises((ValueError, NotPermittedError)):
            async with lead.subscribe(pattern):
                pass
        async with painter.subscribe("tasks.>") as tasks:  # the link lives
            await lead.publish("tasks.paint", 1)
            assert await rest(hub, tasks) == [1]


@pytest.mark.parametrize("whom", ["", "ü", "\ud800", "x" * 600, "PAINTER.x", ">", "painter"])
async def test_an_audit_of_nobody_is_said_when_it_is_entered_and_costs_nobody_the_link(whom):
    async with scene("LEAD", "PAINTER", policy=AUDITED) as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        with pytest.raises(NotPermittedError) as caught:
            await soon(lead.subscribe(f"_audit.{whom}").__aenter__())
        assert "broker" not in caught.value.rule
        await lead.publish("tasks.paint", 1)
        assert await rest(hub, tasks) == [1]
        assert (await hub.statistics())["broker"]["cut"] == {}


async def test_audits_are_read_of_one_agent_or_of_all_and_in_no_group():
    async with scene("LEAD", "PAINTER", policy=AUDITED) as (_, lead, painter):
        for pattern in ("_audit.PAINTER", "_audit.*"):
            async with lead.subscribe(pattern):
                pass
            with pytest.raises(NotPermittedError) as caught:
                await soon(lead.subscribe(pattern, group="crew").__aenter__())
            assert "broker" not in caught.value.rule
        with pytest.raises(NotPermittedError):
            await soon(painter.subscribe("_audit.PAINTER").__aenter__())


async def test_one_that_the_broker_calls_malformed_ends_with_that_and_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch):
    """As between versions that differ in what a subscription may be: once is enough, and the others of the link are not touched."""
    real, asked = joining._subscribe, []

    def other_version(joined) -> bytes:
        if joined.subscription.pattern != "tasks.paint":
            return real(joined)
        asked.append(joined.subscription.number)
        return encode(Frame.SUBSCRIBE, joined.subscription.number, "PAINTER", "tasks.paint", "", "", "", 8, "newest_wins")

    monkeypatch.setattr(joining, "_subscribe", other_version)
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        with pytest.raises(NotPermittedError, match="malformed"):
            await soon(painter.subscribe("tasks.paint").__aenter__())
        await hub.advance(10)
        assert len(asked) == 1
        await lead.publish("tasks.paint", 1)
        assert await rest(hub, tasks) == [1]


# ---- iterating -------------------------------------------------------------------------------------------------------------------


async def test_batches_are_whole_envelopes():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>", limit=10_000) as tasks:
        await lead.publish_many("tasks.paint", numbered(1_000))
        found, sizes = [], []
        async for batch in tasks.batches():
            found += [message.body for message in batch]
            sizes.append(len(batch))
            if len(found) == 1_000:
                break
        assert numbers(found) == list(range(1_000))
        assert len(sizes) < 20
        await lead.publish("tasks.paint", b"x")
        await hub.settle()
        await anext(tasks)
        with pytest.raises(TimeoutError), anyio.fail_after(0):
            await anext(tasks.batches())


async def test_both_ways_of_taking_can_be_mixed():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>", limit=10_000) as tasks:
        await lead.publish_many("tasks.paint", range(300))
        found = await take(tasks, 10)
        found += [message.body for message in await soon(anext(tasks.batches()))]
        found += await take(tasks, 300 - len(found))
    assert found == list(range(300))


async def test_several_tasks_take_each_message_once():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>", limit=100_000) as tasks:
        found: list[list[int]] = [[] for _ in range(5)]

        async def taking(mine: list[int]) -> None:
            async for message in tasks:
                mine.append(message.body)
                if message.body % 7 == 0:
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for mine in found:
                group.start_soon(taking, mine)
            for start in range(0, 5_000, 50):
                await lead.publish_many("tasks.paint", range(start, start + 50))
                if start % 200 == 0:
                    await hub.settle()
            await hub.settle()
            assert (tasks.pending, tasks.delivered) == (0, 5_000)
            await tasks.aclose()
    assert sorted(number for mine in found for number in mine) == list(range(5_000))
    assert all(mine == sorted(mine) for mine in found)


async def test_who_is_cancelled_while_waiting_has_taken_nothing():
    got = []
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        for number in range(20):
            with anyio.move_on_after(0):
                got.append((await anext(tasks)).body)
            await lead.publish("tasks.paint", number)
            await hub.settle()
            if number % 2:  # what is there is handed out without waiting
                with anyio.move_on_after(0):
                    got.append((await anext(tasks)).body)
        assert got + await rest(hub, tasks) == list(range(20))


async def test_numbers_of_a_subscription_add_up():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish_many("tasks.paint", range(100))
        await hub.settle()
        assert (tasks.pending, tasks.delivered, tasks.dropped) == (100, 0, 0)
        await take(tasks, 30)
        assert (tasks.pending, tasks.delivered, tasks.dropped) == (70, 30, 0)
        await tasks.aclose()
        assert (tasks.pending, tasks.delivered, tasks.dropped) == (0, 30, 0)


# ---- block -----------------------------------------------------------------------------------------------------------------------


async def test_who_blocks_loses_nothing_and_holds_no_more_than_its_limit():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter:
        async with painter.subscribe("alone.>", limit=10) as alone, anyio.create_task_group() as tasks:
            many = Later(tasks, lambda: lead.publish_many("alone.box", range(3_000)))
            await hub.settle()
            assert alone.pending <= 10
            found = []
            while len(found) < 3_000:
                found += await take(alone, min(5, 3_000 - len(found)))
                assert alone.pending <= 10
            assert found == list(range(3_000))
            assert await many.result() == 3_000


async def test_who_gives_no_credit_for_two_seconds_is_ended_and_others_go_on():
    async with scene("LEAD", "CARPENTER") as (hub, lead, carpenter), apart(hub, "PAINTER") as painter:
        async with painter.subscribe("tasks.>", limit=4) as slow, carpenter.subscribe("tasks.>", limit=100_000) as quick:
            async with anyio.create_task_group() as tasks:
                many = Later(tasks, lambda: lead.publish_many("tasks.paint", range(20_000)))
                await hub.settle()
                assert not many.is_done
                await hub.advance(3)
                await many.result()
            got = await take(slow, slow.pending)
            assert got == list(range(len(got)))
            with pytest.raises(SlowReaderError) as caught:
                await anext(slow)
            assert (caught.value.queue, caught.value.limit) == ("tasks.>", 4)
            assert await take(quick, 20_000) == list(range(20_000))


async def test_a_full_reader_stops_its_topic_and_no_other():
    async with scene("LEAD", "CARPENTER") as (hub, lead, carpenter), apart(hub, "PAINTER") as painter:
        async with (
            painter.subscribe("tasks.>", limit=4),
            carpenter.subscribe("lists.>") as lists,
            anyio.create_task_group() as tasks,
        ):
            Later(tasks, lambda: lead.publish_many("tasks.paint", range(10_000)))
            await hub.settle()
            await hub.advance(0.1)
            for number in range(20):
                await soon(lead.publish("lists.box", number))
            assert await rest(hub, lists) == list(range(20))
            tasks.cancel_scope.cancel()


# ---- the others ------------------------------------------------------------------------------------------------------------------


def after(numbers: list[int], missed: list[int]) -> list[int]:
    """Which numbers there must be, if what is missed was just before each."""
    expected, here = [], -1
    for lost in missed:
        here += lost + 1
        expected.append(here)
    assert len(expected) == len(numbers)
    return expected


async def fill(hub, lead, topic: str, count: int, each: int = 10) -> None:
    """In many envelopes."""
    for start in range(0, count, each):
        await lead.publish_many(topic, range(start, min(start + each, count)))
        await hub.settle()


@pytest.mark.parametrize("topic", ["tasks.paint", "alone.box"])
async def test_who_drops_the_oldest_keeps_the_newest_and_sees_what_it_missed(topic):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe(topic, limit=25, overflow="drop_oldest") as few:
            await fill(hub, lead, topic, 100)
            found = [await soon(anext(few)) for _ in range(few.pending)]
            assert [message.body for message in found] == list(range(75, 100))
            assert [message.missed for message in found] == [75, *[0] * 24]
            assert (few.dropped, few.delivered) == (75, 25)


@pytest.mark.parametrize("topic", ["tasks.paint", "alone.box"])
async def test_who_drops_the_newest_keeps_the_oldest_and_sees_later_what_it_missed(topic):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe(topic, limit=25, overflow="drop_newest") as few:
            await fill(hub, lead, topic, 100)
            assert await take(few, few.pending) == list(range(25))
            assert (few.dropped, few.delivered) == (75, 25)
            await lead.publish(topic, 100)
            message = await soon(anext(few))
            assert (message.body, message.missed) == (100, 75)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize("each", [1, 7, 300])
async def test_what_is_dropped_and_what_is_taken_add_up_whatever_the_envelopes(overflow, each):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("tasks.>", limit=40, overflow=overflow) as few:
            found, missed = [], []
            for start in range(0, 600, 60):
                for first in range(start, start + 60, each):
                    await lead.publish_many("tasks.paint", range(first, min(first + each, start + 60)))
                    if each > 1:
                        await hub.settle()
                await hub.settle()
                assert few.pending <= 40 + 10
                for _ in range(few.pending - 10 if start < 540 else few.pending):
                    message = await soon(anext(few))
                    found.append(message.body)
                    missed.append(message.missed)
            assert few.delivered + few.dropped == 600
            assert found == after(found, missed)
            assert found == sorted(found)


async def test_who_would_rather_know_is_ended_when_it_is_too_slow():
    async with scene("LEAD", "PAINTER", "CARPENTER") as (hub, lead, painter, carpenter):
        async with painter.subscribe("tasks.>", limit=25, overflow="disconnect") as few, carpenter.subscribe("tasks.>") as many:
            await fill(hub, lead, "tasks.paint", 100)
            got = await take(few, few.pending)
            assert got == list(range(len(got)))
            assert 0 < len(got) <= 25
            with pytest.raises(SlowReaderError) as caught:
                await anext(few)
            assert (caught.value.queue, caught.value.limit) == ("tasks.>", 25)
            assert await rest(hub, many) == list(range(100))
            assert few.delivered + few.dropped == 100


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "disconnect"])
async def test_an_envelope_with_more_than_the_limit_ends_nobody_who_waits(overflow):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("tasks.>", limit=3, overflow=overflow) as few:
            await lead.publish_many("tasks.paint", range(10))
            found = await rest(hub, few)
            assert found == {"drop_oldest": [7, 8, 9], "drop_newest": [0, 1, 2], "disconnect": list(range(10))}[overflow]


async def test_who_drops_never_stops_a_publisher():
    async with scene("LEAD") as (hub, lead), apart(hub, "PAINTER") as painter:
        async with painter.subscribe("tasks.>", limit=10, overflow="drop_oldest") as few, anyio.create_task_group() as tasks:
            many = Later(tasks, lambda: lead.publish_many("tasks.paint", range(20_000)))
            await hub.settle()
            await many.result()
            assert (await rest(hub, few))[-1] == 19_999
            assert few.delivered + few.dropped == 20_000


async def test_what_is_missed_is_told_of_each_sender_and_topic():
    async with scene("LEAD", "SECOND", "PAINTER") as (hub, lead, second, painter):
        async with painter.subscribe("alone.>", limit=4, overflow="drop_oldest") as few:
            for number in range(4):
                await lead.publish("alone.a", number)
                await second.publish("alone.a", number)
                await lead.publish("alone.b", number)
                await hub.settle()
            found = [await soon(anext(few)) for _ in range(few.pending)]
    last = [(message.sender, message.topic, message.body, message.missed) for message in found]
    assert last == [("LEAD", "alone.b", 2, 2), ("LEAD", "alone.a", 3, 3), ("SECOND", "alone.a", 3, 3), ("LEAD", "alone.b", 3, 0)]


# ---- the end ---------------------------------------------------------------------------------------------------------------------


async def test_closing_a_subscription_ends_its_iteration_in_whatever_task():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        tasks = painter.subscribe("tasks.>")
        await tasks.__aenter__()

        async def all_of_them() -> list[int]:
            return [message.body async for message in tasks]

        async with anyio.create_task_group() as group:
            taking = Later(group, all_of_them)
            await lead.publish("tasks.paint", 1)
            await hub.settle()
            await tasks.aclose()
            await tasks.aclose()
            assert await taking.result() == [1]
        assert len(inside(painter).inbox) == 0
        assert (await hub.statistics())["broker"]["subscriptions"] == 0


async def test_subscriptions_end_with_their_agent():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        tasks = await painter.subscribe("tasks.>").__aenter__()
        await lead.publish("tasks.paint", 1)
        await hub.settle()
        await painter.aclose()
        assert [message.body async for message in tasks] == [1]
        with pytest.raises(ClosedError):
            painter.subscribe("tasks.>")


async def test_a_thousand_subscriptions_cost_no_task():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        await hub.settle()
        before = len(anyio.get_running_tasks())
        async with anyio.create_task_group() as group:
            for number in range(1_000):
                group.start_soon(painter.subscribe(f"tasks.t{number}").__aenter__)
        await lead.publish("tasks.t7", 1)
        await hub.settle()
        assert len(anyio.get_running_tasks()) == before
        assert [one.pattern for one in inside(painter).inbox if one.pending] == ["tasks.t7"]


LARGE = 1_000


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "disconnect"])
async def test_what_waits_where_nobody_is_held_up_is_bounded_by_its_bytes_too(overflow: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backlog, "MAX_BYTES", 4 * LARGE)
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        async with painter.subscribe("tasks.>", limit=100, overflow=overflow) as few:
            for _ in range(2):  # and what was taken weighs nothing any more
                for number in range(10):
                    await lead.publish("tasks.paint", bytes([number]) * LARGE)
                    await hub.settle()
                if overflow == "disconnect":
                    assert few.pending == 4
                    assert not few.is_open
                    return
                found = [body[0] for body in await take(few, 4)]
                assert found == ([6, 7, 8, 9] if overflow == "drop_oldest" else [0, 1, 2, 3])
                assert few.pending == 0
            assert few.dropped == 12


async def test_one_batch_that_is_larger_than_all_that_may_wait_is_handed_over_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backlog, "MAX_BYTES", 10)
    async with scene("LEAD", "PAINTER") as (hub, lead, painter):
        for overflow in ("drop_oldest", "drop_newest", "disconnect"):
            async with painter.subscribe("tasks.>", overflow=overflow) as few:
                await lead.publish("tasks.paint", b"x" * LARGE)
                await hub.settle()
                assert few.pending == 1
