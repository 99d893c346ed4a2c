"""Publishing: what is accepted is what is delivered, what cannot be is refused at the call, and nobody waits for nothing."""

from __future__ import annotations

from datetime import datetime

import anyio
import pytest
from agent_scenes import Later, apart, inside, numbered, numbers, rest, scene, soon, take

from bus.errors import ClosedError, MessageTooLargeError, NotPermittedError, OverloadedError, TpmUnavailableError
from bus.flow.waiting import MAX_RECORDS

pytestmark = pytest.mark.anyio


VALUES = [
    None, True, 7, -1, 1 << 63, 1.5, "text", "ünïcode", b"", b"bytes", bytearray(b"array"), memoryview(b"view"),
    [1, [2, [3]]], (1, 2), {"a": {"b": [None]}}, {1: "one"},
]  # fmt: skip
SEEN = {bytearray: bytes, memoryview: bytes, tuple: list}


# ---- bodies ---------------------------------------------------------------------------------------------------------------------


async def test_any_value_arrives_as_it_was():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        for value in VALUES:
            await lead.publish("tasks.paint", value)
        found = await take(tasks, len(VALUES))
    assert found == [SEEN.get(type(value), lambda same: same)(value) for value in VALUES]


async def test_what_is_changed_after_the_call_changes_nothing():
    body, headers = {"colour": "blue"}, {"hurry": "no"}
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.paint", body, headers=headers)
        body["colour"], headers["hurry"] = "red", "yes"
        message = await soon(anext(tasks))
    assert (message.body, dict(message.headers)) == ({"colour": "blue"}, {"hurry": "no"})


@pytest.mark.parametrize(
    "body", [object(), {1, 2}, 1 << 70, "\ud800", datetime.now], ids=["object", "set", "number", "surrogate", "function"]
)
async def test_what_cannot_travel_is_said_at_the_call(body):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        for publish in (lead.publish, lead.publish_soon, lead.request):
            with pytest.raises((TypeError, ValueError)):
                await publish("tasks.paint", body)
        with pytest.raises((TypeError, ValueError)):
            lead.publish_nowait("tasks.paint", body)
        await lead.publish("tasks.paint", "well")
        assert await rest(hub, tasks) == ["well"]


async def test_a_value_that_holds_itself_is_said_at_the_call():
    body: list = []
    body.append(body)
    async with scene("LEAD") as (_, lead):
        with pytest.raises(ValueError):  # noqa: PT011  misuse of Python's own kind
            await lead.publish("tasks.paint", body)


@pytest.mark.parametrize("size", [256, 257])
async def test_a_body_is_as_large_as_its_rule_says_and_no_larger(size):
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("small.>") as small:
        for _ in range(2):  # the first time, and by the quick path
            if size == 256:
                await lead.publish("small.box", bytes(size))
                assert await take(small, 1) == [bytes(size)]
                continue
            with pytest.raises(MessageTooLargeError) as caught:
                await lead.publish("small.box", bytes(size))
            assert (caught.value.size, caught.value.limit) == (257, 256)
        if size == 257:
            with pytest.raises(MessageTooLargeError):
                await lead.publish("small.box", "x" * size)
            with pytest.raises(MessageTooLargeError) as caught:
                await lead.publish_many("small.box", [b"1", b"2", bytes(size), b"4"])
            assert caught.value.accepted == 2
            assert await take(small, 2) == [b"1", b"2"]


async def test_the_largest_message_of_all_arrives():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        body = bytes(1016 << 10)
        await lead.publish("tasks.paint", body, headers={})
        await lead.publish("tasks.paint", "after")
        assert await take(tasks, 2) == [body, "after"]
        with pytest.raises(MessageTooLargeError):
            await lead.publish("tasks.paint", body + b"!")


# ---- headers ---------------------------------------------------------------------------------------------------------------------


