"""Random things done to a backbone and to a naive one: they hand out the same, and give up the same.

The journal is closed and opened again in between, has a small memory and small segments, so that what it hands out comes from
memory, from the disk, and from what it wrote down about its consumers.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from backbones import in_memory, on_disk
from naive import Naive

from bus.backbone.interface import Backbone, Consumer, ConsumerName, Entry, RetentionClass
from bus.flow.start import ALL, LAST, NEW, Start
from bus.testing import ManualClock

pytestmark = pytest.mark.slow

DAY_MS = 86_400_000
CLASSES = {
    "work.>": RetentionClass("work.>", 7 * DAY_MS, ack_wait_ms=10_000, max_deliver=3),
    "records.>": RetentionClass("records.>", 30 * DAY_MS, ack_wait_ms=10_000, max_deliver=2),
}
TOPICS = ["work.a", "work.b", "work.a.x", "records.a", "records.b"]
PATTERNS = ["work.>", "work.a", "work.*", "records.>", "records.b"]
LOTS = 1_000_000
SOAK = "TPMBUS_SOAK" in os.environ


class Both:
    """The same done to both. Each method is one thing that happens."""

    def __init__(self, dice: random.Random, clock: ManualClock) -> None:
        self.dice, self.clock = dice, clock
        self.naive = Naive(CLASSES, now=clock.monotonic(), now_ms=clock.now_ms())
        self.sent: list[Entry] = []
        self.backbone: Backbone
        self.open: dict[str, Consumer] = {}
        self.probe: Consumer
        self.began_anew: set[str] = set()
        """Consumers that were opened after a restart: then the order of what comes again is its own."""

    async def begin(self, backbone: Backbone) -> None:
        self.backbone, self.open = backbone, {}
        for name, consumer in self.naive.consumers.items():
            consumer.is_open = False
            self.began_anew.add(name)
        await backbone.retain([*CLASSES.values()], passed_ms=self.naive.passed_ms)
        self.probe = await backbone.consume(ConsumerName("PROBE", "probe"), "work.>", "nothing", NEW)

    async def append(self) -> None:
        entries = [self._entry() for _ in range(self.dice.randrange(1, 6))]
        expected = self.naive.expected(entries)
        positions = await self.backbone.append(entries)
        for entry, position, known in zip(entries, positions, expected, strict=True):
            if known is not None and (position == known or self.naive.lives(entry.class_, known)):  # what went may be forgotten
                assert position == known, "a duplicate has the first one's position"
            elif position not in self.naive.expected([entry]):
                assert position > self.naive.head(entry.class_)
                self.naive.stored(entry, position)
            else:
                assert self.naive.expected([entry]) == [position], "a duplicate in one call"
        self.sent += entries

    async def consume(self) -> None:
        closed = [name for name, consumer in self.naive.consumers.items() if not consumer.is_open]
        if closed and self.dice.random() < 0.7:
            name = self.dice.choice(closed)
            self.naive.open(name)
        elif len(self.naive.consumers) < 6:
            name = f"c{len(self.naive.consumers)}"
            pattern = self.dice.choice(PATTERNS)
            self.naive.make(name, f"{pattern.split('.')[0]}.>", pattern, self._start())
        else:
            return
        known = self.naive.consumers[name]
        self.open[name] = await self.backbone.consume(ConsumerName("MONITOR", name), known.class_, known.pattern, known.start)
        await self._bury()

    async def close(self) -> None:
        if self.open:
            name = self.dice.choice([*self.open])
            await self.open.pop(name).aclose()
            self.naive.consumers[name].is_open = False

    async def take(self) -> None:
        for name in self.dice.sample([*self.open], min(2, len(self.open))):
            await self._take(name, self.dice.choice([1, 3, LOTS]))
        await self._bury()

    async def settle(self) -> None:
        if not self.open:
            return
        name = self.dice.choice([*self.open])
        first = self.dice.randrange(0, self.naive.head(self.naive.consumers[name].class_) + 2)
        last = first + self.dice.choice([0, 0, 1, 2, 1 << 40])
        delay = self.dice.choice([None, 0, 4_000])
        verb, more = self.dice.choice(
            [("ack", ()), ("ack", ()), ("ack", ()), ("nak", (delay,)), ("nak", (delay,)), ("term", ("bad",)), ("touch", ())]
        )
        plural = {"ack": "acks", "nak": "naks", "term": "terms", "touch": "touches"}[verb]
        getattr(self.naive, verb)(name, first, last, *more)
        await self.open[name].settle(**{plural: [(first, last, *more)]})

    async def time(self) -> None:
        seconds = self.dice.choice([0.5, 2.0, 11.0, 700.0])
        await anyio.wait_all_tasks_blocked()
        self.clock.advance(seconds)
        self.naive.now, self.naive.now_ms = self.clock.monotonic(), self.clock.now_ms()
        for name in self.open:
            self.naive.advance(name)
        await anyio.wait_all_tasks_blocked()
        await self._bury()

    async def let_go(self) -> None:
        await self.backbone.retain([*CLASSES.values()], passed_ms=self.clock.now_ms())
        self.naive.passed_ms = self.clock.now_ms()

    async def requeue(self) -> None:
        letters = await self.backbone.dead_letters(most=LOTS)
        alive = [one for one in letters if self.naive.lives(one.class_, one.original) and one.consumer.name in self.naive.consumers]
        if alive:
            letter = self.dice.choice(alive)
            await self.backbone.requeue_dead(letter.class_, letter.position)
            self.naive.requeue(letter.consumer.name, letter.original)
            self.naive.dead.discard((letter.consumer.name, letter.original, letter.reason, letter.deliveries))

    async def check(self) -> None:
        letters = await self.backbone.dead_letters(most=LOTS)
        found = {(one.consumer.name, one.original, one.reason, one.deliveries) for one in letters}
        assert found <= self.naive.dead
        consumers = self.naive.consumers
        assert not [one for one in self.naive.dead - found if self.naive.lives(consumers[one[0]].class_, one[1])]
        for facts in await self.backbone.consumers():
            if facts.name.name in self.open:
                out = [state for state in self.naive.consumers[facts.name.name].states.values() if state.place == "out"]
                assert facts.outstanding == len(out)

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    async def _take(self, name: str, allowed: int) -> None:
        available = self.naive.available(name)
        consumer = self.open[name]
        consumer.allow(allowed)
        found: list[Any] = []
        while len(found) < min(allowed, len(available)):
            found += await consumer.take()
        if name in self.began_anew or len(available) <= allowed:
            assert {tuple(one) for one in found} <= set(available)
            assert len(found) == len({one.position for one in found}) == min(allowed, len(available))
        else:
            assert [tuple(one) for one in found] == available[:allowed]
        if len(available) < allowed:  # so it has looked at everything there is
            with anyio.move_on_after(0):
                await consumer.take()
                raise AssertionError("there was nothing more")
        self.naive.handed_out(name, [(one.position, one.deliveries) for one in found])
        if len(available) < allowed:
            self.naive.passed_over(name)
            self.began_anew.discard(name)
        consumer.allow(0)

    async def _bury(self) -> None:
        await self.probe.settle()

    def _entry(self) -> Entry:
        if self.sent and self.dice.random() < 0.15:
            return self.dice.choice(self.sent[-20:])
        topic = self.dice.choice(TOPICS)
        expires_ms = self.clock.now_ms() + self.dice.choice([1_000, 15_000, DAY_MS, DAY_MS])
        body = self.dice.randbytes(self.dice.choice([3, 300, 3_000]))
        return Entry(
            f"{topic.split('.')[0]}.>", topic, self.dice.choice(["DIRECTOR", "WORKER1"]), self.dice.randbytes(16), expires_ms, body
        )

    def _start(self) -> Start:
        time_ms = self.clock.now_ms() - self.dice.choice([-10_000, 0, 1_000, 12_000])
        return self.dice.choice([NEW, ALL, LAST, Start("position", self.dice.randrange(0, 20)), Start("time", time_ms)])


STEPS = [Both.append] * 4 + [Both.take] * 5 + [Both.settle] * 4 + [Both.consume] * 2
STEPS += [Both.close, Both.time, Both.time, Both.let_go, Both.requeue]
Make = Callable[[ManualClock], AbstractAsyncContextManager[Backbone]]


async def story(seed: int, make: Make, *, lives: int) -> None:
    dice, clock = random.Random(seed), ManualClock()
    both = Both(dice, clock)
    for _ in range(lives):
        async with make(clock) as backbone:
            await both.begin(backbone)
            with anyio.fail_after(60):
                for _ in range(dice.randrange(5, 40)):
                    await dice.choice(STEPS)(both)
                    await both.check()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=200 if SOAK else 10)
def test_in_memory_it_does_what_a_naive_one_does(backend, seed):
    anyio.run(lambda: story(seed, in_memory, lives=1), backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=60 if SOAK else 4)
def test_on_disk_it_does_what_a_naive_one_does(backend, seed):
    with TemporaryDirectory() as folder:
        sizes = {"segment_bytes": 60_000, "ring_bytes": 4_000}
        anyio.run(lambda: story(seed, lambda clock: on_disk(Path(folder), clock, **sizes), lives=3), backend=backend)
