"""When a host may send its next turn: once the readers of this one have taken it in, or 5 ms after it came.

So what gathers on the sender's side, and makes its next turn larger, is set by its readers, and a slow one holds it up for 5 ms a
turn and no longer. What reaches a subscription that blocks and has no credit stops its lane instead (see `holding`).

Turns are credited in any order. Credits of one callback leave together, as runs of neighbours.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from bus.broker.host_link import HostLink
from bus.clock import Clock
from bus.protocol.codec import malformed
from bus.protocol.frames import MAX_TURNS_OUT, Frame

if TYPE_CHECKING:
    from bus.broker.stopping import Stoppable, Stops

TURN_SECONDS: Final = 0.005
_U32: Final = (1 << 32) - 1


@dataclass(slots=True, eq=False)
class Turn:
    host: HostLink = field(repr=False)
    number: int
    until: float
    pending: int = 0
    """Copies of its envelopes that no reader has taken in yet."""
    unstored: int = 0
    """Durable envelopes that are not on disk yet."""
    is_late: bool = False
    """Its 5 ms are over."""
    is_credited: bool = False
    held: list[tuple[Stops, Stoppable]] | None = None
    """Where its envelopes wait for credit."""

    def is_held(self, queue: Stops, lane: Stoppable) -> None:
        if self.is_late:
            queue.stop(lane)
        elif self.held is None:
            self.held = [(queue, lane)]
        else:
            self.held.append((queue, lane))


class Pacing:
    def __init__(self) -> None:
        self._out: deque[Turn] = deque()
        """In the order of their deadlines; credited ones are passed over."""
        self._due: dict[HostLink, tuple[int, int]] = {}
        """Credits that have not left yet: the first turn, and how many."""
        self._wake: anyio.Event | None = None

    def begin(self, host: HostLink, number: int, *, now: float, most: int = MAX_TURNS_OUT) -> Turn:
        """Raises RemoteProtocolError("malformed") for one that is out already, or one too many."""
        if number in host.turns or len(host.turns) >= most:
            raise malformed("a turn that is out already, or more turns than may be out")
        turn = host.turns[number] = Turn(host, number, now + TURN_SECONDS, pending=1)  # ourselves, until `begun`
        return turn

    def begun(self, turn: Turn) -> None:
        """All of its envelopes are on their way, or dropped: not before that is it credited, whatever became of the first ones."""
        turn.pending -= 1
        if not turn.pending and not turn.unstored:
            self._credit(turn)
            return
        self._out.append(turn)
        if self._wake is not None:
            self._wake.set()
            self._wake = None

    def taken_in(self, turn: Turn) -> None:
        """A reader has opened, refused or parked one of its envelopes; or it was dropped."""
        turn.pending -= 1
        if not turn.pending and not turn.unstored and not turn.is_credited:
            self._credit(turn)

    def stored(self, turn: Turn, count: int) -> None:
        """So many of its durable envelopes are on disk."""
        turn.unstored -= count
        if not turn.unstored and (turn.is_late or not turn.pending) and not turn.is_credited:
            self._credit(turn)

    def tick(self, now: float) -> None:
        """What has had its 5 ms is credited, and stops the lanes that wait for credit of their readers."""
        while self._out and (self._out[0].is_credited or self._out[0].until <= now):
            turn = self._out.popleft()
            if turn.is_credited:
                continue
            turn.is_late = True
            for queue, lane in turn.held or ():
                queue.stop(lane)
            turn.held = None
            if not turn.unstored:
                self._credit(turn)

    def flush(self) -> None:
        """What was credited since the last time leaves."""
        for host, (first, count) in self._due.items():
            host.send(Frame.CREDIT, first, count)
        self._due.clear()

    def lost(self, host: HostLink) -> None:
        for turn in host.turns.values():
            turn.is_credited = True
        host.turns.clear()
        self._due.pop(host, None)

    async def run(self, clock: Clock) -> None:
        while True:
            if not self._out:
                self._wake = wake = anyio.Event()
                await wake.wait()
                continue
            await clock.sleep(self._out[0].until - clock.monotonic())
            self.tick(clock.monotonic())
            self.flush()

    def _credit(self, turn: Turn) -> None:
        turn.is_credited = True
        turn.held = None
        host = turn.host
        del host.turns[turn.number]
        run = self._due.get(host)
        if run is not None and turn.number == (run[0] + run[1]) & _U32:
            self._due[host] = run[0], run[1] + 1
            return
        if run is not None:
            host.send(Frame.CREDIT, *run)
        self._due[host] = turn.number, 1
