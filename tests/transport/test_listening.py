"""Doors: who comes in, who is turned away, and that one stranger does not stand in another's way."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from pairs import gone

from bus.errors import ConnectError, StateInUseError
from bus.testing.link_ear import Ear, start, turns
from bus.transport.dialing import dial
from bus.transport.link import Link
from bus.transport.listening_links import listening

pytestmark = pytest.mark.anyio
URLS = ["memory:DOOR", "unix"]


def at(url: str, runtime: Path) -> str:
    return f"unix://{runtime}/s/x.sock" if url == "unix" else url


def ignore(link: Link) -> None:
    """Somebody came."""


class Arrivals:
    """Serves what comes, by sending it back."""

    def __init__(self) -> None:
        self.ears: list[Ear] = []
        self._came = anyio.Event()

    def __call__(self, link: Link) -> None:
        ear = Ear(link)
        ear.does = lambda: link.send(ear.frames[-1])
        ear.start()
        self.ears.append(ear)
        self._came.set()
        self._came = anyio.Event()

    async def number(self, count: int) -> None:
        with anyio.fail_after(20):
            while len(self.ears) < count:
                await self._came.wait()

    def close(self) -> None:
        for ear in self.ears:
            ear.link.close(flush=False)


async def echo(url: str) -> None:
    ear = Ear(await dial(url))
    ear.start()
    ear.send(b"anybody?")
    with anyio.fail_after(10):
        await ear.until(lambda: ear.frames)
        ear.close()
        await ear.until(lambda: ear.lost)
    assert ear.frames == [b"anybody?"]


# ---- who comes in ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", URLS)
async def test_many_come_and_go(url, runtime):
    arrivals = Arrivals()
    async with listening(at(url, runtime), arrivals) as door:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(echo, door.url)
        await gone(door)
    assert len(arrivals.ears) == 50
    assert (door.turned_away, door.failed) == (0, 0)


async def test_the_socket_is_its_owners_or_a_groups(runtime):
    for group, bits in ((None, 0o600), (os.getgid(), 0o660)):
        async with listening(f"unix://{runtime}/{bits:o}/x.sock", ignore, group=group):
            assert stat.S_IMODE((runtime / f"{bits:o}" / "x.sock").stat().st_mode) == bits


@pytest.mark.parametrize("url", URLS)
async def test_a_place_has_one_listener_at_a_time(url, runtime):
    async with listening(at(url, runtime), ignore) as door:
        with pytest.raises(StateInUseError) as caught:
            async with listening(at(url, runtime), ignore):
                pass
        assert (caught.value.pid, caught.value.url) == (os.getpid(), door.url)
    async with listening(at(url, runtime), ignore):
        pass


@pytest.mark.parametrize("url", URLS)
async def test_what_the_block_raises_goes_on_as_it_is(url, runtime):
    with pytest.raises(KeyError):
        async with listening(at(url, runtime), ignore):
            raise KeyError
    assert not (runtime / "s" / "x.sock").exists()


@pytest.mark.parametrize("url", URLS)
async def test_a_mistake_in_serving_one_link_does_not_shut_out_the_next(url, runtime):
    arrivals = Arrivals()
    calls: list[Link] = []

    def on_link(link: Link) -> None:
        calls.append(link)
        if len(calls) == 1:
            raise KeyError("a mistake")
        arrivals(link)

    async with listening(at(url, runtime), on_link) as door:
        unlucky = Ear(await dial(door.url))
        unlucky.start()
        with anyio.fail_after(30):
            await unlucky.until(lambda: unlucky.lost)
        await echo(door.url)
        await gone(door)


# ---- who is turned away ----------------------------------------------------------------------------------------------------------


async def test_beyond_the_most_links_are_closed_at_once_and_room_is_given_again(runtime):
    arrivals = Arrivals()
    async with listening(f"unix://{runtime}/s/x.sock", arrivals, most=3) as door:
        inside = [Ear(await dial(door.url)) for _ in range(3)]
        start(*inside)
        await arrivals.number(3)
        outside = Ear(await dial(door.url))
        outside.start()
        with anyio.fail_after(30):
            await outside.until(lambda: outside.lost)
        assert (door.links, door.turned_away) == (3, 1)
        inside[0].close()
        with anyio.fail_after(30):
            while door.links == 3:
                await anyio.lowlevel.checkpoint()
        await echo(door.url)
        arrivals.close()
        await gone(door)


async def test_in_memory_too_and_there_the_caller_is_told():
    arrivals = Arrivals()
    async with listening("memory:DOOR", arrivals, most=1) as door:
        first = await dial(door.url)
        with pytest.raises(ConnectError):
            await dial(door.url)
        assert (door.links, door.turned_away) == (1, 1)
        first.close()
        await turns()
        await echo(door.url)
        await gone(door)


CROWDED = """
import resource, sys
import anyio
from bus.transport.listening_links import listening

async def main():
    links = []
    def on_link(link):
        links.append(link)
        link.start(lambda frames: [link.send(frame) for frame in frames], lambda reason: None, lambda: None)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
    async with listening(sys.argv[1], on_link) as door:
        print("there", flush=True)
        async for line in anyio.wrap_file(sys.stdin):
            files = []
            try:
                while True:
                    files.append(open("/dev/null"))
            except OSError:
                pass
            print(door.links, door.turned_away, len(files), flush=True)
            for file in files:
                file.close()
    for link in links:
        link.close(flush=False)

backend, loop = sys.argv[2].split(".")
anyio.run(main, backend=backend, backend_options={"use_uvloop": True} if loop == "uvloop" else {})
"""


async def test_a_crowd_of_silent_strangers_leaves_descriptors_for_the_process_itself(runtime, anyio_backend):
    url = f"unix://{runtime}/s/x.sock"
    loop = f"{anyio_backend[0]}.{'uvloop' if anyio_backend[1].get('use_uvloop') else ''}"
    command = [sys.executable, "-c", CROWDED, url, loop]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:  # noqa: ASYNC220  it starts at once
        assert child.stdin is not None
        assert child.stdout is not None

        def ask() -> tuple[int, ...]:
            child.stdin.write("?\n")
            child.stdin.flush()
            return tuple(int(word) for word in child.stdout.readline().split())

        assert child.stdout.readline() == "there\n"
        crowd = []
        for _ in range(400):
            stranger = socket.socket(socket.AF_UNIX)
            stranger.connect(str(runtime / "s" / "x.sock"))
            crowd.append(stranger)
        links, turned_away, free = ask()
        while links + turned_away < 400:
            links, turned_away, free = ask()
        assert 200 < links <= 300 - 64  # the limit was raised to 300
        assert free >= 60
        for stranger in crowd:
            stranger.close()
        while ask()[0]:
            pass
        await echo(url)
        child.stdin.close()
        assert child.wait(10) == 0


# ---- who is not there ------------------------------------------------------------------------------------------------------------


async def test_nobody_there_is_a_connect_error(runtime):
    for url in ("memory:NOBODY", f"unix://{runtime}/nobody.sock", "nonsense", f"unix://{runtime}/{'x' * 100}"):
        with pytest.raises(ConnectError):
            await dial(url)
    with pytest.raises(ConnectError):
        async with listening(f"unix://{runtime}/{'x' * 100}", ignore):
            pass


async def test_a_door_in_memory_leads_into_its_own_event_loop():
    async with listening("memory:DOOR", ignore):
        refused: list[bool] = []

        def elsewhere() -> None:
            with pytest.raises(ConnectError):
                anyio.run(dial, "memory:DOOR")
            refused.append(True)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        assert refused
