"""What consumers gave up: stored once more as records of `_dead.<topic>` in the stream of the original. The stream is the list.

A record that was given up is not settled until its dead letter is stored: a crash between the two brings it again. The dead letters
of one class are bounded; past that the oldest make room. They are counted every now and then, because other brokers bury too.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import anyio

from bus.backbone.dead import MAX_DEAD, MAX_REASON
from bus.backbone.interface import DeadLetter, RetentionClass
from bus.backbone.nats.appending import Outgoing
from bus.backbone.nats.consumer import Grave
from bus.backbone.nats.jetstream import JetStream, Kept, subjects
from bus.backbone.nats.layout import CONSUMER, DIED, EXPIRES, ID, MESSAGE_ID, ORIGINAL, SENDER, TOPIC, Names, message_id
from bus.backbone.nats.records import parse_dead
from bus.backbone.nats.streams import Streams
from bus.backbone.nats.tally import NatsTally
from bus.clock import Clock
from bus.errors import BackboneError
from bus.protocol.codec import pack

COUNT_EVERY: Final = 256
"""Burials of one broker in one class, after which they are counted anew."""


class Cemetery:
    def __init__(self, jetstream: JetStream, names: Names, streams: Streams, clock: Clock, tally: NatsTally) -> None:
        self._jetstream, self._names, self._streams = jetstream, names, streams
        self._clock, self._tally = clock, tally
        self._graves: deque[Grave] = deque()
        self._busy = anyio.Lock()
        self._counts: dict[str, int] = {}
        self._buried: dict[str, int] = {}

    @property
    def count(self) -> int:
        """Of the classes in which this broker buried any: about how many there are."""
        return sum(self._counts.values())

    # ---- looking ---------------------------------------------------------------------------------------------------------------

    async def listed(self, class_: str, *, after: int, most: int) -> list[DeadLetter]:
        """Raises BackboneError, ClosedError."""
        found: list[DeadLetter] = []
        seq = after + 1
        while len(found) < most:
            kept = await self._next(class_, seq)
            if kept is None or kept.seq < seq:
                break
            letter = parse_dead(kept, class_, self._names)
            found += [letter] if letter is not None else []
            seq = kept.seq + 1
        return found

    async def letter(self, class_: str, position: int) -> tuple[DeadLetter, bytes]:
        """It, and its frame. Raises BackboneError: "unknown_dead"; ClosedError."""
        kept = await self._jetstream.message(self._names.stream(class_), {"seq": position}) if position > 0 else None
        letter = parse_dead(kept, class_, self._names) if kept is not None and kept.seq == position else None
        if kept is None or letter is None or kept.subject != self._names.dead(class_, letter.topic):
            raise BackboneError(
                "unknown_dead", f"there is no dead letter {position} in the class {class_!r}; list them to see which there are"
            )
        return letter, kept.data

    async def remove(self, letter: DeadLetter) -> None:
        """Raises BackboneError, ClosedError."""
        await self._jetstream.delete_message(self._names.stream(letter.class_), letter.position)
        if letter.class_ in self._counts:
            self._counts[letter.class_] -= 1

    # ---- burying ---------------------------------------------------------------------------------------------------------------

    def gave_up(self, grave: Grave) -> None:
        self._graves.append(grave)

    async def bury(self) -> None:
        """Store the dead letters of all that was given up. Raises BackboneError, ClosedError; then they wait for the next time."""
        async with self._busy:
            while self._graves:
                await self._bury(self._graves[0])
                self._graves.popleft()

    async def _bury(self, grave: Grave) -> None:
        consumer = grave.consumer
        settings, stream = consumer.settings, self._names.stream(consumer.class_)
        kept = await self._jetstream.message(stream, {"seq": grave.held.seq})
        outgoing = self._outgoing(grave, kept, settings) if kept is not None else None
        if outgoing is None:
            self._tally.lost += 1
        else:
            (stored,) = await self._streams.appender(settings.name).append([outgoing])
            if not stored.is_duplicate:
                await self._count(settings.name)
        consumer.buried(grave)

    def _outgoing(self, grave: Grave, kept: Kept, settings: RetentionClass) -> Outgoing | None:
        """Its dead letter; None for what was one already."""
        topic = self._names.topic(settings.name, kept.subject)
        if topic is None:
            topic = kept.headers.get(TOPIC, "")
        if kept.subject.startswith(self._names.dead(settings.name, "")):
            return None
        name, now_ms, deliveries = grave.consumer.name, self._clock.now_ms(), grave.held.deliveries
        headers = {
            MESSAGE_ID: message_id("dead", str(name), str(grave.consumer.row.made_ms), str(kept.seq)),
            SENDER: kept.headers.get(SENDER, ""),
            ID: kept.headers.get(ID, ""),
            EXPIRES: str(now_ms + settings.retention_ms),
            CONSUMER: str(name),
            ORIGINAL: str(grave.position),
            DIED: str(now_ms),
        }
        return Outgoing(self._names.dead(settings.name, topic), headers, pack([grave.reason[:MAX_REASON], deliveries, kept.data]))

    # ---- how many --------------------------------------------------------------------------------------------------------------

    async def _count(self, class_: str) -> None:
        self._tally.dead += 1
        buried = self._buried[class_] = self._buried.get(class_, 0) + 1
        if class_ in self._counts and buried % COUNT_EVERY:
            self._counts[class_] += 1
            return
        facts = await self._jetstream.stream(self._names.stream(class_), subjects=self._names.dead(class_, ">"))
        self._counts[class_] = sum(subjects(facts).values())
        while self._counts[class_] > MAX_DEAD:
            kept = await self._next(class_, 1)
            if kept is None:
                break
            await self._jetstream.delete_message(self._names.stream(class_), kept.seq)
            self._counts[class_] -= 1
            self._tally.lost += 1

    async def _next(self, class_: str, seq: int) -> Kept | None:
        which = {"seq": seq, "next_by_subj": self._names.dead(class_, ">")}
        return await self._jetstream.message(self._names.stream(class_), which)
