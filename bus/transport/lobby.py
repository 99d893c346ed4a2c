"""Who came to a door and has not said a word. Nothing is made for them but a socket: no link, no task, no timer of their own.

One epoll looks after all of them, which the event loop sees as one descriptor, and one timer, because whoever came first has to go
first. So thousands who say nothing cost little, and whoever speaks is let in at once. Where there are too many, the oldest has to
go: an honest one speaks in milliseconds, so it is not among the oldest for long.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel

MOST: Final = 1_024


class Lobby:
    """Of one door. A socket in it is the lobby's, until it is given back: as one that spoke, or as one that has to go."""

    def __init__(self, *, seconds: float) -> None:
        """`seconds`: for the first word."""
        self._seconds = seconds
        self._epoll = select.epoll()
        self._silent: dict[int, tuple[socket.socket, float]] = {}
        """By descriptor, with when it came; the oldest first."""
        self._somebody = anyio.Event()

    def __len__(self) -> int:
        return len(self._silent)

    def enter(self, caller: socket.socket) -> socket.socket | None:
        """Who has to go for it, if anybody has."""
        self._epoll.register(caller, select.EPOLLIN)
        self._silent[caller.fileno()] = caller, anyio.current_time()
        self._somebody.set()
        return self._leave(next(iter(self._silent)))[0] if len(self._silent) > MOST else None

    async def spoken(self) -> tuple[socket.socket, float]:
        """The next who said something, or hung up, and for how long it was silent; one in each turn of the loop. Waits for it."""
        await anyio.lowlevel.checkpoint()
        while not (ready := self._epoll.poll(0, 1)):
            await anyio.wait_readable(self._epoll)
        caller, came = self._leave(ready[0][0])
        return caller, anyio.current_time() - came

    async def late(self) -> socket.socket:
        """The next whose time is over; one in each turn of the loop, because who came as a crowd would go as one. Waits for it."""
        await anyio.lowlevel.checkpoint()
        while True:
            if not self._silent:
                self._somebody = anyio.Event()
                await self._somebody.wait()
                continue  # it may have spoken meanwhile
            number, (_, came) = next(iter(self._silent.items()))
            left = came + self._seconds - anyio.current_time()
            if left <= 0:
                return self._leave(number)[0]
            await anyio.sleep(left)

    def close(self, let_go: Callable[[socket.socket], None]) -> None:
        """The door is shut: each who is still here goes."""
        for number in [*self._silent]:
            let_go(self._leave(number)[0])
        self._epoll.close()

    def _leave(self, number: int) -> tuple[socket.socket, float]:
        self._epoll.unregister(number)
        return self._silent.pop(number)
