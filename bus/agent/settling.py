"""What an agent says of durable messages when it is done with them, or is not: on disk first, and then to the broker.

    ack      the record is finished in the ledger; when that is written and synced, the broker is told. Many share one commit
    nak      deliver it again, after a while
    put off  the same, of what nobody was handed, because it cannot be opened yet: why, and it does not count. Neither does what
             nobody began when its subscription is closed
    term     not again: a dead letter, with the reason. Nothing is written: an operator may have it handed out once more
    touch    it takes longer

A broker knows envelopes. Of one that brought several records nak and term wait until the others are settled too (`apart`).

An ack that is lost on the way costs a delivery, and no second handling: the ledger knows the record as finished. What else is lost
is said again by who is handed the record again.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import anyio

from bus.agent.apart import USUAL_DELAY, Apart
from bus.agent.message import Batch
from bus.errors import BusError, twin
from bus.flow.ledger import Changes, Ledger
from bus.protocol.frames import ACK, MAX_ROWS, MAX_WORD_BYTES, NAK, NOT_BEGUN, TERM, TOUCH, Frame, encode
from bus.protocol.header import Header

LONGEST_DELAY_MS: Final = 366 * 86_400_000
"""As long as anything is kept."""
_UNREADABLE: Final = re.compile(r"[^ -~]")
"""What has no place in a reason: operators read it on their terminals."""
MAX_TWICE: Final = 4_096
MAX_APART: Final = 4_096
"""Envelopes of several records that wait until something was said of each."""
Envelope = tuple[bytes, int]
"""Epoch and number."""


class LedgerStore(Protocol):
    """Where ledgers are kept: of each durable subscription of an agent one, by the agent's name and the subscription's."""

    company_seconds: float
    """How long what nobody waits for may wait for more: many cost as much to write as one."""

    async def load(self, agent: str, name: str) -> Ledger:
        """Raises VaultError: damaged, disk."""

    async def write(self, changes: Iterable[tuple[str, str, Changes]]) -> None:
        """All of it, synced when this returns. Raises VaultError: disk, disk_full; then nothing was written."""


class Place(NamedTuple):
    """Whose ledger it is, and the number of the subscription on the link."""

    agent: str
    name: str
    number: int


class Settling:
    """Of one durable subscription."""

    def __init__(self, place: Place, ledger: Ledger, writer: LedgerWriter, send: Callable[[bytes], None]) -> None:
        self.place, self.ledger = place, ledger
        self._writer, self._send = writer, send
        self._positions: dict[Envelope, int] = {}
        """Of envelopes that were handed over and are not settled; 0 where the link is gone that brought them."""
        self._twice: set[Envelope] | None = set()
        """Those that came more than once; None where there were too many to know each."""
        self._apart: dict[Envelope, Apart] = {}
        """Of envelopes of several records: those of which something else than an ack was said of one."""

    def arrived(self, header: Header, position: int) -> None:
        envelope = header.epoch, header.seq
        if envelope in self._positions and self._twice is not None:
            self._twice.add(envelope)
            if len(self._twice) > MAX_TWICE:
                self._twice = None
        self._positions[envelope] = position
        if self._apart and envelope in self._apart:
            self._apart[envelope].put_back.clear()  # they come again with this

    def came_again(self, header: Header, position: int) -> None:
        """And nobody was handed it: if it is finished and being written, it is acknowledged by this position when it is on disk."""
        if self.ledger.is_being_written(header.epoch, header.seq):
            self._positions[header.epoch, header.seq] = position

    def unfinished(self, batch: Batch) -> Sequence[int]:
        """Of the records that it brought, those that were not settled since: it may have come twice, or others with them."""
        indexes = self._not_finished(batch)
        apart = self._apart.get((batch.header.epoch, batch.header.seq)) if self._apart else None
        if apart is None:
            return indexes
        left = [index for index in indexes if index not in apart.ended]
        if not left:
            self._look_at(batch)
        return left

    def _not_finished(self, batch: Batch) -> Sequence[int]:
        header = batch.header
        if self._twice is not None and (not self._twice or (header.epoch, header.seq) not in self._twice):
            return batch.indexes
        if (header.epoch, header.seq) not in self._positions:
            return ()  # given back, or ended: the broker knows what becomes of it
        left = self.ledger.unfinished(header.epoch, header.seq, records=header.records)
        return batch.indexes if len(left) == header.records else [index for index in batch.indexes if index in left]

    async def ack(self, batch: Batch, index: int, *, confirmed: bool = False) -> None:
        header = batch.header
        self.ledger.finish(header.epoch, header.seq, (index,), records=header.records, expires_ms=batch.until_ms)
        self._writer.wake()
        if self._apart:
            self._look_at(batch)
        if confirmed:
            await self._writer.confirmed()

    async def nak(self, batch: Batch, index: int, delay: float | None) -> None:
        delay_ms = _in_ms(delay)
        if batch.header.records == 1:
            self.put_back(self._settled(batch), delay_ms)
        elif (apart := self._apart_of(batch)) is not None:
            apart.put_back[index] = delay_ms
            self._look_at(batch)

    async def term(self, batch: Batch, index: int, reason: str) -> None:
        if not isinstance(reason, str):
            raise TypeError(f"reason={reason!r}: a word or a sentence")
        if batch.header.records == 1:
            self.end(self._settled(batch), reason or "term")
        elif (apart := self._apart_of(batch)) is not None:
            apart.ended[index] = reason or "term"
            self._look_at(batch)

    async def touch(self, batch: Batch) -> None:
        header = batch.header
        position = self._positions.get((header.epoch, header.seq))
        if position:
            self._say(TOUCH, [position])

    def _settled(self, batch: Batch) -> int:
        return self._positions.pop((batch.header.epoch, batch.header.seq), 0)

    # ---- envelopes of several records ----------------------------------------------------------------------------------------

    def _apart_of(self, batch: Batch) -> Apart | None:
        """None where the broker knows already what becomes of the envelope."""
        envelope = batch.header.epoch, batch.header.seq
        if envelope not in self._positions:
            return None
        if envelope not in self._apart and len(self._apart) >= MAX_APART:
            del self._apart[next(iter(self._apart))]  # the oldest; what was ended of it may be handed over again
        return self._apart.setdefault(envelope, Apart())

    def _look_at(self, batch: Batch) -> None:
        """If something was said now of each record of this envelope, and not of all that they are finished, say it of the whole."""
        header = batch.header
        envelope = header.epoch, header.seq
        apart = self._apart.get(envelope)
        if apart is None:
            return
        left = self.ledger.unfinished(*envelope, records=header.records)
        if not apart.is_said(left):
            return
        position = self._settled(batch) if left else 0  # where nothing is left, its ack follows from the ledger
        delay_ms, reason = apart.delay_ms(left), apart.reason(left)
        if delay_ms is None or not apart.ended:
            del self._apart[envelope]
        else:
            apart.put_back.clear()
        if delay_ms is not None:
            self.put_back(position, delay_ms)
        else:
            self.end(position, reason)

    # ---- said to the broker --------------------------------------------------------------------------------------------------

    def put_back(self, position: int, delay_ms: int) -> None:
        if position:
            self._say(NAK, [position], delay_ms=delay_ms)

    def still_here(self, positions: Iterable[int]) -> None:
        """Nobody here can be handed these yet."""
        self._say(TOUCH, sorted(positions))

    def put_off(self, position: int, delay_ms: int, reason: str) -> None:
        """Nobody here was handed it."""
        self._say(NAK, [position], delay_ms=delay_ms, reason=reason)

    def not_begun(self, batches: Iterable[Batch]) -> None:
        """Nobody took any of these, and nobody will: they come to whoever is next. A second copy says nothing of the first."""
        envelopes = ((batch.header.epoch, batch.header.seq) for batch in batches)
        if self._twice is not None:
            alone = (one for one in envelopes if one not in self._apart and one not in self._twice)
            positions = {self._positions.pop(one, 0) for one in alone} - {0}
            self._say(NAK, sorted(positions), reason=NOT_BEGUN)

    def end(self, position: int, reason: str) -> None:
        if position:
            self._say(TERM, [position], reason=reason)

    def ack_again(self, position: int) -> None:
        """It was finished before, and that is on disk."""
        self._say(ACK, [position])

    def written(self, envelopes: Iterable[Envelope]) -> None:
        """These are finished, and that is on disk."""
        if self._apart:
            envelopes = [*envelopes]
            for one in envelopes:
                self._apart.pop(one, None)
        positions = (self._positions.pop(one, 0) for one in envelopes)
        self._say(ACK, sorted(position for position in positions if position))

    def _say(self, verb: int, positions: list[int], *, delay_ms: int = 0, reason: str = "") -> None:
        spans, word = _spans(positions), _UNREADABLE.sub("?", reason[:MAX_WORD_BYTES])
        for first in range(0, len(spans), MAX_ROWS):
            self._send(encode(Frame.SETTLE, self.place.number, verb, spans[first : first + MAX_ROWS], delay_ms, word))

    def lost(self) -> None:
        """The link is gone: what is not settled is delivered again, under whatever position."""
        self._apart.clear()
        self._positions = dict.fromkeys(self._positions, 0)


class LedgerWriter:
    """Writes what all ledgers of a host have to write: as much as comes while the last commit runs, and while it waits for company.

    Whoever waits for it waits for no company, and neither does an end: what was finished before it is written, also where those who
    finished it are cancelled. A crash brings again what was finished in these milliseconds, as it brings what was being written.
    """

    def __init__(self, store: LedgerStore, sync: Callable[[], Awaitable[None]], failed: Callable[[BusError], None]) -> None:
        """`sync` returns when the broker has recorded what was settled; `failed` hears of a disk that takes nothing."""
        self._store, self._sync, self._failed = store, sync, failed
        self._open: dict[Settling, None] = {}
        self._leaving: list[Settling] = []
        """Who left and could not wait for it: they go with the next round."""
        self._late: list[tuple[Settling, Changes]] = []
        """What the disk did not take: it goes first, the next time."""
        self._is_wanted = False
        self._wanted: anyio.Event | None = None
        self._is_awaited = False
        """Whether somebody waits for what is written next."""
        self._hurry: anyio.Event | None = None
        self._round: anyio.Event | None = None
        self._error: BusError | None = None
        self._begun = self._done = 0

    async def open(self, place: Place, send: Callable[[bytes], None]) -> Settling:
        """Raises VaultError."""
        if self._leaving:  # one of them may have been the same subscription
            await self.written()
        settling = Settling(place, await self._store.load(place.agent, place.name), self, send)
        self._open[settling] = None
        return settling

    async def leave(self, settling: Settling) -> None:
        """Its last acks are written, and the broker told; then it is closed."""
        if settling in self._open:
            try:
                await self.written()
            except anyio.get_cancelled_exc_class():
                self._leaving.append(settling)
                raise
            except BaseException:
                self._forget(settling)
                raise
            self._forget(settling)

    def _forget(self, settling: Settling) -> None:
        self._open.pop(settling, None)
        self._late = [one for one in self._late if one[0] is not settling]  # who opens it next reads what is on disk

    def wake(self) -> None:
        if not self._is_wanted:
            self._is_wanted = True
            if self._wanted is not None:
                self._wanted.set()

    def try_again(self) -> None:
        """To be called now and then: the disk may take again what it did not take."""
        if self._late:
            self.wake()

    async def confirmed(self) -> None:
        """Return when what is finished now is on disk here and recorded by the broker."""
        await self.written()
        await self._sync()

    async def written(self) -> None:
        """Return when what is finished now is on disk here. Raises what keeps it from being written."""
        self.wake()
        self._is_awaited = True
        if self._hurry is not None:
            self._hurry.set()
        target = self._begun + 1  # the next round takes along what is here now
        while self._done < target:
            if self._round is None:
                self._round = anyio.Event()
            await self._round.wait()
        if self._error is not None:
            raise twin(self._error)

    def forget(self, passed_ms: int) -> None:
        for settling in self._open:
            if settling.ledger.forget(passed_ms):
                self.wake()

    def lost(self) -> None:
        for settling in self._open:
            settling.lost()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._until_wanted()
                self._is_wanted = self._is_awaited = False
                self._begun += 1
                await self._write()
                self._done = self._begun
                if self._round is not None:
                    self._round.set()
                    self._round = None
        finally:
            if self._is_wanted:
                with anyio.CancelScope(shield=True):
                    await self._write()

    async def _until_wanted(self) -> None:
        """And for a while longer, where nobody waits."""
        if not self._is_wanted:
            self._wanted = anyio.Event()
            await self._wanted.wait()
            self._wanted = None
        if self._store.company_seconds and not self._is_awaited:
            self._hurry = anyio.Event()
            with anyio.move_on_after(self._store.company_seconds):
                await self._hurry.wait()
            self._hurry = None

    async def _write(self) -> None:
        leaving, self._leaving = self._leaving, []
        new = [(settling, changes) for settling in self._open if (changes := settling.ledger.changes()) is not None]
        taken, self._late = self._late + new, []
        try:
            if taken:
                await self._store.write((*one.place[:2], changes) for one, changes in taken)
            self._error = None
        except BusError as error:
            self._error, self._late = error, taken
            self._failed(error)  # nothing is acknowledged that is not written; a crash brings it again
        else:
            for settling, changes in taken:
                settling.ledger.written(changes)
                settling.written(changes.settled)
        for settling in leaving:
            self._forget(settling)


def _in_ms(delay: float | None) -> int:
    """As it travels."""
    return USUAL_DELAY if delay is None else min(int(delay * 1000), LONGEST_DELAY_MS)


def _spans(positions: list[int]) -> list[tuple[int, int]]:
    """Runs of neighbours, from ascending numbers."""
    spans: list[tuple[int, int]] = []
    for position in positions:
        if spans and position == spans[-1][1] + 1:
            spans[-1] = spans[-1][0], position
        else:
            spans.append((position, position))
    return spans
