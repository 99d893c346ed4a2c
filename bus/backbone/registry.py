"""The consumers of a local backbone: made once, opened by one at a time, written down when they change, removed when unused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from bus.backbone.consumer import LocalConsumer
from bus.backbone.dead import Cemetery
from bus.backbone.intake import Intake
from bus.backbone.interface import ConsumerFacts, ConsumerName
from bus.backbone.outcome import write
from bus.backbone.saver import Saver
from bus.backbone.starting import first_row
from bus.backbone.storage import Changes, ConsumerRow, Storage
from bus.backbone.tally import Tally
from bus.clock import Clock
from bus.errors import BackboneError, BusError
from bus.flow.start import Start
from bus.flow.unsettled import Given
from bus.protocol.names import is_agent_name, is_share_name

MAX_CONSUMERS: Final = 10_000
MAX_CONSUMERS_OF_ONE: Final = 256
"""Owners are agents and groups; each costs some kilobytes for good."""


class Registry:
    """Implements `consumer.Owner`."""

    def __init__(
        self, intake: Intake, cemetery: Cemetery, storage: Storage, clock: Clock, tally: Tally, *, rows: Iterable[ConsumerRow]
    ) -> None:
        self._intake, self._cemetery, self._storage, self._clock, self._tally = intake, cemetery, storage, clock, tally
        self._saver = Saver(storage)
        self._making: dict[ConsumerName, None] = {}
        """Being made or removed."""
        self._consumers = {row.name: self._consumer(row, kept=True) for row in rows}

    def __len__(self) -> int:
        return len(self._consumers)

    def __iter__(self) -> Iterator[LocalConsumer]:
        return iter(self._consumers.values())

    @property
    def passed_ms(self) -> int:
        return self._intake.passed_ms

    def known(self, name: ConsumerName) -> LocalConsumer:
        """Raises BackboneError("unknown_consumer")."""
        consumer = self._consumers.get(name)
        if consumer is None:
            raise BackboneError("unknown_consumer", f"there is no consumer {name}; list them to see which there are")
        return consumer

    def facts(self) -> list[ConsumerFacts]:
        return [self._consumers[name].facts() for name in sorted(self._consumers)]

    async def open(self, name: ConsumerName, class_: str, pattern: str, start: Start, *, kept: bool, allowed: int) -> LocalConsumer:
        check_name(name)
        consumer = self._consumers.get(name)
        if name in self._making or (consumer is not None and consumer.error is None):
            raise BackboneError("consumer_in_use", f"the consumer {name} is open already: its readers share it")
        if consumer is None:
            self._making[name] = None
            try:
                consumer = await self._make(name, class_, pattern, start, kept=kept)
            finally:
                del self._making[name]
        elif (class_, pattern, str(start)) != (consumer.class_, consumer.pattern, consumer.row.start):
            text = f"the consumer {name} reads {consumer.pattern!r} of {consumer.class_!r} from {consumer.row.start!r}"
            raise BackboneError("consumer_differs", f"{text}: remove it first, or choose another name")
        self._intake.consumers.setdefault(class_, {})[consumer] = None
        consumer.open(allowed=allowed)
        return consumer

    async def remove(self, name: ConsumerName) -> None:
        consumer = self.known(name)
        if consumer.error is None or name in self._making:
            raise BackboneError("consumer_in_use", f"the consumer {name} is open: end its subscriptions first")
        self._making[name] = None
        try:
            await write(self._storage, Changes(consumers={name: None}))
        finally:
            del self._making[name]
        self.forget(consumer)

    def forget(self, consumer: LocalConsumer) -> None:
        """It was removed."""
        del self._consumers[consumer.name]
        consumer.kept = False
        self._saver.forget(consumer)

    def closed_before(self, time_ms: int) -> list[LocalConsumer]:
        return [consumer for consumer in self if consumer.error is not None and consumer.row.used_ms <= time_ms]

    def floors(self) -> dict[str, int]:
        """Of each class that has consumers the lowest floor."""
        floors: dict[str, int] = {}
        for consumer in self:
            floors[consumer.class_] = min(consumer.floor, floors.get(consumer.class_, consumer.floor))
        return floors

    def ring(self) -> None:
        """Redeliveries that are due."""
        now = self._clock.monotonic()
        for consumers in self._intake.consumers.values():
            for consumer in consumers:
                consumer.ring(now)

    def save_again(self) -> None:
        """Write down what could not be: the disk was full."""
        self._saver.retry()

    def save_moved(self) -> None:
        """Write down how far those are that settle nothing."""
        for consumer in self:
            if consumer.moved:
                self.changed(consumer)

    async def aclose(self, error: BusError) -> None:
        """All are closed, and written down as they are then."""
        for consumer in self:
            if consumer.error is None:
                consumer.close(error)
                self.changed(consumer)
        await self._saver.flush()

    # ---- what consumers tell -----------------------------------------------------------------------------------------------------

    def gave_up(self, consumer: LocalConsumer, given: Sequence[Given], reason: str) -> None:
        self._cemetery.gave_up(consumer, given, reason)

    def changed(self, consumer: LocalConsumer) -> None:
        if consumer.kept and consumer.name in self._consumers:
            self._saver.changed(consumer)

    async def settled(self, consumer: LocalConsumer) -> None:
        await self._cemetery.bury()
        if consumer.kept:
            await self._saver.saved(consumer)

    async def closed(self, consumer: LocalConsumer) -> None:
        self._intake.consumers[consumer.class_].pop(consumer, None)
        if consumer.kept:
            self.changed(consumer)
        else:
            self.forget(consumer)

    def is_dead_letter(self, class_: str, position: int) -> bool:
        return self._cemetery.holds(class_, position)

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    async def _make(self, name: ConsumerName, class_: str, pattern: str, start: Start, *, kept: bool) -> LocalConsumer:
        names = [*self._consumers, *self._making]
        if len(names) > MAX_CONSUMERS or sum(other.owner == name.owner for other in names) > MAX_CONSUMERS_OF_ONE:
            raise BackboneError(
                "too_many", f"there are too many consumers, or too many of {name.owner}: remove some that are not used"
            )
        log = self._intake.log(class_)
        row = await first_row(
            name, pattern, start, log, self._storage, now_ms=self._clock.now_ms(), passed_ms=self._intake.passed_ms
        )
        consumer = self._consumers[name] = self._consumer(row, kept=kept)
        try:
            if kept:
                await write(self._storage, Changes(consumers={name: row}))
        except BackboneError:
            self.forget(consumer)
            raise
        return consumer

    def _consumer(self, row: ConsumerRow, *, kept: bool) -> LocalConsumer:
        log = self._intake.log(row.class_)
        return LocalConsumer(row, log, self._storage, self._clock, self._tally, owner=self, kept=kept)


def check_name(name: ConsumerName) -> None:
    """Raises ValueError."""
    if not (is_agent_name(name.owner) or is_share_name(name.owner)) or not is_share_name(name.name):
        raise ValueError(f"{name.owner[:64]!r}, {name.name[:64]!r} is no consumer's name: an agent or a group, and a-z 0-9 _ -")
