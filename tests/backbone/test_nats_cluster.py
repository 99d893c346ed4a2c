"""Three real NATS servers. One is killed under load, or cut off, or a broker is killed: nothing that was acknowledged is lost, and
nothing is there twice."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_servers import NatsServer, nats_cluster, new_space, on_nats
from nats_writing import WORK, numbered

from bus.backbone.interface import Backbone, ConsumerName, Entry, Papers
from bus.clock import SystemClock
from bus.errors import BusError
from bus.flow.start import ALL

CLOCK = SystemClock()
WRITERS = 4
TURNS = 25
EACH = 20


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def servers():
    with nats_cluster(3) as all_of_them:
        yield all_of_them


class Load:
    """Writers that say again what was refused, as brokers have their hosts do; and one reader that settles everything once."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.stored: dict[bytes, int] = {}
        self.read: dict[int, bytes] = {}
        self.half = anyio.Event()
        """Set when half of it is stored."""

    async def write(self, writer: int) -> None:
        for turn in range(TURNS):
            lot = [numbered(writer, turn * EACH + place) for place in range(EACH)]
            positions = await self._append(lot)
            self.stored.update(zip([entry.envelope for entry in lot], positions, strict=True))
            if len(self.stored) * 2 >= WRITERS * TURNS * EACH:
                self.half.set()

    async def _append(self, lot: list[Entry]) -> list[int]:
        while True:
            try:
                return await self._backbone.append(lot)
            except BusError:
                await CLOCK.sleep(0.1)

    async def take(self) -> None:
        consumer = await self._backbone.consume(ConsumerName("MONITOR", "all"), "work.>", "work.>", ALL, allowed=1 << 30)
        while len(self.read) < WRITERS * TURNS * EACH:
            for one in await consumer.take():
                self.read[one.position] = one.envelope
                consumer.settle_nowait(acks=[(one.position, one.position)])
        await consumer.settle()
        await consumer.aclose()


async def leader_of(servers: list[NatsServer], backbone: Backbone) -> NatsServer:
    facts = await backbone._jetstream.stream(backbone._names.stream("work.>"))
    return next(server for server in servers if server.name == facts["cluster"]["leader"])


async def connected_to(servers: list[NatsServer], backbone: Backbone) -> NatsServer:
    url = backbone._connection._client.connected_url
    return next(server for server in servers if server.port == url.port)


async def under_load(servers: list[NatsServer], space: str, trouble: Callable[[Backbone], Awaitable[None]]) -> None:
    """With half of it stored there is trouble. At the end everything is there once, where it was said to be."""
    async with on_nats([server.url for server in servers], space, wait_seconds=60.0) as backbone:
        await backbone.retain([WORK], passed_ms=0)
        await backbone.keep(papers=[Papers(bytes(16), "DIRECTOR", CLOCK.now_ms() + 3_600_000, b"papers")])
        load = Load(backbone)
        with anyio.fail_after(100):
            async with anyio.create_task_group() as tasks:
                for writer in range(WRITERS):
                    tasks.start_soon(load.write, writer)
                tasks.start_soon(load.take)
                await load.half.wait()
                await trouble(backbone)
        assert len(load.stored) == WRITERS * TURNS * EACH
        assert len(set(load.stored.values())) == len(load.stored), "each has a place of its own"
        assert {position: load.read.get(position) for position in load.stored.values()} == {
            position: envelope for envelope, position in load.stored.items()
        }, "what was acknowledged is there, where it was said to be"
        (facts,) = await backbone.consumers()
        assert (len(load.read), facts.behind, facts.outstanding) == (len(load.stored), 0, 0), "nothing is there twice"
        assert await backbone.papers_for(bytes(16)) == [b"papers"]


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("victim", [leader_of, connected_to], ids=["the leader of the stream", "the server it is connected to"])
async def test_nothing_acknowledged_is_lost_and_nothing_is_there_twice_when_a_server_is_killed_under_load(
    servers: list[NatsServer], victim: Callable[..., Awaitable[NatsServer]]
):
    dead: list[NatsServer] = []

    async def kill(backbone: Backbone) -> None:
        dead.append(await victim(servers, backbone))
        dead[0].kill()

    try:
        await under_load(servers, new_space(), kill)
    finally:
        await anyio.to_thread.run_sync(dead[0].begin)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.skipif(
    "TPMBUS_SOAK" not in os.environ, reason="on a full machine those that are left elect one leader after the other: make soak"
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see below
async def test_nothing_acknowledged_is_lost_when_the_leader_is_cut_off_for_a_while(servers: list[NatsServer]):
    async def cut_off(backbone: Backbone) -> None:
        leader = await leader_of(servers, backbone)
        stream, other = backbone._names.stream("work.>"), next(server for server in servers if server is not leader)
        leader.stand_still(still=True)
        try:
            await anyio.to_thread.run_sync(other.wait_for_another_leader, stream, leader.name)
        finally:
            leader.stand_still(still=False)

    await under_load(servers, new_space(), cut_off)
    gc.collect()  # nats-py forgets sockets of servers that took a connection and said nothing: they are closed here, with a warning


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_broker_that_is_killed_under_load_has_stored_what_it_said_and_another_one_goes_on(servers: list[NatsServer]):
    space = new_space()
    said = await anyio.to_thread.run_sync(written_and_killed, servers[0].url, space)
    assert said
    async with on_nats([server.url for server in servers], space, wait_seconds=60.0) as backbone:
        await backbone.retain([WORK], passed_ms=0)
        most = max(said) + 1
        again = [numbered(0, number) for number in range(most + 50)]
        positions = await backbone.append(again)  # whoever did not hear that it is stored says it again
        assert {number: positions[number] for number in said} == said, "what it said is stored, and known again by its id"
        assert len(set(positions)) == len(positions)
        consumer = await backbone.consume(ConsumerName("MONITOR", "all"), "work.>", "work.>", ALL, allowed=1 << 30)
        found: list[int] = []
        with anyio.fail_after(30):
            while len(found) < len(positions):
                found += [one.position for one in await consumer.take()]
        (facts,) = await backbone.consumers()
        assert (sorted(found), facts.behind) == (sorted(positions), 0), "nothing is there twice"


def written_and_killed(url: str, space: str) -> dict[int, int]:
    """What a broker in a process of its own said that it had stored, when it was killed: number -> position."""
    command = [sys.executable, str(Path(__file__).parent / "nats_writing.py"), url, space]
    said: dict[int, int] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            number, position = map(int, line.split())
            said[number] = position
            if len(said) == 300:
                child.kill()
    return said