async def test_headers_travel_with_their_message_alone():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.paint", 1)
        await lead.publish("tasks.paint", 2, headers={"k": "v", "empty": ""})
        await lead.publish("tasks.paint", 3, headers={})
        found = [await soon(anext(tasks)) for _ in range(3)]
    assert [dict(message.headers) for message in found] == [{}, {"k": "v", "empty": ""}, {}]


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"k": 1}, TypeError),
        ({1: "v"}, TypeError),
        ({"ü": "v"}, ValueError),
        ({"k": "ü"}, ValueError),
        ({f"k{number}": "" for number in range(65)}, ValueError),
    ],
)
async def test_headers_that_readers_would_refuse_are_refused_at_the_call(headers, kind):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        await lead.publish("tasks.paint", "before")
        with pytest.raises(kind):
            await lead.publish("tasks.paint", "bad", headers=headers)
        with pytest.raises(kind):
            await lead.publish_many("tasks.paint", ["bad"], headers=headers)
        await lead.publish("tasks.paint", "after")
        assert await rest(hub, tasks) == ["before", "after"]


async def test_headers_count_as_bytes_of_their_message():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("small.>") as small:
        with pytest.raises(MessageTooLargeError):
            await lead.publish("small.box", b"", headers={"k": "v" * 256})
        await lead.publish("small.box", b"", headers={"k": "v" * 200})
        assert await take(small, 1) == [b""]


async def test_many_messages_with_large_headers_all_arrive():
    """They share envelopes, and an envelope has a largest size."""
    headers = {f"k{number}": "v" * 1000 for number in range(60)}
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        for number in range(100):
            await lead.publish("tasks.paint", number, headers=headers)
        assert await take(tasks, 100) == list(range(100))


# ---- who may, and how ------------------------------------------------------------------------------------------------------------


async def test_what_policy_forbids_raises_at_every_call():
    async with scene("PAINTER") as (_, painter):
        calls = [
            lambda: painter.publish("tasks.paint", 1),
            lambda: painter.publish_soon("tasks.paint", 1),
            lambda: painter.publish_many("tasks.paint", [1]),
            lambda: painter.request("tasks.paint", 1),
        ]
        for call in calls:
            with pytest.raises(NotPermittedError) as caught:
                await call()
            assert (caught.value.agent, caught.value.action) == ("PAINTER", "publish tasks.paint")
        with pytest.raises(NotPermittedError):
            painter.publish_nowait("tasks.paint", 1)


@pytest.mark.parametrize("topic", ["_grant.PAINTER", "_reply.PAINTER.00", "_audit.LEAD", "_dead.tasks"])
async def test_nobody_publishes_on_the_topics_of_the_bus_itself(topic):
    async with scene("LEAD") as (_, lead):
        with pytest.raises(NotPermittedError):
            await lead.publish(topic, 1)


@pytest.mark.parametrize("topic", [7, None, b"tasks.paint"])
async def test_a_topic_is_a_text(topic):
    async with scene("LEAD") as (_, lead):
        for publish in (lead.publish, lead.publish_soon, lead.request):
            with pytest.raises(TypeError, match="topic="):
                await publish(topic, 1)


@pytest.mark.parametrize("one", ["text", b"bytes", bytearray(b"bytes"), memoryview(b"bytes")], ids=type)
async def test_one_body_is_not_taken_for_many(one):
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        with pytest.raises(TypeError) as caught:
            await lead.publish_many("tasks.paint", one)
        assert caught.value.accepted == 0
        assert await rest(hub, tasks) == []


@pytest.mark.parametrize("topic", ["", "a..b", "a.*", "a.>", "tasks paint", "ä", "x" * 300])
async def test_what_is_no_topic_is_said_at_the_call(topic):
    async with scene("LEAD") as (_, lead):
        with pytest.raises((ValueError, NotPermittedError)):
            await lead.publish(topic, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": float("inf")},
        {"ttl": float("nan")},
        {"priority": "critical"},
        {"priority": ""},
        {"wait": "soon"},
        {"wait": "stored"},
    ],
)
async def test_options_that_make_no_sense_are_said_at_the_call(options):
    async with scene("LEAD") as (_, lead):
        with pytest.raises(ValueError):  # noqa: PT011  misuse of Python's own kind
            await lead.publish("tasks.paint", 1, **options)


