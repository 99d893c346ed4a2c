"""Who listens to one end of a link, for checks and tests: it keeps what it hears, and notes what it should not have heard then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel

from bus.errors import BusError
from bus.transport.link import Link

_TURNS: Final = 50
"""In which nothing happens, if nothing is to happen."""


class Ear:
    """Hears what comes out of one end, and finds out whether it is told at the wrong time."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.frames: list[bytes] = []
        self.lists = 0
        self.writable = 0
        self.lost: list[BusError] = []
        self.raises: Exception | None = None
        self.does: Callable[[], None] = lambda: None
        self.calls = False  # we are inside of a call to the link
        self.faults: list[str] = []
        self._changed = anyio.Event()

    def start(self) -> None:
        self.calls = True
        self.link.start(self._on_frames, self._on_lost, self._on_writable)
        self.calls = False

    def send(self, *frames: bytes) -> None:
        self.calls = True
        for frame in frames:
            self.link.send(frame)
        self.calls = False

    def close(self, *, flush: bool = True) -> None:
        self.calls = True
        self.link.close(flush=flush)
        self.calls = False

    def resume(self) -> None:
        self.calls = True
        self.link.resume()
        self.calls = False

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._changed.wait()

    def _on_frames(self, frames: list[bytes]) -> None:
        self._hear("frames")
        self._should(bool(frames) and all(type(frame) is bytes for frame in frames), "frames come as a list of bytes, at least one")
        self.frames += frames
        self.lists += 1
        self.does()
        if self.raises is not None:
            raise self.raises

    def _on_writable(self) -> None:
        self._hear("room to write")
        self._should(self.link.writable, "on_writable was called, and the link is not writable")
        self.writable += 1

    def _on_lost(self, reason: BusError) -> None:
        self._hear("the end")
        self._should(isinstance(reason, BusError), f"a link ends with a BusError, and not with {reason!r}")
        self._should(
            not self.link.writable and not self.link.buffered, "a link that has ended is writable, or something waits on it"
        )
        self.lost.append(reason)
        if self.raises is not None:
            raise self.raises

    def _hear(self, what: str) -> None:
        self._should(not self.calls, f"{what} came from inside a call to the link")
        self._should(not self.lost, f"{what} came after the end")
        self._changed.set()
        self._changed = anyio.Event()

    def _should(self, condition: bool, otherwise: str) -> None:
        """What a callback raises goes to the link, so it is kept for later."""
        if not condition:
            self.faults.append(otherwise)


def start(*ears: Ear) -> None:
    for ear in ears:
        ear.start()


async def turns(count: int = _TURNS) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


def require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
