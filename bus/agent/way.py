"""A way to the broker: what shares a window of turns, so that what has to wait for a disk holds up nothing else.

    live    its turns come back as soon as readers have taken them in, which is a moment
    kept    its turns come back when they are on disk

With one window for both, a few stored records a second would make everything that is said live wait for the disk. What is sealed,
and what grants it needs, wait here until a turn takes them along: grants first, because what they open comes right behind them.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from bus.agent.lane import Lane
from bus.agent.sealing_turns import Sent
from bus.flow.rounds import Rounds
from bus.flow.turn_window import TurnWindow
from bus.protocol.frames import MAX_ROWS

TURN_BYTES: Final = 256 << 10
"""One whole envelope, or those of two lanes. Four of one lane cost an eighth less for a record, and get through fewer a second."""
MOST_TURN_BYTES: Final = 1 << 20
_HALF_OF_ROWS: Final = MAX_ROWS // 2
ENOUGH_RECORDS: Final = 64
ENOUGH_BYTES: Final = 32 << 10
"""Of a lane: more in an envelope hardly makes a record cheaper."""


class Way:
    def __init__(self) -> None:
        self.rounds: Rounds[Lane] = Rounds()
        """Lanes that have something."""
        self.window = TurnWindow()
        self.sealed: deque[Sent] = deque()
        self._sealed_bytes = 0
        self._grants: deque[tuple[int, bytes]] = deque()
        self._grant_bytes = 0

    @property
    def has_something(self) -> bool:
        return bool(self.rounds or self.sealed or self._grants)

    @property
    def is_pressing(self) -> bool:
        """Whether something must not gather any longer: a grant, what is sealed or urgent, enough for an envelope."""
        return bool(self._grants or self.sealed) or self.rounds.has_urgent or self.rounds.any_other(_has_enough)

    @property
    def may_seal(self) -> bool:
        """Whether more may be sealed: not while what is sealed fills a turn."""
        return self._sealed_bytes < TURN_BYTES and len(self.sealed) < _HALF_OF_ROWS

    @property
    def may_grant(self) -> bool:
        """Whether somebody who asked may be answered now, or has to ask again."""
        return self._grant_bytes <= MOST_TURN_BYTES

    @property
    def has_a_turn_of_grants(self) -> bool:
        """Whether they go alone: there are many of them, or what is sealed next leaves no room."""
        if self._grants and self.sealed and len(self.sealed[0].envelope) > self._room_beside_grants:
            return True
        return self._grant_bytes > TURN_BYTES or len(self._grants) > _HALF_OF_ROWS

    @property
    def _room_beside_grants(self) -> int:
        return MOST_TURN_BYTES - self._grant_bytes

    def grant(self, alias: int, envelope: bytes) -> None:
        self._grants.append((alias, envelope))
        self._grant_bytes += len(envelope)

    def seal(self, sent: Sent) -> None:
        self.sealed.append(sent)
        self._sealed_bytes += len(sent.envelope)

    def take_grants(self) -> list[tuple[int, bytes]]:
        """As many as go into a turn: alias and envelope of each."""
        taken: list[tuple[int, bytes]] = []
        size = 0
        while self._grants and size < TURN_BYTES and len(taken) < _HALF_OF_ROWS:
            taken.append(self._grants.popleft())
            size += len(taken[-1][1])
        self._grant_bytes -= size
        return taken

    def take_sealed(self) -> list[Sent]:
        """As many as go into a turn, beside the grants: the whole fits into a frame."""
        taken: list[Sent] = []
        size, room = 0, self._room_beside_grants
        while self.sealed and len(taken) < _HALF_OF_ROWS:
            more = len(self.sealed[0].envelope)
            if taken and size + more > room:
                break
            taken.append(self.sealed.popleft())
            size += more
        self._sealed_bytes -= size
        return taken


def _has_enough(lane: Lane) -> bool:
    waiting = lane.waiting
    return len(waiting.payloads) >= ENOUGH_RECORDS or waiting.size_bytes >= ENOUGH_BYTES
