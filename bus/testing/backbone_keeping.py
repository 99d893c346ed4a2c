"""What a backbone keeps: the parts of its check that are about storing, about where consumers begin, and about time."""

from __future__ import annotations

import anyio

from bus.backbone.interface import DEDUPLICATION_MS, UNUSED_MS, ConsumerName, Grant, Papers
from bus.errors import ClosedError
from bus.flow.start import ALL, LAST, NEW, Start
from bus.testing.backbone_bench import HOUR_MS, RECORDS, WORK, Bench, raises, refuses, require, taken

# ---- storing -------------------------------------------------------------------------------------------------------------------


async def positions_grow_and_duplicates_have_the_first_one(bench: Bench) -> None:
    backbone = bench.backbone
    first = await bench.append("work.a", "work.b")
    second = await bench.append("work.a")
    require(first[0] < first[1] < second[0], f"positions of a class grow: {first}, then {second}")
    entry = bench.entry("work.a")
    (position,) = await backbone.append([entry])
    again = await backbone.append([bench.entry("work.b"), entry._replace(envelope=b"another", topic="work.z"), entry])
    require(again[1:] == [position, position] and again[0] > position, "(sender, id) that is stored is answered with its position")
    (others,) = await backbone.append([entry._replace(sender="WORKER1")])
    require(others > again[0], "another sender's id is no duplicate")
    twice = bench.entry("work.c")
    positions = await backbone.append([twice, twice])
    require(positions[0] == positions[1], "a duplicate within one call")
    require(await backbone.append([]) == [], "nothing to append")
    topics = [delivery.topic for delivery in await taken(await bench.consume("all"), 7)]
    require(topics == ["work.a", "work.b", "work.a", "work.a", "work.b", "work.a", "work.c"], f"what was stored is {topics}")


async def duplicates_are_known_for_ten_minutes(bench: Bench) -> None:
    entry = bench.entry("work.a")
    (position,) = await bench.backbone.append([entry])
    await bench.passes(DEDUPLICATION_MS / 1000 - 1)
    require(await bench.backbone.append([entry]) == [position], "a duplicate after nearly ten minutes")


async def many_appenders_keep_their_order(bench: Bench) -> None:
    consumer = await bench.consume("all", start=NEW, allowed=1_000_000)
    positions: dict[int, list[int]] = {}

    async def appender(number: int) -> None:
        positions[number] = []
        for turn in range(10):
            entries = [bench.entry(f"work.{number}", b"%d %d" % (turn, place)) for place in range(1 + number % 3)]
            positions[number] += await bench.backbone.append(entries)

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(appender, number)
    given = [position for some in positions.values() for position in some]
    require(len(set(given)) == len(given), "a position was given twice")
    require(all(some == sorted(some) for some in positions.values()), "an appender's positions grow")
    found = await taken(consumer, len(given))
    require([one.position for one in found] == sorted(given), "a consumer has everything once, by position")
    for number, some in positions.items():
        theirs = [one.position for one in found if one.topic == f"work.{number}"]
        require(theirs == some, "a record lies at the position that its appender was told")


async def classes_are_apart(bench: Bench) -> None:
    await refuses("unknown_class", lambda: bench.append("nowhere.a"))
    consumer = await bench.consume("records", "records.>")
    await bench.append("work.a", "records.a", "work.b", "records.b")
    require([one.topic for one in await taken(consumer, 2)] == ["records.a", "records.b"], "a consumer reads its class alone")
    await bench.backbone.retain([RECORDS], passed_ms=0)
    await refuses("unknown_class", lambda: bench.append("work.a"))
    old = await bench.consume("work")
    require(len(await taken(old, 2)) == 2, "what a class has that policy no longer knows can still be read")
    await bench.backbone.retain([WORK, RECORDS], passed_ms=0)
    await bench.append("work.c")
    require((await taken(old, 1))[0].topic == "work.c", "the class is taken up again")


# ---- where a consumer begins ---------------------------------------------------------------------------------------------------


