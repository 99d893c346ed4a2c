"""Gateways on a real nats-server find each other and have links, whatever happens to the server, to others and beside them."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import nats
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_gateways import gateway, gateways, until
from nats_servers import nats_cluster, nats_server, new_space

from bus.backbone.nats import neighbour_messages as messages
from bus.backbone.nats import neighbours
from bus.backbone.nats.sealing import EndKey
from bus.broker.offences import offender
from bus.clock import SystemClock
from bus.errors import ClosedError, ConnectionLostError
from bus.testing import ManualClock
from bus.transport.link import MAX_BUFFERED_BYTES

pytestmark = pytest.mark.anyio
CLOCK = SystemClock()
ECHOING = Path(__file__).with_name("nats_echoing.py")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def server():
    with nats_server() as one:
        yield one


@contextmanager
def echoing(url, space):
    process = subprocess.Popen([sys.executable, ECHOING, url, space])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_two_gateways_have_one_link_and_know_it_by_the_same_keys(server):
    async with gateways(2, server.url, new_space()) as (one, other):
        one.alive[0].send(b"from one")
        other.alive[0].send(b"from the other")
        await until(lambda: one.ears[0].frames and other.ears[0].frames)
        assert (one.ears[0].frames, other.ears[0].frames) == ([b"from the other"], [b"from one"])
        peers = [link.peer for gateway in (one, other) for link in gateway.links]
        assert {(peer.kind, peer.server_leaf, peer.client_leaf) for peer in peers} == {
            ("nats", peers[0].server_leaf, peers[0].client_leaf)
        }
        assert len(peers) == 2
        assert {offender(peer) for peer in peers} == {"nats gateway"}


async def test_who_is_alone_knows_so_from_the_server_and_who_is_not_when_the_others_had_their_time(server):
    space, clock = new_space(), ManualClock()
    async with gateway(server.url, space, clock=clock) as one:
        await until(lambda: one.neighbours.has_looked)
        assert one.neighbours.known == 0
        async with gateway(server.url, space, clock=clock) as other:
            await until(lambda: one.neighbours.known)
            assert not other.neighbours.has_looked
            clock.advance(neighbours.LOOK_SECONDS)
            await until(lambda: other.neighbours.has_looked)


async def test_a_hundred_thousand_frames_come_in_their_order(server):
    async with gateways(2, server.url, new_space()) as (one, other):
        link, heard = one.alive[0].link, other.alive[0].frames
        for number in range(100_000):
            link.send(b"%d" % number)
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
                await until(lambda: link.writable)
        await until(lambda: len(heard) == 100_000)
        assert heard == [b"%d" % number for number in range(100_000)]
        assert other.neighbours.statistics()["messages_heard"] < 5_000


async def test_a_gateway_that_is_slow_makes_nothing_grow_but_what_waits_for_it(server):
    async with gateways(2, server.url, new_space()) as (one, other):
        other.links[0].pause()
        frames = [bytes([number]) * (1 << 20) for number in range(MAX_BUFFERED_BYTES >> 21)]
        one.alive[0].send(*frames)
        await until(lambda: one.neighbours.statistics()["messages_sent"] > 8)
        assert not one.links[0].writable
        assert one.links[0].buffered > len(frames) - 1 << 20
        other.ears[0].resume()
        await until(lambda: len(other.ears[0].frames) == len(frames))
        assert other.ears[0].frames == frames
        assert one.connection.losses == other.connection.losses == 0


async def test_when_the_server_was_away_there_are_new_links(tmp_path):
    with nats_server() as server:
        async with gateways(3, server.url, new_space()) as all_of_them:
            server.kill()
            await until(lambda: all(len(one.alive) == 0 for one in all_of_them))
            for ear in [ear for one in all_of_them for ear in one.ears]:
                assert isinstance(ear.lost[0], ConnectionLostError)
            server.begin()
            await until(lambda: all(len(one.alive) == 2 for one in all_of_them))
            all_of_them[0].alive[0].send(b"again")
            await until(lambda: [ear for one in all_of_them[1:] for ear in one.alive if ear.frames == [b"again"]])


async def test_a_third_gateway_comes_and_goes_and_the_others_do_not_notice(server):
    space = new_space()
    async with gateways(2, server.url, space) as (one, other):
        async with gateway(server.url, space) as third:
            await until(lambda: len(one.alive) == len(other.alive) == len(third.alive) == 2)
        with anyio.fail_after(2):  # it says that it goes, so nobody has to miss it
            await until(lambda: len(one.alive) == len(other.alive) == 1)
        assert not one.ears[0].lost
        assert not other.ears[0].lost
        assert one.neighbours.statistics()["neighbours"] == 1


async def test_a_gateway_that_ended_answers_nobody_though_its_connection_is_there_yet(server):
    space = new_space()
    async with gateways(2, server.url, space) as (one, other):
        one.scope.cancel()
        await until(lambda: not other.alive)
        async with gateway(server.url, space) as third:
            await until(lambda: third.alive and other.alive)
            assert not one.alive
            assert one.neighbours.statistics() | {"neighbours": 0, "half_open": 0} == one.neighbours.statistics()


class Leaping(SystemClock):
    """As if the process had stood still."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


async def test_gateways_that_stood_still_together_go_on_with_the_link_that_they_have(server):
    space, clock = new_space(), Leaping()
    async with gateway(server.url, space, clock=clock) as one, gateway(server.url, space, clock=clock) as other:
        await until(lambda: one.alive and other.alive)
        said: list[bytes] = []
        clock.ahead = 10.0
        stop = await one.connection.subscribe(f"{space}.here", lambda arrived: said.append(arrived.data))
        await until(lambda: len(set(said)) == 2 <= len(said) - 2)  # both have looked at the clock, and both were heard afterwards
        await stop()
        other.alive[0].send(b"still the same")
        await until(lambda: one.ears[0].frames)
        assert (len(one.ears), len(other.ears)) == (1, 1)