# ---- waiting ---------------------------------------------------------------------------------------------------------------------


async def test_accepted_returns_without_a_turn_of_the_loop():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>"):
        await lead.publish("tasks.paint", 1)
        coroutine = lead.publish("tasks.paint", 2)
        with pytest.raises(StopIteration):
            coroutine.send(None)


async def test_sent_returns_when_it_was_signed_and_written():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        await soon(lead.publish("tasks.paint", 1, wait="sent"))
        assert await rest(hub, tasks) == [1]


async def test_what_the_identity_key_signs_is_waited_for_by_default():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("control.>"), anyio.create_task_group() as tasks:
        hub.tpm.seconds = 1.0
        late = Later(tasks, lambda: lead.publish("control.stop", 1))
        quick = Later(tasks, lambda: lead.publish("control.stop", 2, wait="accepted"))
        await hub.settle()
        assert (late.is_done, quick.is_done) == (False, True)
        await hub.advance(1)
        await late.result()


async def test_what_the_tpm_fails_at_is_raised_where_it_is_waited_for():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("control.>") as orders:
        hub.tpm.fail_next(TpmUnavailableError("hung", "it does not answer"))
        with pytest.raises(TpmUnavailableError) as caught:
            await soon(lead.publish("control.stop", 1))
        assert caught.value.code == "hung"
        await soon(lead.publish("control.stop", 2))
        assert await take(orders, 1) == [2]


async def test_a_receipt_tells_the_id_that_its_reader_sees():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("alone.>") as alone:
        receipt = await lead.publish_soon("alone.box", 1)
        assert receipt.id == ""
        await soon(receipt.sent())
        assert (await soon(anext(alone))).id == receipt.id
        with pytest.raises(TypeError):
            await receipt.stored()


async def test_receipts_of_records_that_share_an_envelope_tell_them_apart():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        receipts = [await lead.publish_soon("tasks.paint", number) for number in range(20)]
        for receipt in receipts:
            await soon(receipt.sent())
        found = [await soon(anext(tasks)) for _ in receipts]
    assert [message.id for message in found] == [receipt.id for receipt in receipts]
    assert len({message.id for message in found}) == 20


async def test_hundreds_on_their_way_need_no_task_each():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>"):
        before = len(anyio.get_running_tasks())
        receipts = [await lead.publish_soon("tasks.paint", number) for number in range(500)]
        assert len(anyio.get_running_tasks()) == before
        for receipt in receipts:
            await soon(receipt.sent())


async def test_what_is_sent_to_nobody_counts_as_sent():
    async with scene("LEAD") as (_, lead):
        await soon(lead.publish("tasks.paint", 1, wait="sent"))
        assert inside(lead).statistics()["sent"] == {"unheard": 1}


# ---- a full lane -----------------------------------------------------------------------------------------------------------------


async def test_a_full_lane_is_waited_for_or_said_at_once():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:
        for number in range(MAX_RECORDS):
            lead.publish_nowait("tasks.paint", number)
        with pytest.raises(OverloadedError) as caught:
            lead.publish_nowait("tasks.paint", "too many")
        assert (caught.value.pending, caught.value.limit) == (MAX_RECORDS, MAX_RECORDS)
        await soon(lead.publish("tasks.paint", MAX_RECORDS))
        assert await take(tasks, MAX_RECORDS + 1) == list(range(MAX_RECORDS + 1))
        del hub


async def test_order_is_kept_however_it_is_published():
    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>", limit=10_000) as tasks:
        expected = []
        for start in range(0, 3_000, 100):
            lead.publish_nowait("tasks.paint", start)
            await lead.publish("tasks.paint", start + 1)
            await lead.publish_soon("tasks.paint", start + 2)
            await lead.publish("tasks.paint", start + 3, headers={"k": "v"})
            await lead.publish_many("tasks.paint", range(start + 4, start + 100))
            expected += range(start, start + 100)
        assert await take(tasks, 3_000) == expected


