"""One check for every backbone: memory, journal, NATS.

`await check_backbone(make)` runs it; `make(clock)` gives an async context manager with a fresh, empty backbone whose times are this
clock's, and whose `run` runs. It raises AssertionError with what is wrong, or what the backbone raised where it had no reason to.

By default a `ManualClock` is turned. A backbone whose server keeps its own time is checked with `clock=SystemClock()`: then the
check really waits, some twenty seconds, and leaves out what takes minutes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import anyio

from bus.backbone.interface import (
    DEAD,
    DEDUPLICATION_MS,
    UNUSED_MS,
    Backbone,
    Consumer,
    ConsumerName,
    Delivery,
    Entry,
    Grant,
    Papers,
    RetentionClass,
)
from bus.clock import Clock
from bus.errors import BackboneError, ClosedError
from bus.flow.start import ALL, LAST, NEW, Start
from bus.protocol.codec import pack
from bus.testing.clock import ManualClock

ACK_WAIT_SECONDS: Final = 2.0
WORK: Final = RetentionClass("work.>", 7 * 86_400_000, ack_wait_ms=2_000, max_deliver=3)
RECORDS: Final = RetentionClass("records.>", 30 * 86_400_000, ack_wait_ms=2_000, max_deliver=3)
HOUR_MS: Final = 3_600_000
_PATIENCE_SECONDS: Final = 30.0
"""For what should come: past that it is lost."""


async def check_backbone(make: Callable[[Clock], AbstractAsyncContextManager[Backbone]], *, clock: Clock | None = None) -> None:
    """Check a backbone. Each part begins with a fresh one."""
    for part in _PARTS if clock is not None else (*_PARTS, *_LONG_PARTS):
        chosen = clock or ManualClock()
        async with make(chosen) as backbone:
            await backbone.retain([WORK, RECORDS], passed_ms=0)
            with anyio.fail_after(_PATIENCE_SECONDS * 2):
                await part(_Bench(backbone, chosen))


class _Bench:
    """A backbone, its clock, and short ways to say what the checks do all the time."""

    def __init__(self, backbone: Backbone, clock: Clock) -> None:
        self.backbone, self.clock = backbone, clock
        self._ids = 0

    def entry(
        self, topic: str, body: bytes = b"", *, sender: str = "DIRECTOR", id_: bytes = b"", expires_in_ms: int = HOUR_MS
    ) -> Entry:
        self._ids += 1
        class_ = topic.split(".", maxsplit=1)[0] + ".>"
        return Entry(
            class_, topic, sender, id_ or self._ids.to_bytes(16), self.clock.now_ms() + expires_in_ms, body or b"e%d" % self._ids
        )

    async def append(self, *topics: str) -> list[int]:
        return await self.backbone.append([self.entry(topic) for topic in topics])

    async def consume(
        self, name: str, pattern: str = "work.>", start: Start = ALL, *, allowed: int = 1_000, **more: Any
    ) -> Consumer:
        class_ = pattern.removeprefix(DEAD).split(".", maxsplit=1)[0] + ".>"
        return await self.backbone.consume(ConsumerName("MONITOR", name), class_, pattern, start, allowed=allowed, **more)

    async def calm(self) -> None:
        """Let the others run until they wait. By a clock that runs by itself they never all do."""
        if isinstance(self.clock, ManualClock):
            await anyio.wait_all_tasks_blocked()
        else:
            await anyio.lowlevel.checkpoint()

    async def passes(self, seconds: float) -> None:
        if isinstance(self.clock, ManualClock):
            self.clock.advance(seconds)
        else:
            await self.clock.sleep(seconds + 0.5)


async def taken(consumer: Consumer, count: int) -> list[Delivery]:
    """The next so many; AssertionError where they do not come."""
    found: list[Delivery] = []
    with anyio.move_on_after(_PATIENCE_SECONDS):
        while len(found) < count:
            found += await consumer.take()
    _require(len(found) == count, f"{count} records should have come, and {len(found)} did")
    return found


# ---- storing -------------------------------------------------------------------------------------------------------------------


async def _positions_grow_and_duplicates_have_the_first_one(bench: _Bench) -> None:
    backbone = bench.backbone
    first = await bench.append("work.a", "work.b")
    second = await bench.append("work.a")
    _require(first[0] < first[1] < second[0], f"positions of a class grow: {first}, then {second}")
    entry = bench.entry("work.a")
    (position,) = await backbone.append([entry])
    again = await backbone.append([bench.entry("work.b"), entry._replace(envelope=b"another", topic="work.z"), entry])
    _require(again[1:] == [position, position] and again[0] > position, "(sender, id) that is stored is answered with its position")
    (others,) = await backbone.append([entry._replace(sender="WORKER1")])
    _require(others > again[0], "another sender's id is no duplicate")
    twice = bench.entry("work.c")
    positions = await backbone.append([twice, twice])
    _require(positions[0] == positions[1], "a duplicate within one call")
    _require(await backbone.append([]) == [], "nothing to append")
    topics = [delivery.topic for delivery in await taken(await bench.consume("all"), 7)]
    _require(topics == ["work.a", "work.b", "work.a", "work.a", "work.b", "work.a", "work.c"], f"what was stored is {topics}")


async def _duplicates_are_known_for_ten_minutes(bench: _Bench) -> None:
    entry = bench.entry("work.a")
    (position,) = await bench.backbone.append([entry])
    await bench.passes(DEDUPLICATION_MS / 1000 - 1)
    _require(await bench.backbone.append([entry]) == [position], "a duplicate after nearly ten minutes")


async def _many_appenders_keep_their_order(bench: _Bench) -> None:
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
    _require(len(set(given)) == len(given), "a position was given twice")
    _require(all(some == sorted(some) for some in positions.values()), "an appender's positions grow")
    found = await taken(consumer, len(given))
    _require([one.position for one in found] == sorted(given), "a consumer has everything once, by position")
    for number, some in positions.items():
        theirs = [one.position for one in found if one.topic == f"work.{number}"]
        _require(theirs == some, "a record lies at the position that its appender was told")


async def _classes_are_apart(bench: _Bench) -> None:
    await _refuses("unknown_class", lambda: bench.append("nowhere.a"))
    consumer = await bench.consume("records", "records.>")
    await bench.append("work.a", "records.a", "work.b", "records.b")
    _require([one.topic for one in await taken(consumer, 2)] == ["records.a", "records.b"], "a consumer reads its class alone")
    await bench.backbone.retain([RECORDS], passed_ms=0)
    await _refuses("unknown_class", lambda: bench.append("work.a"))
    old = await bench.consume("work")
    _require(len(await taken(old, 2)) == 2, "what a class has that policy no longer knows can still be read")
    await bench.backbone.retain([WORK, RECORDS], passed_ms=0)
    await bench.append("work.c")
    _require((await taken(old, 1))[0].topic == "work.c", "the class is taken up again")


# ---- where a consumer begins ---------------------------------------------------------------------------------------------------


async def _consumers_begin_where_they_say(bench: _Bench) -> None:
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
        _require(found == wanted[name], f"start={name} gives {found}, not {wanted[name]}")


async def _patterns_choose(bench: _Bench) -> None:
    await bench.append("work.a", "work.a.b", "work.b", "work.a.c.d")
    for name, pattern, topics in (
        ("one", "work.*", ["work.a", "work.b"]),
        ("rest", "work.a.>", ["work.a.b", "work.a.c.d"]),
        ("exact", "work.b", ["work.b"]),
    ):
        found = [one.topic for one in await taken(await bench.consume(name, pattern), len(topics))]
        _require(found == topics, f"{pattern} gives {found}")


async def _consumers_keep_what_they_are(bench: _Bench) -> None:
    positions = await bench.append("work.a", "work.b", "work.c")
    consumer = await bench.consume("inbox")
    await _refuses("consumer_in_use", lambda: bench.consume("inbox"))
    await taken(consumer, 3)
    await consumer.settle(acks=[(positions[0], positions[0])])
    await consumer.aclose()
    await _raises(ClosedError, consumer.take)
    await _refuses("consumer_differs", lambda: bench.consume("inbox", "work.a"))
    await _refuses("consumer_differs", lambda: bench.consume("inbox", start=NEW))
    consumer = await bench.consume("inbox")
    found = await taken(consumer, 2)
    _require(
        [(one.position, one.deliveries) for one in found] == [(positions[1], 2), (positions[2], 2)],
        "what was not settled comes again",
    )
    (facts,) = await bench.backbone.consumers()
    _require(
        (facts.name, facts.pattern, facts.start, facts.is_open) == (consumer.name, "work.>", "all", True), f"its facts are {facts}"
    )
    _require((facts.outstanding, facts.behind) == (2, 0), f"its facts are {facts}")
    await _refuses("consumer_in_use", lambda: bench.backbone.remove_consumer(consumer.name))
    await consumer.aclose()
    await bench.backbone.remove_consumer(consumer.name)
    await _refuses("unknown_consumer", lambda: bench.backbone.remove_consumer(consumer.name))
    _require(await bench.backbone.consumers() == [], "it is gone")
    _require(len(await taken(await bench.consume("inbox"), 3)) == 3, "made anew it begins anew")
    passing = await bench.consume("passing", kept=False)
    await passing.aclose()
    _require(
        passing.name not in [one.name for one in await bench.backbone.consumers()], "one that is not kept goes when it is closed"
    )
    for owner, name in (("", "a"), ("MONITOR", ""), ("MONITOR", "A"), ("no name", "a"), ("MONITOR", "a/b")):
        await _raises(ValueError, lambda: bench.backbone.consume(ConsumerName(owner, name), "work.>", "work.>", ALL))  # noqa: B023  called at once


# ---- handing out -----------------------------------------------------------------------------------------------------------------


async def _nobody_gets_more_than_is_allowed(bench: _Bench) -> None:
    positions = await bench.append(*["work.a"] * 10)
    consumer = await bench.consume("inbox", allowed=3)
    _require([one.position for one in await taken(consumer, 3)] == positions[:3], "three are allowed")
    consumer.allow(2)
    _require([one.position for one in await taken(consumer, 2)] == positions[3:5], "two more are")
    found: list[Delivery] = []

    async def wait() -> None:
        found.extend(await consumer.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await bench.append("work.a")
        _require(not found, "none is allowed")
        consumer.allow(1)
    _require([one.position for one in found] == [positions[5]], "one that waits has it as soon as it is allowed")


async def _a_cancelled_take_loses_nothing(bench: _Bench) -> None:
    consumer = await bench.consume("inbox")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.take)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await bench.append("work.a")
    _require(len(await taken(consumer, 1)) == 1, "after somebody was cancelled")


async def _what_expired_is_not_handed_out(bench: _Bench) -> None:
    entries = [bench.entry("work.a", b"short", expires_in_ms=1_000), bench.entry("work.a", b"long")]
    await bench.backbone.append(entries)
    early = await bench.consume("early")
    _require([one.envelope for one in await taken(early, 2)] == [b"short", b"long"], "nothing is expired yet")
    await bench.passes(ACK_WAIT_SECONDS)
    _require([one.envelope for one in await taken(early, 1)] == [b"long"], "what expired is not handed out again")
    _require([one.envelope for one in await taken(await bench.consume("late"), 1)] == [b"long"], "what expired is passed over")


# ---- settling ------------------------------------------------------------------------------------------------------------------


async def _settling(bench: _Bench) -> None:
    positions = await bench.append(*["work.a"] * 6)
    consumer = await bench.consume("inbox")
    await taken(consumer, 6)
    await consumer.settle(
        acks=[(positions[0], positions[1])],
        naks=[(positions[2], positions[2], 0), (positions[3], positions[3], None)],
        touches=[(positions[4], positions[4])],
    )
    _require(_seen(await taken(consumer, 1)) == [(positions[2], 2)], "a nak without delay: at once")
    await bench.passes(1.0)
    _require(_seen(await taken(consumer, 1)) == [(positions[3], 2)], "a usual nak: after a second")
    await consumer.settle(acks=[(positions[2], positions[5])])
    await consumer.settle(acks=[(positions[0], positions[5]), (1, 1 << 62)], naks=[(positions[0], 1 << 62, 0)], touches=[(1, 5)])
    await bench.passes(ACK_WAIT_SECONDS)
    await bench.append("work.last")
    _require((await taken(consumer, 1))[0].topic == "work.last", "what is settled stays so, whatever else is said of it")
    (facts,) = await bench.backbone.consumers()
    _require(facts.waiting == 0 and facts.floor >= positions[5], f"its facts are {facts}")


async def _what_nobody_settles_comes_again(bench: _Bench) -> None:
    first, second = await bench.append("work.a", "work.b")
    consumer = await bench.consume("inbox")
    await taken(consumer, 2)
    await bench.passes(ACK_WAIT_SECONDS / 2)
    consumer.settle_nowait(touches=[(second, second)])
    await bench.passes(ACK_WAIT_SECONDS / 2 + 0.1)
    _require(_seen(await taken(consumer, 1)) == [(first, 2)], "after `ack_wait`; what was touched has more time")
    await bench.passes(ACK_WAIT_SECONDS / 2)
    _require(_seen(await taken(consumer, 1)) == [(second, 2)], "it has as much again")


async def _who_waits_hears_of_what_is_due(bench: _Bench) -> None:
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
    _require(_seen(found) == [(position, 2)], "who waits in `take` has what is overdue")


async def _naks_wait_longer_each_time(bench: _Bench) -> None:
    (position,) = await bench.append("work.a")
    consumer = await bench.consume("inbox")
    await taken(consumer, 1)
    consumer.settle_nowait(naks=[(position, position, None)])
    await bench.passes(1.0)
    _require(_seen(await taken(consumer, 1)) == [(position, 2)], "a second after the first")
    consumer.settle_nowait(naks=[(position, position, None)])
    await bench.passes(1.0)
    await bench.append("work.b")
    _require((await taken(consumer, 1))[0].topic == "work.b", "not yet: two seconds after the second")
    await bench.passes(1.0)
    _require((await taken(consumer, 1))[0][:2] == (position, 3), "two seconds after the second")


# ---- dead letters --------------------------------------------------------------------------------------------------------------


async def _what_is_given_up_is_a_dead_letter(bench: _Bench) -> None:
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
    _require(found == wanted, f"dead letters: {found}")
    _require(letters[0].id == entry.id, "a dead letter has its original's id")
    _require(await backbone.dead_letters(class_="work.>", after=letters[0].position) == letters[1:], "`after`")
    _require(await backbone.dead_letters(most=1) == letters[:1], "`most`")
    _require(await backbone.dead_letters(class_="records.>") == [], "of another class")
    frame = pack(["no such task", 1, b"the original"])
    _require(await backbone.show_dead("work.>", letters[0].position) == frame, "the frame is [reason, deliveries, original]")
    read = await taken(reader, 2)
    _require([one.topic for one in read] == ["_dead.work.a", "_dead.work.b"], "their readers have them as records")
    _require(read[0].envelope == frame and read[0].position == letters[0].position, "the frame is what they get")
    _require(await backbone.append([entry]) == [positions[0]], "the original is still known as stored")


async def _dead_letters_can_be_requeued_and_dropped(bench: _Bench) -> None:
    backbone = bench.backbone
    positions = await bench.append("work.a", "work.b")
    consumer = await bench.consume("inbox")
    await taken(consumer, 2)
    await consumer.settle(terms=[(positions[0], positions[1], "bad")])
    first, second = await backbone.dead_letters()
    await backbone.requeue_dead("work.>", first.position)
    _require(_seen(await taken(consumer, 1)) == [(positions[0], 1)], "requeued it comes as if for the first time")
    await backbone.drop_dead("work.>", second.position)
    _require(await backbone.dead_letters() == [], "neither is a dead letter any more")
    for verb in (backbone.show_dead, backbone.requeue_dead, backbone.drop_dead):
        await _refuses("unknown_dead", lambda: verb("work.>", second.position))  # noqa: B023  called at once
    reader = await bench.consume("dead", DEAD + "work.>")
    await consumer.settle(terms=[(positions[0], positions[0], "bad again")])
    (again,) = await taken(reader, 1)
    _require(again.envelope.startswith(pack(["bad again", 1, b""])[:-2]), "a dead letter that is gone is not handed out")
    await consumer.aclose()
    await backbone.remove_consumer(consumer.name)
    await _refuses("unknown_consumer", lambda: backbone.requeue_dead("work.>", again.position))


# ---- grants, papers, time --------------------------------------------------------------------------------------------------------


async def _grants_and_papers_are_kept_until_their_time(bench: _Bench) -> None:
    backbone, now_ms = bench.backbone, bench.clock.now_ms()
    epoch, session = bytes(32), bytes(16)
    grants = [
        Grant(epoch, "MONITOR", "DIRECTOR", b"key one".ljust(16), now_ms + HOUR_MS, b"grant one"),
        Grant(epoch, "MONITOR", "DIRECTOR", b"key two".ljust(16), now_ms + 2 * HOUR_MS, b"grant two"),
        Grant(epoch, "WORKER1", "DIRECTOR", b"key".ljust(16), now_ms + HOUR_MS, b"another reader's"),
    ]
    await backbone.keep(grants, [Papers(session, "DIRECTOR", now_ms + HOUR_MS, b"papers")])
    await backbone.keep([grants[1]._replace(until_ms=now_ms + 3 * HOUR_MS)])
    _require(await backbone.grants_for(epoch, "MONITOR") == [b"grant one", b"grant two"], "a reader's grants, the newest last")
    _require(await backbone.grants_for(epoch, "TRACER") == [], "of a reader without")
    _require(await backbone.grants_for(bytes(31) + b"\x01", "MONITOR") == [], "of another epoch")
    _require(await backbone.papers_for(session) == b"papers", "papers of a session")
    _require(await backbone.papers_for(bytes(15) + b"\x01") is None, "of another session")
    await backbone.retain([WORK, RECORDS], passed_ms=now_ms + HOUR_MS)
    _require(await backbone.grants_for(epoch, "MONITOR") == [b"grant two"], "what is over is gone")
    _require(await backbone.papers_for(session) is None, "papers too")
    await backbone.retain([WORK, RECORDS], passed_ms=now_ms + 2 * HOUR_MS)
    _require(await backbone.grants_for(epoch, "MONITOR") == [b"grant two"], "its time was made longer")


async def _unused_consumers_go(bench: _Bench) -> None:
    used, unused = await bench.consume("used"), await bench.consume("unused")
    await unused.aclose()
    await bench.backbone.retain([WORK, RECORDS], passed_ms=bench.clock.now_ms() + UNUSED_MS - 1)
    _require(len(await bench.backbone.consumers()) == 2, "not before thirty days")
    await bench.backbone.retain([WORK, RECORDS], passed_ms=bench.clock.now_ms() + UNUSED_MS + 1)
    _require([one.name for one in await bench.backbone.consumers()] == [used.name], "one that is open stays")


async def _time_that_passed_takes_records_along(bench: _Bench) -> None:
    await bench.append("work.a")
    await bench.passes(HOUR_MS / 1000)
    await bench.backbone.retain([WORK, RECORDS], passed_ms=bench.clock.now_ms())
    await bench.append("work.b")
    found = await taken(await bench.consume("all"), 1)
    _require([one.topic for one in found] == ["work.b"], "what nobody would accept is gone")


async def _closing(bench: _Bench) -> None:
    backbone = bench.backbone
    consumer = await bench.consume("inbox")
    ends: list[str] = []

    async def wait() -> None:
        await _raises(ClosedError, consumer.take)
        ends.append("told")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        await backbone.aclose()
    _require(ends == ["told"], "who waits is told")
    await backbone.aclose()
    await _raises(ClosedError, lambda: bench.append("work.a"))
    await _raises(ClosedError, lambda: bench.consume("inbox"))
    await _raises(ClosedError, backbone.consumers)


async def _numbers_add_up(bench: _Bench) -> None:
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
    _require({name: numbers[name] for name in wanted} == wanted, f"statistics are {numbers}")
    _require(numbers["ignored"] == 1 and numbers["dead_letters"] == 1 and numbers["unsettled"] == 2, f"statistics are {numbers}")


async def _nobody_else_is_heard(bench: _Bench) -> None:
    heard: list[str] = []
    end = await bench.backbone.watch("tasks.>", "", lambda topic, _: heard.append(topic))
    await bench.append("work.a")
    end()
    _require(heard == [], "what is stored is not live traffic of another broker")


_PARTS: Final[Sequence[Callable[[_Bench], Awaitable[None]]]] = (
    _positions_grow_and_duplicates_have_the_first_one,
    _many_appenders_keep_their_order,
    _classes_are_apart,
    _consumers_begin_where_they_say,
    _patterns_choose,
    _consumers_keep_what_they_are,
    _nobody_gets_more_than_is_allowed,
    _a_cancelled_take_loses_nothing,
    _what_expired_is_not_handed_out,
    _settling,
    _what_nobody_settles_comes_again,
    _who_waits_hears_of_what_is_due,
    _naks_wait_longer_each_time,
    _what_is_given_up_is_a_dead_letter,
    _dead_letters_can_be_requeued_and_dropped,
    _grants_and_papers_are_kept_until_their_time,
    _closing,
    _numbers_add_up,
    _nobody_else_is_heard,
)
_LONG_PARTS: Final[Sequence[Callable[[_Bench], Awaitable[None]]]] = (
    _duplicates_are_known_for_ten_minutes,
    _unused_consumers_go,
    _time_that_passed_takes_records_along,
)
"""For a clock that is turned."""


def _seen(deliveries: Sequence[Delivery]) -> list[tuple[int, int]]:
    return [(one.position, one.deliveries) for one in deliveries]


async def _refuses(code: str, call: Callable[[], Awaitable[Any]]) -> None:
    try:
        await call()
    except BackboneError as error:
        _require(error.code == code, f"refused with {error.code}, not {code}")
        return
    raise AssertionError(f"should have been refused with {code}")


async def _raises(kind: type[Exception], call: Callable[[], Awaitable[Any]]) -> None:
    try:
        await call()
    except kind:
        return
    raise AssertionError(f"should have raised {kind.__name__}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
