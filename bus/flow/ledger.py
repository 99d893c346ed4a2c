"""No finished record of a durable subscription is handed over again, and every unfinished one can be: the ledger.

A broker delivers durable envelopes again after a nak, a lost ack, a crash, and a dishonest one whenever it likes. A window of
numbers would refuse the first and an exception for durable topics would let the second pass. So a subscription writes down which
records it finished, before it acknowledges them, and keeps that until nobody could accept them any more.

    finish     a handler is done with records                           in memory; nothing is acknowledged yet
    changes    what to write, as a plain value                          the shell writes it in one transaction, and syncs
    written    it is on disk: `settled` of the changes may be acked     not before, or a crash between the two forgets

`decide` says what an envelope that arrives means: records to hand over, or an ack again in silence, or neither, when its records
are finished and being written (its ack follows by itself). Rows go to disk in the order in which they were taken; what was not
written is not lost, but handed over again.

What is forgotten is forgotten by an instant that is known to have passed, never by a clock: `TrustMemory.passed_ms`, after its
`keep_clock`. A clock that is ahead and then right again would bring back what was finished. The mark on disk may be a minute behind
after a crash; so much longer than until its expiry everything is kept.

A finished record is the number seq * 1,024 + index; runs of them merge. An envelope that is wholly finished fills all its 1,024,
so that it joins its neighbours whatever its size. One ledger belongs to one durable subscription of one agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from bus.errors import VerificationError
from bus.flow.runs import Runs
from bus.protocol.expiry import Expiry
from bus.protocol.header import EPOCH_ID_BYTES, MAX_RECORDS, MAX_SEQ
from bus.protocol.skew import SKEW_MS

RUN_BYTES: Final = 64
"""What a row takes on disk; a run takes a quarter of that in memory."""
EPOCH_BYTES: Final = 512
MAX_BYTES: Final = 64 << 20

_SLOT: Final = MAX_RECORDS
"""Numbers that each envelope has for its records."""


class Verdict(NamedTuple):
    """What to do with an envelope that arrived."""

    unfinished: tuple[int, ...]
    """Records to hand over, by index."""
    redelivered: bool
    """Others of it were finished before."""
    done: bool
    """All of it is finished, and on disk: acknowledge it again in silence."""


_ONE: Final = Verdict((0,), redelivered=False, done=False)


class Row(NamedTuple):
    """One run, as it is stored. (epoch, start) is its key."""

    epoch: bytes
    start: int
    end: int
    until_ms: int


class Changes(NamedTuple):
    """What to write in one transaction, in this order: forget these epochs, drop these rows, put those. Twice does no harm."""

    forget: tuple[bytes, ...]
    drop: tuple[tuple[bytes, int], ...]
    put: tuple[Row, ...]
    settled: tuple[tuple[bytes, int], ...]
    """(epoch, seq) of the envelopes that may be acknowledged once this is written."""


class Ledger:
    __slots__ = ("_changed", "_expiry", "_forgotten", "_run_count", "_runs", "_settled", "_unwritten", "max_bytes")

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._runs: dict[bytes, Runs] = {}
        self._run_count = 0
        self._expiry = Expiry()
        self._changed: set[tuple[bytes, int]] = set()
        self._forgotten: list[bytes] = []
        self._settled: list[tuple[bytes, int]] = []
        self._unwritten: set[tuple[bytes, int]] = set()

    @classmethod
    def load(cls, rows: Iterable[Row], *, max_bytes: int = MAX_BYTES) -> Ledger:
        """The ledger that wrote these rows. Raises ValueError for a row that none wrote."""
        ledger = cls(max_bytes=max_bytes)
        for epoch, start, end, until_ms in rows:
            if not (len(epoch) == EPOCH_ID_BYTES and 0 <= start < end <= (MAX_SEQ + 1) * _SLOT and until_ms >= 0):
                raise ValueError(f"no ledger wrote the row of epoch {epoch.hex()} from {start} to {end}, kept until {until_ms}")
            ledger._add(epoch, start, end, until_ms=until_ms)
        return ledger

    @property
    def size_bytes(self) -> int:
        """What it is charged with against its bound."""
        return self._run_count * RUN_BYTES + len(self._runs) * EPOCH_BYTES

    def rows(self) -> list[Row]:
        """All of it, as it is stored when all changes are written."""
        return [Row(epoch, *run, self._expiry.until_ms(epoch)) for epoch, runs in self._runs.items() for run in runs]

    def decide(self, epoch: bytes, seq: int, *, records: int) -> Verdict:
        """What this envelope means. Raises VerificationError("ledger_full") if there is no room for what it would add.

        Room is looked at here, before a handler runs: what was handed over is always written, so the bound may be exceeded by
        one run for each record that is in a handler's hands.
        """
        start = seq * _SLOT
        runs = self._runs.get(epoch)
        missing = range(start, start + records) if runs is None or runs.ends_by(start) else runs.missing(start, start + records)
        if not missing:
            return Verdict((), redelivered=True, done=(epoch, seq) not in self._unwritten)
        if self.size_bytes >= self.max_bytes:
            raise VerificationError(
                "ledger_full", detail=f"{self.size_bytes} bytes of finished records are kept: the limit is reached"
            )
        if records == 1:
            return _ONE
        return Verdict(tuple(number - start for number in missing), redelivered=len(missing) < records, done=False)

    def is_being_written(self, epoch: bytes, seq: int) -> bool:
        """Whether all of this envelope is finished, and that is not on disk yet."""
        return (epoch, seq) in self._unwritten

    def unfinished(self, epoch: bytes, seq: int, *, records: int) -> frozenset[int]:
        """The records of this envelope, which was decided on before, that are not finished now."""
        start = seq * _SLOT
        return frozenset(number - start for number in self._missing(epoch, start, records))

    def finish(self, epoch: bytes, seq: int, indexes: Iterable[int], *, records: int, expires_ms: int) -> None:
        """These records of an envelope that has so many are finished. Those that were so already change nothing."""
        start, until_ms = seq * _SLOT, expires_ms + SKEW_MS
        if records == 1 and indexes == (0,) and self._finish_next(epoch, seq, start, until_ms):
            return
        done = [*indexes]
        if not all(0 <= index < records for index in done):
            raise ValueError(f"an envelope of {records} records has no others than 0 to {records - 1}")
        missing = self._missing(epoch, start, records)
        finished = set(missing).intersection(start + index for index in done) if records > 1 else missing[: len(done)]
        if len(finished) == len(missing) > 0:
            self._change(epoch, start, start + _SLOT, until_ms=until_ms)
            self._settled.append((epoch, seq))
            self._unwritten.add((epoch, seq))
        else:
            for number in sorted(finished):
                self._change(epoch, number, number + 1, until_ms=until_ms)

    def _finish_next(self, epoch: bytes, seq: int, start: int, until_ms: int) -> bool:
        """The whole of the one after the last that is finished, which is what mostly happens: whether it is that."""
        runs = self._runs.get(epoch)
        if runs is None or (begin := runs.follow(start, start + _SLOT)) is None:
            return False
        self._changed.add((epoch, begin))
        self._expiry.keep(epoch, until_ms=until_ms)
        self._settled.append((epoch, seq))
        self._unwritten.add((epoch, seq))
        return True

    def changes(self) -> Changes | None:
        """What is to be written since the last time; None if nothing is. Whoever takes it writes it, or tries again."""
        if not (self._changed or self._forgotten or self._settled):
            return None
        drop, put = [], []
        for epoch, start in sorted(self._changed):
            end = self._runs[epoch].end_of(start)
            if end is None:
                drop.append((epoch, start))
            else:
                put.append(Row(epoch, start, end, self._expiry.until_ms(epoch)))
        changes = Changes(tuple(self._forgotten), tuple(drop), tuple(put), tuple(self._settled))
        self._changed, self._forgotten, self._settled = set(), [], []
        return changes

    def written(self, changes: Changes) -> None:
        """These are on disk, and so are all that were taken before."""
        self._unwritten.difference_update(changes.settled)

    def forget(self, passed_ms: int) -> int:
        """Let go of epochs of which nothing can be accepted any more; how many. Their rows go with the next changes.

        `passed_ms`: nothing is judged by an earlier instant from now on, also after a restart.
        """
        expired = self._expiry.take_expired(passed_ms)
        for epoch in expired:
            self._run_count -= len(self._runs.pop(epoch))
        if expired:
            self._forgotten += expired
            self._changed = {key for key in self._changed if key[0] in self._runs}
        return len(expired)

    def _missing(self, epoch: bytes, start: int, records: int) -> Sequence[int]:
        runs = self._runs.get(epoch)
        return range(start, start + records) if runs is None else runs.missing(start, start + records)

    def _change(self, epoch: bytes, start: int, end: int, *, until_ms: int) -> None:
        self._changed.update((epoch, begin) for begin in self._add(epoch, start, end, until_ms=until_ms))

    def _add(self, epoch: bytes, start: int, end: int, *, until_ms: int) -> tuple[int, ...]:
        runs = self._runs.get(epoch)
        if runs is None:
            runs = self._runs[epoch] = Runs()
        before = len(runs)
        starts = runs.add(start, end)
        self._run_count += len(runs) - before
        self._expiry.keep(epoch, until_ms=until_ms)
        return starts
