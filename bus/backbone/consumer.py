"""One consumer of a local backbone, open or not: where it is in its class, what is unsettled, and how it hands out.

What is new is read from memory where the consumer follows the head, and from storage where it is behind. The hot path is
`_hand_out`: for each record a look at what its topic means to the pattern, its expiry, and a tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final, Protocol

from bus.backbone.class_log import ClassLog
from bus.backbone.interface import DEAD, LEAST_PUT_OFF_MS, MAX_OUTSTANDING, ConsumerFacts, ConsumerName, Delivery, PutOff, Span
from bus.backbone.open_consumer import OpenConsumer, by_last
from bus.backbone.storage import Block, ConsumerRow, Storage
from bus.backbone.tally import Tally
from bus.clock import Clock
from bus.errors import BusError, ClosedError, twin
from bus.flow.redelivery import put_off_seconds
from bus.flow.start import parse_start
from bus.flow.unsettled import Given, Kept, Unsettled, Written
from bus.protocol.codec import pack, unpack
from bus.protocol.frames import NOT_BEGUN
from bus.protocol.topics import matches

_MAX_TOPICS: Final = 4_096
"""Topics of which a consumer knows whether it wants them; a full table starts anew."""
MAX_DELAY_MS: Final = 86_400_000
"""A nak's; and what a clock that was set back can add to it."""
MAX_KEPT: Final = 65_536
"""Unsettled records of one consumer, those that a start at `last` found included."""


class Owner(Protocol):
    """What a consumer tells its backbone, and asks it."""

    @property
    def passed_ms(self) -> int:
        """The latest instant that is known to have passed: what ended before it is not handed out."""

    def gave_up(self, consumer: LocalConsumer, given: Sequence[Given], reason: str) -> None: ...

    def changed(self, consumer: LocalConsumer) -> None: ...

    async def settled(self, consumer: LocalConsumer) -> None: ...

    async def closed(self, consumer: LocalConsumer) -> None: ...

    def is_dead_letter(self, class_: str, position: int) -> bool: ...


