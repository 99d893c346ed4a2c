"""Bytes of a stream to frames: u32be(length) ‖ frame. They are read straight into what `room` gives, and copied once after it.

All links of a thread read into one buffer: what came is cut into frames before the next one reads, and a link on which nothing is
said costs nothing. Only a large frame that has come in part gets memory of its own, and never more than four times what has come:
a length is a claim, and who claims a megabyte has to send it first. A longer one than a frame may be is a fault at once.
"""

from __future__ import annotations

import struct
import threading
from typing import Final

from bus.errors import BusError, RemoteProtocolError
from bus.protocol.frames import MAX_FRAME_BYTES

LENGTH: Final = struct.Struct(">I")
READ_BYTES: Final = 256 << 10
"""More than a Unix socket holds by default."""
_SMALL_BYTES: Final = 16 << 10
"""Up to here the beginning of a frame is copied in front of what comes next, which saves a read."""
_LEAST_BYTES: Final = 4 << 10
_GROWTH: Final = 4


class _OfThisThread(threading.local):
    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))
        self.spare: memoryview | None = None
        """Where a large frame was put together that is complete: the next one takes it."""


_shared = _OfThisThread()


class Incoming:
    """The receiving half of one link. `fault` says what was wrong; nothing comes after it."""

    __slots__ = ("_begun", "_filled", "_head", "_need", "_view", "fault")

    def __init__(self) -> None:
        self.fault: BusError | None = None
        self._view = _shared.view
        self._head = b""
        self._begun: memoryview | None = None  # a large frame with its length, as far as it has come
        self._filled = self._need = 0

    def room(self) -> memoryview:
        """Where to put what comes next; `took` must follow before any other link of this thread asks."""
        if self._begun is not None:
            return self._begun[self._filled :]
        if self._head:
            length = len(self._head)
            self._view[:length] = self._head
            return self._view[length:]
        return self._view

    def took(self, count: int) -> list[bytes]:
        """So many bytes are there now: the frames that they complete."""
        if self._begun is not None:
            return self._go_on(self._begun, count)
        return self._cut(len(self._head) + count)

    def _cut(self, end: int) -> list[bytes]:
        view, at = self._view, 0
        frames: list[bytes] = []
        while end - at >= LENGTH.size:
            (size,) = LENGTH.unpack_from(view, at)
            start = at + LENGTH.size
            stop = start + size
            if size > MAX_FRAME_BYTES:
                self.fault = RemoteProtocolError("malformed", f"a frame of {size} bytes; the most is {MAX_FRAME_BYTES}")
                return frames
            if stop > end:
                if size > _SMALL_BYTES:
                    self._head = b""
                    self._need = stop - at
                    self._grow(view[at:end])
                    return frames
                break
            frames.append(bytes(view[start:stop]))
            at = stop
        self._head = bytes(view[at:end])
        return frames

    def _go_on(self, begun: memoryview, count: int) -> list[bytes]:
        self._filled += count
        if self._filled == self._need:
            self._begun = None
            _shared.spare = memoryview(begun.obj)
            return [bytes(begun[LENGTH.size :])]
        if self._filled == len(begun):
            self._grow(begun)
        return []

    def _grow(self, so_far: memoryview) -> None:
        self._filled = len(so_far)
        spare, _shared.spare = _shared.spare, None
        if spare is not None and len(spare) >= self._need:
            self._begun = spare[: self._need]
        else:
            self._begun = memoryview(bytearray(min(self._need, max(_GROWTH * self._filled, _LEAST_BYTES))))
        self._begun[: self._filled] = so_far