async def consumers_begin_where_they_say(bench: Bench) -> None:
    positions = await bench.append("work.a", "work.b", "work.a")
    await bench.passes(1)
    time_ms = bench.clock.now_ms()
    await bench.passes(1)
    positions += await bench.append("work.b", "work.c")
    consumers = {
        "new": await bench.consume("new", start=NEW),
        "all": await bench.consume("all", start=ALL),
        "last": await bench.consume("last", start=LAST),
        "position": await bench.consume("position", start=Start("position", positions[1])),
        "time": await bench.consume("time", start=Start("time", time_ms)),
        "future": await bench.consume("future", start=Start("time", time_ms + HOUR_MS)),
    }
    (next_one,) = await bench.append("work.d")
    wanted = {
        "new": [next_one],
        "all": [*positions, next_one],
        "last": [positions[2], positions[3], positions[4], next_one],
        "position": [*positions[1:], next_one],
        "time": [*positions[3:], next_one],
        "future": [next_one],
    }
    for name, consumer in consumers.items():
        found = [one.position for one in await taken(consumer, len(wanted[name]))]
        require(found == wanted[name], f"start={name} gives {found}, not {wanted[name]}")


async def patterns_choose(bench: Bench) -> None:
    await bench.append("work.a", "work.a.b", "work.b", "work.a.c.d")
    for name, pattern, topics in (
        ("one", "work.*", ["work.a", "work.b"]),
        ("rest", "work.a.>", ["work.a.b", "work.a.c.d"]),
        ("exact", "work.b", ["work.b"]),
    ):
        found = [one.topic for one in await taken(await bench.consume(name, pattern), len(topics))]
        require(found == topics, f"{pattern} gives {found}")


async def consumers_keep_what_they_are(bench: Bench) -> None:
    positions = await bench.append("work.a", "work.b", "work.c")
    consumer = await bench.consume("inbox")
    await refuses("consumer_in_use", lambda: bench.consume("inbox"))
    await taken(consumer, 3)
    await consumer.settle(acks=[(positions[0], positions[0])])
    await consumer.aclose()
    await raises(ClosedError, consumer.take)
    await refuses("consumer_differs", lambda: bench.consume("inbox", "work.a"))
    await refuses("consumer_differs", lambda: bench.consume("inbox", start=NEW))
    consumer = await bench.consume("inbox")
    found = await taken(consumer, 2)
    require(
        [(one.position, one.deliveries) for one in found] == [(positions[1], 2), (positions[2], 2)],
        "what was not settled comes again",
    )
    (facts,) = await bench.backbone.consumers()
    require(
        (facts.name, facts.pattern, facts.start, facts.is_open) == (consumer.name, "work.>", "all", True), f"its facts are {facts}"
    )
    require((facts.outstanding, facts.behind) == (2, 0), f"its facts are {facts}")
    await refuses("consumer_in_use", lambda: bench.backbone.remove_consumer(consumer.name))
    await consumer.aclose()
    await bench.backbone.remove_consumer(consumer.name)
    await refuses("unknown_consumer", lambda: bench.backbone.remove_consumer(consumer.name))
    require(await bench.backbone.consumers() == [], "it is gone")
    require(len(await taken(await bench.consume("inbox"), 3)) == 3, "made anew it begins anew")
    passing = await bench.consume("passing", kept=False)
    await passing.aclose()
    require(
        passing.name not in [one.name for one in await bench.backbone.consumers()], "one that is not kept goes when it is closed"
    )
    for owner, name in (("", "a"), ("MONITOR", ""), ("MONITOR", "A"), ("no name", "a"), ("MONITOR", "a/b")):
        await raises(ValueError, lambda: bench.backbone.consume(ConsumerName(owner, name), "work.>", "work.>", ALL))  # noqa: B023  called at once


# ---- grants, papers, time --------------------------------------------------------------------------------------------------------


