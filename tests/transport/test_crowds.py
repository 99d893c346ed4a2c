"""Crowds at a door: they come in a bite at a time, and who says nothing is no more than a socket until it has to go."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pairs import gone

from bus.testing.link_ear import Ear, turns
from bus.transport import bites, listening_links, lobby
from bus.transport.link import Link, Peer
from bus.transport.listening_links import Door, listening

pytestmark = pytest.mark.anyio
DOORS = ["unix", "unix, silent ones wait", "tls"]
WORD = b"no room"
FRAME = struct.pack(">I", len(WORD)) + WORD


class Host:
    """Who serves the links that come, and turns away who says nothing."""

    def __init__(self) -> None:
        self.ears: list[Ear] = []
        self.away: list[tuple[Peer, str]] = []

    def on_link(self, link: Link) -> None:
        self.ears.append(Ear(link))
        self.ears[-1].start()

    def turn_away(self, peer: Peer, why: str) -> bytes:
        self.away.append((peer, why))
        return WORD


@pytest.fixture
def host() -> Host:
    return Host()


@asynccontextmanager
async def opened(kind: str, host: Host, runtime: Path, papers: Any, **options: Any) -> AsyncIterator[Door]:
    url = "tls://127.0.0.1:0" if kind == "tls" else f"unix://{runtime}/s/x.sock"
    turn_away = host.turn_away if "silent" in kind else None
    try:
        async with listening(url, host.on_link, tls=papers and papers.server, turn_away=turn_away, **options) as door:
            yield door
    finally:
        for ear in host.ears:
            ear.link.close(flush=False)
        await turns()


def caller(door: Door) -> socket.socket:
    """It is in the kernel's line, or further."""
    scheme, _, rest = door.url.partition("://")
    if scheme == "tls":
        return socket.create_connection(("127.0.0.1", int(rest.rpartition(":")[2])))
    found = socket.socket(socket.AF_UNIX)
    found.connect(rest)
    return found


@contextmanager
def crowd(door: Door, count: int) -> Iterator[list[socket.socket]]:
    callers = [caller(door) for _ in range(count)]
    try:
        yield callers
    finally:
        for one in callers:
            one.close()


async def heard(one: socket.socket) -> bytes:
    """Until it is hung up on."""
    one.setblocking(False)
    found = b""
    while True:
        await anyio.wait_readable(one)
        if not (more := one.recv(100)):
            return found
        found += more


# ---- a bite at a time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DOORS)
async def test_a_crowd_is_let_in_a_bite_at_a_time_and_the_door_rests_in_between(kind, host, runtime, papers, monkeypatch):
    monkeypatch.setattr(bites, "REST_SECONDS", 3_600)
    async with opened(kind, host, runtime, papers) as door:
        with crowd(door, 3 * bites.BITE):
            await turns()
            assert door.links == bites.BITE


async def test_those_for_whom_there_is_no_room_are_turned_away_a_bite_at_a_time_too(runtime, host, monkeypatch):
    monkeypatch.setattr(bites, "REST_SECONDS", 3_600)
    async with opened("unix", host, runtime, None, most=1) as door:
        with crowd(door, 3 * bites.BITE):
            await turns()
            assert (door.links, door.turned_away) == (1, bites.BITE - 1)


async def test_of_those_who_speak_over_tls_two_shake_hands_at_a_time(host, runtime, papers, monkeypatch):
    monkeypatch.setattr(bites, "REST_SECONDS", 3_600)
    async with opened("tls", host, runtime, papers) as door:
        with crowd(door, bites.BITE) as callers:
            for one in callers:
                one.sendall(b"nonsense")
            with anyio.fail_after(10):
                while door.failed < bites.HANDSHAKES:
                    await anyio.lowlevel.checkpoint()
            await turns()
            assert (door.links, door.failed) == (bites.BITE - bites.HANDSHAKES, bites.HANDSHAKES)


