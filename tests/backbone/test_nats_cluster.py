"""Three real NATS servers, of which one is killed under load: nothing that was acknowledged is lost, and nothing is there twice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from backbones import entries
from nats_servers import NatsServer, nats_cluster, new_space, on_nats

from bus.backbone.interface import Backbone, ConsumerName, Entry, Papers, RetentionClass
from bus.clock import SystemClock
from bus.errors import BusError
from bus.flow.start import ALL

CLOCK = SystemClock()
WORK = RetentionClass("work.>", 7 * 86_400_000, ack_wait_ms=2_000, max_deliver=100)
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
            lot = [_entry(writer, turn * EACH + place) for place in range(EACH)]
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


def _entry(writer: int, number: int) -> Entry:
    (entry,) = entries(CLOCK, f"work.w{writer}", seed=writer << 32 | number, body=b"%d %d" % (writer, number))
    return entry


async def leader_of(servers: list[NatsServer], backbone: Backbone) -> NatsServer:
    facts = await backbone._jetstream.stream(backbone._names.stream("work.>"))
    return next(server for server in servers if server.name == facts["cluster"]["leader"])


async def connected_to(servers: list[NatsServer], backbone: Backbone) -> NatsServer:
    url = backbone._connection._client.connected_url
    return next(server for server in servers if server.port == url.port)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("victim", [leader_of, connected_to], ids=["the leader of the stream", "the server it is connected to"])
async def test_nothing_acknowledged_is_lost_and_nothing_is_there_twice_when_a_server_is_killed_under_load(
    servers: list[NatsServer], victim: Callable[..., NatsServer]
):
    async with on_nats([server.url for server in servers], new_space(), wait_seconds=60.0) as backbone:
        await backbone.retain([WORK], passed_ms=0)
        await backbone.keep(papers=[Papers(bytes(16), "DIRECTOR", CLOCK.now_ms() + 3_600_000, b"papers")])
        load = Load(backbone)
        with anyio.fail_after(100):
            async with anyio.create_task_group() as tasks:
                for writer in range(WRITERS):
                    tasks.start_soon(load.write, writer)
                tasks.start_soon(load.take)
                await load.half.wait()
                dead = await victim(servers, backbone)
                dead.kill()
            await anyio.to_thread.run_sync(dead.begin)
        assert len(load.stored) == WRITERS * TURNS * EACH
        assert len(set(load.stored.values())) == len(load.stored), "each has a place of its own"
        assert {position: load.read.get(position) for position in load.stored.values()} == {
            position: envelope for envelope, position in load.stored.items()
        }, "what was acknowledged is there, where it was said to be"
        (facts,) = await backbone.consumers()
        assert (len(load.read), facts.behind, facts.outstanding) == (len(load.stored), 0, 0), "nothing is there twice"
        assert await backbone.papers_for(bytes(16)) == b"papers"
