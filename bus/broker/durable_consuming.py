"""Durable subscriptions: for each consumer that somebody has open a reading, and what its takers say of what they were given.

owner     an agent, or a group; its members share one consumer and each record goes to one of them. Of one agent alone a name is
          open once: a second subscription to it is refused
fixed     pattern and start of a consumer, when it is made
settled   goes to disk with the next commit; who asks (a PING with a number) is answered when it is there
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from bus.backbone.interface import DEAD, Backbone, Consumer, ConsumerName
from bus.broker.counts import Counts
from bus.broker.crossing import Reader
from bus.broker.durable_classes import Classes
from bus.broker.durable_kept import Kept
from bus.broker.durable_moving import MOVED, Place, Stands, found, is_read, place_of
from bus.broker.durable_reading import Reading, Taker, What
from bus.broker.durable_recent import Recent
from bus.broker.durable_standing import Standing
from bus.broker.host_link import HostLink, Subscription
from bus.broker.interest import Interest
from bus.broker.offences import Offences
from bus.broker.requests import Requests
from bus.clock import Clock
from bus.errors import BackboneError, BusError
from bus.flow.start import NEW, parse_start
from bus.protocol.codec import malformed
from bus.protocol.frames import ACK, TOUCH
from bus.protocol.header import REQUEST, Header

MAX_READINGS: Final = 10_000
MOVE_SECONDS: Final = 1.0
End = Callable[[Subscription, str], None]


class Consuming:
    """Implements `durable_reading.World`."""

    def __init__(
        self,
        backbone: Backbone,
        classes: Classes,
        kept: Kept,
        standing: Standing,
        clock: Clock,
        *,
        counts: Counts,
        end: End,
        interest: Interest,
        now_ms: Callable[[], int],
        offences: Offences,
        passed_ms: Callable[[], int],
        recent: Recent,
        requests: Requests,
    ) -> None:
        self._backbone, self._classes, self._kept, self._standing, self._clock = backbone, classes, kept, standing, clock
        self._counts, self._interest, self._offences, self._requests = counts, interest, offences, requests
        self.end, self.now_ms, self.passed_ms = end, now_ms, passed_ms
        self.show, self.header = kept.show, recent.header
        self.records = classes.records
        self._readings: dict[ConsumerName, Reading] = {}
        self._tasks: TaskGroup | None = None
        self._waiting: list[Reading] = []

    def __len__(self) -> int:
        return len(self._readings)

    # ---- subscriptions ---------------------------------------------------------------------------------------------------------

    def begin(self, one: Subscription, *, durable: str, start: str) -> str | None:
        """Why not, if it cannot be; it may still be refused later."""
        name = _name(one, durable)
        try:
            begins = parse_start(start) if durable else NEW
        except ValueError:
            return "malformed"
        try:
            class_ = self._classes.within(one.pattern.removeprefix(DEAD))
        except BackboneError:
            return "malformed"
        reading = self._readings.get(name)
        if reading is None:
            if len(self._readings) >= MAX_READINGS:
                return "busy"
            reading = self._readings[name] = Reading(What(name, class_, one.pattern, begins, bool(durable)), self)
            self._start(reading)
        elif (reading.what.pattern, reading.what.start) != (one.pattern, begins):
            return "malformed"
        elif any(not one.group or other.agent == one.agent for other in reading.takers):
            return "busy"
        reading.add(one)
        if reading.consumer is not None:
            self._is_open(one)
        return None

    def leave(self, one: Subscription) -> None:
        if one.taker is not None:
            one.taker.reading.leave(one)

    def credit(self, one: Subscription, records: int) -> None:
        if one.blocks:
            one.consumed(records)
        if one.taker is not None:
            one.taker.reading.wake()

    def go_on(self, host: HostLink) -> None:
        """Its link has room again."""
        for one in host.subscriptions.values():
            if one.taker is not None:
                one.taker.reading.wake()

    def settle(self, host: HostLink, fields: list[Any]) -> None:
        """A SETTLE. Raises RemoteProtocolError("malformed")."""
        _, number, verb, rows, delay, reason = fields
        if not ACK <= verb <= TOUCH or any(first > last for first, last in rows):
            raise malformed("an ack, nak, term or touch, of spans that end where they begin or later")
        one = host.subscriptions.get(number)  # of one that has just ended, it may still come
        if one is None or one.taker is None:
            self._counts.settled_late += 1
            return
        try:
            was_open = one.taker.reading.settle(one.taker, verb, [(first, last) for first, last in rows], delay, reason)
        except BusError:
            was_open = False
        if was_open:
            host.unsynced[one.taker.reading] = None
        else:
            self._counts.settled_late += 1

    # ---- policy ----------------------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Another one: what is kept elsewhere now is read there, once what was kept here is read."""
        for reading in [*self._readings.values()]:
            try:
                class_ = self._classes.within(reading.what.pattern.removeprefix(DEAD))
            except BackboneError:
                for one in [*reading.takers]:
                    self.end(one, "malformed")
                continue
            if class_ != reading.what.class_:
                reading.what = reading.what._replace(class_=class_)
                reading.move()

    async def _move(self) -> None:
        """Have those that have read what was kept elsewhere go on where it is kept now."""
        behind = [reading for reading in self._readings.values() if reading.is_behind]
        facts = await self._backbone.consumers() if behind else []
        for reading in behind:
            one = found(reading.what.name, facts)
            if one is not None and is_read(one):
                reading.move()

    # ---- for readings ----------------------------------------------------------------------------------------------------------

    async def open(self, reading: Reading) -> Consumer:
        """Raises BackboneError, ValueError."""
        await self._classes.settled()
        name, class_, pattern, start, is_kept = reading.what
        if not is_kept:
            return await self._backbone.consume(name, class_, pattern, start, kept=False)
        place = place_of(self._standing.find(name), class_=class_, pattern=pattern, start=start)
        if place.class_ != class_ and await self._is_read(name):
            await self._backbone.remove_consumer(name)
            place = Place(class_, MOVED)
        consumer = await self._backbone.consume(name, place.class_, pattern, place.start)
        self._standing.is_there(name, Stands(place.class_, pattern, str(place.start)))
        return consumer

    async def _is_read(self, name: ConsumerName) -> bool:
        facts = found(name, await self._backbone.consumers())
        return facts is not None and is_read(facts)

    def opened(self, reading: Reading) -> None:
        for one in reading.takers:
            self._is_open(one)

    def may_hear(self, agent: str, topic: str, *, dead: bool) -> bool:
        return self._classes.snapshot.may_hear(agent, topic, dead=dead)

    def given(self, taker: Taker, header: Header) -> None:
        self._counts.copies += 1
        self._counts.delivered += 1
        self._counts.delivered_records += header.records
        if header.flags == REQUEST:
            self._requests.open(header, now_ms=self.now_ms()).readers.append(Reader.of(taker.one.host, (taker.one,)))

    def passed_over(self) -> None:
        self._counts.passed_over += 1

    def cannot_read(self, name: ConsumerName, error: BusError | ValueError) -> None:
        who, what = f"consumers of {name.owner}", f"cannot be read: {getattr(error, 'code', type(error).__name__)}"
        self._offences.note(who, what, f"{name}: {error}", now=self._clock.monotonic())

    def closed(self, reading: Reading) -> None:
        if self._readings.get(reading.what.name) is reading:
            del self._readings[reading.what.name]

    def _is_open(self, one: Subscription) -> None:
        """It is said once; a reading may be closed and opened again."""
        if one.taker is not None and not one.taker.is_begun:
            one.taker.is_begun = True
            if one.taker.reading.what.is_kept:
                self._interest.add_reader(one, now=self._clock.monotonic())
            else:
                self._interest.add(one, now=self._clock.monotonic())

    # ---- tasks -----------------------------------------------------------------------------------------------------------------

    def _start(self, reading: Reading) -> None:
        if self._tasks is None:
            self._waiting.append(reading)
        else:
            self._tasks.start_soon(reading.run)

    async def run(self) -> None:
        """Until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                for reading in self._waiting:
                    tasks.start_soon(reading.run)
                self._waiting.clear()
                while True:
                    await self._clock.sleep(MOVE_SECONDS)
                    await self._move()
            finally:
                self._tasks = None


def _name(one: Subscription, durable: str) -> ConsumerName:
    """Of one that only listens to dead letters, one that nobody else has."""
    return ConsumerName(one.group or one.agent, durable or f"live-{one.host.number}-{one.number}")
