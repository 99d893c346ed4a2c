"""How much one link may have done for it: a slice of work at a time, so that nobody else waits long, and so much in all.

    slice     what one read of a socket brings may be thousands of small frames; after a few dozen steps the link is paused, the
              rest waits, and the loop looks after the others first
    budget    to open topics, subscribe, ask and bring papers costs the broker much and the peer nothing. Each link has a stock of
              it that serves any honest beginning and grows slowly; a link that has used it up is not read until it has some again

Publishing is paced by its readers (see `pacing`), settling by what is delivered; they need no budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bus.protocol.frames import Frame, parse
from bus.transport.link import Link

SLICE: Final = 64
"""Steps of some 10 us each: who floods holds the loop for a millisecond in each of its turns, and others have theirs in between."""
STOCK: Final = 150_000
RATE: Final = 5_000
"""Steps of budget a second: a twentieth of a processor."""
COSTS: Final[Mapping[int, int]] = {
    Frame.HELLO_A: 12,
    Frame.PROVE: 8,
    Frame.OPEN: 2,
    Frame.SUBSCRIBE: 8,
    Frame.UNSUBSCRIBE: 2,
    Frame.ASK: 2,
    Frame.AUTHORITY: 2,
}
"""Of frames that cost more than one step."""
SPANS: Final = 8
"""Of a SETTLE, that are one step."""
PAPERS_COST: Final = 25
"""Of each, in a frame of several: certificates and signatures are verified."""


class Intake:
    """Of one link. `work` does one frame."""

    __slots__ = ("_backlog", "_first", "_is_waiting", "_link", "_now", "_soon", "_stock", "_work")

    def __init__(self, link: Link, work: Callable[[list[Any]], None], soon: Callable[[], None], *, now: float) -> None:
        """`soon`: have `go_on` called in the next turn of the loop."""
        self._link, self._work, self._soon = link, work, soon
        self._first: Callable[[], bool] | None = None
        self._backlog: list[bytes] = []
        self._is_waiting = False
        self._stock, self._now = STOCK, now

    def take(self, frames: list[bytes]) -> None:
        """What has come. Raises what `work` does."""
        if self._is_waiting:
            self._backlog += frames
            return
        done = self._slice(frames)
        if done < len(frames) or self._first is not None:
            self._backlog = frames[done:]
            self._is_waiting = True
            self._link.pause()
            self._wake()

    def go_on(self) -> None:
        """With what waits. Raises what `work` does."""
        if not self._is_waiting or self._stock < 0:
            return
        if self._first is not None and not self._first():
            self._soon()
            return
        self._first = None
        done = self._slice(self._backlog)
        self._backlog = self._backlog[done:]
        if self._backlog or self._first is not None:
            self._wake()
        else:
            self._is_waiting = False
            self._link.resume()

    def do_first(self, piece: Callable[[], bool]) -> None:
        """Before any other frame: call this once in each turn of the loop, until it says that it is done."""
        self._first = piece

    @property
    def is_spent(self) -> bool:
        """Whether it has used up its budget."""
        return self._stock < 0

    def tick(self, now: float) -> None:
        """The stock grows; who has some again goes on."""
        grown = int((now - self._now) * RATE)
        if grown:
            self._now = now
            was_empty = self._stock < 0
            self._stock = min(STOCK, self._stock + grown)
            if was_empty:
                self._wake()

    def _wake(self) -> None:
        if self._stock >= 0:
            self._soon()

    def _slice(self, frames: list[bytes]) -> int:
        """How many of them were done."""
        steps = 0
        for place, data in enumerate(frames):
            if steps >= SLICE or self._stock < 0 or self._first is not None:
                return place
            fields = parse(data)
            kind = fields[0]
            if kind == Frame.PUBLISH:
                steps += len(fields[3])
            elif kind == Frame.CREDIT:
                steps += 1
            elif kind == Frame.SETTLE:
                steps += 1 + len(fields[3]) // SPANS
            else:
                steps += self._pay(fields)
            self._work(fields)
        return len(frames)

    def _pay(self, fields: list[Any]) -> int:
        """What this frame costs, in steps."""
        cost = PAPERS_COST * len(fields[1]) if fields[0] == Frame.PAPERS else COSTS.get(fields[0], 1)
        self._stock -= cost
        return cost
