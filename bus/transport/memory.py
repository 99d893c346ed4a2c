"""A link within one event loop: frames are handed over as they are, in the next turn, as if they had been read from a socket.

It holds to everything that a socket's link does (bounds, pauses, ends), so that what works in memory works between processes.
Closing leaves with the other end what it has not read yet, as a socket does.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from bus.errors import BusError, ClosedError, ConnectionLostError, LocalProtocolError
from bus.protocol.frames import MAX_FRAME_BYTES
from bus.transport.framing import LENGTH
from bus.transport.link import HIGH_WATER_BYTES, MAX_BUFFERED_BYTES, OnFrames, OnLost, OnWritable, Peer
from bus.transport.owner import LOST, Owner, nothing
from bus.transport.soon import Soon, scheduler


def memory_pair(address: str = "memory:") -> tuple[MemoryLink, MemoryLink]:
    """Two ends of one link, for the loop that runs now."""
    peer = Peer("memory", address, uid=os.getuid(), pid=os.getpid())
    near, far = MemoryLink(peer, scheduler()), MemoryLink(peer, scheduler())
    near.other, far.other = far, near
    return near, far


class MemoryLink:
    """One end."""

    other: MemoryLink

    def __init__(self, peer: Peer, soon: Soon) -> None:
        self.peer, self.writable = peer, True
        self._on_gone: Callable[[], None] = nothing
        self.inbox: list[bytes] = []
        self.inbox_bytes = 0
        self._soon = soon
        self._owner: Owner | None = None
        self._awake = self._paused = False
        self._ending: BusError | None = None
        self._no_more: BusError | None = None  # the other end has ended: read what there is, then this

    @property
    def buffered(self) -> int:
        return 0 if self._is_over else self.other.inbox_bytes

    def start(self, on_frames: OnFrames, on_lost: OnLost, on_writable: OnWritable) -> None:
        if self._owner is not None:
            raise RuntimeError("this link was started already")
        self._owner = Owner(on_frames, on_lost, on_writable)
        self.wake()

    def send(self, frame: bytes) -> None:
        if self._is_over:
            return
        other = self.other
        other.inbox.append(frame)
        other.inbox_bytes += len(frame) + LENGTH.size
        other.wake()
        if len(frame) > MAX_FRAME_BYTES or other.inbox_bytes > HIGH_WATER_BYTES:
            self._is_too_much(len(frame))

    def flush(self) -> None:
        """It leaves in the next turn of the loop, as soon as anything can here."""

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.wake()

    def close(self, *, flush: bool = True) -> None:
        self._end(ClosedError("this link was closed"), flush=flush)

    def when_gone(self, callback: Callable[[], None]) -> None:
        self._on_gone = callback
        if self._is_over:
            self.wake()

    # ---- turns ---------------------------------------------------------------------------------------------------------------

    @property
    def _is_over(self) -> bool:
        return self._ending is not None or self._no_more is not None

    def wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._soon(self._turn)

    def _turn(self) -> None:
        self._awake = False
        if self.inbox and self._ending is None and self._owner is not None and not self._paused:
            frames, self.inbox, self.inbox_bytes = self.inbox, [], 0
            if fault := self._owner.frames(frames):
                self._end(fault, flush=True)
            self.other.has_room()
        if self._ending is None and not self.inbox:
            self._ending = self._no_more
        if self._ending is not None:
            self._lose(self._ending)

    def has_room(self) -> None:
        """The other end has taken everything."""
        if not self.writable and not self._is_over:
            self.writable = True
            if self._owner is not None and (fault := self._owner.writable()):
                self._end(fault, flush=True)

    def _is_too_much(self, size: int) -> None:
        self.writable = False
        if size > MAX_FRAME_BYTES:
            self.other.inbox.pop()
            self._end(LocalProtocolError(f"a frame of {size} bytes; the most is {MAX_FRAME_BYTES}"), flush=True)
        elif self.other.inbox_bytes > MAX_BUFFERED_BYTES:
            self._end(ConnectionLostError("the other end does not read, and too much waits for it"), flush=False)

    # ---- the end -------------------------------------------------------------------------------------------------------------

    def _end(self, reason: BusError, *, flush: bool) -> None:
        if not flush:
            self.other.inbox, self.other.inbox_bytes = [], 0
        if self._ending is None:
            self._ending, self.writable = reason, False
            self.wake()
            self.other.hear_of_the_end()

    def hear_of_the_end(self) -> None:
        """The other end sends no more, and takes no more."""
        if not self._is_over:
            self._no_more, self.writable = ConnectionLostError("the other end closed the link"), False
            self.wake()

    def _lose(self, reason: BusError) -> None:
        self.inbox, self.inbox_bytes = [], 0
        on_gone, self._on_gone = self._on_gone, nothing
        on_gone()
        if self._owner is not None:
            owner, self._owner = self._owner, LOST
            owner.lost(reason)
