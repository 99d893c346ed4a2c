"""Links of every kind do the same on every event loop, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

import anyio
import pytest
from anyio.lowlevel import current_token
from pairs import KINDS, over_sockets, pairs

from bus.errors import ClosedError
from bus.testing import cancel_everywhere, check_link
from bus.testing.link_ear import Ear, start, turns
from bus.transport import asyncio_link, trio_link
from bus.transport.connected import unix_link
from bus.transport.dialing import dial
from bus.transport.link import FLUSH_SECONDS
from bus.transport.listening_links import listening

SOCKETS = ["unix", "tls"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_a_link_is_a_link(kind, runtime, papers):
    await check_link(pairs(kind, runtime, papers))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["memory:NAME", *SOCKETS])
async def test_a_link_that_is_cancelled_at_any_point_leaves_nothing(kind, runtime, papers):
    async def scenario() -> None:
        async with pairs(kind, runtime, papers)() as (near, far):
            one, other = Ear(near), Ear(far)
            start(one, other)
            one.send(b"question")
            await other.until(lambda: other.frames)
            other.send(b"answer")
            await one.until(lambda: one.frames)

    await scenario()  # with its first stream, libuv opens a descriptor for itself
    with anyio.fail_after(60):
        assert await cancel_everywhere(scenario) > 1


@pytest.mark.anyio
async def test_what_is_flushed_is_written_at_once(anyio_backend_name):
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with far:
        link = await unix_link(near, "unix:a pair")
        start(Ear(link))
        link.flush()
        link.send(b"one")
        link.send(b"more")
        link.flush()
        if anyio_backend_name == "asyncio":
            assert far.recv(100) == b"\0\0\0\3one\0\0\0\4more"
        link.close(flush=False)
        link.flush()
        await turns(3)


@pytest.mark.anyio
async def test_what_is_flushed_overtakes_nothing_that_waits_for_room():
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    frames = [bytes([number]) * 60_000 for number in range(4)]  # more than the kernel takes
    with far:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        link = await unix_link(near, "unix:a pair")
        start(Ear(link))
        for frame in frames:
            link.send(frame)
            link.flush()
        got = b""
        with suppress(BlockingIOError):  # on trio nothing is written yet
            got = far.recv(100_000)  # there is room again, and nobody has told the link
        link.send(b"late")
        link.flush()
        whole = b"".join(len(frame).to_bytes(4, "big") + frame for frame in (*frames, b"late"))
        while len(got) < len(whole):
            await anyio.wait_readable(far)
            got += far.recv(1 << 20)
        assert got == whole
        link.close(flush=False)
        await turns(3)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_flushed_while_the_link_is_full_comes_whole_and_in_order(kind, runtime, papers):
    frames = [bytes([number]) * size for number, size in enumerate((40_000, 70_000, 3) * 20)]
    async with pairs(kind, runtime, papers)() as (near, far):
        one, other = Ear(near), Ear(far)
        start(one, other)
        for frame in frames:
            near.send(frame)
            near.flush()
        with anyio.fail_after(60):
            await other.until(lambda: len(other.frames) == len(frames))
        assert other.frames == frames


@pytest.mark.anyio
@pytest.mark.parametrize("kind", SOCKETS)
async def test_a_close_is_bounded_though_the_peer_reads_nothing(kind, runtime, papers, monkeypatch):
    for module in (asyncio_link, trio_link):
        monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    async with pairs(kind, runtime, papers)() as (near, far):
        one, other = Ear(near), Ear(far)
        start(one, other)
        far.pause()
        for _ in range(20):
            one.send(bytes(1 << 20))
        one.close()
        with anyio.fail_after(30):
            await one.until(lambda: one.lost)
        assert isinstance(one.lost[0], ClosedError)
        other.resume()
        with anyio.fail_after(30):
            await other.until(lambda: other.lost)
        assert len(other.frames) < 20
    assert FLUSH_SECONDS == 1


@pytest.mark.anyio
async def test_a_link_outlives_the_door_that_it_came_through(runtime):
    came: list[Ear] = []
    arrived = anyio.Event()

    def on_link(link):
        came.append(Ear(link))
        arrived.set()

    async with listening(f"unix://{runtime}/s/x.sock", on_link) as door:
        near = Ear(await dial(door.url))
        await arrived.wait()
    start(near, *came)
    near.send(b"still there?")
    with anyio.fail_after(30):
        await came[0].until(lambda: came[0].frames)
        near.close()
        await came[0].until(lambda: came[0].lost)
        await near.until(lambda: near.lost)
    assert door.links == 0


@pytest.mark.anyio
async def test_both_ends_know_whose_process_the_other_is(runtime):
    async with over_sockets(f"unix://{runtime}/s/x.sock") as (near, far):
        for link in (near, far):
            assert (link.peer.kind, link.peer.uid, link.peer.pid) == ("unix", os.getuid(), os.getpid())
            assert link.peer.address == f"unix://{runtime}/s/x.sock"
            assert link.peer.server_leaf is link.peer.client_leaf is None


@pytest.mark.parametrize("url", ["memory:NAME", "unix"])
def test_callbacks_know_their_event_loop_though_anyio_did_not_start_it(url, runtime):
    known: list[object] = []

    async def main() -> None:
        done = asyncio.Event()

        def on_link(link):
            def lost(_):
                known.append(current_token())
                done.set()

            link.start(lambda frames: link.send(frames[0]), lost, lambda: None)

        async with listening(f"unix://{runtime}/s/x.sock" if url == "unix" else url, on_link) as door:
            near = await dial(door.url)
            near.start(
                lambda _: (known.append(current_token()), near.close()), lambda _: known.append(current_token()), lambda: None
            )
            near.send(b"ping")
            await asyncio.wait_for(done.wait(), 5)

    asyncio.run(main())
    assert len(known) == 3