async def grants_and_papers_are_kept_until_their_time(bench: Bench) -> None:
    backbone, now_ms = bench.backbone, bench.clock.now_ms()
    epoch, session = bytes(32), bytes(16)
    grants = [
        Grant(epoch, "MONITOR", "DIRECTOR", b"key one".ljust(16), now_ms + HOUR_MS, b"grant one"),
        Grant(epoch, "MONITOR", "DIRECTOR", b"key two".ljust(16), now_ms + 2 * HOUR_MS, b"grant two"),
        Grant(epoch, "WORKER1", "DIRECTOR", b"key".ljust(16), now_ms + HOUR_MS, b"another reader's"),
    ]
    await backbone.keep(grants, [Papers(session, "DIRECTOR", now_ms + HOUR_MS, b"papers")])
    await backbone.keep([grants[1]._replace(until_ms=now_ms + 3 * HOUR_MS)])
    require(await backbone.grants_for(epoch, "MONITOR") == [b"grant one", b"grant two"], "a reader's grants, the newest last")
    require(await backbone.grants_for(epoch, "TRACER") == [], "of a reader without")
    require(await backbone.grants_for(bytes(31) + b"\x01", "MONITOR") == [], "of another epoch")
    require(await backbone.papers_for(session) == [b"papers"], "papers of a session")
    require(await backbone.papers_for(bytes(15) + b"\x01") == [], "of another session")
    await backbone.retain([WORK, RECORDS], passed_ms=now_ms + HOUR_MS)
    require(await backbone.grants_for(epoch, "MONITOR") == [b"grant two"], "what is over is gone")
    require(await backbone.papers_for(session) == [], "papers too")
    await backbone.retain([WORK, RECORDS], passed_ms=now_ms + 2 * HOUR_MS)
    require(await backbone.grants_for(epoch, "MONITOR") == [b"grant two"], "its time was made longer")


async def unused_consumers_go(bench: Bench) -> None:
    used, unused = await bench.consume("used"), await bench.consume("unused")
    await unused.aclose()
    await bench.backbone.retain([WORK, RECORDS], passed_ms=bench.clock.now_ms() + UNUSED_MS - 1)
    require(len(await bench.backbone.consumers()) == 2, "not before thirty days")
    await bench.backbone.retain([WORK, RECORDS], passed_ms=bench.clock.now_ms() + UNUSED_MS + 1)
    require([one.name for one in await bench.backbone.consumers()] == [used.name], "one that is open stays")


async def time_that_passed_takes_records_along(bench: Bench) -> None:
    await bench.append("work.a")
    await bench.passes(HOUR_MS / 1000)
    await bench.backbone.retain([WORK, RECORDS], passed_ms=bench.clock.now_ms())
    await bench.append("work.b")
    found = await taken(await bench.consume("all"), 1)
    require([one.topic for one in found] == ["work.b"], "what nobody would accept is gone")


async def closing(bench: Bench) -> None:
    backbone = bench.backbone
    consumer = await bench.consume("inbox")
    ends: list[str] = []

    async def wait() -> None:
        await raises(ClosedError, consumer.take)
        ends.append("told")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        await backbone.aclose()
    require(ends == ["told"], "who waits is told")
    await backbone.aclose()
    await raises(ClosedError, lambda: bench.append("work.a"))
    await raises(ClosedError, lambda: bench.consume("inbox"))
    await raises(ClosedError, backbone.consumers)


async def numbers_add_up(bench: Bench) -> None:
    entries = [bench.entry("work.a") for _ in range(5)]
    positions = await bench.backbone.append([*entries, entries[0]])
    consumer = await bench.consume("inbox")
    await taken(consumer, 5)
    await consumer.settle(
        acks=[(positions[0], positions[1])], naks=[(positions[2], positions[2], 0)], terms=[(positions[3], positions[3], "bad")]
    )
    await taken(consumer, 1)
    await consumer.settle(acks=[(positions[0], positions[0])])
    numbers = bench.backbone.statistics()
    wanted = {"appended": 5, "duplicates": 1, "handed_out": 6, "redelivered": 1, "acks": 2, "naks": 1, "terms": 1, "dead": 1}
    require({name: numbers[name] for name in wanted} == wanted, f"statistics are {numbers}")
    require(numbers["ignored"] == 1 and numbers["dead_letters"] == 1 and numbers["unsettled"] == 2, f"statistics are {numbers}")


async def nobody_else_is_heard(bench: Bench) -> None:
    heard: list[str] = []
    end = await bench.backbone.watch("tasks.>", "", lambda topic, _: heard.append(topic))
    await bench.append("work.a")
    end()
    require(heard == [], "what is stored is not live traffic of another broker")
