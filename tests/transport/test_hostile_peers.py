"""What a stranger can send over a bare socket, and what it does not get by that."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from pairs import gone

from bus.errors import ConnectionLostError, RemoteProtocolError
from bus.protocol.frames import MAX_FRAME_BYTES
from bus.testing.link_ear import Ear, turns
from bus.transport.link import Link
from bus.transport.listening_links import listening

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def stranger(runtime, *, starts: bool = True):
    """(a bare socket, who hears what it says)."""
    came: list[Ear] = []
    arrived = anyio.Event()

    def on_link(link: Link) -> None:
        came.append(Ear(link))
        if starts:
            came[0].start()
        arrived.set()

    async with listening(f"unix://{runtime}/s/x.sock", on_link) as door:
        with socket.socket(socket.AF_UNIX) as bare:
            bare.connect(str(runtime / "s" / "x.sock"))
            await arrived.wait()
            bare.setblocking(False)
            with anyio.fail_after(10):
                yield bare, came[0]
            came[0].link.close(flush=False)
        await gone(door)


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES + 1, (1 << 32) - 1])
@pytest.mark.parametrize("starts", [True, False])
async def test_a_frame_that_claims_too_much_ends_the_link(runtime, size, starts):
    async with stranger(runtime, starts=starts) as (bare, ear):
        bare.send(struct.pack(">I", 2) + b"ok" + struct.pack(">I", size))
        if not starts:
            await turns()
            ear.start()
        await ear.until(lambda: ear.lost)
        assert isinstance(ear.lost[0], RemoteProtocolError)
        assert ear.lost[0].reason == "malformed"
        assert ear.frames == [b"ok"]
        await anyio.wait_readable(bare)
        assert bare.recv(100) == b""


async def test_one_byte_at_a_time_is_slow_and_right(runtime):
    frames = [b"", b"a", bytes(300), b"end"]
    async with stranger(runtime) as (bare, ear):
        for byte in b"".join(struct.pack(">I", len(frame)) + frame for frame in frames):
            bare.send(bytes([byte]))
            await anyio.lowlevel.checkpoint()
        await ear.until(lambda: len(ear.frames) == len(frames))
        assert ear.frames == frames
        assert not ear.lost


async def test_garbage_is_frames_or_the_end(runtime):
    garbage = os.urandom(1 << 16)
    async with stranger(runtime) as (bare, ear):
        assert bare.send(garbage) == len(garbage)
        await ear.until(lambda: ear.frames or ear.lost)
        bare.close()
        await ear.until(lambda: ear.lost)
        assert isinstance(ear.lost[0], RemoteProtocolError | ConnectionLostError)


async def test_half_a_frame_and_the_end_is_a_lost_link(runtime):
    async with stranger(runtime) as (bare, ear):
        bare.send(struct.pack(">I", 1_000) + b"half")
        bare.close()
        await ear.until(lambda: ear.lost)
        assert isinstance(ear.lost[0], ConnectionLostError)
        assert ear.frames == []


async def test_who_stops_talking_and_does_not_read_is_gone(runtime):
    async with stranger(runtime) as (bare, ear):
        for _ in range(20):
            ear.send(bytes(1 << 20))
        await turns()
        bare.shutdown(socket.SHUT_WR)
        await ear.until(lambda: ear.lost)
        assert isinstance(ear.lost[0], ConnectionLostError)
        assert ear.link.buffered == 0


async def test_who_never_reads_is_cut_where_memory_ends(runtime):
    async with stranger(runtime) as (bare, ear):
        sent = 0
        while not ear.lost and sent < 100:
            ear.send(bytes(1 << 20))
            sent += 1
            await anyio.lowlevel.checkpoint()
        await ear.until(lambda: ear.lost)
        assert 30 < sent < 40
        assert isinstance(ear.lost[0], ConnectionLostError)
        received = 0
        bare.setblocking(True)
        while data := bare.recv(1 << 20):
            received += len(data)
        assert received < 2 << 20


async def test_who_is_gone_before_the_start_was_there_all_the_same(runtime):
    async with stranger(runtime, starts=False) as (bare, ear):
        bare.send(struct.pack(">I", 5) + b"hello")
        bare.close()
        await turns()
        ear.start()
        await ear.until(lambda: ear.lost)
        assert ear.frames == [b"hello"]
