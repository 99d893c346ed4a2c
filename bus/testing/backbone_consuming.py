"""What a backbone hands out: the parts of its check that are about taking, settling, redelivery and dead letters."""

from __future__ import annotations

import anyio

from bus.backbone.interface import DEAD, LEAST_PUT_OFF_MS, Delivery, PutOff
from bus.flow.redelivery import put_off_seconds
from bus.flow.start import ALL
from bus.protocol.codec import pack
from bus.protocol.frames import NOT_BEGUN
from bus.testing.backbone_bench import ACK_WAIT_SECONDS, SHORT, WORK, Bench, refuses, require, seen, taken

# ---- handing out -----------------------------------------------------------------------------------------------------------------


async def nobody_gets_more_than_is_allowed(bench: Bench) -> None:
    positions = await bench.append(*["work.a"] * 10)
    consumer = await bench.consume("inbox", allowed=3)
    require([one.position for one in await taken(consumer, 3)] == positions[:3], "three are allowed")
    consumer.allow(2)
    require([one.position for one in await taken(consumer, 2)] == positions[3:5], "two more are")
    found: list[Delivery] = []

    async def wait() -> None:
        found.extend(await consumer.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await bench.append("work.a")
        require(not found, "none is allowed")
        consumer.allow(1)
    require([one.position for one in found] == [positions[5]], "one that waits has it as soon as it is allowed")


async def a_cancelled_take_loses_nothing(bench: Bench) -> None:
    consumer = await bench.consume("inbox")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.take)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await bench.append("work.a")
    require(len(await taken(consumer, 1)) == 1, "after somebody was cancelled")


async def what_expired_is_not_handed_out(bench: Bench) -> None:
    entries = [bench.entry("work.a", b"short", expires_in_ms=1_000), bench.entry("work.a", b"long")]
    await bench.backbone.append(entries)
    early = await bench.consume("early")
    require([one.envelope for one in await taken(early, 2)] == [b"short", b"long"], "nothing is expired yet")
    await bench.passes(ACK_WAIT_SECONDS)
    await bench.retain()
    require([one.envelope for one in await taken(early, 1)] == [b"long"], "what expired is not handed out again")
    require([one.envelope for one in await taken(await bench.consume("late"), 1)] == [b"long"], "what expired is passed over")


# ---- settling ------------------------------------------------------------------------------------------------------------------


async def settling(bench: Bench) -> None:
    positions = await bench.append(*["work.a"] * 6)
    consumer = await bench.consume("inbox")
    await taken(consumer, 6)
    await consumer.settle(
        acks=[(positions[0], positions[1])],
        naks=[(positions[2], positions[2], 0), (positions[3], positions[3], None)],
        touches=[(positions[4], positions[4])],
    )
    require(seen(await taken(consumer, 1)) == [(positions[2], 2)], "a nak without delay: at once")
    await bench.passes(1.0)
    require(seen(await taken(consumer, 1)) == [(positions[3], 2)], "a usual nak: after a second")
    await consumer.settle(acks=[(positions[2], positions[5])])
    await consumer.settle(acks=[(positions[0], positions[5]), (1, 1 << 62)], naks=[(positions[0], 1 << 62, 0)], touches=[(1, 5)])
    await bench.passes(ACK_WAIT_SECONDS)
    await bench.append("work.last")
    require((await taken(consumer, 1))[0].topic == "work.last", "what is settled stays so, whatever else is said of it")
    (facts,) = await bench.backbone.consumers()
    require(facts.waiting == 0 and facts.floor >= positions[5], f"its facts are {facts}")


async def what_nobody_settles_comes_again(bench: Bench) -> None:
    first, second = await bench.append("work.a", "work.b")
    consumer = await bench.consume("inbox")
    await taken(consumer, 2)
    await bench.passes(ACK_WAIT_SECONDS / 2)
    consumer.settle_nowait(touches=[(second, second)])
    await bench.passes(ACK_WAIT_SECONDS / 2 + 0.1)
    require(seen(await taken(consumer, 1)) == [(first, 2)], "after `ack_wait`; what was touched has more time")
    await bench.passes(ACK_WAIT_SECONDS / 2)
    require(seen(await taken(consumer, 1)) == [(second, 2)], "it has as much again")


