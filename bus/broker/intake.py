"""How much one link may have done for it: a slice of work at a time, so that nobody else waits long, and so much in all.

    slice     what one read of a socket brings may be thousands of small frames; after a few dozen steps the link is paused, the
              rest waits, and the loop looks after the others first
    budget    to open topics, subscribe, ask and bring papers costs the broker much and the peer nothing; so does what is refused,
              for which no reader sets the pace, and an epoch that nobody has heard of, for which every reader asks. A link pays for
              it from an account (see `accounts`); when that is empty, it is not read until there is some again

Publishing what is admitted is paced by its readers (see `pacing`), settling by what is delivered; they need no budget. The prices
of what is refused and of new epochs are far above what they cost here: an honest host has few of either, and who has nothing else
is read ever more slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bus.broker.accounts import Account
from bus.protocol import frames as host_frames
from bus.protocol.frames import Frame
from bus.protocol.neighbour_frames import Between
from bus.transport.link import Link

SLICE: Final = 64
"""Steps of some 10 us each: who floods holds the loop for a millisecond in each of its turns, and others have theirs in between."""
REFUSED: Final = 70
"""Price of an envelope that is refused: 4,285 of them, then 71 a second."""
NEW_EPOCH: Final = 40
"""Price of the first envelope of an epoch: 7,500 of them, then 125 a second."""
DEAR_STEPS: Final = 4
"""That each of both takes of a slice."""
COSTS: Final[Mapping[int, int]] = {
    Frame.HELLO_A: 12,
    Frame.PROVE: 8,
    Frame.OPEN: 2,
    Frame.SUBSCRIBE: 8,
    Frame.UNSUBSCRIBE: 2,
    Frame.ASK: 4,
    Frame.AUTHORITY: 2,
    Between.SEATED: 25,
    Between.UNSEATED: 4,
    Between.STOP: 8,
}
"""Of frames that cost more than one step."""
SPANS: Final = 8
"""Of a SETTLE, that are one step."""
PAPERS_COST: Final = 25
"""Of each, in a frame of several: certificates and signatures are verified."""
ROW_COST: Final = 8
"""Of each, of an INTEREST."""
Parse = Callable[[bytes], list[Any]]
"""A frame into its fields; its type is the first. Raises RemoteProtocolError("malformed")."""


class Intake:
    """Of one link. `work` does one frame."""

    __slots__ = (
        "_backlog",
        "_dear",
        "_first",
        "_is_starved",
        "_is_waiting",
        "_link",
        "_parse",
        "_soon",
        "_spent",
        "_work",
        "account",
    )

    def __init__(
        self,
        link: Link,
        work: Callable[[list[Any]], None],
        soon: Callable[[], None],
        *,
        now: float,
        parse: Parse = host_frames.parse,
    ) -> None:
        """`soon`: have `go_on` called in the next turn of the loop."""
        self._link, self._work, self._soon, self._parse = link, work, soon, parse
        self._first: Callable[[], bool] | None = None
        self._backlog: list[bytes] = []
        self._is_waiting = self._is_starved = False
        self.account = Account(now=now)
        self._spent = self._dear = 0

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
        if not self._is_waiting:
            return
        if self.account.is_empty:
            self._is_starved = True
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

    def answer_to(self, account: Account) -> None:
        """It is known now whose link this is: what was done for it already is paid for as well."""
        account.pay(self._spent)
        self.account = account

    def charge(self, price: int) -> None:
        """For what is in the frame that is worked off."""
        self._dear += DEAR_STEPS
        self.account.pay(price)

    @property
    def is_spent(self) -> bool:
        """Whether it waits because its budget is used up."""
        return self._is_starved

    def tick(self, now: float) -> None:
        """The account grows; who waits for that goes on."""
        self.account.grow(now)
        if self._is_starved and not self.account.is_empty:
            self._is_starved = False
            self._soon()

    def _wake(self) -> None:
        if self.account.is_empty:
            self._is_starved = True
        else:
            self._soon()

    def _slice(self, frames: list[bytes]) -> int:
        """How many of them were done."""
        steps, parse = 0, self._parse
        for place, data in enumerate(frames):
            if steps >= SLICE or self.account.is_empty or self._first is not None:
                return place
            fields = parse(data)
            kind = fields[0]
            if kind == Frame.PUBLISH:
                steps += len(fields[3])
            elif kind == Frame.CREDIT:
                steps += 1
            elif kind == Frame.SETTLE:
                steps += 1 + len(fields[3]) // SPANS
            elif kind == Frame.DELIVER:
                steps += 1
            else:
                steps += self._pay(fields)
            self._work(fields)
            if self._dear:
                steps += self._dear
                self._dear = 0
        return len(frames)

    def _pay(self, fields: list[Any]) -> int:
        """What this frame costs, in steps."""
        kind = fields[0]
        if kind == Frame.PAPERS:
            cost = PAPERS_COST * len(fields[1])
        elif kind == Frame.INTEREST:
            cost = 1 + ROW_COST * len(fields[2])
        else:
            cost = COSTS.get(kind, 1)
        self._spent += cost
        self.account.pay(cost)
        return cost