async def test_a_link_that_its_owner_closes_is_made_anew(server):
    async with gateways(2, server.url, new_space()) as (one, other):
        one.alive[0].close()
        await until(lambda: one.ears[0].lost and other.ears[0].lost)
        assert isinstance(one.ears[0].lost[0], ClosedError)
        await until(lambda: len(one.alive) == len(other.alive) == 1)
        other.alive[0].send(b"anew")
        await until(lambda: one.alive[0].frames == [b"anew"])


async def test_a_gateway_that_stands_still_is_left_and_comes_back(server):
    space = new_space()
    with echoing(server.url, space) as process:
        async with gateway(server.url, space) as one:
            await until(lambda: one.alive)
            one.alive[0].send(b"hello?")
            await until(lambda: one.ears[0].frames == [b"hello?"])
            process.send_signal(signal.SIGSTOP)
            await until(lambda: one.ears[0].lost)
            assert isinstance(one.ears[0].lost[0], ConnectionLostError)
            process.send_signal(signal.SIGCONT)
            await until(lambda: one.alive)
            one.alive[0].send(b"are you back?")
            await until(lambda: one.alive and one.alive[0].frames == [b"are you back?"])


async def test_whoever_says_anything_on_these_subjects_is_counted_and_nothing_else(server):
    space = new_space()
    async with gateways(2, server.url, space) as (one, other):
        client = await nats.connect(server.url)
        to = f"{space}.to.{one.neighbours.id.hex()}"
        label = messages.parse_keyed(messages.hello(bytes(16), EndKey().public), messages.HELLO).key[:16]
        for junk in (b"", b"\0", bytes(100_000), b"\4" * 49, messages.here(b"short"), messages.welcome(label, bytes(32))):
            await client.publish(to, junk)
            await client.publish(f"{space}.here", junk)
        await client.publish(to, messages.hello(bytes(16), bytes(32)))  # a key with which nobody can agree
        for number in range(1_000):
            await client.publish(to, messages.hello(number.to_bytes(16), EndKey().public))
            await client.publish(f"{space}.here", messages.here(b"\xff" * 8 + number.to_bytes(8)))
        await client.flush()
        await until(lambda: one.neighbours.statistics()["junk"] > 1_000)
        await client.close()
        one.alive[0].send(b"still there?")
        await until(lambda: other.alive[0].frames == [b"still there?"])
        assert one.neighbours.statistics()["neighbours"] == 1
        assert one.neighbours.statistics()["half_open"] <= neighbours.MAX_HALF_OPEN
        await until(lambda: not one.neighbours.statistics()["half_open"])


@pytest.mark.slow
async def test_gateways_on_different_servers_of_a_cluster_have_new_links_when_one_of_these_is_killed():
    with nats_cluster(3) as servers:
        space = new_space()
        async with AsyncExitStack() as stack:
            found = [await stack.enter_async_context(gateway(server.url, space)) for server in servers]
            await until(lambda: all(len(one.alive) == 2 for one in found))
            servers[0].kill()
            await until(lambda: all(ear.lost for ear in found[0].ears[:2]))
            assert all(len(one.ears) - len(one.alive) <= 1 for one in found[1:]), "the other two keep theirs"
            await until(lambda: all(len(one.alive) == 2 for one in found))
            for one in found:
                for ear in one.alive:
                    ear.send(b"again")
            await until(lambda: all(ear.frames == [b"again"] for one in found for ear in one.alive))
            assert found[0].connection.losses == 1
            assert found[1].connection.losses == found[2].connection.losses == 0


async def test_two_whose_links_are_made_in_vain_meet_ever_more_rarely_and_who_is_shunned_is_told(server, monkeypatch, caplog):
    monkeypatch.setattr(neighbours, "HELLO_SECONDS", 0.05)
    monkeypatch.setattr(neighbours, "HERE_SECONDS", 0.02)
    monkeypatch.setattr(neighbours, "TICK_SECONDS", 0.01)
    space = new_space()
    async with gateway(server.url, space) as shunned, gateway(server.url, space) as other:
        other.shuns, made = True, []
        for count in range(1, 8):
            await until(lambda count=count: len(shunned.ears) >= count and len(shunned.alive) == 0)
            made.append(CLOCK.monotonic())
        assert made[-1] - made[-2] > 0.5, "sixteen times as long as between the first two, and never less than its pause"
        assert (shunned.neighbours.statistics()["shunned_by"], other.neighbours.statistics()["shunned_by"]) == (1, 0)
        assert [record.name for record in caplog.records] == [neighbours.__name__]
        other.shuns = False
        monkeypatch.setattr(neighbours, "SHORT_SECONDS", 0.1)
        await until(lambda: shunned.alive and not shunned.neighbours.statistics()["shunned_by"])


async def test_a_link_that_lived_is_made_anew_at_once(server, monkeypatch):
    monkeypatch.setattr(neighbours, "HELLO_SECONDS", 0.05)
    monkeypatch.setattr(neighbours, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(neighbours, "SHORT_SECONDS", 0.0)
    async with gateways(2, server.url, new_space()) as (one, other):
        for count in range(2, 6):
            other.links[-1].close()
            await until(lambda count=count: len(one.alive) == len(other.alive) == 1 and len(one.ears) == count)
        assert one.neighbours.statistics()["shunned_by"] == 0