async def who_waits_hears_of_what_is_due(bench: Bench) -> None:
    (position,) = await bench.append("work.a")
    consumer = await bench.consume("inbox")
    await taken(consumer, 1)
    found: list[Delivery] = []

    async def wait() -> None:
        found.extend(await taken(consumer, 1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await bench.calm()
        await bench.passes(ACK_WAIT_SECONDS + 0.2)
    require(seen(found) == [(position, 2)], "who waits in `take` has what is overdue")


async def naks_wait_longer_each_time(bench: Bench) -> None:
    (position,) = await bench.append("work.a")
    consumer = await bench.consume("inbox")
    await taken(consumer, 1)
    consumer.settle_nowait(naks=[(position, position, None)])
    await bench.passes(1.0)
    require(seen(await taken(consumer, 1)) == [(position, 2)], "a second after the first")
    consumer.settle_nowait(naks=[(position, position, None)])
    await bench.passes(1.0)
    await bench.append("work.b")
    require((await taken(consumer, 1))[0].topic == "work.b", "not yet: two seconds after the second")
    await bench.passes(1.0)
    require((await taken(consumer, 1))[0][:2] == (position, 3), "two seconds after the second")


async def what_was_put_off_does_not_count(bench: Bench) -> None:
    (put_off,) = await bench.append("work.a")
    consumer = await bench.consume("inbox")
    await taken(consumer, 1)
    for _ in range(WORK.max_deliver + 1):
        await consumer.settle(put_off=[PutOff(put_off, put_off, 0, "missing_key")])
        await bench.passes(LEAST_PUT_OFF_MS / 1000)
        require(seen(await taken(consumer, 1)) == [(put_off, 1)], "it comes after a second, as if for the first time")
    await consumer.settle(naks=[(put_off, put_off, 0)], put_off=[PutOff(9, 8, 0, "missing_key"), PutOff(1 << 40, 1 << 62, 0, "no")])
    require(seen(await taken(consumer, 1)) == [(put_off, 2)], "a nak counts")
    (other,) = await bench.append("work.b")
    await taken(consumer, 1)
    await consumer.settle(put_off=[PutOff(put_off, put_off, 0, "missing_key")])
    await consumer.aclose()
    consumer = await bench.consume("inbox")
    require(seen(await taken(consumer, 1)) == [(other, 2)], "what was left when it closed counts")
    await bench.passes(LEAST_PUT_OFF_MS / 1000)
    require(seen(await taken(consumer, 1)) == [(put_off, 2)], "what was put off is remembered when it is opened again")
    await consumer.settle(acks=[(put_off, other)])
    require(await bench.backbone.dead_letters() == [], "nothing was given up")
    (facts,) = await bench.backbone.consumers()
    require(facts.waiting == facts.outstanding == 0, f"its facts are {facts}")


async def what_was_not_begun_does_not_count(bench: Bench) -> None:
    """And comes again at once, in order, before what is new; however often, and although somebody else opens it."""
    first, second = await bench.append("work.a", "work.b")
    for _ in range(WORK.max_deliver + 1):
        consumer = await bench.consume("inbox")
        require(seen(await taken(consumer, 2)) == [(first, 1), (second, 1)], "as if for the first time")
        await consumer.settle(put_off=[PutOff(first, second, 0, NOT_BEGUN)])
        await consumer.aclose()
    consumer = await bench.consume("inbox")
    await taken(consumer, 2)
    await consumer.settle(acks=[(second, second)], naks=[(first, first, 0)], put_off=[PutOff(first, second, 0, NOT_BEGUN)])
    require(seen(await taken(consumer, 1)) == [(first, 2)], "a nak counts; what is settled stays so")
    await consumer.settle(acks=[(first, first)])
    require(await bench.backbone.dead_letters() == [], "nothing was given up")


async def what_was_put_off_for_too_long_is_a_dead_letter(bench: Bench) -> None:
    await bench.backbone.retain([SHORT], passed_ms=bench.clock.now_ms())
    (position,) = await bench.append("short.a")
    consumer = await bench.consume("inbox", "short.>")
    await taken(consumer, 1)
    await consumer.settle(put_off=[PutOff(position, position, 0, "missing_key")])
    await bench.passes(put_off_seconds(SHORT.retention_ms))
    await taken(consumer, 1)
    await consumer.settle(put_off=[PutOff(position, position, 0, "no_granter")])
    letters = await bench.backbone.dead_letters()
    told = [(letter.reason, letter.deliveries, letter.original) for letter in letters]
    require(told == [("no_granter", 1, position)], f"the dead letters are {letters}")
    await bench.backbone.requeue_dead("short.>", letters[0].position)
    require(seen(await taken(consumer, 1)) == [(position, 1)], "requeued it comes as if for the first time")
    await consumer.settle(put_off=[PutOff(position, position, 0, "missing_key")])
    await bench.passes(LEAST_PUT_OFF_MS / 1000)
    require(seen(await taken(consumer, 1)) == [(position, 1)], "and may be put off anew")


# ---- dead letters --------------------------------------------------------------------------------------------------------------


async def what_is_given_up_is_a_dead_letter(bench: Bench) -> None:
    backbone = bench.backbone
    entry = bench.entry("work.a", b"the original")
    positions = await backbone.append([entry, bench.entry("work.b", b"bad three times"), bench.entry("work.c")])
    consumer = await bench.consume("inbox")
    reader = await bench.consume("dead", DEAD + "work.>")
    await taken(consumer, 3)
    await consumer.settle(terms=[(positions[0], positions[0], "no such task")], acks=[(positions[2], positions[2])])
    for _ in range(WORK.max_deliver - 1):
        consumer.settle_nowait(naks=[(positions[1], positions[1], 0)])
        await taken(consumer, 1)
    await consumer.settle(naks=[(positions[1], positions[1], 0)])
    letters = await backbone.dead_letters(class_="work.>")
    found = [(one.topic, one.sender, one.original, one.reason, one.deliveries, one.consumer) for one in letters]
    wanted = [
        ("work.a", "DIRECTOR", positions[0], "no such task", 1, consumer.name),
        ("work.b", "DIRECTOR", positions[1], "max_deliver", WORK.max_deliver, consumer.name),
    ]
    require(found == wanted, f"dead letters: {found}")
    require(letters[0].id == entry.id, "a dead letter has its original's id")
    require(await backbone.dead_letters(class_="work.>", after=letters[0].position) == letters[1:], "`after`")
    require(await backbone.dead_letters(most=1) == letters[:1], "`most`")
    require(await backbone.dead_letters(class_="records.>") == [], "of another class")
    frame = pack(["no such task", 1, b"the original"])
    require(await backbone.show_dead("work.>", letters[0].position) == frame, "the frame is [reason, deliveries, original]")
    read = await taken(reader, 2)
    require([one.topic for one in read] == ["_dead.work.a", "_dead.work.b"], "their readers have them as records")
    require(read[0].envelope == frame and read[0].position == letters[0].position, "the frame is what they get")
    require(await backbone.append([entry]) == [positions[0]], "the original is still known as stored")


async def dead_letters_can_be_requeued_and_dropped(bench: Bench) -> None:
    backbone = bench.backbone
    positions = await bench.append("work.a", "work.b")
    consumer = await bench.consume("inbox")
    await taken(consumer, 2)
    await consumer.settle(terms=[(positions[0], positions[1], "bad")])
    first, second = await backbone.dead_letters()
    await backbone.requeue_dead("work.>", first.position)
    require(seen(await taken(consumer, 1)) == [(positions[0], 1)], "requeued it comes as if for the first time")
    await backbone.drop_dead("work.>", second.position)
    require(await backbone.dead_letters() == [], "neither is a dead letter any more")
    for verb in (backbone.show_dead, backbone.requeue_dead, backbone.drop_dead):
        await refuses("unknown_dead", lambda: verb("work.>", second.position))  # noqa: B023  called at once
    reader = await bench.consume("dead", DEAD + "work.>")
    await consumer.settle(terms=[(positions[0], positions[0], "bad again")])
    (again,) = await taken(reader, 1)
    require(again.envelope.startswith(pack(["bad again", 1, b""])[:-2]), "a dead letter that is gone is not handed out")
    await consumer.aclose()
    await backbone.remove_consumer(consumer.name)
    await refuses("unknown_consumer", lambda: backbone.requeue_dead("work.>", again.position))
    for class_, pattern in (("records.>", "records.>"), ("work.>", "work.b")):
        other = await backbone.consume(consumer.name, class_, pattern, ALL)
        await refuses("consumer_differs", lambda: backbone.requeue_dead("work.>", again.position))
        await other.aclose()
        await backbone.remove_consumer(consumer.name)
    require(len(await backbone.dead_letters()) == 1, "what cannot be handed out stays a dead letter")
