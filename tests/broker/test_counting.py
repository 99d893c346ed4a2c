"""Every envelope is accounted for: whatever hosts do, what was published is delivered, dropped for a reason, refused or waiting."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from played import Played, Stage, settle

from bus.protocol.frames import Frame, numbers
from bus.protocol.topics import matches

pytestmark = pytest.mark.anyio

TOPICS = ("tasks.a", "tasks.b.c", "tasks.hidden", "records.a", "ask.a")
PATTERNS = ("tasks.>", "tasks.*", "*.a", "records.a", ">", "*.*.*", "ask.>")
READERS = {
    "BUILDER": (*PATTERNS[:2], "ask.>", "records.a"),
    "TESTER": ("tasks.>", "records.a"),
    "PACKER": ("ask.>", "tasks.*"),
    "MONITOR": PATTERNS,
}


@dataclass
class Listener:
    """A host that does what a test says, and its books."""

    host: Played
    subscriptions: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    """agent, pattern, group"""
    number: int = 0
    got: Counter[tuple[int, bytes]] = field(default_factory=Counter)

    async def listens(self, agent: str, pattern: str, group: str, overflow: str, limit: int) -> None:
        self.number += 1
        self.host.send(Frame.SUBSCRIBE, self.number, agent, pattern, group, "", "new", limit, overflow)
        if (await self.host.hears(Frame.SUBSCRIBED, Frame.REFUSE))[0][0] == Frame.SUBSCRIBED:
            self.subscriptions[self.number] = agent, pattern, group

    async def takes_in(self, chance: random.Random) -> None:
        frames = await self.host.hears(Frame.DELIVER)
        for one in frames:
            self.got.update((sub, one[5]) for sub in numbers(one[2]))
        if frames:
            self.host.send(Frame.CREDIT, 0, len(frames))
        for sub in self.subscriptions:
            if chance.random() < 0.8:
                self.host.send(Frame.CREDIT, sub, chance.randrange(1, 20))
        await settle()


@dataclass
class Run:
    """Random steps, and what has to come of them."""

    stage: Stage
    chance: random.Random
    publishers: list[Played]
    listeners: list[Listener]
    published: int = 0
    expected: Counter[tuple[int, int, bytes]] = field(default_factory=Counter)
    """Of plain subscriptions: listener, subscription, envelope."""

    async def step(self) -> None:
        chance = self.chance
        match chance.randrange(5):
            case 0:
                one = chance.choice(self.listeners)
                agent = chance.choice([*one.host.agents])
                group = "builders" if chance.random() < 0.3 and agent != "MONITOR" else ""
                overflow = chance.choice(["block", "drop_oldest", "disconnect"])
                await one.listens(agent, chance.choice(READERS[agent]), group, overflow, chance.randrange(1, 50))
            case 1:
                await chance.choice(self.listeners).takes_in(chance)
            case _:
                self.publish(chance.choice(self.publishers), chance.choice(TOPICS))
        await self.stage.later(chance.choice([0, 0.002, 0.02]), step=0.002)

    def publish(self, publisher: Played, topic: str) -> None:
        sent = [publisher.seal(topic) for _ in range(self.chance.randrange(1, 6))]
        for place, one in enumerate(self.listeners):
            for sub, (agent, pattern, group) in one.subscriptions.items():
                if matches(pattern, topic) and not group and (agent, topic) != ("MONITOR", "tasks.hidden"):
                    self.expected.update((place, sub, envelope) for envelope in sent)
        self.published += len(sent)
        publisher.publish(*sent, topic=topic)

    async def finish(self) -> None:
        """Everybody reads on until nothing is left."""
        for _ in range(40):
            for one in self.listeners:
                await one.takes_in(self.chance)
                for sub in one.subscriptions:
                    one.host.send(Frame.CREDIT, sub, 100)
            await settle()

    @property
    def got(self) -> Counter[tuple[int, int, bytes]]:
        return Counter({(place, *key): count for place, one in enumerate(self.listeners) for key, count in one.got.items()})


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_books_add_up_and_nothing_comes_twice(stage: Stage, seed: int):
    async with stage.running():
        publishers = [await stage.host("DIRECTOR"), await stage.host("DEPUTY")]
        for publisher in publishers:
            for topic in TOPICS:
                await publisher.open(topic)
        listeners = [Listener(await stage.host("BUILDER", "TESTER")), Listener(await stage.host("PACKER", "MONITOR"))]
        run = Run(stage, random.Random(seed), publishers, listeners)
        for _ in range(60):
            await run.step()
            assert stage.counted["refused"] == {}
        await run.finish()
        counted, got = stage.counted, run.got
        assert (counted["held"], counted["dropped"], counted["ended"]) == (0, {}, {})
        assert counted["received"] == counted["admitted"] == run.published
        assert set(got.values()) <= {1}, "nothing comes twice"
        grouped = {key for key in got if listeners[key[0]].subscriptions[key[1]][2]}
        assert {*got} - grouped == {*run.expected}, "everybody got everything, and nobody else anything"
        assert len({envelope for _, _, envelope in grouped}) == len(grouped), "of a group one member gets it"
        await stage.later(0.01)
        for publisher in publishers:
            assert await publisher.credited() == {*range(1, publisher.turn + 1)}, "every turn is credited"


async def test_a_broker_that_everybody_has_left_holds_nothing(stage: Stage):
    async with stage.running():
        hosts = [await stage.host(name) for name in ("DIRECTOR", "BUILDER", "TESTER", "MONITOR")]
        director, *readers = hosts
        await director.open("tasks.a")
        await director.open("records.a")
        for number, reader in enumerate(readers):
            await reader.subscribe(1, "tasks.>", limit=1 + number)
            if number < 2:
                await reader.subscribe(2, "records.>", group="builders", limit=1)
        for topic in director.aliases:
            for _ in range(5):
                director.publish(director.seal(topic), topic=topic)
        await stage.later(0.01)
        for host in hosts[::-1]:
            host.link.close()
        await settle()
        counted = stage.counted
        for name in ("links_open", "agents", "topics", "subscriptions", "held"):
            assert counted[name] == 0, name
        broker = stage.broker
        assert not broker._holding._gates
        assert not broker._holding._starving
        assert not broker._groups._lines
        assert not broker._interest._told
        assert not broker._pacing._due
        assert not broker._router._trie._root.branches
        await stage.later(0.01)
        assert not broker._pacing._out
