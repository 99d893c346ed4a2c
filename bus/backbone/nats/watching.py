"""One value that all brokers follow: in a bucket of its own, in parts, and whoever follows it looks when it may have changed.

    newest           [digest, length] of the value that counts
    p.<digest>.<n>   its parts; those of others go when a newer value is there

A value is written in parts because it may be longer than a message of NATS. It is there when `newest` names it, so nobody reads
half of it; of two who write at once, one has to look again. Who follows hears of each change by the message that made it, and looks
for itself, also where a message was lost: when the connection comes back, and now and then.

Where nothing can be stored (a disk is full, a majority is away) a value can be told live to those who are there, at most once.

NATS is believed nothing: what is read is what somebody wrote, no more. Whoever reads judges it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import anyio

from bus.backbone.nats.bucket import Bucket, OtherRevisionError
from bus.backbone.nats.connection import Arrived, Connection, UnansweredError
from bus.backbone.nats.jetstream import Kept
from bus.clock import Clock
from bus.errors import BackboneError, RemoteProtocolError
from bus.protocol.codec import pack, unpack

NEWEST: Final = "newest"
PART_BYTES: Final = 256 << 10
MAX_BYTES: Final = 16 << 20
LOOK_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.05
"""Between two looks, however often somebody says that there is something."""
RETRY_SECONDS: Final = 1.0
_TRIES: Final = 5
"""To read a value that is replaced while it is read."""


class Seen(NamedTuple):
    revision: int
    """0 where there is none."""
    value: bytes | None
    """None for none, and for what is no value."""


class _Newest(NamedTuple):
    digest: bytes
    length: int

    def parts(self) -> list[str]:
        return [f"p.{self.digest.hex()}.{number}" for number in range(-(-self.length // PART_BYTES))]


class Shared:
    """`subject`: where NATS tells of the key `newest` of this bucket; `live`: where a value is told that is not stored yet."""

    def __init__(self, bucket: Bucket, subject: str, connection: Connection, clock: Clock, *, live: str) -> None:
        self._bucket, self._subject, self._connection, self._clock, self._live = bucket, subject, connection, clock, live
        self._wanted = anyio.Event()

    async def read(self) -> Seen:
        """Raises BackboneError, ClosedError."""
        revision = 0
        for _ in range(_TRIES):
            kept = await self._bucket.get(NEWEST)
            revision, newest = 0 if kept is None else kept.seq, _parse(kept)
            if newest is None:
                break
            value = b""
            for key in newest.parts():
                part = await self._bucket.get(key)
                value += b"" if part is None else part.data[:PART_BYTES]
            if hashlib.sha256(value).digest() == newest.digest:
                return Seen(revision, value)
        return Seen(revision, None)

    async def write(self, value: bytes, *, instead_of: int) -> None:
        """In place of this revision. Raises OtherRevisionError, BackboneError, ClosedError, ValueError for what is too long."""
        if not 0 < len(value) <= MAX_BYTES:
            raise ValueError(f"a value of {len(value):,} bytes")
        newest = _Newest(hashlib.sha256(value).digest(), len(value))
        for number, key in enumerate(newest.parts()):
            await self._put_part(key, value[number * PART_BYTES : (number + 1) * PART_BYTES])
        await self._bucket.put(NEWEST, pack([*newest]), revision=instead_of)
        await self._sweep(newest)

    def tell(self, value: bytes) -> None:
        """Those who are there, if it fits into one message."""
        if len(value) <= self._connection.max_bytes:
            self._connection.send(self._live, value)

    async def hear(self, heard: Callable[[bytes], None]) -> None:
        """`heard` is given what is told, by whomever. Returns when this is so."""
        await self._listen(self._live, lambda arrived: heard(arrived.data))

    def look(self) -> None:
        """There may be something."""
        self._wanted.set()

    async def run(self, look: Callable[[], Awaitable[None]]) -> None:
        """`look` whenever there may be something new, one look at a time; until it is cancelled. What it raises of NATS is tried
        again."""
        stop = self._connection.when_lost(self.look)
        try:
            await self._listen(self._subject, lambda _: self.look())
            while True:
                await self._wait()
                self._wanted = anyio.Event()
                try:
                    await look()
                except (BackboneError, UnansweredError):
                    await self._clock.sleep(RETRY_SECONDS)
                    self.look()
                await self._clock.sleep(PAUSE_SECONDS)
        finally:
            stop()

    # ---- inside ----------------------------------------------------------------------------------------------------------------

    async def _listen(self, subject: str, heard: Callable[[Arrived], None]) -> None:
        while True:
            try:
                await self._connection.subscribe(subject, heard)
            except UnansweredError:
                await self._clock.sleep(RETRY_SECONDS)
            else:
                return

    async def _wait(self) -> None:
        """Until somebody says so, or it is time."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._timer, tasks.cancel_scope)
            await self._wanted.wait()
            tasks.cancel_scope.cancel()

    async def _timer(self, scope: anyio.CancelScope) -> None:
        await self._clock.sleep(LOOK_SECONDS)
        scope.cancel()

    async def _put_part(self, key: str, data: bytes) -> None:
        revision = 0
        while True:
            try:
                await self._bucket.put(key, data, revision=revision)
            except OtherRevisionError:
                kept = await self._bucket.get(key)
                if kept is not None and kept.data == data:
                    return
                revision = 0 if kept is None else kept.seq
            else:
                return

    async def _sweep(self, newest: _Newest) -> None:
        """Parts of values before. What somebody writes at this very moment may go too: who writes looks whether it can be read."""
        mine = {*newest.parts()}
        for parts in await self._bucket.keys("p.>"):
            if ".".join(parts) not in mine and (kept := await self._bucket.get(".".join(parts))) is not None:
                await self._bucket.remove(kept)


def _parse(kept: Kept | None) -> _Newest | None:
    try:
        fields = unpack(kept.data, longest=2, arrays=1) if kept is not None else []
    except RemoteProtocolError:
        return None
    if [*map(type, fields)] != [bytes, int] or len(fields[0]) != hashlib.sha256().digest_size or not 0 < fields[1] <= MAX_BYTES:
        return None
    return _Newest(*fields)