@pytest.mark.parametrize("kind", DOORS)
async def test_after_the_rest_the_others_come(kind, host, runtime, papers):
    async with opened(kind, host, runtime, papers) as door:
        with crowd(door, 5 * bites.BITE), anyio.fail_after(10):
            while door.links < 5 * bites.BITE:
                await anyio.lowlevel.checkpoint()


async def test_who_comes_alone_waits_for_nothing(host, runtime, monkeypatch):
    async with opened("unix", host, runtime, None) as door:
        with crowd(door, bites.BITE - 1):
            await turns()
        monkeypatch.setattr(bites, "REST_SECONDS", 3_600)
        with crowd(door, 1):
            await turns()
            assert len(host.ears) == bites.BITE


# ---- who says nothing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DOORS[1:])
async def test_for_who_says_nothing_no_link_and_no_task_is_made(kind, host, runtime, papers):
    async with opened(kind, host, runtime, papers) as door:
        await turns()
        tasks = len(anyio.get_running_tasks())
        with crowd(door, 5 * bites.BITE), anyio.fail_after(10):
            while door.links < 5 * bites.BITE:
                await anyio.lowlevel.checkpoint()
            await turns()
            assert len(anyio.get_running_tasks()) == tasks
            assert host.ears == []


async def test_who_says_nothing_in_time_is_told_why_it_has_to_go(host, runtime, monkeypatch):
    monkeypatch.setattr(listening_links, "HANDSHAKE_SECONDS", 0.05)
    async with opened("unix, silent ones wait", host, runtime, None) as door:
        with crowd(door, 20) as callers, anyio.fail_after(10):
            assert [await heard(one) for one in callers] == [FRAME] * 20
        assert (door.links, host.ears) == (0, [])
    assert {(peer.kind, peer.uid is not None, why) for peer, why in host.away} == {("unix", True, "no handshake within 0.05 s")}


async def test_of_too_many_who_say_nothing_the_oldest_goes(host, runtime, monkeypatch):
    monkeypatch.setattr(lobby, "MOST", 2)
    async with opened("unix, silent ones wait", host, runtime, None) as door:
        with crowd(door, 3) as callers, anyio.fail_after(10):
            assert await heard(callers[0]) == FRAME
            assert (door.links, len(host.away)) == (2, 1)


async def test_over_tls_it_is_told_nothing_and_has_failed(host, papers, monkeypatch):
    monkeypatch.setattr(lobby, "MOST", 2)
    async with opened("tls", host, Path(), papers) as door:
        with crowd(door, 3) as callers, anyio.fail_after(10):
            assert await heard(callers[0]) == b""
            assert (door.links, door.failed, host.away) == (2, 1, [])


async def test_who_speaks_is_a_link_at_once_whoever_else_is_silent(host, runtime):
    async with opened("unix, silent ones wait", host, runtime, None) as door:
        with crowd(door, 5) as callers, anyio.fail_after(10):
            while door.links < 5:
                await anyio.lowlevel.checkpoint()
            here = anyio.current_time()
            while anyio.current_time() < here + 0.02:
                await anyio.lowlevel.checkpoint()
            callers[3].sendall(FRAME)
            while not host.ears:
                await anyio.lowlevel.checkpoint()
            await host.ears[0].until(lambda: host.ears[0].frames)
            assert host.ears[0].frames == [WORD]
            assert 0.01 < host.ears[0].link.peer.silent_seconds < 10
            assert (len(host.ears), door.links) == (1, 5)


async def test_who_hangs_up_without_a_word_leaves_nothing(host, runtime):
    async with opened("unix, silent ones wait", host, runtime, None) as door:
        with crowd(door, 5):
            await turns()
        await gone(door)
        assert host.away == []


@pytest.mark.parametrize("kind", DOORS[1:])
async def test_when_the_door_is_shut_the_silent_go(kind, host, runtime, papers):
    async with opened(kind, host, runtime, papers) as door:
        callers = [caller(door) for _ in range(5)]
        await turns()
        assert door.links == 5
    assert door.links == 0
    for one in callers:
        assert one.recv(100) == b""
        one.close()
