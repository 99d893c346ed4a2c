"""One link, from its first hello to its end: frames come in, and each has one place where it is worked off.

    before    the greeting alone; five seconds for it
    open      a table from the type of a frame to who is told
    slices    what came at once is worked off for a millisecond, and the rest in the next turn of the loop

What breaks the protocol ends the link; everything else is between us and whoever sent the envelope.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio

from bus.agent.greeting import Greeting
from bus.clock import Clock
from bus.errors import BusError, RemoteProtocolError
from bus.protocol.codec import malformed
from bus.protocol.frames import parse
from bus.transport.link import Link
from bus.transport.soon import scheduler

SLICE_SECONDS: Final = 0.001
MAX_WAITING: Final = 256
"""Frames that wait to be worked off before the link is paused."""
Handle = Callable[..., Any]


class Conversation:
    """`opened` is called once the handshake is over, `worked` after each slice, and `failed` with an error of our own."""

    def __init__(
        self,
        link: Link,
        greeting: Greeting,
        table: Mapping[int, Handle],
        clock: Clock,
        *,
        opened: Callable[[Conversation], None],
        writable: Callable[[], None],
        worked: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.link, self.greeting = link, greeting
        self._table, self._clock = table, clock
        self._opened, self._writable, self._worked, self._failed = opened, writable, worked, failed
        self._soon = scheduler()
        self._waiting: deque[bytes] = deque()
        self._working = self._paused = False
        self.is_open = False
        self.heard = clock.monotonic()
        """When the last frame came."""
        self.error: BusError | None = None
        self.over = anyio.Event()
        self.greeted = anyio.Event()

    def start(self) -> None:
        self.link.start(self._frames, self._lost, self._writable)
        self.link.send(self.greeting.begin())

    @property
    def is_behind(self) -> bool:
        """Whether more has come than one slice could work off."""
        return self._working

    def close(self, error: BusError | None = None, *, flush: bool = True) -> None:
        if self.error is None:
            self.error = error
        self.link.close(flush=flush)

    # ---- what the link says --------------------------------------------------------------------------------------------------

    def _frames(self, frames: list[bytes]) -> None:
        self._waiting.extend(frames)
        if not self._working:
            self._work()

    def _work(self) -> None:
        self._working = False
        if self.over.is_set():
            return
        now = self.heard = self._clock.monotonic()
        waiting, until = self._waiting, now + SLICE_SECONDS
        try:
            while waiting:
                self._frame(parse(waiting.popleft()))
                if waiting and self._clock.monotonic() > until:
                    self._working = True
                    self._soon(self._work)
                    break
        except BusError as error:
            self.close(error)
            return
        except Exception as error:  # noqa: BLE001  an error of our own: the host ends with it
            self._failed(error)
            return
        self._worked()
        self._pace()

    def _pace(self) -> None:
        if len(self._waiting) > MAX_WAITING and not self._paused:
            self._paused = True
            self.link.pause()
        elif self._paused and not self._waiting:
            self._paused = False
            self.link.resume()

    def _frame(self, frame: list[Any]) -> None:
        if not self.is_open:
            answer = self.greeting.take(frame)
            if answer is not None:
                self.link.send(answer)
            if self.greeting.is_open:
                self.is_open = True
                self._opened(self)
                self.greeted.set()
            return
        handle = self._table.get(frame[0])
        if handle is None:
            raise malformed("a frame that no broker sends")
        handle(*frame[1:])

    def _lost(self, error: BusError) -> None:
        if self.error is None:
            self.error = error
        self.over.set()
        self.greeted.set()

    @property
    def is_protocol_fault(self) -> bool:
        return isinstance(self.error, RemoteProtocolError)
