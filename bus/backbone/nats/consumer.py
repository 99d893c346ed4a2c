"""One consumer that this broker has open: what it fetched and handed out, and what is said of that.

The server knows what is settled, waits for `ack_wait`, and hands out again, to whichever broker asks: here is only what this broker
has in hand. How often something may be handed out is judged here, and what was handed out for the last time is buried.

settled      is said at once (`said.py`); `settle` waits until the server has it
put off      does not count: what was in vain is taken from what the server counted (`put_off.py`)
passed over  what expired, and what is no record of this pattern whatever the server says: settled without being handed out
again        what an operator had handed out anew comes from a source of its own (`layout.py`), looked at first
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import anyio

from bus.backbone.interface import LEAST_PUT_OFF_MS, MAX_OUTSTANDING, ConsumerName, Delivery, PutOff, RetentionClass, Span
from bus.backbone.nats.connection import Arrived, Connection
from bus.backbone.nats.layout import ACK, TERM, TOUCH, Names, nak, parse_reply
from bus.backbone.nats.put_off import Mark, Marks
from bus.backbone.nats.records import Record, parse_record, parse_requeued
from bus.backbone.nats.said import Said
from bus.backbone.nats.source import WAIT_SECONDS, GoneError, Source
from bus.backbone.nats.tally import NatsTally
from bus.backbone.open_consumer import OpenConsumer, by_last
from bus.clock import Clock
from bus.errors import BackboneError, BusError, ClosedError, twin
from bus.flow.redelivery import put_off_seconds, redelivery_seconds
from bus.flow.unsettled import MAX_PUT_OFF
from bus.protocol.frames import NOT_BEGUN
from bus.protocol.topics import matches

MAX_DELAY_MS: Final = 86_400_000
FETCH: Final = 256
"""Records at once, at most."""
FETCH_BYTES: Final = 4 << 20
"""About; by what the last ones were like."""
GUESS_BYTES: Final = 16 << 10
GLANCE_SECONDS: Final = 0.5
"""So long new records are waited for, while something that was handed out anew may come again."""


class Row(NamedTuple):
    """A consumer as it is written down."""

    name: ConsumerName
    class_: str
    pattern: str
    start: str
    begins: int
    """The first position that it reads; 0: the latest of each topic, when it was made."""
    made_ms: int
    used_ms: int


class Held(NamedTuple):
    """What this broker has in hand."""

    reply: str
    seq: int
    deliveries: int
    """Without those that were in vain."""
    due: float
    """When the server hands it to somebody else."""
    expires_ms: int
    mark: Mark | None = None
    """Of what was put off."""


class Grave(NamedTuple):
    """What is given up: no longer in hand, and not settled until its dead letter is stored."""

    consumer: NatsConsumer
    position: int
    held: Held
    reason: str


class Owner(Protocol):
    @property
    def passed_ms(self) -> int: ...

    def gave_up(self, grave: Grave) -> None: ...

    async def bury(self) -> None: ...

    async def closed(self, consumer: NatsConsumer) -> None: ...


class NatsConsumer(OpenConsumer):
    """Implements `interface.Consumer`."""

    def __init__(
        self,
        row: Row,
        settings: RetentionClass,
        source: Source,
        marks: Marks,
        *,
        connection: Connection,
        names: Names,
        clock: Clock,
        tally: NatsTally,
        owner: Owner,
        kept: bool,
    ) -> None:
        super().__init__()
        self.row, self.settings, self.kept = row, settings, kept
        self.source, self.marks = source, marks
        self.again: Source | None = None
        self._names, self._clock, self._tally, self._owner = names, clock, tally, owner
        self.held: dict[int, Held] = {}
        self._dying: dict[int, Grave] = {}
        self._said = Said(connection, clock)
        self._looks = 0
        self._record_bytes = GUESS_BYTES

    @property
    def name(self) -> ConsumerName:
        return self.row.name

    @property
    def class_(self) -> str:
        return self.row.class_

    @property
    def pattern(self) -> str:
        return self.row.pattern

    # ---- handing out -----------------------------------------------------------------------------------------------------------

    def look_again(self, again: Source) -> None:
        """There is something that was handed out anew."""
        self.again = again
        self._looks += 1
        self.source.interrupt()

    def ring(self) -> None:
        """Time has passed: who waited for room may find some."""
        if self._allowed > 0:
            self._wake()

    def _most(self) -> int:
        wanted = min(self._allowed, FETCH, max(1, FETCH_BYTES // self._record_bytes))
        if wanted > 0 and len(self.held) + wanted > MAX_OUTSTANDING:
            now = self._clock.monotonic()
            self.held = {position: held for position, held in self.held.items() if held.due > now}  # somebody else may have it
        return min(wanted, MAX_OUTSTANDING - len(self.held))

    async def _take_some(self) -> list[Delivery] | None:
        most = self._most()
        if most <= 0:
            return None
        try:
            if self.again is not None and (found := await self._take_again(self.again, most)):
                return found
            wait_seconds = WAIT_SECONDS if self.again is None else GLANCE_SECONDS
            arrived = await self.source.fetch(most, wait_seconds=wait_seconds)
            return self._hand_out(arrived, await self._marks(arrived), requeued=False)
        except GoneError:
            raise BackboneError("unknown_consumer", f"the consumer {self.name} was removed; it can be made anew") from None

    async def _take_again(self, again: Source, most: int) -> list[Delivery]:
        looks, arrived = self._looks, await again.fetch(most, wait_seconds=0)
        marks = await self._marks(arrived)
        is_idle = not arrived and all(held.seq == position for position, held in self.held.items()) and not self._dying
        if is_idle and await again.is_done() and looks == self._looks:
            self.again = None
            await again.aclose()
        return self._hand_out(arrived, marks, requeued=True)

    async def _marks(self, arrived: Sequence[Arrived]) -> Mapping[int, Mark]:
        """Of what came again. To the end, whoever is cancelled: nobody else has what arrived here."""
        given = [found.seq for one in arrived if (found := parse_reply(one.reply)) is not None and found.deliveries > 1]
        marks: Mapping[int, Mark] = {}
        if given:
            with anyio.CancelScope(shield=True):
                marks = await self.marks.of(given)
        return marks

    def _hand_out(self, arrived: Sequence[Arrived], marks: Mapping[int, Mark], *, requeued: bool) -> list[Delivery]:
        parse = parse_requeued if requeued else parse_record
        due = self._clock.monotonic() + self.settings.ack_wait_ms / 1000
        deliveries: dict[int, Delivery] = {}  # a record may have come twice while nobody took: the later one is its delivery
        for one in arrived:
            record = parse(one, self.class_, self._names)
            if record is None or not matches(self.pattern, record.topic):
                self._refuse(one.reply)
                continue
            mark = marks.get(record.seq)
            if mark is not None:
                record = record._replace(deliveries=max(record.deliveries - mark.uncounted, 1))
            if self._is_to_be_handed_out(record, one.reply, due, mark):
                self.held[record.position] = Held(one.reply, record.seq, record.deliveries, due, record.expires_ms, mark)
                deliveries[record.position] = Delivery(record.position, record.deliveries, record.topic, record.envelope)
        given = [*deliveries.values()]
        if given:
            self._record_bytes = max(1 << 10, sum(len(one.envelope) for one in given) // len(given))
            self._allowed -= len(given)
            self._tally.handed_out += len(given)
            self._tally.redelivered += sum(one.deliveries > 1 for one in given)
        return given

    def _refuse(self, reply: str) -> None:
        """It is none of ours, whoever put it there. Said once, so that it does not come for ever."""
        self._tally.refused += 1
        if parse_reply(reply) is not None:
            self._said.say(reply, TERM)

    def _is_to_be_handed_out(self, record: Record, reply: str, due: float, mark: Mark | None) -> bool:
        position = record.position
        if position in self._dying:
            return False
        if position < self.row.begins:
            self._said.say(reply, ACK)
            return False
        if record.expires_ms <= self._owner.passed_ms:
            self.held.pop(position, None)
            self._tally.expired += 1
            self._said.say(reply, ACK)
            self.marks.forget(mark)
            return False
        if record.deliveries > self.settings.max_deliver:
            self.held.pop(position, None)
            held = Held(reply, record.seq, self.settings.max_deliver, due, record.expires_ms, mark)
            self._give_up(position, held, "max_deliver")
            return False
        return True

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
        tally, held = self._tally, self.held
        if acks:
            self._ack(self._chosen(acks))
        for delay, spans in by_last(naks).items():
            positions = self._chosen(spans)
            for position in positions:
                self._nak(position, held.pop(position), delay)
            tally.naks += len(positions)
            tally.ignored += not positions
        for reason, spans in by_last(terms).items():
            positions = self._chosen(spans)
            for position in positions:
                self._give_up(position, held.pop(position), reason)
            tally.terms += len(positions)
            tally.ignored += not positions
        for one in put_off:
            self._put_off(one)
        if touches:
            self._touch(self._chosen(touches))
        if self._allowed > 0:
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
        await self._owner.bury()
        await self.marks.write()
        await self._said.confirm()

    def _ack(self, positions: Sequence[int]) -> None:
        for position in positions:
            held = self.held.pop(position)
            self._said.say(held.reply, ACK)
            if held.mark is not None:
                self.marks.forget(held.mark)
        self._tally.acks += len(positions)
        self._tally.ignored += not positions

    def _touch(self, positions: Sequence[int]) -> None:
        due = self._clock.monotonic() + self.settings.ack_wait_ms / 1000
        for position in positions:
            held = self.held[position] = self.held[position]._replace(due=due)
            self._said.say(held.reply, TOUCH)
        self._tally.ignored += not positions

    def _nak(self, position: int, held: Held, delay_ms: int | None) -> None:
        if held.deliveries >= self.settings.max_deliver:
            self._give_up(position, held, "max_deliver")
            return
        wait_ms = round(redelivery_seconds(held.deliveries) * 1000) if delay_ms is None else min(delay_ms, MAX_DELAY_MS)
        self._said.say(held.reply, nak(wait_ms))

    def _put_off(self, one: PutOff) -> None:
        positions, now_ms = self._chosen([(one.first, one.last)]), self._clock.now_ms()
        longest_ms = round(put_off_seconds(self.settings.retention_ms) * 1000)
        wait_ms = min(max(one.delay_ms, LEAST_PUT_OFF_MS), MAX_DELAY_MS)
        for position in positions:
            held = self.held.pop(position)
            mark = held.mark or Mark(0, now_ms)
            if one.reason == NOT_BEGUN:
                self._give_back(held, mark)
            elif now_ms - mark.since_ms >= longest_ms or (held.mark is None and self.marks.count >= MAX_PUT_OFF):
                self._give_up(position, held, one.reason)
            else:
                self.marks.put(held.seq, mark._replace(uncounted=mark.uncounted + 1), held.expires_ms)
                self._said.say(held.reply, nak(wait_ms))
        self._tally.put_off += len(positions) if one.reason != NOT_BEGUN else 0
        self._tally.ignored += not positions

    def _give_back(self, held: Held, mark: Mark) -> None:
        """Nobody looked at it. With many marks already it counts all the same: those are for what cannot be opened."""
        if held.mark is not None or self.marks.count < MAX_PUT_OFF // 2:
            self.marks.put(held.seq, mark._replace(uncounted=mark.uncounted + 1), held.expires_ms)
        self._said.say(held.reply, nak(0))

    def _give_up(self, position: int, held: Held, reason: str) -> None:
        grave = self._dying[position] = Grave(self, position, held, reason)
        self._owner.gave_up(grave)

    def buried(self, grave: Grave) -> None:
        """Its dead letter is stored, or it was past its time."""
        del self._dying[grave.position]
        self.marks.forget(grave.held.mark)
        self._said.say(grave.held.reply, TERM)

    def _chosen(self, spans: Iterable[Span]) -> list[int]:
        """What is in hand of these spans, in order. Others named the spans: many, long, one over the other."""
        spans = [span for span in spans if span[0] <= span[1]]
        if sum(last - first + 1 for first, last in spans) <= len(self.held):
            return [*{place: None for first, last in spans for place in range(first, last + 1) if place in self.held}]
        found: list[int] = []
        ordered = sorted(spans, reverse=True)
        for position in sorted(self.held):
            while ordered and ordered[-1][1] < position:
                ordered.pop()
            if not ordered:
                break
            if ordered[-1][0] <= position:
                found.append(position)
        return found

    # ---- open and closed -------------------------------------------------------------------------------------------------------

    def close(self, error: BusError) -> None:
        """Nothing more is handed out; who waits hears why."""
        self.error = error
        self._wake()
        self.source.interrupt()

    async def aclose(self) -> None:
        if self.error is None:
            self.close(ClosedError(f"the consumer {self.name} was closed"))
            with anyio.CancelScope(shield=True):
                await self.release()
                await self._owner.closed(self)

    async def release(self) -> None:
        """Whoever opens it next has what was not settled, at once."""
        replies = [held.reply for _, held in sorted(self.held.items())]
        for source in (self.source, self.again):
            replies += [one.reply for one in await source.aclose()] if source is not None else []
        self.held.clear()
        for reply in replies:
            self._said.say(reply, nak(0))
        with suppress(BackboneError, ClosedError):
            await self.marks.write()
            await self._said.confirm()
