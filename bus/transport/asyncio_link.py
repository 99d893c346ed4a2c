"""A link over a transport of asyncio or uvloop. Callbacks all the way: streams and tasks cost a third more.

What is sent gathers until the next turn of the loop and then goes to the transport at once. Small frames are joined into one piece;
large ones are handed over as they are, which saves uvloop a copy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from bus.errors import BusError, ClosedError, ConnectionLostError, LocalProtocolError
from bus.protocol.frames import MAX_FRAME_BYTES
from bus.transport.framing import LENGTH, Incoming
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
from bus.transport.soon import on_asyncio, scheduler

_JOINED_BYTES: Final = 64 << 10
"""Up to here a copy is cheaper than a list of pieces for the kernel."""
_LAST_READS: Final = 8
_pack = LENGTH.pack


class AsyncioLink(asyncio.BufferedProtocol):
    """One end. Who makes the connection sets `peer`."""

    peer: Peer

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.writable = True
        self._on_gone: Callable[[], None] = nothing
        self._loop, self._soon = loop, scheduler()
        self._transport: Any = None
        self._fd = -1
        """To write at once: uvloop's transport does so when all else is done that was to be done in this turn of the loop."""
        self._incoming = Incoming()
        self._owner: Owner | None = None
        self._early: list[bytes] = []  # frames that came before `start`
        self._outbox: list[bytes] = []
        self._unsent = 0
        self._room = HIGH_WATER_BYTES  # so much more may be sent before there is something to decide
        self._is_paused = self._is_choked = self.is_lost = False
        self._ending: BusError | None = None
        self._deadline: asyncio.TimerHandle | None = None

    # ---- for the owner -------------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        if self.is_lost:
            return 0
        waiting: int = self._transport.get_write_buffer_size()
        return self._unsent + waiting

    def start(self, on_frames: OnFrames, on_lost: OnLost, on_writable: OnWritable) -> None:
        if self._owner is not None:
            raise RuntimeError("this link was started already")
        run: Callable[..., None] = on_asyncio(copy_context()).run
        self._owner = Owner(partial(run, on_frames), partial(run, on_lost), partial(run, on_writable))
        self._soon(self._go_on)

    def send(self, frame: bytes) -> None:
        if self._ending is not None:
            return
        size = len(frame)
        if size > MAX_FRAME_BYTES:
            self._end(LocalProtocolError(f"a frame of {size} bytes; the most is {MAX_FRAME_BYTES}"))
            return
        outbox = self._outbox
        if not outbox:
            self._soon(self._flush)
        outbox.append(_pack(size))
        outbox.append(frame)
        self._unsent += size + 4
        if self._unsent > self._room:
            self._is_full()

    def flush(self) -> None:
        if self._outbox and self.writable and not self._transport.is_closing():
            self._write_out()
            self._room = HIGH_WATER_BYTES - self._transport.get_write_buffer_size()

    def pause(self) -> None:
        self._is_paused = True
        if self._ending is None:
            self._transport.pause_reading()

    def resume(self) -> None:
        self._is_paused = False
        self._soon(self._go_on)

    @property
    def ending(self) -> BusError | None:
        """Why it is over, if it is."""
        return self._ending

    def close(self, *, flush: bool = True) -> None:
        self._early = []
        self._end(ClosedError("this link was closed"), flush=flush)

    def when_gone(self, callback: Callable[[], None]) -> None:
        self._on_gone = callback
        if self.is_lost:
            self._tell()

    # ---- what comes ----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=LOW_WATER_BYTES)
        self._fd = transport.get_extra_info("socket").fileno()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._incoming.room()

    def buffer_updated(self, nbytes: int) -> None:
        if self._ending is not None:
            return
        if frames := self._took(nbytes):
            if self._owner is None:
                self._early += frames
                self._transport.pause_reading()
            elif fault := self._owner.frames(frames):
                self._end(fault)
        if self._incoming.fault is not None:
            self._end(self._incoming.fault)

    def _took(self, count: int) -> list[bytes]:
        return self._incoming.took(count)

    def _go_on(self) -> None:
        """Deliver what came too early, and read on."""
        if self._owner is None or self._is_paused:
            return
        frames, self._early = self._early, []
        if frames and (fault := self._owner.frames(frames)):
            self._end(fault)
        if self.is_lost:
            self._tell()
        elif self._ending is None and not self._is_paused:
            self._transport.resume_reading()

    # ---- what goes -----------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._outbox and not self._transport.is_closing():
            self._write_out()
            self._look_for_room()

    def _write_out(self) -> None:
        pieces, self._outbox = self._outbox, []
        size, self._unsent = self._unsent, 0
        self._write(pieces, size)

    def _write(self, pieces: list[bytes], size: int) -> None:
        if size > _JOINED_BYTES:
            self._transport.writelines(pieces)
            return
        data, sent = b"".join(pieces), 0
        if not self._transport.get_write_buffer_size():
            with suppress(OSError):  # the transport will say what is wrong, or waits until there is room
                sent = os.write(self._fd, data)
        if sent < size:
            self._transport.write(data[sent:])

    def pause_writing(self) -> None:
        self._is_choked, self.writable = True, False

    def resume_writing(self) -> None:
        self._is_choked = False
        self._look_for_room()

    def _look_for_room(self) -> None:
        self._room = HIGH_WATER_BYTES - self._transport.get_write_buffer_size()
        if self.writable or self._is_choked or self._ending is not None or self._unsent > self._room:
            return
        self.writable = True
        if self._owner is not None and (fault := self._owner.writable()):
            self._end(fault)

    def _is_full(self) -> None:
        waiting = self._transport.get_write_buffer_size()
        if self._unsent + waiting > MAX_BUFFERED_BYTES:
            self._end(ConnectionLostError("the other end does not read, and too much waits for it"), flush=False)
        elif self._unsent + waiting > HIGH_WATER_BYTES:
            self.writable, self._room = False, MAX_BUFFERED_BYTES - waiting
        else:
            self._room = HIGH_WATER_BYTES - waiting

    # ---- the end -------------------------------------------------------------------------------------------------------------

    def _end(self, reason: BusError, *, flush: bool = True) -> None:
        if self._ending is None:
            self._ending, self.writable = reason, False
            if flush and self._outbox and not self._transport.is_closing():
                self._write_out()
            self._outbox, self._unsent = [], 0
            if flush:
                self._deadline = self._loop.call_later(FLUSH_SECONDS, self._transport.abort)
                self._finish()
        if not flush and not self.is_lost:
            self._transport.abort()

    def _finish(self) -> None:
        """Close, when all is written. On a Unix socket the other end can still read it then, whatever lies unread at this one."""
        self._transport.close()

    def eof_received(self) -> bool:
        """Who has stopped talking does not listen either."""
        self._end(_closed_by_peer(), flush=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._ending is None:
            if exc is not None:
                self._hear_out()
            self._ending = _closed_by_peer() if exc is None else broken(exc)
        self.is_lost, self.writable = True, False
        self._outbox, self._unsent = [], 0
        self._is_paused = False
        self._go_on()
        self._tell()

    def _hear_out(self) -> None:
        """The transport reads no more after it has failed to write; but why the other end closed may still lie there."""
        with suppress(OSError):  # nothing more, or not even that
            for _ in range(_LAST_READS):
                if not (count := os.readv(self._transport.get_extra_info("socket").fileno(), [self.get_buffer(-1)])):
                    break
                self._early += self._took(count)

    def _tell(self) -> None:
        on_gone, self._on_gone = self._on_gone, nothing
        on_gone()
        if self._owner is not None and self._ending is not None:
            owner, self._owner = self._owner, LOST
            owner.lost(self._ending)


def _closed_by_peer() -> BusError:
    return ConnectionLostError("the other end closed the link")


def broken(error: Exception) -> BusError:
    reason = ConnectionLostError(f"the link broke: {error}")
    reason.__cause__ = error
    return reason
