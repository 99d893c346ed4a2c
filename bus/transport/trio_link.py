"""A link on trio: one task reads and one writes, over a byte stream of anyio.

A link is closed by a call, from anywhere, and so has no block to live in; its two tasks live in a nursery of their own, inside
one of trio's system tasks. They end with the link, and all links end with the run.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import anyio
import trio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream

from bus.errors import BusError, ClosedError, ConnectionLostError, LocalProtocolError
from bus.protocol.frames import MAX_FRAME_BYTES
from bus.transport.framing import LENGTH, READ_BYTES, Incoming
from bus.transport.link import (
    FLUSH_SECONDS,
    HIGH_WATER_BYTES,
    LOW_WATER_BYTES,
    MAX_BUFFERED_BYTES,
    OnFrames,
    OnLost,
    OnWritable,
    Peer,
)
from bus.transport.owner import LOST, Owner, nothing
from bus.transport.tls import HANDSHAKE_SECONDS, Tls, tls_peer

_PIECE_BYTES: Final = 64 << 10
_BROKEN: Final = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.BusyResourceError)
"""What a stream raises; busy is one whose peer has renewed its TLS keys in the middle of our writing."""
_pack = LENGTH.pack


class TrioLink:
    """One end."""

    def __init__(self, stream: ByteStream, peer: Peer) -> None:
        self.peer, self.writable = peer, True
        self._on_gone: Callable[[], None] = nothing
        self.buffered = 0
        self._stream = stream
        self._incoming = Incoming()
        self._owner: Owner | None = None
        self._outbox: list[bytes] = []
        self._may_read, self._may_write = anyio.Event(), anyio.Event()
        self._is_paused = self._is_lost = False
        self._ending: BusError | None = None
        self._broken: BusError | None = None
        self._tasks = anyio.CancelScope()
        trio.lowlevel.spawn_system_task(self._run, name=f"link {peer.address}")

    # ---- for the owner -------------------------------------------------------------------------------------------------------

    def start(self, on_frames: OnFrames, on_lost: OnLost, on_writable: OnWritable) -> None:
        if self._owner is not None:
            raise RuntimeError("this link was started already")
        self._owner = Owner(on_frames, on_lost, on_writable)
        self._may_read.set()
        if self._is_lost:
            trio.lowlevel.current_trio_token().run_sync_soon(self._tell)

    def send(self, frame: bytes) -> None:
        if self._ending is not None:
            return
        size = len(frame)
        if size > MAX_FRAME_BYTES:
            self._end(LocalProtocolError(f"a frame of {size} bytes; the most is {MAX_FRAME_BYTES}"))
            return
        self._outbox.append(_pack(size))
        self._outbox.append(frame)
        self._may_write.set()
        self.buffered += size + LENGTH.size
        if self.buffered > HIGH_WATER_BYTES:
            self.writable = False
            if self.buffered > MAX_BUFFERED_BYTES:
                self._end(ConnectionLostError("the other end does not read, and too much waits for it"), flush=False)

    def flush(self) -> None:
        """It leaves in the next turn of the loop, as soon as anything can here."""

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._may_read.set()

    def close(self, *, flush: bool = True) -> None:
        self._end(ClosedError("this link was closed"), flush=flush)

    def when_gone(self, callback: Callable[[], None]) -> None:
        self._on_gone = callback
        if self._is_lost:
            self._tell()

    # ---- the tasks -----------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            with self._tasks:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read)
                    tasks.start_soon(self._write)
        except Exception as error:  # noqa: BLE001  what ends a system task ends the whole run, and this is the end of one link
            self._broken = _broken(error)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self._stream)
            self._lose()

    async def _read(self) -> None:
        while True:
            try:
                data = await self._stream.receive(READ_BYTES)
            except anyio.EndOfStream:
                self._end(ConnectionLostError("the other end closed the link"), flush=False)
                break
            except _BROKEN as error:
                self._end(_broken(error), flush=False)
                break
            await self._until_wanted()
            if self._ending is None:
                self._came(memoryview(data))

    async def _until_wanted(self) -> None:
        while self._ending is None and (self._owner is None or self._is_paused):
            self._may_read = anyio.Event()
            await self._may_read.wait()

    def _came(self, data: memoryview) -> None:
        incoming = self._incoming
        frames: list[bytes] = []
        while data and incoming.fault is None:
            room = incoming.room()
            piece = data[: len(room)]
            room[: len(piece)] = piece
            frames += incoming.took(len(piece))
            data = data[len(piece) :]
        if self._ending is None and frames and self._owner is not None and (fault := self._owner.frames(frames)):
            self._end(fault)
        if incoming.fault is not None:
            self._end(incoming.fault)

    async def _write(self) -> None:
        try:
            while self._outbox or self._ending is None:
                await self._may_write.wait()
                self._may_write = anyio.Event()
                pieces, self._outbox = self._outbox, []
                data = memoryview(b"".join(pieces))
                for at in range(0, len(data), _PIECE_BYTES):
                    piece = data[at : at + _PIECE_BYTES]
                    await self._stream.send(piece)  # type: ignore[arg-type]  # typed as bytes; every stream of anyio takes a view
                    self._wrote(len(piece))
            if self.peer.kind == "tls":
                # TCP that is closed with something unread takes along what it has not sent yet: hear the other end out.
                self._stream.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_WR)  # noqa: S610  Django is elsewhere
            else:
                self._tasks.cancel()
        except _BROKEN as error:
            self._cannot_write(error)

    def _wrote(self, size: int) -> None:
        self.buffered -= size
        if not self.writable and self._ending is None and self.buffered <= LOW_WATER_BYTES:
            self.writable = True
            if self._owner is not None and (fault := self._owner.writable()):
                self._end(fault)

    # ---- the end -------------------------------------------------------------------------------------------------------------

    def _cannot_write(self, error: Exception) -> None:
        """Why the other end closed may still be there to be read."""
        self._broken, self.writable = _broken(error), False
        if self._ending is None:
            self._tasks.deadline = trio.current_time() + FLUSH_SECONDS
        else:
            self._tasks.cancel()

    def _end(self, reason: BusError, *, flush: bool = True) -> None:
        if self._ending is None:
            self._ending, self.writable = reason, False
            self._tasks.deadline = trio.current_time() + FLUSH_SECONDS
            self._may_write.set()
            self._may_read.set()
        if not flush:
            self._tasks.cancel()

    def _lose(self) -> None:
        if self._ending is None:
            self._ending = self._broken or ClosedError("the event loop ended")
        self._is_lost, self.writable = True, False
        self._outbox, self.buffered = [], 0
        self._tell()

    def _tell(self) -> None:
        on_gone, self._on_gone = self._on_gone, nothing
        on_gone()
        if self._owner is not None and self._ending is not None:
            owner, self._owner = self._owner, LOST
            owner.lost(self._ending)


def _broken(error: Exception) -> BusError:
    reason = ConnectionLostError(f"the link broke: {error}")
    reason.__cause__ = error
    return reason


async def plain(connected: socket.socket, peer: Peer) -> TrioLink:
    """A link over a connected socket, which it takes over."""
    return TrioLink(await SocketStream.from_socket(connected), peer)


async def over_tls(connected: socket.socket, tls: Tls, address: str, hostname: str) -> TrioLink:
    """The same after a handshake: as the server, or as who called `hostname`."""
    carrier = await SocketStream.from_socket(connected)
    with anyio.fail_after(HANDSHAKE_SECONDS):
        try:
            stream = await TLSStream.wrap(
                carrier, server_side=not hostname, hostname=hostname or None, ssl_context=tls.context, standard_compatible=False
            )
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise ConnectionAbortedError("the other end closed the connection while shaking hands") from error
    connection = stream.extra(TLSAttribute.ssl_object)  # noqa: S610  as above
    return TrioLink(stream, tls_peer(address, tls, connection))
