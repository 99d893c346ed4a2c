"""What waits for its agent's identity key: while the TPM signs, what comes gathers, and goes to it as one request.

    sign      drafted: numbered, packed, hashed; the lane's next request takes it along. That needs no room on the way to a broker,
              so it goes on while turns are full or readers are behind
    asked     one request of a lane is out at a time. When its answer is here the next one leaves first, and then what was signed is
              sealed, so that the TPM does not wait for that
    sealed    envelope after envelope, in the order in which they were drafted, and only as turns take along what is sealed and
              readers keep up: what others say in this process never stands behind all of them

However much gathers, an answer holds one signature and one path for each envelope: what an operation of the TPM costs is shared by
all records under it. How much that may be is the lane's bound (`MOST_SIGNING`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint

from bus.agent.lane import MOST_SIGNING, Lane
from bus.agent.sealing_turns import Drafted, Part, SealingTurns, Sent
from bus.errors import BusError, twin
from bus.flow.waiting import Taken
from bus.protocol.proof import Proof

ENOUGH: Final = MOST_SIGNING // 2
"""Whole envelopes for one request: 8,192 records of 256 bytes. As many more gather meanwhile."""
QUIET_STEPS: Final = 4
"""Of the loop in which no whole envelope came: then whoever published waits, or has nothing more. There is no timer."""
Start = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
"""Starts something in the host's task group."""


class IdentityTurns:
    def __init__(
        self,
        sealing: SealingTurns,
        start: Start,
        *,
        sealed: Callable[[Sent], None],
        failed: Callable[[Lane, Taken, BusError], None],
        settled: Callable[[Lane], None],
        may_seal: Callable[[Lane], bool],
    ) -> None:
        """`settled`: something of this lane was sealed, or failed. `may_seal`: turns and readers have taken most of what was."""
        self._sealing, self._start = sealing, start
        self._sealed, self._failed, self._settled, self._may_seal = sealed, failed, settled, may_seal
        self._sent: anyio.Event | None = None
        """Where somebody waits for that."""
        self._gathered: dict[Lane, list[Drafted]] = {}
        """Of lanes that have a request out, or are about to, what the next one takes along."""
        self._last: dict[Lane, anyio.Event] = {}
        """What of a lane was asked for last: set when it is sealed, or has failed."""
        self.signing = 0
        """Envelopes, of all lanes."""

    def may_go_on(self) -> None:
        """A turn has left, or readers have caught up: there may be room for what is signed."""
        if self._sent is not None:
            self._sent.set()
            self._sent = None

    def sign(self, part: Part, now_ms: int) -> None:
        """What the lane sends next."""
        lane = part.lane
        try:
            drafted = self._sealing.drafted(part, now_ms)
        except BusError as error:
            self._failed(lane, part.taken, error)
            self._settled(lane)
            return
        self._count(drafted, 1)
        if lane in self._gathered:
            self._gathered[lane].append(drafted)
        else:
            self._gathered[lane] = [drafted]
            self._start(partial(self._ask, lane))

    async def _ask(self, lane: Lane) -> None:
        these, done = deque[Drafted](), anyio.Event()
        try:
            await self._gather(lane)
            these += self._gathered[lane]
            self._gathered[lane] = []
            before, self._last[lane] = self._last.get(lane), done
            outcome = await self._outcome(lane, these)
            if self._gathered[lane]:
                self._start(partial(self._ask, lane))
                await checkpoint()  # it leaves
            else:
                del self._gathered[lane]
            if before is not None:
                await before.wait()
            await self._end(lane, these, outcome)
        except BaseException:  # the host ends
            these += self._gathered.pop(lane, [])
            raise
        finally:
            while these:
                self._forget(these.popleft())
            done.set()
            if self._last.get(lane) is done:
                del self._last[lane]
            self._settled(lane)

    async def _gather(self, lane: Lane) -> None:
        """Where whole envelopes come one after the other, each step of the loop may bring more; then the rest goes along."""
        gathered = self._gathered[lane]
        quiet = 0
        while quiet < QUIET_STEPS and len(gathered) < ENOUGH and gathered[-1].is_whole:
            before = len(gathered)
            await checkpoint()
            quiet = quiet + 1 if len(gathered) == before else 0
            if quiet == QUIET_STEPS // 2:
                lane.takes_rest = True
                self._settled(lane)
        lane.takes_rest = False

    async def _outcome(self, lane: Lane, these: Collection[Drafted]) -> list[list[Proof]] | BusError:
        try:
            return await self._sealing.signed(lane, these)
        except BusError as error:
            return error

    async def _end(self, lane: Lane, these: deque[Drafted], outcome: list[list[Proof]] | BusError) -> None:
        """One after the other, those that end leaving `these`."""
        for proofs in [outcome] * len(these) if isinstance(outcome, BusError) else outcome:
            while not (isinstance(proofs, BusError) or self._may_seal(lane)):
                if self._sent is None:
                    self._sent = anyio.Event()
                self._settled(lane)
                await self._sent.wait()
            self._end_one(lane, these[0], proofs)
            self._forget(these.popleft())

    def _end_one(self, lane: Lane, drafted: Drafted, proofs: Sequence[Proof] | BusError) -> None:
        """Sealed, or failed."""
        try:
            if isinstance(proofs, BusError):
                raise twin(proofs)
            for sent in drafted.sealed(proofs):
                self._sealed(sent)
        except BusError as error:
            self._failed(lane, drafted.part.taken, lane.trouble or error)  # of an agent that has ended meanwhile: with what

    def _forget(self, drafted: Drafted) -> None:
        drafted.give_up()
        self._count(drafted, -1)

    def _count(self, drafted: Drafted, sign: int) -> None:
        lane = drafted.part.lane
        lane.signing += sign
        lane.signing_bytes += sign * drafted.part.taken.size_bytes
        self.signing += sign
