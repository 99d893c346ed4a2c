"""A backbone in this process: its verbs, and who works for them. What differs between memory and journal is `Storage` alone.

Intake        gives positions, knows duplicates, tells consumers what is stored
Registry      consumers: what they hand out, what is settled, and how that is written down
Cemetery      dead letters
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from bus.backbone.class_log import RING_BYTES, ClassLog, Ring
from bus.backbone.consumer import LocalConsumer
from bus.backbone.dead import Cemetery
from bus.backbone.intake import Intake
from bus.backbone.interface import UNUSED_MS, ConsumerFacts, ConsumerName, DeadLetter, Entry, Grant, Papers, RetentionClass
from bus.backbone.outcome import Outcome, write
from bus.backbone.registry import Registry
from bus.backbone.storage import Changes, Commit, Loaded, Storage, places
from bus.backbone.tally import Tally
from bus.clock import Clock
from bus.errors import BackboneError, BusError, ClosedError
from bus.flow.retention import Limits, Retention
from bus.flow.start import Start
from bus.protocol.topics import matches

TICK_SECONDS: Final = 0.1
"""How late a redelivery may be."""
SAVE_SECONDS: Final = 60.0
"""How often it is written down how far consumers are that settle nothing."""
MAX_KEPT_OF_ONE: Final = 1 << 18
"""Grants and papers of one sender: for a month a dozen epochs a day, for 700 readers each. Large ones count as several (`places`),
so that it is a gibibyte at most."""


class LocalBackbone:
    """Implements `interface.Backbone`."""

    def __init__(self, storage: Storage, clock: Clock, loaded: Loaded, *, ring_bytes: int = RING_BYTES) -> None:
        self._storage, self._clock, self._tally = storage, clock, Tally()
        self._intake = Intake(storage, clock, self._tally, ring=Ring(ring_bytes), recent=loaded.recent)
        self._heads = loaded.heads
        for settings in loaded.classes:
            self._intake.logs[settings.name] = self._log(settings, takes=False)
        self._cemetery = Cemetery(self._intake, clock, self._tally, loaded.dead)
        self._registry = Registry(self._intake, self._cemetery, storage, clock, self._tally, rows=loaded.consumers)
        self._kept = loaded.kept
        self._closed = False

    # ---- storing ---------------------------------------------------------------------------------------------------------------

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        self._check_open()
        return await self._intake.append(entries) if entries else []

    async def keep(self, grants: Sequence[Grant] = (), papers: Sequence[Papers] = ()) -> None:
        self._check_open()
        new = Counter[str]()
        for grant in grants:
            new[grant.sender] += places(grant.envelope)
        for one in papers:
            new[one.sender] += places(one.papers)
        for sender, more in new.items():
            self._kept[sender] = self._kept.get(sender, 0) + more
        if any(self._kept[sender] > MAX_KEPT_OF_ONE for sender in new):
            self._kept = await self._storage.kept()  # some came twice, some are gone
            if any(self._kept.get(sender, 0) + more > MAX_KEPT_OF_ONE for sender, more in new.items()):
                raise BackboneError(
                    "too_many",
                    f"there are more than {MAX_KEPT_OF_ONE:,} grants and papers of one sender; large ones count as several",
                )
            for sender, more in new.items():
                self._kept[sender] = self._kept.get(sender, 0) + more
        outcome = Outcome()
        self._storage.submit(Commit(outcome.tell, grants=grants, papers=papers))
        await outcome.wait()

    async def grants_for(self, epoch: bytes, reader: str) -> list[bytes]:
        self._check_open()
        return await self._storage.grants_for(epoch, reader)

    async def papers_for(self, session: bytes) -> list[bytes]:
        self._check_open()
        found = await self._storage.papers_for(session)
        return [] if found is None else [found]

    async def retain(self, classes: Sequence[RetentionClass], *, passed_ms: int) -> None:
        self._check_open()
        self._intake.passed_ms = max(self._intake.passed_ms, passed_ms)
        await self._follow({settings.name: settings for settings in classes})
        await self._let_go(passed_ms)
        logs, floors = self._intake.logs, self._registry.floors()
        limits = {name: Limits(log.settings.retention_ms, floors.get(name, log.head)) for name, log in logs.items()}
        await self._storage.drop(Retention(passed_ms, limits))

    # ---- consuming -------------------------------------------------------------------------------------------------------------

    async def consume(
        self, name: ConsumerName, class_: str, pattern: str, start: Start, *, kept: bool = True, allowed: int = 0
    ) -> LocalConsumer:
        self._check_open()
        return await self._registry.open(name, class_, pattern, start, kept=kept, allowed=allowed)

    async def watch(self, pattern: str, group: str, heard: Callable[[str, bytes], None]) -> Callable[[], None]:
        """There is no other broker to hear."""
        self._check_open()
        return lambda: None

    async def consumers(self) -> list[ConsumerFacts]:
        self._check_open()
        return self._registry.facts()

    async def remove_consumer(self, name: ConsumerName) -> None:
        self._check_open()
        await self._registry.remove(name)

    # ---- dead letters ----------------------------------------------------------------------------------------------------------

    async def dead_letters(self, *, class_: str = "", after: int = 0, most: int = 100) -> list[DeadLetter]:
        self._check_open()
        return self._cemetery.listed(class_=class_, after=after, most=most)

    async def show_dead(self, class_: str, position: int) -> bytes:
        self._check_open()
        self._cemetery.letter(class_, position)
        record = (await self._intake.log(class_).fetch([position])).get(position)
        if record is None:
            raise BackboneError("gone", f"the dead letter {position} in the class {class_!r} is no longer kept")
        return record.envelope

    async def requeue_dead(self, class_: str, position: int) -> None:
        self._check_open()
        letter = self._cemetery.letter(class_, position)
        consumer = self._registry.known(letter.consumer)
        if consumer.class_ != class_ or not matches(consumer.pattern, letter.topic):
            text = f"{consumer.name} reads {consumer.pattern!r} of {consumer.class_!r} now, and not {letter.topic!r} of {class_!r}"
            raise BackboneError("consumer_differs", f"{text}: have it published again, and drop the dead letter {position}")
        record = (await consumer.log.fetch([letter.original])).get(letter.original)
        if record is None or record.expires_ms <= self._intake.passed_ms:
            raise BackboneError("gone", f"the original of the dead letter {position} in the class {class_!r} is past its time")
        consumer.requeue(letter.original)
        try:
            await write(self._storage, Changes(consumers={consumer.name: consumer.as_row()}, undead=[(class_, position)]))
        except BackboneError:
            consumer.buried(letter.original)
            raise
        self._cemetery.remove(letter)

    async def drop_dead(self, class_: str, position: int) -> None:
        self._check_open()
        letter = self._cemetery.letter(class_, position)
        await write(self._storage, Changes(undead=[(class_, position)]))
        self._cemetery.remove(letter)

    # ---- time, numbers, the end ------------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, int]:
        return {
            **self._tally.as_dict(),
            **self._intake.statistics(),
            **self._storage.statistics(),
            "consumers": len(self._registry),
            "open_consumers": sum(consumer.error is None for consumer in self._registry),
            "unsettled": sum(len(consumer.unsettled) for consumer in self._registry),
            "dead_letters": len(self._cemetery),
        }

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow_time)
            while True:
                await self._clock.sleep(TICK_SECONDS)
                await self._quietly(self._storage.tidy)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            with anyio.CancelScope(shield=True):
                await self._registry.aclose(ClosedError("the backbone was closed"))
                await self._storage.aclose()

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    async def _follow_time(self) -> None:
        save_at = self._clock.monotonic() + SAVE_SECONDS
        while True:
            await self._clock.sleep(TICK_SECONDS)
            self._registry.ring()
            self._registry.save_again()
            if self._clock.monotonic() >= save_at:
                save_at = self._clock.monotonic() + SAVE_SECONDS
                self._registry.save_moved()
            await self._quietly(self._cemetery.bury)

    async def _quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        """What failed is tried again at the next tick: a disk that is full may have room then."""
        try:
            await work()
        except BusError:
            self._tally.failures += 1

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the backbone is closed")

    async def _follow(self, classes: dict[str, RetentionClass]) -> None:
        """Policy as it is now."""
        logs = self._intake.logs
        changed = {name: new for name, new in classes.items() if name not in logs or logs[name].settings != new}
        if changed:
            await write(self._storage, Changes(classes=changed))
        for name, settings in classes.items():
            if name not in logs:
                logs[name] = self._log(settings, takes=True)
            logs[name].settings = settings
        for name, log in logs.items():
            log.takes = name in classes
        for consumer in self._registry:
            consumer.follow()

    def _log(self, settings: RetentionClass, *, takes: bool) -> ClassLog:
        """It goes on where its class was when it was stored last, by whichever policy."""
        head, stored_ms = self._heads.get(settings.name, (0, 0))
        return ClassLog(settings, self._storage, head=head, stored_ms=stored_ms, takes=takes)

    async def _let_go(self, passed_ms: int) -> None:
        """Consumers that nobody used, and dead letters that are too old."""
        unused = self._registry.closed_before(passed_ms - UNUSED_MS)
        logs = self._intake.logs.items()
        ended = [
            letter for name, log in logs for letter in self._cemetery.ended(name, before_ms=passed_ms - log.settings.retention_ms)
        ]
        for consumer in unused:
            self._registry.forget(consumer)
        for letter in ended:
            self._cemetery.remove(letter)
        if unused or ended:
            rows = dict.fromkeys(consumer.name for consumer in unused)
            await write(self._storage, Changes(consumers=rows, undead=[(one.class_, one.position) for one in ended]))
