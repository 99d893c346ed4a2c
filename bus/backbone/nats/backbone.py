"""A backbone on NATS JetStream: one stream for each retention class, for each of our consumers one of JetStream with one filter,
and buckets for the rest. Several brokers share it; each opens its own.

What holds is what `interface.py` says, with these differences, which come with servers of their own:

    stored      a majority of the servers has it; when it is on their disks is the business of their `sync_interval`
    time        the servers wait for `ack_wait` and drop what is past its retention, a day late, by clocks of their own; 2.11 and
                newer ones each record a day after its own time. What is past its time by ours is not handed out
    duplicates  are known by (sender, id) within a retention class, for ten minutes of the servers' clocks
    settled     the server has heard it. One that is killed may bring again what was settled in its last moments
    open        `is_open` and "consumer_in_use" speak of this broker: the members of a group may be on several
    hostile     servers see ciphertext. What they hand out is judged here by its form, and by brokers and readers by its signatures

One broker's connection serves everything. `run` has to run: what is settled leaves through it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import anyio

from bus.backbone.interface import (
    UNUSED_MS,
    ConsumerFacts,
    ConsumerName,
    DeadLetter,
    Entry,
    Grant,
    Papers,
    RetentionClass,
)
from bus.backbone.nats.connection import Arrived, Connection, UnansweredError, connect
from bus.backbone.nats.consumer import Grave, NatsConsumer
from bus.backbone.nats.dead import Cemetery
from bus.backbone.nats.jetstream import JetStream, unreachable
from bus.backbone.nats.keeping import Keeping
from bus.backbone.nats.layout import EXPIRES, Names, number
from bus.backbone.nats.login import NO_LOGIN, Login
from bus.backbone.nats.records import outgoing, requeued
from bus.backbone.nats.registry import Registry
from bus.backbone.nats.streams import Streams
from bus.backbone.nats.tally import NatsTally
from bus.backbone.nats.watching import NEWEST, Shared
from bus.clock import Clock
from bus.errors import BackboneError, BusError, ClosedError, OverloadedError
from bus.flow.start import Start
from bus.protocol.topics import matches

TICK_SECONDS: Final = 0.1
USED_SECONDS: Final = 60.0
MAX_WAITING_BYTES: Final = 64 << 20
"""Of what has no answer yet; a broker lets less than that wait."""
WAIT_SECONDS: Final = 10.0
"""For a server that answers, when it begins."""


async def open_nats(
    servers: Sequence[str],
    clock: Clock,
    *,
    space: str = "tpmbus",
    replicas: int | None = None,
    tls: ssl.SSLContext | None = None,
    login: Login = NO_LOGIN,
    wait_seconds: float = WAIT_SECONDS,
) -> NatsBackbone:
    """Run its `run`, and close it at the end. `space`: which bus of several on one account. `replicas`: on how many servers of a
    cluster everything lies, three if nothing is said.

    Raises BackboneError: "unsuitable" (trio, no nats-py, an old server), "disk", "disk_full"; ValueError.
    """
    names = Names(space)
    connection = await connect(servers, clock, tls=tls, wait_seconds=wait_seconds, login=login)
    try:
        backbone = NatsBackbone(connection, names, clock, replicas=replicas)
        await backbone.begin()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await connection.aclose()
        raise
    return backbone


class NatsBackbone:
    """Implements `interface.Backbone`."""

    def __init__(self, connection: Connection, names: Names, clock: Clock, *, replicas: int | None) -> None:
        self._connection, self._names, self._clock = connection, names, clock
        self._tally = NatsTally()
        self._jetstream = JetStream(connection, clock)
        self._streams = Streams(connection, self._jetstream, names, clock, replicas=replicas)
        self._cemetery = Cemetery(self._jetstream, names, self._streams, clock, self._tally)
        self._registry = Registry(connection, self._jetstream, names, self._streams, clock=clock, tally=self._tally, owner=self)
        self._look: set[ConsumerName] = set()
        self._waiting_bytes = 0
        self.passed_ms = 0
        """The latest instant that is known to have passed."""
        self._closed = False

    @property
    def connection(self) -> Connection:
        """For what brokers say to each other beside what they keep."""
        return self._connection

    @property
    def names(self) -> Names:
        return self._names

    async def shared(self, name: str) -> Shared:
        """A value that all brokers follow, in a bucket of this name. Raises BackboneError, ClosedError."""
        bucket = await self._streams.bucket(name)
        return Shared(bucket, bucket.subject(NEWEST), self._connection, self._clock, live=self._names.told(name))

    async def begin(self) -> None:
        """Raises BackboneError, ClosedError."""
        await self._streams.begin()
        self._keeping = Keeping(self._streams.grants, self._clock)
        try:
            await self._connection.subscribe(self._names.again, self._heard_again)
        except UnansweredError as error:
            raise unreachable(self._connection) from error

    # ---- storing ---------------------------------------------------------------------------------------------------------------

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        self._check_open()
        if self._waiting_bytes > MAX_WAITING_BYTES:
            raise OverloadedError("the backbone", pending=self._waiting_bytes, limit=MAX_WAITING_BYTES)
        by_class: dict[str, list[int]] = {}
        for place, entry in enumerate(entries):
            by_class.setdefault(entry.class_, []).append(place)
            self._check_size(entry)
        for class_ in by_class:
            self._streams.check_taking(class_)
        positions = [0] * len(entries)
        size = sum(len(entry.envelope) for entry in entries)
        self._waiting_bytes += size
        try:
            for class_, places in by_class.items():
                stored = await self._streams.appender(class_).append([outgoing(entries[place], self._names) for place in places])
                for place, one in zip(places, stored, strict=True):
                    positions[place] = one.seq
                    self._tally.duplicates += one.is_duplicate
                    self._tally.appended += not one.is_duplicate
        finally:
            self._waiting_bytes -= size
        return positions

    async def keep(self, grants: Sequence[Grant] = (), papers: Sequence[Papers] = ()) -> None:
        self._check_open()
        await self._keeping.keep(grants, papers)

    async def grants_for(self, epoch: bytes, reader: str) -> list[bytes]:
        self._check_open()
        return await self._keeping.grants_for(epoch, reader)

    async def papers_for(self, session: bytes) -> list[bytes]:
        self._check_open()
        return await self._keeping.papers_for(session)

    async def retain(self, classes: Sequence[RetentionClass], *, passed_ms: int) -> None:
        self._check_open()
        self.passed_ms = self._keeping.passed_ms = max(self.passed_ms, passed_ms)
        await self._registry.follow(await self._streams.follow(classes))
        await self._registry.remove_unused(since_ms=self.passed_ms - UNUSED_MS)

    # ---- consuming -------------------------------------------------------------------------------------------------------------

    async def consume(
        self, name: ConsumerName, class_: str, pattern: str, start: Start, *, kept: bool = True, allowed: int = 0
    ) -> NatsConsumer:
        self._check_open()
        return await self._registry.open(name, class_, pattern, start, kept=kept, allowed=allowed)

    async def watch(self, pattern: str, group: str, heard: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Brokers pass on nothing live yet."""
        self._check_open()
        return lambda: None

    async def consumers(self) -> list[ConsumerFacts]:
        self._check_open()
        return await self._registry.facts()

    async def remove_consumer(self, name: ConsumerName) -> None:
        self._check_open()
        await self._registry.remove(name)

    # ---- dead letters ----------------------------------------------------------------------------------------------------------

    async def dead_letters(self, *, class_: str = "", after: int = 0, most: int = 100) -> list[DeadLetter]:
        self._check_open()
        found: list[DeadLetter] = []
        for name in [class_] if class_ else sorted(self._streams.known):
            letters = await self._cemetery.listed(name, after=after, most=most - len(found)) if name in self._streams.known else []
            retention_ms = self._streams.known[name].retention_ms if letters else 0
            found += [one for one in letters if one.died_ms + retention_ms > self.passed_ms]
        return found

    async def show_dead(self, class_: str, position: int) -> bytes:
        self._check_open()
        _, frame = await self._cemetery.letter(class_, position)
        return frame

    async def requeue_dead(self, class_: str, position: int) -> None:
        self._check_open()
        letter, _ = await self._cemetery.letter(class_, position)
        row, _ = await self._registry.row(letter.consumer)
        if row.class_ != class_ or not matches(row.pattern, letter.topic):
            text = f"{row.name} reads {row.pattern!r} of {row.class_!r} now, and not {letter.topic!r} of {class_!r}"
            raise BackboneError("consumer_differs", f"{text}: have it published again, and drop the dead letter {position}")
        original = await self._jetstream.message(self._names.stream(class_), {"seq": letter.original})
        expires_ms = number(original.headers.get(EXPIRES, "")) if original is not None else 0
        if original is None or expires_ms <= self.passed_ms:
            raise BackboneError("gone", f"the original of the dead letter {position} in the class {class_!r} is past its time")
        await self._registry.make_again(row)
        await self._streams.appender(class_).append([requeued(original, letter, self._names)])
        await self._cemetery.remove(letter)
        await self._registry.look_again(row.name)
        with suppress(UnansweredError):
            await self._connection.publish(self._names.again, f"{row.name}".encode())

    async def drop_dead(self, class_: str, position: int) -> None:
        self._check_open()
        letter, _ = await self._cemetery.letter(class_, position)
        await self._cemetery.remove(letter)

    # ---- time, numbers, the end ------------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, int]:
        consumers = [*self._registry]
        return {
            **self._tally.as_dict(),
            "waiting_bytes": self._waiting_bytes,
            "connected": int(self._connection.is_connected),
            "connections_lost": self._connection.losses,
            "open_consumers": len(consumers),
            "unsettled": sum(len(consumer.held) for consumer in consumers),
            "dead_letters": self._cemetery.count,
        }

    def servers(self) -> dict[str, Any]:
        """Which server of NATS this broker is connected to, and what it was found to do that 2.9 does not."""
        return {"version": ".".join(map(str, self._connection.server_version)), "features": self._streams.features}

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._connection.run)
            tasks.start_soon(self._keeping.run)
            used_at = self._clock.monotonic() + USED_SECONDS
            while True:
                await self._clock.sleep(TICK_SECONDS)
                self._registry.ring()
                try:
                    await self._cemetery.bury()
                    await self._registry.mark()
                    while self._look:
                        await self._registry.look_again(self._look.pop())
                    if self._clock.monotonic() > used_at:
                        used_at = self._clock.monotonic() + USED_SECONDS
                        await self._registry.keep_used()
                except (BusError, UnansweredError):  # tried again at the next tick
                    self._tally.failures += 1

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            with anyio.CancelScope(shield=True):
                await self._registry.aclose(ClosedError("the backbone was closed"))
                await self._connection.aclose()

    # ---- for consumers ---------------------------------------------------------------------------------------------------------

    def gave_up(self, grave: Grave) -> None:
        self._cemetery.gave_up(grave)

    async def bury(self) -> None:
        await self._cemetery.bury()

    async def closed(self, consumer: NatsConsumer) -> None:
        await self._registry.closed(consumer)

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    def _check_size(self, entry: Entry) -> None:
        most = self._connection.max_bytes
        if len(entry.envelope) > most:
            text = f"an envelope of {len(entry.envelope):,} bytes on {entry.topic} is longer than the {most:,} that NATS takes"
            raise BackboneError("too_large", f"{text}: set `max_payload: 2MB` in the configuration of its servers")

    def _heard_again(self, arrived: Arrived) -> None:
        """Some broker says that a consumer has something to look at. Whoever says so, looking does no harm."""
        owner, _, name = arrived.data.decode(errors="replace").partition("/")
        if any(consumer.name == (owner, name) for consumer in self._registry):
            self._look.add(ConsumerName(owner, name))

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the backbone is closed")
