"""A bell: whoever waits is woken when it rings; it remembers nothing.

What anyio.Event does, without its look for the loop each time: hot paths wait once a message. So who waits looks first
whether what it waits for is there already, and again afterwards. Only for the loop's own thread.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import anyio


class Bell(Protocol):
    def ring(self) -> None:
        """Wake all who wait now."""

    async def wait(self) -> None:
        """Until it rings the next time."""


def bell() -> Bell:
    """For the event loop that runs."""
    try:
        return _AsyncioBell(asyncio.get_running_loop())
    except RuntimeError:
        return _AnyioBell()


class _AsyncioBell:
    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():  # who was cancelled has not gone yet
                one.set_result(None)

    async def wait(self) -> None:
        mine: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(mine)
        try:
            await mine
        except BaseException:
            if mine in self._waiting:
                self._waiting.remove(mine)
            raise


class _AnyioBell:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = anyio.Event()

    async def wait(self) -> None:
        await self._event.wait()
