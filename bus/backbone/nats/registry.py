"""The consumers of a bus on NATS: written down in a bucket for all brokers, made in JetStream when they are opened first.

    written down    whose it is, what it reads, from which position on, when somebody last had it open
    in JetStream    how far it is, and what is not settled

Writing down comes first and by one broker alone; whoever opens it makes in JetStream what is missing there, from the position that
is written down. Several brokers may have one open: the members of a group may be anywhere, and each record goes to one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from bus.backbone.interface import ConsumerFacts, ConsumerName
from bus.backbone.nats.at_once import at_once
from bus.backbone.nats.bucket import OtherRevisionError
from bus.backbone.nats.connection import Connection, UnansweredError
from bus.backbone.nats.consumer import NatsConsumer, Owner, Row
from bus.backbone.nats.jetstream import JetStream, Kept, count, unreachable
from bus.backbone.nats.layout import Names, consumer_config, durable_name
from bus.backbone.nats.put_off import Marks
from bus.backbone.nats.source import Source
from bus.backbone.nats.streams import Streams
from bus.backbone.nats.tally import NatsTally
from bus.backbone.registry import MAX_CONSUMERS, MAX_CONSUMERS_OF_ONE, check_name
from bus.clock import Clock
from bus.errors import BackboneError, BusError, ClosedError, RemoteProtocolError
from bus.flow.start import Start, parse_start
from bus.protocol.codec import pack, unpack
from bus.protocol.names import pattern_fault

USED_MS: Final = 3_600_000
"""How often it is written down that a consumer is still in use."""
FORGOTTEN_SECONDS: Final = 60
"""After which JetStream forgets one that is not kept, where its broker was killed."""
_FIELDS: Final = [str, str, str, str, str, int, int, int]


class Registry:
    def __init__(
        self,
        connection: Connection,
        jetstream: JetStream,
        names: Names,
        streams: Streams,
        *,
        clock: Clock,
        tally: NatsTally,
        owner: Owner,
    ) -> None:
        self._connection, self._jetstream, self._names, self._streams = connection, jetstream, names, streams
        self._clock, self._tally, self._owner = clock, tally, owner
        self._open: dict[ConsumerName, NatsConsumer] = {}
        self._busy: dict[ConsumerName, None] = {}
        """Being opened or removed."""

    def __iter__(self) -> Iterator[NatsConsumer]:
        """Those that this broker has open."""
        return iter([*self._open.values()])

    # ---- open and closed -------------------------------------------------------------------------------------------------------

    async def open(self, name: ConsumerName, class_: str, pattern: str, start: Start, *, kept: bool, allowed: int) -> NatsConsumer:
        check_name(name)
        if name in self._open or name in self._busy:
            raise BackboneError("consumer_in_use", f"the consumer {name} is open already: its readers share it")
        self._busy[name] = None
        try:
            consumer = await self._opened(name, class_, pattern, start, kept=kept)
        except UnansweredError as error:
            raise unreachable(self._connection) from error
        finally:
            del self._busy[name]
        self._open[name] = consumer
        consumer.allow(allowed)
        return consumer

    async def closed(self, consumer: NatsConsumer) -> None:
        self._open.pop(consumer.name, None)
        with suppress(BackboneError, ClosedError, OtherRevisionError):
            if consumer.kept:
                await self._used(consumer.name)
            else:
                await self._jetstream.delete_consumer(consumer.source.stream, consumer.source.name)

    async def aclose(self, error: BusError) -> None:
        """All are closed; what they had in hand goes to whoever opens them next."""
        consumers = [*self._open.values()]
        for consumer in consumers:
            consumer.close(error)
        for consumer in consumers:
            await consumer.release()
            await self.closed(consumer)

    def ring(self) -> None:
        for consumer in self._open.values():
            consumer.ring()

    async def mark(self) -> None:
        """Write down what was put off. Raises BackboneError, ClosedError."""
        for consumer in self:
            await consumer.marks.write()

    # ---- which there are -------------------------------------------------------------------------------------------------------

    async def row(self, name: ConsumerName) -> tuple[Row, Kept]:
        """Raises BackboneError("unknown_consumer"), ClosedError."""
        kept = await self._streams.consumers.get(_key(name))
        row = _parse(kept.data) if kept is not None else None
        if kept is None or row is None or row.name != name:
            raise BackboneError("unknown_consumer", f"there is no consumer {name}; list them to see which there are")
        return row, kept

    async def facts(self) -> list[ConsumerFacts]:
        rows = [row for kept in await self._streams.consumers.all() if (row := _parse(kept.data)) is not None]
        rows += [consumer.row for consumer in self._open.values() if not consumer.kept]
        return await at_once(self._facts, sorted(rows))

    async def remove(self, name: ConsumerName) -> None:
        """Raises BackboneError: "unknown_consumer", "consumer_in_use"; ClosedError."""
        if name in self._open or name in self._busy:
            raise BackboneError("consumer_in_use", f"the consumer {name} is open: end its subscriptions first")
        self._busy[name] = None
        try:
            await self._remove(*await self.row(name))
        finally:
            del self._busy[name]

    async def remove_unused(self, *, since_ms: int) -> None:
        """Those that nobody had open since."""
        for kept in await self._streams.consumers.all():
            row = _parse(kept.data)
            if row is not None and row.used_ms <= since_ms and row.name not in self._open and row.name not in self._busy:
                await self._remove(row, kept)

    async def keep_used(self) -> None:
        """Write down which are in use."""
        now_ms = self._clock.now_ms()
        for consumer in self:
            if consumer.kept and now_ms - consumer.row.used_ms > USED_MS:
                consumer.row = consumer.row._replace(used_ms=now_ms)
                with suppress(OtherRevisionError):
                    await self._used(consumer.name)

    async def follow(self, classes: list[str]) -> None:
        """Policy says something else of these classes."""
        for consumer in self:
            if consumer.class_ in classes:
                consumer.settings = self._streams.settings(consumer.class_)
                await self._make(consumer.row, consumer.source.name, kept=consumer.kept)

    # ---- handed out anew ---------------------------------------------------------------------------------------------------------

    async def make_again(self, row: Row) -> None:
        """Have a place from which this consumer takes what an operator hands out anew."""
        begins = {"deliver_policy": "by_start_sequence", "opt_start_seq": await self._streams.last(row.class_) + 1}
        name, subject = _again(row.name), self._names.requeued(row.class_, row.name)
        if await self._jetstream.consumer(self._names.stream(row.class_), name) is None:
            config = consumer_config(name, subject, self._streams.settings(row.class_), begins=begins)
            await self._jetstream.put_consumer(self._names.stream(row.class_), config)

    async def look_again(self, name: ConsumerName) -> None:
        """There may be something in it, if this broker has it open."""
        consumer = self._open.get(name)
        if consumer is not None:
            await self._look_again(consumer)

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    async def _opened(self, name: ConsumerName, class_: str, pattern: str, start: Start, *, kept: bool) -> NatsConsumer:
        row = await self._found(name, class_, pattern, start)
        is_there = row is not None
        if row is None:
            row = await self._new(name, class_, pattern, start, kept=kept)
        kept = kept or is_there
        stream = self._names.stream(row.class_)
        in_jetstream = durable_name(name) if kept else f"{durable_name(name)}={self._connection.new_inbox().rpartition('.')[2]}"
        await self._make(row, in_jetstream, kept=kept)
        consumer = NatsConsumer(
            row,
            self._streams.settings(row.class_),
            self._source(stream, in_jetstream),
            self._marks(row),
            connection=self._connection,
            names=self._names,
            clock=self._clock,
            tally=self._tally,
            owner=self._owner,
            kept=kept,
        )
        await consumer.source.open()
        if is_there:
            with suppress(OtherRevisionError):
                await self._used(name)
            await self._look_again(consumer)
        return consumer

    async def _found(self, name: ConsumerName, class_: str, pattern: str, start: Start) -> Row | None:
        try:
            row, _ = await self.row(name)
        except BackboneError as error:
            if error.code != "unknown_consumer":
                raise
            self._streams.settings(class_)
            return None
        if (class_, pattern, str(start)) != (row.class_, row.pattern, row.start):
            text = f"the consumer {name} reads {row.pattern!r} of {row.class_!r} from {row.start!r}"
            raise BackboneError("consumer_differs", f"{text}: remove it first, or choose another name")
        return row

    async def _new(self, name: ConsumerName, class_: str, pattern: str, start: Start, *, kept: bool) -> Row:
        now_ms = self._clock.now_ms()
        row = Row(name, class_, pattern, str(start), await self._begins(class_, pattern, start), now_ms, now_ms)
        if kept:
            await self._check_room(name)
            try:
                await self._streams.consumers.put(_key(name), _data(row), revision=0)
            except OtherRevisionError:  # another broker was faster
                found = await self._found(name, class_, pattern, start)
                return found or row
        return row

    async def _check_room(self, name: ConsumerName) -> None:
        owners = [key[0] for key in await self._streams.consumers.keys()]
        if len(owners) >= MAX_CONSUMERS or owners.count(name.owner) >= MAX_CONSUMERS_OF_ONE:
            raise BackboneError(
                "too_many", f"there are too many consumers, or too many of {name.owner}: remove some that are not used"
            )

    async def _begins(self, class_: str, pattern: str, start: Start) -> int:
        """The first position that it reads; 0: the latest of each topic."""
        if start.kind == "all":
            return 1
        if start.kind == "last":
            return 0
        if start.kind == "position":
            return max(start.number, 1)
        if start.kind == "new":
            return await self._streams.last(class_) + 1
        return await self._at(class_, start.number)

    async def _at(self, class_: str, time_ms: int) -> int:
        """The first position that was stored then or later: JetStream tells by where a consumer begins."""
        when = datetime.fromtimestamp(min(time_ms, 1 << 47) / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        begins = {"deliver_policy": "by_start_time", "opt_start_time": when}
        stream, name = self._names.stream(class_), f"time={self._connection.new_inbox().rpartition('.')[2]}"
        subject = self._names.record(class_, ">")
        config = consumer_config(name, subject, self._streams.settings(class_), begins=begins, unused_seconds=FORGOTTEN_SECONDS)
        facts = await self._jetstream.put_consumer(stream, config)
        await self._jetstream.delete_consumer(stream, name)
        return count(facts, "delivered", "stream_seq") + 1

    async def _make(self, row: Row, in_jetstream: str, *, kept: bool) -> None:
        begins: Mapping[str, Any] = {"deliver_policy": "last_per_subject"}
        if row.begins:
            begins = {"deliver_policy": "by_start_sequence", "opt_start_seq": row.begins}
        subject = self._names.filter(row.class_, row.pattern)
        settings = self._streams.settings(row.class_)
        config = consumer_config(in_jetstream, subject, settings, begins=begins, unused_seconds=0 if kept else FORGOTTEN_SECONDS)
        await self._jetstream.put_consumer(self._names.stream(row.class_), config)

    async def _remove(self, row: Row, kept: Kept) -> None:
        stream = self._names.stream(row.class_)
        await self._jetstream.delete_consumer(stream, durable_name(row.name))
        await self._jetstream.delete_consumer(stream, _again(row.name))
        await self._streams.consumers.remove(kept)

    async def _used(self, name: ConsumerName) -> None:
        row, kept = await self.row(name)
        data = _data(row._replace(used_ms=max(row.used_ms, self._clock.now_ms())))
        await self._streams.consumers.put(_key(name), data, revision=kept.seq)

    async def _look_again(self, consumer: NatsConsumer) -> None:
        source = self._source(consumer.source.stream, _again(consumer.name))
        if consumer.again is not None:
            consumer.look_again(consumer.again)
        elif not await source.is_done():
            await source.open()
            consumer.look_again(source)

    async def _facts(self, row: Row) -> ConsumerFacts:
        consumer = self._open.get(row.name)
        in_jetstream = durable_name(row.name) if consumer is None else consumer.source.name
        facts = await self._jetstream.consumer(self._names.stream(row.class_), in_jetstream)
        unsettled = count(facts, "num_ack_pending")
        outstanding = unsettled if consumer is None else min(len(consumer.held), unsettled)
        return ConsumerFacts(
            name=row.name,
            class_=row.class_,
            pattern=row.pattern,
            start=row.start,
            made_ms=row.made_ms,
            used_ms=row.used_ms if consumer is None else self._clock.now_ms(),
            is_open=consumer is not None,
            floor=count(facts, "ack_floor" if unsettled else "delivered", "stream_seq"),
            behind=count(facts, "num_pending"),
            outstanding=outstanding,
            waiting=unsettled - outstanding,
        )

    def _marks(self, row: Row) -> Marks:
        appender = self._streams.appender(row.class_)
        return Marks(row.name, row.class_, row.made_ms, names=self._names, jetstream=self._jetstream, appender=appender)

    def _source(self, stream: str, name: str) -> Source:
        return Source(stream, name, self._connection, self._jetstream, self._clock)


def _key(name: ConsumerName) -> str:
    return f"{name.owner}.{name.name}"


def _again(name: ConsumerName) -> str:
    return f"{durable_name(name)}=again"


def _is_pattern(text: str) -> bool:
    """One of reserved topics begins with a token that names their kind."""
    kind, _, rest = text.partition(".")
    return pattern_fault(rest if kind.startswith("_") else text) is None


def _data(row: Row) -> bytes:
    return pack([row.name.owner, row.name.name, *row[1:]])


def _parse(data: bytes) -> Row | None:
    """What NATS gives for a row; None for what is none."""
    try:
        fields = unpack(data, longest=len(_FIELDS), arrays=1)
        if [*map(type, fields)] != _FIELDS:
            return None
        row = Row(ConsumerName(fields[0], fields[1]), *fields[2:])
        check_name(row.name)
        parse_start(row.start)
        if not _is_pattern(row.pattern) or not 0 <= min(fields[5:]) <= max(fields[5:]) < 1 << 63:
            return None
    except (RemoteProtocolError, ValueError):
        return None
    return row