class _Wanted(dict[str, bool]):
    """Topic -> whether the pattern matches it."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = pattern

    def __missing__(self, topic: str) -> bool:
        if len(self) >= _MAX_TOPICS:
            self.clear()
        wanted = self[topic] = matches(self._pattern, topic)
        return wanted


class LocalConsumer(OpenConsumer):
    """Implements `interface.Consumer`."""

    def __init__(
        self, row: ConsumerRow, log: ClassLog, storage: Storage, clock: Clock, tally: Tally, *, owner: Owner, kept: bool = True
    ) -> None:
        self.row = row
        self.log = log
        self.kept = kept
        """Whether it stays when it is closed."""
        super().__init__(ClosedError(f"the consumer {row.name} is not open"))
        self._storage, self._clock, self._tally = storage, clock, tally
        self._owner = owner
        self.reads_dead = row.pattern.startswith(DEAD)
        self._wanted = _Wanted(row.pattern)
        self._cursor = max(row.cursor, _first_wanted(row.start))
        """The next position to be looked at."""
        self._behind: list[Block] = []
        """Read from storage, not all handed out."""
        written, settings = _read_state(row.state, clock), log.settings
        self.unsettled = Unsettled(ack_wait=settings.ack_wait_ms / 1000, max_deliver=settings.max_deliver, written=written)

    # ---- what it is ------------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> ConsumerName:
        return self.row.name

    @property
    def class_(self) -> str:
        return self.row.class_

    @property
    def pattern(self) -> str:
        return self.row.pattern

    def facts(self) -> ConsumerFacts:
        out = self.unsettled.out
        return ConsumerFacts(
            name=self.name,
            class_=self.class_,
            pattern=self.pattern,
            start=self.row.start,
            made_ms=self.row.made_ms,
            used_ms=self.row.used_ms,
            is_open=self.error is None,
            floor=self.floor,
            behind=max(0, self.log.head + 1 - self._cursor),
            outstanding=out,
            waiting=len(self.unsettled) - out,
        )

    def as_row(self) -> ConsumerRow:
        """As it is now, to be stored."""
        now_ms = self._clock.now_ms()
        used_ms = now_ms if self.error is None else self.row.used_ms
        state = write_state(self.unsettled.written(), now=self._clock.monotonic(), now_ms=now_ms)
        self.row = self.row._replace(used_ms=used_ms, cursor=min(self._cursor, self.log.head + 1), state=state)
        return self.row

    @property
    def floor(self) -> int:
        """All that it asks for at or below this position is settled."""
        return self.unsettled.floor(self._cursor)

    @property
    def moved(self) -> bool:
        """Whether it has read on since it was last written down."""
        return min(self._cursor, self.log.head + 1) > self.row.cursor

    # ---- open and closed -------------------------------------------------------------------------------------------------------

    def open(self, *, allowed: int) -> None:
        self.error = None
        self._allowed = allowed
        self._give_up([*self.unsettled.release(), *self.unsettled.advance(self._clock.monotonic())])

    def close(self, error: BusError) -> None:
        """Nothing more is handed out; who waits hears why."""
        self.error = error
        self.row = self.row._replace(used_ms=self._clock.now_ms())
        self._behind = []
        self._wake()

    async def aclose(self) -> None:
        if self.error is None:
            self.close(ClosedError(f"the consumer {self.name} was closed"))
            await self._owner.closed(self)

    def follow(self) -> None:
        """Policy may have changed."""
        settings = self.log.settings
        self.unsettled.follow(ack_wait=settings.ack_wait_ms / 1000, max_deliver=settings.max_deliver)

    # ---- handing out -----------------------------------------------------------------------------------------------------------

    def stored(self, block: Block, topics: frozenset[str]) -> None:
        """This is new in its class. Who waits at the head passes over what it does not want without waking."""
        if self._arrived is None or any(self._wanted[topic] for topic in topics):
            self._wake()
        elif self._cursor == block.first:
            self._cursor = block.last + 1

    def ring(self, now: float) -> None:
        """The alarm: something may be due."""
        due = self.unsettled.next_due()
        if due is not None and due <= now:
            self._give_up(self.unsettled.advance(now))
            if self.unsettled.has_ready:
                self._wake()

    async def _take_some(self) -> list[Delivery] | None:
        taken = await self._taken()
        self._tally.handed_out += len(taken)
        return taken or None

    async def _taken(self) -> list[Delivery]:
        now = self._clock.monotonic()
        self._give_up(self.unsettled.advance(now))
        while self._allowed > 0:
            if self.unsettled.has_ready:
                if again := await self._hand_out_again(min(self._allowed, MAX_OUTSTANDING), now):
                    return again
                continue
            free = min(self._allowed, MAX_OUTSTANDING - len(self.unsettled))
            if free <= 0 or self._cursor > self.log.head:
                break
            if new := self._hand_out(await self._next_block(), free, now):
                return new
        return []

    async def _hand_out_again(self, free: int, now: float) -> list[Delivery]:
        ready = self.unsettled.take_ready(free, now)
        self._allowed -= len(ready)
        try:
            records = await self.log.fetch(position for position, _ in ready)
        except BaseException:
            for position, times in ready:
                self.unsettled.expect(position, deliveries=times - 1)
            self._allowed += len(ready)
            raise
        passed_ms = self._owner.passed_ms
        deliveries: list[Delivery] = []
        for position, times in ready:
            record = records.get(position)
            if record is not None and record.expires_ms > passed_ms and self._is_wanted(record.topic, position):
                deliveries.append(Delivery(position, times, record.topic, record.envelope))
            elif position in self.unsettled:
                self._expired(position)
        self._tally.redelivered += sum(delivery.deliveries > 1 for delivery in deliveries)
        self._allowed += len(ready) - len(deliveries)
        return deliveries

    async def _next_block(self) -> Block | None:
        """Where the cursor is, or what comes next. Not None, unless all of it is gone."""
        block = self.log.recent(self._cursor)
        if block is not None:
            self._behind = []
            return block
        while self._behind and self._behind[0].last < self._cursor:
            del self._behind[0]
        if not self._behind:
            self._behind = await self._storage.read(self.class_, self._cursor)
        return self._behind[0] if self._behind else None

    def _hand_out(self, block: Block | None, free: int, now: float) -> list[Delivery]:
        if block is None or block.first > self.log.head:
            self._cursor = self.log.head + 1
            return []
        position = self._cursor = max(self._cursor, block.first)
        start = position - block.first
        if self.reads_dead:
            return self._hand_out_dead(block, start)
        wanted, passed_ms = self._wanted, self._owner.passed_ms
        deliveries: list[Delivery] = []
        for _, topic, _, _, expires_ms, envelope in islice(block.entries, start, None):
            if wanted[topic]:
                if expires_ms > passed_ms:
                    deliveries.append(Delivery(position, 1, topic, envelope))
                    if len(deliveries) == free:
                        position += 1
                        break
                else:
                    self._tally.expired += 1
            position += 1
        self._cursor = position
        self.unsettled.hand_out([delivery.position for delivery in deliveries], now)
        self._allowed -= len(deliveries)
        return deliveries

    def _hand_out_dead(self, block: Block, start: int) -> list[Delivery]:
        """Dead letters may be gone: one after the other is asked for, and becomes ready."""
        for position, entry in enumerate(islice(block.entries, start, None), block.first + start):
            self._cursor = position + 1
            if self._is_wanted(entry.topic, position):
                self.unsettled.expect(position, deliveries=0)
                if len(self.unsettled) >= MAX_OUTSTANDING:
                    break
        return []

    def _is_wanted(self, topic: str, position: int) -> bool:
        return self._wanted[topic] and (not self.reads_dead or self._owner.is_dead_letter(self.class_, position))

    # ---- settling --------------------------------------------------------------------------------------------------------------

    def settle_nowait(
        self,
        *,
        acks: Sequence[Span] = (),
        naks: Sequence[tuple[int, int, int | None]] = (),
        terms: Sequence[tuple[int, int, str]] = (),
        touches: Sequence[Span] = (),
        put_off: Sequence[PutOff] = (),
    ) -> None:
        if self.error is not None:
            raise twin(self.error)
        tally, unsettled, now = self._tally, self.unsettled, self._clock.monotonic()
        if acks:
            settled = unsettled.ack(acks)
            tally.acks += settled
            tally.ignored += settled == 0
        for delay, spans in by_last(naks).items():
            seconds = None if delay is None else min(delay, MAX_DELAY_MS) / 1000
            count, given = unsettled.nak(spans, delay=seconds, now=now)
            tally.naks += count
            tally.ignored += count == 0
            self._give_up(given)
        for reason, spans in by_last(terms).items():
            given = unsettled.term(spans)
            tally.terms += len(given)
            tally.ignored += not given
            self._give_up(given, reason)
        for one in put_off:
            self._put_off(one, now)
        if touches:
            tally.ignored += not unsettled.touch(touches, now)
        self._owner.changed(self)
        if self._arrived is not None and self._allowed > 0:
            self._wake()

    async def settle(
        self,
        *,
        acks: Sequence[Span] = (),
        naks: Sequence[tuple[int, int, int | None]] = (),
        terms: Sequence[tuple[int, int, str]] = (),
        touches: Sequence[Span] = (),
        put_off: Sequence[PutOff] = (),
    ) -> None:
        self.settle_nowait(acks=acks, naks=naks, terms=terms, touches=touches, put_off=put_off)
        await self._owner.settled(self)

    def _put_off(self, one: PutOff, now: float) -> None:
        if one.reason == NOT_BEGUN:
            self._tally.ignored += not self.unsettled.give_back([(one.first, one.last)])
            return
        delay = min(max(one.delay_ms, LEAST_PUT_OFF_MS), MAX_DELAY_MS) / 1000
        longest = put_off_seconds(self.log.settings.retention_ms)
        count, given = self.unsettled.put_off([(one.first, one.last)], delay=delay, longest=longest, now=now)
        self._tally.put_off += count
        self._tally.ignored += count == 0
        self._give_up(given, one.reason)

    def _give_up(self, given: Sequence[Given], reason: str = "max_deliver") -> None:
        if given:
            self._owner.gave_up(self, given, reason)

    def buried(self, position: int) -> None:
        """Its dead letter is stored, or it was past its time."""
        self.unsettled.settle(position)
        self._owner.changed(self)

    def requeue(self, position: int) -> None:
        self.unsettled.expect(position, deliveries=0)
        self._wake()

    def _expired(self, position: int) -> None:
        self.unsettled.settle(position)
        self._tally.expired += 1
        self._owner.changed(self)


def _first_wanted(start: str) -> int:
    """The position that a consumer waits for that began past the head."""
    return parse_start(start).number if start.startswith("position=") else 0


def write_state(written: Written, *, now: float, now_ms: int) -> bytes:
    """Columns; when each is due as a time of day, 0 for at once. Two more where something was put off, and since when."""
    others, put_off = written.others, written.put_off
    dues = [now_ms + round((due - now) * 1000) if due > now else 0 for _, _, due in others]
    columns = [written.once, [position for position, _, _ in others], [deliveries for _, deliveries, _ in others], dues]
    if put_off:
        columns += [[*put_off], [max(0, now_ms - round((now - since) * 1000)) for since in put_off.values()]]
    return pack(columns)


def _read_state(state: bytes, clock: Clock) -> Written:
    once, positions, deliveries, dues, *more = unpack(state, longest=2 * MAX_KEPT)
    now, now_ms = clock.monotonic(), clock.now_ms()
    waits = [min(max(0, due - now_ms), MAX_DELAY_MS) / 1000 for due in dues]
    others = [Kept(*one) for one in zip(positions, deliveries, [now + wait for wait in waits], strict=True)]
    put_off, sinces = more or ((), ())
    return Written(once, others, {one: now - max(0, now_ms - since) / 1000 for one, since in zip(put_off, sinces, strict=True)})