# ---- many ------------------------------------------------------------------------------------------------------------------------


async def test_publish_many_takes_iterables_of_both_kinds():
    async def slowly():
        for body in numbered(300):
            await anyio.lowlevel.checkpoint()
            yield body

    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>", limit=10_000) as tasks:
        assert await soon(lead.publish_many("tasks.paint", numbered(3_000))) == 3_000
        assert await soon(lead.publish_many("tasks.paint", slowly())) == 300
        assert await soon(lead.publish_many("tasks.paint", [])) == 0
        assert await soon(lead.publish_many("tasks.paint", ({"n": number} for number in range(10)), wait="sent")) == 10
        assert numbers(await take(tasks, 3_300)) == [*range(3_000), *range(300)]
        assert await take(tasks, 10) == [{"n": number} for number in range(10)]


async def test_publish_many_pulls_no_more_than_there_is_room_for():
    pulled = []

    def large():
        for number in range(10_000):
            pulled.append(number)
            yield bytes(100_000)

    async with scene("LEAD", "PAINTER") as (hub, lead, painter), anyio.create_task_group() as tasks:
        await painter.subscribe("tasks.>", limit=8).__aenter__()  # and takes nothing
        many = Later(tasks, lambda: lead.publish_many("tasks.paint", large()))
        await hub.settle()
        assert not many.is_done
        assert len(pulled) < 500
        tasks.cancel_scope.cancel()


async def test_an_error_tells_how_many_were_taken():
    async def failing():
        for number in range(5):
            yield number
        raise LookupError

    async with scene("LEAD", "PAINTER") as (_, lead, painter), painter.subscribe("tasks.>") as tasks:
        with pytest.raises(LookupError) as caught:
            await lead.publish_many("tasks.paint", failing())
        assert caught.value.accepted == 5
        with pytest.raises(TypeError) as misused:
            await lead.publish_many("tasks.paint", [5, 6, object()])
        assert misused.value.accepted == 2
        assert await take(tasks, 7) == [0, 1, 2, 3, 4, 5, 6]


async def test_what_was_accepted_before_a_cancellation_is_sent():
    async with scene("LEAD", "PAINTER") as (hub, lead, painter), painter.subscribe("tasks.>") as tasks:

        async def endless():
            for number in range(10):
                yield number
            await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            many = Later(group, lambda: lead.publish_many("tasks.paint", endless()))
            await hub.settle()
            many.scope.cancel()
        assert await rest(hub, tasks) == list(range(10))


# ---- the end ---------------------------------------------------------------------------------------------------------------------


async def test_after_its_end_an_agent_says_so():
    async with scene("LEAD", "PAINTER") as (_, lead, _painter):
        await lead.publish("tasks.paint", 1)
        await lead.aclose()
        await lead.aclose()
        calls = [
            lambda: lead.publish("tasks.paint", 1),
            lambda: lead.publish_soon("tasks.paint", 1),
            lambda: lead.publish_many("tasks.paint", [1]),
            lambda: lead.request("tasks.paint", 1),
        ]
        for call in calls:
            with pytest.raises(ClosedError):
                await call()
        with pytest.raises(ClosedError):
            lead.publish_nowait("tasks.paint", 1)
        with pytest.raises(ClosedError):
            lead.subscribe("tasks.>")


async def test_who_waits_for_room_hears_of_the_end():
    async with scene("PAINTER") as (hub, painter), apart(hub, "LEAD") as lead, anyio.create_task_group() as tasks:
        await painter.subscribe("tasks.>", limit=1).__aenter__()  # and takes nothing
        many = Later(tasks, lambda: lead.publish_many("tasks.paint", numbered(100_000)))
        await hub.settle()
        calls = [lambda: lead.publish("tasks.paint", b"x"), lambda: lead.publish_soon("tasks.paint", b"x")]
        waiting = [many, *(Later(tasks, call) for call in calls)]
        await hub.settle()
        assert not any(one.is_done for one in waiting)
        await lead.aclose()
        for one in waiting:
            with pytest.raises(ClosedError):
                await one.result()
